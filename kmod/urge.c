// SPDX-License-Identifier: GPL-2.0
/*
 * urge.c - tasks in the way tell when they go to user mode, and are woken at last
 */
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/slab.h>
#include <linux/task_work.h>
#include <linux/wait.h>
#include <asm/syscall.h>

#include "engine.h"

/**
 * struct lg_notice - a task in the way that tells when it goes to user mode
 * @work:	runs there
 * @list:	in lg_notices, under lg_mutex
 * @task:	on which it holds a reference
 * @done:	@work has run, and was the last to look at this structure
 */
struct lg_notice {
	struct callback_head	work;
	struct list_head	list;
	struct task_struct	*task;
	bool			done;
};

static LIST_HEAD(lg_notices);

/*
 * Where all change at once, a task that was signalled has left the old code and may not be in it
 * at the next look: a call that the kernel starts again is back there within microseconds. So it
 * waits for that look where it holds nothing, at the border to user mode, but not for long: others
 * may have to leave yet, and none may be in the way of a wait that has no end.
 */
#define LG_HELD		(HZ / 5)
static DECLARE_WAIT_QUEUE_HEAD(lg_held);

/* How long the end of a change waits for tasks that were signalled and run to user mode. */
#define LG_TELLING	(HZ / 5)
static DECLARE_WAIT_QUEUE_HEAD(lg_told);

/*
 * What user space sees of a signal that was none. get_signal() runs task work first, when the
 * system call's result stands in the saved registers: EINTR goes to user space as it is, the
 * others make the kernel start the call again (arch_do_signal_or_restart()). That is seen once, at
 * the first arrival, whoever has moved the task: as soon as it was out of the old code on its way
 * here, a pass may have.
 */
static void lg_count_interruption(struct lg_patch *patch)
{
	struct pt_regs *regs = task_pt_regs(current);

	if (!lg_flag(current, LG_SIGNALLED_BIT) || lg_flag(current, LG_TOLD_BIT))
		return;
	lg_set_flag(current, LG_TOLD_BIT, true);
	if (syscall_get_nr(current, regs) == -1)
		return;
	switch (syscall_get_error(current, regs)) {
	case -EINTR:
		atomic_inc(&patch->interrupted);
		break;
	case -ERESTARTSYS:
	case -ERESTARTNOINTR:
	case -ERESTARTNOHAND:
	case -ERESTART_RESTARTBLOCK:
		atomic_inc(&patch->restarted);
		break;
	}
}

/*
 * In the task, on its way to user mode or in do_exit(). For the model task this is the moment: the
 * system call, or what else it was in the kernel for, is over. But one that exits is not on its way
 * to user mode, and stays on its side until it is dead. The stack is judged in any case: the way to
 * user mode, get_signal() for one, may be what the patch changes.
 */
static void lg_arrived(struct callback_head *work)
{
	struct lg_notice *notice = container_of(work, struct lg_notice, work);
	bool left = false, by_task = false, signalled = lg_flag(current, LG_SIGNALLED_BIT);
	const struct lg_goal *goal;
	unsigned long where;

	rcu_read_lock();
	preempt_disable();
	goal = rcu_dereference(lg_goal);
	if (goal)
		lg_count_interruption(goal->patch);
	if (goal && lg_side(current) != goal->side) {
		by_task = goal->model->by_task;
		left = goal->model == &lg_hybrid ?
		       lg_judge_stack(current, goal, &where) == LG_MAY_MOVE :
		       !(current->flags & PF_EXITING) && lg_leaves(goal);
		if (left && by_task)
			lg_set_flag(current, LG_SIDE_BIT, goal->side);
	}
	preempt_enable();
	rcu_read_unlock();
	if (signalled)
		wake_up(&lg_told);
	if (left && by_task)
		lg_came();
	else if (left)
		lg_wake();
	/* The goal is only compared: it may be gone. */
	if (left && !by_task && signalled)
		wait_event_idle_timeout(lg_held, rcu_access_pointer(lg_goal) != goal,
					LG_HELD);
	/* From here on lg_forget_notices() may free it. */
	smp_store_release(&notice->done, true);
}

static void lg_notice_task(struct task_struct *task)
{
	struct lg_notice *notice;

	if (lg_flag(task, LG_NOTICED_BIT))
		return;
	/* Under tasklist_lock. Without memory the task is found by the next pass all the same. */
	notice = kzalloc(sizeof(*notice), GFP_ATOMIC | __GFP_NOWARN);
	if (!notice)
		return;
	init_task_work(&notice->work, lg_arrived);
	notice->task = get_task_struct(task);
	lg_set_flag(task, LG_NOTICED_BIT, true);
	if (task_work_add(task, &notice->work, TWA_RESUME)) {
		/* It exits. The mark stays, so that it is not tried again. */
		put_task_struct(task);
		kfree(notice);
		return;
	}
	list_add(&notice->list, &lg_notices);
}

