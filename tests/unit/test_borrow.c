/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Reading without a copy, and by callback: what is promised of memory, order, loss and `consumed`. */
#include <check.h>
#include <errno.h>

#include "ringbox.h"
#include "unit.h"

#define RING 4096
#define BLOCK 512
#define NB (RING / BLOCK)
#define PER_BLOCK 21 /* records of 24 bytes */

static const enum htrace_policy policies[] = { HTRACE_DISCARD, HTRACE_OVERWRITE };

static struct htrace_consumer_stats stats_of(const struct ringbox *b)
{
	struct htrace_consumer_stats s = { .sz = sizeof(s) };

	htrace_consumer_get_stats(b->c, &s);
	return s;
}

static void push(struct ringbox *b, int nr)
{
	while (nr--)
		ck_assert_int_eq(box_push(b, 16), 0);
}

/* Records from value @first on are in the batch. */
static void check_batch(const struct htrace_batch *batch, __u64 first, __u32 nr)
{
	struct htrace_record r;
	struct htrace_iter it;
	__u64 value = first;

	ck_assert_uint_eq(batch->events, nr);
	for (htrace_iter_init(&it, batch); htrace_iter_next(&it, &r); value++)
		ck_assert_uint_eq(*(const __u64 *)r.payload, value);
	ck_assert_uint_eq(value, first + nr);
}

/* -------------------------------------------------------------------------------- borrowing */

/* It is the ring's own memory, at its position. */
START_TEST(test_in_place)
{
	struct htrace_batch batch;
	struct ringbox b;

	box_init(&b, RING, BLOCK, policies[_i]);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 0);
	push(&b, 3);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	ck_assert_ptr_eq(batch.data, htrace_ring_data(b.ring, &b.g, 0));
	ck_assert_uint_eq(batch.pos, 0);
	ck_assert_uint_eq(batch.len, 72);
	ck_assert_uint_eq(batch.schema, 7);
	check_batch(&batch, 0, 3);
	ck_assert_uint_eq(htrace_consumer_position(b.c), 72);
	ck_assert_uint_eq(b.ring->consumed, 0);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), 0);
	ck_assert_uint_eq(b.ring->consumed, policies[_i] == HTRACE_DISCARD ? 72 : 0);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), -EINVAL);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 0);
	ck_assert_uint_eq(stats_of(&b).events, 3);
	ck_assert_uint_eq(stats_of(&b).bytes, 72);
	box_free(&b);
}
END_TEST

/* Several are out, and come back in any order; consumed stays below the oldest. */
START_TEST(test_several)
{
	static const int orders[][4] = { { 0, 1, 2, 3 }, { 3, 2, 1, 0 }, { 1, 3, 0, 2 } };
	/* the oldest that is out then, for each order; 4: none */
	static const int oldest[][4] = { { 1, 2, 3, 4 }, { 0, 0, 0, 4 }, { 0, 0, 2, 4 } };
	struct htrace_batch batch[4];
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	push(&b, 3 * PER_BLOCK + 1);
	for (int i = 0; i < 4; i++) {
		ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch[i]), 1);
		check_batch(&batch[i], (__u64)i * PER_BLOCK, i < 3 ? PER_BLOCK : 1);
	}
	for (int i = 0; i < 4; i++) {
		__u64 want = 3 * BLOCK + 24;

		ck_assert_int_eq(htrace_consumer_release(b.c, &batch[orders[_i][i]]), 0);
		if (oldest[_i][i] < 4)
			want = batch[oldest[_i][i]].pos;
		ck_assert_uint_eq(b.ring->consumed, want);
	}
	box_free(&b);
}
END_TEST

/* Discard: what is out is not overwritten, however long it is kept. */
START_TEST(test_kept)
{
	struct htrace_batch batch, more;
	struct ringbox b;
	int dropped = 0;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	push(&b, PER_BLOCK + 1);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	for (int i = 0; i < 1000; i++) {
		dropped += box_push(&b, 16) < 0;
		if (htrace_consumer_borrow(b.c, &more) == 1)
			ck_assert_int_eq(htrace_consumer_release(b.c, &more), 0);
	}
	ck_assert_int_gt(dropped, 0);
	check_batch(&batch, 0, PER_BLOCK);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), 0);
	ck_assert_uint_eq(b.ring->consumed, b.ring->head);
	ck_assert_int_eq(box_push(&b, 16), 0);
	box_free(&b);
}
END_TEST

