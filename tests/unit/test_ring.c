/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The ring: producer and consumer together, both policies. */
#include <check.h>
#include <errno.h>
#include <stdio.h>

#include "ringbox.h"
#include "unit.h"

#define RING 4096
#define BLOCK 512
#define NB (RING / BLOCK)
/* Records of 24 bytes: 21 fill a block of 512 to 504, which leaves exactly the closing word. */
#define PER_BLOCK 21

static const enum htrace_policy policies[] = { HTRACE_DISCARD, HTRACE_OVERWRITE };
static const struct { __u64 ring, block; } shapes[] = {
	{ 1024, 512 }, { 4096, 512 }, { 8192, 4096 }, { 65536, 4096 }, { 1 << 20, 65536 },
};

START_TEST(test_one_record)
{
	struct ringbox b;

	box_init(&b, RING, BLOCK, policies[_i]);
	ck_assert_int_eq(box_read(&b), 0);
	ck_assert(!htrace_consumer_ready(b.c));
	ck_assert_int_eq(box_push(&b, 16), 0);
	ck_assert(htrace_consumer_ready(b.c));
	ck_assert_int_eq(box_read(&b), 1);
	ck_assert_uint_eq(b.received, 1);
	ck_assert_uint_eq(b.last_time, b.clock);
	ck_assert_uint_eq(b.ring->head, 24);
	ck_assert_int_eq(box_read(&b), 0);
	box_check(&b);
	box_free(&b);
}
END_TEST

/* Live reading in the open block: each record as soon as it is committed. */
START_TEST(test_live)
{
	struct ringbox b;

	box_init(&b, RING, BLOCK, policies[_i]);
	for (int i = 0; i < 1000; i++) {
		ck_assert_int_eq(box_push(&b, 8 + i % 5 * 8), 0);
		box_drain(&b);
		ck_assert_uint_eq(b.received, i + 1);
		ck_assert_uint_eq(b.last_value, i);
	}
	ck_assert_uint_eq(b.lost, 0);
	box_check(&b);
	box_free(&b);
}
END_TEST

/* Many laps of random sizes, read at random times, in all shapes. */
START_TEST(test_wrap)
{
	__u64 seed = 1 + _i;
	struct ringbox b;

	box_init(&b, shapes[_i / 2].ring, shapes[_i / 2].block, policies[_i % 2]);
	for (int i = 0; i < 200000; i++) {
		__u32 len;

		seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
		len = 8 + seed % 120;
		box_push(&b, len);
		if ((seed >> 20) % 50 == 0)
			box_drain(&b);
	}
	ck_assert_uint_gt(b.ring->head, 12 * shapes[_i / 2].ring);
	box_check(&b);
	ck_assert_uint_gt(b.received, 0);
	box_free(&b);
}
END_TEST

/* A record fits only if the closing word fits behind it. */
START_TEST(test_exact_fit)
{
	struct ringbox b;

	box_init(&b, RING, BLOCK, policies[_i]);
	for (int i = 0; i < PER_BLOCK; i++)
		box_push(&b, 16);
	ck_assert_uint_eq(b.ring->head, 504);
	box_push(&b, 16);
	ck_assert_uint_eq(b.ring->head, BLOCK + 24);
	/* The block before was closed by 8 bytes of padding. */
	ck_assert_uint_eq((__u32)((struct htrace_block *)((char *)b.ring + b.g.desc_off))->commit,
			  BLOCK);
	/* Another block filled so that one more short record would leave no room behind it. */
	for (int i = 0; i < 19; i++)
		box_push(&b, 16);
	ck_assert_uint_eq(b.ring->head % BLOCK, 480);
	box_push(&b, 24); /* 32 bytes: would end at the block's end, so it opens the next one */
	ck_assert_uint_eq(b.ring->head, 2 * BLOCK + 32);
	box_check(&b);
	ck_assert_uint_eq(b.received, PER_BLOCK + 1 + 19 + 1);
	box_free(&b);
}
END_TEST

/* Padding of every length: 8 bytes up to nearly a block. */
START_TEST(test_padding)
{
	struct ringbox b;

	box_init(&b, RING, BLOCK, policies[_i]);
	for (__u32 len = 8; len <= BLOCK - 24; len += 8) {
		box_push(&b, len);
		box_push(&b, BLOCK - 24); /* forces a new block whatever is left */
		box_drain(&b);
	}
	ck_assert_uint_eq(b.lost, 0);
	box_check(&b);
	box_free(&b);
}
END_TEST

