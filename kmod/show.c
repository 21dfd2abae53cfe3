// SPDX-License-Identifier: GPL-2.0
/*
 * show.c - the engine's directory in sysfs, /sys/kernel/livegraft; README.md says what is in it
 *
 * Readers take what they show without lg_mutex, so that they never wait for ftrace; each value is
 * one word, read once. Only lists are read under it.
 */
#include <linux/kallsyms.h>
#include <linux/kobject.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>
#include <linux/sysfs.h>

#include "engine.h"

static struct kobject *lg_root;

static struct lg_patch *lg_patch_of(struct kobject *kobj)
{
	return container_of(kobj, struct lg_patch, kobj);
}

/* Call an action on a patch that was not forgotten meanwhile. */
static ssize_t lg_act(struct kobject *kobj, int (*action)(struct lg_patch *), size_t count)
{
	struct lg_patch *patch = lg_patch_of(kobj);
	int ret;

	mutex_lock(&lg_mutex);
	ret = patch->phase >= LG_UNDONE ? -ENODEV : action(patch);
	mutex_unlock(&lg_mutex);
	return ret ?: count;
}

static ssize_t enabled_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(lg_patch_of(kobj)->phase) <= LG_APPLIED);
}

static ssize_t enabled_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf,
			     size_t count)
{
	bool enabled;
	int ret;

	ret = kstrtobool(buf, &enabled);
	return ret ?: lg_act(kobj, enabled ? lg_apply_again : lg_undo, count);
}

static ssize_t transition_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	enum lg_phase phase = READ_ONCE(lg_patch_of(kobj)->phase);

	return sysfs_emit(buf, "%d\n", phase == LG_APPLYING || phase == LG_UNDOING);
}

static ssize_t phase_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	static const char * const names[] = {
		[LG_APPLYING]	= "applying",
		[LG_APPLIED]	= "applied",
		[LG_UNDOING]	= "undoing",
		[LG_UNDONE]	= "undone",
		[LG_FORGOTTEN]	= "forgotten",
	};

	return sysfs_emit(buf, "%s\n", names[READ_ONCE(lg_patch_of(kobj)->phase)]);
}

static ssize_t since_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%lld\n", ktime_to_us(READ_ONCE(lg_patch_of(kobj)->since)));
}

static ssize_t model_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", lg_patch_of(kobj)->model->name);
}

static ssize_t moved_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(lg_patch_of(kobj)->moved));
}

static ssize_t left_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%u\n", READ_ONCE(lg_patch_of(kobj)->left));
}

static ssize_t blockers_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	ssize_t length = 0;

	mutex_lock(&lg_mutex);
	if (lg_change.patch == lg_patch_of(kobj))
		length = lg_list_blockers(buf);
	mutex_unlock(&lg_mutex);
	return length;
}

static ssize_t signal_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf,
			    size_t count)
{
	return lg_act(kobj, lg_signal, count);
}

/* When all tasks have moved, the last that were signalled may not have told yet: lg_finish(). */
static ssize_t lg_show_count(const atomic_t *count, char *buf)
{
	mutex_lock(&lg_mutex);
	lg_finish();
	mutex_unlock(&lg_mutex);
	return sysfs_emit(buf, "%d\n", atomic_read(count));
}

static ssize_t signalled_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return lg_show_count(&lg_patch_of(kobj)->signalled, buf);
}

static ssize_t interrupted_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return lg_show_count(&lg_patch_of(kobj)->interrupted, buf);
}

static ssize_t restarted_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return lg_show_count(&lg_patch_of(kobj)->restarted, buf);
}

static ssize_t force_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf,
			   size_t count)
{
	bool force;
	int ret;

	ret = kstrtobool(buf, &force);
	if (ret || !force)
		return ret ?: -EINVAL;
	return lg_act(kobj, lg_force, count);
}

static ssize_t forced_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", READ_ONCE(lg_patch_of(kobj)->forced));
}

static ssize_t direct_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%d\n", lg_patch_of(kobj)->direct);
}

