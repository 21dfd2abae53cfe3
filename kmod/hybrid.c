// SPDX-License-Identifier: GPL-2.0
/*
 * hybrid.c - a task changes sides when its stack is free of the code that it has to leave
 *
 * The idea of the kernel's own livepatch core, with a side of our own for each task. Interrupts are
 * on the side of the task that they interrupt.
 */
#include "engine.h"

const struct lg_way lg_hybrid = {
	.name		= "hybrid",
	.number		= LG_MODEL_HYBRID,
	.by_task	= true,
	.pass		= lg_pass_by_stack,
	/* livepatch does it after 15 s; a sleep that ends by itself needs no signal. */
	.urge_after	= 15000,
};
