// SPDX-License-Identifier: GPL-2.0
/*
 * stop.c - the whole machine changes at once, when no stack is inside
 *
 * kpatch's model. All processors are held, all stacks looked at; if every one is free all functions
 * change, else the processors are let go and it is tried again later. The price is the pause, and
 * that a function in which some task always sleeps can never be changed.
 *
 * stop_machine() holds cpus_read_lock(): no processor comes or goes meanwhile, and one that is not
 * online runs nothing but its idle task, which is looked at like any other.
 */
#include <linux/ktime.h>
#include <linux/stop_machine.h>

#include "engine.h"

/*
 * On one CPU, while all others spin with interrupts off. It takes no lock: see both callees. So it
 * may come in the middle of a transition of the kernel's own core: whoever held one of its locks
 * with preemption off has let it go, or its processor would not be held.
 */
static int lg_flip(void *goal)
{
	ktime_t began = ktime_get();
	unsigned int left = lg_look_at_all(goal);

	lg_change.patch->us[LG_TIME_STACKS] = ktime_us_delta(ktime_get(), began);
	if (!left || lg_change.force) {
		lg_change.flipped = true;
		lg_update_entries();
	}
	lg_change.patch->us[LG_TIME_PAUSE] = ktime_us_delta(ktime_get(), began);
	return 0;
}

static unsigned int lg_pass(void)
{
	/* A reversal before the flip leaves nothing to be done: all are where they were. */
	if (!lg_change.forward && !lg_change.flipped)
		return 0;
	lg_change.patch->tries++;
	stop_machine(lg_flip, lg_current_goal(), NULL);
	return lg_change.flipped ? 0 : max(lg_change.patch->left, 1U);
}

const struct lg_way lg_stop = {
	.name		= "stop",
	.number		= LG_MODEL_STOP,
	.pass		= lg_pass,
	.urge_after	= 15000,
};
