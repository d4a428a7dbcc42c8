/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Clocks: the choice, samples in regions, and what times become in CLOCK_MONOTONIC. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <htrace/clock.h>
#include <htrace/consumer.h>
#include <htrace/producer.h>

#include "core.h"
#include "unit.h"

#define MS 1000000ULL
#define SEC 1000000000ULL

static char err[256];

/* ------------------------------------------------------------------------------------ the choice */

/* A file of clocksources with these words. */
static int offered(bool invariant, bool readable, const char *words)
{
	char path[] = "/tmp/htrace-unit-XXXXXX";
	int fd = mkstemp(path), ret;

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, words, strlen(words)), (ssize_t)strlen(words));
	close(fd);
	*err = 0;
	ret = htrace_tsc_check(invariant, readable, path, err, sizeof(err));
	unlink(path);
	return ret;
}

static void check_order(struct htrace_clock *c, __u64 from, __u64 to)
{
	__u64 before = 0, ns;

	for (__u64 i = 0; i <= 1000; i++) {
		ck_assert(!htrace_clock_ns(c, from + (to - from) / 1000 * i, &ns, NULL));
		ck_assert_uint_ge(ns, before);
		before = ns;
	}
}

static void add_far(struct htrace_clock *c, const __u64 (*at)[2], int nr)
{
	for (int i = 0; i < nr; i++)
		htrace_clock_add(c, &(struct htrace_clock_sample){ at[i][0], at[i][1], 1, 138 });
}

/* A clock that begins anew, far ahead, at a time long past: the order stays. */
START_TEST(test_far_anew)
{
	const __u64 far = 868082074151664288;
	__u64 at[14][2];
	struct htrace_clock *c;

	ck_assert(!htrace_clock_new(&c, HTRACE_CLOCK_TSC));
	for (__u64 i = 0; i < 7; i++) {
		at[i][0] = 141 + 1155072 * i;
		at[i][1] = 47 + 385024 * i;
		at[7 + i][0] = far + 1155072 * i;
		at[7 + i][1] = 3072 + 385024 * i;
	}
	add_far(c, at, 14);
	check_order(c, 0, 1ULL << 33);
	check_order(c, 0, far);
	check_order(c, far - 1000000, far + 10000000);
	check_order(c, 0, ~0ULL);
	htrace_clock_free(c);
}
END_TEST

/* A record's time near the end of all times, then a step of the clocks. */
START_TEST(test_far_record)
{
	static const __u64 at[][2] = {
		{ 1000000638976, 5000651264 }, { 1000000790528, 5000701781 },
		{ 1000001441792, 5001340757 }, { 1000001593344, 5001391274 },
		{ 1000001593472, 5001391316 }, { 1000001593650, 5001391375 },
	};
	struct htrace_clock *c;

	ck_assert(!htrace_clock_new(&c, HTRACE_CLOCK_TSC));
	add_far(c, at, 5);
	ck_assert(!htrace_clock_ns(c, ~0ULL - 983039, NULL, NULL));
	add_far(c, at + 5, 1);
	check_order(c, at[0][0], at[5][0] + 10000);
	check_order(c, ~0ULL - 4000000, ~0ULL);
	check_order(c, 0, ~0ULL);
	htrace_clock_free(c);
}
END_TEST

START_TEST(test_invariant)
{
	ck_assert_int_eq(offered(true, true, "tsc hpet acpi_pm \n"), 0);
	ck_assert_int_eq(offered(true, true, "kvm-clock tsc acpi_pm \n"), 0); /* a guest's */
	ck_assert_int_eq(offered(true, true, "hpet acpi_pm \n"), -EOPNOTSUPP);
	ck_assert_ptr_nonnull(strstr(err, "unstable"));
	ck_assert_int_eq(offered(true, true, "tsc-early hpet \n"), -EOPNOTSUPP);
	ck_assert_int_eq(offered(true, true, ""), -EOPNOTSUPP);
	ck_assert_int_eq(offered(false, true, "tsc \n"), -EOPNOTSUPP);
	ck_assert_ptr_nonnull(strstr(err, "invariant"));
	ck_assert_int_eq(offered(true, false, "tsc \n"), -EOPNOTSUPP);
	ck_assert_ptr_nonnull(strstr(err, "PR_SET_TSC"));
	ck_assert_int_eq(htrace_tsc_check(true, true, "/nonexistent", err, sizeof(err)), -EOPNOTSUPP);
	ck_assert_ptr_nonnull(strstr(err, "/nonexistent"));
	ck_assert_int_eq(htrace_clock_check(HTRACE_CLOCK_MONOTONIC, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_clock_check(0, err, sizeof(err)), -EINVAL);
	ck_assert_int_eq(htrace_clock_check(3, err, sizeof(err)), -EINVAL);
#ifndef __x86_64__
	ck_assert_int_eq(htrace_clock_check(HTRACE_CLOCK_TSC, err, sizeof(err)), -EOPNOTSUPP);
#endif
}
END_TEST

static int format(struct htrace_region **r, int *fd, __u32 placement, __u32 kind, __u32 clock_id)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = placement, .kind = kind, .clock_id = clock_id,
		.policy = HTRACE_DISCARD, .nr_rings = 2, .ring_size = 1 << 16,
	};

	return htrace_region_create_local(r, NULL, 2 << 20, &o, fd);
}

