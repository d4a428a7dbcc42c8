// SPDX-License-Identifier: LGPL-2.1-or-later
/* What exits add up to: durations, pairing, time off the CPU, and what is void for a loss. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "exits.h"
#include "unit.h"

#define HLT 0x1000c
#define IO 0x1001e

static struct exits *x;

static void setup(void)
{
	x = exits_new();
	ck_assert_ptr_nonnull(x);
}

static void teardown(void)
{
	exits_free(x);
}

/* ------------------------------------------------------------------------------------- durations */

static int compare(const void *a, const void *b)
{
	__u64 p = *(const __u64 *)a, q = *(const __u64 *)b;

	return p < q ? -1 : p > q;
}

static __u64 any_duration(unsigned long long *seed)
{
	__u64 r = unit_random(seed);

	return r >> (24 + r % 40);
}

START_TEST(test_durations)
{
	static struct durations d;
	static __u64 v[20001];
	const double shares[] = { 0, 0.001, 0.5, 0.9, 0.99, 0.999, 1 };
	unsigned int n = _i ? (unsigned int)_i : 1;
	unsigned long long seed = 5 + n;
	double sum = 0, squares = 0;
	__u64 octaves = 0;

	memset(&d, 0, sizeof(d));
	for (unsigned int i = 0; i < n; i++) {
		v[i] = any_duration(&seed);
		sum += (double)v[i];
		durations_add(&d, v[i]);
	}
	qsort(v, n, sizeof(*v), compare);
	ck_assert_uint_eq(d.count, n);
	ck_assert_uint_eq(d.min, v[0]);
	ck_assert_uint_eq(d.max, v[n - 1]);
	ck_assert_double_eq_tol(durations_mean(&d), sum / n, 1e-9 * sum);
	for (unsigned int i = 0; i < n; i++)
		squares += ((double)v[i] - sum / n) * ((double)v[i] - sum / n);
	/* tools/perf/util/stat.c: stddev_stats(), rel_stddev_stats() */
	ck_assert_double_eq_tol(durations_error(&d),
				n > 1 ? 100 * sqrt(squares / (n - 1) / n) / (sum / n) : 0, 1e-6);
	for (unsigned int i = 0; i < sizeof(shares) / sizeof(*shares); i++) {
		double rank = ceil(shares[i] * n);
		__u64 exact = v[rank < 1 ? 0 : (unsigned int)rank - 1];
		__u64 got = durations_percentile(&d, shares[i]);

		ck_assert_double_le(fabs((double)got - (double)exact), (double)exact / 32);
	}
	for (unsigned int o = 0; o < DURATIONS_OCTAVES; o++) {
		__u64 nr = 0;

		for (unsigned int i = 0; i < n; i++)
			nr += v[i] >> o == 1 || (!o && !v[i]);
		ck_assert_uint_eq(durations_octave(&d, o), nr);
		octaves += nr;
	}
	ck_assert_uint_eq(octaves, n);
}
END_TEST

START_TEST(test_take_back)
{
	static struct durations all, kept;
	unsigned long long seed = 9;

	for (unsigned int i = 0; i < 1000; i++) {
		__u64 ns = any_duration(&seed);

		durations_add(&all, ns);
		if (i % 3)
			durations_add(&kept, ns);
	}
	seed = 9;
	for (unsigned int i = 0; i < 1000; i++) {
		__u64 ns = any_duration(&seed);

		if (!(i % 3))
			durations_take_back(&all, ns);
	}
	ck_assert_uint_eq(all.count, kept.count);
	ck_assert_uint_eq(all.sum, kept.sum);
	ck_assert(all.squares == kept.squares);
	ck_assert_mem_eq(all.part, kept.part, sizeof(all.part));
	ck_assert_double_le(fabs((double)all.max - (double)kept.max), (double)kept.max / 16);
	ck_assert_uint_le(all.min, kept.min);
}
END_TEST

