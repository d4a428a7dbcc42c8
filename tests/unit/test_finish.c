/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading what a dead process left in its ring: what is committed is delivered as far as it can be
 * told from what is not, the rest is counted. Producers die in the real ring.h, at any of their
 * accesses to shared memory.
 */
#include <errno.h>
#include <setjmp.h>
#include <string.h>

#include "unit.h"

static jmp_buf dead;
static int accesses_left = -1; /* of the producer that will die; -1: it lives */

static void access_shared(void)
{
	if (accesses_left < 0 || accesses_left-- > 0)
		return;
	longjmp(dead, 1);
}

#define __atomic_store_n(p, v, order) (access_shared(), __atomic_store_n(p, v, order))
#define __atomic_fetch_add(p, v, order) (access_shared(), __atomic_fetch_add(p, v, order))
#define __atomic_compare_exchange_n(p, e, v, weak, order, order2) \
	(access_shared(), __atomic_compare_exchange_n(p, e, v, weak, order, order2))
#include "ringbox.h"

#define RING 4096
#define BLOCK 512
#define PER_BLOCK 31 /* records of 16 bytes beside the closing word */
#define MAX_RECORDS 2000

static struct ringbox b;

/* A record of @len bytes by somebody who dies at access @n of it. False: it did not. */
static bool die_at(int n, __u32 len)
{
	struct htrace_slot slot;

	accesses_left = n;
	if (!setjmp(dead)) {
		if (box_reserve(&b, len, &slot))
			htrace_commit(&slot);
		accesses_left = -1;
		return false;
	}
	accesses_left = -1;
	return true;
}

static struct htrace_consumer_stats stats(void)
{
	struct htrace_consumer_stats st = { .sz = sizeof(st) };

	htrace_consumer_get_stats(b.c, &st);
	return st;
}

/* Committed by the counters; they do not carry in these tests. */
static __u64 committed(__u64 *bytes)
{
	__u64 events = 0;

	*bytes = 0;
	for (__u64 at = 0; at < RING; at += BLOCK) {
		__u64 commit = htrace_ring_block(b.ring, &b.g, at)->commit;

		events += commit >> 32;
		*bytes += (__u32)commit;
	}
	return events;
}

static void finish(void)
{
	htrace_consumer_finish(b.c);
	box_drain(&b);
	ck_assert_uint_eq(htrace_consumer_backlog(b.c), 0);
	ck_assert(!htrace_consumer_ready(b.c));
}

/* In the open block: what lies before the hole and was read is delivered, the rest counted. */
START_TEST(test_open)
{
	struct htrace_consumer_stats st;
	struct htrace_slot slot;

	box_init(&b, RING, BLOCK, _i ? HTRACE_OVERWRITE : HTRACE_DISCARD);
	for (int i = 0; i < 5; i++)
		box_push(&b, 8);
	box_drain(&b);
	box_reserve(&b, 24, &slot); /* never committed */
	for (int i = 0; i < 3; i++)
		box_push(&b, 8);
	box_drain(&b);
	ck_assert_uint_eq(b.received, 5);
	ck_assert_uint_eq(htrace_consumer_backlog(b.c), 32 + 48);
	finish();
	st = stats();
	ck_assert_uint_eq(st.events, 5);
	ck_assert_uint_eq(st.unfinished, 3);
	ck_assert_uint_eq(st.uncommitted, 32);
	ck_assert_uint_eq(st.corrupt, 0);
	ck_assert_uint_eq(st.position, b.ring->head);
	box_free(&b);
}
END_TEST

/* A reader that comes afterwards, or with nothing read: the block counts as a whole. */
START_TEST(test_late)
{
	struct htrace_consumer_stats st;
	struct htrace_slot slot;

	box_init_ring(&b, RING, BLOCK, HTRACE_OVERWRITE);
	for (int i = 0; i < PER_BLOCK + 5; i++)
		box_push(&b, 8);
	box_reserve(&b, 8, &slot);
	box_open(&b, HTRACE_START_OLDEST);
	finish();
	st = stats();
	ck_assert_uint_eq(st.events, PER_BLOCK);
	ck_assert_uint_eq(st.unfinished, 5);
	ck_assert_uint_eq(st.uncommitted, 16);
	box_free(&b);
}
END_TEST

