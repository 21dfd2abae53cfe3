/* SPDX-License-Identifier: GPL-2.0 */
/*
 * lgc_payload.h - a payload for lgc_target, written by hand: all functions, in LGC_VERSION
 *
 * With LGC_PAIR it also has a function of lgb_target, whose calls "hits" counts.
 *
 * Parameters beside "model": "kick" as in every payload, "fail", the errno of pre_patch, and
 * "replace", for the kernel's own core: all older patches go in the same change.
 */
#define pr_fmt(fmt) KBUILD_MODNAME ": " fmt
#include <linux/livepatch.h>
#include <linux/module.h>

#include "lgc.h"
#include "lgc_kick.h"
#include "livegraft_abi.h"

#define NAME(function)	new_##function
LGC_MET(static, NAME, LGC_VERSION)
LGC_CALLERS(NAME, LGC_VERSION)

static int fail;
module_param(fail, int, 0444);

static int lgc_pre_patch(struct klp_object *object)
{
	return -fail;
}

#define PATCHES(name) { .old_name = "lgc_" #name, .new_func = new_##name, .old_sympos = 1 }

static struct klp_func funcs[] = {
	PATCHES(f1), PATCHES(f2), PATCHES(caller), PATCHES(cold), PATCHES(doze), { }
};

#ifdef LGC_PAIR
static uint hits;
module_param(hits, uint, 0444);

static LGC_FUNCTION void new_lgb(void)
{
	hits++;
}

static struct klp_func lgb_funcs[] = {
	{ .old_name = "lgb_f000", .new_func = new_lgb, .old_sympos = 1 }, { }
};
#endif

static struct klp_object objs[] = {
	{ .name = "lgc_target", .funcs = funcs, .callbacks.pre_patch = lgc_pre_patch },
#ifdef LGC_PAIR
	{ .name = "lgb_target", .funcs = lgb_funcs },
#endif
	{ }
};

static struct klp_patch patch = { .mod = THIS_MODULE, .objs = objs };
static struct lg_payload payload = { .module = THIS_MODULE, .patch = &patch };

static char *model = "native";
module_param(model, charp, 0444);

static bool replace;
module_param(replace, bool, 0444);

static int __init lgc_payload_init(void)
{
	if (!strcmp(model, "native"))
		lgc_find_transition_work();
	patch.replace = replace;
	return lg_payload_start(&payload, model);
}

static void __exit lgc_payload_exit(void)
{
	lg_payload_stop(&payload);
}

module_init(lgc_payload_init);
module_exit(lgc_payload_exit);
MODULE_DESCRIPTION("Payload of livegraft's tests");
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
