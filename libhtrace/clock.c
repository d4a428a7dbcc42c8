/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* This machine's clocks: may the TSC be used, and what do all of them say now? */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#ifdef __x86_64__
#include <cpuid.h>
#include <sys/prctl.h>
#endif

#include <htrace/clock.h>

#include "core.h"

#define CLOCKSOURCES "/sys/devices/system/clocksource/clocksource0/available_clocksource"

/* Is "tsc" among the words of the file? The kernel takes out what it found to be unstable. */
static int offered(const char *path, char *err, size_t errlen)
{
	FILE *f = fopen(path, "re");
	char word[32];
	bool found = false;

	if (!f) {
		htrace_errf(err, errlen, "cannot tell whether the kernel trusts the TSC: %s: %s", path,
			    strerror(errno));
		return -EOPNOTSUPP;
	}
	while (!found && fscanf(f, "%31s", word) == 1)
		found = !strcmp(word, "tsc");
	fclose(f);
	if (!found)
		htrace_errf(err, errlen, "the kernel does not offer the TSC as a clocksource: it found "
			    "it unstable, or was told so");
	return found ? 0 : -EOPNOTSUPP;
}

int htrace_tsc_check(bool invariant, bool readable, const char *clocksources, char *err,
		     size_t errlen)
{
	if (!invariant) {
		htrace_errf(err, errlen, "the CPU does not say that its TSC is invariant (in a VM: the "
			    "CPU model lacks invtsc)");
		return -EOPNOTSUPP;
	}
	if (!readable) {
		htrace_errf(err, errlen, "this process may not read the TSC (prctl PR_SET_TSC)");
		return -EOPNOTSUPP;
	}
	return offered(clocksources, err, errlen);
}

#ifdef __x86_64__
static int check_tsc(char *err, size_t errlen)
{
	unsigned int a, b, c, d = 0;
	int how = PR_TSC_ENABLE;

	/* The highest leaf is asked for first. Bit 8: it runs at one rate, in every state of the CPU. */
	if (!__get_cpuid(0x80000007, &a, &b, &c, &d))
		d = 0;
	if (prctl(PR_GET_TSC, &how))
		how = PR_TSC_ENABLE;
	return htrace_tsc_check(d >> 8 & 1, how == PR_TSC_ENABLE, CLOCKSOURCES, err, errlen);
}
#else
static int check_tsc(char *err, size_t errlen)
{
	htrace_errf(err, errlen, "this machine has no TSC; its clock is CLOCK_MONOTONIC");
	return -EOPNOTSUPP;
}
#endif

int htrace_clock_check(__u32 clock_id, char *err, size_t errlen)
{
	switch (clock_id) {
	case HTRACE_CLOCK_MONOTONIC:
		return 0;
	case HTRACE_CLOCK_TSC:
		return check_tsc(err, errlen);
	default:
		htrace_errf(err, errlen, "unknown clock %u", clock_id);
		return -EINVAL;
	}
}

__u32 htrace_clock_best(void)
{
	return htrace_clock_check(HTRACE_CLOCK_TSC, NULL, 0) ? HTRACE_CLOCK_MONOTONIC :
							       HTRACE_CLOCK_TSC;
}

static __u64 now(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (__u64)t.tv_sec * 1000000000ULL + (__u64)t.tv_nsec;
}

__u64 htrace_clock_monotonic(void)
{
	return now(CLOCK_MONOTONIC);
}

/* Fenced on both sides: what is read between two of these is read between their times. */
static __u64 tsc(void)
{
#ifdef __x86_64__
	__u64 v = htrace_clock_tsc();

	__builtin_ia32_lfence();
	return v;
#else
	return 0;
#endif
}

void htrace_clock_take(struct htrace_clock_sample *best)
{
	best->width = ~0ULL;
	/* The tightest of a few: an interrupt between the readings would make a wide one. */
	for (int i = 0; i < 4; i++) {
		struct htrace_clock_sample s;
		__u64 before = tsc(), after;

		s.mono = now(CLOCK_MONOTONIC);
		after = tsc();
		s.tsc = before + (after - before) / 2;
		s.width = after - before;
		s.real = now(CLOCK_REALTIME);
		if (s.width < best->width)
			*best = s;
	}
}
