// SPDX-License-Identifier: GPL-2.0
/*
 * redirect.c - sites: where functions are redirected, and what each leads to
 *
 * A redirected function calls the stub (stub.S) by a direct call of ftrace, or, where that was
 * asked for, is met by an ordinary ftrace handler. Both look into lg_table. The call stays where it
 * is for as long as some patch has a function there; what changes is the row of the table.
 *
 * Three facts make that safe without any lock on the side of the reader:
 *
 * - Between changes a row has a fixed target. When a change begins, all tasks are on the old side,
 *   so LG_ASK with @from as before means what the fixed target meant. When it ends all are on the
 *   new one, so the fixed target means what LG_ASK meant. Hence rows need not change at once, and
 *   a processor that sees a store late does nothing wrong.
 * - @from and @to are written only when no task can be between reading LG_ASK and reading them:
 *   core.c waits for that after each change (lg_settle()).
 * - A row's site is written after everything else in it, before ftrace hears of the site, and is
 *   taken out after ftrace has forgotten it and has waited for all that were on their way.
 */
#include <linux/ftrace.h>
#include <linux/hardirq.h>
#include <linux/interrupt.h>
#include <linux/kallsyms.h>
#include <linux/module.h>
#include <linux/percpu.h>
#include <linux/slab.h>

#include "engine.h"

#if LINUX_VERSION_CODE < KERNEL_VERSION(6, 3, 0)
#define lg_set_ip(regs, address)	ftrace_instruction_pointer_set(regs, address)
#else
#define lg_set_ip(regs, address)	ftrace_regs_set_instruction_pointer(regs, address)
#endif

static_assert(sizeof(struct lg_entry) == LG_ENTRY_SIZE);
static_assert(offsetof(struct lg_entry, site) == LG_ENTRY_SITE);
static_assert(offsetof(struct lg_entry, target) == LG_ENTRY_TARGET);

struct lg_entry lg_table[LG_TABLE_SIZE] __aligned(64);
LIST_HEAD(lg_sites);
static unsigned int lg_site_count;

/* Whether interrupts have a side of their own (model task), and which it is on each processor. */
bool lg_interrupts_apart;
DEFINE_PER_CPU(bool, lg_cpu_side);

/* The code of ftrace's own static entries, ftrace_caller to the end of ftrace_regs_caller. */
struct lg_range lg_ftrace_entries;

static unsigned int lg_hash(unsigned long site)
{
	return LG_TABLE_OFFSET(site) / LG_ENTRY_SIZE;
}

/**
 * lg_choose() - where a call goes during a change
 * @entry:	the site's row, whose target was LG_ASK a moment ago
 *
 * Called by the stub and the handler, from any context, with no lock. It may find the change over
 * already: then @from and @to are still those of that change, and so is the task's side (see
 * lg_settle()).
 *
 * With interrupts apart it is not in_interrupt() that is asked, which is true in task context
 * with bottom halves off as well.
 */
unsigned long lg_choose(const struct lg_entry *entry)
{
	bool side;

	if (READ_ONCE(lg_interrupts_apart) &&
	    (in_nmi() || in_hardirq() || in_serving_softirq()))
		side = this_cpu_read(lg_cpu_side);
	else
		side = lg_side(current);
	return side ? READ_ONCE(entry->to) : READ_ONCE(entry->from);
}

/*
 * The way without direct calls, which leaves a function to BPF's fentry programs as well. ftrace
 * calls this with its own trampoline's frame on the stack; the address that is chosen lies in the
 * saved registers, where no unwinder looks for it. Therefore whoever stands in a trampoline counts
 * as busy (lg_in_redirection()), and this function lies between two that do.
 */
void lg_handler(unsigned long ip, unsigned long parent, struct ftrace_ops *ops,
		struct ftrace_regs *regs)
{
	unsigned long site = ip + MCOUNT_INSN_SIZE, target;
	unsigned int number = lg_hash(site);
	const struct lg_entry *entry;

