// SPDX-License-Identifier: GPL-2.0
/*
 * tasks.c - which side each task is on, and what it takes to change
 *
 * A task's side may be changed by whoever makes sure that the task does not run meanwhile, or runs
 * only this: the walk below, which holds the task as task_call_func() does; an interrupt on the
 * processor where it runs; or the task itself, on its way to user mode. Each sets the side only
 * after it has found, in that state, that the model allows it. Two of them at once do no harm:
 * both have found it allowed.
 *
 * Stacks are judged by the kernel's own unwinder, in the way that livepatch uses it
 * (arch_stack_walk_reliable()), which also finds return addresses that kretprobes, rethooks and
 * the function graph tracer have replaced. A stack that it does not call reliable is busy.
 */
#include <linux/cpu.h>
#include <linux/kallsyms.h>
#include <linux/module.h>
#include <linux/sched/signal.h>
#include <linux/sched/task.h>
#include <linux/sched/task_stack.h>
#include <linux/slab.h>
#include <linux/smp.h>
#include <linux/sort.h>
#include <linux/stacktrace.h>
#include <linux/task_work.h>
#include <linux/tracepoint.h>
#include <asm/syscall.h>
#include <asm/unwind.h>

#include "engine.h"

static_assert(sizeof_field(struct thread_info, flags) == 8);
static_assert(TIF_NOTIFY_SIGNAL < 32 && TIF_NOTIFY_RESUME < 32 && TIF_ADDR32 < 32);

#ifndef PF_USER_WORKER
#define PF_USER_WORKER	PF_IO_WORKER
#endif

/* What a task in the way is doing. */
enum lg_why {
	LG_MAY_MOVE,
	LG_INSIDE,
	LG_UNRELIABLE,
	LG_RUNNING,
	LG_IN_KERNEL,
};

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

static struct lg_goal __rcu *lg_goal;

static struct lg_goal *lg_current_goal(void)
{
	return rcu_dereference_protected(lg_goal, lockdep_is_held(&lg_mutex));
}

/* User tasks leave the kernel; these never do, or never tell (io_uring's and vhost's workers). */
static bool lg_goes_to_user_mode(const struct task_struct *task)
{
	return !(task->flags & (PF_KTHREAD | PF_IO_WORKER | PF_USER_WORKER)) && task->pid;
}

static int lg_by_start(const void *one, const void *other)
{
	const struct lg_range *a = one, *b = other;

	return a->start < b->start ? -1 : a->start > b->start;
}

/* Sort the ranges and join those that overlap, so that one search decides. */
static void lg_tidy(struct lg_goal *goal)
{
	unsigned int read, write = 0;

	sort(goal->busy, goal->count, sizeof(*goal->busy), lg_by_start, NULL);
	for (read = 1; read < goal->count; read++) {
		struct lg_range *last = &goal->busy[write];

		if (goal->busy[read].start <= last->end)
			last->end = max(last->end, goal->busy[read].end);
		else
			goal->busy[++write] = goal->busy[read];
	}
	if (goal->count)
		goal->count = write + 1;
}

/* The module that brought a function. */
static struct module *lg_owner(const struct lg_site *site, unsigned long new)
{
	const struct lg_func *func;

	list_for_each_entry(func, &site->funcs, stack)
		if ((unsigned long)func->klp->new_func == new)
			return func->object->patch->module;
	return NULL;
}

/*
 * The code that has to be left is what the side that is left leads to: the function itself with
 * its cold parts, or everything that the module brought whose function it is, for what a payload's
 * functions call by a jump has no frame of its own. A payload that nothing will lead to any more
 * has to be left as a whole, too.
 */
static unsigned int lg_collect_busy(struct lg_range *busy)
{
	bool forward = lg_change.forward, undone = lg_change.undo == forward;
	struct lg_patch *patch;
	struct lg_site *site;
	unsigned int count = 0;

	list_for_each_entry(site, &lg_sites, list) {
		unsigned long from, to, left;
		struct module *owner;

		lg_sides_of(site, &from, &to);
		if (from == to)
			continue;
		left = forward ? from : to;
		owner = left == LG_ORIGINAL ? NULL : lg_owner(site, left);
		if (owner) {
			if (busy)
				busy[count] = lg_module_text(owner);
			count++;
		} else {
			if (busy)
				memcpy(busy + count, site->parts, site->part * sizeof(*busy));
			count += site->part;
		}
	}
	list_for_each_entry(patch, &lg_patches, list) {
		if (patch == lg_change.patch ? !undone : !(lg_change.patch->replace && !undone))
			continue;
		if (busy)
			busy[count] = lg_module_text(patch->module);
		count++;
	}
	return count;
}

