/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The flight recorder is the reader's, on this machine: it is told by SIGUSR1, and the guest is not asked.
 * The reader is who holds the lock of the region's file, or started who does. Only a process that catches
 * the signal gets it: others would die of it.
 */
#include "ctl.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <unistd.h>

#include "message.h"

/* Who has it by flock(2); 0: nobody. */
static int find_holder(const struct stat *st)
{
	char line[256], kind[16];
	unsigned int major, minor;
	unsigned long long ino;
	int pid, holder = 0;
	FILE *f = fopen("/proc/locks", "re");

	while (f && !holder && fgets(line, sizeof(line), f))
		if (sscanf(line, "%*d: %15s %*s WRITE %d %x:%x:%llu", kind, &pid, &major, &minor, &ino) == 5 &&
		    !strcmp(kind, "FLOCK") && ino == st->st_ino && makedev(major, minor) == st->st_dev)
			holder = pid;
	if (f)
		fclose(f);
	return holder;
}

/* Its parent, and whether it is a host-reader that catches the signal. */
static bool look_at(int pid, int *parent)
{
	char path[64], line[256], name[32] = "";
	unsigned long long caught = 0;
	FILE *f;

	*parent = 0;
	snprintf(path, sizeof(path), "/proc/%d/status", pid);
	f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		sscanf(line, "Name: %31s", name);
		sscanf(line, "PPid: %d", parent);
		sscanf(line, "SigCgt: %llx", &caught);
	}
	if (f)
		fclose(f);
	return !strcmp(name, "host-reader") && caught >> (SIGUSR1 - 1) & 1;
}

int ctl_snapshot(int fd, const char *path)
{
	int holder, pid, parent, pidfd, err = 0;
	struct stat st;

	if (fstat(fd, &st)) {
		say("%s: %s", path, strerror(errno));
		return -1;
	}
	holder = pid = find_holder(&st);
	if (!holder) {
		say("%s: no host-reader reads it: start one with --snapshot", path);
		return -1;
	}
	if (!look_at(pid, &parent)) /* a process that opens files for it */
		pid = parent;
	pidfd = pid > 0 ? (int)syscall(SYS_pidfd_open, pid, 0) : -1;
	/* What is open now is the process that is looked at now. */
	if (pidfd < 0 || find_holder(&st) != holder || !look_at(pid, &parent)) {
		say("%s: its reader (process %d) has no flight recorder: start it with --snapshot", path, holder);
		err = -1;
	} else if (syscall(SYS_pidfd_send_signal, pidfd, SIGUSR1, NULL, 0)) {
		say("%s: its reader (process %d) cannot be told: %s", path, pid, strerror(errno));
		err = -1;
	}
	if (pidfd >= 0)
		close(pidfd);
	return err;
}