	for (;; number = (number + 1) % LG_TABLE_SIZE) {
		entry = &lg_table[number];
		if (READ_ONCE(entry->site) == site)
			break;
		if (!READ_ONCE(entry->site))
			return;
	}
	target = READ_ONCE(entry->target);
	if (target == LG_ASK)
		target = lg_choose(entry);
	if (target != LG_ORIGINAL)
		lg_set_ip(regs, target);
}

/**
 * lg_in_redirection() - whether somebody at an address may be on the way from a site to a target
 * @address:	of an instruction, or one to return to
 */
bool lg_in_redirection(unsigned long address)
{
	return (address >= (unsigned long)lg_stub && address < (unsigned long)lg_stub_end) ||
	       (address >= lg_ftrace_entries.start && address < lg_ftrace_entries.end) ||
	       is_ftrace_trampoline(address);
}

static struct lg_entry *lg_take_entry(unsigned long site)
{
	unsigned int number = lg_hash(site);
	struct lg_entry *entry;

	if (lg_site_count == LG_SITES_MOST)
		return NULL;
	while (lg_table[number].site > LG_DELETED)
		number = (number + 1) % LG_TABLE_SIZE;
	entry = &lg_table[number];
	entry->target = LG_ORIGINAL;
	entry->from = LG_ORIGINAL;
	entry->to = LG_ORIGINAL;
	lg_site_count++;
	/* Pairs with the address dependency in the stub: who sees the site sees the rest. */
	smp_store_release(&entry->site, site);
	return entry;
}

/* Nothing comes from that site any more. */
void lg_free_site(struct lg_site *site)
{
	WRITE_ONCE(site->entry->site, LG_DELETED);
	list_del(&site->list);
	kfree(site);
	/* After the last one there is no reader at all: searches become short again. */
	if (--lg_site_count == 0)
		memset(lg_table, 0, sizeof(lg_table));
}

static struct lg_site *lg_make_site(const struct lg_symbol *symbol, unsigned long ip)
{
	struct lg_range own;
	struct lg_site *site;
	int ret;

	ret = lg_size(symbol->address, &own);
	if (ret) {
		pr_err("the size of %s is not known\n", symbol->name);
		return ERR_PTR(ret);
	}
	site = kzalloc(struct_size(site, parts, symbol->part + 1), GFP_KERNEL);
	if (!site)
		return ERR_PTR(-ENOMEM);
	site->parts[0] = own;
	if (symbol->part)
		memcpy(site->parts + 1, symbol->parts, symbol->part * sizeof(own));
	site->part = symbol->part + 1;
	site->ip = ip;
	INIT_LIST_HEAD(&site->funcs);
	site->entry = lg_take_entry(ip + MCOUNT_INSN_SIZE);
	if (!site->entry) {
		pr_err("no room for more than %d functions\n", LG_SITES_MOST);
		kfree(site);
		return ERR_PTR(-ENOSPC);
	}
	list_add_tail(&site->list, &lg_sites);
	return site;
}

static int lg_add_func(const struct lg_symbol *symbol)
{
	const char *object = symbol->func->object->name;
	struct lg_func *func = symbol->func;
	struct lg_site *site;
	struct lg_range new;
	unsigned long ip;

	ip = ftrace_location(symbol->address);
	if (!ip) {
		pr_err("%s: ftrace cannot redirect %s\n", object, symbol->name);
		return -EINVAL;
	}
	/* What has no size cannot be looked for on stacks. */
	if (lg_size((unsigned long)func->klp->new_func, &new)) {
		pr_err("%s: the new code of %s has no symbol\n", object, symbol->name);
		return -ENOENT;
	}
	list_for_each_entry(site, &lg_sites, list)
		if (site->ip == ip)
			goto found;
	site = lg_make_site(symbol, ip);
	if (IS_ERR(site))
		return PTR_ERR(site);
found:
	func->site = site;
	list_add(&func->stack, &site->funcs);
	return 0;
}