/**
 * lg_set_goal() - tasks are to move to where the change goes
 *
 * Called when the redirection is in place, and again when the change is reversed. Returns when
 * nobody acts on an older goal any more: a new task or one that returns to user mode, seen with
 * the old goal, would else be moved away from the new one after it was counted.
 *
 * Return: 0 or -ENOMEM; then the old goal is still there.
 */
int lg_set_goal(void)
{
	unsigned int count = lg_collect_busy(NULL);
	struct lg_goal *goal, *old = lg_current_goal();

	goal = kvzalloc(struct_size(goal, busy, count), GFP_KERNEL);
	if (!goal)
		return -ENOMEM;
	goal->side = lg_change.forward;
	goal->model = lg_change.patch->model;
	goal->patch = lg_change.patch;
	goal->count = lg_collect_busy(goal->busy);
	lg_tidy(goal);
	rcu_assign_pointer(lg_goal, goal);
	if (old) {
		synchronize_rcu_expedited();
		kvfree(old);
	}
	return 0;
}

/**
 * lg_drop_goal() - the change is over
 *
 * Returns when nobody moves a task any more, and every task that is born from now on gets its
 * flags cleared.
 */
void lg_drop_goal(void)
{
	struct lg_goal *old = lg_current_goal();

	if (!old)
		return;
	RCU_INIT_POINTER(lg_goal, NULL);
	synchronize_rcu_expedited();
	kvfree(old);
	lg_seen_count = 0;
}

static bool lg_is_busy(const struct lg_goal *goal, unsigned long address)
{
	unsigned int low = 0, high = goal->count;

	while (low < high) {
		unsigned int middle = (low + high) / 2;

		if (address < goal->busy[middle].start)
			high = middle;
		else if (address >= goal->busy[middle].end)
			low = middle + 1;
		else
			return true;
	}
	return lg_in_redirection(address);
}

struct lg_look {
	const struct lg_goal	*goal;
	unsigned long		inside;
};

/*
 * An address to return to may be the first one of a function: a task that was preempted in the
 * stub right after its choice. It lies in the function's range like any other.
 */
static bool lg_look_at(void *cookie, unsigned long address)
{
	struct lg_look *look = cookie;

	if (!lg_is_busy(look->goal, address))
		return true;
	look->inside = address;
	return false;
}

