/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What goes out: a region as frames, in a queue that is bounded. */
#include "stream_internal.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_FULL (256u << 10) /* no more of the rings is put behind so much */
#define QUEUE_MOST (64u << 20)  /* with all that may come at once: descriptors of a ring, names, schema */
#define BUDGET (64u << 10)      /* bytes of a ring before the next one has its turn */
#define GAP 32                  /* bytes that did not change and are sent all the same: less than a header */

size_t stream_queued(const struct stream *s)
{
	return s->end - s->beg;
}

static bool make_room(struct stream *s, size_t len)
{
	size_t used = stream_queued(s), size = s->size ? s->size : QUEUE_FULL;
	char *buf;

	if (s->size - s->end >= len)
		return true;
	if (s->beg)
		memmove(s->buf, s->buf + s->beg, used);
	s->beg = 0;
	s->end = used;
	if (s->size - used >= len)
		return true;
	while (size < used + len)
		size *= 2;
	buf = size > QUEUE_MOST ? NULL : realloc(s->buf, size);
	if (!buf)
		return false;
	s->buf = buf;
	s->size = size;
	return true;
}

static void frame(struct stream *s, __u32 type, __u64 arg, const void *data, __u32 len)
{
	const struct stream_frame f = { .magic = STREAM_FRAME_MAGIC, .type = type, .arg = arg, .len = len };

	if (s->failed || !make_room(s, sizeof(f) + len)) {
		s->failed = true;
		return;
	}
	memcpy(s->buf + s->end, &f, sizeof(f));
	if (len)
		memcpy(s->buf + s->end + sizeof(f), data, len);
	s->end += sizeof(f) + len;
}

static void store(struct stream *s, __u64 off, const void *data, __u64 len)
{
	for (__u64 at = 0; at < len;) {
		__u64 part = len - at < STREAM_FRAME_MAX ? len - at : STREAM_FRAME_MAX;

		frame(s, STREAM_STORE, off + at, (const char *)data + at, (__u32)part);
		at += part;
	}
}

/* ------------------------------------------------------------------------------------------ the rings */

static void store_of_ring(void *ctx, __u64 off, const void *data, __u64 len)
{
	struct stream_ring *r = ctx;

	store(r->stream, r->off + off, data, len);
}

/* Where a host begins that has nothing: under discard, behind what another one had. */
static struct htrace_relay_point first_point(const struct stream *s, const struct htrace_ring *ring)
{
	__u64 block = 1ULL << s->geometry.block_shift;
	struct htrace_relay_point p = { 0 };

	if (s->geometry.policy == HTRACE_DISCARD)
		p.pos = p.head = __atomic_load_n(&ring->consumed, __ATOMIC_ACQUIRE) & ~(block - 1);
	return p;
}

/* By blocks that were consumed a reader knows what was dropped before, and how many events each slot had. */
static void send_consumed_blocks(struct stream *s, struct stream_ring *r)
{
	__u64 block = 1ULL << s->geometry.block_shift, pos = r->point.pos, size = s->geometry.ring_mask + 1;

	if (!pos)
		return;
	store(s, r->off + offsetof(struct htrace_ring, head), &pos, sizeof(pos));
	for (__u64 beg = pos > size ? pos - size : 0; beg < pos; beg += block) {
		const struct htrace_block *b =
			htrace_ring_block((struct htrace_ring *)(uintptr_t)r->ring, &s->geometry, beg);
		struct htrace_block copy = *b;

		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (copy.beg == beg && __atomic_load_n(&b->beg, __ATOMIC_RELAXED) == beg)
			store(s, r->off + (__u64)((const char *)b - (const char *)r->ring), &copy, sizeof(copy));
	}
}

static int begin_rings(struct stream *s, bool anew)
{
	for (__u32 i = 0; i < s->nr; i++) {
		struct stream_ring *r = &s->ring[i];
		const struct htrace_relay_sink sink = { .store = store_of_ring, .ctx = r };

		if (anew)
			r->point = first_point(s, r->ring);
		htrace_relay_free(r->relay);
		r->relay = NULL;
		if (htrace_relay_new_to(&r->relay, r->ring, &s->geometry, &sink, &r->point))
			return -ENOMEM;
	}
	return 0;
}

__u64 stream_send_rings(struct stream *s, bool *more)
{
	__u64 bytes = 0;

	*more = false;
	for (__u32 i = 0; i < s->nr; i++) {
		struct htrace_relay *relay = s->ring[i].relay;
		__u64 before = htrace_relay_position(relay);

		if (stream_queued(s) >= QUEUE_FULL) {
			*more = true;
			break;
		}
		*more |= htrace_relay_copy(relay, BUDGET) > 0;
		bytes += htrace_relay_position(relay) - before;
	}
	return bytes;
}

