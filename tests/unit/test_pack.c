/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Packed records: what is read is what was recorded, field by field, whatever is lost, whoever reads, wherever a
 * reader begins; and what is wrong in them is refused.
 */
#include <check.h>
#include <errno.h>

#include <htrace/pack.h>

#include "ringbox.h"
#include "unit.h"

#define RING 8192
#define BLOCK 1024
#define SWITCH_ID 200
#define OTHER_ID 300
#define MAX 60000

static const enum htrace_policy policies[] = { HTRACE_DISCARD, HTRACE_OVERWRITE };

/* What was recorded, in order, and how far a reader got. */
static struct said {
	__u32 id;
	__u64 time;
	struct htrace_switch e; /* or its number, of another event */
} said[MAX];
static __u32 nr_said, nr_read;
static unsigned long long seed;
static struct ringbox b;

static __u64 below(__u64 n)
{
	return unit_random(&seed) % n;
}

static void open_packed(enum htrace_policy policy)
{
	box_init_ring(&b, RING, BLOCK, policy);
	b.image.packed = 1;
	box_open(&b, HTRACE_START_OLDEST);
	nr_said = nr_read = 0;
}

static bool record(const struct htrace_switch *e)
{
	struct htrace_switch copy = *e;
	int ok = htrace_record_switch(b.ring, &b.g, &b.g, &b.ring->consumed, SWITCH_ID, &copy, 7, b.clock);

	b.produced++;
	if (ok)
		said[nr_said++] = (struct said){ SWITCH_ID, b.clock, *e };
	EXPECT(nr_said < MAX);
	return ok;
}

static void record_other(__u32 len)
{
	struct htrace_slot slot;
	char *at = htrace_reserve(b.ring, &b.g, &b.ring->consumed, OTHER_ID, len, 7, b.clock, &slot);

	b.produced++;
	if (!at)
		return;
	memset(at, 0x5a, len);
	memcpy(at, &nr_said, 4);
	said[nr_said] = (struct said){ OTHER_ID, b.clock, { .prev_tid = nr_said } };
	nr_said++;
	htrace_commit(&slot);
}

/* The usual, and everything that has a form of its own. */
static struct htrace_switch any_switch(const struct htrace_switch *before)
{
	static const __s16 prios[] = { 120, 120, 120, 100, 139, 0, -1, 99, 254, 255, -2, 32767, -32768 };
	struct htrace_switch e = {
		.prev_tid = before->next_tid, .prev_prio = before->next_prio, .next_tid = (__u32)below(40000),
		.next_prio = prios[below(below(8) ? 8 : 13)], .prev_state = below(2) ? 1 : 0,
	};

	switch (below(40)) {
	case 0:
		e.next_tid = HTRACE_PACKED_TIDS - 1;
		break;
	case 1:
		e.next_tid = HTRACE_PACKED_TIDS + (__u32)below(5);
		break;
	case 2:
		e.prev_prio = (__s16)(e.prev_prio + 1);
		break;
	case 3:
		e.prev_tid ^= 1u << below(32);
		break;
	case 4:
		e.prev_state = (__u32)unit_random(&seed);
		break;
	case 5: case 6: case 7: case 8:
		e.prev_state = 1u << below(17);
		break;
	case 9:
		e.next_tid = 0;
		break;
	}
	return e;
}

static __u64 any_step(void)
{
	switch (below(60)) {
	case 0:
		return HTRACE_PACKED_FAR - 1 + below(3);
	case 1:
		return (1ULL << 31) - 1 + below(3);
	case 2:
		return below(1ULL << 34);
	case 3: /* back, by no more than the other events before it took */
		return b.clock > 1000000002000ULL ? -below(5) : 0;
	default:
		return below(100000);
	}
}

static void produce(int nr)
{
	static struct htrace_switch last;

	while (nr--) {
		b.clock += any_step();
		if (!below(3)) {
			record_other(4 + (__u32)below(60));
			continue;
		}
		last = any_switch(&last);
		record(&last);
		if (!below(50)) /* others switched meanwhile, and it was not recorded */
			last = any_switch(&last);
	}
}

static void check_record(const struct htrace_record *r)
{
	const struct said *s = &said[nr_read++];

	EXPECT(nr_read <= nr_said);
	EXPECT(r->id == s->id && r->time == s->time);
	if (r->id == OTHER_ID) {
		EXPECT(*(const __u32 *)r->payload == s->e.prev_tid);
	} else {
		EXPECT(r->len == sizeof(s->e) && !memcmp(r->payload, &s->e, sizeof(s->e)));
	}
}

static int read_said(void)
{
	struct htrace_batch batch;
	struct htrace_record r;
	struct htrace_iter it;
	__u32 n = 0;
	int ret = htrace_consumer_read(b.c, &batch);

	if (ret != 1)
		return ret;
	EXPECT(!batch.corrupt);
	nr_read += (__u32)batch.overwritten;
	if (b.g.policy == HTRACE_OVERWRITE) /* else an earlier reader had them */
		nr_read += (__u32)batch.before;
	for (htrace_iter_init(&it, &batch); it.off < batch.len; n++) {
		EXPECT(!(*(const __u64 *)(batch.data + it.off) >> 16 & HTRACE_REC_FLAGS & ~HTRACE_REC_EXTENDED));
		EXPECT(htrace_iter_next(&it, &r));
		check_record(&r);
	}
	EXPECT(n == batch.events && it.off == batch.len);
	EXPECT(batch.end >= batch.pos && batch.end <= htrace_consumer_position(b.c));
	return ret;
}

static void drain(void)
{
	while (read_said() == 1)
		;
}

static struct htrace_consumer_stats stats(void)
{
	struct htrace_consumer_stats s = { .sz = sizeof(s) };

	htrace_consumer_get_stats(b.c, &s);
	return s;
}

/* ---------------------------------------------------------------------------------- the same again */

/* All values of each field, and the codes of all states. */
START_TEST(test_fields)
{
	struct htrace_switch e = { .next_tid = 1, .next_prio = 120 };

	open_packed(HTRACE_DISCARD);
	for (int i = 0; i < 3 * 260; i++) {
		struct htrace_switch next = { .prev_tid = e.next_tid, .prev_prio = e.next_prio };

		next.next_tid = i < 23 ? (1u << i) - 1 : (__u32)below(HTRACE_PACKED_TIDS + 5);
		next.next_prio = (__s16)(i % 260 - 3);
		next.prev_state = i % 16 ? 1u << (i % 16 - 1) : 0;
		e = next;
		b.clock += 1000;
		ck_assert(record(&e));
		drain();
	}
	ck_assert_uint_eq(nr_read, nr_said);
	box_free(&b);
}
END_TEST

/* Each state of one bit has a code of its own. */
START_TEST(test_states)
{
	__u32 seen = 0;

	for (int i = -1; i < 15; i++)
		seen |= 1u << htrace_pack_state(i < 0 ? 0 : 1u << i);
	ck_assert_uint_eq(seen, 0xffff);
}
END_TEST

/* Anything, read as it comes: nothing may be lost. */
START_TEST(test_random)
{
	seed = (unsigned long long)_i;
	open_packed(policies[_i & 1]);
	for (int i = 0; i < 3000; i++) {
		produce(1 + (int)below(12));
		drain();
	}
	ck_assert_uint_eq(nr_read, nr_said);
	ck_assert_uint_eq(nr_said, b.produced);
	box_free(&b);
}
END_TEST

/* Lapped again and again: what is read is what was recorded at that place. */
START_TEST(test_lapped)
{
	seed = 100 + (unsigned long long)_i;
	open_packed(HTRACE_OVERWRITE);
	for (int i = 0; i < 200; i++) {
		produce((int)below(400));
		for (__u64 n = below(20); n-- && read_said() == 1;)
			;
	}
	drain();
	ck_assert_uint_eq(nr_read, nr_said);
	ck_assert_uint_gt(stats().lapped, 10);
	ck_assert_uint_gt(stats().overwritten, 1000);
	box_free(&b);
}
END_TEST

/* A ring that is full: what was dropped is the basis of nothing. */
START_TEST(test_full)
{
	seed = 200 + (unsigned long long)_i;
	open_packed(HTRACE_DISCARD);
	for (int i = 0; i < 200; i++) {
		produce((int)below(500));
		for (__u64 n = below(20); n-- && read_said() == 1;)
			;
	}
	drain();
	ck_assert_uint_eq(nr_read, nr_said);
	ck_assert_uint_eq(stats().dropped + nr_said, b.produced);
	ck_assert_uint_gt(stats().dropped, 1000);
	box_free(&b);
}
END_TEST

