/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes known exits of the guest that it runs in, each between two system calls that can be traced:
 *
 *   causes N RESOURCE0 [BURST MS]	N times: prctl(0x68747263, i, 0), writes 0x68740000 + i to a register of ivshmem-plain that
 *					can only be read, prctl(0x68747263, i, 1); then calls prctl(0x68747264, i, time) and sleeps
 *					until that time of CLOCK_MONOTONIC, 2 ms or some; after each BURST of them for MS
 */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <time.h>
#include <unistd.h>

#define BORDER 0x68747263
#define SLEEP 0x68747264
#define IV_POSITION 2 /* in words */
#define WRITTEN 0x68740000
#define MS 1000000L

int main(int argc, char **argv)
{
	long n = argc >= 3 ? strtol(argv[1], NULL, 10) : 0, burst = n, ms = 0;
	int fd = argc >= 3 ? open(argv[2], O_RDWR) : -1;
	volatile unsigned int *registers = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	if (n <= 0 || n > 0xffff || registers == MAP_FAILED) {
		perror("causes");
		return 1;
	}
	if (argc == 5) {
		burst = strtol(argv[3], NULL, 10);
		ms = strtol(argv[4], NULL, 10);
	}
	prctl(PR_SET_TIMERSLACK, 1);
	for (long i = 1; i <= n; i++) {
		struct timespec t;

		prctl(BORDER, i, 0);
		registers[IV_POSITION] = WRITTEN + (unsigned int)i;
		prctl(BORDER, i, 1);
		clock_gettime(CLOCK_MONOTONIC, &t);
		t.tv_nsec += 2 * MS + i % 7 * 100000;
		t.tv_sec += t.tv_nsec / 1000000000;
		t.tv_nsec %= 1000000000;
		prctl(SLEEP, i, t.tv_sec * 1000000000 + t.tv_nsec);
		clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &t, NULL);
		if (burst > 0 && i % burst == 0)
			usleep((useconds_t)ms * 1000);
	}
	return 0;
}
