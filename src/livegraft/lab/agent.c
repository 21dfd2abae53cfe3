// SPDX-License-Identifier: GPL-2.0-or-later
/*
 * The guest's init: mounts what a Linux system has, loads the modules that the host chose, and then
 * runs the host's commands, which come over a virtio-serial port.
 *
 * Frames, both ways, integers little-endian: u32 length of the payload, u32 job, u8 kind, payload.
 *
 *   host -> guest                                   guest -> host
 *   S  start a job: argv, each word NUL-terminated  R  ready: one line for each module that failed
 *   I  input for its standard input                 1  its standard output
 *   E  end of its input                             2  its standard error
 *   K  u8 signal for its process group              X  s32 exit status, or minus the signal's number
 *   P  are you there?                               P  yes
 *
 * A job ends when its own process does: what a child of it prints afterwards is lost. The agent
 * itself opens no file after the start, so that a file system that hangs takes only the job along;
 * files are carried by the same binary run as a job ("/init put", "/init get").
 *
 * The channel is no console: the console shows only what the kernel has to say.
 */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/signalfd.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define PORT_NAME	"livegraft"
#define CHANNEL_LIST	"/lib/livegraft/channel"	/* modules without which there is no channel */
#define LOAD_LIST	"/lib/livegraft/load"		/* modules that the host wants besides */
#define PORT_WAIT_MS	10000
#define HANGUP_MS	3000	/* the host is not connected yet, or no more */
#define CHUNK		32768	/* the largest buffer that virtio_console takes in one write */
#define PIPE_READS	40	/* as many chunks as the largest pipe (1 MiB) holds, and some */
#define MAX_JOBS	256

struct job {
	uint32_t id;
	pid_t pid;
	int in, out, err;		/* the agent's ends of the pipes; -1 when closed */
	char *pending;			/* input that the job has not read yet */
	size_t pending_len;
	int end_of_input;
};

static struct job jobs[MAX_JOBS];
static int port = -1;

static void die(const char *what)
{
	fprintf(stderr, "livegraft-agent: %s: %s\n", what, strerror(errno));
	fflush(stderr);
	reboot(RB_POWER_OFF);
	_exit(1);
}

static void pause_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

static int write_all(int fd, const char *data, size_t len)
{
	while (len) {
		ssize_t n = write(fd, data, len < CHUNK ? len : CHUNK);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -1;
		data += n;
		len -= n;
	}
	return 0;
}

static void put32(char *at, uint32_t value)
{
	for (int i = 0; i < 4; i++)
		at[i] = value >> 8 * i;
}

static uint32_t get32(const char *at)
{
	const unsigned char *p = (const unsigned char *)at;

	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
}

static void send_frame(uint32_t job, char kind, const char *data, uint32_t len)
{
	static char buffer[CHUNK];

	/* One write for a small frame: each costs an exit to the host. */
	put32(buffer, len);
	put32(buffer + 4, job);
	buffer[8] = kind;
	if (len <= sizeof(buffer) - 9) {
		memcpy(buffer + 9, data, len);
		if (write_all(port, buffer, len + 9))
			die("write to the port");
	} else if (write_all(port, buffer, 9) || write_all(port, data, len)) {
		die("write to the port");
	}
}

static void send_status(uint32_t job, int32_t status)
{
	char data[4];

	put32(data, status);
	send_frame(job, 'X', data, sizeof(data));
}

/* -- the same binary as a job ------------------------------------------------------------------ */

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

static int insert_module(const char *path, const char *parameters)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	int failed;

	if (fd < 0)
		return -1;
	failed = syscall(SYS_finit_module, fd, parameters, 0);
	close(fd);
	return failed && errno != EEXIST ? -1 : 0;
}

static int be_a_job(int argc, char **argv)
{
	if (argc == 4 && !strcmp(argv[1], "put"))
		return put_file(argv[2], argv[3]);
	if (argc == 3 && !strcmp(argv[1], "get"))
		return get_file(argv[2]);
	if (argc == 4 && !strcmp(argv[1], "insert"))
		return insert_module(argv[2], argv[3]) ? complain(argv[2]) : 0;
	fprintf(stderr, "usage: %s put MODE PATH | get PATH | insert PATH PARAMETERS\n", argv[0]);
	return 2;
}

