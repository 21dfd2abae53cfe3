// SPDX-License-Identifier: GPL-2.0
/*
 * lgb_plain.c - a module that patches nothing, for what loading any module costs
 */
#include <linux/module.h>

static int __init lgb_init(void)
{
	return 0;
}

static void __exit lgb_exit(void)
{
}

module_init(lgb_init);
module_exit(lgb_exit);
MODULE_LICENSE("GPL");
