// SPDX-License-Identifier: GPL-2.0-or-later
/* What the host wants to be run: processes, and what goes in and comes out of them. */
#define _GNU_SOURCE
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#include "agent.h"

struct job {
	uint32_t id;
	pid_t pid;
	int in, out, err;		/* the agent's ends of the pipes; -1 when closed */
	char *pending;			/* input that the job has not read yet */
	size_t pending_len;
	int end_of_input;
};

static struct job jobs[MAX_JOBS];

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

void start_job(uint32_t id, char *words, uint32_t len)
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

void add_input(uint32_t id, const char *data, uint32_t len)
{
	struct job *job = find_job(id);
	char *grown;

	if (!job || job->in < 0)
		return;
	grown = realloc(job->pending, job->pending_len + len);
	if (!grown)
		die("input");
	memcpy(grown + job->pending_len, data, len);
	job->pending = grown;
	job->pending_len += len;
	feed_job(job);
}

void end_input(uint32_t id)
{
	struct job *job = find_job(id);

	if (!job)
		return;
	job->end_of_input = 1;
	feed_job(job);
}

void kill_job(uint32_t id, int number)
{
	struct job *job = find_job(id);

	if (job)
		kill(-job->pid, number);
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

/* Fill in what to poll for; returns the number of entries. */
int watch_jobs(struct pollfd *fds)
{
	int used = 0;

	for (int i = 0; i < MAX_JOBS; i++) {
		if (!jobs[i].pid)
			continue;
		fds[used++] = (struct pollfd){ .fd = jobs[i].out, .events = POLLIN };
		fds[used++] = (struct pollfd){ .fd = jobs[i].err, .events = POLLIN };
		fds[used++] = (struct pollfd){
			.fd = jobs[i].pending_len ? jobs[i].in : -1, .events = POLLOUT };
	}
	return used;
}

void serve_jobs(void)
{
	for (int i = 0; i < MAX_JOBS; i++) {
		if (!jobs[i].pid)
			continue;
		drain(&jobs[i], &jobs[i].out, '1');
		drain(&jobs[i], &jobs[i].err, '2');
		feed_job(&jobs[i]);
	}
}

void reap(void)
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