/* What lies behind the hole of a dead machine is told, as doubtful, up to what is no record. */
START_TEST(test_salvage)
{
	struct htrace_consumer_stats st;
	struct htrace_batch batch;
	struct htrace_slot slot;
	__u64 *header;

	box_init(&b, RING, BLOCK, _i ? HTRACE_OVERWRITE : HTRACE_DISCARD);
	for (int i = 0; i < 5; i++)
		box_push(&b, 8);
	box_drain(&b);
	header = box_reserve(&b, 24, &slot); /* never committed */
	ck_assert_ptr_nonnull(header);
	for (int i = 0; i < 3; i++)
		box_push(&b, 8);
	if (_i == 2) /* it died before it wrote so much */
		header[-1] = 0;
	htrace_consumer_salvage(b.c);
	if (_i < 2) {
		ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 1);
		ck_assert_uint_ne(batch.doubtful, 0);
		ck_assert_uint_eq(batch.events, 4); /* the one that was begun, too */
		ck_assert_uint_eq(batch.len, 32 + 48);
		ck_assert_uint_eq(batch.unfinished, 0);
	}
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 1);
	ck_assert_uint_eq(batch.events, 0);
	ck_assert_uint_eq(batch.unfinished, _i < 2 ? 0 : 3);
	ck_assert_uint_eq(batch.uncommitted, 32);
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 0);
	st = stats();
	ck_assert_uint_eq(st.events + st.unfinished, _i < 2 ? 9 : 8);
	ck_assert_uint_eq(htrace_consumer_backlog(b.c), 0);
	box_free(&b);
}
END_TEST

/* Behind a block's end: what that says of records that nobody looked at is not said of these. */
START_TEST(test_salvage_behind)
{
	struct htrace_batch batch;
	struct htrace_slot slot;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	for (int i = 0; i < PER_BLOCK; i++)
		box_push(&b, 8);
	box_drain(&b);
	box_reserve(&b, 8, &slot);
	box_push(&b, 8);
	htrace_consumer_salvage(b.c);
	ck_assert_int_eq(htrace_consumer_borrow_unseen(b.c, &batch), 1);
	ck_assert_uint_eq(batch.events, 2);
	ck_assert_uint_ne(batch.doubtful, 0);
	ck_assert_uint_eq(batch.until, 0);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), 0);
	box_free(&b);
}
END_TEST

/* What an earlier reader is said to have consumed ends where no record can. */
START_TEST(test_salvage_odd)
{
	struct htrace_batch batch;
	struct htrace_slot slot;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	htrace_consumer_free(b.c);
	for (int i = 0; i < 4; i++)
		box_push(&b, 8);
	box_reserve(&b, 8, &slot);
	b.ring->consumed = 2 * 16 + 3;
	box_open(&b, HTRACE_START_OLDEST);
	htrace_consumer_salvage(b.c);
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 1);
	ck_assert_uint_eq(batch.pos, 2 * 16);
	ck_assert_uint_eq(batch.events, 3);
	box_free(&b);
}
END_TEST

/* What an earlier lap left in the hole is not taken for records: its times lie before the block's. */
START_TEST(test_salvage_stale)
{
	struct htrace_batch batch;
	struct htrace_slot slot;
	__u64 *header, old;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	for (int i = 0; i < 10 * PER_BLOCK; i++)
		box_push(&b, 8);
	b.clock += 10000000;
	box_push(&b, 8);
	box_drain(&b);
	memcpy(&old, (char *)b.ring + b.g.data_off + (b.ring->head & b.g.ring_mask), sizeof(old));
	header = box_reserve(&b, 8, &slot);
	header[-1] = old; /* of the lap before */
	ck_assert_uint_eq((__u16)(old >> 16), 16);
	box_push(&b, 8);
	htrace_consumer_salvage(b.c);
	while (htrace_consumer_read(b.c, &batch) == 1)
		ck_assert_uint_eq(batch.events, 0);
	ck_assert_uint_eq(stats().unfinished, 1);
	box_free(&b);
}
END_TEST

