/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the benchmark programs share: pinning, clocks, lines of JSON for bench/run. */
#ifndef BENCH_H
#define BENCH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdnoreturn.h>
#include <time.h>

#define BENCH_MAX_ROUNDS 256

/* Rounds of one case. */
struct bench_rounds {
	double value[BENCH_MAX_ROUNDS];
	int nr;
};

noreturn void bench_die(const char *what, int err);
/* The CPUs that this process may use, at most @max; how many there are. */
int bench_cpus(int *cpus, int max);
/* The calling thread; -1: anywhere. */
void bench_pin(int cpu);
/* Wake up when asked to, and not up to 50 us later. */
void bench_no_timer_slack(void);
void bench_add(struct bench_rounds *r, double value);
/* @q in 0 ... 1 of @nr values, which are sorted. */
double bench_quantile(double *values, size_t nr, double q);
/*
 * A line for bench/run. @params is JSON without its braces: "\"payload\": 32". @error NULL: number and
 * content of what was received were right.
 */
void bench_print(const char *bench, const char *name, const char *params, const char *unit,
		 const struct bench_rounds *r, const char *error);
void bench_skip(const char *bench, const char *name, const char *params, const char *why);
/* Shared memory as regions are: a memfd's, all of its pages there. */
void *bench_memory(size_t size);
/* Let all pages of @mem be there, so that no fault is measured. */
void bench_touch(void *mem, size_t size);
/* The path, in @path, of a file that lies beside this program. */
const char *bench_beside(char *path, size_t size, const char *name);

static inline uint64_t bench_clock(clockid_t id)
{
	struct timespec ts;

	clock_gettime(id, &ts);
	return (uint64_t)ts.tv_sec * 1000000000 + (uint64_t)ts.tv_nsec;
}

static inline uint64_t bench_now(void)
{
	return bench_clock(CLOCK_MONOTONIC);
}

static inline void bench_relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#endif
}

/* A cheap clock of which all CPUs have about the same reading, in ticks. */
static inline uint64_t bench_ticks(void)
{
#if defined(__x86_64__)
	return __builtin_ia32_rdtsc();
#elif defined(__aarch64__)
	uint64_t t;

	__asm__ volatile("isb; mrs %0, cntvct_el0" : "=r"(t)::"memory");
	return t;
#endif
}

/* Nanoseconds of a tick, measured once. */
double bench_tick_ns(void);

#endif