static __u32 chosen(__u32 placement, __u32 kind, __u32 clock_id)
{
	struct htrace_region *r;
	__u32 id;
	int fd;

	ck_assert_int_eq(format(&r, &fd, placement, kind, clock_id), 0);
	id = htrace_region_super(r)->clock_id;
	htrace_region_release(r);
	close(fd);
	return id;
}

START_TEST(test_read)
{
	for (int i = 0; i < 1000; i++) {
		struct timespec a, b;
		__u64 now;

		clock_gettime(CLOCK_MONOTONIC, &a);
		now = htrace_clock_monotonic();
		clock_gettime(CLOCK_MONOTONIC, &b);
		ck_assert_uint_ge(now, a.tv_sec * 1000000000ULL + a.tv_nsec);
		ck_assert_uint_le(now, b.tv_sec * 1000000000ULL + b.tv_nsec);
	}
}
END_TEST

START_TEST(test_choice)
{
	__u32 best = htrace_clock_best();
	struct htrace_region *r;
	int fd;

	ck_assert_int_eq(best == HTRACE_CLOCK_TSC, !htrace_clock_check(HTRACE_CLOCK_TSC, NULL, 0));
	ck_assert_uint_eq(chosen(HTRACE_PLACEMENT_LOCAL, HTRACE_RING_PER_THREAD, 0), best);
	ck_assert_uint_eq(chosen(HTRACE_PLACEMENT_IVSHMEM, HTRACE_RING_PER_THREAD, 0), best);
	ck_assert_uint_eq(chosen(HTRACE_PLACEMENT_VSHMEM, HTRACE_RING_PER_THREAD, 0),
			  HTRACE_CLOCK_MONOTONIC);
	ck_assert_uint_eq(chosen(HTRACE_PLACEMENT_LOCAL, HTRACE_RING_PER_CPU, 0),
			  HTRACE_CLOCK_MONOTONIC);
	ck_assert_uint_eq(chosen(HTRACE_PLACEMENT_LOCAL, HTRACE_RING_PER_THREAD,
				 HTRACE_CLOCK_MONOTONIC), HTRACE_CLOCK_MONOTONIC);
	ck_assert_int_eq(format(&r, &fd, HTRACE_PLACEMENT_LOCAL, HTRACE_RING_PER_THREAD, 7), -EINVAL);
	if (best == HTRACE_CLOCK_TSC)
		ck_assert_uint_eq(chosen(HTRACE_PLACEMENT_LOCAL, HTRACE_RING_PER_CPU,
					 HTRACE_CLOCK_TSC), HTRACE_CLOCK_TSC);
	else
		ck_assert_int_eq(format(&r, &fd, HTRACE_PLACEMENT_LOCAL, HTRACE_RING_PER_THREAD,
					HTRACE_CLOCK_TSC), -EOPNOTSUPP);
}
END_TEST

/* ------------------------------------------------------------------------------------- the model */

/* A machine whose clocks we know: ticks at instant t (ns), and a CLOCK_MONOTONIC that wanders. */
struct machine {
	double hz;
	__u64 ticks, mono; /* at instant 0 */
	double rate;       /* of CLOCK_MONOTONIC, 1 +- a little */
	__u64 since;       /* instant from which it has that */
	double at;         /* CLOCK_MONOTONIC then */
	double before;     /* rate until then */
	unsigned long long seed;
};

static double chance(struct machine *m)
{
	return (double)(unit_random(&m->seed) >> 11) / 0x1p53;
}

static __u64 ticks_at(const struct machine *m, __u64 t)
{
	return m->ticks + (__u64)(m->hz / 1e9 * (double)t);
}

static double mono_at(const struct machine *m, __u64 t)
{
	if (t < m->since)
		return m->at - (double)(m->since - t) * m->before;
	return m->at + (double)(t - m->since) * m->rate;
}

static void steer(struct machine *m, __u64 t, double rate)
{
	m->at = mono_at(m, t);
	m->since = t;
	m->before = m->rate;
	m->rate = rate;
}

/* A reading of @width_ns, in which CLOCK_MONOTONIC was read somewhere. */
static struct htrace_clock_sample sample(struct machine *m, __u64 t, double width_ns)
{
	double inside = (chance(m) - 0.5) * width_ns;
	struct htrace_clock_sample s = {
		.tsc = ticks_at(m, t),
		.mono = m->mono + (__u64)(__s64)(mono_at(m, t) + inside),
		.width = (__u64)(width_ns * m->hz / 1e9) + 1,
	};

	s.real = s.mono + 1700000000 * SEC;
	return s;
}

static struct htrace_clock *new_clock(void)
{
	struct htrace_clock *c;

	ck_assert_int_eq(htrace_clock_new(&c, HTRACE_CLOCK_TSC), 0);
	return c;
}

