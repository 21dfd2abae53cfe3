// SPDX-License-Identifier: GPL-2.0
/*
 * patches.c - a patch as the engine sees it, and its callbacks
 */
#include <linux/module.h>
#include <linux/slab.h>

#include "engine.h"

static void lg_free_objects(struct lg_patch *patch)
{
	unsigned int number;

	for (number = 0; patch->objects && number < patch->count; number++)
		kvfree(patch->objects[number].funcs);
	kfree(patch->objects);
}

/** lg_free_patch() - the last reference to a patch's directory is gone */
void lg_free_patch(struct lg_patch *patch)
{
	lg_free_objects(patch);
	kfree(patch);
}

static int lg_fill_object(struct lg_patch *patch, struct lg_object *object, struct klp_object *klp)
{
	struct klp_func *func;
	unsigned int count = 0;

	object->klp = klp;
	object->patch = patch;
	object->name = lg_object_name(klp);
	klp_for_each_func_static(klp, func)
		object->count++;
	object->funcs = kvcalloc(object->count, sizeof(*object->funcs), GFP_KERNEL);
	if (!object->funcs)
		return -ENOMEM;
	klp_for_each_func_static(klp, func) {
		object->funcs[count].klp = func;
		object->funcs[count].object = object;
		INIT_LIST_HEAD(&object->funcs[count].stack);
		count++;
	}
	return 0;
}

/**
 * lg_make_patch() - the engine's own picture of a payload
 * @payload:	the payload
 * @model:	how its changes are kept consistent
 */
struct lg_patch *lg_make_patch(struct lg_payload *payload, const struct lg_way *model)
{
	struct klp_object *klp;
	struct lg_patch *patch;
	unsigned int count = 0;
	int ret;

	patch = kzalloc(sizeof(*patch), GFP_KERNEL);
	if (!patch)
		return ERR_PTR(-ENOMEM);
	patch->payload = payload;
	patch->module = payload->module;
	patch->model = model;
	/* Nothing can be asked of it before it is in lg_patches. */
	lg_set_phase(patch, LG_FORGOTTEN);
	INIT_LIST_HEAD(&patch->list);
	klp_for_each_object_static(payload->patch, klp)
		patch->count++;
	patch->objects = kcalloc(patch->count, sizeof(*patch->objects), GFP_KERNEL);
	ret = patch->objects ? 0 : -ENOMEM;
	klp_for_each_object_static(payload->patch, klp) {
		if (ret)
			break;
		ret = lg_fill_object(patch, &patch->objects[count++], klp);
	}
	if (ret) {
		lg_free_patch(patch);
		return ERR_PTR(ret);
	}
	return patch;
}

/**
 * lg_set_phase() - a patch enters a phase of its life
 * @patch:	the patch; lg_mutex is held, or nobody else knows it yet
 * @phase:	which
 */
void lg_set_phase(struct lg_patch *patch, enum lg_phase phase)
{
	WRITE_ONCE(patch->since, ktime_get());
	WRITE_ONCE(patch->phase, phase);
}

/*
 * Callbacks, as the kernel's core calls them (kernel/livepatch/core.h): post_unpatch undoes
 * pre_patch, and runs where that has succeeded.
 */
int lg_pre_patch(struct lg_object *object)
{
	int (*callback)(struct klp_object *) = object->klp->callbacks.pre_patch;
	int ret = callback ? callback(object->klp) : 0;

	object->prepared = !ret;
	if (ret)
		pr_err("%s: pre_patch of %s failed: %d\n", object->patch->module->name,
		       object->name, ret);
	return ret;
}

void lg_post_patch(struct lg_object *object)
{
	if (object->klp->callbacks.post_patch)
		object->klp->callbacks.post_patch(object->klp);
}

void lg_pre_unpatch(struct lg_object *object)
{
	if (object->klp->callbacks.pre_unpatch)
		object->klp->callbacks.pre_unpatch(object->klp);
}

void lg_post_unpatch(struct lg_object *object)
{
	if (object->prepared && object->klp->callbacks.post_unpatch)
		object->klp->callbacks.post_unpatch(object->klp);
	object->prepared = false;
}

/* Do something for each object of a patch that is there. */
void lg_for_live(struct lg_patch *patch, void (*fn)(struct lg_object *object))
{
	unsigned int number;

	for (number = 0; number < patch->count; number++)
		if (patch->objects[number].live)
			fn(&patch->objects[number]);
}

/* The kernel's own list of patches (kernel/livepatch/core.h): here only the end of ours. */
extern struct list_head klp_patches;

/**
 * lg_link_states() - let patches find the system states of those before them
 *
 * livegraft_state_before() (livegraft.h) goes back along klp_patch.list until it meets the head of
 * the kernel's list. Patches of the engine are in no such list: each leads to the one before it
 * here, and the first to that head. It is called in callbacks, so under lg_mutex, as this is.
 * States of patches under the kernel's own core are not found: nothing would keep those there.
 */
void lg_link_states(void)
{
	struct list_head *before = &klp_patches;
	struct lg_patch *patch;

	list_for_each_entry(patch, &lg_patches, list) {
		patch->payload->patch->list.prev = before;
		before = &patch->payload->patch->list;
	}
}

/**
 * lg_check_states() - whether a patch knows the system states of those that are there
 * @patch:	the patch, not in lg_patches yet
 *
 * The rule of klp_is_patch_compatible(): the same state has no lower version, and a patch that
 * replaces others has all of their states.
 *
 * Return: 0 or -EINVAL.
 */
int lg_check_states(const struct lg_patch *patch)
{
	const struct lg_patch *other;
	struct klp_state *state, *own;

	list_for_each_entry(other, &lg_patches, list) {
		for (state = other->payload->patch->states; state && state->id; state++) {
			own = klp_get_state(patch->payload->patch, state->id);
			if (own ? own->version >= state->version : !patch->replace)
				continue;
			pr_err("%s: has not state %#lx, version %u, of %s\n", patch->module->name,
			       state->id, state->version, other->module->name);
			return -EINVAL;
		}
	}
	return 0;
}
