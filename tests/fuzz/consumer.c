// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The consumer of one ring, of policy POLICY: producers that are right write into it, and the input
 * changes any word of it between two steps. As long as nothing was changed every event is accounted
 * for; whatever was changed, records lie in the batch and a call's work, and all calls, are bounded.
 * In some rings switches of tasks are packed.
 */
#include <errno.h>

#include <htrace/consumer.h>
#include <htrace/pack.h>

#include "fuzz.h"

#define MAX_OPEN 4

struct box {
	struct htrace_geometry g;
	size_t len; /* of the image: not a byte more is there */
	struct htrace_ring *ring;
	struct htrace_consumer *c;
	__u64 host_consumed;
	bool use_host_word, changed, restarted, packed;
	struct htrace_switch last;
	__u64 clock, produced, received, lost;
	struct htrace_slot open[MAX_OPEN];
	unsigned int nr_open;
};

static struct htrace_ring *new_ring(const struct box *b)
{
	struct htrace_ring *r = aligned_alloc(64, b->len);

	memset(r, 0xa5, b->len); /* nothing in the data has to be zero */
	memset(r, 0, b->g.data_off);
	return r;
}

static struct htrace_image image_of(const struct box *b)
{
	return (struct htrace_image){
		.ring = b->ring, .geometry = b->g, .anchor = b->ring->anchor,
		.placement = b->use_host_word ? HTRACE_PLACEMENT_IVSHMEM : HTRACE_PLACEMENT_VSHMEM,
		.packed = b->packed,
	};
}

static __u64 *consumed_word(struct box *b)
{
	return b->use_host_word ? &b->host_consumed : &b->ring->consumed;
}

static bool open_consumer(struct box *b, enum htrace_start start)
{
	struct htrace_image img = image_of(b);
	struct htrace_consumer_opts o = { .sz = sizeof(o), .start = start };

	o.consumed = POLICY == HTRACE_DISCARD ? consumed_word(b) : NULL;
	return !htrace_consumer_new(&b->c, &img, &o);
}

static void reserve(struct box *b, __u32 len, __u64 step)
{
	struct htrace_slot slot;
	void *at;

	b->clock += step;
	b->produced++;
	at = htrace_reserve(b->ring, &b->g, consumed_word(b), 1 + (__u32)b->produced % 100, len, 7,
			    b->clock, &slot);
	if (!at)
		return;
	memset(at, 0x5a, len);
	if (b->nr_open == MAX_OPEN) {
		htrace_commit(&b->open[0]);
		b->open[0] = b->open[--b->nr_open];
	}
	b->open[b->nr_open++] = slot;
}

/* Packed, if @how does not make values that do not fit. */
static void record_switch(struct box *b, __u32 how, __u64 step)
{
	struct htrace_switch e = {
		.prev_tid = b->last.next_tid, .prev_prio = b->last.next_prio, .next_tid = how * 0x10001 + 1, .next_prio = 120,
		.prev_state = how & 16 ? how : 1u << (how & 15),
	};

	b->clock += how & 32 ? step << 30 : step;
	b->produced++;
	if (how & 64)
		e.prev_tid++;
	htrace_record_switch(b->ring, &b->g, &b->g, consumed_word(b), 200, &e, 7, b->clock);
	b->last = e;
}

static void commit(struct box *b, unsigned int which)
{
	if (!b->nr_open)
		return;
	which %= b->nr_open;
	htrace_commit(&b->open[which]);
	b->open[which] = b->open[--b->nr_open];
}

/*
 * Producers that are right need memory that is right: what is changed, a guest that is wrong
 * changes, and from then on nobody else writes.
 */
static void change(struct box *b, struct input *in)
{
	__u64 how = take(in, 1), *word = (__u64 *)b->ring, value;
	size_t nr = b->len / 8, at = take(in, 1);

	if (how < 64)
		at %= sizeof(struct htrace_ring) / 8;
	else if (how < 192)
		at = b->g.desc_off / 8 + at % ((b->g.data_off - b->g.desc_off) / 8);
	else
		at = b->g.data_off / 8 + (at | take(in, 1) << 8) % ((b->g.ring_mask + 1) / 8);
	CHECK(at < nr);
	value = take_number(in);
	if (how & 1)
		value += word[at];
	if (how & 2)
		value = (word[at] & 0xffffffff) | value << 32;
	word[at] = value;
	b->changed = true;
}

