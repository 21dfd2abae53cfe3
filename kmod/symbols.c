// SPDX-License-Identifier: GPL-2.0
/*
 * symbols.c - functions of the running kernel, by object, name and position
 *
 * kallsyms is what livepatch itself goes by (klp_find_object_symbol() in
 * kernel/livepatch/core.c): a position counts the symbols of a name in its order, from 1; 0 asks
 * for a name that is unique in its object.
 */
#include <linux/kallsyms.h>
#include <linux/module.h>
#include <linux/string.h>

#include "engine.h"

struct lg_search {
	const char	*object;
	const char	*name;
	unsigned long	position;
	unsigned long	seen;
	unsigned long	address;
	struct lg_range	*parts;
	unsigned int	most;
	int		error;
};

const char *lg_object_name(const struct klp_object *object)
{
	return object->name ?: "vmlinux";
}

static bool lg_is_vmlinux(const char *object)
{
	return !strcmp(object, "vmlinux");
}

static int lg_count(void *data, unsigned long address)
{
	struct lg_search *search = data;

	search->seen++;
	if (!search->position || search->seen == search->position)
		search->address = address;
	return search->position && search->seen == search->position;
}

static int lg_collect(void *data, unsigned long address)
{
	struct lg_search *search = data;

	if (search->seen == search->most) {
		search->error = -E2BIG;
		return 1;
	}
	search->error = lg_size(address, &search->parts[search->seen]);
	if (search->error)
		return 1;
	search->seen++;
	return 0;
}

/*
 * Modules' symbols come one by one. module_mutex is held by the walk: no module goes away, and
 * the callbacks take no lock.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
static int lg_match_count(void *data, const char *name, unsigned long address)
{
	struct lg_search *search = data;

	return strcmp(name, search->name) ? 0 : lg_count(search, address);
}

static int lg_match_collect(void *data, const char *name, unsigned long address)
{
	struct lg_search *search = data;

	return strcmp(name, search->name) ? 0 : lg_collect(search, address);
}

static void lg_each_of_module(int (*match)(void *, const char *, unsigned long),
			      struct lg_search *search)
{
	module_kallsyms_on_each_symbol(search->object, match, search);
}
#else
static int lg_match_count(void *data, const char *name, struct module *module,
			  unsigned long address)
{
	struct lg_search *search = data;

	if (!module || strcmp(module->name, search->object) || strcmp(name, search->name))
		return 0;
	return lg_count(search, address);
}

static int lg_match_collect(void *data, const char *name, struct module *module,
			    unsigned long address)
{
	struct lg_search *search = data;

	if (!module || strcmp(module->name, search->object) || strcmp(name, search->name))
		return 0;
	return lg_collect(search, address);
}

static void lg_each_of_module(int (*match)(void *, const char *, struct module *, unsigned long),
			      struct lg_search *search)
{
	module_kallsyms_on_each_symbol(match, search);
}
#endif

/**
 * lg_find() - the address of a function
 * @object:	"vmlinux" or a module's name
 * @name:	the symbol
 * @position:	which of that name; 0 if there has to be one only
 * @address:	where to put it
 *
 * Return: 0; -ENOENT if there is none at that position, -EINVAL if there are several and no
 * position was given.
 */
int lg_find(const char *object, const char *name, unsigned long position, unsigned long *address)
{
	struct lg_search search = { .object = object, .name = name, .position = position };

	if (lg_is_vmlinux(object))
		kallsyms_on_each_match_symbol(lg_count, name, &search);
	else
		lg_each_of_module(lg_match_count, &search);

	if (!search.address) {
		pr_err("%s: no symbol %s at position %lu\n", object, name, position);
		return -ENOENT;
	}
	if (!position && search.seen > 1) {
		pr_err("%s: %lu symbols are called %s\n", object, search.seen, name);
		return -EINVAL;
	}
	*address = search.address;
	return 0;
}

/**
 * lg_find_parts() - code of a function that lies elsewhere
 * @object:	"vmlinux" or a module's name
 * @name:	the function
 * @parts:	where to put the ranges
 * @most:	how many there is room for
 *
 * GCC moves blocks that it takes for cold to NAME.cold, a symbol of its own in .text.unlikely. A
 * task that sleeps in a call from there has no address of NAME itself on its stack. Several
 * functions of one name have as many cold parts, and nothing says which is whose: all are taken,
 * for waiting for too much is no harm.
 *
 * Return: how many there are, or a negative errno.
 */
int lg_find_parts(const char *object, const char *name, struct lg_range *parts, unsigned int most)
{
	char cold[KSYM_NAME_LEN];
	struct lg_search search = {
		.object = object, .name = cold, .parts = parts, .most = most,
	};

	if (snprintf(cold, sizeof(cold), "%s.cold", name) >= sizeof(cold))
		return -ENAMETOOLONG;
	if (lg_is_vmlinux(object))
		kallsyms_on_each_match_symbol(lg_collect, cold, &search);
	else
		lg_each_of_module(lg_match_collect, &search);
	return search.error ?: (int)search.seen;
}

/**
 * lg_size() - where the code of a symbol ends
 * @address:	the symbol's
 * @range:	where to put its code
 *
 * Return: 0, or -ENOENT if kallsyms does not know that address as the start of a symbol.
 */
int lg_size(unsigned long address, struct lg_range *range)
{
	unsigned long size, offset;

	if (!kallsyms_lookup_size_offset(address, &size, &offset) || offset || !size)
		return -ENOENT;
	range->start = address;
	range->end = address + size;
	return 0;
}

/**
 * lg_module_text() - all code of a module that stays after its init
 * @module:	the module
 */
struct lg_range lg_module_text(const struct module *module)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
	unsigned long start = (unsigned long)module->mem[MOD_TEXT].base;

	return (struct lg_range){ start, start + module->mem[MOD_TEXT].size };
#else
	unsigned long start = (unsigned long)module->core_layout.base;

	return (struct lg_range){ start, start + module->core_layout.text_size };
#endif
}