/* Readers that begin at any time, at the oldest block or the newest: each block is read by itself. */
START_TEST(test_begin)
{
	seed = 300 + (unsigned long long)_i;
	open_packed(HTRACE_OVERWRITE);
	for (int i = 0; i < 300; i++) {
		enum htrace_start start = below(2) ? HTRACE_START_OLDEST : HTRACE_START_NEWEST;
		struct htrace_batch batch;
		struct htrace_record r;
		struct htrace_iter it;

		produce((int)below(300));
		nr_read = nr_said;
		htrace_consumer_free(b.c);
		box_open(&b, start);
		while (htrace_consumer_read(b.c, &batch) == 1)
			nr_read -= batch.events;
		ck_assert_uint_eq(stats().corrupt, 0);
		ck_assert(nr_read < nr_said || !b.ring->head);
		htrace_consumer_free(b.c);
		box_open(&b, start); /* now it is known which ones they are */
		while (htrace_consumer_read(b.c, &batch) == 1)
			for (htrace_iter_init(&it, &batch); htrace_iter_next(&it, &r);)
				check_record(&r);
		ck_assert_uint_eq(nr_read, nr_said);
	}
	box_free(&b);
}
END_TEST

/* From where an earlier reader was, in the midst of a block: by consumed, and by the option. */
START_TEST(test_resume)
{
	seed = 400 + (unsigned long long)_i;
	open_packed(HTRACE_DISCARD);
	for (int i = 0; i < 300; i++) {
		produce((int)below(60));
		if (below(4))
			drain();
		else
			read_said();
		htrace_consumer_free(b.c);
		box_open(&b, HTRACE_START_OLDEST);
		if (nr_read < nr_said) {
			struct htrace_batch batch;
			struct htrace_record r;
			struct htrace_iter it;

			/* those that were consumed come as before: they are none of ours */
			while (htrace_consumer_read(b.c, &batch) == 1)
				for (htrace_iter_init(&it, &batch); htrace_iter_next(&it, &r);)
					check_record(&r);
		}
		ck_assert_uint_eq(nr_read, nr_said);
	}
	box_free(&b);
}
END_TEST

/* ------------------------------------------------------------------------------------------ by callback */

static int take_one(void *ctx, const struct htrace_record *r, const struct htrace_batch *batch)
{
	check_record(r);
	return !--*(__u32 *)ctx;
}

/* Stopped anywhere: `consumed` is behind exactly what was handed over. */
START_TEST(test_each)
{
	__u32 left;
	struct htrace_each_opts o = { .sz = sizeof(o), .record = take_one, .ctx = &left };

	seed = 500 + (unsigned long long)_i;
	open_packed(HTRACE_DISCARD);
	for (int i = 0; i < 500; i++) {
		produce((int)below(100));
		left = 1 + (__u32)below(40);
		ck_assert_int_ge(htrace_consumer_each(b.c, &o), 0);
		if (!below(3))
			continue;
		/* the next reader begins with what was not handed over */
		htrace_consumer_free(b.c);
		box_open(&b, HTRACE_START_OLDEST);
	}
	left = ~0u;
	while (htrace_consumer_each(b.c, &o) > 0)
		;
	ck_assert_uint_eq(nr_read, nr_said);
	box_free(&b);
}
END_TEST

/* ------------------------------------------------------------------------------------------------ size */

/* A CPU on which tasks come and go, at most half a second apart: 8 bytes each but for the first of a block. */
START_TEST(test_size)
{
	struct htrace_switch e = { 0 };
	__u64 bytes;

	open_packed(HTRACE_OVERWRITE);
	for (int i = 0; i < 20000; i++) {
		e = (struct htrace_switch){ e.next_tid, 1000 + (__u32)i % 50, e.next_prio, 120, i & 1 };
		b.clock += 1 + below(500000000);
		ck_assert(record(&e));
		drain();
	}
	ck_assert_uint_eq(nr_read, nr_said);
	bytes = b.ring->head / nr_said;
	ck_assert_uint_eq(bytes, 8);
	/* stats tell what it took in the ring: less than 8.2 bytes each, closing words left out */
	ck_assert_uint_lt(stats().bytes * 10, nr_said * 82);
	box_free(&b);
}
END_TEST

/* Far apart: 16 bytes. */
START_TEST(test_far)
{
	struct htrace_switch e = { 0 };

	open_packed(HTRACE_OVERWRITE);
	for (int i = 0; i < 1000; i++) {
		e = (struct htrace_switch){ e.next_tid, (__u32)i % 50, e.next_prio, 120, 1 };
		b.clock += 5000000000ULL;
		ck_assert(record(&e));
		drain();
	}
	ck_assert_uint_eq(nr_read, nr_said);
	ck_assert_uint_lt(stats().bytes, nr_said * 17);
	box_free(&b);
}
END_TEST

/* --------------------------------------------------------------------------------------------- refused */

