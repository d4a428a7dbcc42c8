// SPDX-License-Identifier: LGPL-2.1-or-later
/* Stages of block requests: each by hand, those that are none or not known, clocks that agree to a bound, loss. */
#include <stdlib.h>
#include <string.h>

#include "io.h"
#include "unit.h"

#define VM 70
#define VQ 0xffff888000001000
#define READ(sector) (&(struct io_rq){ sector, 0xfe00000, 4096, IO_READ })

static struct io *x;
static bool on_host;
static __u64 bound;

static void setup(void)
{
	x = io_new();
	ck_assert_ptr_nonnull(x);
	on_host = true;
	bound = 0;
	for (unsigned int i = 1; i < 3; i++)
		io_records(x, i, true, true);
}

static void teardown(void)
{
	io_free(x);
}

/* CPU n is virtual CPU n + 10. */
static const struct io_at *at(__u64 time, unsigned int cpu)
{
	static struct io_at a;

	a = (struct io_at){ .time = time, .source = 1, .cpu = cpu };
	if (on_host) {
		a.on_host = true;
		a.bound = bound;
		a.host = 0;
		a.vm = VM;
		a.vcpu = cpu + 10;
	}
	return &a;
}

static const struct io_class *only(void)
{
	static struct io_class copy;
	size_t nr;
	struct io_class **c = io_classes(x, &nr);

	memset(&copy, 0, sizeof(copy));
	ck_assert_uint_le(nr, 1);
	if (nr)
		copy = *c[0];
	free(c);
	return &copy;
}

static void is(enum io_stage stage, __u64 count, __u64 sum, __u64 none, __u64 unknown)
{
	const struct io_times *t = &only()->stage[stage];

	ck_assert_msg(t->d.count == count && t->d.sum == sum && t->none == none && t->unknown == unknown,
		      "stage %d: %llu of %llu ns, %llu none, %llu unknown", stage,
		      (unsigned long long)t->d.count, (unsigned long long)t->d.sum,
		      (unsigned long long)t->none, (unsigned long long)t->unknown);
}

/* The notification of CPU 0: an exit with a write, an entry. */
static void kick(__u64 from, __u64 until)
{
	io_host_exit(x, 0, VM, 10, from, false);
	io_host_access(x, 0, VM, 10, true);
	io_host_entry(x, 0, VM, 10, until);
}

/* The interrupt, on CPU 1. */
static void interrupt(__u64 injected, __u64 handled)
{
	io_host_exit(x, 0, VM, 11, injected - 5, false);
	io_host_inject(x, 0, VM, 11, injected);
	io_host_entry(x, 0, VM, 11, injected + 5);
	io_interrupt(x, at(handled, 1), VQ);
}

START_TEST(test_all)
{
	io_insert(x, at(1000, 0), READ(8));
	io_issue(x, at(1100, 0), READ(8));
	io_notify(x, at(1150, 0), VQ);
	kick(1160, 1200);
	interrupt(1900, 1950);
	io_complete(x, at(2000, 1), READ(8), false);
	is(IO_QUEUE, 1, 100, 0, 0);
	is(IO_DRIVER, 1, 50, 0, 0);
	is(IO_KICK, 1, 40, 0, 0);
	is(IO_VMM, 1, 700, 0, 0);
	is(IO_IRQ, 1, 100, 0, 0);
	is(IO_TOTAL, 1, 1000, 0, 0);
	ck_assert_uint_eq(only()->size.sum, 4096);
	ck_assert_uint_eq(only()->dev, 0xfe00000);
	ck_assert_uint_eq(io_counts(x).in_flight, 0);
	io_issue(x, at(3000, 0), READ(8)); /* again, not queued; it fails */
	io_complete(x, at(3100, 1), READ(8), true);
	ck_assert_uint_eq(only()->errors, 1);
	is(IO_QUEUE, 1, 100, 1, 0);
	is(IO_DRIVER, 1, 50, 1, 0); /* the device did not want to know */
	is(IO_KICK, 1, 40, 1, 0);
	is(IO_VMM, 1, 700, 0, 1);
	is(IO_IRQ, 1, 100, 0, 1); /* there was no interrupt since */
	is(IO_TOTAL, 2, 1100, 0, 0);
}
END_TEST