static ssize_t times_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	static const char * const names[] = {
		[LG_TIME_RESOLVE]	= "resolve",
		[LG_TIME_REDIRECT]	= "redirect",
		[LG_TIME_MOVE]		= "move",
		[LG_TIME_FINISH]	= "finish",
		[LG_TIME_PAUSE]		= "pause",
		[LG_TIME_STACKS]	= "stacks",
	};
	const struct lg_patch *patch = lg_patch_of(kobj);
	ssize_t length = 0;
	unsigned int time;

	for (time = 0; time < LG_TIMES; time++)
		length += sysfs_emit_at(buf, length, "%s %u\n", names[time],
					READ_ONCE(patch->us[time]));
	return length + sysfs_emit_at(buf, length, "tries %u\n", READ_ONCE(patch->tries));
}

static struct kobj_attribute lg_enabled = __ATTR_RW_MODE(enabled, 0644);
static struct kobj_attribute lg_transition = __ATTR_RO(transition);
static struct kobj_attribute lg_phase = __ATTR_RO(phase);
static struct kobj_attribute lg_since = __ATTR_RO(since);
static struct kobj_attribute lg_model = __ATTR_RO(model);
static struct kobj_attribute lg_moved = __ATTR_RO(moved);
static struct kobj_attribute lg_left = __ATTR_RO(left);
static struct kobj_attribute lg_blockers = __ATTR_RO_MODE(blockers, 0400);
static struct kobj_attribute lg_signal_attr = __ATTR(signal, 0200, NULL, signal_store);
static struct kobj_attribute lg_signalled = __ATTR_RO(signalled);
static struct kobj_attribute lg_interrupted = __ATTR_RO(interrupted);
static struct kobj_attribute lg_restarted = __ATTR_RO(restarted);
static struct kobj_attribute lg_force_attr = __ATTR(force, 0200, NULL, force_store);
static struct kobj_attribute lg_forced = __ATTR_RO(forced);
static struct kobj_attribute lg_direct = __ATTR_RO(direct);
static struct kobj_attribute lg_times = __ATTR_RO(times);

static struct attribute *lg_patch_attrs[] = {
	&lg_enabled.attr, &lg_transition.attr, &lg_phase.attr, &lg_since.attr, &lg_model.attr,
	&lg_moved.attr, &lg_left.attr, &lg_blockers.attr, &lg_signal_attr.attr,
	&lg_signalled.attr, &lg_interrupted.attr, &lg_restarted.attr, &lg_force_attr.attr,
	&lg_forced.attr, &lg_direct.attr, &lg_times.attr, NULL
};
ATTRIBUTE_GROUPS(lg_patch);

static void lg_release(struct kobject *kobj)
{
	lg_free_patch(lg_patch_of(kobj));
}

static const struct kobj_type lg_patch_type = {
	.release	= lg_release,
	.sysfs_ops	= &kobj_sysfs_ops,
	.default_groups	= lg_patch_groups,
};

/*
 * An object's directory is a plain one, and so are those of its functions: the name is all that
 * they tell. "patched" finds its object by the directory's name.
 */
static ssize_t patched_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	struct lg_patch *patch = lg_patch_of(kobj->parent);
	unsigned int number;

	for (number = 0; number < patch->count; number++)
		if (patch->objects[number].kobj == kobj)
			return sysfs_emit(buf, "%d\n", READ_ONCE(patch->objects[number].live));
	return -ENODEV;
}

static struct kobj_attribute lg_patched = __ATTR_RO(patched);

static void lg_hide_objects(struct lg_patch *patch)
{
	unsigned int number, func;

	for (number = 0; number < patch->count; number++) {
		struct lg_object *object = &patch->objects[number];

		for (func = 0; func < object->count; func++)
			kobject_put(object->funcs[func].kobj);
		kobject_put(object->kobj);
	}
}

