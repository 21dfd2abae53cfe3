// SPDX-License-Identifier: GPL-2.0
/*
 * lgc_hammer.c - what user space can do to functions that are being patched; static, for guests
 *
 *	lgc_hammer KIND=COUNT...	so many processes of each kind, until it is killed
 *	lgc_hammer once			what the kind "exec" executes
 *
 * Most of them rest most of the time: an emulated guest on a busy machine has little to give,
 * and what counts is how many are inside when a patch comes.
 *
 * It prints a line when all are there. Each process dies with its parent. What "waits" sees of
 * signals is counted in /root/seen, an unsigned long: calls that ended with EINTR.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <linux/io_uring.h>
#include <poll.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "lgc_processors.h"

#define FILE_NAME "/proc/lgc"
#define SEEN_NAME "/root/seen"

static const char *self;
static unsigned long *seen;

static void die(const char *what)
{
	fprintf(stderr, "lgc_hammer: %s: %s\n", what, strerror(errno));
	_exit(1);
}

static void rest(long us)
{
	struct timespec time = { us / 1000000, us % 1000000 * 1000 };

	nanosleep(&time, NULL);
}

static int opened(void)
{
	int file = open(FILE_NAME, O_RDWR);

	if (file < 0)
		die(FILE_NAME);
	return file;
}

/* A command that a signal may not end: only lgc_doze() can be interrupted. */
static void tell(int file, const char *command)
{
	if (write(file, command, strlen(command)) != (ssize_t)strlen(command))
		die(command);
	lgc_hand_over();
}

static void calls(void)
{
	int file = opened();

	for (;;) {
		tell(file, "c0");
		rest(5000);
	}
}

/* Now and then asleep inside a function that is patched. */
static void sleeps(void)
{
	int file = opened();

	for (;;) {
		tell(file, "c10000");
		rest(10000);
	}
}

/* The same for a model that has to find nobody inside. */
static void rarely(void)
{
	int file = opened();

	for (;;) {
		tell(file, "c5000");
		rest(50000);
		tell(file, "d5000");
		rest(50000);
	}
}

static void apart(void)
{
	int file = opened();

	for (;;) {
		tell(file, "a20000");
		tell(file, "b20000");
	}
}

static void cold(void)
{
	int file = opened();

	for (;;) {
		tell(file, "d20000");
		rest(10000);
	}
}

/* So long that the kernel's own core has rewritten what it rewrites before it looks at stacks. */
static void sleeper(const char *command)
{
	int file = opened();

	for (;;)
		tell(file, command);
}

static void slumbers(void)
{
	sleeper("a8000000");
}

static void cold_slumbers(void)
{
	sleeper("d8000000");
}

/* For seconds asleep inside a function that is patched, no signal wakes it. */
static void stays(void)
{
	int file = opened();

	for (;;) {
		tell(file, "c1500000");
		rest(20000);
	}
}

/* Inside, and does not leave. */
static void never(void)
{
	sleeper("z0");
}

static int epoll_of(int file)
{
	static int epoll = -1;
	struct epoll_event event = { .events = EPOLLIN };

	if (epoll < 0) {
		epoll = epoll_create1(0);
		if (epoll < 0 || epoll_ctl(epoll, EPOLL_CTL_ADD, file, &event))
			die("epoll");
	}
	return epoll_wait(epoll, &event, 1, -1);
}

/*
 * Asleep elsewhere, as most tasks of a machine are: in calls that start again after a signal, and
 * in one that tells.
 */
static void waits(void)
{
	int pipes[2];
	char byte;

	if (pipe(pipes))
		die("pipe");
	for (;;) {
		struct pollfd end = { .fd = pipes[0], .events = POLLIN };
		int ret;

		if (getpid() % 3 == 0)
			ret = read(pipes[0], &byte, 1);
		else if (getpid() % 3 == 1)
			ret = epoll_of(pipes[0]);
		else
			ret = poll(&end, 1, -1);
		if (ret < 0 && errno == EINTR)
			__atomic_fetch_add(seen, 1, __ATOMIC_RELAXED);
	}
}