/* Records are nowhere as they would be given out. */
START_TEST(test_no_borrowing)
{
	struct htrace_batch batch;

	open_packed(HTRACE_OVERWRITE);
	produce(10);
	ck_assert_int_eq(htrace_consumer_borrow(b.c, &batch), -EOPNOTSUPP);
	ck_assert_int_eq(htrace_consumer_borrow_unseen(b.c, &batch), -EOPNOTSUPP);
	drain();
	ck_assert_uint_eq(nr_read, nr_said);
	box_free(&b);
}
END_TEST

static void push_switches(int nr)
{
	struct htrace_switch e = { 0 };

	while (nr--) {
		e = (struct htrace_switch){ e.next_tid, 7 + (__u32)nr, e.next_prio, 120, 1 };
		b.clock += 10;
		ck_assert(record(&e));
	}
}

static __u64 *word_of(int i)
{
	return (__u64 *)htrace_ring_data(b.ring, &b.g, 0) + i;
}

static __u64 corrupt_after(void)
{
	struct htrace_batch batch;
	__u64 nr = 0;
	int ret;

	while ((ret = htrace_consumer_read(b.c, &batch)) == 1)
		nr += batch.corrupt;
	ck_assert_int_eq(ret, 0);
	return nr;
}

/* Where nobody said that there are such, they are none; as their basis is none. */
START_TEST(test_not_announced)
{
	box_init(&b, RING, BLOCK, HTRACE_OVERWRITE);
	nr_said = 0;
	push_switches(3 * BLOCK / 8);
	if (_i) { /* only the flag of the basis */
		b.clock = 1;
		htrace_consumer_free(b.c);
		memset(b.ring, 0, b.g.data_off);
		box_open(&b, HTRACE_START_OLDEST);
		nr_said = 0;
		for (int i = 0; i < 3 * BLOCK / 24; i++) {
			b.ring->packed_block = 0;
			push_switches(1);
		}
	}
	ck_assert_uint_gt(corrupt_after(), 50);
	ck_assert_uint_eq(stats().events, 0);
	box_free(&b);
}
END_TEST

/* Words of the first block that no producer writes: it is passed over, and the next one read. */
static const struct {
	int at;
	__u64 and, or;
	const char *says;
} wrong[] = {
	{ 0, ~((__u64)HTRACE_REC_BASIS << 16), 0, "packed record" }, /* there is no basis */
	{ 0, 0xffff, 16 << 16 | HTRACE_REC_BASIS << 16, "packed record" }, /* it is too short */
	{ 0, ~0ULL, (__u64)HTRACE_REC_PACKED << 16, NULL }, /* it is packed itself; what it held is no record */
	{ 3, ~0ULL, HTRACE_PACKED_FAR << 35, "number of events" }, /* one is longer */
	{ 122, ~0ULL, HTRACE_PACKED_FAR << 35, NULL },
};

START_TEST(test_wrong)
{
	__u64 *at, per_block = (BLOCK - 8 - 24) / 8 + 1;

	open_packed(HTRACE_OVERWRITE);
	push_switches((int)per_block + 5);
	ck_assert_uint_eq(b.ring->head, BLOCK + 24 + 4 * 8);
	at = word_of(wrong[_i].at);
	*at = (*at & wrong[_i].and) | wrong[_i].or;
	if (_i == 1) /* the count must be right, for the basis to be looked at */
		word_of(2)[0] = 8 << 16 | 5;
	ck_assert_uint_eq(corrupt_after(), per_block);
	if (wrong[_i].says)
		ck_assert_msg(strstr(htrace_consumer_error(b.c), wrong[_i].says) ||
				      strstr(htrace_consumer_error(b.c), "number of events"),
			      "%s", htrace_consumer_error(b.c));
	ck_assert_uint_eq(stats().events, 5);
	box_free(&b);
}
END_TEST

/* Nor is the last one of the block before a basis. */
START_TEST(test_wrong_later)
{
	__u64 per_block = (BLOCK - 8 - 24) / 8 + 1, *at;

	open_packed(HTRACE_OVERWRITE);
	push_switches(2 * (int)per_block + 5);
	at = word_of(BLOCK / 8);
	*at &= ~((__u64)HTRACE_REC_BASIS << 16);
	ck_assert_uint_eq(corrupt_after(), per_block);
	ck_assert_uint_eq(stats().events, per_block + 5);
	box_free(&b);
}
END_TEST

