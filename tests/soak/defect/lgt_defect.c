// SPDX-License-Identifier: GPL-2.0
/*
 * Defects on purpose, one for each check of the soak kernel: the parameter says which. Whoever runs
 * the soak has to see each of them, else it sees nothing.
 */
#include <linux/kernel.h>
#include <linux/module.h>
#include <linux/mutex.h>
#include <linux/slab.h>
#include <linux/spinlock.h>
#include <linux/string.h>

static char *kind = "";
module_param(kind, charp, 0444);

static DEFINE_SPINLOCK(held);
static DEFINE_MUTEX(one);
static DEFINE_MUTEX(other);

static void sleep_in_atomic(void)
{
	spin_lock(&held);
	might_sleep();
	spin_unlock(&held);
}

static void take_both_ways(void)
{
	mutex_lock(&one);
	mutex_lock(&other);
	mutex_unlock(&other);
	mutex_unlock(&one);
	mutex_lock(&other);
	mutex_lock(&one);
	mutex_unlock(&one);
	mutex_unlock(&other);
}

static void *volatile lost;

static void leak(void)
{
	unsigned int number;

	/* Many: an address may stay in some register or on some stack. */
	for (number = 0; number < 20; number++)
		lost = kzalloc(1000, GFP_KERNEL);
	lost = NULL;
}

static void use_after_free(void)
{
	volatile char *gone = kzalloc(64, GFP_KERNEL);

	kfree((void *)gone);
	gone[3] = 1;
}

static const struct {
	const char *name;
	void (*make)(void);
} defects[] = {
	{ "atomic", sleep_in_atomic },
	{ "locks", take_both_ways },
	{ "leak", leak },
	{ "freed", use_after_free },
};

static int __init lgt_defect_init(void)
{
	unsigned int number;

	for (number = 0; number < ARRAY_SIZE(defects); number++)
		if (!strcmp(kind, defects[number].name))
			defects[number].make();
	return -ENODEV;	/* it need not stay */
}

module_init(lgt_defect_init);
MODULE_DESCRIPTION("Defects on purpose, for livegraft's tests");
MODULE_LICENSE("GPL");
