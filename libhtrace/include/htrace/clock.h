/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Clocks: reading the one that a region is stamped with, choosing it, and telling what its times are
 * in CLOCK_MONOTONIC and CLOCK_REALTIME of the machine that produced them.
 *
 * Producers of user space stamp with the TSC where it is *invariant* (it runs at one rate, in step on
 * all CPUs, whatever they do), else with CLOCK_MONOTONIC; BPF programs have CLOCK_MONOTONIC only. The
 * superblock says which. On aarch64 it is always CLOCK_MONOTONIC.
 *
 * htrace_clock_tsc() needs nothing but the compiler: it is there in freestanding code, too, and so is
 * htrace_clock_read(), which calls htrace_clock_monotonic() where no libc can be asked.
 */
#ifndef HTRACE_CLOCK_H
#define HTRACE_CLOCK_H

#include <htrace/ring.h>

#ifdef __x86_64__
/*
 * The TSC, not before all earlier loads are done. Without the fence the CPU may read it while the
 * load of head is still under way: of two threads on two cores, the one that reserved later then has
 * the earlier time, by 100 ns and more, at several of a hundred changes of turn. Later instructions
 * may begin before it is read; but no store, the CAS on head included, is visible to others before
 * it. So read between the load of head and the CAS, times rise with positions.
 */
HTRACE_INLINE __u64 htrace_clock_tsc(void)
{
	__u32 low, high;

	__asm__ volatile("lfence\n\trdtsc" : "=a"(low), "=d"(high)::"memory");
	return (__u64)high << 32 | low;
}
#endif

#if !defined(__bpf__) && !defined(__KERNEL__)

#if __STDC_HOSTED__
#include <stdbool.h>
#include <stddef.h>
#include <time.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/*
 * CLOCK_MONOTONIC, ns. Any thread or signal handler. The library has it; a freestanding program without
 * the library that uses htrace_clock_read() or what reads it brings one of its own.
 */
__u64 htrace_clock_monotonic(void);

/*
 * Now, by the clock @clock_id (enum htrace_clock_id) of this machine. Any thread or signal handler.
 * Times rise with positions if it is read between the load of a ring's head and the CAS.
 */
HTRACE_INLINE __u64 htrace_clock_read(__u32 clock_id)
{
#ifdef __x86_64__
	if (clock_id == HTRACE_CLOCK_TSC)
		return htrace_clock_tsc();
#endif
	(void)clock_id;
#if __STDC_HOSTED__ && defined(CLOCK_MONOTONIC)
	{
		struct timespec ts;

		clock_gettime(CLOCK_MONOTONIC, &ts);
		return (__u64)ts.tv_sec * 1000000000ULL + (__u64)ts.tv_nsec;
	}
#else
	return htrace_clock_monotonic(); /* strict ISO C hides clock_gettime() */
#endif
}

#if __STDC_HOSTED__
/*
 * Can records be stamped with the clock @clock_id here? 0; -EINVAL: there is no such clock;
 * -EOPNOTSUPP: HTRACE_CLOCK_TSC, and the TSC is not invariant, or this process may not read it; @err
 * gets one line that says why. Invariant means: the CPU (or the hypervisor) says so by CPUID, and the
 * kernel, which watches it, still offers it as a clocksource. Which one it uses does not matter: a
 * guest's may be kvm-clock.
 */
int htrace_clock_check(__u32 clock_id, char *err, size_t errlen);
/* The clock for producers of user space here: HTRACE_CLOCK_TSC, or HTRACE_CLOCK_MONOTONIC. */
__u32 htrace_clock_best(void);
/*
 * Read this machine's clocks, as nearly at one instant as can be done; some 100 ns. Without a TSC its
 * words are 0.
 */
void htrace_clock_take(struct htrace_clock_sample *s);

/* ------------------------------------------------------------------ from region time to ns */

/*
 * What the times of one region are in CLOCK_MONOTONIC of its machine, by the samples of both that
 * the region has: straight lines from sample to sample, and one that goes on behind the last.
 *
 * It never steps back, and what was converted stays as it was: a sample that comes later bends the
 * line from the latest time that was converted on, so that it meets the sample. (Unless that time was
 * more than a minute ahead of the sample: nobody has read the clock yet when it had that one.)
 *
 * Samples are a guest's words, and checked: both clocks must rise, at 1 MHz to 100 GHz, and not more
 * than a tenth faster or slower than before. Others are refused, until four in a row agree with each
 * other: then the clocks made a step, and the line goes on from there.
 *
 * The bound of each time covers the width of the samples, what that means for the rate, and a rate
 * of CLOCK_MONOTONIC that wanders by 0.5 ppm, or by as much as samples show. While it is steered
 * harder than that between two samples, as by adjtime(), it can be exceeded.
 *
 * One thread at a time.
 */
struct htrace_clock;

/* For a region of clock @clock_id. -EINVAL, -ENOMEM. HTRACE_CLOCK_MONOTONIC: times are ns as they are. */
int htrace_clock_new(struct htrace_clock **out, __u32 clock_id);
/* NULL is allowed. */
void htrace_clock_free(struct htrace_clock *c);
/*
 * Add a sample, in any state of the region: 0; -EALREADY: it says nothing new (it is older than
 * another, too near to it, or less certain than the line); -ERANGE: refused as impossible.
 */
int htrace_clock_add(struct htrace_clock *c, const struct htrace_clock_sample *s);
/* Are there samples enough to convert by? Two, some time apart. */
bool htrace_clock_usable(const struct htrace_clock *c);
/*
 * *@ns: CLOCK_MONOTONIC at @time of the region's clock, at most 2^63 - 1; *@bound: how far it may be
 * wrong, ns. Either may be NULL. -EAGAIN: not usable yet; nothing is stored then.
 */
int htrace_clock_ns(struct htrace_clock *c, __u64 time, __u64 *ns, __u64 *bound);

/* The straight line that fits all of the samples so far best at their ends. */
struct htrace_clock_line {
	size_t sz;  /* sizeof(struct htrace_clock_line), set by the caller */
	__u64 hz;   /* of the region's clock, as its own machine has it */
	__u64 time; /* of the latest sample, region clock */
	__u64 mono; /* CLOCK_MONOTONIC then */
	__u64 real; /* CLOCK_REALTIME then; 0: not known */
	__u64 used, refused; /* samples so far */
	__u64 bound; /* the largest that htrace_clock_ns() gave, and error that a sample proved */
};

/*
 * Fill in *@l, as far as its sz reaches. -EAGAIN: not usable yet; used and refused are filled in. -EINVAL: sz.
 */
int htrace_clock_get_line(const struct htrace_clock *c, struct htrace_clock_line *l);

#endif /* __STDC_HOSTED__ */

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
#endif
