/* SPDX-License-Identifier: GPL-2.0 */
/* A payload that replaces LGB_COUNT functions of lgb_target. */
#include <linux/livepatch.h>
#include <linux/module.h>

#include "lgb_functions.h"
#include "lgc_kick.h"
#include "livegraft_abi.h"

#define DEFINE(n) static noinline void lgb_n##n(void) { barrier(); }
LGB_EACH(DEFINE)

#define ROW(n) { .old_name = "lgb_f" #n, .new_func = lgb_n##n },
static struct klp_func lgb_funcs[] = { LGB_EACH(ROW) { } };

static struct klp_object lgb_objects[] = {
	{ .name = "lgb_target", .funcs = lgb_funcs },
	{ }
};

static struct klp_patch lgb_patch = { .mod = THIS_MODULE, .objs = lgb_objects };
static struct lg_payload lgb_payload = { .module = THIS_MODULE, .patch = &lgb_patch };

static char *model = "native";
module_param(model, charp, 0444);

static int __init lgb_init(void)
{
	if (!strcmp(model, "native"))
		lgc_find_transition_work();
	return lg_payload_start(&lgb_payload, model);
}

static void __exit lgb_exit(void)
{
	lg_payload_stop(&lgb_payload);
}

module_init(lgb_init);
module_exit(lgb_exit);
MODULE_LICENSE("GPL");
MODULE_INFO(livepatch, "Y");
