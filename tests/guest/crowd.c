/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What makes a guest's kernel ask its host for something.
 *
 *   crowd locks SECONDS      a thread on each CPU takes the same spinlock of the kernel (its process's signals), and all are
 *                            interrupted, 100 times at least; prints "CROWD N": how often
 *   crowd pages MIB SECONDS  fills so much memory, prints "FILLED", sleeps, reads all of it; prints "CROWD N": pages
 */
#include <linux/membarrier.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define MIN_BARRIERS 100
#define PAGE 4096

static bool over; /* written by the main thread, read by all, relaxed */

static void *take_lock(void *number)
{
	sigset_t some, before;
	cpu_set_t set;

	CPU_ZERO(&set);
	CPU_SET((unsigned long)number, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		exit(3);
	sigemptyset(&some);
	sigaddset(&some, SIGUSR1);
	while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
		sigprocmask(SIG_BLOCK, &some, &before);
		sigprocmask(SIG_SETMASK, &before, NULL);
	}
	return NULL;
}

static int locks(double seconds)
{
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);
	time_t end = time(NULL) + (time_t)seconds;
	pthread_t thread[64];
	int barriers = 0;

	if (cpus > 64 || syscall(SYS_membarrier, MEMBARRIER_CMD_REGISTER_PRIVATE_EXPEDITED, 0, 0))
		return 1;
	for (long i = 0; i < cpus; i++)
		if (pthread_create(&thread[i], NULL, take_lock, (void *)i))
			return 1;
	while (time(NULL) < end || barriers < MIN_BARRIERS) {
		if (syscall(SYS_membarrier, MEMBARRIER_CMD_PRIVATE_EXPEDITED, 0, 0))
			return 1;
		barriers++;
		usleep(1000);
	}
	__atomic_store_n(&over, true, __ATOMIC_RELAXED);
	for (long i = 0; i < cpus; i++)
		pthread_join(thread[i], NULL);
	printf("CROWD %d\n", barriers);
	return 0;
}

static int pages(size_t size, unsigned int seconds)
{
	volatile unsigned char *p = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	unsigned long sum = 0;

	if (p == MAP_FAILED)
		return 1;
	for (size_t i = 0; i < size; i++) /* all of it, that no two pages are equal */
		p[i] = (unsigned char)(i * 2654435761u >> 13);
	printf("FILLED\n");
	fflush(stdout);
	sleep(seconds);
	for (size_t i = 0; i < size; i += PAGE)
		sum += p[i];
	printf("CROWD %zu %lu\n", size / PAGE, sum);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc == 3 && !strcmp(argv[1], "locks"))
		return locks(atof(argv[2]));
	if (argc == 4 && !strcmp(argv[1], "pages"))
		return pages((size_t)atoi(argv[2]) << 20, (unsigned int)atoi(argv[3]));
	fprintf(stderr, "crowd: see its source\n");
	return 2;
}