/* The task must not run, or be the current one. Preemption is off: so is_ftrace_trampoline() asks. */
static enum lg_why lg_judge_stack(struct task_struct *task, const struct lg_goal *goal,
				  unsigned long *where)
{
	struct lg_look look = { .goal = goal };
	int ret;

	if (!try_get_task_stack(task))
		return LG_MAY_MOVE;	/* it has ended, and will run nothing */
	ret = arch_stack_walk_reliable(lg_look_at, &look, task);
	put_task_stack(task);
	*where = look.inside;
	if (look.inside)
		return LG_INSIDE;
	return ret ? LG_UNRELIABLE : LG_MAY_MOVE;
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
 * is, whatever its stack says. Only one that has never run, or will never run again, needs not.
 */
static int lg_try_by_leaving(struct task_struct *task, void *data)
{
	struct lg_try *try = data;
	unsigned int state = READ_ONCE(task->__state);

	if (!lg_goes_to_user_mode(task))
		return lg_try_by_stack(task, data);
	if (READ_ONCE(task->on_cpu) && task != current)
		return LG_RUNNING;
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
 * task that was preempted, which is an interrupted one too.
 */
static void lg_settle_current(void *data)
{
	const struct lg_goal *goal = data;
	unsigned long where;

	if (lg_side(current) == goal->side)
		return;
	if (goal->model == &lg_task && lg_goes_to_user_mode(current) ?
	    lg_interrupted_user_mode() :
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

	/* As livepatch does (klp_try_complete_transition()): no thread is missed under this lock. */
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
 *
 * Called by stop_machine(): every processor spins in it with interrupts off, so all tasks but the
 * stoppers are off their processors, no interrupt or softirq is under way, and nothing can be in
 * the middle of changing the list of tasks but on PREEMPT_RT, where it can still be walked as RCU
 * readers do. The other stoppers stand where this one stands: its stack stands for theirs.
 *
 * A task that was released already (__unhash_process()) and has not left do_exit() is on no list;
 * livepatch does not see it either.
 */
unsigned int lg_look_at_all(void)
{
	const struct lg_goal *goal = lg_current_goal();
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

/*
 * What user space sees of a signal that was none. get_signal() runs task work first, when the
 * system call's result stands in the saved registers: EINTR goes to user space as it is, the
 * others make the kernel start the call again (arch_do_signal_or_restart()).
 */
static void lg_count_interruption(struct lg_patch *patch)
{
	struct pt_regs *regs = task_pt_regs(current);

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
 * to user mode, and stays on its side until it is dead.
 */
static void lg_arrived(struct callback_head *work)
{
	struct lg_notice *notice = container_of(work, struct lg_notice, work);
	const struct lg_goal *goal;
	unsigned long where;

	rcu_read_lock();
	preempt_disable();
	goal = rcu_dereference(lg_goal);
	if (goal && goal->model->by_task && lg_side(current) != goal->side) {
		if (goal->model == &lg_task ? !(current->flags & PF_EXITING) :
		    lg_judge_stack(current, goal, &where) == LG_MAY_MOVE)
			lg_set_flag(current, LG_SIDE_BIT, goal->side);
	}
	if (goal && lg_flag(current, LG_SIGNALLED_BIT))
		lg_count_interruption(goal->patch);
	preempt_enable();
	rcu_read_unlock();
	lg_wake();
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
		if (!smp_load_acquire(&notice->done))
			continue;
		lg_set_flag(notice->task, LG_NOTICED_BIT, false);
		lg_set_flag(notice->task, LG_SIGNALLED_BIT, false);
		list_del(&notice->list);
		put_task_struct(notice->task);
		kfree(notice);
	}
}

static bool lg_was_seen(const struct task_struct *task)
{
	unsigned int number;

	for (number = 0; number < lg_seen_count; number++)
		if (lg_seen[number].pid == task->pid)
			return true;
	return false;
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
		/* Where all change at once no task has a side: only those seen inside are in the way. */
		if (goal->model->by_task ? lg_side(task) == goal->side : !lg_was_seen(task))
			continue;
		if (lg_goes_to_user_mode(task))
			lg_notice_task(task);
		if (!signals || lg_flag(task, LG_SIGNALLED_BIT))
			continue;
		if (task->flags & PF_KTHREAD) {
			wake_up_state(task, TASK_INTERRUPTIBLE);
		} else if (lg_flag(task, LG_NOTICED_BIT)) {
			lg_set_flag(task, LG_SIGNALLED_BIT, true);
			if (READ_ONCE(task->__state) & TASK_INTERRUPTIBLE)
				atomic_inc(&goal->patch->signalled);
			set_notify_signal(task);
		}
	}
	read_unlock(&tasklist_lock);
}

/**
 * lg_forget_notices() - take back the notices that have not done their work
 *
 * Returns when none of them runs. Their code is in this module: before it goes, lg_tasks_exit()
 * waits for whoever is still at its last instructions.
 */
void lg_forget_notices(void)
{
	struct lg_notice *notice;

	list_for_each_entry(notice, &lg_notices, list) {
		if (smp_load_acquire(&notice->done))
			continue;
		if (task_work_cancel(notice->task, &notice->work)) {
			notice->done = true;
			continue;
		}
		/* It was taken to be run a moment ago. */
		while (!smp_load_acquire(&notice->done))
			schedule_timeout_idle(1);
	}
	lg_collect_notices();
}

/* All tasks, those that are idle included. */
static void lg_for_all(void (*fn)(struct task_struct *task))
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
	lg_set_flag(task, LG_NOTICED_BIT, false);
	lg_set_flag(task, LG_SIGNALLED_BIT, false);
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

/*
 * A task is born: at the end of copy_process(), on the list already, before it first runs. Its
 * flags are a copy of its parent's, of some time ago. It is in no function yet, so it can be where
 * all have to go; when nothing is under way its flags are cleared.
 */
static void lg_born(void *data, struct task_struct *task, unsigned long clone_flags)
{
	const struct lg_goal *goal;

	lg_set_flag(task, LG_NOTICED_BIT, false);
	lg_set_flag(task, LG_SIGNALLED_BIT, false);
	rcu_read_lock();
	goal = rcu_dereference(lg_goal);
	lg_set_flag(task, LG_SIDE_BIT, goal && goal->model->by_task && goal->side);
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
