// SPDX-License-Identifier: GPL-2.0
/*
 * tasks.c - which side each task is on, and what it takes to change
 *
 * A task's side may be changed by whoever makes sure that the task does not run meanwhile, or runs
 * only this: the walk below, which holds the task as task_call_func() does; an interrupt on the
 * processor where it runs; or the task itself, on its way to user mode. Each sets the side only
 * after it has found, in that state, that the model allows it. Two of them at once do no harm:
 * both have found it allowed.
 */
#include <linux/cpu.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/smp.h>
#include <asm/unwind.h>

#include "engine.h"

static_assert(sizeof_field(struct thread_info, flags) == 8);
static_assert(TIF_NOTIFY_SIGNAL < 32 && TIF_NOTIFY_RESUME < 32 && TIF_ADDR32 < 32);

#ifndef PF_USER_WORKER
#define PF_USER_WORKER	PF_IO_WORKER
#endif

static const char * const lg_why_names[] = {
	[LG_INSIDE]	= "inside",
	[LG_UNRELIABLE]	= "unreliable",
	[LG_RUNNING]	= "running",
	[LG_IN_KERNEL]	= "kernel",
};

/* The tasks in the way, as the last pass has seen them. */
#define LG_SEEN_MOST	60
static struct lg_seen {
	pid_t		pid;
	enum lg_why	why;
	unsigned long	where;
} lg_seen[LG_SEEN_MOST];
static unsigned int lg_seen_count;

/** lg_forget_seen() - nobody is in the way */
void lg_forget_seen(void)
{
	lg_seen_count = 0;
}

/* User tasks leave the kernel; these never do, or never tell (io_uring's and vhost's workers). */
bool lg_goes_to_user_mode(const struct task_struct *task)
{
	return !(task->flags & (PF_KTHREAD | PF_IO_WORKER | PF_USER_WORKER)) && task->pid;
}

struct lg_try {
	const struct lg_goal	*goal;
	unsigned long		where;
};

/* Under the locks of task_call_func(): the task is held as it is. */
static int lg_try_by_stack(struct task_struct *task, void *data)
{
	struct lg_try *try = data;
	enum lg_why why;

	if (READ_ONCE(task->on_cpu) && task != current)
		return LG_RUNNING;
	why = lg_judge_stack(task, try->goal, &try->where);
	if (why == LG_MAY_MOVE)
		lg_set_flag(task, LG_SIDE_BIT, try->goal->side);
	return why;
}

/*
 * The same for the model task: a task of user space that has not left the kernel stays where it
 * is, whatever its stack says. Only one that has never run, or will never run again, needs not, nor
 * does one that was stopped (do_signal_stop()): it is in get_signal(), on its way to user mode, as
 * is a task in lg_arrived(), and may stay there for days. A tracer can stop a task anywhere.
 */
static int lg_try_by_leaving(struct task_struct *task, void *data)
{
	struct lg_try *try = data;
	unsigned int state = READ_ONCE(task->__state);

	if (!lg_goes_to_user_mode(task))
		return lg_try_by_stack(task, data);
	if (READ_ONCE(task->on_cpu) && task != current)
		return LG_RUNNING;
	if (state & __TASK_STOPPED)
		return lg_try_by_stack(task, data);
	if (state != TASK_NEW && state != TASK_DEAD)
		return LG_IN_KERNEL;
	lg_set_flag(task, LG_SIDE_BIT, try->goal->side);
	return LG_MAY_MOVE;
}

/*
 * Whether this interrupt has come while its processor was in user mode. The call function
 * interrupt does not set get_irq_regs(); the first registers on the stack are those of the
 * innermost interrupt, which is this one.
 */
static bool lg_interrupted_user_mode(void)
{
	struct unwind_state state;

	for (unwind_start(&state, current, NULL, NULL); !unwind_done(&state);
	     unwind_next_frame(&state)) {
		struct pt_regs *regs;

		if (unwind_error(&state))
			return false;
		regs = unwind_get_entry_regs(&state, NULL);
		if (regs)
			return user_mode(regs);
	}
	return false;
}

/*
 * On each processor, in an interrupt. The current task runs nothing but this. Its stack holds the
 * code that was interrupted, a softirq included. The unwinder judges it as it judges that of a
 * task that was preempted, which is an interrupted one too. It is sent, so it reaches a processor
 * that has been in user mode without ticks (nohz_full) for hours as well.
 */
static void lg_settle_current(void *data)
{
	const struct lg_goal *goal = data;
	unsigned long where;

	if (lg_side(current) == goal->side)
		return;
	/*
	 * The processor that asks calls this without an interrupt: there the first registers are
	 * those of the system call that it is in the middle of.
	 */
	if (goal->model == &lg_task && lg_goes_to_user_mode(current) ?
	    in_hardirq() && lg_interrupted_user_mode() :
	    lg_judge_stack(current, goal, &where) == LG_MAY_MOVE)
		lg_set_flag(current, LG_SIDE_BIT, goal->side);
}

static void lg_record(const struct task_struct *task, enum lg_why why, unsigned long where)
{
	if (lg_seen_count < LG_SEEN_MOST)
		lg_seen[lg_seen_count++] = (struct lg_seen){ task->pid, why, where };
}