/* Several with one notification; one of another CPU, which it is not for. */
START_TEST(test_batch)
{
	for (__u64 i = 0; i < 3; i++)
		io_issue(x, at(1000 + i, 0), READ(8 * i));
	io_issue(x, at(1010, 2), READ(800));
	io_notify(x, at(1100, 0), VQ);
	kick(1110, 1150);
	interrupt(1500, 1510);
	for (__u64 i = 0; i < 3; i++)
		io_complete(x, at(1600, 1), READ(8 * i), false);
	io_complete(x, at(1610, 1), READ(800), false);
	is(IO_DRIVER, 3, 100 + 99 + 98, 1, 0);
	is(IO_KICK, 3, 120, 1, 0);
	is(IO_VMM, 3, 1050, 0, 1);
	is(IO_IRQ, 3, 300, 0, 1); /* its queue is not known */
}
END_TEST

/* Another exit comes between: an interrupt of the host's. And a device's memory is read. */
START_TEST(test_other_exits)
{
	io_issue(x, at(1000, 0), READ(8));
	kick(1010, 1020); /* before it was notified: something else */
	io_notify(x, at(1100, 0), VQ);
	io_host_exit(x, 0, VM, 10, 1101, false);
	io_host_entry(x, 0, VM, 10, 1105);
	io_host_exit(x, 0, VM, 10, 1106, false);
	io_host_access(x, 0, VM, 10, false);
	io_host_entry(x, 0, VM, 10, 1107);
	io_host_exit(x, 0, VM + 1, 10, 1108, false); /* of another VM */
	io_host_access(x, 0, VM + 1, 10, true);
	io_host_entry(x, 0, VM + 1, 10, 1109);
	kick(1110, 1150);
	kick(1160, 1300); /* its own interrupt's acknowledgement */
	io_complete(x, at(1500, 1), READ(8), false);
	is(IO_KICK, 1, 40, 0, 0);
	is(IO_IRQ, 0, 0, 0, 1);
}
END_TEST

/* A write of which KVM says no more than the exit: if no more is said. */
START_TEST(test_fast)
{
	io_issue(x, at(1000, 0), READ(8));
	io_notify(x, at(1100, 0), VQ);
	io_host_exit(x, 0, VM, 10, 1110, true);
	io_host_access(x, 0, VM, 10, false); /* it was a read */
	io_host_entry(x, 0, VM, 10, 1120);
	io_host_exit(x, 0, VM, 10, 1130, true);
	io_host_entry(x, 0, VM, 10, 1137);
	io_complete(x, at(1500, 1), READ(8), false);
	is(IO_KICK, 1, 7, 0, 0);
}
END_TEST

/* Exits that come with their entries. */
START_TEST(test_whole)
{
	io_issue(x, at(1000, 0), READ(8));
	io_notify(x, at(1100, 0), VQ);
	io_host_whole(x, 0, VM, 10, 1130, 20, false);
	io_host_whole(x, 0, VM, 10, 1180, 30, true);
	io_host_inject(x, 0, VM, 11, 1400);
	io_host_whole(x, 0, VM, 11, 1410, 50, false); /* within it */
	io_interrupt(x, at(1420, 1), VQ);
	io_complete(x, at(1500, 1), READ(8), false);
	is(IO_KICK, 1, 30, 0, 0);
	is(IO_VMM, 1, 220, 0, 0);
	is(IO_IRQ, 1, 100, 0, 0);
	io_issue(x, at(2000, 0), READ(8));
	io_notify(x, at(2100, 0), VQ);
	io_host_whole(x, 0, VM, 10, 2180, 0, true); /* without end */
	io_complete(x, at(2500, 1), READ(8), false);
	is(IO_KICK, 1, 30, 0, 1);
}
END_TEST

/* The device is the exit's own work, and the interrupt given with the entry. */
START_TEST(test_synchronous)
{
	io_issue(x, at(1000, 0), READ(8));
	io_notify(x, at(1100, 0), VQ);
	io_host_exit(x, 0, VM, 10, 1110, false);
	io_host_access(x, 0, VM, 10, true);
	io_host_inject(x, 0, VM, 10, 1400);
	io_host_entry(x, 0, VM, 10, 1410);
	io_interrupt(x, at(1420, 0), VQ);
	io_complete(x, at(1450, 0), READ(8), false);
	is(IO_KICK, 1, 300, 0, 0);
	is(IO_VMM, 1, 0, 0, 0);
	is(IO_IRQ, 1, 50, 0, 0);
}
END_TEST