/* Freed with something out: the next reader gets it. */
START_TEST(test_not_given_back)
{
	struct htrace_batch batch[2];
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	push(&b, 2 * PER_BLOCK);
	for (int i = 0; i < 2; i++)
		ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch[i]), 1);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch[1]), 0);
	htrace_consumer_free(b.c);
	box_open(&b, HTRACE_START_OLDEST);
	box_drain(&b);
	ck_assert_uint_eq(b.received, 2 * PER_BLOCK);
	box_free(&b);
}
END_TEST

/* Overwrite: exactly what was overtaken while it was out is said to be, and lost at its place. */
START_TEST(test_overtaken)
{
	struct htrace_batch batch[3];
	struct ringbox b;
	int stale = 0;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	push(&b, 3 * PER_BLOCK);
	for (int i = 0; i < 3; i++)
		ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch[i]), 1);
	/* all of the ring, and _i blocks of the next lap */
	push(&b, (NB - 3 + _i) * PER_BLOCK);
	for (int i = 0; i < 3; i++) {
		int ret = htrace_consumer_release(b.c, &batch[i]);

		ck_assert_int_eq(ret, i < _i ? -ESTALE : 0);
		if (!ret)
			check_batch(&batch[i], (__u64)i * PER_BLOCK, PER_BLOCK);
		stale += ret != 0;
	}
	ck_assert_uint_eq(stats_of(&b).events, (3 - stale) * PER_BLOCK);
	ck_assert_uint_eq(stats_of(&b).bytes, (3 - stale) * PER_BLOCK * 24);
	ck_assert_uint_eq(stats_of(&b).overwritten, stale * PER_BLOCK);
	/* no batch tells it again */
	b.received = (3 - stale) * PER_BLOCK;
	b.lost = stale * PER_BLOCK;
	b.expect = 3 * PER_BLOCK;
	b.last_value = b.expect - 1;
	box_check(&b);
	ck_assert_uint_eq(b.lost, stale * PER_BLOCK);
	ck_assert_uint_eq(stats_of(&b).events, b.received);
	box_free(&b);
}
END_TEST

/* Blocks between the oldest that is out and the reader were lapped too: each loss once. */
START_TEST(test_overtaken_reader)
{
	struct htrace_batch batch;
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	push(&b, 2 * PER_BLOCK);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	push(&b, 5 * NB * PER_BLOCK);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), -ESTALE);
	b.lost = batch.events;
	box_check(&b);
	ck_assert_uint_eq(b.lost, stats_of(&b).overwritten);
	box_free(&b);
}
END_TEST

/* Copies in between do not tell producers that what is out is consumed. */
START_TEST(test_copied_between)
{
	struct htrace_batch batch;
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	push(&b, 3 * PER_BLOCK);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	b.expect = PER_BLOCK;
	box_drain(&b);
	ck_assert_uint_eq(b.received, 2 * PER_BLOCK);
	ck_assert_uint_eq(b.ring->consumed, 0);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), 0);
	ck_assert_uint_eq(b.ring->consumed, b.ring->head);
	box_free(&b);
}
END_TEST

START_TEST(test_too_many)
{
	struct htrace_batch batch[HTRACE_BORROW_MAX + 1];
	struct ringbox b;

	box_init(&b, 1 << 16, BLOCK, HTRACE_OVERWRITE);
	for (int i = 0; i < HTRACE_BORROW_MAX; i++) {
		push(&b, 1);
		ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch[i]), 1);
	}
	push(&b, 1);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch[HTRACE_BORROW_MAX]), -ENOBUFS);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch[0]), 0);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch[HTRACE_BORROW_MAX]), 1);
	check_batch(&batch[HTRACE_BORROW_MAX], HTRACE_BORROW_MAX, 1);
	for (int i = HTRACE_BORROW_MAX; i; i--)
		ck_assert_int_eq(htrace_consumer_release(b.c, &batch[i]), 0);
	box_free(&b);
}
END_TEST

/* Only loss: nothing to give back. */
START_TEST(test_loss_only)
{
	struct htrace_batch batch;
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	ck_assert_int_eq(box_push(&b, BLOCK), -1);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	ck_assert_uint_eq(batch.events, 0);
	ck_assert_uint_eq(batch.dropped, 1);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), 0);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 0);
	box_free(&b);
}
END_TEST

