/* SPDX-License-Identifier: GPL-2.0-or-later */
/* What kmod/stub.S needs of the kernel's header, for user space. */
#define SYM_FUNC_START(name) .globl name; .type name, @function; .p2align 4; name:
#define SYM_FUNC_END(name) .size name, . - name
#define SYM_L_GLOBAL
#define SYM_INNER_LABEL(name, linkage) .globl name; name:
