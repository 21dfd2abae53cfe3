// SPDX-License-Identifier: GPL-2.0
/*
 * A kprobe on lgc_f1(). With a post handler (post=1) it holds the function's one place for users
 * that redirect it; without, it shares, and "hits" counts.
 */
#include <linux/kprobes.h>
#include <linux/module.h>

static bool post;
module_param(post, bool, 0444);
static unsigned int hits;
module_param(hits, uint, 0444);

static int before(struct kprobe *probe, struct pt_regs *regs)
{
	hits++;
	return 0;
}

static void after(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe probe = { .symbol_name = "lgc_f1", .pre_handler = before };

static int __init lgc_rival_init(void)
{
	if (post)
		probe.post_handler = after;
	return register_kprobe(&probe);
}

static void __exit lgc_rival_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(lgc_rival_init);
module_exit(lgc_rival_exit);
MODULE_DESCRIPTION("Rival for a function in livegraft's tests");
MODULE_LICENSE("GPL");
