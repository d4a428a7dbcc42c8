/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Mirroring a ring. The relay reads the ring as any consumer does (docs/memory-ordering.md), and
 * writes the mirror as its only producer, by plain stores in the ring's own order: head, fence,
 * data and descriptor, fence, commit word. All words are copied as they are; none is computed. A mirror
 * that is elsewhere (relay_sink.h) is given the same stores in the same order.
 */
#include <errno.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <htrace/relay.h>

#include "core.h"
#include "relay_sink.h"

#define RETRIES 4 /* of a look that producers disturbed */

struct htrace_relay {
	struct htrace_region *region; /* the mirror's, or NULL: it is where the sink takes it */
	const struct htrace_ring *from;
	struct htrace_ring *to;
	struct htrace_relay_sink sink;
	struct htrace_geometry g;
	__u64 pos;     /* mirrored up to here */
	__u64 head;    /* the mirror's */
	__u64 dropped; /* the mirror's */
	bool described; /* the opener's part of the block at pos is in the mirror */
	bool handed_over;
	unsigned char *buf; /* one block */
};

/* One block as the loads of one attempt saw it. */
struct look {
	struct htrace_block desc;
	__u64 beg, end, head;
	bool complete;
};

static __u64 block_size(const struct htrace_relay *m)
{
	return 1ULL << m->g.block_shift;
}

static __u64 block_start(const struct htrace_relay *m, __u64 pos)
{
	return pos & ~(block_size(m) - 1);
}

static const struct htrace_block *source_block(const struct htrace_relay *m, __u64 pos)
{
	return htrace_ring_block((struct htrace_ring *)(uintptr_t)m->from, &m->g, pos);
}

static __u64 load_head(const struct htrace_relay *m)
{
	return __atomic_load_n(&m->from->head, __ATOMIC_ACQUIRE);
}

static bool lapped(const struct htrace_relay *m, __u64 head)
{
	return head - block_start(m, m->pos) > m->g.ring_mask + 1;
}

/* Into the mirror. By words: memcpy may use forms that device memory does not take. */
static void put(struct htrace_relay *m, __u64 off, const void *from, __u64 len)
{
	const htrace_word *src = from;
	htrace_word *dst;

	if (!m->region) {
		m->sink.store(m->sink.ctx, off, from, len);
		return;
	}
	dst = (htrace_word *)((char *)m->to + off);
	for (__u64 i = 0; i < len / 8; i++)
		htrace_store(&dst[i], src[i]);
}

static void put_word(struct htrace_relay *m, __u64 off, __u64 value)
{
	put(m, off, &value, sizeof(value));
}

/* What a sink is given is in order. */
static void fence(const struct htrace_relay *m)
{
	if (m->region)
		htrace_region_fence(m->region);
}

/* Of the block at @pos in the image. */
static __u64 descriptor(const struct htrace_relay *m, __u64 pos)
{
	return (__u64)((const char *)source_block(m, pos) - (const char *)m->from);
}

/* Never backwards: behind a gap it is ahead of what is mirrored, see skip_to_oldest(). */
static void raise_head(struct htrace_relay *m, __u64 head)
{
	if (head > m->head) {
		m->head = head;
		put_word(m, offsetof(struct htrace_ring, head), head);
	}
	fence(m); /* before any store into the new lap */
}

static void describe(struct htrace_relay *m, __u64 beg, const struct htrace_block *d)
{
	const __u64 off = offsetof(struct htrace_block, base);

	put(m, descriptor(m, beg) + off, &d->base, sizeof(*d) - off);
}

static void load_description(const struct htrace_block *b, struct htrace_block *d)
{
	d->base = htrace_load(&b->base);
	d->events_before = htrace_load(&b->events_before);
	d->beg = htrace_load(&b->beg);
	d->schema = __atomic_load_n(&b->schema, __ATOMIC_RELAXED);
}

/*
 * The producers overtook us: go on at the oldest whole block. The mirror's head goes into the last
 * block that there is, at once: so a reader finds itself overtaken too, goes on at the very same
 * block, and waits for each one's commit word. The openers' parts come along, for they say how many
 * events are missing, and so the reader can tell that at the gap.
 */