/* CLOCK_MONOTONIC at instant @t, as converted; held against the truth and the bound given. */
static __u64 convert(struct htrace_clock *c, const struct machine *m, __u64 t, __u64 *bound)
{
	__u64 ns = 1, wrong = 1, truth = m->mono + (__u64)mono_at(m, t);

	ck_assert_int_eq(htrace_clock_ns(c, ticks_at(m, t), &ns, &wrong), 0);
	ck_assert_msg((ns > truth ? ns - truth : truth - ns) <= wrong + 1,
		      "at %llu: %llu instead of %llu, bound %llu", t, ns, truth, wrong);
	if (bound)
		*bound = wrong;
	return ns;
}

static const double rates[] = { 1.1e6, 24e6, 1e9, 2596092345.0, 5.7e9, 99e9 };

/* All samples first, as of a program that is dead: then times in between, before and behind. */
START_TEST(test_fit)
{
	struct machine m = { .hz = rates[_i], .ticks = 77777, .mono = 5000 * SEC, .rate = 1,
			     .seed = 1 };
	struct htrace_clock *c = new_clock();
	__u64 last = 0, bound;

	for (__u64 t = 0; t <= 10 * SEC; t += 250 * MS) {
		struct htrace_clock_sample s = sample(&m, t, 30);

		ck_assert_int_eq(htrace_clock_add(c, &s), 0);
		ck_assert_int_eq(htrace_clock_usable(c), t != 0);
	}
	for (__u64 t = 0; t <= 12 * SEC; t += 777777 * unit_share()) {
		__u64 ns = convert(c, &m, t, &bound);

		ck_assert_uint_ge(ns, last);
		last = ns;
		if (t < 10 * SEC) /* 15 of width; 125 ms at half a ppm; a tick, and a ns or two */
			ck_assert_uint_le(bound, 15 + 63 + 2 * (__u64)(1e9 / m.hz) + 6);
	}
	ck_assert_uint_gt(bound, 300); /* two seconds behind the last sample */
	htrace_clock_free(c);
}
END_TEST

/*
 * Live: samples come every quarter of a second, times are converted 50 ms late, CLOCK_MONOTONIC is
 * steered. What was converted stays so, and nothing steps back.
 */
START_TEST(test_live)
{
	struct machine m = { .hz = 2596092345.0, .ticks = 1ULL << 62, .mono = 70000 * SEC, .rate = 1,
			     .seed = (unsigned long long)_i + 1 };
	__u64 changed = 0, last = 0, next = 2 * MS, given[64] = { 0 }, ticks[64] = { 0 }, ns;
	struct htrace_clock *c = new_clock();
	struct htrace_clock_sample s = sample(&m, 0, 30);
	struct htrace_clock_line line = { .sz = sizeof(line) };

	ck_assert_int_eq(htrace_clock_add(c, &s), 0);
	for (__u64 t = MS, i = 0; t < 60 * SEC; t += (__u64)(chance(&m) * 4 * (double)MS), i++) {
		if (t >= next) {
			s = sample(&m, t, 25 + 20 * chance(&m));
			htrace_clock_add(c, &s);
			next += 250 * MS;
			/* as an NTP daemon does, between samples: the line is not told */
			steer(&m, t, 1 + (_i == 3 ? 0 : (chance(&m) - 0.5) * 4e-7));
		}
		if (!htrace_clock_usable(c) || t < 60 * MS)
			continue;
		ns = convert(c, &m, t - (_i == 1 ? 50 * MS : 0), NULL);
		ck_assert_uint_ge(ns, last);
		last = ns;
		given[i % 64] = ns;
		ticks[i % 64] = ticks_at(&m, t - (_i == 1 ? 50 * MS : 0));
		for (int k = 0; k < 64; k++)
			changed += ticks[k] && (htrace_clock_ns(c, ticks[k], &ns, NULL) || ns != given[k]);
	}
	ck_assert_uint_eq(changed, 0);
	ck_assert_int_eq(htrace_clock_get_line(c, &line), 0);
	ck_assert_uint_eq(line.refused, 0);
	ck_assert_uint_gt(line.used, 200);
	ck_assert_uint_le(line.hz - 2596092000, 700);
	ck_assert_uint_eq(line.real - line.mono, 1700000000 * SEC);
	htrace_clock_free(c);
}
END_TEST

/* Steered hard, the line is wrong until the next sample: that is told, and it never steps back. */
START_TEST(test_slewed)
{
	struct machine m = { .hz = 3e9, .ticks = 5, .mono = 100 * SEC, .rate = 1, .seed = 7 };
	struct htrace_clock_line line = { .sz = sizeof(line) };
	struct htrace_clock *c = new_clock();
	__u64 last = 0, ns, worst = 0;

	for (__u64 t = 0; t < 30 * SEC; t += MS) {
		if (!(t % (250 * MS))) {
			struct htrace_clock_sample s = sample(&m, t, 30);

			ck_assert_int_ne(htrace_clock_add(c, &s), -ERANGE);
			steer(&m, t, 1 + (chance(&m) - 0.5) * 1e-3);
		}
		if (t <= 250 * MS)
			continue;
		ck_assert_int_eq(htrace_clock_ns(c, ticks_at(&m, t), &ns, NULL), 0);
		ck_assert_uint_ge(ns, last);
		last = ns;
		ns = (__u64)llabs((long long)(ns - m.mono) - (long long)mono_at(&m, t));
		worst = ns > worst ? ns : worst;
	}
	ck_assert_int_eq(htrace_clock_get_line(c, &line), 0);
	ck_assert_uint_gt(worst, 50000); /* else this shows nothing */
	ck_assert_uint_lt(worst, 600000);
	ck_assert_uint_ge(line.bound + 60, worst * 9 / 10);
	htrace_clock_free(c);
}
END_TEST