START_TEST(test_too_large)
{
	struct ringbox b;

	box_init(&b, RING, BLOCK, policies[_i]);
	ck_assert_uint_eq(b.g.max_payload, BLOCK - 24);
	ck_assert_int_eq(box_push(&b, BLOCK - 24), 0);
	ck_assert_int_eq(box_push(&b, BLOCK - 23), -1);
	ck_assert_int_eq(box_push(&b, BLOCK), -1);
	ck_assert_int_eq(box_push(&b, ~0u), -1);
	ck_assert_uint_eq(b.ring->refused, 3);
	ck_assert_uint_eq(b.ring->dropped, 3);
	box_check(&b);
	ck_assert_uint_eq(b.lost, 3);
	ck_assert_uint_eq(b.received, 1);
	box_free(&b);
}
END_TEST

/* Times: short form within its range, extended outside, both exact; small steps back as well. */
START_TEST(test_times)
{
	static const struct { __s64 step; int extended; } steps[] = {
		{ 1, 0 }, { -5, 0 }, { (1LL << 31) - 1, 0 }, { 1LL << 31, 1 }, { -(1LL << 30), 0 },
		{ -(1LL << 30) - 1, 1 }, { 1LL << 32, 1 }, { 1LL << 40, 1 }, { 0, 0 },
		{ 3LL << 30, 1 }, { (3LL << 30) - 1, 1 },
	};
	struct ringbox b;
	struct htrace_slot slot;

	for (size_t i = 0; i < sizeof(steps) / sizeof(*steps); i++) {
		__u64 base;

		box_init(&b, RING, BLOCK, policies[_i]);
		b.clock = 1ULL << 41 | 0xfffffff0; /* low half about to wrap */
		base = b.clock;
		box_push(&b, 8);
		box_drain(&b);
		base += 10;
		ck_assert_uint_eq(b.last_time, base);
		b.clock = base + (__u64)steps[i].step;
		ck_assert_ptr_nonnull(box_reserve(&b, 8, &slot));
		ck_assert_uint_eq((__u32)slot.add, steps[i].extended ? 24 : 16);
		htrace_commit(&slot);
		box_drain(&b);
		ck_assert_uint_eq(b.last_time, base + (__u64)steps[i].step);
		box_check(&b);
		box_free(&b);
	}
}
END_TEST

/* Discard: full means dropped, what is in stays, and loss is reported behind it. */
START_TEST(test_discard_full)
{
	struct htrace_batch batch;
	struct ringbox b;
	__u64 kept = NB * PER_BLOCK;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	for (int i = 0; i < 1000; i++)
		ck_assert_int_eq(box_push(&b, 16), i < (int)kept ? 0 : -1);
	ck_assert_uint_eq(b.ring->dropped, 1000 - kept);
	for (int i = 0; i < NB; i++) {
		ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 1);
		ck_assert_uint_eq(batch.events, PER_BLOCK);
		ck_assert_uint_eq(batch.dropped, 0); /* not before the gap */
	}
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 1);
	ck_assert_uint_eq(batch.events, 0);
	ck_assert_uint_eq(batch.dropped, 1000 - kept);
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 0);
	box_free(&b);
}
END_TEST

/* Discard: the whole block must be free, a partly consumed one does not do. */
START_TEST(test_discard_whole_block)
{
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	while (!box_push(&b, 16))
		;
	for (__u64 consumed = 0; consumed < BLOCK; consumed += 24) {
		b.ring->consumed = consumed;
		ck_assert_int_eq(box_push(&b, 16), -1);
	}
	b.ring->consumed = BLOCK;
	ck_assert_int_eq(box_push(&b, 16), 0);
	ck_assert_uint_eq(b.ring->head, RING + 24);
	box_free(&b);
}
END_TEST

/* Discard: a new reader goes on where `consumed` says, also in the midst of a block. */
START_TEST(test_discard_resume)
{
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	for (int i = 0; i < 30; i++)
		box_push(&b, 16);
	box_drain(&b);
	ck_assert_uint_eq(b.received, 30);
	for (int i = 0; i < 5; i++)
		box_push(&b, 16);
	htrace_consumer_free(b.c);
	box_open(&b, HTRACE_START_OLDEST);
	box_drain(&b);
	ck_assert_uint_eq(b.received, 35);
	ck_assert_uint_eq(b.lost, 0);
	box_free(&b);
}
END_TEST

