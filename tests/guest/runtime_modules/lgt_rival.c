// SPDX-License-Identifier: GPL-2.0
/* A kprobe with a post handler: it holds the function's one place for users that redirect it. */
#include <linux/kprobes.h>
#include <linux/module.h>

static void after(struct kprobe *probe, struct pt_regs *regs, unsigned long flags)
{
}

static struct kprobe probe = { .symbol_name = "cmdline_proc_show", .post_handler = after };

static int __init lgt_rival_init(void)
{
	return register_kprobe(&probe);
}

static void __exit lgt_rival_exit(void)
{
	unregister_kprobe(&probe);
}

module_init(lgt_rival_init);
module_exit(lgt_rival_exit);
MODULE_DESCRIPTION("Rival for a function in livegraft's tests");
MODULE_LICENSE("GPL");