/**
 * lg_add_object() - find the functions of an object that is loaded
 * @object:	the object
 *
 * Sites that are new have no group yet: lg_redirect() registers them. After an error the caller
 * calls lg_forget_object().
 */
int lg_add_object(struct lg_object *object)
{
	ktime_t began = ktime_get();
	struct lg_symbol *symbols;
	unsigned int number;
	int ret;

	object->live = true;
	symbols = kvcalloc(object->count, sizeof(*symbols), GFP_KERNEL);
	if (!symbols)
		return -ENOMEM;
	for (number = 0; number < object->count; number++) {
		struct lg_func *func = &object->funcs[number];

		symbols[number].name = func->klp->old_name;
		symbols[number].position = func->klp->old_sympos;
		symbols[number].func = func;
	}
	ret = lg_find_all(object->name, symbols, object->count);
	for (number = 0; number < object->count; number++) {
		ret = ret ?: lg_add_func(&symbols[number]);
		kfree(symbols[number].parts);
	}
	kvfree(symbols);
	object->patch->us[LG_TIME_RESOLVE] += ktime_us_delta(ktime_get(), began);
	return ret;
}

/* The newest function at a site, with that of the changing patch in force or without. */
static unsigned long lg_top(const struct lg_site *site, bool with)
{
	const struct lg_patch *changing = lg_change.patch;
	const struct lg_func *func;

	list_for_each_entry(func, &site->funcs, stack) {
		const struct lg_patch *patch = func->object->patch;

		if (patch == changing) {
			if (with)
				return (unsigned long)func->klp->new_func;
		} else if (!(with && changing && changing->replace && !lg_change.undo)) {
			return (unsigned long)func->klp->new_func;
		}
	}
	return LG_ORIGINAL;
}

/**
 * lg_sides_of() - what a site leads to on both sides of the change
 * @site:	the site
 * @from:	before
 * @to:		after
 */
void lg_sides_of(const struct lg_site *site, unsigned long *from, unsigned long *to)
{
	*from = lg_top(site, lg_change.undo);
	*to = lg_top(site, !lg_change.undo);
}

/**
 * lg_update_entries() - make every row say what the patches and the change say
 *
 * Under lg_mutex, or with all processors held. For when a row may change see the top of this file.
 */
void lg_update_entries(void)
{
	const struct lg_patch *changing = lg_change.patch;
	struct lg_site *site;

	list_for_each_entry(site, &lg_sites, list) {
		struct lg_entry *entry = site->entry;
		unsigned long from, to;

		if (!changing) {
			WRITE_ONCE(entry->target, lg_top(site, true));
			continue;
		}
		lg_sides_of(site, &from, &to);
		if (from == to) {
			WRITE_ONCE(entry->target, from);
		} else if (!changing->model->by_task) {
			WRITE_ONCE(entry->target, lg_change.flipped ? to : from);
		} else if (entry->target != LG_ASK) {
			WRITE_ONCE(entry->from, from);
			WRITE_ONCE(entry->to, to);
			/* Both before LG_ASK: who sees that reads them in lg_choose(). */
			smp_store_release(&entry->target, LG_ASK);
		}
	}
}

/**
 * lg_forget_object() - a patch uses an object's functions no longer
 * @object:	the object; what it redirected stays redirected until lg_forget_groups()
 */
void lg_forget_object(struct lg_object *object)
{
	unsigned int number;

	for (number = 0; number < object->count; number++) {
		struct lg_func *func = &object->funcs[number];

		if (func->site) {
			list_del(&func->stack);
			func->site = NULL;
		}
	}
	object->live = false;
}

int lg_redirect_init(void)
{
	struct lg_range last;
	unsigned long first, end;
	int ret;

	ret = lg_find("ftrace_caller", &first) ?:
	      lg_find("ftrace_regs_caller_end", &end) ?:
	      lg_size(end, &last);
	if (ret)
		return ret;
	if (first >= last.end)
		return -EINVAL;
	lg_ftrace_entries = (struct lg_range){ first, last.end };
	return 0;
}
