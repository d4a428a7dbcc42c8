/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A ring in plain memory with a clock that tests set, for the ring's unit tests. */
#ifndef RINGBOX_H
#define RINGBOX_H

#include <stdlib.h>
#include <string.h>

#include <htrace/consumer.h>
#include <htrace/ring.h>

/* For hot loops: ck_assert_*() tells the parent process each time. */
#define EXPECT(c)                          \
	do {                               \
		if (!(c))                  \
			ck_abort_msg("%s", #c); \
	} while (0)

struct ringbox {
	struct htrace_ring *ring;
	struct htrace_geometry g;
	struct htrace_image image;
	struct htrace_consumer *c;
	__u64 clock;
	__u64 produced; /* attempts */
	__u64 seq;      /* next value to write */
	__u64 expect;   /* value that the next record read must have, when nothing is lost */
	__u64 received, lost, before;
	__u64 last_time;
	__u64 last_value;
};

static inline void box_init_ring(struct ringbox *b, __u64 ring, __u64 block,
				 enum htrace_policy policy)
{
	memset(b, 0, sizeof(*b));
	ck_assert_int_eq(htrace_geometry_init(&b->g, ring, block, policy), 0);
	b->ring = aligned_alloc(4096, htrace_image_size(&b->g, 4096));
	/* Garbage in the data: nothing there has to be zero. */
	memset(b->ring, 0xa5, htrace_image_size(&b->g, 4096));
	memset(b->ring, 0, b->g.data_off);
	b->clock = 1000000000000ULL;
	b->image.ring = b->ring;
	b->image.geometry = b->g;
	b->image.placement = HTRACE_PLACEMENT_VSHMEM;
}

static inline void box_open(struct ringbox *b, enum htrace_start start)
{
	struct htrace_consumer_opts o = { .sz = sizeof(o), .start = start };

	o.consumed = b->g.policy == HTRACE_DISCARD ? &b->ring->consumed : NULL;
	ck_assert_int_eq(htrace_consumer_new(&b->c, &b->image, &o), 0);
}

static inline void box_init(struct ringbox *b, __u64 ring, __u64 block, enum htrace_policy policy)
{
	box_init_ring(b, ring, block, policy);
	box_open(b, HTRACE_START_OLDEST);
}

static inline void box_free(struct ringbox *b)
{
	htrace_consumer_free(b->c);
	free(b->ring);
}

/* Reserve a record of @len payload bytes, filled with its sequence number; not committed. */
static inline void *box_reserve(struct ringbox *b, __u32 len, struct htrace_slot *slot)
{
	char *at = htrace_reserve(b->ring, &b->g, &b->ring->consumed, 1 + b->seq % 100, len, 7,
				  b->clock, slot);

	b->produced++;
	if (at) {
		memset(at, 0x5a, len);
		if (len >= 8)
			memcpy(at, &b->seq, 8);
		b->seq++;
	}
	return at;
}

static inline int box_push(struct ringbox *b, __u32 len)
{
	struct htrace_slot slot;

	b->clock += 10;
	if (!box_reserve(b, len, &slot))
		return -1;
	htrace_commit(&slot);
	return 0;
}

/* Read one batch, check its records; returns what htrace_consumer_read() did. */
static inline int box_read(struct ringbox *b)
{
	struct htrace_batch batch;
	struct htrace_record r;
	struct htrace_iter it;
	__u32 n = 0;
	int ret = htrace_consumer_read(b->c, &batch);

	if (ret != 1)
		return ret;
	b->lost += batch.overwritten + batch.dropped + batch.corrupt;
	b->before += batch.before;
	for (htrace_iter_init(&it, &batch); htrace_iter_next(&it, &r); n++) {
		__u64 value = b->last_value + 1;

		if (r.len >= 8)
			memcpy(&value, r.payload, 8);
		EXPECT(r.id == 1 + value % 100);
		EXPECT(value >= b->expect);
		b->expect = value + 1;
		b->last_value = value;
		b->last_time = r.time;
		EXPECT(batch.schema == 7);
	}
	EXPECT(n == batch.events);
	b->received += n;
	return ret;
}

static inline void box_drain(struct ringbox *b)
{
	while (box_read(b) == 1)
		;
}

/* Everything that was attempted is received or accounted for. */
static inline void box_check(struct ringbox *b)
{
	box_drain(b);
	ck_assert_uint_eq(b->received + b->lost + b->before, b->produced);
}

#endif
