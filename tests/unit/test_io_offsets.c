// SPDX-License-Identifier: LGPL-2.1-or-later
/* Whose of a guest's requests the host's are: what is learnt of where a disk is, what is not, and what is made of it. */
#include <stdlib.h>
#include <string.h>

#include "io_offsets.h"
#include "unit.h"

#define DEV 0xfe00000u
#define HOST_DEV 0x800000u
#define SPANS 4096u
#define OFFSET 100000u
#define RQ(at, size) (&(struct io_rq){ (at), DEV, (size), IO_READ })

static struct io_offsets *o;
static struct io_disk_span done[SPANS];
static unsigned int nr_done;
static const struct io_disk_span *list[SPANS];
static __u64 now;

static void setup(void)
{
	o = io_offsets_new();
	ck_assert_ptr_nonnull(o);
	io_offsets_of(o, 0, 70);
	nr_done = 0;
	now = 1000;
}

static void teardown(void)
{
	io_offsets_free(o);
}

/* The host's; in the order of their ends. */
static struct io_disk_span *add(__u64 asked, __u64 end, __u64 sector, __u32 bytes)
{
	struct io_disk_span *s = &done[nr_done++];

	ck_assert_uint_lt(nr_done, SPANS);
	*s = (struct io_disk_span){ asked, asked + 5, end, { sector, HOST_DEV, bytes, IO_READ }, false };
	return s;
}

static int past(__u64 from, __u64 until)
{
	int nr = 0;

	for (unsigned int i = nr_done; i-- > 0;)
		if (done[i].end >= from && done[i].end <= until)
			list[nr++] = &done[i];
	return nr;
}

/* A request that was alone from now on, for 500 ns. */
static void learn(const struct io_rq *rq)
{
	int nr = past(io_offsets_since(o, rq->op, now), now + 500);

	io_offsets_learn(o, rq, now, now + 500, list, nr);
	now += 1000;
}

/* One of 8 sectors, of which the host has all at @host. */
static void found(__u64 sector, __u64 host)
{
	add(now + 10, now + 100, host, 4096);
	learn(RQ(sector, 4096));
}

/* The host's requests that are @rq's, of those from now on. */
static unsigned int own(const struct io_rq *rq)
{
	unsigned int nr = (unsigned int)past(now, now + 500);

	nr = io_offsets_own(o, rq, now, list, nr);
	now += 1000;
	return nr;
}

/* Is the offset at @sector believed? */
static bool is_at(__u64 sector, __u64 host)
{
	add(now + 10, now + 100, host, 4096);
	return own(RQ(sector, 4096)) == 1;
}

START_TEST(test_believed)
{
	found(800, 800 + OFFSET);
	ck_assert(!is_at(800, 800 + OFFSET)); /* once is not enough */
	found(80, 80 + OFFSET);
	ck_assert(is_at(800, 800 + OFFSET));
	ck_assert(is_at(400, 400 + OFFSET)); /* between */
	ck_assert(is_at(0, OFFSET));         /* and beyond */
	ck_assert(is_at(1ULL << 40, (1ULL << 40) + OFFSET));
	ck_assert(!is_at(400, 401 + OFFSET));
	io_offsets_of(o, 0, 70);
	ck_assert(is_at(400, 400 + OFFSET));
	io_offsets_of(o, _i, 71 - (__u32)_i);  /* another VM, or another host's */
	ck_assert(!is_at(400, 400 + OFFSET));
}
END_TEST

/* A stream that goes forward has to be seen more often, without another one between; what is in the same place does not count. */
START_TEST(test_forward)
{
	for (__u64 i = 0; i < IO_OFFSETS_ROW; i++) {
		ck_assert(!is_at(8, 8 + OFFSET));
		if (_i == 1 && i == IO_OFFSETS_ROW - 1)
			found(100000, 7);
		if (_i == 2)
			found(8, 8 + OFFSET);
		else
			found(8 * i, 8 * i + OFFSET);
	}
	ck_assert(is_at(8, 8 + OFFSET) == (_i == 0));
}
END_TEST

/* A disk begins behind where the host's has it, and none is before its beginning or behind all ends. */
START_TEST(test_wrapped)
{
	found(5000, 500);
	found(4900, 400);
	ck_assert(is_at(6000, 1500));
	add(now + 10, now + 100, ~0ULL - 8, 4096);
	ck_assert_uint_eq(own(RQ(4, 4096)), 0);
	add(now + 10, now + 100, ~0ULL, 4096);
	ck_assert_uint_eq(own(RQ(~0ULL, 4096)), 0);
	found(~0ULL - 3, ~0ULL - 4503); /* would end behind it */
	ck_assert(is_at(6000, 1500));
}
END_TEST