/* -- start ------------------------------------------------------------------------------------- */

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

static int has_our_name(const char *entry)
{
	char path[512], name[64] = "";
	FILE *file;

	snprintf(path, sizeof(path), "/sys/class/virtio-ports/%s/name", entry);
	file = fopen(path, "re");
	if (!file)
		return 0;
	if (!fgets(name, sizeof(name), file))
		name[0] = 0;
	fclose(file);
	return !strcmp(name, PORT_NAME "\n");
}

/* Ports are announced by messages of the host: they come a little after the driver. */
static int open_port(void)
{
	for (int ms = 0; ms < PORT_WAIT_MS; ms++) {
		DIR *folder = opendir("/sys/class/virtio-ports");
		struct dirent *entry;

		while (folder && (entry = readdir(folder))) {
			if (has_our_name(entry->d_name)) {
				char path[512];
				int fd;

				snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
				fd = open(path, O_RDWR | O_CLOEXEC);
				if (fd >= 0) {
					closedir(folder);
					return fd;
				}
			}
		}
		if (folder)
			closedir(folder);
		pause_ms(1);
	}
	errno = ENODEV;
	return -1;
}

/* -- jobs -------------------------------------------------------------------------------------- */

static struct job *find_job(uint32_t id)
{
	for (int i = 0; i < MAX_JOBS; i++)
		if (jobs[i].pid && jobs[i].id == id)
			return &jobs[i];
	return NULL;
}

static void close_end(int *fd)
{
	if (*fd >= 0)
		close(*fd);
	*fd = -1;
}

static void run_child(char *words, uint32_t len, int in, int out, int err)
{
	char **argv = calloc(len + 1, sizeof(*argv));
	sigset_t none;
	int argc = 0;

	for (char *word = words; word < words + len; word += strlen(word) + 1)
		argv[argc++] = word;
	setsid();
	dup2(in, 0);
	dup2(out, 1);
	dup2(err, 2);
	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	execvp(argv[0], argv);
	/* The statuses that a shell gives. */
	dprintf(2, "%s: %s\n", argv[0], strerror(errno));
	_exit(errno == ENOENT ? 127 : 126);
}

static void start_job(uint32_t id, char *words, uint32_t len)
{
	struct job *job = NULL;
	int in[2], out[2], err[2];

	for (int i = 0; i < MAX_JOBS && !job; i++)
		if (!jobs[i].pid)
			job = &jobs[i];
	if (!job || !len || words[len - 1] || pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC) ||
	    pipe2(err, O_CLOEXEC)) {
		static const char text[] = "the agent cannot start one more job\n";

		send_frame(id, '2', text, sizeof(text) - 1);
		send_status(id, 126);
		return;
	}
	memset(job, 0, sizeof(*job));
	job->pid = fork();
	if (!job->pid)
		run_child(words, len, in[0], out[1], err[1]);
	close(in[0]);
	close(out[1]);
	close(err[1]);
	if (job->pid < 0) {
		close(in[1]);
		close(out[0]);
		close(err[0]);
		job->pid = 0;
		send_status(id, 126);
		return;
	}
	job->id = id;
	job->in = in[1];
	job->out = out[0];
	job->err = err[0];
	fcntl(job->in, F_SETFL, O_NONBLOCK);
	fcntl(job->out, F_SETFL, O_NONBLOCK);
	fcntl(job->err, F_SETFL, O_NONBLOCK);
}

static void feed_job(struct job *job)
{
	while (job->in >= 0 && job->pending_len) {
		ssize_t n = write(job->in, job->pending, job->pending_len);

		if (n < 0 && errno == EAGAIN)
			return;
		if (n < 0) {
			job->pending_len = 0;
			close_end(&job->in);	/* it does not read any more */
			return;
		}
		job->pending_len -= n;
		memmove(job->pending, job->pending + n, job->pending_len);
	}
	if (job->end_of_input)
		close_end(&job->in);
}