START_TEST(test_refused)
{
	static const struct htrace_clock_sample bad[] = {
		{ 0, 2000, 0, 1 }, /* no TSC */
		{ 1000000, 0, 0, 1 },
		{ 1000000, 1ULL << 63, 0, 1 },
		{ 1000000, ~0ULL, 0, 1 },
		{ 20000000, 9 * SEC, 0, 1 },     /* both rose, at 1.1 MHz after 3 GHz */
		{ 30000000000, 9000000, 0, 1 },  /* CLOCK_MONOTONIC fell */
		{ 900, 20 * SEC, 0, 1 },         /* the TSC fell */
		{ ~0ULL, 4 * SEC, 0, 1 },
		{ ~0ULL, 1ULL << 61, 0, 1 },     /* 8 GHz */
		{ 12000000000, 1ULL << 61, 0, 1 },
	};
	struct htrace_clock_line line = { .sz = sizeof(line) };
	struct htrace_clock *c;
	__u64 ns = 1;

	ck_assert_int_eq(htrace_clock_new(&c, 0), -EINVAL);
	ck_assert_int_eq(htrace_clock_new(&c, 3), -EINVAL);
	c = new_clock();
	ck_assert_int_eq(htrace_clock_ns(c, 5, &ns, NULL), -EAGAIN);
	ck_assert_uint_eq(ns, 1);
	ck_assert_int_eq(htrace_clock_get_line(c, &line), -EAGAIN);
	/* 1000 ticks at 10 ms, 3 GHz */
	ck_assert_int_eq(htrace_clock_add(c, &(struct htrace_clock_sample){ 1000, 10 * MS, 0, 90 }), 0);
	for (int hz = 0; hz < 2; hz++) /* below 1 MHz, above 100 GHz */
		ck_assert_int_eq(htrace_clock_add(c, &(struct htrace_clock_sample){
			1000 + (hz ? 101000000000 : 990000), SEC + 10 * MS, 0, 1 }), -ERANGE);
	ck_assert(!htrace_clock_usable(c));
	ck_assert_int_eq(htrace_clock_add(c, &(struct htrace_clock_sample){
		1000 + 3000000000, SEC + 10 * MS, 5, 90 }), 0);
	ck_assert(htrace_clock_usable(c));
	for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
		ck_assert_msg(htrace_clock_add(c, &bad[i]) == -ERANGE, "number %zu", i);
	/* what says nothing new: older, too near, hardly certain */
	ck_assert_int_eq(htrace_clock_add(c, &(struct htrace_clock_sample){
		1000 + 1500000000, 510 * MS, 0, 90 }), -EALREADY);
	ck_assert_int_eq(htrace_clock_add(c, &(struct htrace_clock_sample){
		1000 + 3000003000, SEC + 10 * MS + 1000, 0, 90 }), -EALREADY);
	ck_assert_int_eq(htrace_clock_add(c, &(struct htrace_clock_sample){
		1000 + 6000000000, 2 * SEC + 10 * MS, 0, 3000000 }), -EALREADY);
	ck_assert_int_eq(htrace_clock_ns(c, 1000 + 1500000000, &ns, NULL), 0);
	ck_assert_uint_le(ns - 510 * MS + 1, 1);
	htrace_clock_get_line(c, &line);
	ck_assert_uint_eq(line.hz, 3000000000);
	ck_assert_uint_eq(line.refused, 2 + sizeof(bad) / sizeof(*bad));
	htrace_clock_free(c);
}
END_TEST

/* Nothing that a guest can write makes it crash, step back, or exceed 2^63. */
START_TEST(test_random)
{
	unsigned long long seed = (unsigned long long)_i + 1;
	struct htrace_clock *c = new_clock();
	struct htrace_clock_sample s = { 0 };
	__u64 told = 0, last = 0, ns, bound;

	for (int i = 0; i < 20000; i++) {
		unsigned long long x = unit_random(&seed);
		unsigned int shift = (unsigned int)(unit_random(&seed) % 64);

		if (x & 1) {
			s.tsc += unit_random(&seed) >> shift;
			s.mono += unit_random(&seed) >> (unit_random(&seed) % 64);
		} else if (x & 2) {
			s.tsc += 3000000 + unit_random(&seed) % 1000;
			s.mono += MS;
		} else {
			s.tsc = unit_random(&seed) >> shift;
			s.mono = unit_random(&seed) >> shift;
		}
		s.width = unit_random(&seed) >> (unit_random(&seed) % 64);
		htrace_clock_add(c, &s);
		if (!htrace_clock_usable(c))
			continue;
		x = unit_random(&seed) >> shift;
		ck_assert_int_eq(htrace_clock_ns(c, x, &ns, &bound), 0);
		ck_assert_uint_le(ns, ~0ULL >> 1);
		ck_assert_uint_le(bound, ~0ULL >> 1);
		/* in one moment it rises with time */
		ck_assert_int_eq(htrace_clock_ns(c, x / 2, &told, NULL), 0);
		ck_assert_uint_le(told, ns);
	}
	ck_assert_int_eq(htrace_clock_ns(c, ~0ULL, &last, NULL), 0);
	ck_assert_uint_le(last, ~0ULL >> 1);
	htrace_clock_free(c);
}
END_TEST