/* Any bytes at all, in blocks that are committed: nothing but what is in them is read, and time is bounded. */
START_TEST(test_garbage)
{
	seed = 600 + (unsigned long long)_i;
	for (int round = 0; round < 300; round++) {
		struct htrace_batch batch;
		struct htrace_record r;
		struct htrace_iter it;
		__u32 sum = 0;
		int most = 200, ret = 1;

		open_packed(HTRACE_OVERWRITE);
		produce(300);
		for (int i = 0; i < 30; i++) {
			__u64 *at = word_of((int)below(RING / 8));

			*at = below(2) ? unit_random(&seed) : *at ^ 1ULL << below(64);
		}
		while (most-- && ret == 1) {
			ret = htrace_consumer_read(b.c, &batch);
			if (ret != 1)
				break;
			EXPECT(batch.len <= 4 * BLOCK);
			for (htrace_iter_init(&it, &batch); htrace_iter_next(&it, &r);)
				for (__u32 i = 0; i < r.len; i++)
					sum += ((const unsigned char *)r.payload)[i];
			EXPECT(it.off == batch.len);
		}
		EXPECT(most > 0 && (ret == 0 || ret == -EILSEQ) && sum != 1);
		box_free(&b);
	}
}
END_TEST

/* ---------------------------------------------------------------------------------------------- the dead */

/* Behind the hole that a dead machine left, packed records are told if their basis is before it, or behind it. */
START_TEST(test_salvage)
{
	struct htrace_batch batch;
	struct htrace_record r;
	struct htrace_iter it;
	struct htrace_slot slot;
	__u32 events = 0;

	open_packed(HTRACE_OVERWRITE);
	push_switches(5);
	if (_i)
		drain();
	else
		nr_read = 0;
	ck_assert_ptr_nonnull(htrace_reserve(b.ring, &b.g, &b.ring->consumed, OTHER_ID, 8, 7, b.clock, &slot));
	*(__u32 *)(word_of((int)((b.ring->head - 8) / 8))) = nr_said;
	said[nr_said] = (struct said){ OTHER_ID, b.clock, { .prev_tid = nr_said } };
	nr_said++;
	b.clock += 10;
	ck_assert(record(&(struct htrace_switch){ 7, 99, 120, 100, 1 }));
	htrace_consumer_salvage(b.c);
	while (htrace_consumer_read(b.c, &batch) == 1) {
		for (htrace_iter_init(&it, &batch); htrace_iter_next(&it, &r); events++)
			check_record(&r);
		ck_assert(!batch.events || batch.doubtful);
	}
	ck_assert_uint_eq(events, _i ? 2 : 7);
	ck_assert_uint_eq(nr_read, nr_said);
	ck_assert_uint_eq(stats().uncommitted, 16);
	ck_assert_uint_eq(htrace_consumer_backlog(b.c), 0);
	box_free(&b);
}
END_TEST

/* As from a mirror to its ring, in the midst of a block. */
START_TEST(test_move)
{
	struct htrace_image copy;

	open_packed(HTRACE_OVERWRITE);
	push_switches(5);
	drain();
	copy = b.image;
	copy.packed = 0;
	ck_assert_int_eq(htrace_consumer_move(b.c, &copy, NULL), -EINVAL);
	ck_assert_int_eq(htrace_consumer_move(b.c, &b.image, NULL), 0);
	ck_assert(record(&(struct htrace_switch){ 7, 99, 120, 100, 1 }));
	ck_assert_uint_eq(b.ring->head, 24 + 5 * 8);
	drain();
	ck_assert_uint_eq(nr_read, nr_said);
	box_free(&b);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pack");
	TCase *same = tcase_create("same"), *refused = tcase_create("refused"), *dead = tcase_create("dead");

	tcase_set_timeout(same, 60);
	tcase_set_timeout(refused, 60);
	tcase_add_test(same, test_fields);
	tcase_add_test(same, test_states);
	tcase_add_loop_test(same, test_random, 0, 6);
	tcase_add_loop_test(same, test_lapped, 0, 6);
	tcase_add_loop_test(same, test_full, 0, 6);
	tcase_add_loop_test(same, test_begin, 0, 3);
	tcase_add_loop_test(same, test_resume, 0, 6);
	tcase_add_loop_test(same, test_each, 0, 6);
	tcase_add_test(same, test_size);
	tcase_add_test(same, test_far);
	suite_add_tcase(s, same);
	tcase_add_test(refused, test_no_borrowing);
	tcase_add_loop_test(refused, test_not_announced, 0, 2);
	tcase_add_loop_test(refused, test_wrong, 0, 5);
	tcase_add_test(refused, test_wrong_later);
	tcase_add_loop_test(refused, test_garbage, 0, 4);
	suite_add_tcase(s, refused);
	tcase_add_loop_test(dead, test_salvage, 0, 2);
	tcase_add_test(dead, test_move);
	suite_add_tcase(s, dead);
	return unit_run(s);
}