/* ---------------------------------------------------------------------------------------- other areas */

/* From the last word to the first: what announces others comes before them in memory, and behind them here. */
static void send_guest(struct stream *s)
{
	const struct htrace_super *super = htrace_region_super(s->region);
	const char *now = (const char *)htrace_region_guest(s->region);
	char *sent = (char *)&s->guest;
	size_t at = sizeof(s->guest), beg, end;

	if (!s->guest_sent) {
		memcpy(sent, now, at);
		store(s, super->guest.off, sent, at);
		s->guest_sent = true;
		return;
	}
	while (at) {
		at -= 8;
		if (!memcmp(sent + at, now + at, 8))
			continue;
		end = at + 8;
		for (beg = at; at && beg - at <= GAP; at -= 8)
			if (memcmp(sent + at, now + at, 8))
				beg = at;
		if (!at && memcmp(sent, now, 8))
			beg = 0;
		memcpy(sent + beg, now + beg, end - beg);
		store(s, super->guest.off + beg, sent + beg, end - beg);
		at = beg;
	}
}

static void send_schema(struct stream *s)
{
	const struct htrace_schema_area *a = htrace_region_schema(s->region);
	__u64 off = htrace_region_super(s->region)->schema.off;

	if (a->generation == s->schema_generation)
		return;
	store(s, off + sizeof(*a) + s->schema_bytes, (const char *)(a + 1) + s->schema_bytes,
	      a->bytes - s->schema_bytes);
	store(s, off, a, sizeof(*a));
	s->schema_generation = a->generation;
	s->schema_bytes = a->bytes;
}

/* A seqlock: odd while it is being written. */
static void send_names(struct stream *s)
{
	const struct htrace_names *t = htrace_region_names(s->region);
	__u64 off = htrace_region_super(s->region)->names.off, odd = t->generation - 1;

	if (t->generation == s->names_generation)
		return;
	store(s, off, &odd, sizeof(odd));
	store(s, off + sizeof(*t), t + 1, (__u64)t->nr * sizeof(struct htrace_name));
	store(s, off, t, sizeof(*t));
	s->names_generation = t->generation;
}

void stream_send_words(struct stream *s)
{
	if (stream_queued(s) >= QUEUE_FULL)
		return;
	send_schema(s);
	send_names(s);
	send_guest(s); /* says that names were served */
}

void stream_forget_sent(struct stream *s)
{
	s->guest_sent = false;
	s->schema_generation = s->names_generation = 0;
	s->schema_bytes = 0;
	s->beg = s->end = 0;
	s->failed = false;
}

/* ---------------------------------------------------------------------------------------- a beginning */

/* Who made them is in the headers of rings, which relays do not touch. */
static void send_ring_headers(struct stream *s)
{
	const __u64 from = offsetof(struct htrace_ring, anchor), to = offsetof(struct htrace_ring, owner);

	for (__u32 i = 0; i < s->nr; i++) {
		const struct htrace_ring *mirror = htrace_region_ring(s->region, 0, i, NULL);

		store(s, s->ring[i].off + from, (const char *)mirror + from, to - from);
	}
}

static void send_consumed(struct stream *s)
{
	__u64 consumed[HTRACE_MAX_RINGS], sent;

	for (__u32 i = 0; i < s->nr; i++) {
		consumed[i] = __atomic_load_n(&s->ring[i].ring->consumed, __ATOMIC_ACQUIRE);
		sent = htrace_relay_position(s->ring[i].relay);
		if (consumed[i] > sent)
			consumed[i] = sent;
	}
	frame(s, STREAM_CONSUMED, 0, consumed, s->nr * (__u32)sizeof(*consumed));
}

int stream_begin(struct stream *s)
{
	struct stream_hello hello = { .version = STREAM_VERSION, .super = *htrace_region_super(s->region) };
	bool anew = s->held != hello.super.session;

	stream_forget_sent(s);
	if (begin_rings(s, anew))
		return -ENOMEM;
	frame(s, STREAM_HELLO, s->nonce, &hello, sizeof(hello));
	if (anew)
		send_ring_headers(s);
	for (__u32 i = 0; i < s->nr && anew; i++)
		send_consumed_blocks(s, &s->ring[i]);
	send_schema(s);
	send_names(s);
	send_guest(s);
	/* Of rings that went around, where they begin now: before anybody looks. */
	for (__u32 i = 0; i < s->nr; i++)
		htrace_relay_copy(s->ring[i].relay, 1);
	if (anew && s->geometry.policy == HTRACE_DISCARD)
		send_consumed(s);
	frame(s, STREAM_READY, 0, NULL, 0);
	return s->failed ? -ENOMEM : 0;
}