static void add_input(struct job *job, const char *data, uint32_t len)
{
	char *grown;

	if (job->in < 0)
		return;
	grown = realloc(job->pending, job->pending_len + len);
	if (!grown)
		die("input");
	memcpy(grown + job->pending_len, data, len);
	job->pending = grown;
	job->pending_len += len;
	feed_job(job);
}

/* Pass on what the job printed; at most one chunk, so that no job keeps the others waiting. */
static int drain(struct job *job, int *fd, char kind)
{
	static char buffer[CHUNK - 9];
	ssize_t n;

	if (*fd < 0)
		return 0;
	n = read(*fd, buffer, sizeof(buffer));
	if (n > 0)
		send_frame(job->id, kind, buffer, n);
	else if (n == 0 || errno != EAGAIN)
		close_end(fd);
	return n > 0;
}

static void reap(void)
{
	int status;
	pid_t pid;

	while ((pid = waitpid(-1, &status, WNOHANG)) > 0) {
		for (int i = 0; i < MAX_JOBS; i++) {
			struct job *job = &jobs[i];

			if (job->pid != pid)
				continue;
			/* Bounded: a child that it left behind may go on printing for ever. */
			for (int n = 0; n < PIPE_READS && drain(job, &job->out, '1'); n++)
				;
			for (int n = 0; n < PIPE_READS && drain(job, &job->err, '2'); n++)
				;
			close_end(&job->in);
			close_end(&job->out);
			close_end(&job->err);
			free(job->pending);
			send_status(job->id, WIFEXITED(status) ? WEXITSTATUS(status)
							       : -WTERMSIG(status));
			memset(job, 0, sizeof(*job));
		}
	}
}

static void obey(uint32_t id, char kind, char *data, uint32_t len)
{
	struct job *job = find_job(id);

	if (kind == 'S')
		start_job(id, data, len);
	else if (kind == 'P')
		send_frame(id, 'P', "", 0);
	else if (job && kind == 'I')
		add_input(job, data, len);
	else if (job && kind == 'E') {
		job->end_of_input = 1;
		feed_job(job);
	} else if (job && kind == 'K' && len == 1)
		kill(-job->pid, data[0]);
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
	n = read(port, buffer + have, CHUNK);
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

		fds[0] = (struct pollfd){ .fd = port, .events = POLLIN };
		fds[1] = (struct pollfd){ .fd = signals, .events = POLLIN };
		for (int i = 0; i < MAX_JOBS; i++) {
			if (!jobs[i].pid)
				continue;
			fds[used++] = (struct pollfd){ .fd = jobs[i].out, .events = POLLIN };
			fds[used++] = (struct pollfd){ .fd = jobs[i].err, .events = POLLIN };
			fds[used++] = (struct pollfd){
				.fd = jobs[i].pending_len ? jobs[i].in : -1, .events = POLLOUT };
		}
		if (poll(fds, used, -1) < 0 && errno != EINTR)
			die("poll");
		for (int i = 0; i < MAX_JOBS; i++) {
			if (!jobs[i].pid)
				continue;
			drain(&jobs[i], &jobs[i].out, '1');
			drain(&jobs[i], &jobs[i].err, '2');
			feed_job(&jobs[i]);
		}
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
	char *report = NULL;
	size_t report_len = 0;
	sigset_t mask;
	FILE *stream;
	int signals;

	if (getpid() != 1)
		return be_a_job(argc, argv);
	mount_all();
	stream = open_memstream(&report, &report_len);
	insert_all(CHANNEL_LIST, stderr);
	port = open_port();
	if (port < 0)
		die("port " PORT_NAME);
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
	setenv("PYTHONPATH", "/usr/lib/livegraft", 1);
	if (chdir("/root"))
		die("/root");
	sethostname("guest", 5);
	send_frame(0, 'R', report, report_len);
	serve(signals);
}