/* Likewise where the agent has not forwarded all that the reader before said; nonsense is not believed. */
START_TEST(test_discard_resume_unforwarded)
{
	static const struct { __u64 said; __u64 received; } cases[] = {
		{ 24 * 20, 5 }, { 24 * 3, 18 }, { ~0ULL, 18 }, { 1 << 20, 18 },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
		struct htrace_consumer_opts o = { .sz = sizeof(o) };
		__u64 said = cases[i].said;
		struct ringbox b;

		box_init(&b, RING, BLOCK, HTRACE_DISCARD);
		for (int n = 0; n < 25; n++)
			box_push(&b, 16);
		htrace_consumer_free(b.c);
		b.ring->consumed = 24 * 7;
		o.consumed = &said;
		ck_assert_int_eq(htrace_consumer_new(&b.c, &b.image, &o), 0);
		b.expect = b.last_value = 25 - cases[i].received;
		box_drain(&b);
		ck_assert_uint_eq(b.received, cases[i].received);
		box_free(&b);
	}
}
END_TEST

/* Overwrite: the newest survive, what was overwritten is counted exactly, before what follows. */
START_TEST(test_overwrite_lap)
{
	struct htrace_batch batch;
	struct ringbox b;
	__u64 value;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	for (int i = 0; i < 10; i++)
		box_push(&b, 16);
	box_drain(&b);
	for (int i = 0; i < 5000; i++)
		ck_assert_int_eq(box_push(&b, 16), 0);
	ck_assert_uint_eq(b.ring->dropped, 0);
	/* all of the gap is told where it is: nothing more follows */
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 1);
	ck_assert_uint_gt(batch.overwritten, 0);
	b.received += batch.events;
	b.lost += batch.overwritten;
	memcpy(&value, batch.data + 8, 8);
	ck_assert_uint_eq(value, 10 + batch.overwritten);
	b.expect = 0;
	box_check(&b);
	ck_assert_uint_eq(b.lost, batch.overwritten);
	ck_assert_uint_eq(b.last_value, 5009);
	ck_assert_uint_ge(b.received, 10 + (NB - 1) * PER_BLOCK);
	ck_assert_uint_le(b.received, 10 + NB * PER_BLOCK);
	box_free(&b);
}
END_TEST

/* A reader that comes late gets what memory holds; the rest was before its time, not lost. */
START_TEST(test_overwrite_late)
{
	struct ringbox b;

	box_init_ring(&b, RING, BLOCK, HTRACE_OVERWRITE);
	for (int i = 0; i < 5000; i++)
		box_push(&b, 16);
	box_open(&b, HTRACE_START_OLDEST);
	box_check(&b);
	ck_assert_uint_eq(b.lost, 0);
	ck_assert_uint_gt(b.before, 4000);
	htrace_consumer_free(b.c);
	b.expect = 0;
	b.received = b.before = 0;
	box_open(&b, HTRACE_START_NEWEST);
	box_drain(&b);
	ck_assert_uint_le(b.received, PER_BLOCK);
	ck_assert_uint_ge(b.received, 1);
	box_free(&b);
}
END_TEST

/* Nested: a producer that interrupts another between reserve and commit. */
START_TEST(test_nested)
{
	struct htrace_slot outer, inner;
	struct ringbox b;

	box_init(&b, RING, BLOCK, policies[_i]);
	for (int i = 0; i < 2000; i++) {
		__u64 before = b.received;

		b.clock += 5;
		ck_assert_ptr_nonnull(box_reserve(&b, 16, &outer));
		ck_assert_ptr_nonnull(box_reserve(&b, 40, &inner));
		htrace_commit(&inner);
		box_drain(&b);
		/* The inner one lies behind the outer one: not to be seen before it. */
		ck_assert_uint_le(b.received, before + 1);
		htrace_commit(&outer);
		box_drain(&b);
		ck_assert_uint_eq(b.received, before + 2);
	}
	ck_assert_uint_eq(b.lost, 0);
	box_check(&b);
	box_free(&b);
}
END_TEST

/* Interrupted between reading head and the CAS: the outer producer tries again. */
static __u64 interrupt_with(struct ringbox *b, int *times)
{
	if ((*times)-- > 0)
		box_push(b, 16);
	return b->clock;
}

