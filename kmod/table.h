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

/*
 * Where the search for a site begins: a row for each 16 bytes of code, over and over. Functions
 * begin 16 bytes apart at least, so those of a file do not meet. In bytes, as the stub has it, that
 * is one addition and one mask: the processor cannot go on before it has this.
 */
#define LG_ENTRY_SIZE		32
#define LG_TABLE_MASK		((LG_TABLE_SIZE - 1) * LG_ENTRY_SIZE)
#define LG_TABLE_OFFSET(site)	((2 * (site)) & LG_TABLE_MASK)
#define LG_ENTRY_SITE		0
#define LG_ENTRY_TARGET		8

/* Values of a target that are not addresses. The stub compares once, for both: keep the order. */
#define LG_ORIGINAL		0	/* the function itself: return behind the call */
#define LG_ASK			1	/* a change is under way: lg_choose() knows */

#endif /* LG_TABLE_H */