/* By the host's clock the exit seems to come before the notification, by less than the bound, or by more. */
START_TEST(test_bound)
{
	bound = 500;
	io_issue(x, at(9000, 0), READ(8));
	io_host_exit(x, 0, VM, 10, 9700, false);
	io_host_access(x, 0, VM, 10, true);
	if (_i == 0)
		io_host_entry(x, 0, VM, 10, 9900);
	io_notify(x, at(_i == 2 ? 10300 : 10000, 0), VQ);
	if (_i)
		io_host_entry(x, 0, VM, 10, 10400);
	io_complete(x, at(12000, 1), READ(8), false);
	if (_i == 2)
		is(IO_KICK, 0, 0, 0, 1);
	else
		is(IO_KICK, 1, _i ? 700 : 200, 0, 0);
}
END_TEST

/* An interrupt of which the host does not say that it was given: an old one's time is not taken for it. */
START_TEST(test_stale_interrupt)
{
	io_issue(x, at(1000, 0), READ(8));
	io_notify(x, at(1100, 0), VQ);
	kick(1110, 1150);
	io_host_exit(x, 0, VM, 11, 1200, false);
	io_host_inject(x, 0, VM, 11, 1210); /* the timer's */
	io_host_entry(x, 0, VM, 11, 1220);
	io_host_exit(x, 0, VM, 11, 1300, false);
	io_host_entry(x, 0, VM, 11, 1310);
	io_interrupt(x, at(1400, 1), VQ); /* posted by the processor */
	io_complete(x, at(1450, 1), READ(8), false);
	is(IO_IRQ, 0, 0, 0, 1);
	is(IO_VMM, 0, 0, 0, 1);
}
END_TEST

/* Where the guest's clock or its virtual CPUs are not known nothing is told of the host. */
START_TEST(test_not_on_host)
{
	on_host = false;
	io_insert(x, at(1000, 0), READ(8));
	io_issue(x, at(1100, 0), READ(8));
	io_notify(x, at(1150, 0), VQ);
	kick(1160, 1200);
	interrupt(1900, 1950);
	io_complete(x, at(2000, 1), READ(8), false);
	is(IO_QUEUE, 1, 100, 0, 0);
	is(IO_DRIVER, 1, 50, 0, 0);
	is(IO_KICK, 0, 0, 0, 1);
	is(IO_VMM, 0, 0, 0, 1);
	is(IO_IRQ, 0, 0, 0, 1);
	is(IO_TOTAL, 1, 1000, 0, 0);
}
END_TEST

/* A guest that records neither insertions nor notifications. */
START_TEST(test_not_recorded)
{
	io_records(x, 1, false, false);
	io_issue(x, at(1100, 0), READ(8));
	io_complete(x, at(2000, 1), READ(8), false);
	is(IO_QUEUE, 0, 0, 0, 1);
	is(IO_DRIVER, 0, 0, 0, 1);
	is(IO_KICK, 0, 0, 0, 1);
	is(IO_TOTAL, 1, 900, 0, 0);
}
END_TEST

START_TEST(test_loss)
{
	io_issue(x, at(1000, 0), READ(8));
	io_guest_loss(x, 1, 3);
	io_complete(x, at(1500, 1), READ(8), false);
	ck_assert_uint_eq(io_counts(x).voided, 1);
	ck_assert_uint_eq(io_counts(x).no_issue, 1);
	ck_assert_uint_eq(io_counts(x).lost, 3);
	is(IO_TOTAL, 0, 0, 0, 0);
	/* Of the host's: the exit that was waited for may be among them. */
	io_issue(x, at(2000, 0), READ(8));
	io_notify(x, at(2100, 0), VQ);
	io_host_loss(x, 0, 1);
	kick(2200, 2300);
	io_host_inject(x, 0, VM, 11, 2310);
	io_host_loss(x, 0, 1);
	io_interrupt(x, at(2400, 1), VQ);
	io_complete(x, at(2500, 1), READ(8), false);
	is(IO_KICK, 0, 0, 0, 1);
	is(IO_IRQ, 0, 0, 0, 1);
	is(IO_TOTAL, 1, 500, 0, 0);
}
END_TEST

