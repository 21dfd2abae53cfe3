/* SPDX-License-Identifier: GPL-2.0 */
/*
 * livegraft_abi.h - what a payload and the engine know of each other
 *
 * A payload is an ordinary livepatch module: the kernel's own core can run it alone (model
 * "native"). For the other models it looks for the engine when it is loaded, by name and not by
 * linking, so that one .ko works with and without the engine, and a .ko built today works under
 * an engine built later:
 *
 *	payload init                              engine
 *	------------                              ------
 *	model=native  -> klp_enable_patch()
 *	model=<other> -> __symbol_get(LG_REGISTER_NAME)
 *	                   NULL      -> -ENODEV, nothing was changed
 *	                   otherwise -> register ------> checks abi and size, takes the patch over
 *
 * __symbol_get() also holds the engine in the kernel for as long as the payload is there. It
 * looks at no symbol CRC: the abi number and the size below are the whole check. Both sides were
 * built for the same kernel (its vermagic, and the build ID that user space compares), hence
 * struct klp_patch needs no version of its own.
 */
#ifndef LIVEGRAFT_ABI_H
#define LIVEGRAFT_ABI_H

#include <linux/errno.h>
#include <linux/livepatch.h>
#include <linux/module.h>
#include <linux/printk.h>
#include <linux/string.h>
#include <linux/types.h>

/*
 * The number changes when an old payload can no longer be understood. New members are added at
 * the end of struct lg_payload instead, and told by its size.
 */
#define LG_ABI			1

/* Both are EXPORT_SYMBOL_GPL in the engine: __symbol_get() sees no others from 6.6 on. */
#define LG_REGISTER_NAME	"lg_register_payload"
#define LG_UNREGISTER_NAME	"lg_unregister_payload"

/**
 * enum lg_model - how the running system is kept consistent while code changes
 * @LG_MODEL_NATIVE:	the kernel's own livepatch core; never reaches the engine
 * @LG_MODEL_HYBRID:	per task, when its stack is free of the changed functions
 * @LG_MODEL_STOP:	the whole machine at once, when every stack is free of them
 * @LG_MODEL_TASK:	per thread, when it leaves the kernel
 *
 * The numbers are part of the ABI: append, never renumber.
 */
enum lg_model {
	LG_MODEL_NATIVE	= 0,
	LG_MODEL_HYBRID	= 1,
	LG_MODEL_STOP	= 2,
	LG_MODEL_TASK	= 3,
};

/**
 * struct lg_payload - a payload, as it introduces itself to the engine
 * @abi:	LG_ABI of the header that the payload was built with
 * @size:	sizeof(struct lg_payload) there. The engine reads no byte beyond it and takes a
 *		member that is not there for zero; one that it does not know has to be zero.
 * @module:	the payload's module; the engine holds a reference while the patch is in use
 * @model:	enum lg_model, never LG_MODEL_NATIVE; a plain u32 for its size to be certain
 * @flags:	none is defined in ABI 1; the engine refuses bits that it does not know
 * @patch:	objects and functions, in the kernel's own structures. Only the members that
 *		linux/livepatch.h calls external are set. The engine leaves the others alone, but
 *		for list.prev, which livegraft_state_before() follows
 * @private:	the engine's, NULL until registering; the payload never looks at it
 *
 * It lives in the payload's static data: both sides refer to it until unregistering has returned.
 */
struct lg_payload {
	u32			abi;
	u32			size;
	struct module		*module;
	u32			model;
	u32			flags;
	struct klp_patch	*patch;
	void			*private;
};

/**
 * typedef lg_register_fn - LG_REGISTER_NAME: apply a payload's patch
 *
 * Called from the payload's module init, in process context, without locks. It returns when the
 * patch is redirected and the change of tasks has begun; what follows is seen in the engine's sysfs
 * directory.
 *
 * Return: 0; -EPROTO for an abi, size or flag that the engine does not know; -EOPNOTSUPP for a
 * model that it does not have; -EBUSY for a function that is redirected by another; any other
 * errno of what failed. After an error nothing is changed and nothing refers to the payload.
 */
typedef int (*lg_register_fn)(struct lg_payload *payload);

/**
 * typedef lg_unregister_fn - LG_UNREGISTER_NAME: forget a payload whose patch was undone
 *
 * Called from the payload's module exit. The patch was undone through the engine before, otherwise
 * the reference on the module would have kept exit from running; this waits until no task can be
 * inside the payload's code any more. It cannot fail.
 */
typedef void (*lg_unregister_fn)(struct lg_payload *payload);

/**
 * lg_model_parse() - enum lg_model of the module parameter "model"
 * @name:	native, hybrid, stop or task
 *
 * Return: the model, or -EINVAL for any other text.
 */
static inline int lg_model_parse(const char *name)
{
	static const char * const names[] = {
		[LG_MODEL_NATIVE]	= "native",
		[LG_MODEL_HYBRID]	= "hybrid",
		[LG_MODEL_STOP]		= "stop",
		[LG_MODEL_TASK]		= "task",
	};

	return name ? match_string(names, ARRAY_SIZE(names), name) : -EINVAL;
}

/**
 * lg_payload_start() - the whole of a payload's module init
 * @payload:	with @module and @patch set; the rest is filled in here
 * @name:	the module parameter "model"
 *
 * Return: 0, or what klp_enable_patch() or the engine said; -EINVAL for an unknown model, -ENODEV
 * for one that needs the engine when the engine is not there. After an error nothing is changed.
 */
static inline int lg_payload_start(struct lg_payload *payload, const char *name)
{
	int model = lg_model_parse(name);
	lg_register_fn enroll;
	int ret;

	if (model < 0) {
		pr_err("unknown model '%s'\n", name ? name : "");
		return -EINVAL;
	}

	payload->abi = LG_ABI;
	payload->size = sizeof(*payload);
	payload->model = model;
	if (model == LG_MODEL_NATIVE)
		return klp_enable_patch(payload->patch);

	enroll = (lg_register_fn)__symbol_get(LG_REGISTER_NAME);
	if (!enroll) {
		pr_err("model '%s' needs the engine module, which is not loaded\n", name);
		return -ENODEV;
	}

	ret = enroll(payload);
	if (ret)
		__symbol_put(LG_REGISTER_NAME);	/* pairs with the get above */
	return ret;
}

/**
 * lg_payload_stop() - the whole of a payload's module exit
 * @payload:	as given to lg_payload_start()
 *
 * Exit runs only after the patch was undone, because the core (the kernel's or the engine) holds a
 * reference on the module until then: the kernel's core leaves nothing to do.
 */
static inline void lg_payload_stop(struct lg_payload *payload)
{
	lg_unregister_fn forget;

	if (payload->model == LG_MODEL_NATIVE)
		return;

	forget = (lg_unregister_fn)__symbol_get(LG_UNREGISTER_NAME);
	if (forget) {
		forget(payload);
		__symbol_put(LG_UNREGISTER_NAME);
	}
	__symbol_put(LG_REGISTER_NAME);	/* pairs with the get in lg_payload_start() */
}

#endif /* LIVEGRAFT_ABI_H */
