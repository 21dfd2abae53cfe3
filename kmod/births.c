// SPDX-License-Identifier: GPL-2.0
/*
 * births.c - tasks that are born, and whether their flags are free for us
 */
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/sched.h>
#include <linux/string.h>
#include <linux/tracepoint.h>

#include "engine.h"

/*
 * A task is born: at the end of copy_process(), on the list already, before it first runs. Its
 * flags are a copy of its parent's, of some time ago. It is in no function yet, so it can be where
 * all have to go; when nothing is under way its flags are cleared.
 */
static void lg_born(void *data, struct task_struct *task, unsigned long clone_flags)
{
	const struct lg_goal *goal;

	lg_clear_marks(task);
	rcu_read_lock();
	/*
	 * The first goal of a change is published without waiting for those who have seen none: one
	 * that is moved by the walk meanwhile must not be moved back.
	 */
	do {
		goal = rcu_dereference(lg_goal);
		lg_set_flag(task, LG_SIDE_BIT, goal && goal->model->by_task && goal->side);
		/* The flag is written before the goal is looked at once more. */
		smp_mb__after_atomic();
	} while (goal != rcu_access_pointer(lg_goal));
	rcu_read_unlock();
}

static struct tracepoint *lg_newtask;

static void lg_find_tracepoint(struct tracepoint *tracepoint, void *unused)
{
	if (!strcmp(tracepoint->name, "task_newtask"))
		lg_newtask = tracepoint;
}

static unsigned int lg_foreign;

static void lg_look_for_flags(struct task_struct *task)
{
	lg_foreign += !!(READ_ONCE(task_thread_info(task)->flags) >> 32);
}

/**
 * lg_tasks_init() - see whether the flags are free, and be told of new tasks
 *
 * sched_process_fork is not enough: io_uring's and vhost's workers do not pass it.
 */
int lg_tasks_init(void)
{
	int ret = lg_stacks_init();

	if (ret)
		return ret;
	lg_for_all(lg_look_for_flags);
	if (lg_foreign) {
		pr_err("this kernel uses the upper half of thread_info.flags: %u tasks\n",
		       lg_foreign);
		return -EBUSY;
	}
	for_each_kernel_tracepoint(lg_find_tracepoint, NULL);
	if (!lg_newtask) {
		pr_err("this kernel has no tracepoint task_newtask\n");
		return -ENOENT;
	}
	return tracepoint_probe_register(lg_newtask, lg_born, NULL);
}

void lg_tasks_exit(void)
{
	tracepoint_probe_unregister(lg_newtask, lg_born, NULL);
	tracepoint_synchronize_unregister();
	/* A task may be at the last instructions of lg_arrived(), preempted. */
	synchronize_rcu_tasks();
}
