// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A mirror, and both who read it: the agent's relay, which writes it from a ring into memory that the
 * host may change, and the host's consumer, which goes over to the ring. As long as nothing is
 * changed the mirror gives what the ring does.
 */
#include <errno.h>

#include <htrace/consumer.h>
#include <htrace/relay.h>

#include "core.h"
#include "fuzz.h"
#include "relay_sink.h"

#define SIZE (1u << 20)

static char *mem;

struct box {
	struct htrace_region *region;
	struct htrace_geometry g;
	struct htrace_ring *ring, *mirror;
	size_t len;
	struct htrace_relay *relay;
	struct htrace_consumer *c;
	struct htrace_image img;
	bool changed, moved;
	__u64 clock, produced, received, consumed;
};

static void region_new(struct box *b, __u64 how)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_VSHMEM, .kind = HTRACE_RING_PER_CPU,
		.policy = how & 1 ? HTRACE_DISCARD : HTRACE_OVERWRITE, .nr_rings = 1, .nr_cpus = 1,
		.ring_size = 4096 << (how >> 1 & 1), .block_size = 512 << (how >> 2 & 1), .relay = true,
	};

	if (!mem) {
		mem = aligned_alloc(4096, SIZE);
		memset(mem, 0, SIZE);
	}
	CHECK(!htrace_region_format(&b->region, mem, SIZE, &o));
	b->mirror = htrace_region_ring(b->region, 1, 0, &b->g);
	b->len = b->g.data_off + b->g.ring_mask + 1;
	b->ring = aligned_alloc(64, b->len);
	memset(b->ring, 0, b->len);
}

static void push(struct box *b, unsigned int nr, __u32 len)
{
	struct htrace_slot slot;

	while (nr--) {
		b->produced++;
		if (htrace_reserve(b->ring, &b->g, &b->ring->consumed, 1, len, 0, b->clock += 10, &slot))
			htrace_commit(&slot);
	}
}

static void change(struct box *b, struct input *in, struct htrace_ring *of)
{
	__u64 at = take(in, 2) % (b->len / 8), *word = (__u64 *)of + at;

	*word = take_number(in) + (take(in, 1) & 1 ? *word : 0);
	b->changed = true;
}

static void copy(struct box *b, __u64 most)
{
	__u64 before = htrace_relay_position(b->relay);
	int ret = htrace_relay_copy(b->relay, most);

	htrace_region_fence(b->region);
	CHECK(ret == 0 || ret == 1 || (ret == -EILSEQ && b->changed));
	CHECK(htrace_relay_position(b->relay) >= before || ret);
}

static int read_one(struct box *b)
{
	struct htrace_batch batch;
	int ret = htrace_consumer_read(b->c, &batch);

	CHECK(ret == 1 || b->changed || !ret);
	if (ret != 1)
		return ret;
	CHECK(batch.len <= 1u << b->g.block_shift);
	b->received += batch.events + batch.overwritten + batch.dropped + batch.corrupt + batch.before;
	b->consumed = htrace_consumer_position(b->c);
	/* The agent forwards what the host consumed. */
	if (!b->changed && b->g.policy == HTRACE_DISCARD)
		__atomic_store_n(&b->ring->consumed, b->consumed, __ATOMIC_RELEASE);
	return 1;
}

static void drain(struct box *b)
{
	unsigned int most = 2000;

	while (read_one(b) == 1)
		CHECK(most--);
}

/* What the agent's successor does. */
static bool relay_open(struct box *b)
{
	htrace_relay_free(b->relay);
	b->relay = NULL;
	return !htrace_relay_new(&b->relay, b->region, 1, 0, b->ring);
}

static void go_direct(struct box *b)
{
	htrace_relay_hand_over(b->relay);
	CHECK(htrace_relay_handed_over(b->relay));
	drain(b);
	if (htrace_consumer_position(b->c) + 1 < b->mirror->handover)
		return;
	b->img.ring = b->ring;
	CHECK(!htrace_consumer_move(b->c, &b->img, NULL));
	b->moved = true;
}

static void step(struct box *b, struct input *in)
{
	__u64 op = take(in, 1), n = op >> 4;

	switch (op % 12) {
	case 0: case 1: case 2:
		if (!b->changed)
			push(b, (unsigned int)(n << (op & 3)), (__u32)take(in, 1));
		break;
	case 3: case 4:
		copy(b, n & 8 ? ~0ULL : 1 + take(in, 1) * 8);
		break;
	case 5:
		while (n-- && read_one(b) == 1)
			;
		break;
	case 6:
		drain(b);
		break;
	case 7:
		if (!b->moved)
			go_direct(b);
		break;
	case 8:
		htrace_relay_resume(b->relay);
		break;
	case 9:
		CHECK(relay_open(b));
		break;
	case 10:
		change(b, in, b->ring);
		break;
	default:
		change(b, in, b->mirror);
	}
}

static void take_store(void *ctx, __u64 off, const void *data, __u64 len)
{
	const struct box *b = ctx;

	CHECK(data && !(len % 8) && off <= b->len && len <= b->len - off);
}

/* Its successor sends what there is elsewhere, from where who has the mirror says. */
static void send_elsewhere(struct box *b)
{
	const struct htrace_relay_sink sink = { take_store, b };
	struct htrace_relay_point at;
	struct htrace_relay *m;
	int ret;

	htrace_relay_point(b->mirror, &b->g, &at);
	CHECK(!htrace_relay_new_to(&m, b->ring, &b->g, &sink, &at));
	ret = htrace_relay_copy(m, ~0ULL);
	CHECK(ret == 0 || ret == 1 || (ret == -EILSEQ && b->changed));
	htrace_relay_free(m);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct box b = { .clock = 1000000000000ULL };
	struct htrace_relay *none;
	__u64 how = take(&in, 1);

	region_new(&b, how);
	b.img = (struct htrace_image){ .ring = b.mirror, .geometry = b.g,
				       .placement = HTRACE_PLACEMENT_IVSHMEM };
	CHECK(htrace_relay_new(&none, b.region, 3, 0, b.ring) == -EINVAL);
	fail_allocation(how & 8 ? (unsigned int)(how >> 4 & 3) : 0);
	if (relay_open(&b) && !htrace_consumer_new(&b.c, &b.img, NULL)) {
		fail_allocation(0);
		while (in.left)
			step(&b, &in);
		copy(&b, ~0ULL);
		drain(&b);
		copy(&b, ~0ULL);
		drain(&b);
		if (!b.changed)
			CHECK(b.received == b.produced);
	}
	fail_allocation(0);
	send_elsewhere(&b);
	htrace_consumer_free(b.c);
	htrace_relay_free(b.relay);
	htrace_region_release(b.region);
	free(b.ring);
	return 0;
}