/* Returns how many tasks are left. Processors that are off run nothing: their idle tasks move. */
static unsigned int lg_walk(int (*try)(struct task_struct *, void *))
{
	const struct lg_goal *goal = lg_current_goal();
	unsigned int moved = 0, left = 0;
	struct task_struct *process, *task;
	struct lg_try arg = { .goal = goal };
	enum lg_why why;
	int cpu;

	lg_seen_count = 0;
	on_each_cpu(lg_settle_current, (void *)goal, 1);

	/* As klp_try_complete_transition() does: no thread is missed under this lock. */
	read_lock(&tasklist_lock);
	for_each_process_thread(process, task) {
		why = lg_side(task) == goal->side ? LG_MAY_MOVE : task_call_func(task, try, &arg);
		if (why == LG_MAY_MOVE) {
			moved++;
		} else {
			left++;
			lg_record(task, why, arg.where);
		}
	}
	read_unlock(&tasklist_lock);

	cpus_read_lock();
	for_each_possible_cpu(cpu) {
		task = idle_task(cpu);
		if (!cpu_online(cpu))
			lg_set_flag(task, LG_SIDE_BIT, goal->side);
		why = lg_side(task) == goal->side ? LG_MAY_MOVE : task_call_func(task, try, &arg);
		if (why == LG_MAY_MOVE) {
			moved++;
		} else {
			left++;
			lg_record(task, why, arg.where);
		}
	}
	cpus_read_unlock();

	WRITE_ONCE(goal->patch->moved, moved);
	WRITE_ONCE(goal->patch->left, left);
	return left;
}

/** lg_pass_by_stack() - move every task whose stack is free; returns how many are left */
unsigned int lg_pass_by_stack(void)
{
	return lg_walk(lg_try_by_stack);
}

/** lg_pass_by_leaving() - the same for the model task */
unsigned int lg_pass_by_leaving(void)
{
	return lg_walk(lg_try_by_leaving);
}

/**
 * lg_look_at_all() - how many tasks are inside, with all processors held
 * @goal:	the current one, by whoever holds lg_mutex: this runs in another task
 *
 * Called by stop_machine(): every processor spins in it with interrupts off, so all tasks but the
 * stoppers are off their processors, no interrupt or softirq is under way, and nothing can be in
 * the middle of changing the list of tasks but on PREEMPT_RT, where it can still be walked as RCU
 * readers do. The other stoppers stand where this one stands: its stack stands for theirs.
 *
 * A task that was released already (__unhash_process()) and has not left do_exit() is on no list;
 * livepatch does not see it either.
 */
unsigned int lg_look_at_all(const struct lg_goal *goal)
{
	struct task_struct *process, *task;
	unsigned int left = 0, seen = 0;
	unsigned long where;
	enum lg_why why;
	int cpu;

	lg_seen_count = 0;
	for_each_process_thread(process, task) {
		seen++;
		if (READ_ONCE(task->on_cpu) && task != current)
			continue;
		why = lg_judge_stack(task, goal, &where);
		lg_set_flag(task, LG_INSIDE_BIT, why != LG_MAY_MOVE);
		if (why != LG_MAY_MOVE) {
			left++;
			lg_record(task, why, where);
		}
	}
	for_each_possible_cpu(cpu) {
		task = idle_task(cpu);
		seen++;
		if (!cpu_online(cpu) || READ_ONCE(task->on_cpu))
			continue;
		why = lg_judge_stack(task, goal, &where);
		if (why != LG_MAY_MOVE) {
			left++;
			lg_record(task, why, where);
		}
	}
	WRITE_ONCE(goal->patch->left, left);
	WRITE_ONCE(goal->patch->moved, left ? 0 : seen);
	return left;
}

/** lg_for_all() - all tasks, those that are idle included */
void lg_for_all(void (*fn)(struct task_struct *task))
{
	struct task_struct *process, *task;
	int cpu;

	read_lock(&tasklist_lock);
	for_each_process_thread(process, task)
		fn(task);
	read_unlock(&tasklist_lock);
	for_each_possible_cpu(cpu)
		fn(idle_task(cpu));
}

static void lg_clear_task(struct task_struct *task)
{
	lg_set_flag(task, LG_SIDE_BIT, false);
	lg_clear_marks(task);
}

/**
 * lg_clear_flags() - all tasks back to the old side, after a change
 *
 * After lg_drop_goal() and lg_settle(): no row asks for a side any more, and a task that is being
 * born and not yet on the list will be cleared by lg_born().
 */
void lg_clear_flags(void)
{
	lg_for_all(lg_clear_task);
}

static void lg_force_task(struct task_struct *task)
{
	lg_set_flag(task, LG_SIDE_BIT, lg_change.forward);
}

/** lg_force_all() - all tasks change sides, whatever they are doing */
void lg_force_all(void)
{
	lg_for_all(lg_force_task);
}

/**
 * lg_list_blockers() - the tasks that were in the way in the last pass
 * @buffer:	a page
 */
ssize_t lg_list_blockers(char *buffer)
{
	s64 since = ktime_ms_delta(ktime_get(), lg_change.began);
	unsigned int number;
	ssize_t length = 0;

	for (number = 0; number < lg_seen_count; number++) {
		const struct lg_seen *seen = &lg_seen[number];
		ssize_t begun = length;

		length += sysfs_emit_at(buffer, length, "%d %lld %s %pS\n", seen->pid, since,
					lg_why_names[seen->why],
					seen->why == LG_INSIDE ? (void *)seen->where : NULL);
		if (length > PAGE_SIZE - 2)
			return begun;	/* whole lines only */
	}
	return length;
}