START_TEST(test_longest)
{
	static struct durations d;

	memset(&d, 0, sizeof(d));
	durations_add(&d, UINT64_MAX);
	durations_add(&d, 0);
	ck_assert_uint_eq(d.max, UINT64_MAX);
	ck_assert_uint_eq(durations_octave(&d, DURATIONS_OCTAVES - 1), 1);
	durations_take_back(&d, UINT64_MAX);
	ck_assert_uint_eq(d.max, 0);
	durations_take_back(&d, 0);
	ck_assert_uint_eq(d.count, 0);
}
END_TEST

/* --------------------------------------------------------------------------------------- pairing */

static struct exits_at at(unsigned int ring, __u64 time, __u32 vcpu)
{
	return (struct exits_at){ .ring = ring, .time = time, .vm = 100, .tid = 200 + vcpu, .vcpu = vcpu };
}

static void on_exit_of(unsigned int ring, __u64 time, __u32 vcpu, __u32 reason, __u64 rip)
{
	struct exits_at a = at(ring, time, vcpu);
	struct exits_why why = { reason, reason == HLT ? "HLT" : "IO", rip };

	exits_seen(x, &a);
	exits_exit(x, &a, &why);
}

static void on_entry(unsigned int ring, __u64 time, __u32 vcpu)
{
	struct exits_at a = at(ring, time, vcpu);

	exits_seen(x, &a);
	exits_entry(x, &a);
}

static void on_out(unsigned int ring, __u64 time, __u32 vcpu, bool preempted)
{
	struct exits_at a = at(ring, time, vcpu);

	exits_seen(x, &a);
	exits_sched_out(x, &a, preempted);
}

static void on_in(unsigned int ring, __u64 time, __u32 vcpu)
{
	struct exits_at a = at(ring, time, vcpu);

	exits_seen(x, &a);
	exits_sched_in(x, &a);
}

static const struct exits_row *total(void)
{
	static struct exits_row copy;
	size_t nr;
	struct exits_row **vm = exits_rows(x, NULL, EXITS_ALL, &nr);

	memset(&copy, 0, sizeof(copy));
	ck_assert_uint_le(nr, 1);
	if (nr)
		copy = *vm[0];
	free(vm);
	return &copy;
}

static const struct exits_row *row_of(__u32 vcpu, __u32 reason)
{
	static struct exits_row copy;
	size_t nr;
	struct exits_row **row = exits_rows(x, total(), vcpu, &nr);

	memset(&copy, 0, sizeof(copy));
	for (size_t i = 0; i < nr; i++)
		if (row[i]->reason == reason)
			copy = *row[i];
	free(row);
	return &copy;
}

START_TEST(test_pairs)
{
	size_t nr;
	struct exits_vcpu **vcpu;
	struct exits_place **place;

	on_entry(0, 1000, 0);
	on_exit_of(0, 1100, 0, HLT, 0xa0);
	on_entry(0, 1500, 0);
	on_exit_of(0, 1600, 0, IO, 0xb0);
	on_entry(0, 1610, 0);
	on_exit_of(0, 1700, 0, IO, 0xb0);
	on_entry(0, 1730, 0);
	on_exit_of(1, 1700, 1, HLT, 0xa0);
	on_entry(1, 1800, 1);
	on_exit_of(0, 2000, 0, HLT, 0xa0);

	ck_assert_uint_eq(row_of(0, HLT)->out.count, 1);
	ck_assert_uint_eq(row_of(0, HLT)->out.sum, 400);
	ck_assert_uint_eq(row_of(0, IO)->out.count, 2);
	ck_assert_uint_eq(row_of(0, IO)->out.min, 10);
	ck_assert_uint_eq(row_of(0, IO)->out.max, 30);
	ck_assert_uint_eq(row_of(EXITS_ALL, HLT)->out.sum, 500);
	ck_assert_str_eq(row_of(EXITS_ALL, HLT)->name, "HLT");
	ck_assert_uint_eq(total()->out.count, 4);
	ck_assert_uint_eq(x->no_exit, 1);
	ck_assert_uint_eq(x->no_entry, 0);
	ck_assert_uint_eq(x->voided, 0);
	ck_assert_uint_eq(exits_out_now(x), 1);
	vcpu = exits_vcpus(x, total(), &nr);
	ck_assert_uint_eq(nr, 2);
	ck_assert_uint_eq(vcpu[0]->guest_ns, 100 + 100 + 90 + 270);
	ck_assert_uint_eq(vcpu[0]->out_ns, 440);
	ck_assert_uint_eq(vcpu[1]->exits, 1);
	free(vcpu);
	place = exits_places(x, row_of(EXITS_ALL, HLT), &nr);
	ck_assert_uint_eq(nr, 1);
	ck_assert_uint_eq(place[0]->rip, 0xa0);
	ck_assert_uint_eq(place[0]->count, 2);
	free(place);
	exits_end(x, 0);
	ck_assert_uint_eq(exits_out_now(x), 0);
	ck_assert_uint_eq(x->left_out, 1);
}
END_TEST

