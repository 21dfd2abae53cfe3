/* SPDX-License-Identifier: GPL-2.0 */
/*
 * stub.S - where the functions that we redirect call
 *
 * ftrace has made the five bytes at a function's start a call to lg_stub. On entry
 *
 *	 0(%rsp)	the site: the address behind that call
 *	 8(%rsp)	the return address of the function's caller
 *
 * and every register is an argument or the caller's, but for %r10 and %r11: the ABI lets a callee
 * clobber both, %r10 is a static chain only for nested functions, which the kernel has not, and
 * GCC makes no use of knowing which registers a function leaves alone (-fipa-ra) when functions
 * are instrumented. The flags are dead here, too.
 *
 * To go to another function the site is replaced and RET goes there. Call and return stay paired
 * for the processor's return stack: the stub's own RET is predicted wrong once, that of the new
 * function and of all its callers is not. "add $8, %rsp; jmp" would leave one return too many and
 * cost a wrong prediction in each caller above.
 *
 * Unwinding: the frame looks as if the function had called the stub, or, once the site was
 * replaced, as if the new function had. So the function that was chosen is on the stack from the
 * moment that it is chosen, and a task that stands in the stub counts as busy in any case.
 */
#include <linux/linkage.h>
#include <asm/nospec-branch.h>
#include <asm/asm-offsets.h>

#include "table.h"

/* The compiler of a call may count it (call depth tracking); that of ftrace's call cannot. */
#ifdef CONFIG_MITIGATION_CALL_DEPTH_TRACKING
#define ACCOUNT_CALL	CALL_DEPTH_ACCOUNT
#else
#define ACCOUNT_CALL
#endif

	.text

SYM_FUNC_START(lg_stub)
	ACCOUNT_CALL
	movq	(%rsp), %r11
	leal	(%r11, %r11), %r10d	/* LG_TABLE_OFFSET() */
	andl	$LG_TABLE_MASK, %r10d
.Lsearch:
	cmpq	%r11, lg_table + LG_ENTRY_SITE(%r10)
	jne	.Lother
	movq	lg_table + LG_ENTRY_TARGET(%r10), %r11
	cmpq	$LG_ASK, %r11
	jbe	.Lspecial
	movq	%r11, (%rsp)
.Lleave:
	RET

.Lspecial:
	jb	.Lleave			/* LG_ORIGINAL */

	/* Only during a change. lg_choose() is C: keep what it may clobber. */
	pushq	%rax
	pushq	%rcx
	pushq	%rdx
	pushq	%rsi
	pushq	%rdi
	pushq	%r8
	pushq	%r9
	leaq	lg_table(%r10), %rdi
	call	lg_choose
	movq	%rax, %r11
	popq	%r9
	popq	%r8
	popq	%rdi
	popq	%rsi
	popq	%rdx
	popq	%rcx
	popq	%rax
	testq	%r11, %r11
	jz	.Lleave
	movq	%r11, (%rsp)
	RET

.Lother:
	/*
	 * A site is entered into the table before ftrace is told of it, and leaves it after no task
	 * can come from there any more: the search finds it. An empty entry ends it all the same.
	 */
	cmpq	$0, lg_table + LG_ENTRY_SITE(%r10)
	je	.Lleave
	addl	$LG_ENTRY_SIZE, %r10d
	andl	$LG_TABLE_MASK, %r10d
	jmp	.Lsearch
SYM_INNER_LABEL(lg_stub_end, SYM_L_GLOBAL)
SYM_FUNC_END(lg_stub)
