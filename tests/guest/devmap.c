/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What /dev/htrace does with memory of its own: requests whose buffers lie in a mapping of it that
 * nobody has touched, and mappings of all kinds. Says "devmap: all right" at the end, unless a check
 * fails or a request does not return.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "../../guest-agent/kmod/htrace_module.h"

#define PAGE 4096
#define PATIENCE 10 /* seconds; a request takes milliseconds */

static size_t size; /* of the device's memory */

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "devmap: %s failed: %s\n", what, strerror(errno));
		exit(1);
	}
}

static int open_device(int flags)
{
	int fd = open(HTRACE_MODULE_DEVICE, flags);

	check(fd >= 0, "open");
	return fd;
}

/* A mapping without page tables; its last page, which nothing in the device uses. */
static char *untouched(int fd, int prot)
{
	char *mem = mmap(NULL, size, prot, MAP_SHARED, fd, 0);

	check(mem != MAP_FAILED, prot & PROT_WRITE ? "mapping" : "mapping read-only");
	return mem + size - PAGE;
}

static void ask(int fd)
{
	struct htrace_module_info *info = (void *)untouched(fd, PROT_READ | PROT_WRITE);

	check(!ioctl(fd, HTRACE_MODULE_INFO, info), "HTRACE_MODULE_INFO");
	check(info->version == HTRACE_MODULE_VERSION && info->size == size, "what it told");
	memset(info, 0, sizeof(*info));
	check(!ioctl(fd, HTRACE_MODULE_RINGS, untouched(fd, PROT_READ | PROT_WRITE)),
	      "HTRACE_MODULE_RINGS");
	check(ioctl(fd, HTRACE_MODULE_BELL, untouched(fd, PROT_READ | PROT_WRITE)) &&
	      errno == EOPNOTSUPP, "refusing HTRACE_MODULE_BELL, of a device without interrupts,");
	check(ioctl(fd, HTRACE_MODULE_INFO, untouched(fd, PROT_READ)) && errno == EFAULT,
	      "refusing to write what is read-only");
}

/* One that hangs cannot be killed: another process has to tell of it. */
static void check_requests(void)
{
	int status, fd = open_device(O_RDWR);
	pid_t child = fork();

	if (!child) {
		ask(fd);
		exit(0);
	}
	close(fd);
	for (int i = 0; i < PATIENCE * 100; i++) {
		if (waitpid(child, &status, WNOHANG) == child) {
			check(!status, "a request");
			return;
		}
		usleep(10000);
	}
	errno = ETIMEDOUT;
	check(false, "a request whose buffer is in the device's memory");
}

/* Who may not write the memory may not say where programs write, nor ring. */
static void check_read_only(void)
{
	struct htrace_module_info info;
	struct htrace_module_rings none = { 0 };
	struct htrace_module_bell bell = { 0 };
	int fd = open_device(O_RDONLY);

	check(!ioctl(fd, HTRACE_MODULE_INFO, &info), "HTRACE_MODULE_INFO of a read-only file");
	check(ioctl(fd, HTRACE_MODULE_RINGS, &none) && errno == EBADF,
	      "refusing HTRACE_MODULE_RINGS of a read-only file");
	check(ioctl(fd, HTRACE_MODULE_BELL, &bell) && errno == EBADF,
	      "refusing HTRACE_MODULE_BELL of a read-only file");
}

static void check_mappings(void)
{
	int fd = open_device(O_RDONLY), both = open_device(O_RDWR);
	char *shown = untouched(fd, PROT_READ), *mem = untouched(both, PROT_READ | PROT_WRITE);

	strcpy(mem, "seen");
	check(!strcmp(shown, "seen"), "reading through a read-only mapping");
	memset(mem, 0, 8);
	check(mprotect(shown, PAGE, PROT_READ | PROT_WRITE) && errno == EACCES,
	      "refusing to make it writable");
	check(mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0) == MAP_FAILED &&
	      errno == EACCES, "refusing a writable mapping of a read-only file");
	check(mmap(NULL, size, PROT_READ, MAP_PRIVATE, both, 0) == MAP_FAILED && errno == EINVAL,
	      "refusing a private mapping");
	check(mmap(NULL, size, PROT_READ, MAP_SHARED, both, PAGE) == MAP_FAILED && errno == EINVAL,
	      "refusing more than there is");
}

int main(void)
{
	struct htrace_module_info info;

	check(!ioctl(open_device(O_RDWR), HTRACE_MODULE_INFO, &info), "HTRACE_MODULE_INFO");
	size = info.size;
	check_requests();
	check_read_only();
	check_mappings();
	puts("devmap: all right");
	return 0;
}