START_TEST(test_interrupted_reserve)
{
	struct htrace_slot slot;
	struct ringbox b;
	int times = 3;

	box_init(&b, RING, BLOCK, policies[_i]);
	b.produced++;
	ck_assert_ptr_nonnull(htrace_reserve(b.ring, &b.g, &b.ring->consumed, 4, 0, 7,
					     interrupt_with(&b, &times), &slot));
	htrace_commit(&slot);
	b.seq++;
	box_check(&b);
	ck_assert_uint_eq(b.received, 4);
	/* Interrupted for ever: given up after a bounded number of tries, and counted. */
	times = 1000000;
	b.produced++;
	ck_assert_ptr_null(htrace_reserve(b.ring, &b.g, &b.ring->consumed, 4, 0, 7,
					  interrupt_with(&b, &times), &slot));
	ck_assert_int_eq(1000000 - times, HTRACE_RETRIES);
	ck_assert_uint_eq(b.ring->dropped, 1);
	box_free(&b);
}
END_TEST

static __u64 count_reads(struct ringbox *b, int *times)
{
	++*times;
	return b->clock;
}

/* Whatever becomes of a record that is alone: a drop must not cost more than what it replaces. */
START_TEST(test_clock_read_once)
{
	int times = 0, records = 0, single = _i / 2;
	struct htrace_slot slot;
	struct ringbox b;

	box_init(&b, RING, BLOCK, policies[_i % 2]);
	for (; records < 3 * NB * PER_BLOCK; records++) {
		if (single ? !!htrace_reserve_single(b.ring, &b.g, &b.ring->consumed, 4, 16, 7,
						     count_reads(&b, &times), &slot) :
			     !!htrace_reserve(b.ring, &b.g, &b.ring->consumed, 4, 16, 7, count_reads(&b, &times),
					      &slot))
			htrace_commit(&slot);
		ck_assert_int_eq(times, records + 1);
	}
	if (policies[_i % 2] == HTRACE_DISCARD)
		ck_assert_uint_ge(b.ring->dropped, NB * PER_BLOCK);
	else
		ck_assert_uint_eq(b.ring->dropped, 0);
	box_free(&b);
}
END_TEST

/*
 * The opener of a block is preempted between its CAS and its descriptor; others go on in the new
 * block. Nothing of it may be delivered before the opener is done.
 */
START_TEST(test_preempted_opener)
{
	struct htrace_block *old, *new;
	struct ringbox b;
	__u64 pos, beg, before = 0;

	for (int lap = 0; lap < 3; lap++) {
		box_init(&b, RING, BLOCK, policies[_i]);
		for (int i = 0; i < lap * NB * PER_BLOCK + 20; i++) {
			box_push(&b, 16);
			if (i % 50 == 0)
				box_drain(&b);
		}
		box_drain(&b);
		pos = b.ring->head;
		beg = (pos + BLOCK - 1) & ~(__u64)(BLOCK - 1);
		old = htrace_ring_block(b.ring, &b.g, pos);
		new = htrace_ring_block(b.ring, &b.g, beg);
		ck_assert(htrace_block_free(new, &b.g, &b.ring->consumed, beg, &before));
		ck_assert_uint_eq(before, (__u64)lap * PER_BLOCK);
		/* the CAS of a 32-byte record, and then: preempted */
		b.clock += 10;
		ck_assert(htrace_cas(&b.ring->head, pos, beg + 32));
		for (int i = 0; i < 3; i++) {
			b.seq++;
			box_push(&b, 16);
			b.seq--;
		}
		__u64 had = b.received;
		ck_assert_int_eq(box_read(&b), 0);
		ck_assert_uint_eq(b.received, had);
		/* it wakes up */
		htrace_block_open(b.ring, &b.g, new, pos, beg, b.clock, before, 7);
		__u64 value = b.seq - 3;
		char *at = htrace_ring_data(b.ring, &b.g, beg);
		*(__u64 *)at = (1 + value % 100) | 32ULL << 16 | b.clock << 32;
		memcpy(at + 8, &value, 8);
		ck_assert_int_eq(box_read(&b), 0);
		ck_assert_uint_eq(b.received, had);
		htrace_add(&new->commit, (1ULL << 32) + 32);
		b.produced++;
		b.seq++;
		box_check(&b);
		ck_assert_uint_eq(b.received, had + 4);
		ck_assert_uint_eq(b.lost, 0);
		ck_assert_uint_eq(old->end, pos);
		box_free(&b);
	}
}
END_TEST

/* Overwrite: a writer asleep for a lap keeps its block; newer events are dropped and counted. */
START_TEST(test_overwrite_guard)
{
	struct htrace_slot sleeper;
	struct ringbox b;
	void *at;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	box_push(&b, 16);
	at = box_reserve(&b, 16, &sleeper);
	for (int i = 0; i < 2000; i++)
		box_push(&b, 16);
	ck_assert_uint_gt(b.ring->dropped, 0);
	ck_assert_uint_le(b.ring->head, RING);
	memset((char *)at + 8, 0x77, 8); /* wakes up: must not hit a newer record */
	htrace_commit(&sleeper);
	for (int i = 0; i < 500; i++)
		box_push(&b, 16);
	ck_assert_uint_gt(b.ring->head, RING);
	box_check(&b);
	ck_assert_uint_eq(b.lost, b.produced - b.received);
	box_free(&b);
}
END_TEST