/* What was alone, and yet does not tell. */
START_TEST(test_refused)
{
	for (__u64 i = 0; i < 2 * IO_OFFSETS_ROW; i++) {
		__u64 at = 8000 - 8 * i;
		struct io_rq rq = *RQ(at, 4096);
		struct io_disk_span *s = add(now + 10, now + 100, at + OFFSET, 4096);

		switch (_i) {
		case 0: /* more than was asked for */
			s->rq.bytes = 8192;
			break;
		case 1:
			s->rq.bytes = 3584;
			break;
		case 2:
			s->error = true;
			break;
		case 3:
			s->rq.op = IO_WRITE;
			break;
		case 4: /* the VMM asked before the guest did */
			s->asked = now - 10;
			break;
		case 5: /* on two disks */
			s->rq.bytes = 2048;
			add(now + 11, now + 110, at + OFFSET + 4, 2048)->rq.dev++;
			break;
		case 6: /* not in one piece */
			s->rq.bytes = 2048;
			add(now + 11, now + 110, at + OFFSET + 5, 2048);
			break;
		case 7: /* one sector twice */
			s->rq.bytes = 2048;
			add(now + 11, now + 110, at + OFFSET + 3, 2048);
			break;
		case 8: /* no sectors */
			s->rq.bytes = rq.bytes = 4095;
			break;
		case 9:
			s->rq.op = rq.op = IO_FLUSH;
			s->rq.bytes = rq.bytes = 0;
			break;
		case 10: /* one too many */
			add(now + 11, now + 110, at + 2 * OFFSET, 4096);
			break;
		case 11: /* too many */
			s->rq.bytes = 512;
			rq.bytes = 512 * (IO_OFFSETS_PIECES + 1);
			for (__u64 j = 1; j <= IO_OFFSETS_PIECES; j++)
				add(now + 11, now + 110, at + OFFSET + j, 512);
			break;
		}
		learn(&rq);
		nr_done = 0;
	}
	ck_assert(!is_at(8000, 8000 + OFFSET));
	ck_assert(!is_at(8000, 8000 + 2 * OFFSET));
}
END_TEST

/* The VMM reads ahead, at a constant distance. If that is done late it is not the request's; if not, it is not for long. */
START_TEST(test_ahead)
{
	for (__u64 i = 0; i < IO_OFFSETS_ROW + 4; i++) {
		bool late = _i == 0 && i % (IO_OFFSETS_ROW - 1) == 2;

		add(now + 10, now + (late ? 600 : 400), 8 * (i + 1) + OFFSET, 4096);
		learn(RQ(8 * i, 4096));
		ck_assert(_i == 1 || !is_at(8 * i, 8 * (i + 1) + OFFSET));
		nr_done = late ? nr_done : 0;
	}
	if (_i == 0)
		return;
	ck_assert(is_at(8, 16 + OFFSET));
	add(now + 10, now + 600, 32 + OFFSET, 4096); /* of what is believed, if it was wrong */
	learn(RQ(24, 4096));
	learn(RQ(100, 4096));
	ck_assert(!is_at(8, 16 + OFFSET));
}
END_TEST

/* Where something of the host's may have been missed nothing is believed that was not. */
START_TEST(test_not_all_known)
{
	found(800, 800 + OFFSET);
	io_offsets_learn(o, RQ(700, 4096), now, now + 500, list, -1);
	ck_assert_uint_eq(io_offsets_since(o, IO_READ, now), now);
	ck_assert_uint_eq(io_offsets_since(o, IO_READ, now + 700), now + 500);
	now += 1000;
	found(80, 80 + OFFSET);
	ck_assert(!is_at(80, 80 + OFFSET));
	found(8, 8 + OFFSET);
	io_offsets_learn(o, RQ(700, 4096), now, now + 500, list, -1);
	now += 1000;
	ck_assert(is_at(80, 80 + OFFSET)); /* what was is */
}
END_TEST

/* Likewise where it was lost between two requests: what was read ahead may be among it. Another host's loss is not. */
START_TEST(test_lost)
{
	found(800, 800 + OFFSET);
	io_offsets_lost(o, _i != 0);
	ck_assert_uint_eq(io_offsets_since(o, IO_READ, now), _i ? 1500 : now);
	found(80, 80 + OFFSET);
	ck_assert(is_at(80, 80 + OFFSET) == (_i == 1));
	found(8, 8 + OFFSET);
	io_offsets_lost(o, 0);
	ck_assert(is_at(80, 80 + OFFSET)); /* what is believed stays so */
}
END_TEST