/* Out on one CPU, in on another; asleep and preempted within an exit. */
START_TEST(test_off)
{
	on_exit_of(0, 1000, 0, HLT, 0);
	on_out(0, 1100, 0, false);
	on_in(3, 1400, 0);
	on_out(3, 1410, 0, true);
	on_in(2, 1415, 0);
	on_entry(2, 1500, 0);
	ck_assert_uint_eq(total()->out.sum, 500);
	ck_assert_uint_eq(total()->asleep, 300);
	ck_assert_uint_eq(total()->preempted, 5);
	on_exit_of(2, 2000, 0, HLT, 0);
	on_entry(2, 2001, 0);
	ck_assert_uint_eq(total()->asleep, 300);
}
END_TEST

/* A vCPU that another thread runs from some time on; two VMs of one process. */
START_TEST(test_threads)
{
	struct exits_at a = at(0, 1000, 0);
	struct exits_why why = { HLT, "HLT", 0 };

	exits_exit(x, &a, &why);
	a.tid = 999;
	a.time = 1200;
	exits_entry(x, &a);
	ck_assert_uint_eq(total()->out.count, 0);
	ck_assert_uint_eq(x->no_exit, 1);
	a.time = 1300;
	exits_exit(x, &a, &why);
	a.time = 1301;
	exits_entry(x, &a);
	ck_assert_uint_eq(total()->out.sum, 1);
	ck_assert_uint_eq(exits_out_now(x), 1);
}
END_TEST

START_TEST(test_exit_after_exit)
{
	on_exit_of(0, 1000, 0, HLT, 0);
	on_exit_of(0, 2000, 0, IO, 0); /* the reason changes: the first one has no duration */
	on_entry(0, 2100, 0);
	ck_assert_uint_eq(x->no_entry, 1);
	ck_assert_uint_eq(total()->out.sum, 100);
	ck_assert_uint_eq(row_of(EXITS_ALL, HLT)->out.count, 0);
	ck_assert_uint_eq(row_of(EXITS_ALL, IO)->out.count, 1);
}
END_TEST

START_TEST(test_whole)
{
	struct exits_at a = at(0, 1500, 0);
	struct exits_why why = { IO, "IO", 7 };

	on_entry(0, 1000, 0);
	on_out(0, 1100, 0, false);
	on_in(0, 1400, 0);
	exits_whole(x, &a, &why, 480);
	ck_assert_uint_eq(total()->out.sum, 480);
	ck_assert_uint_eq(total()->asleep, 300);
	on_exit_of(0, 1600, 0, HLT, 0);
	on_entry(0, 1601, 0);
	ck_assert_uint_eq(total()->out.sum, 481);
	ck_assert_uint_eq(total()->asleep, 300);
	a.time = 1700;
	exits_whole(x, &a, &why, 0); /* its thread ended */
	ck_assert_uint_eq(x->no_entry, 1);
	ck_assert_uint_eq(total()->out.count, 2);
}
END_TEST

/* ------------------------------------------------------------------------------------------ loss */

