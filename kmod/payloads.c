// SPDX-License-Identifier: GPL-2.0
/*
 * payloads.c - what payloads call: livegraft_abi.h
 */
#include <linux/module.h>
#include <linux/string.h>

#include "engine.h"

const struct lg_way *const lg_ways[] = { &lg_hybrid, &lg_stop, &lg_task, NULL };

static const struct lg_way *lg_way_of(u32 number)
{
	const struct lg_way *const *way;

	for (way = lg_ways; *way; way++)
		if ((*way)->number == number)
			return *way;
	return NULL;
}

/* What the payload says of itself; see livegraft_abi.h for each. */
static int lg_check_payload(const struct lg_payload *payload)
{
	const struct lg_way *model;
	const char *missing;

	if (payload->abi != LG_ABI || payload->size < sizeof(*payload) ||
	    memchr_inv((const u8 *)payload + sizeof(*payload), 0,
		       payload->size - sizeof(*payload)) ||
	    payload->flags || payload->private) {
		pr_err("a payload of an unknown kind\n");
		return -EPROTO;
	}
	if (!payload->module || !payload->patch || !payload->patch->objs ||
	    !payload->module->klp_info)
		return -EINVAL;
	model = lg_way_of(payload->model);
	if (!model) {
		pr_err("%s: no model has the number %u\n", payload->module->name, payload->model);
		return -EOPNOTSUPP;
	}
	missing = model->missing ? model->missing() : NULL;
	if (missing) {
		pr_err("%s: no model '%s' here: %s\n", payload->module->name, model->name, missing);
		return -EOPNOTSUPP;
	}
	return 0;
}

/* All objects that are there; after an error some may be on. */
static int lg_enable(struct lg_patch *patch)
{
	ktime_t began = ktime_get();
	struct lg_object *object;
	int ret = 0;

	lg_hasten_begin();
	for (object = patch->objects; object < patch->objects + patch->count; object++) {
		if (lg_is_loaded(object))
			ret = lg_enable_object(object);
		if (ret)
			break;
	}
	lg_hasten_end();
	if (ret)
		return ret;
	patch->us[LG_TIME_REDIRECT] = ktime_us_delta(ktime_get(), began) -
				      patch->us[LG_TIME_RESOLVE];
	return lg_start_moving();
}

/**
 * lg_register_payload() - apply a payload's patch; see lg_register_fn in livegraft_abi.h
 * @payload:	the payload, whose init calls this
 */
int lg_register_payload(struct lg_payload *payload)
{
	struct lg_patch *patch;
	int ret;

	ret = lg_check_payload(payload);
	if (ret)
		return ret;
	patch = lg_make_patch(payload, lg_way_of(payload->model));
	if (IS_ERR(patch))
		return PTR_ERR(patch);
	/* From here on the structure belongs to its directory. */
	ret = lg_show_patch(patch);
	if (ret)
		return ret;

	mutex_lock(&lg_mutex);
	ret = -EBUSY;
	if (lg_change.patch) {
		pr_err("%s: %s is changing\n", patch->module->name,
		       lg_change.patch->module->name);
		goto hide;
	}
	lg_finish();
	lg_take_options(patch);
	ret = lg_check_states(patch);
	if (ret)
		goto hide;
	ret = -ENODEV;
	if (!try_module_get(patch->module))
		goto hide;
	list_add_tail(&patch->list, &lg_patches);
	lg_link_states();
	payload->private = patch;
	lg_begin(patch, false);
	ret = lg_enable(patch);
	if (ret)
		goto undo;
	mutex_unlock(&lg_mutex);
	return 0;

undo:
	/* No task has moved: the old code is what all rows have led to. */
	list_del_init(&patch->list);
	lg_change.patch = NULL;
	lg_hasten_begin();
	lg_take_down(patch, true);
	lg_settle();
	lg_hasten_end();
	lg_clear_interrupts();
	payload->private = NULL;
	module_put(patch->module);
hide:
	lg_set_phase(patch, LG_FORGOTTEN);
	mutex_unlock(&lg_mutex);
	lg_hide_patch(patch);
	return ret;
}
EXPORT_SYMBOL_GPL(lg_register_payload);

/**
 * lg_unregister_payload() - forget a payload; see lg_unregister_fn in livegraft_abi.h
 * @payload:	the payload, whose exit calls this
 *
 * Its exit can run only after lg_let_go(): by then every task has left its code, and RCU tasks has
 * waited for those in between. The mutex is the mover's, which may still be at that.
 */
void lg_unregister_payload(struct lg_payload *payload)
{
	mutex_lock(&lg_mutex);
	WARN_ON(payload->private);
	mutex_unlock(&lg_mutex);
	/* The mover may be about to: the next payload of this name needs the directory's name. */
	lg_hide_forgotten();
}
EXPORT_SYMBOL_GPL(lg_unregister_payload);