/* Free the notices that have done their work; their tasks may get another. */
static void lg_collect_notices(void)
{
	struct lg_notice *notice, *next;

	list_for_each_entry_safe(notice, next, &lg_notices, list) {
		/* Pairs with the release in lg_arrived(), after which the task is done with it. */
		if (!smp_load_acquire(&notice->done))
			continue;
		/* It may get another. It is not signalled again to this side: that did not help. */
		lg_set_flag(notice->task, LG_NOTICED_BIT, false);
		list_del(&notice->list);
		put_task_struct(notice->task);
		kfree(notice);
	}
}

/*
 * One that was signalled, changed sides and sleeps again has to be called back when the change is
 * reversed: nothing else would wake it. Both bits are set under lg_mutex alone.
 */
static bool lg_was_called(const struct task_struct *task, const struct lg_goal *goal)
{
	return lg_flag(task, LG_SIGNALLED_BIT) && lg_flag(task, LG_CALLED_BIT) == goal->side;
}

/**
 * lg_urge() - have tasks in the way tell when they go to user mode
 * @signals:	and wake those that sleep interruptibly: they see a signal that is none
 *
 * A signal of this kind (TIF_NOTIFY_SIGNAL) ends an interruptible sleep as a real one does, and
 * then nothing is delivered. Only wake_up_state(TASK_INTERRUPTIBLE) may wake: a kernel thread that
 * was just made sleeps uninterruptibly, without a loop around it, and must not begin too early.
 */
void lg_urge(bool signals)
{
	const struct lg_goal *goal = lg_current_goal();
	struct task_struct *process, *task;

	lg_collect_notices();
	read_lock(&tasklist_lock);
	for_each_process_thread(process, task) {
		/* Where all change at once no task has a side: those seen inside are in the way. */
		if (goal->model->by_task ? lg_side(task) == goal->side :
					   !lg_flag(task, LG_INSIDE_BIT))
			continue;
		if (lg_goes_to_user_mode(task))
			lg_notice_task(task);
		/*
		 * Who dies or dumps core goes to user mode no more, and would lose what it waits
		 * for: the end of its output, a reader of the core.
		 */
		if (!signals || lg_was_called(task, goal) || task == current ||
		    (task->flags & (PF_EXITING | PF_SIGNALED)))
			continue;
		if (task->flags & PF_KTHREAD) {
			wake_up_state(task, TASK_INTERRUPTIBLE);
		} else if (lg_flag(task, LG_NOTICED_BIT)) {
			/*
			 * This signal may interrupt a call as the one before did: what comes of it
			 * is counted anew. If the task is just telling of that one, it is not.
			 */
			lg_set_flag(task, LG_TOLD_BIT, false);
			lg_set_flag(task, LG_CALLED_BIT, goal->side);
			lg_set_flag(task, LG_SIGNALLED_BIT, true);
			if (READ_ONCE(task->__state) & TASK_INTERRUPTIBLE)
				atomic_inc(&goal->patch->signalled);
			set_notify_signal(task);
		}
	}
	read_unlock(&tasklist_lock);
}

/* Under lg_mutex, which the list needs. */
static bool lg_all_told(void)
{
	struct lg_notice *notice;

	list_for_each_entry(notice, &lg_notices, list)
		if (READ_ONCE(notice->task->__state) == TASK_RUNNING &&
		    lg_flag(notice->task, LG_SIGNALLED_BIT) && !lg_flag(notice->task, LG_TOLD_BIT))
			return false;
	return true;
}

/**
 * lg_await_told() - wait for what signals did, before the change is over
 *
 * Tasks were moved as soon as they were out of the old code; what the signal has made of their
 * system call shows some instructions later. Waits only for those that run, and not for long: none
 * is in the way of anything but the count. Under lg_mutex, while the goal is still there.
 */
void lg_await_told(void)
{
	wait_event_idle_timeout(lg_told, lg_all_told(), LG_TELLING);
}

/**
 * lg_forget_notices() - take back the notices that have not done their work
 *
 * One that was taken to be run already cannot be taken back, and may stand behind other task work
 * that takes minutes, an unmount: it stays. It looks only at the goal that there is then, so all
 * that it can do is to move its task when that is right.
 */
void lg_forget_notices(void)
{
	struct lg_notice *notice;

	wake_up_all(&lg_held);
	list_for_each_entry(notice, &lg_notices, list)
		/* Pairs with lg_arrived(), though nothing is freed here. */
		if (!smp_load_acquire(&notice->done) &&
		    task_work_cancel(notice->task, &notice->work))
			notice->done = true;
	lg_collect_notices();
}

/**
 * lg_await_notices() - wait for those that stayed, before the engine goes
 *
 * lg_mutex is not held meanwhile. lg_tasks_exit() waits for whoever is still at the last
 * instructions of one.
 */
void lg_await_notices(void)
{
	bool none;

	for (;;) {
		mutex_lock(&lg_mutex);
		lg_collect_notices();
		none = list_empty(&lg_notices);
		mutex_unlock(&lg_mutex);
		if (none)
			return;
		schedule_timeout_idle(HZ / 50);
	}
}