/* On the CPU that it was on: what it was in is void, be it an exit or the guest. */
START_TEST(test_loss_there)
{
	size_t nr;
	struct exits_vcpu **vcpu;

	on_exit_of(0, 1000, 0, HLT, 0);
	on_exit_of(1, 1000, 1, HLT, 0); /* on a CPU that lost nothing */
	exits_loss(x, 0, 0, 7);
	on_entry(0, 2000, 0);
	on_entry(1, 2000, 1);
	ck_assert_uint_eq(x->lost, 7);
	ck_assert_uint_eq(x->voided, 1);
	ck_assert_uint_eq(x->no_exit, 0);
	ck_assert_uint_eq(row_of(0, HLT)->out.count, 0);
	ck_assert_uint_eq(row_of(1, HLT)->out.sum, 1000);
	exits_loss(x, 0, 0, 1); /* while in the guest */
	on_exit_of(0, 3000, 0, IO, 0);
	on_entry(0, 3001, 0);
	ck_assert_uint_eq(row_of(0, IO)->out.sum, 1);
	ck_assert_uint_eq(x->voided, 1);
	exits_loss(x, 0, 0, 1);
	on_entry(0, 4000, 0); /* its exit was lost */
	ck_assert_uint_eq(x->voided, 2);
	ck_assert_uint_eq(x->no_exit, 0);
	vcpu = exits_vcpus(x, total(), &nr);
	ck_assert_uint_eq(vcpu[0]->guest_ns, 0); /* what was not lost never was the guest's from entry to exit */
	free(vcpu);
}
END_TEST

/* While it was off its CPU it may have run on the one whose ring lost what it did. */
START_TEST(test_loss_elsewhere)
{
	on_in(3, 500, 5); /* the ring's last event */
	on_exit_of(0, 1000, 0, HLT, 0);
	on_out(0, 1100, 0, false);
	exits_loss(x, 0, 3, 1);
	on_in(0, 1300, 0);
	on_entry(0, 1400, 0);
	ck_assert_uint_eq(total()->out.count, 0);
	ck_assert_uint_eq(x->voided, 1);
	/* Back before what the ring has told last: that cannot be. */
	on_in(3, 1500, 5);
	on_exit_of(0, 2000, 0, HLT, 0);
	on_out(0, 2100, 0, false);
	on_in(0, 2200, 0);
	on_in(3, 2300, 5);
	exits_loss(x, 0, 3, 1);
	on_entry(0, 2500, 0);
	ck_assert_uint_eq(total()->out.sum, 500);
	ck_assert_uint_eq(x->voided, 1);
}
END_TEST

/* The loss is told only after what it makes void was counted. */
START_TEST(test_loss_told_late)
{
	on_in(3, 500, 5);
	on_exit_of(0, 1000, 0, HLT, 0xa0);
	on_entry(0, 1010, 0); /* never off */
	on_exit_of(0, 1050, 0, HLT, 0xa0);
	on_out(0, 1100, 0, false);
	on_in(0, 1300, 0);
	on_entry(0, 1400, 0);
	ck_assert_uint_eq(total()->out.count, 2);
	exits_loss(x, 0, 3, 1);
	ck_assert_uint_eq(total()->out.count, 1);
	ck_assert_uint_eq(total()->out.sum, 10);
	ck_assert_uint_eq(total()->asleep, 0);
	ck_assert_uint_eq(x->voided, 1);
	exits_loss(x, 0, 3, 1); /* not twice */
	ck_assert_uint_eq(total()->out.count, 1);
	/* Nor is it known that the loss was over when it was told. */
	on_exit_of(0, 2000, 0, HLT, 0xa0);
	on_out(0, 2100, 0, false);
	on_in(0, 2300, 0);
	on_entry(0, 2400, 0);
	on_in(3, 2500, 5);
	ck_assert_uint_eq(total()->out.sum, 10);
}
END_TEST