static int lg_show_object(struct lg_patch *patch, struct lg_object *object)
{
	char name[KSYM_NAME_LEN + 24];
	unsigned int number;
	int ret;

	object->kobj = kobject_create_and_add(object->name, &patch->kobj);
	if (!object->kobj)
		return -ENOMEM;
	ret = sysfs_create_file(object->kobj, &lg_patched.attr);
	for (number = 0; !ret && number < object->count; number++) {
		struct lg_func *func = &object->funcs[number];

		/* As livepatch: 0 and 1 are both the first (klp_init_func()). */
		snprintf(name, sizeof(name), "%s,%lu", func->klp->old_name,
			 func->klp->old_sympos ?: 1);
		func->kobj = kobject_create_and_add(name, object->kobj);
		if (!func->kobj)
			ret = -ENOMEM;
	}
	return ret;
}

/**
 * lg_show_patch() - make a patch's directory
 * @patch:	now it is freed with the last reference to its directory, after an error too
 */
int lg_show_patch(struct lg_patch *patch)
{
	unsigned int number;
	int ret;

	ret = kobject_init_and_add(&patch->kobj, &lg_patch_type, lg_root, "%s",
				   patch->module->name);
	if (ret) {
		/* There is no directory that kobject_del() could take files out of. */
		kobject_put(&patch->kobj);
		return ret;
	}
	for (number = 0; !ret && number < patch->count; number++)
		ret = lg_show_object(patch, &patch->objects[number]);
	if (ret)
		lg_hide_patch(patch);
	return ret;
}

/**
 * lg_hide_patch() - remove a patch's directory
 * @patch:	freed as soon as nobody has a file of it open; lg_mutex is not held
 */
void lg_hide_patch(struct lg_patch *patch)
{
	lg_hide_objects(patch);
	kobject_del(&patch->kobj);
	kobject_put(&patch->kobj);
}

/**
 * lg_tell() - whoever waits for a patch's transition should look
 * @patch:	the patch
 */
void lg_tell(struct lg_patch *patch)
{
	sysfs_notify(&patch->kobj, NULL, "transition");
}

static ssize_t version_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return sysfs_emit(buf, "%s\n", LG_VERSION);
}

static ssize_t models_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	const struct lg_way *const *way;
	ssize_t length = 0;

	for (way = lg_ways; *way; way++) {
		const char *missing = (*way)->missing ? (*way)->missing() : NULL;

		length += missing ?
			sysfs_emit_at(buf, length, "%s no %s\n", (*way)->name, missing) :
			sysfs_emit_at(buf, length, "%s yes\n", (*way)->name);
	}
	return length;
}

static ssize_t options_show(struct kobject *kobj, struct kobj_attribute *attr, char *buf)
{
	return lg_list_options(buf);
}

static ssize_t options_store(struct kobject *kobj, struct kobj_attribute *attr, const char *buf,
			     size_t count)
{
	bool replace = false, no_direct = false;
	char *text, *rest, *name, *word;
	int ret = 0;

	text = kstrndup(buf, count, GFP_KERNEL);
	if (!text)
		return -ENOMEM;
	rest = strim(text);
	name = strsep(&rest, " ");
	while (!ret && (word = strsep(&rest, " "))) {
		if (!strcmp(word, "replace"))
			replace = true;
		else if (!strcmp(word, "no-direct"))
			no_direct = true;
		else
			ret = -EINVAL;
	}
	if (!*name || strlen(name) >= MODULE_NAME_LEN)
		ret = -EINVAL;
	ret = ret ?: lg_set_options(name, replace, no_direct);
	kfree(text);
	return ret ?: count;
}

static struct kobj_attribute lg_version = __ATTR_RO(version);
static struct kobj_attribute lg_models = __ATTR_RO(models);
static struct kobj_attribute lg_options_attr = __ATTR_RW_MODE(options, 0600);

static const struct attribute *const lg_root_attrs[] = {
	&lg_version.attr, &lg_models.attr, &lg_options_attr.attr, NULL
};

int lg_show_init(void)
{
	int ret;

	lg_root = kobject_create_and_add("livegraft", kernel_kobj);
	if (!lg_root)
		return -ENOMEM;
	ret = sysfs_create_files(lg_root, lg_root_attrs);
	if (ret)
		kobject_put(lg_root);
	return ret;
}

void lg_show_exit(void)
{
	sysfs_remove_files(lg_root, lg_root_attrs);
	kobject_put(lg_root);
}
