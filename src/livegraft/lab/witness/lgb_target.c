// SPDX-License-Identifier: GPL-2.0
/*
 * lgb_target.c - functions to be patched, and what a call of one costs
 *
 * Write a number of calls to the parameter "calls"; "ns" then says how many nanoseconds they took.
 */
#include <linux/ktime.h>
#include <linux/module.h>

#define LGB_COUNT 500
#include "lgb_functions.h"

#define DEFINE(n) noinline void lgb_f##n(void); noinline void lgb_f##n(void) { barrier(); }
LGB_EACH(DEFINE)

/* ftrace has no place in it. */
noinline notrace void lgb_bare(void);
noinline notrace void lgb_bare(void) { barrier(); }

static unsigned long long lgb_ns;
module_param_named(ns, lgb_ns, ullong, 0444);

static int lgb_call(const char *text, const struct kernel_param *param)
{
	unsigned int calls, number;
	ktime_t began;
	int ret;

	ret = kstrtouint(text, 10, &calls);
	if (ret)
		return ret;
	began = ktime_get();
	for (number = 0; number < calls; number++)
		lgb_f000();
	lgb_ns = ktime_to_ns(ktime_sub(ktime_get(), began));
	lgb_bare();
	return 0;
}

static const struct kernel_param_ops lgb_calls_ops = { .set = lgb_call };
module_param_cb(calls, &lgb_calls_ops, NULL, 0200);

static int __init lgb_init(void)
{
	return 0;
}

static void __exit lgb_exit(void)
{
}

module_init(lgb_init);
module_exit(lgb_exit);
MODULE_LICENSE("GPL");