/* The loss is told after what cannot have been without it: it left a CPU unseen, or came to one. */
START_TEST(test_loss_not_told)
{
	on_exit_of(0, 1000, 0, HLT, 0);
	on_in(1, 2000, 0);
	on_entry(1, 2100, 0);
	ck_assert_uint_eq(total()->out.count, 0);
	ck_assert_uint_eq(x->voided, 1);
	on_exit_of(1, 3000, 0, HLT, 0);
	on_out(1, 3100, 0, false);
	on_entry(2, 3200, 0);
	ck_assert_uint_eq(x->voided, 2);
	on_exit_of(2, 4000, 0, HLT, 0);
	on_entry(1, 4100, 0);
	ck_assert_uint_eq(total()->out.count, 0);
	ck_assert_uint_eq(x->voided, 3);
	ck_assert_uint_eq(x->no_exit, 0);
	on_exit_of(1, 5000, 0, HLT, 0);
	on_entry(1, 5100, 0);
	ck_assert_uint_eq(total()->out.sum, 100);
}
END_TEST

/* What comes too late for the merge makes no duration either. */
START_TEST(test_late)
{
	on_exit_of(1, 1000, 0, HLT, 0);
	on_entry(1, 1500, 0);
	on_exit_of(0, 1400, 0, HLT, 0);
	on_entry(1, 1600, 0);
	ck_assert_uint_eq(total()->out.sum, 500);
	ck_assert_uint_eq(x->voided, 1);
	on_exit_of(1, 2000, 0, HLT, 0);
	on_entry(0, 1900, 0);
	on_entry(1, 2100, 0);
	ck_assert_uint_eq(total()->out.sum, 500);
	ck_assert_uint_eq(x->voided, 2);
}
END_TEST

/* ---------------------------------------------------------------------------------------- limits */

START_TEST(test_limits)
{
	const __u32 nr = 2 * EXITS_PLACES;
	size_t places;
	__u64 sum = 0;
	struct exits_place **place;

	for (__u32 i = 0; i < nr; i++) {
		on_exit_of(0, 1000 + 2 * i, 0, HLT, i);
		on_entry(0, 1001 + 2 * i, 0);
	}
	ck_assert_uint_eq(total()->out.count, nr);
	place = exits_places(x, row_of(EXITS_ALL, HLT), &places);
	ck_assert_uint_eq(places, EXITS_PLACES);
	for (size_t i = 0; i < places; i++)
		sum += place[i]->count;
	ck_assert_uint_eq(sum, EXITS_PLACES); /* the others are of the row, and of no place */
	free(place);
	for (__u32 i = 0; i < EXITS_ROWS; i++) {
		on_exit_of(0, 1000000 + 2 * i, 0, 2 * HLT + i, i);
		on_entry(0, 1000001 + 2 * i, 0);
	}
	ck_assert_uint_eq(total()->out.count, nr + EXITS_ROWS);
	ck_assert_uint_gt(x->beyond, EXITS_ROWS / 3);
	for (__u32 i = 0; i < EXITS_VCPUS; i++)
		on_exit_of(0, 2000000 + 2 * i, i, HLT, i);
	ck_assert_uint_eq(x->vcpus.nr, EXITS_VCPUS);
	on_exit_of(0, 3000000, EXITS_VCPUS + 1, HLT, 0);
	ck_assert_uint_eq(x->vcpus.nr, EXITS_VCPUS);
}
END_TEST

static void add(Suite *s, const char *name, const TTest *test)
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test);
	suite_add_tcase(s, tc);
}

int main(void)
{
	Suite *s = suite_create("exits");
	TCase *tc = tcase_create("durations");

	tcase_add_loop_test(tc, test_durations, 0, 3);
	tcase_add_loop_test(tc, test_durations, 100, 102);
	tcase_add_loop_test(tc, test_durations, 20000, 20001);
	suite_add_tcase(s, tc);
	add(s, "take_back", test_take_back);
	add(s, "longest", test_longest);
	add(s, "pairs", test_pairs);
	add(s, "off", test_off);
	add(s, "threads", test_threads);
	add(s, "exit_after_exit", test_exit_after_exit);
	add(s, "whole", test_whole);
	add(s, "loss_there", test_loss_there);
	add(s, "loss_elsewhere", test_loss_elsewhere);
	add(s, "loss_told_late", test_loss_told_late);
	add(s, "loss_not_told", test_loss_not_told);
	add(s, "late", test_late);
	add(s, "limits", test_limits);
	return unit_run(s);
}