/* Discard: a reader that resumes in the midst of a block, and borrows, takes nothing back. */
START_TEST(test_resume)
{
	struct htrace_batch batch;
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	push(&b, 30);
	box_drain(&b);
	htrace_consumer_free(b.c);
	box_open(&b, HTRACE_START_OLDEST);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1); /* what was before */
	ck_assert_uint_eq(batch.events, 0);
	ck_assert_uint_eq(b.ring->consumed, BLOCK + 9 * 24);
	push(&b, 5);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	check_batch(&batch, 30, 5);
	ck_assert_uint_eq(b.ring->consumed, BLOCK + 9 * 24);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), 0);
	ck_assert_uint_eq(b.ring->consumed, BLOCK + 14 * 24);
	box_free(&b);
}
END_TEST

/* The memory is no longer the ring's. */
START_TEST(test_anchor)
{
	struct htrace_batch batch;
	struct ringbox b;

	box_init_ring(&b, RING, BLOCK, HTRACE_OVERWRITE);
	b.ring->anchor = b.image.anchor = 0x1234567812345678ULL;
	box_open(&b, HTRACE_START_OLDEST);
	push(&b, 2);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	b.ring->anchor = 0;
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), -ESTALE);
	ck_assert_uint_eq(stats_of(&b).events, 0);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), -ESTALE);
	box_free(&b);
}
END_TEST

START_TEST(test_move)
{
	struct htrace_batch batch;
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	push(&b, 1);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	ck_assert_int_eq(htrace_consumer_move(b.c, &b.image, NULL), -EBUSY);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), 0);
	ck_assert_int_eq(htrace_consumer_move(b.c, &b.image, NULL), 0);
	box_free(&b);
}
END_TEST

/* ------------------------------------------------------------------------ a hostile producer */

/* What does not validate is not lent, and is passed over when its block is complete. */
START_TEST(test_garbage)
{
	static const __u64 words[] = { 0, 1, 1 | 8 << 16 | 2 << 16, 0xffff | 24 << 16, 1 | 0xfff8 << 16 };
	struct htrace_batch batch;
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	push(&b, PER_BLOCK + 1);
	*(__u64 *)htrace_ring_data(b.ring, &b.g, 24) = words[_i];
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	ck_assert_uint_eq(batch.corrupt, PER_BLOCK);
	check_batch(&batch, PER_BLOCK, 1);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), 0);
	ck_assert_uint_eq(stats_of(&b).corrupt_blocks, 1);
	box_free(&b);
}
END_TEST

/* Changed behind our back: iterating ends, and stays within the batch. */
START_TEST(test_scribbled)
{
	unsigned long long seed = 5;
	struct htrace_batch batch;
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	push(&b, PER_BLOCK + 1);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	for (int round = 0; round < 100000; round++) {
		__u64 *words = (__u64 *)htrace_ring_data(b.ring, &b.g, 0);
		struct htrace_record r;
		struct htrace_iter it;
		__u32 n = 0;

		for (int i = 0; i < 4; i++) /* lengths of few bytes, often */
			words[unit_random(&seed) % 63] = unit_random(&seed) >> (unit_random(&seed) % 48);
		for (htrace_iter_init(&it, &batch); htrace_iter_next(&it, &r); n++) {
			const unsigned char *p = r.payload;

			EXPECT(n < BLOCK / 8);
			EXPECT(p >= batch.data + 8 && p + r.len <= batch.data + batch.len);
		}
	}
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), 0);
	box_free(&b);
}
END_TEST

/* Discard: a producer that ignores consumed is found out. */
START_TEST(test_ignores_consumed)
{
	struct htrace_batch batch;
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	push(&b, PER_BLOCK);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	b.g.policy = HTRACE_OVERWRITE;
	push(&b, NB * PER_BLOCK);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), -ESTALE);
	box_free(&b);
}
END_TEST

/* Heads that jump end the ring, not the process; what is out can be given back. */
START_TEST(test_head_absurd)
{
	static const __u64 heads[] = { 0, 1ULL << 63, ~0ULL, 1ULL << 40 };
	struct htrace_batch batch, more;
	struct ringbox b;
	int ret = 0;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	push(&b, 1);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	b.ring->head = heads[_i];
	for (int i = 0; i < 1000 && ret >= 0; i++) {
		ret = htrace_consumer_borrow(b.c, &more);
		ck_assert(ret <= 0 || more.events == 0);
	}
	if (_i < 3)
		ck_assert_int_eq(ret, -EILSEQ);
	ret = htrace_consumer_release(b.c, &batch);
	ck_assert_int_eq(ret, _i ? -ESTALE : 0);
	box_free(&b);
}
END_TEST