/* In the midst of the ring: blocks behind it are read. The loss is told before them. */
START_TEST(test_middle)
{
	struct htrace_batch batch;
	struct htrace_slot slot;

	box_init(&b, RING, BLOCK, _i ? HTRACE_OVERWRITE : HTRACE_DISCARD);
	box_push(&b, 8);
	box_reserve(&b, 8, &slot);
	for (int i = 0; i < 2 * PER_BLOCK; i++)
		box_push(&b, 8);
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 0);
	htrace_consumer_finish(b.c);
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 1);
	ck_assert_uint_eq(batch.events, PER_BLOCK);
	ck_assert_uint_eq(batch.pos, BLOCK);
	ck_assert_uint_eq(batch.unfinished, PER_BLOCK - 1);
	ck_assert_uint_eq(batch.uncommitted, 16);
	finish();
	ck_assert_uint_eq(b.received, 2);
	box_free(&b);
}
END_TEST

/* Producers wait for nobody: who drops because of a hole is counted as ever. */
START_TEST(test_guard)
{
	struct htrace_consumer_stats st;
	struct htrace_slot slot;
	__u64 bytes;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	box_reserve(&b, 8, &slot);
	while (!box_push(&b, 8))
		;
	finish();
	st = stats();
	ck_assert_uint_eq(st.dropped, 1);
	ck_assert_uint_eq(st.unfinished, PER_BLOCK - 1);
	ck_assert_uint_eq(st.events + st.unfinished, committed(&bytes));
	ck_assert_uint_eq(st.events, 7 * PER_BLOCK);
	box_free(&b);
}
END_TEST

/* Only the padding is missing: that this is all cannot be told. Records of its size may lack. */
START_TEST(test_padding)
{
	struct htrace_consumer_stats st;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	for (int i = 0; i < PER_BLOCK; i++)
		box_push(&b, 8);
	if (_i)
		box_drain(&b);
	/* CAS; base, events_before, beg, schema; closing word, end, t_end, dropped; padding */
	ck_assert(die_at(9, 8));
	ck_assert_uint_eq(htrace_ring_block(b.ring, &b.g, 0)->end, BLOCK - 16);
	ck_assert_uint_eq((__u32)htrace_ring_block(b.ring, &b.g, 0)->commit, BLOCK - 16);
	finish();
	st = stats();
	ck_assert_uint_eq(st.events, _i ? PER_BLOCK : 0);
	ck_assert_uint_eq(st.unfinished, _i ? 0 : PER_BLOCK);
	ck_assert_uint_eq(st.uncommitted, 16 + 16);
	box_free(&b);
}
END_TEST

/* An opener that died before it described its block, in a lap that is not the first one. */
START_TEST(test_undescribed)
{
	struct htrace_consumer_stats st;
	__u64 bytes, events;

	box_init_ring(&b, RING, BLOCK, HTRACE_OVERWRITE);
	if (_i)
		box_open(&b, HTRACE_START_OLDEST);
	for (int i = 0; i < 20 * PER_BLOCK; i++) {
		box_push(&b, 8);
		if (_i == 1)
			box_drain(&b);
	}
	ck_assert(die_at(1 + _i % 2, 8));
	for (int i = 0; i < 7; i++)
		box_push(&b, 8);
	events = committed(&bytes);
	if (!_i)
		box_open(&b, HTRACE_START_OLDEST);
	finish();
	st = stats();
	ck_assert_uint_eq(st.corrupt, 0);
	if (_i == 1) /* who read all before knows exactly */
		ck_assert_uint_eq(st.unfinished, 7);
	else
		ck_assert_uint_ge(st.unfinished, 7);
	ck_assert_uint_eq(st.events + st.unfinished + st.overwritten + st.before, events);
	ck_assert_uint_eq(st.uncommitted, b.ring->head - bytes);
	box_free(&b);
}
END_TEST

/* Discard: what an earlier reader took of the block is not lost. */
START_TEST(test_resumed)
{
	struct htrace_consumer_stats st;
	struct htrace_slot slot;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	for (int i = 0; i < 5; i++)
		box_push(&b, 8);
	box_drain(&b);
	htrace_consumer_free(b.c);
	box_push(&b, 8);
	box_reserve(&b, 8, &slot);
	box_open(&b, HTRACE_START_OLDEST);
	finish();
	st = stats();
	ck_assert_uint_eq(st.before, 5);
	ck_assert_uint_eq(st.unfinished, 1);
	ck_assert_uint_eq(st.uncommitted, 16);
	box_free(&b);
}
END_TEST

