/* SPDX-License-Identifier: GPL-2.0 */
/*
 * livegraft_rcu.h - what hastens grace periods of RCU and RCU tasks, for payloads and the engine
 */
#ifndef LIVEGRAFT_RCU_H
#define LIVEGRAFT_RCU_H

#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/sched/signal.h>
#include <linux/string.h>

/*
 * Exported to modules, but declared in kernel/rcu/rcu.h, which is not for them. The first nests and
 * is made for phases in which much waits for grace periods: suspending does the same.
 */
void rcu_expedite_gp(void);
void rcu_unexpedite_gp(void);

/**
 * lg_wake_rcu_tasks() - have RCU tasks look at the tasks it waits for now, instead of in HZ/10
 *
 * Its kernel threads (kernel/rcu/tasks.h: rcu_tasks_kthread, rcu_tasks_rude_kthread) pause between
 * their looks, and between grace periods, with schedule_timeout_idle(), which may return early:
 * the loops around it look at their conditions again, each time after a jiffy more. Whoever calls
 * this in a loop should therefore do it less and less often. Their other waits (rcuwait,
 * completions, mutexes) look again too: a wake-up hastens what they do, it cannot end a grace
 * period.
 *
 * The threads are looked for by name under RCU: a task cannot be freed before the read side has
 * ended, and user space cannot rename kernel threads.
 */
static inline void lg_wake_rcu_tasks(void)
{
	static const char prefix[] = "rcu_tasks_";
	struct task_struct *task;

	rcu_read_lock();
	for_each_process(task) {
		if ((task->flags & PF_KTHREAD) &&
		    (READ_ONCE(task->__state) & TASK_NOLOAD) &&
		    !strncmp(task->comm, prefix, sizeof(prefix) - 1))
			wake_up_process(task);
	}
	rcu_read_unlock();
}

#endif /* LIVEGRAFT_RCU_H */
