/* SPDX-License-Identifier: GPL-2.0-or-later */
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
#ifndef LIVEGRAFT_AGENT_H
#define LIVEGRAFT_AGENT_H

#include <poll.h>
#include <stdint.h>

#define PORT_NAME	"livegraft"
#define CHANNEL_LIST	"/lib/livegraft/channel"	/* modules without which there is no channel */
#define LOAD_LIST	"/lib/livegraft/load"		/* modules that the host wants besides */
#define PORT_WAIT_MS	10000
#define HANGUP_MS	3000	/* the host is not connected yet, or no more */
#define CHUNK		32768	/* the largest buffer that virtio_console takes in one write */
#define PIPE_READS	40	/* as many chunks as the largest pipe (1 MiB) holds, and some */
#define MAX_JOBS	256

/* port.c: the way to the host */
void die(const char *what) __attribute__((noreturn));
void pause_ms(long ms);
int write_all(int fd, const char *data, size_t len);
uint32_t get32(const char *at);
void open_port(void);
int port_descriptor(void);
void send_frame(uint32_t job, char kind, const char *data, uint32_t len);
void send_status(uint32_t job, int32_t status);

/* files.c: the same binary run as a job */
int be_a_job(int argc, char **argv);
int insert_module(const char *path, const char *parameters);

/* jobs.c: what the host wants to be run */
void start_job(uint32_t id, char *words, uint32_t len);
void add_input(uint32_t id, const char *data, uint32_t len);
void end_input(uint32_t id);
void kill_job(uint32_t id, int number);
int watch_jobs(struct pollfd *fds);
void serve_jobs(void);
void reap(void);

#endif
