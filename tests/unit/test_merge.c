// SPDX-License-Identifier: LGPL-2.1-or-later
/* The reader's merge: order, delay, loss in its place, hostile times, bounded memory. */
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "merge.h"
#include "unit.h"

#define DELAY 1000

/* A batch of records with nothing in them, all in the extended form. */
struct records {
	struct htrace_batch b;
	__u64 word[2 * 64];
};

static const struct htrace_batch *batch(struct records *r, unsigned int nr, const __u64 *times)
{
	memset(r, 0, sizeof(*r));
	for (unsigned int i = 0; i < nr; i++) {
		r->word[2 * i] = 7 | (__u64)(16 | HTRACE_REC_EXTENDED) << 16;
		r->word[2 * i + 1] = times[i];
	}
	r->b.data = (unsigned char *)r->word;
	r->b.len = 16 * nr;
	r->b.events = nr;
	return &r->b;
}

#define BATCH(r, ...)                                                           \
	batch(r, sizeof((__u64[]){ __VA_ARGS__ }) / sizeof(__u64), (__u64[]){ __VA_ARGS__ })

static void push(struct merge *m, unsigned int ring, const struct htrace_batch *b, __u64 now)
{
	ck_assert_int_eq(merge_push(m, ring, b, now, false, false), 0);
}

/* What goes out at @now, as "ring:time ...", losses as "ring:time-lost". */
static const char *drain(struct merge *m, __u64 now, bool all)
{
	static char text[4096];
	struct merge_item i;
	size_t len = 0;

	text[0] = 0;
	while (merge_pop(m, now, all, &i)) {
		len += (size_t)snprintf(text + len, sizeof(text) - len, "%s%u:%llu", len ? " " : "",
					i.ring, (unsigned long long)i.time);
		if (i.is_loss)
			len += (size_t)snprintf(text + len, sizeof(text) - len, "-%llu",
						(unsigned long long)(i.overwritten + i.dropped +
								     i.corrupt));
	}
	return text;
}

START_TEST(test_order)
{
	struct merge *m = merge_new(3, DELAY, 1 << 20);
	struct records r;

	push(m, 0, BATCH(&r, 10, 20, 30), 0);
	push(m, 1, BATCH(&r, 5, 15, 20, 40), 0);
	push(m, 2, BATCH(&r, 1), 0);
	push(m, 2, BATCH(&r, 35), 0);
	ck_assert_uint_eq(merge_due(m), DELAY);
	ck_assert_str_eq(drain(m, DELAY - 1, false), "");
	ck_assert_str_eq(drain(m, DELAY, false), "2:1 1:5 0:10 1:15 0:20 1:20 0:30 2:35 1:40");
	ck_assert_uint_eq(merge_due(m), UINT64_MAX);
	merge_free(m);
}
END_TEST

/* What came later waits for its own delay, unless it is older than what is due. */
START_TEST(test_delay)
{
	struct merge *m = merge_new(2, DELAY, 1 << 20);
	struct records r;

	push(m, 0, BATCH(&r, 10, 50), 0);
	push(m, 1, BATCH(&r, 20, 60), 500);
	ck_assert_str_eq(drain(m, DELAY, false), "0:10 1:20 0:50");
	ck_assert_uint_eq(merge_due(m), 500 + DELAY);
	push(m, 0, BATCH(&r, 55), 700);
	ck_assert_str_eq(drain(m, 500 + DELAY, false), "0:55 1:60");
	merge_free(m);
}
END_TEST

/* A ring that stamps the future, or the past, holds up nobody and disturbs its own order only. */
START_TEST(test_hostile_times)
{
	struct merge *m = merge_new(2, DELAY, 1 << 20);
	struct records r;

	push(m, 0, BATCH(&r, UINT64_MAX, 3), 0);
	push(m, 1, BATCH(&r, 10, 20), 10);
	ck_assert_str_eq(drain(m, DELAY, false),
			 "1:10 1:20 0:18446744073709551615 0:18446744073709551615");
	push(m, 1, BATCH(&r, 30, 25, 40), 2000);
	ck_assert_str_eq(drain(m, 2000 + DELAY, false), "1:30 1:30 1:40");
	merge_free(m);
}
END_TEST

START_TEST(test_late)
{
	struct merge *m = merge_new(2, DELAY, 1 << 20);
	struct merge_item i;
	struct records r;

	push(m, 0, BATCH(&r, 100), 0);
	ck_assert_str_eq(drain(m, DELAY, false), "0:100");
	push(m, 1, BATCH(&r, 90, 95), DELAY);
	ck_assert(merge_pop(m, 2 * DELAY, false, &i));
	ck_assert(i.late);
	ck_assert(merge_pop(m, 2 * DELAY, false, &i));
	ck_assert(!i.late);
	merge_free(m);
}
END_TEST

START_TEST(test_loss)
{
	struct merge *m = merge_new(2, DELAY, 1 << 20);
	struct records r;

	push(m, 0, BATCH(&r, 10), 0);
	BATCH(&r, 30);
	r.b.overwritten = 2;
	r.b.dropped = 1;
	push(m, 0, &r.b, 0);
	push(m, 1, BATCH(&r, 20, 30), 0);
	/* No record behind it: all that is known is that it came after what went out. */
	batch(&r, 0, NULL);
	r.b.corrupt = 4;
	push(m, 0, &r.b, 0);
	ck_assert_str_eq(drain(m, DELAY, false), "0:10 1:20 0:30-3 0:30 0:30-4 1:30");
	batch(&r, 0, NULL);
	r.b.dropped = 5;
	push(m, 1, &r.b, DELAY);
	ck_assert_str_eq(drain(m, DELAY, true), "1:30-5");
	merge_free(m);
}
END_TEST