/* Every way of preempting two producers at once, with the reader in between. */
START_TEST(test_preempted_writers)
{
	__u64 seed = 99 + _i;
	struct ringbox b;

	box_init(&b, 1024, 512, policies[_i]);
	for (int round = 0; round < 20000; round++) {
		struct htrace_slot slot[4];
		int nr = 0;

		for (int i = 0; i < 4; i++) {
			seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
			b.clock += seed & 15;
			if (box_reserve(&b, 8 + (seed >> 8) % 64, &slot[nr]))
				nr++;
			if ((seed >> 20) % 3 == 0)
				box_read(&b);
		}
		while (nr) {
			int pick;

			seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
			pick = (int)(seed % (__u64)nr);
			htrace_commit(&slot[pick]);
			slot[pick] = slot[--nr];
			if ((seed >> 20) % 3 == 0)
				box_read(&b);
		}
	}
	box_check(&b);
	ck_assert_uint_gt(b.received, 10000);
	box_free(&b);
}
END_TEST

/* The counter's low half carries into the high one every 4 GiB per slot. */
START_TEST(test_counter_carry)
{
	struct ringbox b;
	__u64 laps = (1ULL << 40) / BLOCK - 3, events = 12345678901ULL, stale;

	box_init_ring(&b, RING, BLOCK, policies[_i]);
	b.ring->head = b.ring->consumed = laps * RING;
	for (int i = 0; i < NB; i++) {
		struct htrace_block *k = htrace_ring_block(b.ring, &b.g, (__u64)i * BLOCK);

		k->commit = (events << 32) + laps * BLOCK;
		k->events_before = events - 7;
		k->beg = (laps - 1) * RING + (__u64)i * BLOCK;
		k->end = k->beg + 24;
	}
	box_open(&b, HTRACE_START_OLDEST);
	box_drain(&b);
	stale = b.lost; /* what is in the made-up laps does not validate */
	for (int i = 0; i < 10 * NB * PER_BLOCK; i++) {
		ck_assert_int_eq(box_push(&b, 16), 0);
		box_drain(&b);
	}
	ck_assert_uint_eq(b.received, 10 * NB * PER_BLOCK);
	ck_assert_uint_eq(b.lost, stale);
	ck_assert_uint_eq(htrace_ring_block(b.ring, &b.g, 0)->events_before,
			  events + 9 * PER_BLOCK);
	box_free(&b);
}
END_TEST

/* ---------------------------------------------------------------------------- broken contents */

static struct htrace_block *block0(struct ringbox *b)
{
	return htrace_ring_block(b->ring, &b->g, 0);
}

enum { BAD_END_LOW, BAD_END_HIGH, BAD_END_ODD, BAD_TAG, BAD_BEFORE, BAD_ID, BAD_PAD_ID, BAD_LEN_0,
       BAD_LEN_LONG, BAD_FLAGS, BAD_CLOSING, BAD_EVENTS, BAD_ZERO_PAGE, NR_BAD };

static void spoil(struct ringbox *b, int how)
{
	struct htrace_block *k = block0(b);
	char *data = htrace_ring_data(b->ring, &b->g, 0);

	switch (how) {
	case BAD_END_LOW: k->end = 0; break;
	case BAD_END_HIGH: k->end = BLOCK; break;
	case BAD_END_ODD: k->end -= 4; break;
	case BAD_TAG: k->beg = RING; break;
	case BAD_BEFORE: k->events_before = 1; break;
	case BAD_ID: *(__u16 *)(data + 24) = 0; break;
	case BAD_PAD_ID: *(__u16 *)(data + 24) = HTRACE_ID_PAD; break;
	case BAD_LEN_0: *(__u16 *)(data + 26) = 0; break;
	case BAD_LEN_LONG: *(__u16 *)(data + 26) = 0xfff8; break;
	case BAD_FLAGS: *(__u16 *)(data + 26) |= 2; break;
	case BAD_CLOSING: data[504] ^= 1; break;
	case BAD_EVENTS: k->commit += 1ULL << 32; break;
	case BAD_ZERO_PAGE: memset(data + 100, 0, 300); break;
	}
}