static void *thread(void *unused)
{
	apart();
	return NULL;
}

static void threads(void)
{
	pthread_t one;
	int number;

	for (number = 0; number < 3; number++)
		if (pthread_create(&one, NULL, thread, NULL))
			die("pthread_create");
	calls();
}

/* What computes is idle as far as the scheduler goes: it takes all that is left, and no more. */
static void yields(void)
{
	struct sched_param none = { 0 };

	if (sched_setscheduler(0, SCHED_IDLE, &none))
		die("sched_setscheduler");
}

static void hog(void)
{
	yields();
	for (;;)
		lgc_hand_over();
}

/* The same with the priority of all others. */
static void computes(void)
{
	for (;;)
		lgc_hand_over();
}

/* One system call after the other, none of which sleeps. */
static void busy(void)
{
	int file = opened();

	yields();
	for (;;)
		tell(file, "c0");
}

static void collect(pid_t child)
{
	int status;

	while (waitpid(child, &status, 0) != child)
		if (errno != EINTR)
			die("waitpid");
	if (status)
		die("a child failed");
}

/* Children that call, and leave what they have open to the kernel: files with dirty pages, too. */
static void forks(void)
{
	for (;;) {
		pid_t child = fork();

		if (child < 0)
			die("fork");
		if (!child) {
			int dirty = open("/root/dirty", O_RDWR | O_CREAT, 0600), file = opened();

			if (dirty < 0 || write(dirty, FILE_NAME, sizeof(FILE_NAME)) < 0)
				die("/root/dirty");
			tell(file, "c0");
			tell(file, "a500");
			_exit(0);
		}
		collect(child);
		rest(100000);
	}
}

static void execute(void)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (!child) {
		execl(self, self, "once", NULL);
		die(self);
	}
	collect(child);
}

static void executes(void)
{
	for (;;) {
		execute();
		rest(300000);
	}
}

/* Tasks are born and die without a rest. */
static void storms(void)
{
	yields();
	for (;;)
		execute();
}

static void once(void)
{
	int file = opened();

	tell(file, "c0");
	_exit(0);
}

static void handler(int number)
{
}

/* A hundred signals a second: calls that sleep go on, rests end early. */
static void signals(void)
{
	struct itimerval timer = { { 0, 10000 }, { 0, 10000 } };
	struct sigaction action = { .sa_handler = handler };
	int file = opened();

	if (sigaction(SIGALRM, &action, NULL) || setitimer(ITIMER_REAL, &timer, NULL))
		die("signals");
	for (;;) {
		tell(file, "c0");
		tell(file, "a10000");
		rest(10000);
	}
}

/* A child that is stopped and goes on, again and again. */
static void stops(void)
{
	pid_t child = fork();

	if (child < 0)
		die("fork");
	if (!child) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		calls();
	}
	for (;;) {
		rest(20000);
		kill(child, SIGSTOP);
		rest(20000);
		kill(child, SIGCONT);
	}
}

/*
 * Writes that io_uring gives to its workers, one at a time. A wait that a signal ends returns what
 * was submitted, not EINTR: only the ring tells whether the write is done.
 */