static void skip_to_oldest(struct htrace_relay *m, __u64 head)
{
	__u64 block = block_size(m), last = block_start(m, head - 1);

	m->pos = last - (m->g.ring_mask + 1 - block);
	m->described = false;
	raise_head(m, last + HTRACE_REC_HDR);
	for (__u64 beg = m->pos; beg <= last; beg += block) {
		const struct htrace_block *b = source_block(m, beg);
		struct htrace_block d = { 0 };

		if (__atomic_load_n(&b->beg, __ATOMIC_ACQUIRE) != beg)
			continue; /* its opener is at work, or the block has gone by */
		load_description(b, &d);
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		if (load_head(m) - beg <= m->g.ring_mask + 1)
			describe(m, beg, &d);
	}
}

/* All drops until now belong behind pos, if the ring still ends there. */
static void mirror_dropped(struct htrace_relay *m)
{
	__u64 dropped = __atomic_load_n(&m->from->dropped, __ATOMIC_ACQUIRE);

	if (dropped == m->dropped || load_head(m) != m->pos)
		return;
	m->dropped = dropped;
	put_word(m, offsetof(struct htrace_ring, refused), __atomic_load_n(&m->from->refused, __ATOMIC_RELAXED));
	put_word(m, offsetof(struct htrace_ring, dropped), dropped);
}

