// SPDX-License-Identifier: GPL-2.0
/*
 * lgc_probe.c - for how long a task that always wants to run does not; static, for guests
 *
 *	lgc_probe LEAST_US
 *
 * A thread on each processor reads the time stamp counter over and over, in user mode, with a
 * system call now and then. When standard input ends it prints each gap of LEAST_US or more between
 * two reads: "PROCESSOR u|s BEGAN_NS LENGTH_NS", on the monotonic clock; s if there was a system
 * call in between. The counter is read directly, because an emulated machine may have a clock that
 * takes a system call to be read.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>
#include <x86intrin.h>

#include "lgc_processors.h"

#define MOST_CPUS	64
#define MOST_GAPS	65536
#define STRETCH_NS	200000	/* in user mode between two system calls */

struct gap {
	unsigned long	began, length;	/* in ticks */
	char		kind;
};

static struct {
	pthread_t	thread;
	int		cpu;
	unsigned long	count;
	struct gap	gaps[MOST_GAPS];
} probes[MOST_CPUS];

static volatile int over;
static unsigned long least, stretch;
static double ns_per_tick;

static void die(const char *what)
{
	fprintf(stderr, "lgc_probe: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static double now_ns(void)
{
	struct timespec time;

	clock_gettime(CLOCK_MONOTONIC, &time);
	return time.tv_sec * 1e9 + time.tv_nsec;
}

static void note(int number, char kind, unsigned long from, unsigned long to)
{
	struct gap *gap;

	if (to - from < least || probes[number].count == MOST_GAPS)
		return;
	gap = &probes[number].gaps[probes[number].count++];
	gap->began = from;
	gap->length = to - from;
	gap->kind = kind;
}

static void *probe(void *argument)
{
	int number = (long)argument;
	unsigned long last, now, end;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET(probes[number].cpu, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		die("sched_setaffinity");
	/*
	 * That of lgc_hammer, whoever started it: of a higher one the load would hardly run, and
	 * what the kernel waits for all tasks to do would take seconds. Each thread has its own.
	 */
	if (setpriority(PRIO_PROCESS, 0, 19))
		die("setpriority");
	last = __rdtsc();
	while (!over) {
		end = last + stretch;
		do {
			lgc_hand_over();
			now = __rdtsc();
			note(number, 'u', last, now);
			last = now;
		} while (now < end);
		syscall(SYS_getppid);
		now = __rdtsc();
		note(number, 's', last, now);
		last = now;
	}
	return NULL;
}

int main(int count, char **words)
{
	unsigned long tick_0, tick_1, each;
	double ns_0, ns_1;
	cpu_set_t set;
	int cpu, number, found = 0;
	char byte;

	if (count != 2) {
		errno = EINVAL;
		die("LEAST_US");
	}
	tick_0 = __rdtsc();
	ns_0 = now_ns();
	usleep(50000);
	tick_1 = __rdtsc();
	ns_1 = now_ns();
	ns_per_tick = (ns_1 - ns_0) / (tick_1 - tick_0);
	least = atol(words[1]) * 1000 / ns_per_tick;
	stretch = STRETCH_NS / ns_per_tick;
	if (sched_getaffinity(0, sizeof(set), &set))
		die("sched_getaffinity");
	for (cpu = 0; cpu < MOST_CPUS; cpu++) {
		if (!CPU_ISSET(cpu, &set))
			continue;
		probes[found].cpu = cpu;
		if (pthread_create(&probes[found].thread, NULL, probe, (void *)(long)found))
			die("pthread_create");
		found++;
	}
	puts("ready");
	fflush(stdout);
	while (read(0, &byte, 1) > 0)
		;
	over = 1;
	for (number = 0; number < found; number++)
		pthread_join(probes[number].thread, NULL);
	tick_1 = __rdtsc();
	ns_1 = now_ns();
	ns_per_tick = (ns_1 - ns_0) / (tick_1 - tick_0);
	for (number = 0; number < found; number++)
		for (each = 0; each < probes[number].count; each++) {
			struct gap *gap = &probes[number].gaps[each];

			printf("%d %c %.0f %.0f\n", probes[number].cpu, gap->kind,
			       ns_0 + (gap->began - tick_0) * ns_per_tick,
			       gap->length * ns_per_tick);
		}
	return 0;
}