/* -------------------------------------------------------------------------------- by callback */

struct taker {
	struct ringbox *b;
	__u64 next;
	int stop_after; /* records; -1: never */
	bool stop_at_loss;
	__u64 dropped, overwritten, losses;
	__u64 consumed; /* when the last one was called */
};

static int take(void *ctx, const struct htrace_record *r, const struct htrace_batch *batch)
{
	struct taker *t = ctx;

	EXPECT(*(const __u64 *)r->payload == t->next);
	EXPECT(batch->schema == 7);
	t->next++;
	t->consumed = t->b->ring->consumed;
	return t->stop_after > 0 && --t->stop_after == 0 ? 1 : 0;
}

static int lose(void *ctx, const struct htrace_batch *batch)
{
	struct taker *t = ctx;

	t->losses++;
	t->dropped += batch->dropped;
	t->overwritten += batch->overwritten;
	t->next += batch->overwritten; /* they come before what follows */
	return t->stop_at_loss;
}

static long each(struct taker *t, __u32 max)
{
	struct htrace_each_opts o = { sizeof(o), take, lose, t, max };

	return htrace_consumer_each(t->b->c, &o);
}

START_TEST(test_each)
{
	struct ringbox b;
	struct taker t = { .b = &b };

	box_init(&b, RING, BLOCK, policies[_i]);
	ck_assert_int_eq(each(&t, 0), 0);
	push(&b, 3 * PER_BLOCK + 2);
	ck_assert_int_eq(each(&t, 1), PER_BLOCK);
	ck_assert_int_eq(each(&t, 2), 2 * PER_BLOCK);
	ck_assert(htrace_consumer_ready(b.c));
	ck_assert_int_eq(each(&t, 0), 2);
	ck_assert(!htrace_consumer_ready(b.c));
	ck_assert_int_eq(each(&t, 0), 0);
	ck_assert_uint_eq(t.losses, 0);
	box_free(&b);
}
END_TEST

/* Stopped anywhere: nothing twice, nothing left out, and consumed is where we are. */
START_TEST(test_each_stopped)
{
	struct ringbox b;
	struct taker t = { .b = &b };

	box_init(&b, RING, BLOCK, policies[_i % 2]);
	push(&b, 3 * PER_BLOCK);
	while (t.next < 3 * PER_BLOCK) {
		__u64 had = t.next, pos;

		t.stop_after = 1 + _i / 2;
		ck_assert_int_gt(each(&t, 0), 0);
		ck_assert_uint_le(t.next - had, 1 + _i / 2);
		pos = t.next / PER_BLOCK * BLOCK + t.next % PER_BLOCK * 24;
		pos = t.next < 3 * PER_BLOCK ? pos : b.ring->head; /* the last block is open */
		ck_assert_uint_eq(htrace_consumer_position(b.c), pos);
		ck_assert_uint_eq(htrace_consumer_backlog(b.c), b.ring->head - pos);
		ck_assert_int_eq(htrace_consumer_ready(b.c), t.next < 3 * PER_BLOCK);
		if (policies[_i % 2] == HTRACE_DISCARD) {
			ck_assert_uint_lt(t.consumed, pos);
			ck_assert_uint_eq(b.ring->consumed, pos);
		}
	}
	ck_assert_uint_eq(stats_of(&b).events, 3 * PER_BLOCK);
	box_free(&b);
}
END_TEST

/* What it left can be taken as a batch; it must be taken before anything is borrowed. */
START_TEST(test_each_then)
{
	struct htrace_batch batch;
	struct ringbox b;
	struct taker t = { .b = &b, .stop_after = 5 };

	box_init(&b, RING, BLOCK, policies[_i]);
	push(&b, PER_BLOCK + 1);
	ck_assert_int_eq(each(&t, 0), 5);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), -EBUSY);
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 1);
	check_batch(&batch, 5, PER_BLOCK - 5);
	ck_assert_uint_eq(batch.pos, 5 * 24);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), 1);
	check_batch(&batch, PER_BLOCK, 1);
	ck_assert_int_eq(htrace_consumer_release(b.c, &batch), 0);
	box_free(&b);
}
END_TEST

