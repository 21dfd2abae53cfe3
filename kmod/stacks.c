// SPDX-License-Identifier: GPL-2.0
/*
 * stacks.c - whether a task is inside code that has to be left
 *
 * Whoever is inside has an address of that code on the stack: one to return to, or that of the
 * instruction where an interrupt has stopped it. A look at every word (lg_scan()) finds most tasks
 * outside, and is cheap. For the others the kernel's own unwinder decides, in the way that
 * livepatch uses it (arch_stack_walk_reliable()): it knows which words mean something, and finds
 * return addresses that rethooks and the function graph tracer have replaced. A stack that it does
 * not call reliable is busy.
 */
#include <linux/kallsyms.h>
#include <linux/llist.h>
#include <linux/sched/task_stack.h>
#include <linux/stacktrace.h>

#include "engine.h"

/* The kernel's own code. */
static struct lg_range lg_text;

/*
 * Parts of it that may stand for a place elsewhere: the two that return addresses are replaced by,
 * and ftrace's static entries, which are on their way to some function.
 */
static const char * const lg_hiding_names[] = {
#ifdef CONFIG_RETHOOK
	"arch_rethook_trampoline",
#endif
#ifdef CONFIG_FUNCTION_GRAPH_TRACER
	"return_to_handler",
#endif
};

static struct lg_range lg_hiding[ARRAY_SIZE(lg_hiding_names)];

static bool lg_is_in(const struct lg_range *range, unsigned long address)
{
	return address >= range->start && address < range->end;
}

static bool lg_is_inside(const struct lg_goal *goal, unsigned long address)
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
	return false;
}

static bool lg_is_busy(const struct lg_goal *goal, unsigned long address)
{
	return lg_is_inside(goal, address) || lg_in_redirection(address);
}

/*
 * Whether a task may be inside; it does not run, and its stack is held. Words that are no return
 * address, left over from calls that are long over, make it say yes for no reason. It says no only
 * if there is no way to be inside: everything that is neither the kernel's own code nor in the area
 * of modules (payloads; trampolines of ftrace, kprobes and BPF) is no code.
 */
static bool lg_scan(const struct task_struct *task, const struct lg_goal *goal)
{
	const unsigned long *word = (const unsigned long *)task->thread.sp;
	const unsigned long *end = task_stack_page(task) + THREAD_SIZE;
	unsigned int number;

	for (; word < end; word++) {
		/* Of KASAN's shadow nobody has told which words are in use. */
		unsigned long address = READ_ONCE_NOCHECK(*word);

		if (address >= MODULES_VADDR && address < MODULES_END)
			return true;
		if (!lg_is_in(&lg_text, address))
			continue;
		if (lg_is_inside(goal, address) || lg_is_in(&lg_ftrace_entries, address))
			return true;
		for (number = 0; number < ARRAY_SIZE(lg_hiding); number++)
			if (lg_is_in(&lg_hiding[number], address))
				return true;
	}
	return false;
}

struct lg_look {
	const struct lg_goal	*goal;
	unsigned long		inside;
	bool			leaving;
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

/* The task must not run, or be the current one. is_ftrace_trampoline() wants preemption off. */
enum lg_why lg_judge_stack(struct task_struct *task, const struct lg_goal *goal,
			   unsigned long *where)
{
	struct lg_look look = { .goal = goal };
	int ret;

	if (!try_get_task_stack(task))
		return LG_MAY_MOVE;	/* it has ended, and will run nothing */
	if (task != current && !lg_scan(task, goal)) {
		put_task_stack(task);
		return LG_MAY_MOVE;
	}
#if defined(CONFIG_RETHOOK) && LINUX_VERSION_CODE < KERNEL_VERSION(6, 12, 0)
	/* 6.1 warns when it is asked to unwind these, and calls them unreliable all the same. */
	if (task != current && task_is_running(task) && !llist_empty(&task->rethooks)) {
		put_task_stack(task);
		return LG_UNRELIABLE;
	}
#endif
	ret = arch_stack_walk_reliable(lg_look_at, &look, task);
	put_task_stack(task);
	*where = look.inside;
	if (look.inside)
		return LG_INSIDE;
	return ret ? LG_UNRELIABLE : LG_MAY_MOVE;
}

/*
 * Below these a task is on its way to user mode when task work runs. io_uring_enter(), KVM_RUN and
 * ptrace_notify() run it in the middle of a system call.
 */
static const char * const lg_exit_names[] = {
	"syscall_exit_to_user_mode", "irqentry_exit_to_user_mode", "irqentry_exit",
};

static struct lg_range lg_exits[ARRAY_SIZE(lg_exit_names)];

static bool lg_look_at_leaver(void *cookie, unsigned long address)
{
	struct lg_look *look = cookie;
	unsigned int number;

	for (number = 0; number < ARRAY_SIZE(lg_exits); number++)
		look->leaving |= lg_is_in(&lg_exits[number], address);
	return lg_look_at(cookie, address);
}

static int lg_find_code(const char * const names[], struct lg_range *ranges, unsigned int count)
{
	unsigned long address;
	unsigned int number;
	int ret = 0;

	for (number = 0; number < count && !ret; number++)
		ret = lg_find(names[number], &address) ?: lg_size(address, &ranges[number]);
	return ret;
}

/** lg_stacks_init() - where the code is that means something on a stack, once */
int lg_stacks_init(void)
{
	return lg_find("_stext", &lg_text.start) ?: lg_find("_etext", &lg_text.end) ?:
	       lg_find_code(lg_hiding_names, lg_hiding, ARRAY_SIZE(lg_hiding)) ?:
	       lg_find_code(lg_exit_names, lg_exits, ARRAY_SIZE(lg_exits));
}

/**
 * lg_leaves() - whether the current task goes to user mode, and is in no code that has to be left
 * @goal:	the code
 */
bool lg_leaves(const struct lg_goal *goal)
{
	struct lg_look look = { .goal = goal };

	return !arch_stack_walk_reliable(lg_look_at_leaver, &look, current) && look.leaving;
}