/* A block that did not validate while it was open does not hold up the end. */
START_TEST(test_bad_open)
{
	struct htrace_batch batch;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	box_push(&b, 8);
	*(__u64 *)htrace_ring_data(b.ring, &b.g, 0) = 0;
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 0);
	ck_assert_uint_eq(htrace_consumer_backlog(b.c), 16);
	finish();
	ck_assert_uint_eq(stats().corrupt, 1);
	box_free(&b);
}
END_TEST

/* Counters that cannot be: the block is passed over as corrupt, and never taken for more. */
enum lie { TOO_MANY_BYTES, FEWER_THAN_READ, TOO_MANY_EVENTS, BEFORE_FIRST, FEWER_BEFORE, MORE_BEFORE, NR_LIES };

START_TEST(test_lies)
{
	struct htrace_consumer_stats st;
	struct htrace_block *block;
	struct htrace_slot slot;
	int laps = _i == FEWER_BEFORE || _i == MORE_BEFORE;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	for (int i = 0; i < laps * 8 * PER_BLOCK; i++)
		box_push(&b, 8);
	box_push(&b, 8);
	if (_i != BEFORE_FIRST)
		box_drain(&b);
	box_reserve(&b, 8, &slot);
	box_push(&b, 8);
	block = htrace_ring_block(b.ring, &b.g, b.ring->head);
	if (_i == TOO_MANY_BYTES)
		block->commit += 64;
	else if (_i == FEWER_THAN_READ)
		block->commit -= 24;
	else if (_i == TOO_MANY_EVENTS)
		block->commit += 3ULL << 32;
	else if (_i == BEFORE_FIRST)
		block->events_before = 1;
	else if (_i == FEWER_BEFORE)
		block->events_before -= 40;
	else
		block->beg++, block->commit += 500ULL << 32;
	finish();
	st = stats();
	ck_assert_uint_eq(st.unfinished, 0);
	ck_assert_uint_eq(st.uncommitted, 0);
	ck_assert_uint_eq(st.corrupt_blocks, 1);
	ck_assert_uint_le(st.corrupt, BLOCK / HTRACE_REC_HDR);
	box_free(&b);
}
END_TEST

/* A ring that claims to be dead and goes on: each call ends, and after the end nothing is read. */
START_TEST(test_endless)
{
	struct htrace_batch batch;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	htrace_consumer_finish(b.c);
	for (int i = 0; i < 1000; i++) {
		b.ring->head += BLOCK;
		ck_assert_int_ge(htrace_consumer_read(b.c, &batch), 0);
		ck_assert_uint_eq(batch.events, 0);
	}
	finish();
	b.ring->head += BLOCK;
	ck_assert(!htrace_consumer_ready(b.c));
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 0);
	ck_assert_uint_eq(htrace_consumer_backlog(b.c), 0);
	/* Generations that change for nothing are followed, one a call. */
	for (int i = 0; i < 100; i++) {
		b.ring->generation++;
		ck_assert_int_eq(htrace_consumer_read(b.c, &batch), -EOWNERDEAD);
		ck_assert_int_eq(htrace_consumer_restart(b.c), 0);
		ck_assert_int_eq(htrace_consumer_restart(b.c), -EAGAIN);
	}
	b.ring->head = 1ULL << 63;
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), -EILSEQ);
	b.ring->generation++;
	ck_assert_int_eq(htrace_consumer_restart(b.c), -EILSEQ);
	box_free(&b);
}
END_TEST

/* ---------------------------------------------------------------- deaths anywhere, many of them */

static unsigned long long rnd;
static bool is_committed[MAX_RECORDS];
static __u64 got, earlier_readers;

static unsigned int below(unsigned int n)
{
	return (unsigned int)(unit_random(&rnd) % n);
}

static void check_batch(const struct htrace_batch *batch)
{
	struct htrace_record r;
	struct htrace_iter it;
	__u64 seq;

	for (htrace_iter_init(&it, batch); htrace_iter_next(&it, &r); got++) {
		memcpy(&seq, r.payload, 8);
		EXPECT(seq < MAX_RECORDS && is_committed[seq]);
		is_committed[seq] = false; /* not twice */
	}
}