static int read_one(struct box *b)
{
	__u64 before = htrace_consumer_position(b->c), block = 1ULL << b->g.block_shift;
	struct htrace_batch batch;
	struct htrace_record r;
	struct htrace_iter it;
	__u32 n = 0, sum = 0;
	int ret = htrace_consumer_read(b->c, &batch);

	CHECK(ret == 1 || !ret || ret == -ESTALE || ret == -EILSEQ || ret == -EOWNERDEAD);
	if (ret != 1) {
		CHECK(b->changed || !ret);
		return ret;
	}
	CHECK(batch.len <= (b->packed ? 4 * block : block) && !batch.len == !batch.events);
	CHECK(batch.end >= batch.pos && batch.end - batch.pos <= batch.len && batch.end - batch.pos <= block);
	CHECK(batch.events || batch.overwritten || batch.dropped || batch.corrupt || batch.before ||
	      batch.unfinished || batch.uncommitted);
	CHECK(htrace_consumer_position(b->c) >= before);
	for (htrace_iter_init(&it, &batch); htrace_iter_next(&it, &r); n++) {
		CHECK(r.id && r.id <= HTRACE_MAX_EVENTS);
		for (__u32 i = 0; i < r.len; i++)
			sum += ((const unsigned char *)r.payload)[i];
	}
	CHECK(n == batch.events && it.off == batch.len);
	b->received += n + (sum & 0);
	b->lost += batch.overwritten + batch.dropped + batch.corrupt + batch.before + batch.unfinished;
	return 1;
}

/* Nobody writes meanwhile: it comes to an end. */
static void drain(struct box *b)
{
	__u64 most = 8 * ((b->g.ring_mask + 1) >> b->g.block_shift) + 256;

	while (read_one(b) == 1)
		CHECK(most--);
}

/* Its owner dies, and with it what it had begun; what is left is read, and another takes the ring. */
static void next_life(struct box *b)
{
	struct htrace_batch batch;

	b->produced -= b->nr_open;
	b->nr_open = 0;
	htrace_consumer_finish(b->c);
	drain(b);
	CHECK(b->changed || !htrace_consumer_backlog(b->c));
	b->ring->packed_block = 0;
	b->ring->head = b->ring->dropped = b->ring->refused = b->ring->consumed = 0;
	memset((char *)b->ring + b->g.desc_off, 0, b->g.data_off - b->g.desc_off);
	b->ring->generation++;
	CHECK(htrace_consumer_read(b->c, &batch) == -EOWNERDEAD || b->changed);
	CHECK(!htrace_consumer_restart(b->c) || b->changed);
}

/* The machine dies: all that was committed is told or counted, and maybe what was not. */
static void salvage(struct box *b)
{
	htrace_consumer_salvage(b->c);
	drain(b);
	CHECK(b->changed || b->restarted || b->received + b->lost >= b->produced - b->nr_open);
	CHECK(b->changed || !htrace_consumer_backlog(b->c));
}

/* As from a mirror to its ring. */
static void move(struct box *b)
{
	struct htrace_ring *copy;
	struct htrace_image img;

	while (b->nr_open)
		commit(b, 0);
	copy = new_ring(b);
	memcpy(copy, b->ring, b->len);
	img = image_of(b);
	img.ring = copy;
	img.geometry.ring_shift++;
	CHECK(htrace_consumer_move(b->c, &img, NULL) == -EINVAL);
	img.geometry.ring_shift--;
	img.packed ^= 1;
	CHECK(htrace_consumer_move(b->c, &img, NULL) == -EINVAL);
	img.packed ^= 1;
	CHECK(!htrace_consumer_move(b->c, &img, POLICY == HTRACE_DISCARD ?
				    (b->use_host_word ? &b->host_consumed : &copy->consumed) : NULL));
	free(b->ring);
	b->ring = copy;
}

/* Records until one of them says stop. */
struct some {
	struct box *box;
	__u64 left, nr;
};

static int count_record(void *ctx, const struct htrace_record *r, const struct htrace_batch *b)
{
	struct some *s = ctx;

	CHECK(r->id && r->id <= HTRACE_MAX_EVENTS && b->end >= b->pos && (const unsigned char *)r->payload >= b->data &&
	      (const unsigned char *)r->payload + r->len <= b->data + b->len);
	s->nr++;
	return !--s->left;
}

static int count_loss(void *ctx, const struct htrace_batch *batch)
{
	struct some *s = ctx;

	s->box->lost += batch->overwritten + batch->dropped + batch->corrupt + batch->before +
			batch->unfinished;
	return 0;
}

static void read_each(struct box *b, __u64 most)
{
	struct some s = { b, most, 0 };
	struct htrace_each_opts o = {
		.sz = sizeof(o), .record = count_record, .loss = count_loss, .ctx = &s,
	};
	long ret = htrace_consumer_each(b->c, &o);

	CHECK(ret >= 0 ? (__u64)ret == s.nr : b->changed && !s.nr);
	b->received += s.nr;
}

