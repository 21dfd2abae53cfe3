/* SPDX-License-Identifier: GPL-2.0 */
/*
 * livegraft.h - what a fix may say beside its code
 *
 * A fix that needs more than other function bodies writes, behind the other includes of the file
 * that it changes,
 *
 *	#include <livegraft.h>
 *
 * No kernel tree has this file: it is found when livegraft compiles the changed units, and only
 * then. docs/authors.md explains each part, with an example that is built and loaded in the tests.
 *
 * Marks are constants in sections named .livegraft.*. livegraft reads them out of the compiled unit
 * and leaves them out of the module; they change no code.
 */
#ifndef LIVEGRAFT_H
#define LIVEGRAFT_H

#include <linux/build_bug.h>
#include <linux/compiler.h>
#include <linux/errno.h>
#include <linux/jump_label.h>
#include <linux/list.h>
#include <linux/livepatch.h>
#include <linux/mm.h>
#include <linux/pfn.h>
#include <linux/static_call.h>
#include <linux/string.h>
#include <linux/vmalloc.h>

/*
 * Callbacks
 *
 * Functions of the fix that the kernel's livepatch core calls around the patching of the object
 * (vmlinux or a module) that the file belongs to; at most one of a kind in a file. Files of one
 * object are called in their order when it is patched, and backwards when it is unpatched.
 *
 *	int  pre_patch(struct klp_object *obj)		an error refuses the patch (or the module
 *							that comes); what was begun is undone
 *	void post_patch(struct klp_object *obj)		the transition is complete
 *	void pre_unpatch(struct klp_object *obj)	before the transition back
 *	void post_unpatch(struct klp_object *obj)	undoes pre_patch; runs if that succeeded
 *
 * All run in process context and may sleep; the core's mutex is held, so none may wait for a live
 * patch. obj->mod is the module, NULL for vmlinux.
 */
#define LIVEGRAFT_PRE_PATCH(function)	__LIVEGRAFT_CALLBACK(int, pre_patch, function)
#define LIVEGRAFT_POST_PATCH(function)	__LIVEGRAFT_CALLBACK(void, post_patch, function)
#define LIVEGRAFT_PRE_UNPATCH(function)	__LIVEGRAFT_CALLBACK(void, pre_unpatch, function)
#define LIVEGRAFT_POST_UNPATCH(function) __LIVEGRAFT_CALLBACK(void, post_unpatch, function)

