/* SPDX-License-Identifier: GPL-2.0 */
/*
 * table.h - the table of sites, as stub.S and redirect.c share it
 *
 * A site is where ftrace calls the stub: the address behind the call at the start of a function.
 * The table is open-addressed with linear probing and has a fixed size: the stub needs no lock
 * and no pointer, and nothing is freed under a task that was preempted in it.
 */
#ifndef LG_TABLE_H
#define LG_TABLE_H

#define LG_TABLE_BITS		12
#define LG_TABLE_SIZE		(1 << LG_TABLE_BITS)

/* At most half of the table is used, so that a search ends soon. */
#define LG_SITES_MOST		(LG_TABLE_SIZE / 2)

/* Fibonacci hashing: 2^32 divided by the golden ratio, odd; the top bits are taken. */
#define LG_HASH_FACTOR		0x9e3779b1

#define LG_ENTRY_SHIFT		5
#define LG_ENTRY_SIZE		(1 << LG_ENTRY_SHIFT)
#define LG_ENTRY_SITE		0
#define LG_ENTRY_TARGET		8

/* Values of a target that are not addresses. The stub compares once, for both: keep the order. */
#define LG_ORIGINAL		0	/* the function itself: return behind the call */
#define LG_ASK			1	/* a change is under way: lg_choose() knows */

#endif /* LG_TABLE_H */