/* Two that look alike; one that completes by parts; other devices, kinds and guests. */
START_TEST(test_ambiguous)
{
	struct io_rq part = *READ(16);
	struct io_at other;

	io_issue(x, at(1000, 0), READ(8));
	io_issue(x, at(1010, 1), READ(8));
	io_complete(x, at(1100, 0), READ(8), false);
	io_complete(x, at(1200, 0), READ(8), false);
	part.bytes = 1024;
	io_issue(x, at(2000, 0), READ(16));
	io_complete(x, at(2100, 0), &part, false);
	ck_assert_uint_eq(io_counts(x).ambiguous, 2);
	ck_assert_uint_eq(io_counts(x).no_issue, 1);
	is(IO_TOTAL, 0, 0, 0, 0);
	part = *READ(8);
	part.op = IO_WRITE;
	other = *at(3000, 0);
	other.source = 2;
	io_issue(x, at(3000, 0), READ(8));
	io_issue(x, at(3010, 0), &part);
	io_issue(x, &other, READ(8));
	io_complete(x, at(3100, 0), READ(8), false);
	is(IO_TOTAL, 1, 100, 0, 0);
	ck_assert_uint_eq(io_counts(x).in_flight, 2);
}
END_TEST

/* What asks for a flush is complete when that is, and no driver's. */
START_TEST(test_flush)
{
	struct io_rq flush = { 0, 7, 0, IO_FLUSH }, asks = { 0, 7, 0, IO_WRITE };

	io_issue(x, at(1000, 0), &flush);
	io_complete(x, at(1100, 0), &flush, false);
	io_complete(x, at(1110, 0), &asks, false);
	ck_assert_int_eq(only()->op, IO_FLUSH);
	is(IO_TOTAL, 1, 100, 0, 0);
	is(IO_QUEUE, 0, 0, 1, 0);
	ck_assert_uint_eq(io_counts(x).no_issue, 0);
}
END_TEST

START_TEST(test_limits)
{
	for (__u64 i = 0; i < 2 * IO_REQUESTS; i++)
		io_insert(x, at(1000 + i, 0), READ(8 * i));
	ck_assert_uint_eq(io_counts(x).in_flight, IO_REQUESTS);
	ck_assert_uint_eq(io_counts(x).beyond, IO_REQUESTS);
	for (__u64 i = 0; i < IO_REQUESTS; i++) {
		io_issue(x, at(100000 + i, 0), READ(8 * i));
		io_complete(x, at(200000 + i, 0), READ(8 * i), false);
	}
	ck_assert_uint_eq(only()->stage[IO_TOTAL].d.count, IO_REQUESTS);
	ck_assert_uint_eq(io_counts(x).in_flight, 0);
	for (unsigned int i = 0; i < 2 * IO_CLASSES; i++) {
		struct io_rq rq = { 8, i, 512, IO_WRITE };

		io_issue(x, at(300000, 0), &rq);
		io_complete(x, at(300001, 0), &rq, false);
	}
	ck_assert_uint_eq(io_counts(x).beyond, IO_REQUESTS + IO_CLASSES + 1);
}
END_TEST

static void add(Suite *s, const char *name, const TTest *test, int times)
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, test, 0, times);
	suite_add_tcase(s, tc);
}

int main(void)
{
	Suite *s = suite_create("io");

	add(s, "all", test_all, 1);
	add(s, "batch", test_batch, 1);
	add(s, "other_exits", test_other_exits, 1);
	add(s, "fast", test_fast, 1);
	add(s, "whole", test_whole, 1);
	add(s, "synchronous", test_synchronous, 1);
	add(s, "bound", test_bound, 3);
	add(s, "stale_interrupt", test_stale_interrupt, 1);
	add(s, "not_on_host", test_not_on_host, 1);
	add(s, "not_recorded", test_not_recorded, 1);
	add(s, "loss", test_loss, 1);
	add(s, "ambiguous", test_ambiguous, 1);
	add(s, "flush", test_flush, 1);
	add(s, "limits", test_limits, 1);
	return unit_run(s);
}
