// SPDX-License-Identifier: GPL-2.0
/*
 * modules.c - target modules, there or not, that come and go
 */
#include <linux/module.h>
#include <linux/notifier.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>

#include "engine.h"

/*
 * Modules whose coming we were told of and which are not live yet. One that the loader has
 * announced to livepatch but not to us (klp_alive is set) is not there for us: if another notifier
 * refuses it first, nobody tells us that it goes.
 */
struct lg_coming {
	struct list_head	list;
	const struct module	*module;
};

static LIST_HEAD(lg_coming);	/* under lg_mutex */

static int lg_note_coming(const struct module *module)
{
	struct lg_coming *coming = kmalloc(sizeof(*coming), GFP_KERNEL);

	if (!coming)
		return -ENOMEM;
	coming->module = module;
	list_add(&coming->list, &lg_coming);
	return 0;
}

static bool lg_has_come(const struct module *module)
{
	const struct lg_coming *coming;

	list_for_each_entry(coming, &lg_coming, list)
		if (coming->module == module)
			return true;
	return false;
}

static void lg_forget_coming(const struct module *module)
{
	struct lg_coming *coming, *next;

	list_for_each_entry_safe(coming, next, &lg_coming, list) {
		if (coming->module != module)
			continue;
		list_del(&coming->list);
		kfree(coming);
	}
}

/**
 * lg_is_loaded() - whether a target module is there and stays for now
 * @object:	the object
 *
 * The loader sets the state GOING before it calls the notifiers of a module that goes: with
 * lg_mutex, which lg_module_event() takes, an object is added once and removed once.
 */
bool lg_is_loaded(const struct lg_object *object)
{
	struct module *module;
	bool loaded;

	if (!object->klp->name)
		return true;
	rcu_read_lock_sched();	/* for find_module() */
	module = find_module(object->name);
	loaded = module && (module->state == MODULE_STATE_LIVE ||
			    (module->state == MODULE_STATE_COMING && lg_has_come(module)));
	rcu_read_unlock_sched();
	return loaded;
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
		goto clear;
	}
	ret = lg_pre_patch(object);
	if (ret)
		goto clear;
	ret = lg_add_object(object);
	if (ret)
		return ret;
	lg_update_entries();
	return lg_redirect(object->name, object->patch->direct);

clear:
	/* Or the module could never come again while the patch stays. */
	lg_clear_relocations(object);
	return ret;
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
		ret = lg_note_coming(module) ?: lg_module_comes(module->name);
		if (ret) {
			lg_forget_coming(module);
			pr_err("%s: cannot be patched: %d\n", module->name, ret);
			lg_module_goes(module->name);
		}
	} else if (event == MODULE_STATE_LIVE) {
		lg_forget_coming(module);
	} else if (event == MODULE_STATE_GOING) {
		lg_forget_coming(module);
		lg_module_goes(module->name);
	}
	mutex_unlock(&lg_mutex);
	return notifier_from_errno(ret);
}

/*
 * Late: the loader has told ftrace and livepatch of a module that comes before all notifiers, and
 * tells them of one that goes after all.
 */
struct notifier_block lg_module_notifier = {
	.notifier_call	= lg_module_event,
	.priority	= INT_MIN + 1,
};