START_TEST(test_overflow)
{
	static const __u64 around[] = { 1ULL << 63, ~0ULL - 40000000000, (1ULL << 63) - 20000000000 };
	struct htrace_clock *c = new_clock();
	struct htrace_clock_sample s = { .width = 60 };
	__u64 ns, last = 0, base = around[_i];

	for (unsigned int i = 0; i < 40; i++) { /* 10 s at 3 GHz; some beyond 2^63 */
		s.tsc = base + 750000000ULL * i;
		s.mono = 3 * SEC + 250 * MS * i;
		ck_assert_int_eq(htrace_clock_add(c, &s), 0);
	}
	for (unsigned int i = 0; i < 12000; i++) {
		ck_assert_int_eq(htrace_clock_ns(c, base + 3000000ULL * i, &ns, NULL), 0);
		ck_assert_uint_le(ns - (3 * SEC + MS * i) + 5, 10);
		ck_assert_uint_ge(ns, last);
		last = ns;
	}
	ck_assert_int_eq(htrace_clock_ns(c, base - 3000000000, &ns, NULL), 0); /* before the first */
	ck_assert_uint_le(ns - 2 * SEC + 5, 10);
	ck_assert_int_eq(htrace_clock_ns(c, 0, &ns, NULL), 0); /* before the machine started */
	ck_assert_uint_eq(ns, 0);
	htrace_clock_free(c);
	/* the slowest ticks are a thousand times as long: from 2^63 on there is no time for them */
	c = new_clock();
	for (unsigned int i = 0; i < 2; i++)
		ck_assert_int_eq(htrace_clock_add(c, &(struct htrace_clock_sample){
			SEC * (1 + i), 1001 * SEC * i + 1, 0, 1 }), i ? -ERANGE : 0);
	ck_assert_int_eq(htrace_clock_add(c, &(struct htrace_clock_sample){
		2 * SEC, 999 * SEC, 0, 1 }), 0);
	ck_assert_int_eq(htrace_clock_ns(c, ~0ULL, &ns, NULL), 0);
	ck_assert_uint_eq(ns, ~0ULL >> 1);
	htrace_clock_free(c);
}
END_TEST

/* CLOCK_MONOTONIC stood still while the TSC went on (suspend), or jumped. Some samples later it fits. */
START_TEST(test_step)
{
	struct machine m = { .hz = 2e9, .ticks = 1000, .mono = 1000 * SEC, .rate = 1, .seed = 3 };
	struct htrace_clock *c = new_clock();
	__u64 last = 0, bound, ns, refused = 0;

	for (__u64 t = 0; t < 40 * SEC; t += 10 * MS) {
		if (!(t % (250 * MS))) {
			struct htrace_clock_sample s = sample(&m, t, 30);

			refused += htrace_clock_add(c, &s) == -ERANGE;
		}
		if (t == 20 * SEC) {
			m.ticks += _i ? 0 : (__u64)(3600 * m.hz);
			m.mono += _i ? 3600 * SEC : 0;
		}
		if (t < 500 * MS)
			continue;
		if (t >= 20 * SEC && t < 21 * SEC + 10 * MS) /* who could know */
			continue;
		ns = convert(c, &m, t, &bound);
		ck_assert_uint_ge(ns, last);
		ck_assert_uint_lt(bound, 1000);
		last = ns;
	}
	ck_assert_uint_eq(refused, 3);
	htrace_clock_free(c);
}
END_TEST

/* A time that somebody made up does not keep the others from being right. */
START_TEST(test_future)
{
	struct machine m = { .hz = 2e9, .ticks = 1000, .mono = SEC, .rate = 1, .seed = 3 };
	struct htrace_clock *c = new_clock();
	__u64 bound;

	for (__u64 t = 0; t < 40 * SEC; t += 250 * MS) {
		struct htrace_clock_sample s = sample(&m, t, 30);

		ck_assert_int_eq(htrace_clock_add(c, &s), 0);
		if (!t)
			continue;
		ck_assert_int_eq(htrace_clock_ns(c, ticks_at(&m, t) + (1ULL << 50), NULL, NULL), 0);
		steer(&m, t, 1 + (chance(&m) - 0.5) * 2e-7);
		convert(c, &m, t + MS, &bound);
		ck_assert_uint_lt(bound, 200);
	}
	htrace_clock_free(c);
}
END_TEST

