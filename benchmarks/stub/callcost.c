// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * callcost.c - what the engine's stub costs a call, on this processor, in user space
 *
 * Usage: callcost ROUNDS. Prints "WAY CALLERS NANOSECONDS" per line: the median over the rounds of
 * the time of one call of an empty function from CALLERS functions deep, where the function is
 * called as it is (plain), by way of the stub of kmod/stub.S (stub), by the least that keeps calls
 * and returns paired, which is one return that is predicted wrong (floor), or by a stub that drops
 * its return address and jumps (jump), which leaves the processor's return stack unbalanced.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "table.h"

struct entry {
	uint64_t site, target, from, to;
};

struct entry lg_table[LG_TABLE_SIZE] __attribute__((aligned(64)));

/* Never called: no change is under way. */
uint64_t lg_choose(const struct entry *entry)
{
	(void)entry;
	abort();
}

void lg_stub(void);
void plain_0(void), stub_0(void), jump_0(void), floor_0(void);
void replacement(void);
extern char stub_site[];

/* The functions as ftrace leaves them: five bytes that do nothing, or a call. */
asm(".p2align 4; plain_0: .byte 0x0f, 0x1f, 0x44, 0x00, 0x00; ret\n"
    ".p2align 4; stub_0: call lg_stub; stub_site: ret\n"
    ".p2align 4; jump_0: call jump_stub; ret\n"
    ".p2align 4; jump_stub: add $8, %rsp; jmp replacement\n"
    ".p2align 4; replacement: ret\n"
    ".p2align 4; floor_0: call floor_stub; ret\n"
    ".p2align 4; floor_stub: movq $replacement, (%rsp); ret\n"
    ".globl plain_0, stub_0, jump_0, floor_0, stub_site, replacement\n");

#define LEVEL(way, number, below) \
	__attribute__((noinline, noclone)) void way##_##number(void) \
	{ way##_##below(); asm volatile(""); }
#define WAY(way) \
	LEVEL(way, 1, 0) LEVEL(way, 2, 1) LEVEL(way, 3, 2) LEVEL(way, 4, 3) \
	LEVEL(way, 5, 4) LEVEL(way, 6, 5) LEVEL(way, 7, 6) LEVEL(way, 8, 7)

WAY(plain)
WAY(stub)
WAY(jump)
WAY(floor)

#define CALLS 2000000

static double nanoseconds(void (*function)(void))
{
	struct timespec began, ended;

	clock_gettime(CLOCK_MONOTONIC, &began);
	for (int call = 0; call < CALLS; call++)
		function();
	clock_gettime(CLOCK_MONOTONIC, &ended);
	return ((ended.tv_sec - began.tv_sec) * 1e9 + (ended.tv_nsec - began.tv_nsec)) / CALLS;
}

static int by_value(const void *one, const void *other)
{
	double a = *(const double *)one, b = *(const double *)other;

	return (a > b) - (a < b);
}

int main(int count, char **words)
{
	static const struct {
		const char *way;
		int callers;
		void (*function)(void);
	} cases[] = {
		{ "plain", 0, plain_0 }, { "stub", 0, stub_0 }, { "jump", 0, jump_0 }, { "floor", 0, floor_0 },
		{ "plain", 1, plain_1 }, { "stub", 1, stub_1 }, { "jump", 1, jump_1 }, { "floor", 1, floor_1 },
		{ "plain", 8, plain_8 }, { "stub", 8, stub_8 }, { "jump", 8, jump_8 }, { "floor", 8, floor_8 },
	};
	enum { CASES = sizeof(cases) / sizeof(*cases), MOST = 1000 };
	static double times[CASES][MOST];
	int rounds = count == 2 ? atoi(words[1]) : 0;
	uint64_t site = (uint64_t)stub_site;
	uint32_t number = LG_TABLE_OFFSET(site) / LG_ENTRY_SIZE;

	if (rounds < 1 || rounds > MOST)
		return 2;
	lg_table[number] = (struct entry){ .site = site, .target = (uint64_t)replacement };
	/* The ways alternate, so that what disturbs the machine disturbs all of them. */
	for (int round = 0; round < rounds; round++)
		for (int each = 0; each < CASES; each++)
			times[each][round] = nanoseconds(cases[each].function);
	for (int each = 0; each < CASES; each++) {
		qsort(times[each], rounds, sizeof(double), by_value);
		printf("%s %d %.2f\n", cases[each].way, cases[each].callers, times[each][rounds / 2]);
	}
	return 0;
}
