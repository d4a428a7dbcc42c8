// SPDX-License-Identifier: LGPL-2.1-or-later
/* Stages of block requests: each by hand, those that are none or not known, clocks that agree to a bound, loss. */
#include <stdlib.h>
#include <string.h>

#include "io.h"
#include "unit.h"

#define VM 70
#define VECTOR 0x22
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
		io_records(x, i, true, true, true);
	io_host_records(x, 0, true);
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
	io_host_exit(x, 0, VM, 10, from, IO_EXIT_OTHER);
	io_host_access(x, 0, VM, 10, true);
	io_host_entry(x, 0, VM, 10, until);
}

/* The interrupt, on CPU 1. */
static void interrupt(__u64 injected, __u64 handled)
{
	io_host_exit(x, 0, VM, 11, injected - 5, IO_EXIT_OTHER);
	io_host_inject(x, 0, VM, 11, injected, VECTOR, false);
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

static void disk(__u64 end, __u64 ns, __u64 queue_ns)
{
	struct io_disk_rq rq = {
		.vm = VM, .rq = { .dev = 0x800000, .bytes = 4096 }, .end = end, .ns = ns, .queue_ns = queue_ns,
	};

	io_host_disk(x, &rq);
}

/* What the disks took of a request: when it is known, and how that adds up. */
START_TEST(test_disk)
{
	struct io_disk_rq others = { .vm = VM + 1, .rq = { .dev = 1, .bytes = 512 }, .end = 1300, .ns = 50 };

	io_issue(x, at(1100, 0), READ(8));
	io_notify(x, at(1150, 0), VQ);
	disk(1159, 100, 10); /* before it */
	kick(1160, 1200);
	disk(1250, 100, 5);  /* asked for before it */
	io_host_disk(x, &others);
	disk(1300, 100, 20); /* 1180 1200 1300 */
	disk(1350, 80, 10);  /* 1260 1270 1350 */
	disk(1500, 50, 30);  /* 1420 1450 1500 */
	disk(1480, 10, 0);   /* the merge could not order it */
	disk(1901, 100, 0);  /* longer than the guest waited */
	interrupt(1900, 1950);
	io_complete(x, at(2000, 1), READ(8), false);
	is(IO_KICK, 1, 40, 0, 0);
	is(IO_VMM, 1, 700, 0, 0);
	is(IO_WAITS, 1, 50, 0, 0);
	is(IO_DISK, 1, 150 + 50, 0, 0);
	is(IO_REST, 1, 740 - 250, 0, 0);
	io_issue(x, at(3000, 0), READ(8)); /* from memory */
	io_notify(x, at(3010, 0), VQ);
	kick(3020, 3040);
	interrupt(3100, 3110);
	io_complete(x, at(3120, 1), READ(8), false);
	is(IO_WAITS, 1, 50, 1, 0);
	is(IO_DISK, 1, 200, 1, 0);
	is(IO_REST, 2, 490 + 80, 0, 0);
}
END_TEST

/*
 * Nothing is told of the disks: two were in flight, something was lost, it was too much, it is not recorded, not all
 * of the guest's requests are, another one was in flight before, or may have been: one of two that were alike.
 */
START_TEST(test_disk_unknown)
{
	if (_i == 3)
		io_host_records(x, 0, false);
	if (_i == 4)
		io_records(x, 1, true, false, true);
	if (_i == 5 || _i == 6)
		io_issue(x, at(900, 2), READ(800));
	if (_i == 6) {
		io_issue(x, at(901, 3), READ(800));
		io_complete(x, at(950, 2), READ(800), false);
	}
	io_issue(x, at(1100, 0), READ(8));
	io_notify(x, at(1150, 0), VQ);
	kick(1160, 1200);
	if (_i == 0)
		io_issue(x, at(1210, 2), READ(800));
	if (_i == 1)
		io_host_loss(x, 0, 1);
	for (unsigned int i = 0; i < (_i == 2 ? IO_DISK_PAST + 1 : 1); i++)
		disk(1300 + i, 20, 10);
	interrupt(1900, 1950);
	io_complete(x, at(2000, 1), READ(8), false);
	for (unsigned int i = IO_WAITS; i <= IO_REST; i++)
		is(i, 0, 0, 0, 1);
	is(IO_TOTAL, 1, 900, 0, 0);
}
END_TEST

/* When it is known again. */
START_TEST(test_disk_again)
{
	__u64 t = _i == 1 ? IO_DOUBT_NS + 1000 : 1000;

	io_issue(x, at(900, 2), READ(800));
	io_issue(x, at(901, 3), READ(800));
	io_complete(x, at(950, 2), READ(800), false);
	if (_i != 1)
		io_complete(x, at(960, 2), READ(800), false);
	io_issue(x, at(t + 100, 0), READ(8));
	io_notify(x, at(t + 150, 0), VQ);
	kick(t + 160, t + 200);
	disk(t + 300, 20, 10);
	interrupt(t + 900, t + 950);
	if (_i == 2) /* was in flight when the reader came */
		io_complete(x, at(t + 960, 2), READ(1600), false);
	io_complete(x, at(t + 1000, 1), READ(8), false);
	is(IO_DISK, _i < 2, _i < 2 ? 20 : 0, 0, _i == 2);
}
END_TEST

/* Alone, of the host's sectors so much further on; until then it is not believed. */
static __u64 alone(__u64 t, __u64 sector, bool write_beside)
{
	struct io_rq other = { 4000, 0xfe00000, 4096, IO_WRITE };

	if (write_beside)
		io_issue(x, at(t, 2), &other);
	io_issue(x, at(t, 0), READ(sector));
	io_notify(x, at(t + 10, 0), VQ);
	kick(t + 20, t + 30);
	io_host_disk(x, &(struct io_disk_rq){ .vm = VM, .rq = { sector + 500, 0x800000, 4096, IO_READ }, .end = t + 80,
					      .ns = 40, .queue_ns = 5 });
	interrupt(t + 90, t + 95);
	io_complete(x, at(t + 100, 1), READ(sector), false);
	if (write_beside)
		io_complete(x, at(t + 110, 1), &other, false);
	return t + 1000;
}

/*
 * Two in flight: each one's own is known by where it is, learnt from those that were alone, or of their operation; not
 * after another session's, nor when something was lost, or between two lessons; if nothing was done at all, none is.
 */
START_TEST(test_disk_company)
{
	__u64 t = 1000, none = _i == 4;

	t = alone(t, 80, _i == 1);
	if (_i == 5)
		io_host_loss(x, 0, 1);
	t = alone(t, 8, _i == 1);
	if (_i == 2)
		io_guest_over(x, 1);
	io_issue(x, at(t, 2), READ(800));
	io_issue(x, at(t, 0), READ(40));
	io_notify(x, at(t + 10, 0), VQ);
	kick(t + 20, t + 30);
	if (_i == 3)
		io_host_loss(x, 0, 1);
	if (_i != 4)
		io_host_disk(x, &(struct io_disk_rq){ .vm = VM, .rq = { 540, 0x800000, 4096, IO_READ }, .end = t + 80,
						      .ns = 30, .queue_ns = 10 });
	if (_i != 4)
		io_host_disk(x, &(struct io_disk_rq){ .vm = VM, .rq = { 1300, 0x800000, 4096, IO_READ }, .end = t + 85,
						      .ns = 60, .queue_ns = 1 });
	interrupt(t + 90, t + 95);
	io_complete(x, at(t + 100, 1), READ(40), false);
	if (_i == 1) { /* beside the writes the first one is not known, and yet taught */
		size_t nr;
		struct io_class **c = io_classes(x, &nr);

		ck_assert_uint_eq(nr, 2);
		ck_assert_uint_eq(c[0]->op, IO_READ);
		ck_assert_uint_eq(c[0]->stage[IO_DISK].d.count, 2);
		ck_assert_uint_eq(c[0]->stage[IO_DISK].d.sum, 40 + 30);
		ck_assert_uint_eq(c[0]->stage[IO_DISK].unknown, 1);
		free(c);
		return;
	}
	if (_i == 2 || _i == 3 || _i == 5) {
		is(IO_DISK, 2, 80, 0, 1);
		return;
	}
	is(IO_WAITS, 2 + !none, 10 + (none ? 0 : 10), none, 0);
	is(IO_DISK, 2 + !none, 80 + (none ? 0 : 30), none, 0);
	is(IO_REST, 3, 2 * 25 + (none ? 70 : 30), 0, 0);
}
END_TEST

/* By VM, disk and kind. */
START_TEST(test_disk_classes)
{
	struct io_disk_rq rq = {
		.vm = 9, .rq = { .dev = 5, .op = IO_WRITE, .bytes = 512 }, .end = 900, .ns = 1000, .queue_ns = 7,
	};
	struct io_disk_class **c;
	size_t nr;

	io_host_disk(x, &rq); /* it says that it began before time did */
	rq.error = true;
	io_host_disk(x, &rq);
	rq.vm = 8;
	io_host_disk(x, &rq);
	c = io_disks_classes(io_disks(x), &nr);
	ck_assert_uint_eq(nr, 2);
	ck_assert_uint_eq(c[0]->vm, 8);
	ck_assert_uint_eq(c[1]->errors, 1);
	ck_assert_uint_eq(c[1]->disk.sum, 2000);
	ck_assert_uint_eq(c[1]->queue.sum, 14);
	ck_assert_uint_eq(c[1]->size.sum, 1024);
	free(c);
	for (rq.rq.dev = 0; rq.rq.dev < 2 * IO_DISK_CLASSES; rq.rq.dev++)
		io_host_disk(x, &rq);
	ck_assert_uint_eq(io_counts(x).beyond, IO_DISK_CLASSES + 1);
}
END_TEST

/*
 * An exit that the host forces, once or before the guest took the interrupt, in whole or in parts, says nothing of
 * what the guest did; what it did itself does, and so does an interrupt that is no device's.
 */
START_TEST(test_forced)
{
	io_issue(x, at(1000, 0), READ(8));
	io_notify(x, at(1100, 0), VQ);
	kick(1110, 1150);
	io_host_exit(x, 0, VM, 11, 1300, IO_EXIT_OTHER);
	io_host_inject(x, 0, VM, 11, 1310, VECTOR, false);
	io_host_entry(x, 0, VM, 11, 1320);
	io_host_exit(x, 0, VM, 11, 1330, IO_EXIT_FORCED);
	if (_i == 1)
		io_host_access(x, 0, VM, 11, false);
	io_host_inject(x, 0, VM, 11, 1340, _i == 2 ? IO_SYSTEM_VECTORS : VECTOR, true);
	io_host_entry(x, 0, VM, 11, 1350);
	io_host_whole(x, 0, VM, 11, 1370, 10, _i == 3 ? IO_EXIT_OTHER : IO_EXIT_FORCED, false);
	io_interrupt(x, at(1400, 1), VQ);
	io_complete(x, at(1450, 1), READ(8), false);
	if (_i < 2)
		is(IO_IRQ, 1, _i ? 110 : 140, 0, 0);
	else
		is(IO_IRQ, 0, 0, 0, 1);
}
END_TEST

/*
 * The guest ends an interrupt and then handles it: the exit for that takes nothing from what it was given. Any other one
 * does, and one behind which it was given something else; the end itself says nothing of what came before the exit.
 */
START_TEST(test_eoi)
{
	io_issue(x, at(1000, 0), READ(8));
	io_notify(x, at(1100, 0), VQ);
	kick(1110, 1150);
	io_host_exit(x, 0, VM, 11, 1300, IO_EXIT_OTHER);
	if (_i != 3)
		io_host_inject(x, 0, VM, 11, 1310, VECTOR, false);
	io_host_entry(x, 0, VM, 11, 1320);
	if (_i == 1)
		io_host_whole(x, 0, VM, 11, 1328, 4, IO_EXIT_OTHER, false);
	io_host_exit(x, 0, VM, 11, 1330, IO_EXIT_OTHER);
	if (_i == 2)
		io_host_inject(x, 0, VM, 11, 1335, VECTOR, false);
	io_host_eoi(x, 0, VM, 11);
	io_host_entry(x, 0, VM, 11, 1340);
	if (_i == 4)
		io_host_eoi(x, 0, VM, 11); /* a lie: it is in no exit */
	if (_i == 5)
		io_host_exit(x, 0, VM, 11, 1350, IO_EXIT_OTHER);
	io_interrupt(x, at(1400, 1), VQ);
	io_complete(x, at(1450, 1), READ(8), false);
	if (_i == 0 || _i == 2 || _i == 4)
		is(IO_IRQ, 1, _i == 2 ? 115 : 140, 0, 0);
	else
		is(IO_IRQ, 0, 0, 0, 1);
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
	io_host_exit(x, 0, VM, 10, 1101, IO_EXIT_OTHER);
	io_host_entry(x, 0, VM, 10, 1105);
	io_host_exit(x, 0, VM, 10, 1106, IO_EXIT_OTHER);
	io_host_access(x, 0, VM, 10, false);
	io_host_entry(x, 0, VM, 10, 1107);
	io_host_exit(x, 0, VM + 1, 10, 1108, IO_EXIT_OTHER); /* of another VM */
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
	io_host_exit(x, 0, VM, 10, 1110, IO_EXIT_FAST);
	io_host_access(x, 0, VM, 10, false); /* it was a read */
	io_host_entry(x, 0, VM, 10, 1120);
	io_host_exit(x, 0, VM, 10, 1130, IO_EXIT_FAST);
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
	io_host_whole(x, 0, VM, 10, 1130, 20, IO_EXIT_OTHER, false);
	io_host_whole(x, 0, VM, 10, 1180, 30, IO_EXIT_OTHER, true);
	io_host_inject(x, 0, VM, 11, 1400, VECTOR, false);
	io_host_whole(x, 0, VM, 11, 1410, 50, IO_EXIT_OTHER, false); /* within it */
	io_interrupt(x, at(1420, 1), VQ);
	io_complete(x, at(1500, 1), READ(8), false);
	is(IO_KICK, 1, 30, 0, 0);
	is(IO_VMM, 1, 220, 0, 0);
	is(IO_IRQ, 1, 100, 0, 0);
	io_issue(x, at(2000, 0), READ(8));
	io_notify(x, at(2100, 0), VQ);
	io_host_whole(x, 0, VM, 10, 2180, 0, IO_EXIT_OTHER, true); /* without end */
	io_complete(x, at(2500, 1), READ(8), false);
	is(IO_KICK, 1, 30, 0, 1);
}
END_TEST

/* The device is the exit's own work, and the interrupt given with the entry. */
START_TEST(test_synchronous)
{
	io_issue(x, at(1000, 0), READ(8));
	io_notify(x, at(1100, 0), VQ);
	io_host_exit(x, 0, VM, 10, 1110, IO_EXIT_OTHER);
	io_host_access(x, 0, VM, 10, true);
	io_host_inject(x, 0, VM, 10, 1400, VECTOR, false);
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
	io_host_exit(x, 0, VM, 10, 9700, IO_EXIT_OTHER);
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
	io_host_exit(x, 0, VM, 11, 1200, IO_EXIT_OTHER);
	io_host_inject(x, 0, VM, 11, 1210, VECTOR, false); /* the timer's */
	io_host_entry(x, 0, VM, 11, 1220);
	io_host_exit(x, 0, VM, 11, 1300, IO_EXIT_OTHER);
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
	io_records(x, 1, false, true, false);
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
	io_host_inject(x, 0, VM, 11, 2310, VECTOR, false);
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
	ck_assert_uint_eq(io_counts(x).ambiguous, 3);
	is(IO_TOTAL, 0, 0, 0, 0);
	/* The second of two is still in flight when a third one begins: its completion is not the third one's. */
	io_issue(x, at(2500, 0), READ(8));
	io_issue(x, at(2510, 1), READ(8));
	io_complete(x, at(2520, 0), READ(8), false);
	io_issue(x, at(2530, 0), READ(8));
	io_complete(x, at(2540, 1), READ(8), false);
	io_complete(x, at(2550, 0), READ(8), false);
	ck_assert_uint_eq(io_counts(x).ambiguous, 6);
	ck_assert_uint_eq(io_counts(x).no_issue, 0);
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

/* As many as there is room for wait on one CPU, and another one notifies all the time: they are not looked at for it. */
START_TEST(test_unsaid)
{
	__u64 others = 0;

	for (__u64 i = 0; i < IO_REQUESTS; i++) {
		io_issue(x, at(1000, i % 1000 ? 0 : 2), READ(8 * i));
		others += !(i % 1000);
	}
	for (unsigned int i = 0; i < 500000; i++)
		io_notify(x, at(1100, 1), VQ);
	for (__u64 i = 1; i < 11; i++) /* before they were said */
		io_complete(x, at(1150, 1), READ(8 * i * i), false);
	io_notify(x, at(1200, 0), VQ);
	for (__u64 i = 0; i < IO_REQUESTS; i++)
		io_complete(x, at(1300, 1), READ(8 * i), false);
	is(IO_DRIVER, IO_REQUESTS - others - 10, 200 * (IO_REQUESTS - others - 10), others + 10, 0);
	ck_assert_uint_eq(io_counts(x).in_flight, 0);
	io_notify(x, at(1400, 2), VQ); /* none of them is left there */
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
	add(s, "disk", test_disk, 1);
	add(s, "disk_unknown", test_disk_unknown, 7);
	add(s, "disk_again", test_disk_again, 3);
	add(s, "disk_company", test_disk_company, 6);
	add(s, "disk_classes", test_disk_classes, 1);
	add(s, "forced", test_forced, 4);
	add(s, "eoi", test_eoi, 6);
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
	add(s, "unsaid", test_unsaid, 1);
	add(s, "limits", test_limits, 1);
	return unit_run(s);
}
