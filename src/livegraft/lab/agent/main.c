// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's init: make a Linux system, then do what the host says. As "/init serve", a service of a
 * system that has another init, it only does what the host says.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <unistd.h>

#include "agent.h"

static void mount_all(void)
{
	static const char *const table[][2] = {
		{ "proc", "/proc" },
		{ "sysfs", "/sys" },
		{ "devtmpfs", "/dev" },
		{ "tmpfs", "/tmp" },
		{ "tmpfs", "/run" },
		{ "debugfs", "/sys/kernel/debug" },
		{ "tracefs", "/sys/kernel/tracing" },
	};

	for (size_t i = 0; i < sizeof(table) / sizeof(*table); i++) {
		mkdir(table[i][1], 0755);
		if (mount(table[i][0], table[i][1], table[i][0], 0, NULL) && errno != EBUSY && i < 5)
			die(table[i][1]);
	}
	chmod("/tmp", 01777);
	chmod("/run", 0755);	/* what is kept there is believed */
	mkdir("/dev/shm", 01777);
	mkdir("/dev/pts", 0755);
	mount("devpts", "/dev/pts", "devpts", 0, NULL);
}

/* Insert the modules whose paths stand in `list`, in that order; append what fails to `report`. */
static void insert_all(const char *list, FILE *report)
{
	FILE *file = fopen(list, "re");
	char line[4096];

	while (file && fgets(line, sizeof(line), file)) {
		line[strcspn(line, "\n")] = 0;
		if (*line && insert_module(line, ""))
			fprintf(report, "%s: %s\n", line, strerror(errno));
	}
	if (file)
		fclose(file);
}

static void obey(uint32_t id, char kind, char *data, uint32_t len)
{
	switch (kind) {
	case 'S':
		start_job(id, data, len);
		break;
	case 'I':
		add_input(id, data, len);
		break;
	case 'E':
		end_input(id);
		break;
	case 'K':
		if (len == 1)
			kill_job(id, data[0]);
		break;
	case 'P':
		send_frame(id, 'P', "", 0);
		break;
	}
}

/* Read from the port and obey each frame that is whole. Returns 0 when the host hung up. */
static int listen_to_host(void)
{
	static char *buffer;
	static size_t have, room;
	size_t at = 0;
	ssize_t n;

	if (room - have < CHUNK) {
		room = have + 4 * CHUNK;
		buffer = realloc(buffer, room);
		if (!buffer)
			die("frame");
	}
	n = read(port_descriptor(), buffer + have, CHUNK);
	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return 1;
	if (n <= 0)
		return 0;
	have += n;
	while (have - at >= 9 && have - at - 9 >= get32(buffer + at)) {
		uint32_t len = get32(buffer + at);

		obey(get32(buffer + at + 4), buffer[at + 8], buffer + at + 9, len);
		at += 9 + len;
	}
	have -= at;
	memmove(buffer, buffer + at, have);
	return 1;
}

static void serve(int signals)
{
	struct pollfd fds[2 + 3 * MAX_JOBS];
	int silent_ms = 0;

	for (;;) {
		int used = 2;

		fds[0] = (struct pollfd){ .fd = port_descriptor(), .events = POLLIN };
		fds[1] = (struct pollfd){ .fd = signals, .events = POLLIN };
		used += watch_jobs(fds + used);
		if (poll(fds, used, -1) < 0 && errno != EINTR)
			die("poll");
		serve_jobs();
		if (fds[1].revents) {
			struct signalfd_siginfo info;

			while (read(signals, &info, sizeof(info)) > 0)
				;
			reap();
		}
		if (fds[0].revents && listen_to_host()) {
			silent_ms = 0;
		} else if (fds[0].revents) {
			/* Nobody at the other end: a guest does not outlive its host. */
			pause_ms(1);
			if (++silent_ms > HANGUP_MS)
				die("the host is gone");
		}
	}
}

int main(int argc, char **argv)
{
	int is_init = getpid() == 1;
	char *report = NULL;
	size_t report_len = 0;
	sigset_t mask;
	FILE *stream;
	int signals;

	if (!is_init && (argc != 2 || strcmp(argv[1], "serve")))
		return be_a_job(argc, argv);
	stream = open_memstream(&report, &report_len);
	if (is_init) {
		mount_all();
		insert_all(CHANNEL_LIST, stderr);
	}
	open_port();
	if (is_init)
		insert_all(LOAD_LIST, stream);
	fclose(stream);

	sigemptyset(&mask);
	sigaddset(&mask, SIGCHLD);
	sigprocmask(SIG_BLOCK, &mask, NULL);
	signal(SIGPIPE, SIG_IGN);
	signals = signalfd(-1, &mask, SFD_CLOEXEC | SFD_NONBLOCK);
	if (signals < 0)
		die("signalfd");
	setenv("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", 1);
	setenv("HOME", "/root", 1);
	setenv("LANG", "C.UTF-8", 1);
	if (chdir("/root"))
		die("/root");
	if (is_init) {
		setenv("PYTHONPATH", "/usr/lib/livegraft", 1);
		sethostname("guest", 5);
	}
	send_frame(0, 'R', report, report_len);
	serve(signals);
}
