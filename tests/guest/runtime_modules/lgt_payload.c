// SPDX-License-Identifier: GPL-2.0
/*
 * A payload written by hand, against the header that every payload includes. It patches vmlinux
 * (/proc/cmdline says so) and lgt_target (answer 2, and the function that sleeps).
 *
 * Built a second time with LGT_ANSWER it is another one for the same functions, and a third time
 * with LGT_FOREIGN a livepatch module that livegraft knows nothing of.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/kprobes.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/seq_file.h>
#include <linux/wait.h>
#include <linux/workqueue.h>

#include "livegraft_abi.h"

#ifndef LGT_ANSWER
#define LGT_ANSWER 2
#endif

static int new_cmdline_proc_show(struct seq_file *m, void *v)
{
	seq_printf(m, "%s was here\n", THIS_MODULE->name);
	return 0;
}

static noinline __noclone int new_answer(void)
{
	asm volatile("");
	return LGT_ANSWER;
}

static noinline __noclone void new_doze(wait_queue_head_t *queue, bool *over)
{
	wait_event(*queue, READ_ONCE(*over));
	asm volatile("");
}

static noinline __noclone int new_bed(wait_queue_head_t *queue, bool *over)
{
	wait_event(*queue, READ_ONCE(*over));
	asm volatile("");
	return 3;
}

/* It is left by a jump to new_bed(), and is on no stack then. */
static noinline __noclone int new_shiver(wait_queue_head_t *queue, bool *over, bool deep)
{
	return deep ? new_bed(queue, over) : 2;
}

static struct klp_func lg_funcs_0[] = {
	{ .old_name = "cmdline_proc_show", .new_func = new_cmdline_proc_show, .old_sympos = 1 }, { }
};

static struct klp_func lg_funcs_1[] = {
	{ .old_name = "lgt_answer", .new_func = new_answer, .old_sympos = 1 },
	{ .old_name = "lgt_doze", .new_func = new_doze, .old_sympos = 1 },
	{ .old_name = "lgt_shiver", .new_func = new_shiver, .old_sympos = 1 }, { }
};

static struct klp_object lg_objects[] = {
	{ .name = NULL, .funcs = lg_funcs_0 },
	{ .name = "lgt_target", .funcs = lg_funcs_1 }, { }
};

static struct klp_patch patch = { .mod = THIS_MODULE, .objs = lg_objects };

#ifdef LGT_FOREIGN

static int lgt_start(void)
{
	return klp_enable_patch(&patch);
}

static void lgt_stop(void)
{
}

#else

static struct lg_payload payload = { .module = THIS_MODULE, .patch = &patch };
static struct delayed_work *transition_work;

static char *model = "native";
module_param(model, charp, 0444);
static char *livegraft = "1:" LGT_FIX;
module_param(livegraft, charp, 0444);
static bool replace;
module_param(replace, bool, 0444);

static int kick_set(const char *text, const struct kernel_param *param)
{
	if (transition_work)
		mod_delayed_work(system_wq, transition_work, 0);
	return 0;
}

static const struct kernel_param_ops kick_ops = { .set = kick_set };
module_param_cb(kick, &kick_ops, NULL, 0200);

/* A built payload has a livepatch relocation for this; only a test takes the detour. */
static void find_transition_work(void)
{
	struct kprobe probe = { .symbol_name = "kallsyms_lookup_name" };
	unsigned long (*lookup)(const char *name);

	if (register_kprobe(&probe))
		return;
	lookup = (void *)(probe.addr - (IS_ENABLED(CONFIG_X86_KERNEL_IBT) ? 4 : 0));
	unregister_kprobe(&probe);
	transition_work = (void *)lookup("klp_transition_work");
}

static int lgt_start(void)
{
	if (!strcmp(model, "native"))
		find_transition_work();
	patch.replace = replace;
	return lg_payload_start(&payload, model);
}

static void lgt_stop(void)
{
	lg_payload_stop(&payload);
}

#endif

static int __init lgt_payload_init(void)
{
	return lgt_start();
}

static void __exit lgt_payload_exit(void)
{
	lgt_stop();
}

module_init(lgt_payload_init);
module_exit(lgt_payload_exit);
MODULE_DESCRIPTION("Payload of livegraft's tests");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