/* Overwrite: what was kept for the next call is ours, whatever becomes of the ring. */
START_TEST(test_each_kept)
{
	struct ringbox b;
	struct taker t = { .b = &b, .stop_after = 5 };

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	push(&b, PER_BLOCK);
	ck_assert_int_eq(each(&t, 0), 5);
	push(&b, 3 * NB * PER_BLOCK);
	t.stop_after = PER_BLOCK - 5;
	ck_assert_int_eq(each(&t, 0), PER_BLOCK - 5);
	ck_assert_uint_eq(t.overwritten, 0);
	while (each(&t, 0) > 0)
		;
	ck_assert_uint_gt(t.overwritten, 0);
	ck_assert_uint_eq(t.next, b.seq);
	box_free(&b);
}
END_TEST

/* Dies, or is freed, with records left: they are the next reader's. */
START_TEST(test_each_freed)
{
	struct ringbox b;
	struct taker t = { .b = &b, .stop_after = 5 };

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	push(&b, PER_BLOCK);
	ck_assert_int_eq(each(&t, 0), 5);
	htrace_consumer_free(b.c);
	box_open(&b, HTRACE_START_OLDEST);
	b.expect = 5;
	b.last_value = 4;
	box_drain(&b);
	ck_assert_uint_eq(b.received, PER_BLOCK - 5);
	box_free(&b);
}
END_TEST

/* Loss comes before what follows it; stopping there leaves that for the next call, told once. */
START_TEST(test_each_loss)
{
	struct ringbox b;
	struct taker t = { .b = &b, .stop_at_loss = true };
	long n;

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	push(&b, 5 * NB * PER_BLOCK);
	ck_assert_int_eq(each(&t, 0), 0);
	ck_assert_uint_eq(t.losses, 1);
	ck_assert_uint_gt(t.overwritten, 0);
	ck_assert(htrace_consumer_ready(b.c));
	while ((n = each(&t, 0)) > 0)
		;
	ck_assert_uint_eq(t.losses, 1);
	ck_assert_uint_eq(t.next, b.seq);
	/* only loss */
	ck_assert_int_eq(box_push(&b, BLOCK), -1);
	ck_assert_int_eq(each(&t, 0), 0);
	ck_assert_uint_eq(t.dropped, 1);
	ck_assert_uint_eq(t.losses, 2);
	ck_assert(!htrace_consumer_ready(b.c));
	box_free(&b);
}
END_TEST

START_TEST(test_each_refused)
{
	struct htrace_each_opts o = { .sz = sizeof(o) };
	struct ringbox b;
	struct taker t = { .b = &b };

	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	ck_assert_int_eq(htrace_consumer_each(b.c, NULL), -EINVAL);
	ck_assert_int_eq(htrace_consumer_each(b.c, &o), -EINVAL); /* no function */
	o = (struct htrace_each_opts){ sizeof(o) + 8, take, NULL, &t, 0 };
	ck_assert_int_eq(htrace_consumer_each(b.c, &o), -EINVAL);
	o.sz = 4;
	ck_assert_int_eq(htrace_consumer_each(b.c, &o), -EINVAL);
	push(&b, 5 * NB * PER_BLOCK); /* without a function for loss */
	t.next = 4 * NB * PER_BLOCK;
	o.sz = sizeof(o);
	ck_assert_int_eq(htrace_consumer_each(b.c, &o), NB * PER_BLOCK);
	push(&b, 1); /* broken: what was handed over first is told first */
	o.max_batches = 1;
	ck_assert_int_eq(htrace_consumer_each(b.c, &o), 1);
	push(&b, 1);
	b.ring->head = 0;
	ck_assert_int_eq(htrace_consumer_each(b.c, &o), -EILSEQ);
	box_free(&b);
}
END_TEST

