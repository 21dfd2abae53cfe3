// SPDX-License-Identifier: GPL-2.0
/*
 * modules.c - target modules, there or not, that come and go
 */
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/rcupdate.h>

#include "engine.h"

/*
 * Whether a target module is there and stays for now. The loader sets klp_alive before it calls the
 * notifiers of a module that comes, and the state GOING before it calls those of one that goes:
 * with lg_mutex, which lg_module_event() takes, an object is added once and removed once.
 */
bool lg_is_loaded(const struct lg_object *object)
{
	struct module *module;
	bool alive;

	if (!object->klp->name)
		return true;
	rcu_read_lock_sched();	/* for find_module() */
	module = find_module(object->name);
	alive = module && module->klp_alive && module->state != MODULE_STATE_GOING;
	rcu_read_unlock_sched();
	return alive;
}

/**
 * lg_enable_object() - everything for one object that is there, up to its redirection
 * @object:	the object
 *
 * After an error some of it may be done.
 */
int lg_enable_object(struct lg_object *object)
{
	int ret;

	ret = lg_apply_relocations(object);
	if (ret) {
		pr_err("%s: relocations to %s failed: %d\n", object->patch->module->name,
		       object->name, ret);
		return ret;
	}
	ret = lg_pre_patch(object) ?: lg_add_object(object);
	if (ret)
		return ret;
	lg_update_entries();
	return lg_redirect(object->name, object->patch->direct);
}

static void lg_disable_object(struct lg_object *object)
{
	lg_forget_object(object);
	lg_update_entries();
	lg_post_unpatch(object);
	lg_clear_relocations(object);
}

/*
 * A target module comes: its code has not run yet, and ftrace knows its functions
 * (ftrace_module_enable() is called before). An error keeps it from being loaded.
 */
static int lg_module_comes(const char *name)
{
	struct lg_object *object;
	struct lg_patch *patch;
	int ret = 0;

	list_for_each_entry(patch, &lg_patches, list) {
		for (object = patch->objects; object < patch->objects + patch->count; object++) {
			if (object->live || !object->klp->name || strcmp(object->name, name))
				continue;
			ret = lg_enable_object(object);
			if (ret)
				return ret;
			if (patch != lg_change.patch)
				lg_post_patch(object);
		}
	}
	return lg_change.patch ? lg_set_goal() : 0;
}

/*
 * A target module goes: nobody uses it and nobody can begin to. Its redirections are taken out
 * while ftrace still knows its functions.
 */
static void lg_module_goes(const char *name)
{
	struct lg_object *object;
	struct lg_patch *patch;

	list_for_each_entry_reverse(patch, &lg_patches, list) {
		for (object = patch->objects; object < patch->objects + patch->count; object++) {
			if (!object->klp->name || strcmp(object->name, name))
				continue;
			if (!object->live && !object->prepared)
				continue;
			if (patch != lg_change.patch)
				lg_pre_unpatch(object);
			lg_disable_object(object);
		}
	}
	lg_forget_groups(name);
	/* Without memory the old goal stays: it holds more code than is there, and no less. */
	if (lg_change.patch)
		lg_set_goal();
}

static int lg_module_event(struct notifier_block *block, unsigned long event, void *data)
{
	struct module *module = data;
	int ret = 0;

	mutex_lock(&lg_mutex);
	lg_finish();
	if (event == MODULE_STATE_COMING) {
		ret = lg_module_comes(module->name);
		if (ret) {
			pr_err("%s: cannot be patched: %d\n", module->name, ret);
			lg_module_goes(module->name);
		}
	} else if (event == MODULE_STATE_GOING) {
		lg_module_goes(module->name);
	}
	mutex_unlock(&lg_mutex);
	return notifier_from_errno(ret);
}

/* After ftrace and livepatch in both directions, which the loader calls by name; before others. */
struct notifier_block lg_module_notifier = {
	.notifier_call	= lg_module_event,
	.priority	= INT_MIN + 1,
};
