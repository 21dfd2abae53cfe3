/* SPDX-License-Identifier: GPL-2.0 */
/*
 * lgc_kick.h - the parameter "kick", as every payload has it: the kernel's own core looks at all
 * tasks now
 */
#include <linux/kprobes.h>
#include <linux/module.h>
#include <linux/workqueue.h>

static struct delayed_work *transition_work;

static int lgc_kick_set(const char *text, const struct kernel_param *param)
{
	if (transition_work)
		mod_delayed_work(system_wq, transition_work, 0);
	return 0;
}

static const struct kernel_param_ops lgc_kick_ops = { .set = lgc_kick_set };
module_param_cb(kick, &lgc_kick_ops, NULL, 0200);

/* A built payload has a livepatch relocation for this; only a test takes the detour. */
static void lgc_find_transition_work(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long (*lookup)(const char *name);

	if (register_kprobe(&probe))
		return;
	lookup = (void *)(probe.addr - (IS_ENABLED(CONFIG_X86_KERNEL_IBT) ? 4 : 0));
	unregister_kprobe(&probe);
	transition_work = (void *)lookup("klp_transition_work");
}