START_TEST(test_memory)
{
	struct merge *m = merge_new(4, DELAY, 64 << 10);
	struct records r;
	int pushed = 0;

	while (merge_has_room(m, 0) && pushed < 10000) {
		push(m, 0, BATCH(&r, 1, 2, 3), 0);
		pushed++;
	}
	ck_assert_int_lt(pushed, 1000);
	/* Who has little may still go on. */
	ck_assert(merge_has_room(m, 1));
	push(m, 1, BATCH(&r, 1), 0);
	drain(m, DELAY, false);
	ck_assert(merge_has_room(m, 0));
	merge_free(m);
}
END_TEST

/* Many rings, each with little, must not add up to more than there is room for. */
START_TEST(test_memory_of_many)
{
	struct merge *m = merge_new(1000, DELAY, 64 << 10);
	unsigned int pushed = 0;
	struct merge_item item;
	struct records r;

	for (unsigned int ring = 0; ring < 1000; ring++) {
		for (int i = 0; i < 10 && merge_has_room(m, ring); i++) {
			push(m, ring, BATCH(&r, 1, 2, 3), 0);
			pushed++;
		}
	}
	ck_assert_uint_lt(pushed, 700); /* of 48 bytes, and what it takes to hold them */
	while (merge_pop(m, DELAY, false, &item))
		;
	ck_assert(merge_has_room(m, 999));
	merge_free(m);
}
END_TEST

/* Random batches: each ring's records come out in their order, complete, and sorted over all. */
START_TEST(test_random)
{
	unsigned long long seed = (unsigned long long)_i;
	struct merge *m = merge_new(5, DELAY, 64 << 20);
	__u64 time[5] = { 0 }, last = 0, pushed = 0, popped = 0, now = 0;
	struct merge_item item;

	for (int round = 0; round < 300; round++) {
		unsigned int ring = unit_random(&seed) % 5;
		unsigned int nr = unit_random(&seed) % 20;
		struct records r;
		__u64 t[20];

		/* Nobody is further behind than the delay. */
		for (unsigned int i = 0; i < nr; i++)
			t[i] = time[ring] += unit_random(&seed) % 50;
		push(m, ring, batch(&r, nr, t), now);
		pushed += nr;
	}
	while (merge_pop(m, 0, true, &item)) {
		ck_assert(!item.late);
		ck_assert_uint_ge(item.time, last);
		last = item.time;
		popped++;
	}
	ck_assert_uint_eq(popped, pushed);
	merge_free(m);
}
END_TEST

/* Pop up to @most items at @now, and write down what they are. */
static size_t pop_some(struct merge *m, __u64 now, bool all, unsigned int most, __u64 *seen,
		       size_t nr)
{
	struct merge_item i;

	while (most-- && merge_pop(m, now, all, &i)) {
		ck_assert_uint_lt(nr, 16384);
		seen[nr++] = i.mark ? (__u64)(uintptr_t)i.mark :
				      i.time << 8 | (__u64)i.ring << 4 | (__u64)i.late << 1 |
					      i.is_loss;
	}
	return nr;
}

/*
 * However far output lags, it has one order, marks included; and so has who pushes the same again
 * and pops what was due then before each.
 */
START_TEST(test_lag)
{
	unsigned long long seed = 1000 + (unsigned long long)_i;
	struct merge *m[3];
	__u64 *seen[3], time[4] = { 0 }, now = 0, asked = 0;
	size_t nr[3] = { 0 };

	for (int k = 0; k < 3; k++) {
		m[k] = merge_new(4, DELAY, 64 << 20);
		seen[k] = calloc(16384, sizeof(__u64));
	}
	for (uintptr_t round = 1; round < 400; round++) {
		unsigned int ring = unit_random(&seed) % 4, len = unit_random(&seed) % 20;
		bool mark = unit_random(&seed) % 10 == 0;
		struct records r;
		__u64 t[20];

		for (unsigned int i = 0; i < len; i++)
			t[i] = time[ring] += unit_random(&seed) % 90;
		batch(&r, len, t);
		r.b.dropped = unit_random(&seed) % 5 == 0;
		nr[2] = pop_some(m[2], asked, false, ~0u, seen[2], nr[2]);
		for (int k = 0; k < 3; k++) {
			if (mark)
				ck_assert_int_eq(merge_mark(m[k], (void *)round, now), 0);
			push(m[k], ring, &r.b, now);
		}
		now += unit_random(&seed) % 700;
		if (unit_random(&seed) % 3) {
			asked = now;
			nr[0] = pop_some(m[0], now, false, ~0u, seen[0], nr[0]);
			nr[1] = pop_some(m[1], now, false, 1 + unit_random(&seed) % 6, seen[1],
					 nr[1]);
		}
	}
	for (int k = 0; k < 3; k++) {
		nr[k] = pop_some(m[k], now, true, ~0u, seen[k], nr[k]);
		ck_assert_uint_eq(nr[k], nr[0]);
		ck_assert_mem_eq(seen[k], seen[0], nr[0] * sizeof(__u64));
		ck_assert_uint_eq(merge_marks(m[k]), 0);
	}
	for (int k = 0; k < 3; k++) {
		merge_free(m[k]);
		free(seen[k]);
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("merge");
	TCase *c = tcase_create("merge");

	tcase_add_test(c, test_order);
	tcase_add_test(c, test_delay);
	tcase_add_test(c, test_hostile_times);
	tcase_add_test(c, test_late);
	tcase_add_test(c, test_loss);
	tcase_add_test(c, test_memory);
	tcase_add_test(c, test_memory_of_many);
	tcase_add_loop_test(c, test_random, 0, (int)unit_some(50));
	tcase_add_loop_test(c, test_lag, 0, (int)unit_some(50));
	suite_add_tcase(s, c);
	return unit_run(s);
}
