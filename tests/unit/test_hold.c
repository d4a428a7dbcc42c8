/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the flight recorder holds: how much, in which order, and what goes when. */
#include <stdlib.h>
#include <string.h>

#include "hold.h"
#include "unit.h"

#define MOST 65536u

static unsigned char data[4096];
static struct hold *hold;

static void setup(void)
{
	hold = hold_new(2, MOST);
	ck_assert_ptr_nonnull(hold);
}

static void teardown(void)
{
	hold_free(hold);
}

static void put(unsigned int ring, __u32 len, __u32 events, __u64 now)
{
	struct htrace_batch b = { .data = data, .len = len, .events = events, .dropped = 1 };

	ck_assert_int_eq(hold_batch(hold, ring, &b, now, false, 0), 0);
}

/* Arrival of the batch that goes as it is too old; 0: none does. */
static __u64 excess(void)
{
	struct held *i = hold_excess(hold);
	__u64 arrival = i ? i->arrival : 0;

	free(i);
	return arrival;
}

static __u64 take(void)
{
	struct held *i = hold_asked(hold);
	__u64 arrival = i ? i->arrival : 0;

	if (i)
		hold_take(hold, i);
	free(i);
	return arrival;
}

START_TEST(keeps_enough)
{
	__u64 gone = 0, when;

	for (__u64 now = 1; now <= 100; now++) {
		put(0, sizeof(data), 1, now);
		while ((when = excess())) {
			ck_assert_uint_eq(when, gone + 1);
			gone = when;
		}
		/* what is left is enough, and would not be without one more */
		if (gone)
			ck_assert_uint_le((now - gone - 1) * sizeof(data), MOST);
		ck_assert_uint_ge((now - gone) * (sizeof(data) + sizeof(struct held)),
				  now < 17 ? 0 : MOST);
	}
	ck_assert_uint_gt(gone, 80);
}
END_TEST

START_TEST(rings_apart)
{
	struct hold_sum sum;

	put(1, 16, 7, 1);
	for (__u64 now = 2; now <= 100; now++) {
		put(0, sizeof(data), 1, now);
		while (excess())
			;
	}
	sum = hold_ask(hold);
	ck_assert_uint_eq(sum.since, 1);
	ck_assert_uint_eq(sum.until, 100);
	ck_assert_uint_eq(sum.events - 7, sum.lost - 1);
	ck_assert_uint_eq(take(), 1);
	ck_assert_uint_gt(take(), 80); /* in the order in which they came */
}
END_TEST

START_TEST(asked_stays)
{
	put(0, sizeof(data), 1, 1);
	hold_ask(hold);
	for (__u64 now = 2; hold_has_room(hold, 0); now++) {
		put(0, sizeof(data), 1, now);
		ck_assert_uint_eq(excess(), 0);
		ck_assert_uint_lt(now, 40);
	}
	ck_assert(hold_has_room(hold, 1));
	ck_assert_uint_eq(take(), 1);
	ck_assert_uint_eq(take(), 0); /* the others came later */
	ck_assert(hold_has_room(hold, 0));
}
END_TEST

START_TEST(notes)
{
	struct held *i;

	ck_assert_int_eq(hold_note(hold, "hello", true, 1), 0);
	for (__u64 now = 2; now < 2000; now++) {
		ck_assert_int_eq(hold_note(hold, "", false, now), 0);
		while (excess())
			;
	}
	hold_ask(hold);
	i = hold_asked(hold);
	ck_assert(i->is_note && !i->captured);
	ck_assert_uint_gt(i->arrival, 1000);
	put(1, 8, 1, 5000);
	ck_assert_uint_eq(excess(), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("hold");
	TCase *c = tcase_create("hold");

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, keeps_enough);
	tcase_add_test(c, rings_apart);
	tcase_add_test(c, asked_stays);
	tcase_add_test(c, notes);
	suite_add_tcase(s, c);
	return unit_run(s);
}
