// SPDX-License-Identifier: GPL-2.0
/*
 * A module to be patched: "answer" reads lgt_answer(), a write to "doze" sleeps in lgt_doze(),
 * whatever signals come, until somebody writes to "wake". A write to "shiver" sleeps in
 * a call made from the cold part of lgt_shiver().
 */
#include <linux/module.h>
#include <linux/wait.h>

static DECLARE_WAIT_QUEUE_HEAD(bed);
static bool woken;
static bool deep = true;	/* no constant for the compiler */

static noinline __noclone int lgt_answer(void)
{
	asm volatile("");
	return 1;
}

static noinline __noclone void lgt_doze(wait_queue_head_t *queue, bool *over)
{
	wait_event(*queue, READ_ONCE(*over));
	asm volatile("");	/* no tail call: the function has to stay on the stack */
}

/* To call it is unlikely, the compiler takes from this: so is what leads to the call. */
static noinline __noclone __cold void lgt_bed(wait_queue_head_t *queue, bool *over)
{
	wait_event(*queue, READ_ONCE(*over));
	asm volatile("");
}

static noinline __noclone int lgt_shiver(wait_queue_head_t *queue, bool *over, bool far)
{
	if (far) {
		lgt_bed(queue, over);
		asm volatile("");
		return 3;
	}
	asm volatile("");
	return 1;
}

static int answer_get(char *buffer, const struct kernel_param *param)
{
	return sysfs_emit(buffer, "%d\n", lgt_answer());
}

static int doze_set(const char *text, const struct kernel_param *param)
{
	WRITE_ONCE(woken, false);
	/* Others may look at parameters while this one sleeps. */
	kernel_param_unlock(THIS_MODULE);
	lgt_doze(&bed, &woken);
	kernel_param_lock(THIS_MODULE);
	return 0;
}

static int shiver_set(const char *text, const struct kernel_param *param)
{
	WRITE_ONCE(woken, false);
	kernel_param_unlock(THIS_MODULE);
	lgt_shiver(&bed, &woken, READ_ONCE(deep));
	kernel_param_lock(THIS_MODULE);
	return 0;
}

static int wake_set(const char *text, const struct kernel_param *param)
{
	WRITE_ONCE(woken, true);
	wake_up(&bed);
	return 0;
}

static const struct kernel_param_ops answer_ops = { .get = answer_get };
static const struct kernel_param_ops doze_ops = { .set = doze_set };
module_param_cb(answer, &answer_ops, NULL, 0444);
static const struct kernel_param_ops wake_ops = { .set = wake_set };
static const struct kernel_param_ops shiver_ops = { .set = shiver_set };
module_param_cb(doze, &doze_ops, NULL, 0200);
module_param_cb(shiver, &shiver_ops, NULL, 0200);
module_param_cb(wake, &wake_ops, NULL, 0200);

static int __init lgt_target_init(void)
{
	return 0;
}

static void __exit lgt_target_exit(void)
{
}

module_init(lgt_target_init);
module_exit(lgt_target_exit);
MODULE_DESCRIPTION("Module to be patched in livegraft's tests");
MODULE_LICENSE("GPL");
