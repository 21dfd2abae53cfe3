// SPDX-License-Identifier: GPL-2.0
/*
 * goal.c - where tasks have to go, and which code they have to have left
 */
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/sort.h>

#include "engine.h"

struct lg_goal __rcu *lg_goal;

struct lg_goal *lg_current_goal(void)
{
	return rcu_dereference_protected(lg_goal, lockdep_is_held(&lg_mutex));
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
	lg_forget_seen();
}