static void uring(void)
{
	struct io_uring_params params = { 0 };
	struct io_uring_sqe *entry;
	unsigned int *tail, *head, *done, *array, mask, position;
	int file = opened(), ring;
	char *rings;

	ring = syscall(SYS_io_uring_setup, 4, &params);
	if (ring < 0)
		die("io_uring_setup");
	rings = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
		     IORING_OFF_SQ_RING);
	entry = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, ring,
		     IORING_OFF_SQES);
	if (rings == MAP_FAILED || entry == MAP_FAILED || !(params.features & IORING_FEAT_SINGLE_MMAP))
		die("mmap of io_uring");
	tail = (unsigned int *)(rings + params.sq_off.tail);
	array = (unsigned int *)(rings + params.sq_off.array);
	mask = *(unsigned int *)(rings + params.sq_off.ring_mask);
	head = (unsigned int *)(rings + params.cq_off.head);
	done = (unsigned int *)(rings + params.cq_off.tail);
	for (position = 0;; position++) {
		const char *command = position % 4 ? "c0" : "c5000";
		unsigned int submit = 1;

		memset(entry, 0, sizeof(*entry));
		entry->opcode = IORING_OP_WRITE;
		entry->flags = IOSQE_ASYNC;
		entry->fd = file;
		entry->addr = (unsigned long)command;
		entry->len = strlen(command);
		array[position & mask] = 0;
		__atomic_store_n(tail, position + 1, __ATOMIC_RELEASE);
		while (__atomic_load_n(done, __ATOMIC_ACQUIRE) != position + 1) {
			long ret = syscall(SYS_io_uring_enter, ring, submit, 1,
					   IORING_ENTER_GETEVENTS, NULL, 0);

			if (ret < 0 && errno != EINTR)
				die("io_uring_enter");
			if (ret > 0)
				submit = 0;
		}
		__atomic_store_n(head, position + 1, __ATOMIC_RELEASE);
		rest(10000);
	}
}

/* The second processor goes and comes. */
static void hotplug(void)
{
	int file = open("/sys/devices/system/cpu/cpu1/online", O_WRONLY), on;

	if (file < 0)
		die("cpu1/online");
	for (on = 0;; on = !on) {
		if (pwrite(file, on ? "1" : "0", 1, 0) != 1 && errno != EBUSY)
			die("hotplug");
		rest(300000);
	}
}

static const struct {
	const char	*name;
	void		(*work)(void);
} kinds[] = {
	{ "calls", calls }, { "sleeps", sleeps }, { "rarely", rarely }, { "apart", apart },
	{ "cold", cold }, { "threads", threads }, { "hog", hog }, { "busy", busy },
	{ "forks", forks }, { "exec", executes }, { "signals", signals }, { "stops", stops },
	{ "uring", uring }, { "hotplug", hotplug }, { "slumbers", slumbers },
	{ "cold-slumbers", cold_slumbers }, { "stays", stays }, { "never", never },
	{ "waits", waits }, { "computes", computes }, { "storms", storms },
};

static void map_seen(void)
{
	int file = open(SEEN_NAME, O_RDWR | O_CREAT | O_TRUNC, 0600);

	if (file < 0 || ftruncate(file, sizeof(*seen)))
		die(SEEN_NAME);
	seen = mmap(NULL, sizeof(*seen), PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
	if (seen == MAP_FAILED)
		die(SEEN_NAME);
}

static void start(const char *name, int count)
{
	unsigned int kind;

	for (kind = 0; kind < sizeof(kinds) / sizeof(kinds[0]); kind++) {
		if (strcmp(kinds[kind].name, name))
			continue;
		while (count--) {
			pid_t child = fork();

			if (child < 0)
				die("fork");
			if (child)
				continue;
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			kinds[kind].work();
		}
		return;
	}
	errno = EINVAL;
	die(name);
}

int main(int count, char **words)
{
	int status;

	self = words[0];
	if (count == 2 && !strcmp(words[1], "once"))
		once();
	map_seen();
	/* Behind the kernel's threads and whoever loads; level with lgc_probe, if not yields(). */
	if (setpriority(PRIO_PROCESS, 0, 19))
		die("setpriority");
	while (--count) {
		char *equals = strchr(*++words, '=');

		if (!equals)
			die(*words);
		*equals = '\0';
		start(*words, atoi(equals + 1));
	}
	puts("ready");
	fflush(stdout);
	/* None of them ends. */
	wait(&status);
	fprintf(stderr, "lgc_hammer: a process ended with status %d\n", status);
	return 1;
}