static void read_some(unsigned int nr)
{
	struct htrace_batch batch;

	while (nr-- && htrace_consumer_read(b.c, &batch) == 1)
		check_batch(&batch);
}

/* Another reader, which goes on where this one is (discard). */
static void change_reader(void)
{
	earlier_readers += stats().events;
	htrace_consumer_free(b.c);
	box_open(&b, HTRACE_START_OLDEST);
}

/*
 * Else a reader that came later does not know what its slot held before: what others read of it
 * may be among what it calls unfinished.
 */
static bool all_described(void)
{
	__u64 head = b.ring->head, first = head > RING ? ((head - 1) & ~(BLOCK - 1ULL)) + BLOCK - RING : 0;

	for (__u64 at = first; at < head; at += BLOCK)
		if (htrace_ring_block(b.ring, &b.g, at)->beg != at)
			return false;
	return true;
}

static void run_process(void)
{
	unsigned int nr = 1 + below(MAX_RECORDS - 1), deaths = below(4);

	for (b.seq = 0; b.seq < nr; b.clock += below(8) ? 10 : 3ULL << 30) {
		__u64 seq = b.seq;
		bool dies = deaths && !below(nr / 4 + 1);

		/* its counter tells whether the commit was among what it did */
		__u64 bytes, before = committed(&bytes);

		if (dies && die_at((int)below(14), 8 + 8 * below(20)))
			deaths--;
		else if (!dies)
			die_at(1 << 20, 8 + 8 * below(20));
		is_committed[seq] = committed(&bytes) > before;
		b.seq = seq + 1;
		if (!below(20))
			read_some(1 + below(3));
		if (b.g.policy == HTRACE_DISCARD && !below(100))
			change_reader();
	}
}

START_TEST(test_random)
{
	struct htrace_consumer_stats st;
	__u64 bytes, events;

	for (rnd = (unsigned int)_i * 1000; rnd < (unsigned int)_i * 1000 + 400; rnd++) {
		unsigned long long kept = rnd;
		bool late;

		memset(is_committed, 0, sizeof(is_committed));
		got = earlier_readers = 0;
		box_init(&b, RING, BLOCK, _i & 1 ? HTRACE_OVERWRITE : HTRACE_DISCARD);
		late = b.g.policy == HTRACE_OVERWRITE && !below(3);
		run_process();
		if (late) {
			htrace_consumer_free(b.c);
			box_open(&b, HTRACE_START_OLDEST);
			for (unsigned int i = 0; i < MAX_RECORDS; i++)
				is_committed[i] = true; /* who knows what was read before */
		}
		events = committed(&bytes);
		htrace_consumer_finish(b.c);
		read_some(1000);
		st = stats();
		EXPECT(!htrace_consumer_backlog(b.c));
		EXPECT(!st.corrupt);
		EXPECT(st.uncommitted == b.ring->head - bytes);
		if (b.g.policy == HTRACE_DISCARD && all_described())
			EXPECT(earlier_readers + st.events + st.unfinished == events);
		else if (b.g.policy == HTRACE_DISCARD)
			EXPECT(earlier_readers + st.events + st.unfinished >= events);
		else
			EXPECT(st.events + st.unfinished + st.overwritten + st.before + st.dropped ==
			       events + b.ring->dropped);
		if (late)
			EXPECT(!st.overwritten);
		box_free(&b);
		rnd = kept;
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("finish");
	TCase *t = tcase_create("finish");

	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, test_open, 0, 2);
	tcase_add_test(t, test_late);
	tcase_add_loop_test(t, test_salvage, 0, 3);
	tcase_add_test(t, test_salvage_stale);
	tcase_add_test(t, test_salvage_behind);
	tcase_add_test(t, test_salvage_odd);
	tcase_add_loop_test(t, test_middle, 0, 2);
	tcase_add_test(t, test_guard);
	tcase_add_loop_test(t, test_padding, 0, 2);
	tcase_add_loop_test(t, test_undescribed, 0, 3);
	tcase_add_test(t, test_resumed);
	tcase_add_test(t, test_bad_open);
	tcase_add_loop_test(t, test_lies, 0, NR_LIES);
	tcase_add_test(t, test_endless);
	tcase_add_loop_test(t, test_random, 0, 4);
	suite_add_tcase(s, t);
	return unit_run(s);
}