/* The host did it in several requests. */
START_TEST(test_several)
{
	for (__u64 at = 800; at; at -= 400) {
		add(now + 11, now + 100, at + OFFSET + 3, 2560);
		add(now + 10, now + 110, at + OFFSET, 1536);
		learn(RQ(at, 4096));
	}
	add(now + 10, now + 90, 640 + OFFSET, 4096); /* another's */
	add(now + 10, now + 100, 604 + OFFSET, 2048);
	add(now + 11, now + 110, 600 + OFFSET, 2048);
	ck_assert_uint_eq(own(RQ(600, 4096)), 2);
	ck_assert_uint_eq(list[0]->rq.sector, 600 + OFFSET);
	ck_assert_uint_eq(list[1]->rq.sector, 604 + OFFSET);
}
END_TEST

/* In company: what is not just its own. */
START_TEST(test_not_own)
{
	struct io_disk_span *s;

	found(800, 800 + OFFSET);
	found(80, 80 + OFFSET);
	s = add(now + 10, now + 100, 400 + OFFSET, 4096);
	switch (_i) {
	case 0:
		s->rq.bytes = 3584;
		break;
	case 1: /* twice */
		add(now + 11, now + 110, 400 + OFFSET, 4096);
		break;
	case 2:
		add(now + 11, now + 110, 407 + OFFSET, 512);
		break;
	case 3: /* of one that left the guest earlier */
		s->asked = now - 1;
		break;
	case 4: /* of other ones, with which it cannot be merged any more */
		s->rq.bytes = 8192;
		s->asked = now - 10;
		s->issued = now - 1;
		break;
	case 5:
		s->rq.op = IO_WRITE;
		break;
	case 6:
		s->rq.dev++;
		break;
	case 7:
		s->rq.bytes = 4095;
		break;
	case 8: /* too many */
		s->rq.bytes = 512;
		for (__u64 j = 1; j <= IO_OFFSETS_PIECES; j++)
			add(now + 11, now + 110, 400 + OFFSET + j, 512);
		break;
	}
	ck_assert_uint_eq(own(RQ(400, _i == 8 ? 512 * (IO_OFFSETS_PIECES + 1) : 4096)), 0);
	ck_assert(is_at(400, 400 + OFFSET));
	ck_assert_uint_eq(own(RQ(400, 4096)), 0); /* nothing */
}
END_TEST

/* The host's block layer made one request of several of the guest's: it is each one's. */
START_TEST(test_merged)
{
	struct io_disk_span *s;

	found(800, 800 + OFFSET);
	found(80, 80 + OFFSET);
	s = add(now - 20, now + 100, 392 + OFFSET, 3 * 4096);
	s->issued = now + 10; /* asked for by the first of them, before the second one left the guest */
	ck_assert_uint_eq(own(RQ(400, 4096)), 1);
	ck_assert_ptr_eq(list[0], s);
	s = add(now + 1, now + 100, 396 + OFFSET, 4096); /* each has a half of another one's */
	add(now + 1, now + 100, 404 + OFFSET, 4096);
	ck_assert_uint_eq(own(RQ(400, 4096)), 2);
}
END_TEST

/* By the guest's disk, its operation, and the host's disk. */
START_TEST(test_apart)
{
	struct io_rq other = *RQ(400, 4096);

	found(800, 800 + OFFSET);
	found(80, 80 + OFFSET);
	add(now + 10, now + 100, 400 + OFFSET, 4096);
	other.dev++;
	ck_assert_uint_eq(own(&other), 0);
	other = *RQ(400, 4096);
	other.op = IO_WRITE;
	add(now + 10, now + 100, 400 + OFFSET, 4096)->rq.op = IO_WRITE;
	ck_assert_uint_eq(own(&other), 0);
	/* A mirror: what is read is on one disk or the other, what is written on both. */
	for (__u64 at = 700; at > 500; at -= 100) {
		add(now + 10, now + 100, at + 5, 4096)->rq.dev++;
		learn(RQ(at, 4096));
	}
	ck_assert(is_at(400, 400 + OFFSET));
	add(now + 10, now + 100, 400 + 5, 4096)->rq.dev++;
	ck_assert_uint_eq(own(RQ(400, 4096)), 1);
	add(now + 10, now + 100, 400 + OFFSET, 4096);
	add(now + 10, now + 100, 400 + 5, 4096)->rq.dev++;
	ck_assert_uint_eq(own(RQ(400, 4096)), 0);
}
END_TEST