/* A block that does not add up is passed over as a whole and counted; what follows is read. */
START_TEST(test_corrupt_block)
{
	struct htrace_consumer_stats s = { .sz = sizeof(s) };
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	for (int i = 0; i < 2 * PER_BLOCK + 5; i++)
		box_push(&b, 16);
	spoil(&b, _i);
	b.expect = PER_BLOCK;
	box_drain(&b);
	ck_assert_uint_eq(b.received, PER_BLOCK + 5);
	htrace_consumer_get_stats(b.c, &s);
	ck_assert_uint_eq(s.corrupt_blocks, 1);
	/* the events it claims are lost: all of them, one more if the counter was spoilt */
	if (_i == BAD_BEFORE)
		ck_assert_uint_eq(s.corrupt, PER_BLOCK - 1);
	else
		ck_assert_uint_eq(s.corrupt, PER_BLOCK + (_i == BAD_EVENTS));
	ck_assert_str_ne(htrace_consumer_error(b.c), "");
	box_free(&b);
}
END_TEST

/* A block that is skipped does not turn what was delivered before into "before our time". */
START_TEST(test_corrupt_account)
{
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	for (int i = 0; i < 2 * NB * PER_BLOCK; i++) {
		box_push(&b, 16);
		if (i == NB * PER_BLOCK + PER_BLOCK) { /* first block of the second lap is complete */
			box_drain(&b);
			block0(&b)->end = 0;
		}
	}
	b.expect = 0;
	box_check(&b);
	ck_assert_uint_eq(b.before, 0);
	for (int i = 0; i < 3 * NB * PER_BLOCK; i++) {
		box_push(&b, 16);
		box_drain(&b);
	}
	box_check(&b);
	ck_assert_uint_eq(b.before, 0);
	box_free(&b);
}
END_TEST

/* Discard: blocks that do not validate are given back all the same, else the ring were stuck. */
START_TEST(test_corrupt_discard)
{
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	while (!box_push(&b, 16))
		;
	memset((char *)b.ring + b.g.data_off, 0, RING);
	box_drain(&b);
	ck_assert_uint_eq(b.received, 0);
	ck_assert_int_eq(box_push(&b, 16), 0);
	b.expect = 0;
	box_check(&b);
	ck_assert_uint_eq(b.received, 1);
	box_free(&b);
}
END_TEST

/* What was dropped before a reader came is not that reader's loss. */
START_TEST(test_drops_before)
{
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	for (int i = 0; i < 1000; i++)
		box_push(&b, 16);
	box_drain(&b); /* consumes all: NB * PER_BLOCK of 1000 */
	for (int i = 0; i < 30; i++)
		box_push(&b, 16);
	box_drain(&b);
	for (int i = 0; i < 5; i++)
		box_push(&b, 16);
	htrace_consumer_free(b.c);
	b.received = b.lost = b.before = 0;
	box_open(&b, HTRACE_START_OLDEST);
	box_drain(&b);
	ck_assert_uint_eq(b.received, 5);
	ck_assert_uint_eq(b.lost, 0);
	ck_assert_uint_eq(b.received + b.before, 1035);
	box_free(&b);
}
END_TEST

/* Records that are alike are walked faster: no fault goes unseen there, wherever in the row it is. */
START_TEST(test_corrupt_in_row)
{
	static const struct { __u16 id, len; } bad[] = {
		{ 0, 24 }, { HTRACE_MAX_EVENTS + 1, 24 }, { HTRACE_ID_PAD, 24 },
		{ 5, 0 }, { 5, 8 + 1 }, { 5, 24 + 2 }, { 5, 24 + 4 }, { 5, 16 }, { 5, 32 }, { 5, 0xfff8 },
	};

	for (size_t kind = 0; kind < sizeof(bad) / sizeof(*bad); kind++) {
		struct htrace_consumer_stats s = { .sz = sizeof(s) };
		struct ringbox b;
		__u16 *header;

		box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
		for (int i = 0; i < 2 * PER_BLOCK + 5; i++)
			box_push(&b, 16);
		header = (__u16 *)htrace_ring_data(b.ring, &b.g, _i * 24);
		header[0] = bad[kind].id;
		header[1] = bad[kind].len;
		b.expect = PER_BLOCK;
		box_drain(&b);
		ck_assert_uint_eq(b.received, PER_BLOCK + 5);
		htrace_consumer_get_stats(b.c, &s);
		ck_assert_uint_eq(s.corrupt_blocks, 1);
		box_free(&b);
	}
}
END_TEST

