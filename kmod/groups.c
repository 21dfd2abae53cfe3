// SPDX-License-Identifier: GPL-2.0
/*
 * groups.c - sites are registered with ftrace, many in one go
 */
#include <linux/ftrace.h>
#include <linux/module.h>
#include <linux/slab.h>
#include <linux/string.h>

#include "engine.h"

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
#define lg_register_direct(ops, address)	register_ftrace_direct_multi(ops, address)
#define lg_unregister_direct(ops, address)	unregister_ftrace_direct_multi(ops, address)
#else
#define lg_register_direct(ops, address)	register_ftrace_direct(ops, address)
#define lg_unregister_direct(ops, address)	unregister_ftrace_direct(ops, address, false)
#endif

static LIST_HEAD(lg_groups);

static int lg_register(struct lg_group *group)
{
	int ret;

	/*
	 * With ftrace switched off registering succeeds and redirects nothing. Once a permanent
	 * user is there it cannot be switched off (is_permanent_ops_registered() in
	 * kernel/trace/ftrace.c). Registering a direct call overwrites the flags, so the mark comes
	 * a moment later, and ftrace is looked at again after that, here and when the change is
	 * complete.
	 */
	if (!READ_ONCE(ftrace_enabled)) {
		pr_err("ftrace is switched off (kernel.ftrace_enabled)\n");
		return -EBUSY;
	}
	if (group->direct) {
		ret = lg_register_direct(&group->ops, (unsigned long)lg_stub);
		if (ret)
			return ret;
		group->ops.flags |= FTRACE_OPS_FL_PERMANENT;
		if (READ_ONCE(ftrace_enabled))
			return 0;
		pr_err("ftrace was switched off meanwhile (kernel.ftrace_enabled)\n");
		lg_unregister_direct(&group->ops, (unsigned long)lg_stub);
		return -EBUSY;
	}
	group->ops.func = lg_handler;
	group->ops.flags |= FTRACE_OPS_FL_DYNAMIC | FTRACE_OPS_FL_IPMODIFY |
			    FTRACE_OPS_FL_PERMANENT;
#ifndef CONFIG_HAVE_DYNAMIC_FTRACE_WITH_ARGS
	group->ops.flags |= FTRACE_OPS_FL_SAVE_REGS;
#endif
	return register_ftrace_function(&group->ops);
}

static struct lg_group *lg_make_group(const char *object, bool direct)
{
	unsigned int count = 0;
	struct lg_group *group;
	struct lg_site *site;
	unsigned long *ips;
	int ret = -ENOMEM;

	list_for_each_entry(site, &lg_sites, list)
		count += !site->group;
	group = kzalloc(sizeof(*group), GFP_KERNEL);
	ips = kmalloc_array(count, sizeof(*ips), GFP_KERNEL);
	if (!group || !ips)
		goto out;
	group->direct = direct;
	strscpy(group->object, object, sizeof(group->object));
	count = 0;
	list_for_each_entry(site, &lg_sites, list)
		if (!site->group)
			ips[count++] = site->ip;
	/* One call for all: each costs ftrace a pass over the kernel and grace periods. */
	ret = ftrace_set_filter_ips(&group->ops, ips, count, 0, 1);
	if (ret) {
		pr_err("%s: ftrace does not take the functions: %d\n", object, ret);
		goto free;
	}
	ret = lg_register(group);
	if (ret) {
		pr_err("%s: ftrace does not redirect: %d%s\n", object, ret,
		       ret == -EBUSY ? ", a function is redirected by another" : "");
		goto free;
	}
	list_for_each_entry(site, &lg_sites, list)
		if (!site->group)
			site->group = group;
	list_add_tail(&group->list, &lg_groups);
	kfree(ips);
	return group;
free:
	ftrace_free_filter(&group->ops);
out:
	kfree(ips);
	kfree(group);
	return ERR_PTR(ret);
}

/**
 * lg_redirect() - have ftrace call us at all sites that are new
 * @object:	the object whose functions were added; one at a time
 * @direct:	by direct calls
 */
int lg_redirect(const char *object, bool direct)
{
	struct lg_group *group;
	struct lg_site *site;

	list_for_each_entry(site, &lg_sites, list)
		if (!site->group)
			goto some;
	return 0;
some:
	group = lg_make_group(object, direct);
	return PTR_ERR_OR_ZERO(group);
}

static bool lg_group_used(const struct lg_group *group)
{
	const struct lg_site *site;

	list_for_each_entry(site, &lg_sites, list)
		if (site->group == group && !list_empty(&site->funcs))
			return true;
	return false;
}

static int lg_unregister(struct lg_group *group)
{
	if (group->direct)
		return lg_unregister_direct(&group->ops, (unsigned long)lg_stub);
	return unregister_ftrace_function(&group->ops);
}

/**
 * lg_forget_groups() - take out redirections that no patch uses
 * @object:	of which object; NULL for all
 *
 * ftrace waits for every task that may be in the stub or in its own trampoline. If it refuses,
 * which it does for nothing that we do, the redirection stays, leads to the original, and keeps
 * the engine in the kernel.
 */
void lg_forget_groups(const char *object)
{
	struct lg_group *group, *next;
	struct lg_site *site, *after;

	list_for_each_entry_safe(site, after, &lg_sites, list)
		if (!site->group && list_empty(&site->funcs))
			lg_free_site(site);	/* it was never registered */

	list_for_each_entry_safe(group, next, &lg_groups, list) {
		int ret;

		if ((object && strcmp(object, group->object)) || lg_group_used(group))
			continue;
		ret = lg_unregister(group);
		if (WARN(ret, "ftrace keeps redirections of %s: %d\n", group->object, ret)) {
			__module_get(THIS_MODULE);
			continue;
		}
		ftrace_free_filter(&group->ops);
		list_for_each_entry_safe(site, after, &lg_sites, list)
			if (site->group == group)
				lg_free_site(site);
		list_del(&group->list);
		kfree(group);
	}
}