/* Two pieces of the guest's disk: each has its offset, the nearest ones are taken between, and one may be in both. */
START_TEST(test_pieces)
{
	found(800, 800 + OFFSET);
	found(80, 80 + OFFSET);
	found(5000, 100);
	found(2000, 2000 - 4900);
	ck_assert(!is_at(80, 80 - 4900));
	ck_assert(is_at(3000, 3000 - 4900));
	ck_assert(!is_at(3000, 3000 + OFFSET)); /* within another one */
	ck_assert(is_at(1000, 1000 + OFFSET));
	ck_assert(is_at(1000, 1000 - 4900));
	ck_assert(is_at(9000, 9000 - 4900));
	ck_assert(!is_at(9000, 9000 + OFFSET));
	add(now + 10, now + 100, 1000 + OFFSET, 2048);
	add(now + 10, now + 100, 1004 - 4900, 2048);
	ck_assert_uint_eq(own(RQ(1000, 4096)), 2);
	add(now + 10, now + 100, 1000 + OFFSET, 4096);
	add(now + 10, now + 100, 1004 - 4900, 2048);
	ck_assert_uint_eq(own(RQ(1000, 4096)), 0);
}
END_TEST

/* A part of it has moved: that is no part of what is around it, which is found again. */
START_TEST(test_elsewhere)
{
	found(800, 800 + OFFSET);
	found(80, 80 + OFFSET);
	if (_i == 2) { /* elsewhere, though not in one piece */
		add(now + 10, now + 100, 9, 2048);
		add(now + 10, now + 100, 900000, 2048);
		learn(RQ(400, 4096));
	} else if (_i == 1) { /* it had it in memory, and read something on another disk */
		add(now + 10, now + 100, 9, 2048)->rq.dev++;
		learn(RQ(400, 4096));
	} else {
		found(400, 9);
	}
	ck_assert(is_at(80, 80 + OFFSET) == (_i == 1));
	if (_i)
		return;
	found(392, 1);
	found(100, 100 + OFFSET);
	found(80, 80 + OFFSET);
	found(500, 500 + OFFSET);
	ck_assert(is_at(90, 90 + OFFSET));
	ck_assert(is_at(396, 5));
	ck_assert(!is_at(396, 396 + OFFSET));
	ck_assert(!is_at(700, 700 + OFFSET)); /* that is one more, seen once */
	found(480, 480 + OFFSET);
	ck_assert(is_at(700, 700 + OFFSET));
	found(450, 9); /* of both sides one is forgotten, and what is between them */
	ck_assert(is_at(490, 490 + OFFSET));
	found(394, 394 + OFFSET);
	ck_assert(!is_at(396, 5));
}
END_TEST

/* The one that was not used for the longest time makes room. */
START_TEST(test_room)
{
	found(800, 800 + OFFSET);
	found(80, 80 + OFFSET);
	for (__u64 i = 0; i < 2 * IO_OFFSETS; i++) {
		found(10000 + 100 * i, i * 1000000);
		ck_assert(_i || is_at(400, 400 + OFFSET));
	}
	ck_assert(is_at(400, 400 + OFFSET) == !_i);
}
END_TEST

/* A request in more pieces than are looked at, or on more disks. */
START_TEST(test_too_many)
{
	bool by_disk = _i < 2;
	unsigned int nr = by_disk ? IO_OFFSETS_DISKS + (unsigned int)_i : IO_OFFSETS_TRIED + (unsigned int)_i - 2;

	for (unsigned int i = 0; i < nr; i++) {
		for (__u64 at = 2; at--;) {
			__u64 sector = by_disk ? 100 * at : i * 100 + 8 * at;

			add(now + 10, now + 100, sector + 1000000ULL * (i + 1), 4096)->rq.dev += by_disk ? i : 0;
			learn(RQ(sector, 4096));
		}
	}
	for (unsigned int i = 0; i < (by_disk ? 1 : nr); i++)
		add(now + 10, now + 100, i * 100 + 1000000ULL * (i + 1), i + 1 < nr && !by_disk ? 51200 : 4096);
	ck_assert((own(RQ(0, by_disk ? 4096 : 51200 * (nr - 1) + 4096)) > 0) == (_i % 2 == 0));
}
END_TEST

static void test(Suite *s, const char *name, const TTest *t, int times)
{
	TCase *tc = tcase_create(name);

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_loop_test(tc, t, 0, times);
	suite_add_tcase(s, tc);
}

int main(void)
{
	Suite *s = suite_create("io_offsets");

	test(s, "believed", test_believed, 2);
	test(s, "forward", test_forward, 3);
	test(s, "wrapped", test_wrapped, 1);
	test(s, "refused", test_refused, 12);
	test(s, "ahead", test_ahead, 2);
	test(s, "not_all_known", test_not_all_known, 1);
	test(s, "lost", test_lost, 2);
	test(s, "several", test_several, 1);
	test(s, "not_own", test_not_own, 9);
	test(s, "merged", test_merged, 1);
	test(s, "apart", test_apart, 1);
	test(s, "pieces", test_pieces, 1);
	test(s, "elsewhere", test_elsewhere, 3);
	test(s, "room", test_room, 2);
	test(s, "too_many", test_too_many, 4);
	return unit_run(s);
}