/* An open block with garbage delivers nothing until it is closed, then is passed over. */
START_TEST(test_corrupt_open)
{
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	box_push(&b, 16);
	box_push(&b, 16);
	spoil(&b, BAD_ID);
	ck_assert_int_eq(box_read(&b), 0);
	box_push(&b, 16);
	ck_assert_int_eq(box_read(&b), 0);
	while (b.ring->head < BLOCK)
		box_push(&b, 16);
	b.expect = 0;
	box_drain(&b);
	ck_assert_uint_eq(b.received, 1);
	ck_assert_uint_eq(b.received + b.lost, b.produced);
	box_free(&b);
}
END_TEST

START_TEST(test_head_backwards)
{
	struct htrace_batch batch;
	struct ringbox b;

	box_init(&b, RING, BLOCK, policies[_i]);
	box_push(&b, 16);
	box_drain(&b);
	b.ring->head = 0;
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), -EILSEQ);
	b.ring->head = 24;
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), -EILSEQ); /* stays quarantined */
	ck_assert(!htrace_consumer_ready(b.c));
	box_free(&b);
}
END_TEST

START_TEST(test_head_absurd)
{
	struct htrace_batch batch;
	struct ringbox b;
	int ret = 0;

	box_init(&b, RING, BLOCK, policies[_i]);
	box_push(&b, 16);
	b.ring->head = 1ULL << 63;
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), -EILSEQ);
	box_free(&b);
	/* in the midst of a word: what was copied ends before the header does */
	box_init(&b, RING, BLOCK, policies[_i]);
	box_push(&b, 16);
	b.ring->head += 2;
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), -EILSEQ);
	box_free(&b);
	/* plausible as a number, but not backed by what is in the ring: never a record */
	box_init(&b, RING, BLOCK, policies[_i]);
	box_push(&b, 16);
	b.ring->head = 1ULL << 40;
	for (int i = 0; i < 1000 && ret >= 0; i++) {
		ret = htrace_consumer_read(b.c, &batch);
		ck_assert(ret <= 0 || batch.events == 0);
	}
	box_free(&b);
}
END_TEST

/* A ring full of corrupt blocks is quarantined after a bounded number. */
START_TEST(test_quarantine)
{
	struct htrace_batch batch;
	struct ringbox b;
	int ret = 0, calls = 0;

	box_init(&b, 1 << 20, 4096, HTRACE_OVERWRITE);
	for (int i = 0; i < 30000; i++)
		box_push(&b, 16);
	memset((char *)b.ring + b.g.data_off, 0, 1 << 20);
	while (ret >= 0 && calls++ < 1000)
		ret = htrace_consumer_read(b.c, &batch);
	ck_assert_int_eq(ret, -EILSEQ);
	ck_assert_int_lt(calls, 100);
	box_free(&b);
}
END_TEST

/* The anchor is gone: what was copied is not handed on. */
START_TEST(test_anchor)
{
	struct htrace_batch batch;
	struct ringbox b;

	box_init_ring(&b, RING, BLOCK, HTRACE_OVERWRITE);
	b.ring->anchor = b.image.anchor = 0x1234567812345678ULL;
	box_open(&b, HTRACE_START_OLDEST);
	box_push(&b, 16);
	box_drain(&b);
	ck_assert_uint_eq(b.received, 1);
	box_push(&b, 16);
	b.ring->anchor = 0;
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), -ESTALE);
	box_free(&b);
}
END_TEST

START_TEST(test_geometry)
{
	struct htrace_geometry g;

	ck_assert_int_eq(htrace_geometry_init(&g, 4096, 512, 1), 0);
	ck_assert_int_eq(htrace_geometry_init(&g, 4096, 0, 1), 0);
	ck_assert_uint_eq(g.block_shift, 11);
	ck_assert_int_eq(htrace_geometry_init(&g, 4 << 20, 0, 2), 0);
	ck_assert_uint_eq(g.block_shift, 16);
	ck_assert_int_eq(htrace_geometry_init(&g, 4096, 4096, 1), -EINVAL); /* one block */
	ck_assert_int_eq(htrace_geometry_init(&g, 4096, 256, 1), -EINVAL);
	ck_assert_int_eq(htrace_geometry_init(&g, 5000, 512, 1), -EINVAL);
	ck_assert_int_eq(htrace_geometry_init(&g, 4096, 600, 1), -EINVAL);
	ck_assert_int_eq(htrace_geometry_init(&g, 0, 0, 1), -EINVAL);
	ck_assert_int_eq(htrace_geometry_init(&g, 4096, 512, 0), -EINVAL);
	ck_assert_int_eq(htrace_geometry_init(&g, 4096, 512, 3), -EINVAL);
	ck_assert_int_eq(htrace_geometry_init(&g, 1ULL << 41, 1 << 20, 1), -EINVAL);
	ck_assert_int_eq(htrace_geometry_init(&g, 1ULL << 40, 1 << 20, 1), -EINVAL); /* blocks */
	ck_assert_int_eq(htrace_geometry_init(&g, 1 << 30, 2 << 20, 1), -EINVAL);
}
END_TEST