START_TEST(test_monotonic)
{
	struct htrace_clock_line line = { .sz = sizeof(line) };
	struct htrace_clock_sample s;
	struct htrace_clock *c;
	__u64 ns, bound = 1;

	ck_assert_int_eq(htrace_clock_new(&c, HTRACE_CLOCK_MONOTONIC), 0);
	ck_assert(htrace_clock_usable(c));
	htrace_clock_take(&s);
	ck_assert_int_eq(htrace_clock_add(c, &s), 0);
	ck_assert_int_eq(htrace_clock_add(c, &s), -EALREADY);
	ck_assert_int_eq(htrace_clock_ns(c, 12345, &ns, &bound), 0);
	ck_assert_uint_eq(ns, 12345);
	ck_assert_uint_eq(bound, 0);
	ck_assert_int_eq(htrace_clock_get_line(c, &line), 0);
	ck_assert_uint_eq(line.hz, 1000000000);
	ck_assert_uint_eq(line.real - line.mono, s.real - s.mono);
	line.sz = offsetof(struct htrace_clock_line, mono);
	line.mono = 1;
	ck_assert_int_eq(htrace_clock_get_line(c, &line), 0); /* an older caller's */
	ck_assert_uint_eq(line.mono, 1);
	htrace_clock_free(c);
	htrace_clock_free(NULL);
}
END_TEST

/* ------------------------------------------------------------------------------------- regions */

struct program {
	struct htrace_region *r;
	int fd;
};

static struct program start(__u32 clock_id)
{
	struct program p;

	ck_assert_int_eq(format(&p.r, &p.fd, HTRACE_PLACEMENT_LOCAL, HTRACE_RING_PER_THREAD,
				clock_id), 0);
	htrace_region_publish(p.r);
	return p;
}

static struct htrace_view *look(const struct program *p)
{
	struct htrace_view *v;

