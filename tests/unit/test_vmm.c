// SPDX-License-Identifier: LGPL-2.1-or-later
/* Who runs a guest: the process that maps the region's file, writable, as a whole; nobody else, and of two none. */
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "unit.h"
#include "vmm.h"

#define SIZE 65536
#define LINE 512 /* bytes of /proc/PID/maps that are read at once */
#define PATH_AT 73 /* in a line of it */

static char top[] = "/tmp/test-vmm-XXXXXX";
static struct stat region;

static void make_file(const char *path)
{
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	ck_assert(fd >= 0 && !ftruncate(fd, SIZE) && !close(fd));
}

static void setup(void)
{
	strcpy(top + sizeof(top) - 7, "XXXXXX");
	ck_assert(mkdtemp(top) && !chdir(top));
	make_file("region");
	ck_assert(!stat("region", &region));
}

static void teardown(void)
{
	char command[64];

	ck_assert(!chdir("/"));
	snprintf(command, sizeof(command), "rm -rf %s", top);
	ck_assert(!system(command));
}

/* A process that maps the file so, from now on. */
static pid_t mapper(const char *path, size_t len, int prot, int flags)
{
	int ready[2];
	pid_t child;
	char byte;

	ck_assert(!pipe(ready));
	child = fork();
	if (!child) {
		int fd = open(path, O_RDWR);

		if (fd < 0 || mmap(NULL, len, prot, flags, fd, 0) == MAP_FAILED || write(ready[1], "x", 1) != 1)
			_exit(1);
		for (;;)
			pause();
	}
	close(ready[1]);
	ck_assert_int_eq(read(ready[0], &byte, 1), 1);
	close(ready[0]);
	return child;
}

static void end(pid_t child)
{
	kill(child, SIGKILL);
	waitpid(child, NULL, 0);
}

static int scan(int reader)
{
	return vmm_scan(region.st_dev, region.st_ino, SIZE, reader);
}

START_TEST(test_found)
{
	pid_t a, b;

	ck_assert_int_eq(scan(0), 0);
	a = mapper("region", SIZE, PROT_READ | PROT_WRITE, MAP_SHARED);
	ck_assert_int_eq(scan(0), a);
	ck_assert_int_eq(scan(a), 0); /* that is the reader */
	b = mapper("region", SIZE, PROT_READ | PROT_WRITE, MAP_SHARED);
	ck_assert_int_eq(scan(0), 0); /* which of them? */
	ck_assert_int_eq(scan(a), b);
	end(a);
	ck_assert_int_eq(scan(0), b);
	end(b);
	ck_assert_int_eq(scan(0), 0);
}
END_TEST

START_TEST(test_others)
{
	pid_t reads = mapper("region", SIZE, PROT_READ, MAP_SHARED);
	pid_t copies = mapper("region", SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE);
	pid_t part = mapper("region", SIZE / 2, PROT_READ | PROT_WRITE, MAP_SHARED);

	ck_assert_int_eq(scan(0), 0);
	end(reads);
	end(copies);
	end(part);
}
END_TEST

/* The name of its file is so long that what is left of the line looks like another one. */
START_TEST(test_long_line)
{
	char path[4096] = "", line[128];
	size_t len = strlen(top) + 1;
	pid_t child;

	while (PATH_AT + len < LINE - 1) {
		size_t part = LINE - 1 - PATH_AT - len;

		part = part > 200 ? part == 201 ? 199 : 200 : part; /* the last one is no empty name */
		memset(path + strlen(path), 'x', part);
		len += part;
		if (PATH_AT + len < LINE - 1) {
			ck_assert(!mkdir(path, 0700));
			strcat(path, "/");
			len++;
		}
	}
	snprintf(line, sizeof(line), "10000-90000 rw-s 00000000 00:01 %llu", (unsigned long long)region.st_ino);
	strcat(path, line);
	make_file(path);
	child = mapper(path, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED);
	ck_assert_int_eq(scan(0), 0);
	end(child);
}
END_TEST

/* By what its threads do while they are watched. Of one that was not nothing is known. */
START_TEST(test_idles)
{
	static struct vmm v;
	pid_t child = fork();

	ck_assert_int_ge(child, 0);
	while (!child)
		if (_i)
			pause();
	usleep(100000); /* until it waits */
	v.pid = child;
	v.pidfd = -1;
	ck_assert(!vmm_idles(&v, 0));
	vmm_watch(&v, 0);
	usleep(100000);
	ck_assert(vmm_idles(&v, 100000000) == (_i == 1));
	end(child);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vmm");
	TCase *t = tcase_create("all");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_found);
	tcase_add_test(t, test_others);
	tcase_add_test(t, test_long_line);
	tcase_add_loop_test(t, test_idles, 0, 2);
	suite_add_tcase(s, t);
	return unit_run(s);
}
