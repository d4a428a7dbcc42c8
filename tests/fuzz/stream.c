// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a guest sends over a stream, in pieces of any size: frames as they should be, with what the input has changed
 * in them, and bytes between them. Nothing but the region is written, and what a host holds of it can be told.
 */
#include <errno.h>

#include <htrace/region.h>

#include "core.h"
#include "fuzz.h"
#include "relay_sink.h"
#include "stream_apply.h"

#define SIZE (HTRACE_REGION_MIN + HTRACE_GRANULE)
#define NONCE 0x1122334455667788ULL
#define CANARY 0x5a
#define BUFFER (1u << 18)

static struct stream_apply apply;
static unsigned char buffer[BUFFER];

struct box {
	char *mem;
	struct htrace_super super;
	size_t len;    /* of buffer */
	size_t piece;  /* that is fed at a time */
	bool refused;
};

static void plan(struct box *b, __u64 how)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = how & 1 ? HTRACE_PLACEMENT_VSHMEM : HTRACE_PLACEMENT_IVSHMEM,
		.policy = how & 2 ? HTRACE_DISCARD : HTRACE_OVERWRITE, .kind = HTRACE_RING_PER_CPU,
		.nr_rings = 1 + (how >> 2 & 3), .ring_size = 8192, .block_size = 512,
		.clock_id = HTRACE_CLOCK_MONOTONIC,
	};
	struct htrace_region *r;

	CHECK(!htrace_region_plan(&r, SIZE, &o));
	b->super = *htrace_region_super(r);
	b->super.magic = HTRACE_MAGIC;
	b->super.session = 1 + (how >> 4 & 3);
	htrace_region_release(r);
}

static void put(struct box *b, const void *data, size_t len)
{
	len = len < BUFFER - b->len ? len : BUFFER - b->len;
	if (len)
		memcpy(buffer + b->len, data, len);
	b->len += len;
}

static void frame(struct box *b, __u32 type, __u64 arg, const void *data, __u32 len)
{
	const struct stream_frame f = { STREAM_FRAME_MAGIC, type, arg, len, 0 };

	put(b, &f, sizeof(f));
	put(b, data, len);
}

/* Its words at places that the input says hold what it says. */
static void hello(struct box *b, struct input *in)
{
	struct stream_hello h = { .version = STREAM_VERSION };
	__u64 how = take(in, 1), edits = take(in, 1) & 7;

	plan(b, how);
	h.super = b->super;
	while (edits--) {
		__u64 at = take(in, 1) * 8;

		if (at + 8 <= sizeof(h))
			*(__u64 *)((char *)&h + at) = take_number(in);
	}
	frame(b, STREAM_HELLO, NONCE, &h, sizeof(h));
}

static void stores(struct box *b, struct input *in)
{
	static unsigned char data[4096];
	__u64 off = b->super.ringset[0].off + take(in, 2) * 8, len = (take(in, 1) & 63) * 8;

	for (__u64 i = 0; i < len; i++)
		data[i] = (unsigned char)take(in, 1);
	frame(b, STREAM_STORE, off, data, (__u32)len);
}

static void consumed(struct box *b, struct input *in)
{
	__u64 at[8] = { take_number(in), take_number(in) };

	frame(b, STREAM_CONSUMED, 0, at, (__u32)(8 * (take(in, 1) & 7)));
}

/* What is held goes to the guest, when it is asked again. */
static void ask(struct box *b)
{
	const struct htrace_ringset *set = &apply.super.ringset[0];
	struct htrace_relay_point p;
	struct htrace_geometry g;

	if (apply.super.session)
		htrace_geometry_of(set, &g);
	for (__u32 i = 0; apply.super.session && i < set->nr_rings; i++) {
		htrace_relay_point((struct htrace_ring *)(b->mem + set->off + i * set->stride), &g, &p);
		CHECK(p.pos <= p.head && !(p.pos % (1ULL << g.block_shift)));
	}
	stream_apply_expect(&apply, NONCE);
	b->refused = false;
}

static void feed(struct box *b)
{
	char err[200] = "";

	for (size_t at = 0; at < b->len && !b->refused; at += b->piece) {
		size_t len = b->len - at < b->piece ? b->len - at : b->piece;
		int ret = stream_apply_feed(&apply, buffer + at, len, err, sizeof(err));

		CHECK(!ret || (ret == -EPROTO && *err));
		b->refused = ret;
	}
	b->len = 0;
}

static void step(struct box *b, struct input *in)
{
	__u64 op = take(in, 1);

	switch (op % 9) {
	case 0:
		feed(b);
		ask(b);
		break;
	case 1:
		hello(b, in);
		break;
	case 2: case 3:
		stores(b, in);
		break;
	case 4:
		consumed(b, in);
		break;
	case 5:
		frame(b, STREAM_READY, 0, NULL, 0);
		break;
	case 6:
		frame(b, (__u32)take(in, 1), take_number(in), b, (__u32)take(in, 1) & 127);
		break;
	case 7:
		for (__u64 n = op >> 4; n--;) {
			unsigned char c = (unsigned char)take(in, 1);

			put(b, &c, 1);
		}
		break;
	default:
		feed(b);
	}
}

/* The areas that hosts write are theirs: but for the rings' words, which a new session begins with. */
static void check_untouched(const struct box *b)
{
	const char *host = b->mem + HTRACE_HOST_OFF;
	size_t at = offsetof(struct htrace_host, session);

	for (size_t i = 0; i < HTRACE_GRANULE; i++)
		CHECK(host[i] == CANARY || (i >= at && i < at + 8));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct box b = { .mem = aligned_alloc(4096, SIZE), .piece = 1 + take(&in, 2) };

	CHECK(b.mem);
	memset(b.mem, 0, SIZE);
	memset(b.mem + HTRACE_HOST_OFF, CANARY, HTRACE_GRANULE);
	stream_apply_init(&apply, b.mem, SIZE - (take(&in, 1) & 1 ? HTRACE_GRANULE : 0));
	stream_apply_expect(&apply, NONCE);
	while (in.left)
		step(&b, &in);
	feed(&b);
	ask(&b);
	check_untouched(&b);
	free(b.mem);
	return 0;
}
