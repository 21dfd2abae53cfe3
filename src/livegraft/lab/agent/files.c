// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The agent's binary run as a job: files and modules. The agent itself opens no file after the start,
 * so that a file system that hangs takes only a job along.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "agent.h"

static int complain(const char *path)
{
	fprintf(stderr, "%s: %s\n", path, strerror(errno));
	return 1;
}

static void make_parents(const char *path)
{
	char *copy = strdup(path);

	for (char *slash = strchr(copy + 1, '/'); slash; slash = strchr(slash + 1, '/')) {
		*slash = 0;
		mkdir(copy, 0755);
		*slash = '/';
	}
	free(copy);
}

static int copy_all(int from, int to)
{
	static char buffer[1 << 16];

	for (;;) {
		ssize_t n = read(from, buffer, sizeof(buffer));

		if (n < 0 && (errno == EINTR || errno == EPIPE))
			continue;	/* EPIPE: /dev/kmsg lost records before this one */
		if (n < 0 && errno == EAGAIN)
			return 0;	/* /dev/kmsg has no more now */
		if (n <= 0)
			return n;
		if (write_all(to, buffer, n))
			return -1;
	}
}

static int put_file(const char *mode, const char *path)
{
	int fd;

	make_parents(path);
	fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || copy_all(0, fd) || fchmod(fd, strtol(mode, NULL, 8)) || close(fd))
		return complain(path);
	return 0;
}

static int get_file(const char *path)
{
	int fd = open(path, O_RDONLY | O_NONBLOCK | O_CLOEXEC);

	if (fd < 0 || copy_all(fd, 1))
		return complain(path);
	return 0;
}

int insert_module(const char *path, const char *parameters)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int failed;

	if (fd < 0)
		return -1;
	failed = syscall(SYS_finit_module, fd, parameters, 0);
	close(fd);
	return failed && errno != EEXIST ? -1 : 0;
}

int be_a_job(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "put"))
		return put_file(argv[2], argv[3]);
	if (argc == 3 && !strcmp(argv[1], "get"))
		return get_file(argv[2]);
	if (argc == 4 && !strcmp(argv[1], "insert"))
		return insert_module(argv[2], argv[3]) ? complain(argv[2]) : 0;
	fprintf(stderr, "usage: %s serve | put MODE PATH | get PATH | insert PATH PARAMETERS\n", argv[0]);
	return 2;
}
