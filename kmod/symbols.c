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
#include <linux/slab.h>
#include <linux/sort.h>
#include <linux/string.h>

#include "engine.h"

/*
 * GCC moves blocks that it takes for cold to NAME.cold, a symbol of its own in .text.unlikely. A
 * task that sleeps in a call from there has no address of NAME itself on its stack. Several
 * functions of one name have as many cold parts, and nothing says which is whose: all are taken,
 * for waiting for too much is no harm.
 */
static const char lg_cold[] = ".cold";
#define LG_COLD	(sizeof(lg_cold) - 1)

/* GCC makes at most one cold part; equal names share theirs. */
#define LG_PARTS_MOST	32

const char *lg_object_name(const struct klp_object *object)
{
	return object->name ?: "vmlinux";
}

static int lg_count(void *data, unsigned long address)
{
	struct lg_symbol *symbol = data;

	symbol->seen++;
	if (!symbol->position || symbol->seen == symbol->position)
		symbol->address = address;
	return 0;
}

static int lg_add_part(void *data, unsigned long address)
{
	struct lg_symbol *symbol = data;
	struct lg_range *parts;

	if (symbol->part == LG_PARTS_MOST) {
		symbol->error = -E2BIG;
		return 0;
	}
	parts = krealloc(symbol->parts, (symbol->part + 1) * sizeof(*parts), GFP_KERNEL);
	if (!parts) {
		symbol->error = -ENOMEM;
		return 0;
	}
	symbol->parts = parts;
	symbol->error = lg_size(address, &parts[symbol->part]) ?: symbol->error;
	symbol->part++;
	return 0;
}

struct lg_search {
	const char		*object;
	struct lg_symbol	*symbols;
	unsigned int		count;
};

static int lg_order(const void *one, const void *other)
{
	return strcmp(((const struct lg_symbol *)one)->name,
		      ((const struct lg_symbol *)other)->name);
}

/* How a symbol's name compares with the first @length characters of another. */
static int lg_compare(const struct lg_symbol *symbol, const char *name, size_t length)
{
	return strncmp(symbol->name, name, length) ?: !!symbol->name[length];
}

/* One of a module's symbols: is it looked for? They are sorted; some may have the same name. */
static void lg_look_for(const struct lg_search *search, const char *name, unsigned long address)
{
	size_t length = strlen(name);
	bool cold = length > LG_COLD && !strcmp(name + length - LG_COLD, lg_cold);
	unsigned int low = 0, high = search->count;

	if (cold)
		length -= LG_COLD;
	while (low < high) {
		unsigned int middle = (low + high) / 2;

		if (lg_compare(&search->symbols[middle], name, length) < 0)
			low = middle + 1;
		else
			high = middle;
	}
	for (; low < search->count && !lg_compare(&search->symbols[low], name, length); low++) {
		if (cold)
			lg_add_part(&search->symbols[low], address);
		else
			lg_count(&search->symbols[low], address);
	}
}

/*
 * Modules' symbols come one by one. module_mutex is held by the walk: no module goes away, and the
 * callbacks take no lock. A name is valid in the callback only: at the end of its init a module
 * gets another table.
 */
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 4, 0)
static int lg_match(void *data, const char *name, unsigned long address)
{
	lg_look_for(data, name, address);
	return 0;
}

static void lg_search_module(struct lg_search *search)
{
	module_kallsyms_on_each_symbol(search->object, lg_match, search);
}
#else
static int lg_match(void *data, const char *name, struct module *module, unsigned long address)
{
	const struct lg_search *search = data;

	if (module && !strcmp(module->name, search->object))
		lg_look_for(search, name, address);
	return 0;
}

static void lg_search_module(struct lg_search *search)
{
	module_kallsyms_on_each_symbol(lg_match, search);
}
#endif

/* The kernel's own symbols have an index by name. */
static void lg_search_vmlinux(struct lg_symbol *symbol)
{
	char cold[KSYM_NAME_LEN];

	kallsyms_on_each_match_symbol(lg_count, symbol->name, symbol);
	if (snprintf(cold, sizeof(cold), "%s%s", symbol->name, lg_cold) >= sizeof(cold))
		symbol->error = -ENAMETOOLONG;
	else
		kallsyms_on_each_match_symbol(lg_add_part, cold, symbol);
}

static int lg_judge_symbol(const char *object, const struct lg_symbol *symbol)
{
	if (!symbol->address) {
		pr_err("%s: no symbol %s at position %lu\n", object, symbol->name,
		       symbol->position);
		return -ENOENT;
	}
	if (!symbol->position && symbol->seen > 1) {
		pr_err("%s: %lu symbols are called %s\n", object, symbol->seen, symbol->name);
		return -EINVAL;
	}
	if (symbol->error)
		pr_err("%s: the cold parts of %s cannot be found: %d\n", object, symbol->name,
		       symbol->error);
	return symbol->error;
}

/**
 * lg_find_all() - the addresses of functions, and code of theirs that lies elsewhere
 * @object:	"vmlinux" or the name of a module that is there
 * @symbols:	what is looked for: name and position; they are sorted by name. The caller frees
 *		the parts of each, after an error too
 * @count:	how many
 *
 * Return: 0; -ENOENT if one is not there at that position, -EINVAL if there are several and no
 * position was given; -ENOMEM, -E2BIG, -ENAMETOOLONG.
 */
int lg_find_all(const char *object, struct lg_symbol *symbols, unsigned int count)
{
	struct lg_search search = { .object = object, .symbols = symbols, .count = count };
	unsigned int number;
	int ret = 0;

	sort(symbols, count, sizeof(*symbols), lg_order, NULL);
	if (strcmp(object, "vmlinux"))
		lg_search_module(&search);
	else
		for (number = 0; number < count; number++)
			lg_search_vmlinux(&symbols[number]);
	for (number = 0; number < count && !ret; number++)
		ret = lg_judge_symbol(object, &symbols[number]);
	return ret;
}

/**
 * lg_find() - the address of the one symbol of vmlinux with that name
 * @name:	the symbol
 * @address:	where to put it
 *
 * Return: 0, -ENOENT or -EINVAL, as lg_find_all().
 */
int lg_find(const char *name, unsigned long *address)
{
	struct lg_symbol symbol = { .name = name };
	int ret;

	kallsyms_on_each_match_symbol(lg_count, name, &symbol);
	ret = lg_judge_symbol("vmlinux", &symbol);
	*address = symbol.address;
	return ret;
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