/* Whole blocks are not looked into: what their words say goes. But open ones are, and both ends. */
START_TEST(test_unseen)
{
	struct htrace_batch batch;
	struct ringbox b;
	__u64 *closing;

	box_init(&b, RING, BLOCK, policies[_i]);
	push(&b, 3 * PER_BLOCK + 2);
	*(__u64 *)htrace_ring_data(b.ring, &b.g, 24) = 0xdead; /* no record: who looks would see it */
	ck_assert_int_eq(htrace_consumer_borrow_unseen(b.c, &batch), 1);
	ck_assert_uint_eq(batch.events, PER_BLOCK);
	ck_assert_uint_eq(batch.len, PER_BLOCK * 24);
	ck_assert_uint_ge(batch.until, b.clock - 10 * (2 * PER_BLOCK + 2));
	ck_assert_uint_le(batch.until, b.clock - 10 * (2 * PER_BLOCK));
	closing = (__u64 *)htrace_ring_data(b.ring, &b.g, BLOCK + PER_BLOCK * 24);
	*closing ^= 1;
	ck_assert_int_eq(htrace_consumer_borrow_unseen(b.c, &batch), 1); /* the third one */
	ck_assert_uint_eq(batch.corrupt, PER_BLOCK);
	ck_assert_uint_eq(batch.pos, 2 * BLOCK);
	ck_assert_int_eq(htrace_consumer_borrow_unseen(b.c, &batch), 1); /* the open one */
	ck_assert_uint_eq(batch.until, 0);
	check_batch(&batch, 3 * PER_BLOCK, 2);
	push(&b, PER_BLOCK);
	ck_assert_int_eq(htrace_consumer_borrow_unseen(b.c, &batch), 1); /* its rest */
	ck_assert_uint_ne(batch.until, 0);
	check_batch(&batch, 3 * PER_BLOCK + 2, PER_BLOCK - 2);
	ck_assert_uint_eq(stats_of(&b).events + stats_of(&b).corrupt, 4 * PER_BLOCK);
	box_free(&b);
}
END_TEST

/* More events than there is room for, none of them, or an end elsewhere. */
START_TEST(test_unseen_lies)
{
	struct htrace_batch batch;
	struct htrace_block *block;
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	push(&b, PER_BLOCK + 1);
	block = htrace_ring_block(b.ring, &b.g, 0);
	if (_i == 0)
		block->commit += 1000ULL << 32;
	else if (_i == 1)
		block->commit -= (__u64)PER_BLOCK << 32;
	else
		block->end -= 24;
	ck_assert_int_eq(htrace_consumer_borrow_unseen(b.c, &batch), 1);
	ck_assert_uint_eq(batch.pos, BLOCK);
	ck_assert_uint_eq(batch.until, 0);
	ck_assert_uint_eq(stats_of(&b).corrupt_blocks, 1);
	box_free(&b);
}
END_TEST

/* What an earlier reader consumed of a block is not given out, so it has to be looked for. */
START_TEST(test_unseen_resume)
{
	struct htrace_batch batch;
	struct ringbox b;

	box_init(&b, RING, BLOCK, HTRACE_DISCARD);
	push(&b, 5);
	ck_assert_int_eq(htrace_consumer_read(b.c, &batch), 1);
	push(&b, PER_BLOCK);
	htrace_consumer_free(b.c);
	box_open(&b, HTRACE_START_OLDEST);
	ck_assert_int_eq(htrace_consumer_borrow_unseen(b.c, &batch), 1);
	ck_assert_uint_eq(batch.until, 0);
	check_batch(&batch, 5, PER_BLOCK - 5);
	box_free(&b);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("borrow");
	TCase *t = tcase_create("borrow"), *hostile = tcase_create("hostile"),
	      *calls = tcase_create("each");

	tcase_add_loop_test(t, test_in_place, 0, 2);
	tcase_add_loop_test(t, test_several, 0, 3);
	tcase_add_test(t, test_kept);
	tcase_add_test(t, test_not_given_back);
	tcase_add_loop_test(t, test_overtaken, 0, 4);
	tcase_add_test(t, test_overtaken_reader);
	tcase_add_test(t, test_copied_between);
	tcase_add_test(t, test_too_many);
	tcase_add_test(t, test_loss_only);
	tcase_add_test(t, test_resume);
	tcase_add_test(t, test_anchor);
	tcase_add_test(t, test_move);
	tcase_add_loop_test(t, test_unseen, 0, 2);
	tcase_add_loop_test(t, test_unseen_lies, 0, 3);
	tcase_add_test(t, test_unseen_resume);
	suite_add_tcase(s, t);
	tcase_add_loop_test(hostile, test_garbage, 0, 5);
	tcase_add_test(hostile, test_scribbled);
	tcase_add_test(hostile, test_ignores_consumed);
	tcase_add_loop_test(hostile, test_head_absurd, 0, 4);
	suite_add_tcase(s, hostile);
	tcase_add_loop_test(calls, test_each, 0, 2);
	tcase_add_loop_test(calls, test_each_stopped, 0, 50);
	tcase_add_loop_test(calls, test_each_then, 0, 2);
	tcase_add_test(calls, test_each_kept);
	tcase_add_test(calls, test_each_freed);
	tcase_add_test(calls, test_each_loss);
	tcase_add_test(calls, test_each_refused);
	suite_add_tcase(s, calls);
	return unit_run(s);
}
