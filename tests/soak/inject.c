// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * One system call in which the Nth allocation fails (Documentation/fault-injection: fail-nth):
 *
 *	inject N load FILE PARAMETERS	finit_module()
 *	inject N unload NAME		delete_module()
 *	inject 0 reload FILE PARAMETERS NAME	delete_module() until it can go, and finit_module()
 *	inject N write FILE TEXT	write()
 *
 * Prints the call's errno, and how many allocations were left to be made before the one that fails:
 * 0 if it has failed. N of 0 makes none fail. A program of its own, with its memory locked, so that no
 * allocation is counted but those of the call.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static int open_or_die(const char *path, int flags)
{
	int fd = open(path, flags | O_CLOEXEC);

	if (fd < 0) {
		perror(path);
		exit(2);
	}
	return fd;
}

static void must(int ok, const char *what)
{
	if (!ok) {
		perror(what);
		exit(2);
	}
}

int main(int argc, char **argv)
{
	const char *verb = argc > 3 ? argv[2] : "", *parameters = argc > 4 ? argv[4] : "";
	/* A kernel as it is shipped does not have it: there N is 0. */
	int nth = atoi(argv[1]) ? open_or_die("/proc/thread-self/fail-nth", O_RDWR) : -1;
	int fd = -1, error;
	char left[32] = "";
	long ret;

	if (!strcmp(verb, "load") || !strcmp(verb, "reload"))
		fd = open_or_die(argv[3], O_RDONLY);
	else if (!strcmp(verb, "write"))
		fd = open_or_die(argv[3], O_WRONLY);
	must(!mlockall(MCL_CURRENT), "mlockall");

	must(nth < 0 || pwrite(nth, argv[1], strlen(argv[1]), 0) > 0, "fail-nth");
	while (!strcmp(verb, "reload") && syscall(SYS_delete_module, argv[5], O_NONBLOCK))
		must(errno == EAGAIN || errno == EBUSY, "delete_module");
	if (!strcmp(verb, "load") || !strcmp(verb, "reload"))
		ret = syscall(SYS_finit_module, fd, parameters, 0);
	else if (!strcmp(verb, "unload"))
		ret = syscall(SYS_delete_module, argv[3], O_NONBLOCK);
	else
		ret = write(fd, parameters, strlen(parameters));
	error = ret < 0 ? errno : 0;
	if (nth >= 0) {
		must(pread(nth, left, sizeof(left) - 1, 0) > 0, "fail-nth");
		pwrite(nth, "0", 1, 0);
	}
	printf("%d %d\n", error, atoi(left));
	return 0;
}
