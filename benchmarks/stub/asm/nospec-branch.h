/* SPDX-License-Identifier: GPL-2.0-or-later */
/* A kernel without return thunks: RET is the instruction. */
#define RET ret; int3