/* 1: @l and the buffer hold what is new in the block at pos; 0: nothing is; -EAGAIN: disturbed. */
static int look(struct htrace_relay *m, struct look *l)
{
	const struct htrace_block *b = source_block(m, m->pos);
	__u64 block = block_size(m), bytes;
	bool bad = false;

	l->head = load_head(m);
	if (l->head < m->pos || l->head > 1ULL << 62)
		return -EILSEQ;
	if (l->head == m->pos) {
		mirror_dropped(m);
		return 0;
	}
	if (lapped(m, l->head)) {
		skip_to_oldest(m, l->head);
		b = source_block(m, m->pos);
	}
	l->beg = block_start(m, m->pos);
	l->complete = l->head - l->beg >= block;
	bytes = ((m->pos >> m->g.ring_shift) << m->g.block_shift) +
		(l->complete ? block : l->head - l->beg);
	l->desc.commit = htrace_load_acquire(&b->commit);
	if (!l->complete && load_head(m) != l->head)
		return -EAGAIN;
	if ((__u32)l->desc.commit != (__u32)bytes)
		return lapped(m, load_head(m)) ? -EAGAIN : 0;
	load_description(b, &l->desc);
	l->end = l->head;
	bad = l->end & 7;
	if (l->complete) {
		l->end = l->desc.end = htrace_load(&b->end);
		l->desc.t_end = htrace_load(&b->t_end);
		l->desc.dropped = htrace_load(&b->dropped);
		bad = l->end < m->pos || l->end <= l->beg || l->end - l->beg > block - 8 ||
		      l->end & 7;
	}
	if (!bad)
		htrace_copy_once(m->buf,
				 (const char *)m->from + m->g.data_off + (m->pos & m->g.ring_mask),
				 l->end - m->pos + (l->complete ? 8 : 0));
	/* The copy, then head: nobody may have reserved in the block's next lap meanwhile. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (lapped(m, load_head(m)))
		return -EAGAIN;
	return bad || l->desc.beg != l->beg ? -EILSEQ : 1;
}

static void publish(struct htrace_relay *m, const struct look *l)
{
	const __u64 off = offsetof(struct htrace_block, end);

	raise_head(m, l->complete ? l->beg + block_size(m) : l->head);
	put(m, m->g.data_off + (m->pos & m->g.ring_mask), m->buf, l->end - m->pos + (l->complete ? 8 : 0));
	if (!m->described)
		describe(m, l->beg, &l->desc);
	if (l->complete)
		put(m, descriptor(m, l->beg) + off, &l->desc.end, offsetof(struct htrace_block, base) - off);
	fence(m);
	put_word(m, descriptor(m, l->beg), l->desc.commit);
	m->described = !l->complete;
	m->pos = l->complete ? l->beg + block_size(m) : l->end;
}

int htrace_relay_copy(struct htrace_relay *m, __u64 max)
{
	__u64 done = 0;
	int ret = 1, tries = 0;

	while (done < max) {
		struct look l = { 0 };

		ret = look(m, &l);
		if (ret == -EAGAIN && ++tries < RETRIES)
			continue;
		if (ret != 1)
			break;
		done += l.end - m->pos + HTRACE_REC_HDR;
		publish(m, &l);
	}
	return ret == -EILSEQ ? ret : done >= max;
}

/*
 * Where to go on after an earlier relay, which may have ended at any store: at the first block of
 * the mirror that is not complete, or at its last. What is committed in a block does not change, so
 * a reader sees the same bytes stored over themselves.
 */
static __u64 resume_at(struct htrace_ring *to, const struct htrace_geometry *g, __u64 head)
{
	__u64 block = 1ULL << g->block_shift, size = g->ring_mask + 1, last, beg;

	if (!head)
		return 0;
	last = (head - 1) & ~(block - 1);
	for (beg = last + block > size ? last + block - size : 0; beg < last; beg += block) {
		const struct htrace_block *b = htrace_ring_block(to, g, beg);
		__u64 bytes = ((beg >> g->ring_shift) + 1) << g->block_shift;

		if (htrace_load(&b->beg) != beg || (__u32)htrace_load(&b->commit) != (__u32)bytes)
			break;
	}
	return beg;
}

void htrace_relay_point(struct htrace_ring *mirror, const struct htrace_geometry *g, struct htrace_relay_point *p)
{
	p->head = htrace_load(&mirror->head);
	p->dropped = htrace_load(&mirror->dropped);
	p->pos = resume_at(mirror, g, p->head);
}

static struct htrace_relay *new_relay(const struct htrace_ring *from, const struct htrace_geometry *g)
{
	struct htrace_relay *m = calloc(1, sizeof(*m));

	if (!m)
		return NULL;
	m->from = from;
	m->g = *g;
	m->buf = malloc(1ULL << g->block_shift);
	if (m->buf)
		return m;
	free(m);
	return NULL;
}

int htrace_relay_new(struct htrace_relay **out, struct htrace_region *r, __u32 set, __u32 index,
		     const struct htrace_ring *from)
{
	struct htrace_geometry g;
	struct htrace_ring *to = htrace_region_ring(r, set, index, &g);
	struct htrace_relay *m;

	if (!to)
		return -EINVAL;
	m = new_relay(from, &g);
	if (!m)
		return -ENOMEM;
	m->region = r;
	m->to = to;
	m->head = htrace_load(&to->head);
	m->dropped = htrace_load(&to->dropped);
	m->handed_over = htrace_load(&to->handover) != 0;
	if (m->head > load_head(m)) /* somebody else wrote it */
		m->head = load_head(m);
	m->pos = resume_at(to, &g, m->head);
	*out = m;
	return 0;
}

int htrace_relay_new_to(struct htrace_relay **out, const struct htrace_ring *from, const struct htrace_geometry *g,
			const struct htrace_relay_sink *sink, const struct htrace_relay_point *at)
{
	struct htrace_relay *m = new_relay(from, g);

	if (!m)
		return -ENOMEM;
	m->sink = *sink;
	m->pos = at->pos;
	m->head = at->head;
	m->dropped = at->dropped;
	if (m->head > load_head(m))
		m->head = load_head(m);
	if (m->pos > m->head || m->pos != block_start(m, m->pos))
		m->pos = 0;
	*out = m;
	return 0;
}

void htrace_relay_free(struct htrace_relay *m)
{
	if (!m)
		return;
	free(m->buf);
	free(m);
}

__u64 htrace_relay_position(const struct htrace_relay *m)
{
	return m->pos;
}

void htrace_relay_hand_over(struct htrace_relay *m)
{
	fence(m);
	__atomic_store_n(&m->to->handover, m->pos + 1, __ATOMIC_RELEASE);
	fence(m);
	m->handed_over = true;
}

void htrace_relay_resume(struct htrace_relay *m)
{
	__atomic_store_n(&m->to->handover, 0, __ATOMIC_RELEASE);
	fence(m);
	m->handed_over = false;
}

bool htrace_relay_handed_over(const struct htrace_relay *m)
{
	return m->handed_over;
}
