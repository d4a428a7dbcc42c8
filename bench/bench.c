// SPDX-License-Identifier: LGPL-2.1-or-later
#include <errno.h>
#include <math.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#include "bench.h"

noreturn void bench_die(const char *what, int err)
{
	fprintf(stderr, "%s: %s: %s\n", program_invocation_short_name, what, strerror(abs(err)));
	exit(1);
}

int bench_cpus(int *cpus, int max)
{
	cpu_set_t set;
	int nr = 0;

	if (sched_getaffinity(0, sizeof(set), &set))
		bench_die("sched_getaffinity", errno);
	for (int i = 0; i < CPU_SETSIZE && nr < max; i++)
		if (CPU_ISSET(i, &set))
			cpus[nr++] = i;
	return nr;
}

void bench_pin(int cpu)
{
	cpu_set_t set;

	CPU_ZERO(&set);
	for (int i = 0; i < CPU_SETSIZE; i++)
		if (cpu < 0 || i == cpu)
			CPU_SET(i, &set);
	if (sched_setaffinity(0, sizeof(set), &set))
		bench_die("sched_setaffinity", errno);
}

void bench_no_timer_slack(void)
{
	prctl(PR_SET_TIMERSLACK, 1);
}

void bench_add(struct bench_rounds *r, double value)
{
	if (r->nr < BENCH_MAX_ROUNDS)
		r->value[r->nr++] = value;
}

static int by_value(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_quantile(double *values, size_t nr, double q)
{
	if (!nr)
		return NAN;
	qsort(values, nr, sizeof(*values), by_value);
	return values[(size_t)(q * (double)(nr - 1) + 0.5)];
}

void bench_print(const char *bench, const char *name, const char *params, const char *unit,
		 const struct bench_rounds *r, const char *error)
{
	printf("{\"bench\": \"%s\", \"case\": \"%s\", \"params\": {%s}, \"unit\": \"%s\", \"rounds\": [",
	       bench, name, params, unit);
	for (int i = 0; i < r->nr; i++)
		printf("%s%.3f", i ? ", " : "", r->value[i]);
	printf("], \"checked\": %s", error ? "false" : "true");
	if (error)
		printf(", \"error\": \"%s\"", error);
	printf("}\n");
}

void bench_skip(const char *bench, const char *name, const char *params, const char *why)
{
	printf("{\"bench\": \"%s\", \"case\": \"%s\", \"params\": {%s}, \"skipped\": \"%s\"}\n", bench,
	       name, params, why);
}

void *bench_memory(size_t size)
{
	int fd = memfd_create("bench", MFD_CLOEXEC);
	void *mem;

	if (fd < 0 || ftruncate(fd, (off_t)size))
		bench_die("memfd", errno);
	mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 0);
	if (mem == MAP_FAILED)
		bench_die("mmap", errno);
	close(fd);
	return mem;
}

void bench_touch(void *mem, size_t size)
{
	uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), at = (uintptr_t)mem & ~(page - 1);

	if (madvise((void *)at, ((uintptr_t)mem + size - at + page - 1) & ~(page - 1),
		    MADV_POPULATE_WRITE))
		bench_die("madvise", errno);
}

const char *bench_beside(char *path, size_t size, const char *name)
{
	ssize_t len = readlink("/proc/self/exe", path, size - 1);
	char *base;

	path[len > 0 ? len : 0] = 0;
	base = strrchr(path, '/');
	base = base ? base + 1 : path;
	if (strlen(name) >= size - (size_t)(base - path))
		bench_die(name, ENAMETOOLONG);
	strcpy(base, name);
	return path;
}

double bench_tick_ns(void)
{
	static double ns;

	if (ns == 0) {
		uint64_t t = bench_now(), ticks = bench_ticks(), end;

		do
			end = bench_now();
		while (end - t < 20000000);
		ns = (double)(end - t) / (double)(bench_ticks() - ticks);
	}
	return ns;
}