	ck_assert_int_eq(htrace_view_open_fd(&v, p->fd, true, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	return v;
}

static struct htrace_clock *clock_of(const struct htrace_view *v)
{
	struct htrace_clock_sample s[HTRACE_CLOCK_SAMPLES];
	struct htrace_clock *c;
	__u64 next = 0;
	int nr = htrace_view_clock_samples(v, &next, s);

	ck_assert_int_ge(nr, 2);
	ck_assert_int_eq(htrace_clock_new(&c, htrace_view_super(v)->clock_id), 0);
	for (int i = 0; i < nr; i++)
		ck_assert_int_ne(htrace_clock_add(c, &s[i]), -ERANGE);
	ck_assert(htrace_clock_usable(c));
	ck_assert_int_eq(htrace_view_clock_samples(v, &next, s), 0);
	return c;
}

struct stamps {
	__u64 before, after;
};

/* Records hold CLOCK_MONOTONIC before; behind them is what it was after. */
static void produce(struct program *p, int ring, __u64 *after, unsigned int nr)
{
	struct htrace_producer producer;
	struct htrace_slot slot;

	ck_assert_int_eq(htrace_producer_get(&producer, p->r, 0, ring), 0);
	for (unsigned int i = 0; i < nr; i++) {
		__u64 before = htrace_clock_read(HTRACE_CLOCK_MONOTONIC);
		__u64 *at = htrace_producer_reserve(&producer, 1, 8, &slot);

		after[i] = htrace_clock_read(HTRACE_CLOCK_MONOTONIC);
		ck_assert_ptr_nonnull(at);
		*at = before;
		htrace_commit(&slot);
		if (i % 16 == 0)
			usleep(300);
	}
	htrace_producer_put(&producer);
}

#define EACH 1000

static __u64 held_against(struct htrace_clock *c, const struct htrace_view *v, __u32 ring,
			  const __u64 *after)
{
	struct htrace_consumer *reader;
	__u64 last = 0, worst = 0, ns, bound;
	struct htrace_image img;
	struct htrace_record rec;
	struct htrace_batch b;
	struct htrace_iter it;
	unsigned int nr = 0;

	ck_assert_int_eq(htrace_view_ring(v, 0, ring, &img), 0);
	ck_assert_int_eq(htrace_consumer_new(&reader, &img, NULL), 0);
	while (htrace_consumer_read(reader, &b) == 1)
		for (htrace_iter_init(&it, &b); htrace_iter_next(&it, &rec); nr++) {
			__u64 before = *(const __u64 *)rec.payload;

			ck_assert_uint_ge(rec.time, last);
			last = rec.time;
			ck_assert_int_eq(htrace_clock_ns(c, rec.time, &ns, &bound), 0);
			worst = bound > worst ? bound : worst;
			ck_assert_msg(ns + bound >= before && ns <= after[nr] + bound,
				      "record %u: %llu, between %llu and %llu, bound %llu", nr, ns,
				      before, after[nr], bound);
		}
	ck_assert_uint_eq(nr, EACH);
	htrace_consumer_free(reader);
	return worst;
}

struct job {
	struct program *p;
	int ring;
	__u64 *after;
};

static void *run(void *arg)
{
	const struct job *j = arg;

	produce(j->p, j->ring, j->after, EACH);
	return NULL;
}

/* Threads; and a process that is killed before it can put its ring back, read after its death. */
START_TEST(test_between)
{
	__u64 *after = mmap(NULL, 3 * EACH * 8, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS,
			    -1, 0);
	struct program p = start(_i ? HTRACE_CLOCK_MONOTONIC : 0);
	struct job job[2] = { { &p, 0, after }, { &p, 1, after + EACH } };
	struct htrace_view *v;
	struct htrace_clock *c;
	pthread_t t[2];

	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, run, &job[i]), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	v = look(&p);
	c = clock_of(v);
	for (__u32 i = 0; i < 2; i++)
		printf("# bound %llu ns\n", held_against(c, v, i, job[i].after));
	htrace_clock_free(c);
	htrace_view_close(v);
	htrace_region_release(p.r);
	close(p.fd);
	munmap(after, 3 * EACH * 8);
}
END_TEST

START_TEST(test_killed)
{
	__u64 *after = mmap(NULL, EACH * 8, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	struct program p = start(0);
	struct htrace_clock *c;
	struct htrace_view *v;
	pid_t pid = fork();
	int status;

	if (!pid) {
		struct htrace_producer producer;
		struct htrace_slot slot;

		if (htrace_producer_get(&producer, p.r, 0, 0))
			_exit(1);
		for (unsigned int i = 0; i < EACH; i++) {
			__u64 before = htrace_clock_read(HTRACE_CLOCK_MONOTONIC);
			__u64 *at = htrace_producer_reserve(&producer, 1, 8, &slot);

			after[i] = htrace_clock_read(HTRACE_CLOCK_MONOTONIC);
			*at = before;
			htrace_commit(&slot);
		}
		kill(getpid(), SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert(WIFSIGNALED(status));
	v = look(&p);
	c = clock_of(v);
	held_against(c, v, 0, after);
	htrace_clock_free(c);
	htrace_view_close(v);
	htrace_region_release(p.r);
	close(p.fd);
	munmap(after, EACH * 8);
}
END_TEST

/* Which samples there are, without anybody who beats a heart. */
START_TEST(test_samples)
{
	struct htrace_clock_sample s[HTRACE_CLOCK_SAMPLES];
	struct program p = start(0);
	struct htrace_guest *g = htrace_region_guest(p.r);
	struct htrace_view *v = look(&p);
	const __u64 ns = htrace_own_ns() << 32;
	struct htrace_producer producer;
	__u64 next = 0;
	pid_t dead;

	ck_assert_int_eq(htrace_view_clock_samples(v, &next, s), 2);
	if (htrace_region_super(p.r)->clock_id == HTRACE_CLOCK_TSC)
		ck_assert_uint_ge(s[1].mono - s[0].mono, 2 * MS);
	for (int i = 0; i < 100; i++) { /* not one for each */
		ck_assert_int_eq(htrace_producer_get(&producer, p.r, 0, -1), 0);
		htrace_producer_put(&producer);
	}
	ck_assert_int_le(htrace_view_clock_samples(v, &next, s), 50);
	ck_assert_int_eq(htrace_producer_get(&producer, p.r, 0, -1), 0);
	usleep(3000);
	htrace_producer_put(&producer);
	ck_assert_int_ge(htrace_view_clock_samples(v, &next, s), 1);
	/* somebody is at it: it is left to them */
	g->clock_lock = ns | (__u32)getppid();
	htrace_region_beat(p.r, 0);
	ck_assert_int_eq(htrace_view_clock_samples(v, &next, s), 0);
	ck_assert_uint_eq(g->clock_lock, ns | (__u32)getppid());
	/* somebody was, and died; or so it seems of a number that is another pid namespace's */
	dead = fork();
	if (!dead)
		_exit(0);
	ck_assert_int_eq(waitpid(dead, NULL, 0), dead);
	for (int i = 0; i < 3; i++) {
		__u64 others = (__u32)dead | (i ? i == 1 ? ns ^ 1ULL << 32 : ns : 0);

		g->clock_lock = others;
		htrace_region_super(p.r)->boot_id[0] ^= i == 2; /* another kernel's */
		htrace_region_beat(p.r, 0);
		htrace_region_super(p.r)->boot_id[0] ^= i == 2;
		ck_assert_int_eq(htrace_view_clock_samples(v, &next, s), 0);
		ck_assert_uint_eq(g->clock_lock, others);
	}
	g->clock_lock = ns | (__u32)dead;
	htrace_region_set_state(p.r, HTRACE_GUEST_CLOSING);
	ck_assert_int_eq(htrace_view_clock_samples(v, &next, s), 1);
	ck_assert_uint_eq(g->clock_lock, 0);
	for (int i = 0; i < 200; i++)
		htrace_region_beat(p.r, 0);
	ck_assert_int_eq(htrace_view_clock_samples(v, &next, s), HTRACE_CLOCK_SAMPLES - 1);
	g->clock_head = 1ULL << 63; /* a guest's words */
	ck_assert_int_eq(htrace_view_clock_samples(v, &next, s), HTRACE_CLOCK_SAMPLES - 1);
	g->clock_head = 0;
	ck_assert_int_eq(htrace_view_clock_samples(v, &next, s), 0);
	htrace_view_close(v);
	htrace_region_release(p.r);
	close(p.fd);
}
END_TEST

/* ------------------------------------------------------------------- times rise with positions */

#define PUSHES 200000

static void *push(void *arg)
{
	struct htrace_producer *p = arg;
	unsigned long long seed = 1 + (unsigned long long)pthread_self();

	long failed = 0;

	for (int i = 0; i < PUSHES; i++) {
		failed += htrace_push(p, 1, &i, 4) != 0;
		for (volatile unsigned long long k = unit_random(&seed) % 16; k; k--)
			;
	}
	return (void *)failed;
}

START_TEST(test_rise)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_DISCARD,
		.kind = HTRACE_RING_PER_THREAD, .nr_rings = 1, .ring_size = 16 << 20,
		.clock_id = _i ? HTRACE_CLOCK_MONOTONIC : 0,
	};
	struct program p;
	struct htrace_producer producer;
	struct htrace_consumer *reader;
	struct htrace_image img;
	struct htrace_record rec;
	struct htrace_batch b;
	struct htrace_iter it;
	struct htrace_view *v;
	unsigned int nr = 0, back = 0, dropped = 0;
	pthread_t t[2];
	__u64 last = 0;
	void *failed;

	ck_assert_int_eq(htrace_region_create_local(&p.r, NULL, 32 << 20, &o, &p.fd), 0);
	htrace_region_publish(p.r);
	ck_assert_int_eq(htrace_producer_get(&producer, p.r, 0, 0), 0);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, push, &producer), 0);
	for (int i = 0; i < 2; i++) {
		pthread_join(t[i], &failed);
		dropped += (long)failed;
	}
	v = look(&p);
	ck_assert_int_eq(htrace_view_ring(v, 0, 0, &img), 0);
	ck_assert_int_eq(htrace_consumer_new(&reader, &img, NULL), 0);
	while (htrace_consumer_read(reader, &b) == 1)
		for (htrace_iter_init(&it, &b); htrace_iter_next(&it, &rec); nr++) {
			back += rec.time < last;
			last = rec.time;
		}
	/* Turns are bounded, and so may be the retries of who never gets one. */
	ck_assert_uint_eq(nr + dropped, 2 * PUSHES);
	ck_assert_uint_gt(nr, PUSHES);
	ck_assert_msg(!back, "%u of %u times step back", back, nr);
	htrace_consumer_free(reader);
	htrace_view_close(v);
	htrace_producer_put(&producer);
	htrace_region_release(p.r);
	close(p.fd);
}
END_TEST