/* A name of its own per kind: two of a kind in one file do not compile. */
#define __LIVEGRAFT_CALLBACK(type, kind, function)					\
	static type (* const __livegraft_##kind)(struct klp_object *) __used		\
		__section(".livegraft.callbacks." #kind) = (function)

/*
 * Shadow variables
 *
 * LIVEGRAFT_SHADOW(name, type, id) - more members for a structure that exists already
 * @name:	how the functions below begin
 * @type:	what is kept beside an object
 * @id:		a number that no other live patch uses for something else
 *
 *	type *NAME_get(obj)			NULL if the object has none
 *	type *NAME_get_or_alloc(obj, gfp)	zeroed when it is new; NULL without memory
 *	void NAME_free(obj)			where the object is freed
 *	void NAME_free_all()			in post_unpatch
 *
 * @obj is any address that stands for the object. The core knows nothing of the object's life: who
 * does not free the shadow with it finds it again at the next object of that address.
 */
#define LIVEGRAFT_SHADOW(name, type, id)						\
	static inline __maybe_unused type *name##_get(void *obj)			\
	{										\
		return klp_shadow_get(obj, id);						\
	}										\
	static inline __maybe_unused type *name##_get_or_alloc(void *obj, gfp_t flags)	\
	{										\
		return klp_shadow_get_or_alloc(obj, id, sizeof(type), flags, NULL, NULL); \
	}										\
	static inline __maybe_unused void name##_free(void *obj)			\
	{										\
		klp_shadow_free(obj, id, NULL);						\
	}										\
	static inline __maybe_unused void name##_free_all(void)				\
	{										\
		klp_shadow_free_all(id, NULL);						\
	}										\
	static_assert(sizeof(type) > 0)

/*
 * System states
 *
 * LIVEGRAFT_STATE(id, version) - this patch changes the system beyond its code
 * @id:		which change, not 0
 * @version:	of the change; a later patch has to carry the same or a higher one
 *
 * A state says that callbacks or shadow variables of the patch leave something in the system that a
 * later patch has to know of. The kernel refuses a patch whose version of a state is lower than that
 * of a loaded patch.
 */
struct livegraft_state {
	unsigned long id;
	unsigned long version;
};

#define LIVEGRAFT_STATE(id, version)							\
	static_assert((id) != 0 && (version) >= 0 && (version) <= 0xffffffffUL);	\
	static const struct livegraft_state __UNIQUE_ID(livegraft_state) __used		\
		__section(".livegraft.states") = { (id), (version) }

/* The patch that this code is a part of; its structure is made when the module is linked. */
extern struct klp_patch lg_patch;

/**
 * livegraft_state() - this patch's own state, to keep data in
 * @id:		as in LIVEGRAFT_STATE()
 *
 * Return: the state, NULL if the patch does not declare it.
 */
static inline __maybe_unused struct klp_state *livegraft_state(unsigned long id)
{
	return klp_get_state(&lg_patch, id);
}

/* All patches in the order of their loading; the core's mutex guards it (kernel/livepatch/core.h). */
extern struct list_head klp_patches;

/**
 * livegraft_state_before() - the same state of the latest patch that was loaded before this one
 * @id:		as in LIVEGRAFT_STATE()
 *
 * In callbacks only, where the core's mutex is held; also in those for a module that comes or goes
 * when the transition is long over. klp_get_prev_state() warns there, and if another patch is in
 * transition it counts back from that one.
 *
 * Return: the state, NULL if no patch has it.
 */
static inline __maybe_unused struct klp_state *livegraft_state_before(unsigned long id)
{
	struct klp_patch *patch = &lg_patch;

	list_for_each_entry_continue_reverse(patch, &klp_patches, list) {
		struct klp_state *state = klp_get_state(patch, id);

		if (state)
			return state;
	}
	return NULL;
}

/*
 * Marks for the comparison. Each is the author's word for something that livegraft cannot see; each
 * is told when the patch is built and stands in its manifest.
 */

/* Take a function although it compares equal: when it has to be left before the patch counts. */
#define LIVEGRAFT_FORCE_CHANGED(function)	__LIVEGRAFT_MARK("force-changed=" #function)

/* Leave a function as it runs, although the fix changes it. */
#define LIVEGRAFT_IGNORE_FUNCTION(function)	__LIVEGRAFT_MARK("ignore-function=" #function)

/*
 * Leave data as they are, although the fix changes what they begin with. Variables have sections of
 * their own: ".data.NAME", ".bss.NAME", ".rodata.NAME".
 */
#define LIVEGRAFT_IGNORE_SECTION(section)	__LIVEGRAFT_MARK("ignore-section=" section)

/* A structure's new layout is safe with objects of the old one: struct NAME, union NAME. */
#define LIVEGRAFT_ACCEPT_LAYOUT(type)		__LIVEGRAFT_MARK("accept-layout=" #type)

/*
 * Written by livegraft into what it cuts out of a unit, not for fixes: the function replaces that of
 * the same name in the running kernel.
 */
#define LIVEGRAFT_PATCHES(function)							\
	static const void * const __livegraft_patches_##function __used			\
		__section(".livegraft.patches") = (function)

#define __LIVEGRAFT_MARK(text)								\
	static const char __UNIQUE_ID(livegraft_mark)[] __used __aligned(1)		\
		__section(".livegraft.marks") = text

/*
 * Static keys and static calls of modules
 *
 * A module's own symbols become known to a patch only after its static branches were set up, so the
 * new code cannot branch on a module's key. It reads the key instead: the same, for a memory access.
 */
#define LIVEGRAFT_KEY_ENABLED(key)	static_key_enabled(&(key))

/*
 * The function that a static call leads to now: LIVEGRAFT_STATIC_CALL(name)(arguments). Not for one
 * that may lead nowhere (static_call_cond()).
 */
#define LIVEGRAFT_STATIC_CALL(name)							\
	((typeof(&STATIC_CALL_TRAMP(name)))READ_ONCE(STATIC_CALL_KEY(name).func))

/*
 * Changing data
 *
 * LIVEGRAFT_SET(variable, value) - set a variable of the running kernel, read-only ones as well
 * @variable:	what to set: a variable, a member, an element
 * @value:	its new value, of the same type
 *
 * Plain variables are better assigned to. This is for those that the kernel protects: const,
 * __ro_after_init. The page is mapped a second time for it, so it may sleep. Code that the compiler
 * made from a constant's value does not look at the variable, and does not change.
 *
 * Return: 0 or -errno, which pre_patch should return.
 */
#define LIVEGRAFT_SET(variable, value) ({						\
	const typeof(variable) __livegraft_value = (value);				\
	livegraft_write((void *)&(variable), &__livegraft_value,			\
			sizeof(__livegraft_value));					\
})

/*
 * The value that a variable of the running kernel has now. Of a constant the compiler would take the
 * value that the fix gives it, behind READ_ONCE() as well.
 */
#define LIVEGRAFT_GET(variable) ({							\
	const typeof(variable) *__livegraft_place = &(variable);			\
	OPTIMIZER_HIDE_VAR(__livegraft_place);						\
	READ_ONCE(*__livegraft_place);							\
})

/**
 * livegraft_write() - write to data of the kernel that may be read-only
 * @place:	where
 * @value:	what
 * @size:	bytes, at most a page. 1, 2, 4 and 8 in their natural places change at once.
 *
 * Return: 0; -EINVAL for a size that cannot be; -EFAULT if nothing is there; -ENOMEM.
 */
static __maybe_unused noinline int livegraft_write(void *place, const void *value, size_t size)
{
	unsigned long offset = offset_in_page(place);
	unsigned long count = PFN_UP(offset + size);
	struct page *pages[2];
	unsigned long n;
	void *alias;

	if (!size || size > PAGE_SIZE)
		return -EINVAL;

	for (n = 0; n < count; n++) {
		void *at = place - offset + n * PAGE_SIZE;

		pages[n] = is_vmalloc_or_module_addr(at) ? vmalloc_to_page(at) : virt_to_page(at);
		if (!pages[n])
			return -EFAULT;
	}

	alias = vmap(pages, count, VM_MAP, PAGE_KERNEL);
	if (!alias)
		return -ENOMEM;

	if (size == 8 && IS_ALIGNED(offset, 8))
		WRITE_ONCE(*(u64 *)(alias + offset), *(const u64 *)value);
	else if (size == 4 && IS_ALIGNED(offset, 4))
		WRITE_ONCE(*(u32 *)(alias + offset), *(const u32 *)value);
	else if (size == 2 && IS_ALIGNED(offset, 2))
		WRITE_ONCE(*(u16 *)(alias + offset), *(const u16 *)value);
	else
		memcpy(alias + offset, value, size);

	vunmap(alias);
	return 0;
}

#endif /* LIVEGRAFT_H */
