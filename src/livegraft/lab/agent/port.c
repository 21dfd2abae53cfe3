// SPDX-License-Identifier: GPL-2.0-or-later
/* The way to the host: a virtio-serial port, and the frames on it. */
#define _GNU_SOURCE
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/reboot.h>
#include <time.h>
#include <unistd.h>

#include "agent.h"

static int port = -1;

void die(const char *what)
{
	fprintf(stderr, "livegraft-agent: %s: %s\n", what, strerror(errno));
	fflush(stderr);
	reboot(RB_POWER_OFF);
	_exit(1);
}

void pause_ms(long ms)
{
	struct timespec t = { ms / 1000, ms % 1000 * 1000000 };

	nanosleep(&t, NULL);
}

int write_all(int fd, const char *data, size_t len)
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

uint32_t get32(const char *at)
{
	const unsigned char *p = (const unsigned char *)at;

	return p[0] | p[1] << 8 | p[2] << 16 | (uint32_t)p[3] << 24;
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
void open_port(void)
{
	for (int ms = 0; ms < PORT_WAIT_MS; ms++) {
		DIR *folder = opendir("/sys/class/virtio-ports");
		struct dirent *entry;

		while (folder && (entry = readdir(folder))) {
			if (has_our_name(entry->d_name)) {
				char path[512];

				snprintf(path, sizeof(path), "/dev/%s", entry->d_name);
				port = open(path, O_RDWR | O_CLOEXEC);
				if (port >= 0) {
					closedir(folder);
					return;
				}
			}
		}
		if (folder)
			closedir(folder);
		pause_ms(1);
	}
	errno = ENODEV;
	die("port " PORT_NAME);
}

int port_descriptor(void)
{
	return port;
}

void send_frame(uint32_t job, char kind, const char *data, uint32_t len)
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

void send_status(uint32_t job, int32_t status)
{
	char data[4];

	put32(data, status);
	send_frame(job, 'X', data, sizeof(data));
}