/* A shape that no view gives out, and that would lead outside. */
#define SHAPE(field, value) \
	{ #field, offsetof(struct htrace_geometry, field), \
	  sizeof(((struct htrace_geometry *)0)->field), value }
static const struct {
	const char *what;
	size_t off, width;
	__u64 value;
} bad_shapes[] = {
	SHAPE(ring_shift, 63), SHAPE(ring_shift, 200), SHAPE(ring_shift, 41), SHAPE(ring_shift, 9),
	SHAPE(block_shift, 0), SHAPE(block_shift, 8), SHAPE(block_shift, 21), SHAPE(block_shift, 200),
	SHAPE(ring_mask, 0),   SHAPE(ring_mask, ~0ULL), SHAPE(desc_off, 0), SHAPE(desc_off, 257),
	SHAPE(desc_off, ~63u), SHAPE(data_off, 0), SHAPE(data_off, 256), SHAPE(data_off, 4097),
	SHAPE(policy, 0),      SHAPE(policy, 3),
};

START_TEST(test_bad_shape)
{
	struct htrace_consumer *c;
	struct htrace_image img;
	struct ringbox b;

	box_init(&b, 8192, 1024, HTRACE_OVERWRITE);
	img = b.image;
	memcpy((char *)&img.geometry + bad_shapes[_i].off, &bad_shapes[_i].value, bad_shapes[_i].width);
	ck_assert_msg(htrace_consumer_new(&c, &img, NULL) == -EINVAL, "%s", bad_shapes[_i].what);
	box_free(&b);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *s = suite_create("ring");
	TCase *t = tcase_create("ring"), *bad = tcase_create("broken");

	tcase_set_timeout(t, 120);
	tcase_add_test(t, test_geometry);
	tcase_add_loop_test(t, test_one_record, 0, 2);
	tcase_add_loop_test(t, test_live, 0, 2);
	tcase_add_loop_test(t, test_wrap, 0, 10);
	tcase_add_loop_test(t, test_exact_fit, 0, 2);
	tcase_add_loop_test(t, test_padding, 0, 2);
	tcase_add_loop_test(t, test_too_large, 0, 2);
	tcase_add_loop_test(t, test_times, 0, 2);
	tcase_add_test(t, test_discard_full);
	tcase_add_test(t, test_discard_whole_block);
	tcase_add_test(t, test_discard_resume);
	tcase_add_test(t, test_discard_resume_unforwarded);
	tcase_add_test(t, test_overwrite_lap);
	tcase_add_test(t, test_overwrite_late);
	tcase_add_loop_test(t, test_nested, 0, 2);
	tcase_add_loop_test(t, test_interrupted_reserve, 0, 2);
	tcase_add_loop_test(t, test_clock_read_once, 0, 4);
	tcase_add_loop_test(t, test_preempted_opener, 0, 2);
	tcase_add_test(t, test_overwrite_guard);
	tcase_add_loop_test(t, test_preempted_writers, 0, 2);
	tcase_add_loop_test(t, test_counter_carry, 0, 2);
	suite_add_tcase(s, t);
	tcase_add_loop_test(bad, test_corrupt_block, 0, NR_BAD);
	tcase_add_loop_test(bad, test_corrupt_in_row, 0, PER_BLOCK);
	tcase_add_test(bad, test_corrupt_account);
	tcase_add_test(bad, test_corrupt_discard);
	tcase_add_test(bad, test_drops_before);
	tcase_add_test(bad, test_corrupt_open);
	tcase_add_loop_test(bad, test_head_backwards, 0, 2);
	tcase_add_loop_test(bad, test_head_absurd, 0, 2);
	tcase_add_test(bad, test_quarantine);
	tcase_add_test(bad, test_anchor);
	tcase_add_loop_test(bad, test_bad_shape, 0, (int)(sizeof(bad_shapes) / sizeof(*bad_shapes)));
	suite_add_tcase(s, bad);
	return s;
}

int main(void)
{
	return unit_run(make_suite());
}