/*
 * The same of the clock alone, with nothing else to order it: a word as head, and who wins it writes
 * down its time. Without the fence in htrace_clock_tsc() every tenth turn steps back here.
 */
#define TURNS 1000000

static struct {
	__u64 head __attribute__((aligned(128)));
	__u32 clock_id __attribute__((aligned(128)));
	__u64 time[TURNS];
	unsigned char who[TURNS];
} race;

static void *compete(void *arg)
{
	unsigned char me = (unsigned char)(long)arg;
	cpu_set_t cpu;

	CPU_ZERO(&cpu);
	CPU_SET(me, &cpu);
	sched_setaffinity(0, sizeof(cpu), &cpu); /* may fail: then it shows less */
	for (;;) {
		__u64 at = htrace_load(&race.head), now = htrace_clock_read(race.clock_id);

		if (at >= TURNS)
			return NULL;
		if (!htrace_cas(&race.head, at, at + 1))
			continue;
		race.time[at] = now;
		race.who[at] = me;
		for (volatile __u64 k = now % 16; k; k--)
			;
	}
}

START_TEST(test_ordered)
{
	unsigned int back = 0, turns = 0;
	pthread_t t[2];

	race.clock_id = _i ? HTRACE_CLOCK_MONOTONIC : htrace_clock_best();
	for (long i = 0; i < 2; i++)
		ck_assert_int_eq(pthread_create(&t[i], NULL, compete, (void *)i), 0);
	for (int i = 0; i < 2; i++)
		pthread_join(t[i], NULL);
	for (unsigned int i = 1; i < TURNS; i++) {
		back += race.time[i] < race.time[i - 1];
		turns += race.who[i] != race.who[i - 1];
	}
	printf("# %u times the other's turn\n", turns);
	ck_assert_msg(!back, "%u of %u times step back", back, turns);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("clock");
	TCase *t = tcase_create("clock");

	tcase_set_timeout(t, 120);
	tcase_add_test(t, test_far_anew);
	tcase_add_test(t, test_far_record);
	tcase_add_test(t, test_invariant);
	tcase_add_test(t, test_read);
	tcase_add_test(t, test_choice);
	tcase_add_loop_test(t, test_fit, 0, sizeof(rates) / sizeof(*rates));
	tcase_add_loop_test(t, test_live, 0, unit_share() > 1 ? 4 : 8);
	tcase_add_test(t, test_slewed);
	tcase_add_test(t, test_refused);
	tcase_add_loop_test(t, test_random, 0, (int)unit_some(20));
	tcase_add_loop_test(t, test_overflow, 0, 3);
	tcase_add_loop_test(t, test_step, 0, 2);
	tcase_add_test(t, test_future);
	tcase_add_test(t, test_monotonic);
	tcase_add_loop_test(t, test_between, 0, 2);
	tcase_add_test(t, test_killed);
	tcase_add_test(t, test_samples);
	tcase_add_loop_test(t, test_rise, 0, 2);
	tcase_add_loop_test(t, test_ordered, 0, 2);
	suite_add_tcase(s, t);
	return unit_run(s);
}