/* Where they lie; what nobody changes is still so when it is given back. */
static void borrow(struct box *b, unsigned int how)
{
	struct htrace_batch batch;
	struct htrace_record r;
	struct htrace_iter it;
	__u32 n = 0;
	int ret;

	fail_allocation(how & 1);
	ret = how & 2 ? htrace_consumer_borrow_unseen(b->c, &batch) : htrace_consumer_borrow(b->c, &batch);
	fail_allocation(0);
	CHECK(ret == 1 || !ret || ret == -EBUSY || (ret == -ENOMEM && how & 1) || (ret == -EOPNOTSUPP && b->packed) ||
	      b->changed);
	if (ret != 1)
		return;
	for (htrace_iter_init(&it, &batch); htrace_iter_next(&it, &r); n++)
		CHECK((const unsigned char *)r.payload + r.len <= batch.data + batch.len);
	CHECK(n == batch.events || (batch.until && b->changed));
	b->received += batch.events;
	count_loss(&(struct some){ .box = b }, &batch);
	for (int i = how & 2 ? 64 : 0; i-- && !b->changed && batch.len;) {
		reserve(b, b->g.max_payload, 1);
		commit(b, b->nr_open - 1);
	}
	ret = htrace_consumer_release(b->c, &batch);
	CHECK(!ret || (ret == -ESTALE && (how & 2)) || b->changed);
	if (ret == -ESTALE) { /* its records count as overwritten now */
		b->received -= n;
		b->lost += n;
	}
	CHECK(!batch.len || htrace_consumer_release(b->c, &batch) == -EINVAL);
}

static void ask(struct box *b)
{
	struct htrace_consumer_stats s = { .sz = sizeof(s) };

	htrace_consumer_get_stats(b->c, &s);
	CHECK(s.position == htrace_consumer_position(b->c));
	CHECK(b->changed || htrace_consumer_backlog(b->c) <= b->g.ring_mask + 1);
	CHECK(strlen(htrace_consumer_error(b->c)) < 160);
	htrace_consumer_ready(b->c);
}

static void step(struct box *b, struct input *in)
{
	__u64 op = take(in, 1), n = op >> 4;

	switch (op & 15) {
	case 0: case 1: case 2: case 3:
		for (__u64 len = take(in, 1) << (op & 3), step = take(in, 1); n-- && !b->changed;) {
			if (b->packed && op & 1) {
				record_switch(b, (__u32)len >> (op & 2) ^ (__u32)n, step);
				continue;
			}
			reserve(b, (__u32)len, step);
			commit(b, b->nr_open - 1);
		}
		break;
	case 4:
		if (!b->changed)
			reserve(b, (__u32)take(in, 1), take_number(in));
		break;
	case 5:
		if (!b->changed)
			commit(b, (unsigned int)n);
		break;
	case 6: case 7: case 8:
		while (n-- && read_one(b) == 1)
			;
		break;
	case 9:
		drain(b);
		if (n & 8)
			next_life(b);
		break;
	case 10:
		move(b);
		break;
	case 11:
		ask(b);
		if (n & 8)
			read_each(b, 1 + (n & 7) * 8);
		else if (n & 4)
			borrow(b, (unsigned int)n);
		break;
	case 12:
		htrace_consumer_free(b->c);
		b->c = NULL;
		b->restarted = true; /* what the other one had read is not in this one's account */
		open_consumer(b, n & 1);
		break;
	case 13:
		*consumed_word(b) = take_number(in);
		b->changed = true;
		break;
	default:
		change(b, in);
	}
}

/* A shape that is accepted is one: powers of two, within limits. */
static void try_geometry(struct input *in)
{
	__u64 ring = take_number(in), block = take_number(in);
	struct htrace_geometry g;

	if (htrace_geometry_init(&g, ring, block, (enum htrace_policy)take(in, 1)))
		return;
	CHECK(g.ring_mask + 1 == ring && g.ring_shift > g.block_shift);
	CHECK(g.block_shift >= HTRACE_BLOCK_SHIFT_MIN && g.block_shift <= HTRACE_BLOCK_SHIFT_MAX);
	CHECK(htrace_image_size(&g, 4096) > ring);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct box b = { .clock = 1000000000000ULL };
	__u64 how = take(&in, 1), shapes = take(&in, 1);
	__u64 block = 9 + shapes % 4;

	CHECK(!htrace_geometry_init(&b.g, 1ULL << (block + 1 + (shapes >> 2) % 3), 1ULL << block, POLICY));
	b.len = b.g.data_off + b.g.ring_mask + 1;
	b.ring = new_ring(&b);
	b.use_host_word = how & 1;
	b.packed = shapes & 0x40;
	b.ring->anchor = how & 2 ? 0x1234 : 0;
	if ((how & 12) == 12)
		try_geometry(&in);
	else if (how & 4) /* in a later lap, near where halves of words carry */
		b.clock = take_number(&in);
	fail_allocation(how & 8 ? (unsigned int)(how >> 4) : 0);
	open_consumer(&b, HTRACE_START_OLDEST);
	fail_allocation(0);
	while (in.left && b.c)
		step(&b, &in);
	if (b.c && shapes & 0x80) {
		salvage(&b);
	} else if (b.c) {
		while (b.nr_open && !b.changed)
			commit(&b, 0);
		drain(&b);
		CHECK(b.changed || b.restarted || b.received + b.lost == b.produced);
	}
	htrace_consumer_free(b.c);
	free(b.ring);
	return 0;
}
