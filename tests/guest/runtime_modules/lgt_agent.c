// SPDX-License-Identifier: GPL-2.0
/*
 * An agent that has a function call it directly, and that agrees to share it with whoever changes
 * where the function goes: so does BPF (kernel/bpf/trampoline.c, bpf_tramp_ftrace_ops_func).
 */
#include <linux/ftrace.h>
#include <linux/linkage.h>
#include <linux/module.h>
#include <asm/ibt.h>

void lgt_agent_stub(void);

asm(".pushsection .text, \"ax\", @progbits\n"
    ".globl lgt_agent_stub\n"
    ".type lgt_agent_stub, @function\n"
    "lgt_agent_stub:\n"
    ASM_ENDBR
    ASM_RET
    ".size lgt_agent_stub, . - lgt_agent_stub\n"
    ".popsection\n");

static int lgt_agree(struct ftrace_ops *ops, enum ftrace_ops_cmd cmd)
{
	return 0;
}

static struct ftrace_ops ops = { .ops_func = lgt_agree };

static int __init lgt_agent_init(void)
{
	static char name[] = "cmdline_proc_show";
	int ret = ftrace_set_filter(&ops, name, sizeof(name) - 1, 1);

	if (ret)
		return ret;
#ifdef LGT_DIRECT_MULTI
	return register_ftrace_direct_multi(&ops, (unsigned long)lgt_agent_stub);
#else
	return register_ftrace_direct(&ops, (unsigned long)lgt_agent_stub);
#endif
}

static void __exit lgt_agent_exit(void)
{
#ifdef LGT_DIRECT_MULTI
	unregister_ftrace_direct_multi(&ops, (unsigned long)lgt_agent_stub);
#else
	unregister_ftrace_direct(&ops, (unsigned long)lgt_agent_stub, true);
#endif
}

module_init(lgt_agent_init);
module_exit(lgt_agent_exit);
MODULE_DESCRIPTION("Agent that shares a function in livegraft's tests");
MODULE_LICENSE("GPL");
