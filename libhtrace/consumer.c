/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Reading one ring. Whatever is in it may be wrong at any time: each shared word is loaded once
 * into a local, positions are ours, records are copied out before they are looked at, and a block
 * that does not add up is skipped and counted. docs/memory-ordering.md argues each load.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "consumer_core.h"
#include "consumer_walk.h"
#include "core.h"

#define MAX_STRIKES 64 /* corrupt blocks in a row, then the ring is quarantined */
#define RETRIES 4      /* of a read that producers disturbed, per call */

/* One block as the loads of one attempt saw it. */
struct look {
	__u64 beg, end;      /* positions to deliver: [pos, end) */
	__u64 base, before;  /* descriptor */
	__u64 t_end;         /* likewise, of a complete block */
	__u64 tag, dropped;
	__u32 schema;
	__u32 events; /* of the block so far, by the commit counter */
	__u32 reserved, committed; /* bytes of the block */
	__u64 commit; /* as it was loaded */
	bool complete;
};

static __u64 block_size(const struct htrace_consumer *c)
{
	return 1ULL << c->g.block_shift;
}

static __u64 ring_size(const struct htrace_consumer *c)
{
	return c->g.ring_mask + 1;
}

static __u64 slot_of(const struct htrace_consumer *c, __u64 pos)
{
	return (pos & c->g.ring_mask) >> c->g.block_shift;
}

static const struct htrace_block *block_at(const struct htrace_consumer *c, __u64 pos)
{
	return (const struct htrace_block *)((const char *)c->ring + c->g.desc_off) +
	       slot_of(c, pos);
}

static const unsigned char *data_at(const struct htrace_consumer *c, __u64 pos)
{
	return (const unsigned char *)c->ring + c->g.data_off + (pos & c->g.ring_mask);
}

static bool anchored(const struct htrace_consumer *c)
{
	return !c->anchor || __atomic_load_n(&c->ring->anchor, __ATOMIC_RELAXED) == c->anchor;
}

static __u64 load_head(struct htrace_consumer *c)
{
	return __atomic_load_n(&c->ring->head, __ATOMIC_ACQUIRE);
}

/*
 * Is the ring still in the life that we read? Who retires it says so before it changes anything,
 * and gives the generation before it says that it has done.
 */
static bool same_life(const struct htrace_consumer *c)
{
	__u64 owner = __atomic_load_n(&c->ring->owner, __ATOMIC_ACQUIRE);

	return !(owner & HTRACE_OWNER_RETIRING) &&
	       __atomic_load_n(&c->ring->generation, __ATOMIC_RELAXED) == c->generation;
}

static int quarantine(struct htrace_consumer *c, const char *why)
{
	if (why != c->error)
		snprintf(c->error, sizeof(c->error), "%s", why);
	c->quarantined = true;
	return -EILSEQ;
}

/* ---------------------------------------------------------------------------------- accounting */

static void count_dropped(struct htrace_consumer *c, __u64 total)
{
	__u64 delta = total - c->dropped;

	/* It only grows; a counter that jumps by what no ring can drop is not believed. */
	if (delta >> 63 || delta > 1ULL << 48)
		return;
	c->dropped = total;
	if (!c->dropped_known) { /* how many of them were dropped before our time cannot be told */
		c->dropped_known = true;
		c->loss.before += delta;
		c->stats.before += delta;
		return;
	}
	c->loss.dropped += delta;
	c->stats.dropped += delta;
}

/* The most events that can have passed unseen through a slot until its block at @beg was opened. */
static __u64 most_missed(const struct htrace_consumer *c, const struct slot *s, __u64 beg)
{
	return (((beg >> c->g.ring_shift) - s->lap) << c->g.block_shift) / HTRACE_REC_HDR;
}

/* First look at a block of this lap: what was overwritten in its slot since the last visit? */
static bool enter_block(struct htrace_consumer *c, const struct look *l)
{
	struct slot *s = &c->slots[slot_of(c, l->beg)];
	__u64 lap = l->beg >> c->g.ring_shift, missed = l->before - s->seen;

	if (!s->known) {
		if (l->before > (lap << c->g.block_shift) / HTRACE_REC_HDR)
			return false;
		c->loss.before += l->before;
		c->stats.before += l->before;
	} else if (s->lap == lap) {
		/* We took stock of it in this lap, while its opener was at work on the descriptor. */
		if (missed > (lap << c->g.block_shift) / HTRACE_REC_HDR)
			return false;
		c->loss.before += missed;
		c->stats.before += missed;
	} else {
		if (missed > most_missed(c, s, l->beg))
			return false;
		c->loss.overwritten += missed;
		c->stats.overwritten += missed;
	}
	s->known = true;
	s->seen = l->before;
	s->lap = lap;
	c->begun = true;
	c->block_seen = 0;
	return true;
}

void htrace_consumer_publish(struct htrace_consumer *c)
{
	__u64 pos = c->pos < c->hold ? c->pos : c->hold;

	/* What an earlier reader consumed stays so. */
	if (c->consumed)
		__atomic_store_n(c->consumed, pos > c->skip_until ? pos : c->skip_until,
				 __ATOMIC_RELEASE);
}

static void advance(struct htrace_consumer *c, __u64 pos)
{
	c->pos = pos;
	if (!c->over)
		htrace_consumer_publish(c);
}

static void leave_block(struct htrace_consumer *c, __u64 next)
{
	advance(c, next);
	c->basis = (struct htrace_unpacker){ 0 };
	c->begun = false;
	c->block_seen = 0;
	c->bad_block = 0;
}

/*
 * A complete block that does not add up is passed over, with the events that it claims. @described:
 * its descriptor is of this lap.
 */
static int reject(struct htrace_consumer *c, const struct look *l, const char *why, bool described)
{
	struct slot *s = &c->slots[slot_of(c, l->beg)];
	__u64 claimed = l->events > c->block_seen ? l->events - c->block_seen : 0;

	snprintf(c->error, sizeof(c->error), "block at %#llx: %s", (unsigned long long)l->beg, why);
	if (!l->complete && !c->finished) {
		c->bad_block = l->beg + 1; /* wait for its end, then pass over it */
		return 0;
	}
	if (claimed > block_size(c) / HTRACE_REC_HDR)
		claimed = block_size(c) / HTRACE_REC_HDR;
	c->loss.corrupt += claimed;
	c->stats.corrupt += claimed;
	c->stats.corrupt_blocks++;
	/* Keep the slot's account in step with what the producers will say next lap. */
	if (described) {
		s->known = true;
		s->seen = l->before + l->events;
		s->lap = l->beg >> c->g.ring_shift;
	} else {
		s->seen += claimed;
	}
	leave_block(c, l->complete ? l->beg + block_size(c) : l->beg + l->reserved);
	if (++c->strikes >= MAX_STRIKES)
		return quarantine(c, c->error);
	return 1;
}

/* ------------------------------------------------------------------------------- life and start */

/*
 * What each slot held before our time, so that what is overwritten from now on can be told from
 * it. Plain guesses from a peer's words: enter_block() refuses what turns out impossible.
 */
static void take_stock(struct htrace_consumer *c, __u64 head)
{
	__u64 block = block_size(c), nr = ring_size(c) / block;
	const struct htrace_block *prior = block_at(c, c->pos - block);

	if (!c->pos) {
		c->dropped_known = true;
	} else if (__atomic_load_n(&prior->beg, __ATOMIC_ACQUIRE) == c->pos - block) {
		/* all drops until the block before ours was closed */
		count_dropped(c, __atomic_load_n(&prior->dropped, __ATOMIC_RELAXED));
	}

	for (__u64 i = 0; i < nr; i++) {
		__u64 beg = c->pos + i * block, lap = beg >> c->g.ring_shift;
		__u64 bytes = lap << c->g.block_shift;
		const struct htrace_block *b = block_at(c, beg);
		__u64 tag = __atomic_load_n(&b->beg, __ATOMIC_ACQUIRE);
		__u64 commit = __atomic_load_n(&b->commit, __ATOMIC_ACQUIRE);
		__u64 before = __atomic_load_n(&b->events_before, __ATOMIC_RELAXED);
		struct slot *s = &c->slots[slot_of(c, beg)];

		if (beg >= head) {
			/*
			 * Not begun yet: all of the lap before, if that is complete. More than a
			 * block holds: before was loaded a lap later than commit.
			 */
			__u32 last = (__u32)((commit - bytes) >> 32) - (__u32)before;

			before += last;
			s->known = (__u32)commit == (__u32)bytes && last < block / HTRACE_REC_HDR;
		} else {
			/* Head is moved before a descriptor is: overtaken, before may be of a later lap. */
			__atomic_thread_fence(__ATOMIC_ACQUIRE);
			s->known = tag == beg && load_head(c) - beg <= ring_size(c);
		}
		s->known &= before <= bytes / HTRACE_REC_HDR;
		if (!s->known)
			continue;
		s->seen = before;
		s->lap = lap;
		c->loss.before += before;
		c->stats.before += before;
	}
}

/* What was read before is not read again, even in the midst of a block. */
static void skip_to(struct htrace_consumer *c, __u64 at)
{
	__u64 beg;

	at &= ~7ULL; /* as all positions are; whoever may write it may have put anything there */
	beg = at & ~(block_size(c) - 1);
	if (at > c->skip_until)
		c->skip_until = at;
	if (beg > c->pos)
		c->pos = beg;
}

/* Discard: what an earlier reader consumed is gone. */
static void skip_consumed(struct htrace_consumer *c, const struct htrace_image *img,
			  const __u64 *word, __u64 head)
{
	__u64 consumed = 0, at;

	if (img->placement == HTRACE_PLACEMENT_VSHMEM || !word)
		consumed = __atomic_load_n(&c->ring->consumed, __ATOMIC_ACQUIRE);
	if (consumed > head || head - consumed > ring_size(c))
		consumed = head > ring_size(c) ? head - ring_size(c) : 0;
	/* What its reader said last the agent may not have forwarded, as that happens now and then. */
	at = word ? __atomic_load_n(word, __ATOMIC_ACQUIRE) : 0;
	if (at <= head && at > consumed)
		consumed = at;
	skip_to(c, consumed);
}

/* Does all that is read by it lie in the image? A view's images are sure to; a caller's may be anything. */
static bool shape_ok(const struct htrace_geometry *g)
{
	__u64 blocks;

	if (g->block_shift < HTRACE_BLOCK_SHIFT_MIN || g->block_shift > HTRACE_BLOCK_SHIFT_MAX ||
	    g->ring_shift <= g->block_shift || g->ring_shift > HTRACE_RING_SHIFT_MAX ||
	    g->ring_mask != (1ULL << g->ring_shift) - 1 ||
	    (g->policy != HTRACE_DISCARD && g->policy != HTRACE_OVERWRITE))
		return false;
	blocks = 1ULL << (g->ring_shift - g->block_shift);
	return blocks <= HTRACE_MAX_BLOCKS && !(g->desc_off % 64) && !(g->data_off % 64) &&
	       g->desc_off >= sizeof(struct htrace_ring) &&
	       htrace_inside(g->desc_off, blocks * sizeof(struct htrace_block), g->data_off);
}

int htrace_consumer_new(struct htrace_consumer **out, const struct htrace_image *img,
			const struct htrace_consumer_opts *opts)
{
	struct htrace_consumer_opts o = { 0 };
	struct htrace_consumer *c;
	__u64 head, block;

	if (!img || !img->ring || !shape_ok(&img->geometry) ||
	    (opts && (opts->sz < sizeof(opts->sz) || opts->sz > sizeof(o))))
		return -EINVAL;
	if (opts)
		memcpy(&o, opts, opts->sz);
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->ring = img->ring;
	c->g = img->geometry;
	c->anchor = img->anchor;
	c->consumed = o.consumed;
	c->hold = ~0ULL;
	c->generation = __atomic_load_n(&c->ring->generation, __ATOMIC_ACQUIRE);
	block = block_size(c);
	c->slots = calloc(ring_size(c) / block, sizeof(*c->slots));
	c->buf = malloc(block);
	if (img->packed)
		c->unpacked = malloc(HTRACE_UNPACKED_MAX * block);
	if (!c->slots || !c->buf || (img->packed && !c->unpacked)) {
		htrace_consumer_free(c);
		return -ENOMEM;
	}
	head = load_head(c);
	if (head > 1ULL << 62) {
		quarantine(c, "head is absurd");
	} else {
		if (o.start == HTRACE_START_NEWEST)
			c->pos = head ? (head - 1) & ~(block - 1) : 0;
		else if (head > ring_size(c) && c->g.policy == HTRACE_OVERWRITE)
			c->pos = ((head - 1) & ~(block - 1)) - (ring_size(c) - block);
		if (c->g.policy == HTRACE_DISCARD)
			skip_consumed(c, img, o.consumed, head);
		if (o.from <= head && head - o.from <= ring_size(c))
			skip_to(c, o.from);
	}
	c->head = head;
	if (!c->quarantined)
		take_stock(c, head);
	*out = c;
	return 0;
}

void htrace_consumer_free(struct htrace_consumer *c)
{
	if (!c)
		return;
	free(c->loans);
	free(c->slots);
	free(c->buf);
	free(c->unpacked);
	free(c);
}

/* ------------------------------------------------------------------------------------- looking */

enum { LOOK_NOTHING, LOOK_OK, LOOK_AGAIN, LOOK_BAD, LOOK_HOLE };

/*
 * Load everything about the block at pos. Either it is complete (head is past it and the commit
 * counter says that each byte of this lap was committed), or it is open and quiet: head, counter,
 * head again, the heads agree and the counter equals what is reserved.
 */
static int look(struct htrace_consumer *c, __u64 head, struct look *l)
{
	const struct htrace_block *b = block_at(c, c->pos);
	__u64 block = block_size(c), lap = c->pos >> c->g.ring_shift, commit, bytes;
	bool holed = false;

	memset(l, 0, sizeof(*l));
	l->beg = c->pos & ~(block - 1);
	l->complete = head - l->beg >= block;
	l->reserved = (__u32)(l->complete ? block : head - l->beg);
	bytes = (lap << c->g.block_shift) + l->reserved;
	commit = __atomic_load_n(&b->commit, __ATOMIC_ACQUIRE);
	if (!l->complete && load_head(c) != head)
		return LOOK_AGAIN;
	if ((__u32)commit != (__u32)bytes) {
		if (!c->finished)
			return LOOK_NOTHING;
		holed = true;
		l->commit = commit;
		l->committed = (__u32)commit - (__u32)(lap << c->g.block_shift);
		bytes -= l->reserved - l->committed;
	}
	l->base = __atomic_load_n(&b->base, __ATOMIC_RELAXED);
	l->before = __atomic_load_n(&b->events_before, __ATOMIC_RELAXED);
	l->tag = __atomic_load_n(&b->beg, __ATOMIC_RELAXED);
	l->schema = __atomic_load_n(&b->schema, __ATOMIC_RELAXED);
	l->events = (__u32)((commit - bytes) >> 32) - (__u32)l->before;
	if (holed)
		return LOOK_HOLE;
	if (l->complete) {
		l->end = __atomic_load_n(&b->end, __ATOMIC_RELAXED);
		l->dropped = __atomic_load_n(&b->dropped, __ATOMIC_RELAXED);
		l->t_end = __atomic_load_n(&b->t_end, __ATOMIC_RELAXED);
		if (l->end < c->pos || l->end <= l->beg || l->end - l->beg > block - 8 ||
		    l->end & 7)
			return LOOK_BAD;
	} else {
		l->end = head;
	}
	return LOOK_OK;
}

static void copy_out(struct htrace_consumer *c, const struct look *l)
{
	c->buf_pos = c->pos;
	htrace_copy_out(c->buf, data_at(c, c->pos), l->end - c->pos + (l->complete ? 8 : 0));
}

/* Walk the records at @data. Each word that matters is read once for what it says. */
static inline void walk(const struct htrace_consumer *c, const struct look *l,
			const unsigned char *data, bool shared, struct walk *w)
{
	__u32 len = (__u32)(l->end - c->pos);

	if (c->skip_until > c->pos) {
		walk_until(w, data, c->skip_until < l->end ? (__u32)(c->skip_until - c->pos) : len,
			   len, shared);
		if (w->wrong)
			return;
		w->skip = w->off;
		w->skipped = w->events;
	}
	walk_until(w, data, len, len, shared);
	if (!w->wrong && l->complete &&
	    word_at(data + len, shared) != (HTRACE_ID_PAD | (l->end & 0xffffffffULL) << 32))
		w->wrong = "closing word";
}

/*
 * What a complete block's words say of it is taken for what is in it; but for the words at its ends, so
 * that who is not as trusted as was thought does not get along with anything.
 */
static void believe(const struct look *l, const unsigned char *data, __u64 pos, __u64 seen, struct walk *w)
{
	__u32 len = (__u32)(l->end - pos);

	w->off = len;
	w->events = l->events - (__u32)seen;
	if (word_at(data + len, true) != (HTRACE_ID_PAD | (l->end & 0xffffffffULL) << 32))
		w->wrong = "closing word";
	else if (len / HTRACE_REC_HDR < w->events || !len != !w->events)
		w->wrong = "number of events";
	w->unseen = true;
}

/* Walked where it is, or copied to be walked in peace. */
static inline void take(struct htrace_consumer *c, const struct look *l, enum htrace_take how,
			struct walk *w)
{
	const unsigned char *data = data_at(c, c->pos);

	if (how == TAKE_COPY)
		copy_out(c, l);
	else if (how == TAKE_UNSEEN && l->complete && c->skip_until <= c->pos)
		believe(l, data, c->pos, c->block_seen, w);
	else
		walk(c, l, data, true, w);
}

/* What is in *@b, some of it packed, as it would be without. NULL, or what is wrong. */
static const char *unpack(struct htrace_consumer *c, const struct look *l, const struct walk *w,
			  struct htrace_batch *b)
{
	struct htrace_unpacker basis = c->basis;
	long len = htrace_unpack(&basis, c->buf, (__u32)(l->end - c->pos), w->skip, l->base, c->unpacked);

	if (len < 0)
		return "packed record";
	c->basis = basis;
	b->data = c->unpacked;
	b->len = (__u32)len;
	return NULL;
}

/* Does the walk go together with the block's words? Then *@b is it. NULL, or what is wrong. */
static const char *accept(struct htrace_consumer *c, const struct look *l, const struct walk *w,
			  const unsigned char *data, struct htrace_batch *b)
{
	const char *why;

	if (w->wrong)
		return w->wrong;
	if (c->block_seen + w->events != l->events)
		return "number of events";
	b->data = data + w->skip;
	b->len = (__u32)(l->end - c->pos) - w->skip;
	why = w->packed ? unpack(c, l, w, b) : NULL;
	if (why)
		return why;
	c->loss.before += w->skipped;
	c->stats.before += w->skipped;
	b->pos = c->pos + w->skip;
	b->end = l->end;
	b->events = w->events - w->skipped;
	b->until = w->unseen ? l->t_end : 0;
	return NULL;
}

/* ------------------------------------------------------------------------------------- reading */

/* Hand the collected loss over to the batch. */
static void take_loss(struct htrace_consumer *c, struct htrace_batch *b)
{
	b->overwritten = c->loss.overwritten;
	b->dropped = c->loss.dropped;
	b->corrupt = c->loss.corrupt;
	b->before = c->loss.before;
	b->unfinished = c->loss.unfinished;
	b->uncommitted = c->loss.uncommitted;
	memset(&c->loss, 0, sizeof(c->loss));
}

static bool any_loss(const struct htrace_consumer *c)
{
	return c->loss.overwritten || c->loss.dropped || c->loss.corrupt || c->loss.before ||
	       c->loss.unfinished || c->loss.uncommitted;
}

static bool lapped(struct htrace_consumer *c, __u64 head)
{
	__u64 beg = c->pos & ~(block_size(c) - 1);

	return head - beg > ring_size(c);
}

/*
 * Overtaken: go on at the oldest block that is still whole. What is missing lies before it, in
 * whichever slot it was, so count it here, where the gap is. A slot whose opener is at work just
 * now is left to enter_block().
 */
static void skip_to_oldest(struct htrace_consumer *c, __u64 head)
{
	__u64 block = block_size(c), nr = ring_size(c) / block;

	c->stats.lapped++;
	leave_block(c, ((head - 1) & ~(block - 1)) - (nr - 1) * block);
	for (__u64 i = 0; i < nr; i++) {
		__u64 beg = c->pos + i * block, lap = beg >> c->g.ring_shift, before, missed;
		const struct htrace_block *b = block_at(c, beg);
		struct slot *s = &c->slots[slot_of(c, beg)];

		if (!s->known || __atomic_load_n(&b->beg, __ATOMIC_ACQUIRE) != beg)
			continue;
		before = __atomic_load_n(&b->events_before, __ATOMIC_RELAXED);
		missed = before - s->seen;
		if (missed > most_missed(c, s, beg))
			continue;
		s->seen = before;
		/*
		 * beg may be visible before events_before, which then is that of the lap before;
		 * the events which that lacks are left to enter_block().
		 */
		if (s->lap < lap)
			s->lap = lap - 1;
		c->loss.overwritten += missed;
		c->stats.overwritten += missed;
	}
}

static void deliver(struct htrace_consumer *c, const struct look *l, struct htrace_batch *b)
{
	__u32 walked = l->events - (__u32)c->block_seen;

	if (b->events)
		take_loss(c, b); /* what came before them; what the block's end tells comes after */
	c->slots[slot_of(c, l->beg)].seen += walked;
	c->block_seen += walked;
	c->stats.events += b->events;
	c->stats.bytes += b->end - b->pos;
	c->strikes = 0;
	if (l->complete) {
		leave_block(c, l->beg + block_size(c));
		count_dropped(c, l->dropped);
	} else {
		advance(c, l->end);
	}
}

/* --------------------------------------------------------------------- what the dead left behind */

/* The opener died before it described the block: what its slot held until then is our account's. */
static const char *enter_undescribed(struct htrace_consumer *c, struct look *l)
{
	struct slot *s = &c->slots[slot_of(c, l->beg)];
	__u64 lap = l->beg >> c->g.ring_shift, bytes = (lap << c->g.block_shift) + l->committed;
	__u64 most = l->committed / HTRACE_REC_HDR, earlier, seen = s->known ? s->seen : l->before;
	__u32 all = (__u32)((l->commit - bytes) >> 32), missed = all - (__u32)seen;

	if (c->begun || (!s->known && seen > bytes / HTRACE_REC_HDR) ||
	    missed > (s->known ? most_missed(c, s, l->beg) : bytes / HTRACE_REC_HDR) + most)
		return "count of earlier events";
	/* As many as can be are this lap's; if the lap before was read, that is all of them. */
	l->events = (__u32)(missed < most ? missed : most);
	earlier = missed - l->events;
	l->before = seen + earlier;
	if (s->known && s->lap < lap) {
		c->loss.overwritten += earlier;
		c->stats.overwritten += earlier;
	} else {
		earlier += s->known ? 0 : seen;
		c->loss.before += earlier;
		c->stats.before += earlier;
	}
	return NULL;
}

/* Records that an earlier reader consumed lie before the hole: how many? */
static __u32 count_consumed(struct htrace_consumer *c, const struct look *l)
{
	__u64 end = c->skip_until < l->beg + l->committed ? c->skip_until : l->beg + l->committed;
	__u32 events = 0, size;

	if (end <= c->pos)
		return 0;
	htrace_copy_once(c->buf, data_at(c, c->pos), end - c->pos);
	for (__u64 off = 0; off < end - c->pos; off += size, events++) {
		__u64 word = *(const htrace_word *)(c->buf + off);

		size = c->unpacked && htrace_is_packed(word) ? htrace_packed_size(word) : (__u32)(word >> 16) & 0xfff8;
		if (size < HTRACE_REC_HDR)
			break;
	}
	return events;
}

/* What can be told of the block from where we are. Returns how many events that is. */
static __u32 salvage(struct htrace_consumer *c, const struct look *l, struct htrace_batch *b,
		     bool in_place)
{
	__u64 from = c->skip_until > c->pos ? c->skip_until : c->pos, end = l->beg + l->reserved;
	/* Behind what was skipped, what is packed there cannot be told before the next basis. */
	struct htrace_unpacker basis = from == c->pos ? c->basis : (struct htrace_unpacker){ 0 };
	struct walk w = { .may_pack = c->unpacked };

	if (!c->salvaging || from >= end)
		return 0;
	htrace_copy_once(c->buf, data_at(c, from), end - from);
	c->buf_pos = from;
	walk_hole(&w, basis, c->buf, (__u32)(end - from), l->base);
	if (!w.events)
		return 0;
	take_loss(c, b);
	b->data = in_place ? data_at(c, from) : c->buf;
	b->len = w.off;
	if (w.packed && w.may_pack) {
		b->data = c->unpacked;
		b->len = (__u32)htrace_unpack(&basis, c->buf, w.off, 0, l->base, c->unpacked);
	}
	b->events = w.events;
	b->pos = from;
	b->end = from + w.off;
	b->base = l->base;
	b->schema = l->schema;
	b->doubtful = 1;
	b->until = 0; /* not that of a block before, which was at its end */
	c->stats.events += b->events;
	c->stats.bytes += w.off;
	return b->events;
}

/*
 * Nobody will fill the holes of this block. Which of the records behind what was delivered are
 * committed cannot be told; how many, and how many bytes are not, the counter says.
 */
static const char *pass_hole(struct htrace_consumer *c, struct look *l, struct htrace_batch *b,
			     bool in_place)
{
	struct slot *s = &c->slots[slot_of(c, l->beg)];
	__u32 read = (__u32)(c->pos - l->beg), left, consumed, told;
	const char *why = NULL;
	bool described;

	if (l->committed > l->reserved || l->committed < read)
		return "count of committed bytes";
	if (l->beg <= c->g.ring_mask)
		l->tag = l->beg; /* nothing was before the first lap */
	described = l->tag == l->beg;
	if (!described)
		why = enter_undescribed(c, l);
	else if (!c->begun && !enter_block(c, l))
		why = "count of earlier events";
	left = l->events - (__u32)c->block_seen;
	if (!why && left > (l->committed - read) / HTRACE_REC_HDR)
		why = "number of events";
	if (why)
		return why;
	consumed = count_consumed(c, l);
	if (consumed > left)
		consumed = left;
	c->loss.before += consumed;
	c->stats.before += consumed;
	left -= consumed;
	told = described ? salvage(c, l, b, in_place) : 0;
	left -= told < left ? told : left;
	c->loss.unfinished += left;
	c->stats.unfinished += left;
	c->loss.uncommitted += l->reserved - l->committed;
	c->stats.uncommitted += l->reserved - l->committed;
	*s = (struct slot){ .seen = l->before + l->events, .known = true,
			    .lap = l->beg >> c->g.ring_shift };
	leave_block(c, l->beg + l->reserved);
	return NULL;
}

/* All of the copy is committed: is it what it should be? NULL, or what is wrong. */
static const char *take_block(struct htrace_consumer *c, const struct look *l, int found,
			      const unsigned char *data, struct walk *w, struct htrace_batch *b)
{
	if (l->tag != l->beg)
		return "descriptor of another lap";
	if (found == LOOK_BAD)
		return "end of the block";
	if (!c->begun && !enter_block(c, l))
		return "count of earlier events";
	if (c->bad_block == l->beg + 1)
		return c->error[0] ? "did not validate while open" : "bad";
	if (data == c->buf)
		walk(c, l, data, false, w);
	return accept(c, l, w, data, b);
}

/* One block's worth: 1 a batch, 0 nothing, -EAGAIN disturbed, or a final error. */
static int read_block(struct htrace_consumer *c, __u64 head, struct htrace_batch *b,
		      enum htrace_take how)
{
	const unsigned char *data = how != TAKE_COPY ? data_at(c, c->pos) : c->buf;
	struct walk w = { .may_pack = c->unpacked };
	const char *why;
	struct look l;
	int ret;

	ret = look(c, head, &l);
	if (ret == LOOK_AGAIN)
		return -EAGAIN;
	if (ret == LOOK_NOTHING)
		return lapped(c, c->head = load_head(c)) ? -EAGAIN : 0;
	if (ret == LOOK_OK)
		take(c, &l, how, &w);
	/* The copy, then head: nobody may have reserved in the block's next lap meanwhile. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	c->head = load_head(c);
	if (lapped(c, c->head))
		return -EAGAIN;
	if (!anchored(c))
		return -ESTALE;
	if (!same_life(c))
		return -EOWNERDEAD;
	if (ret == LOOK_HOLE)
		why = pass_hole(c, &l, b, how != TAKE_COPY);
	else
		why = take_block(c, &l, ret, data, &w, b);
	if (why) {
		ret = reject(c, &l, why, l.tag == l.beg && ret == LOOK_OK);
		return ret == 1 ? -EAGAIN : ret;
	}
	if (ret == LOOK_HOLE && b->events)
		return anchored(c) ? 1 : -ESTALE; /* it was copied just now */
	if (ret == LOOK_HOLE)
		return -EAGAIN;
	b->base = l.base;
	b->schema = l.schema;
	deliver(c, &l, b);
	return 1;
}

static int read_once(struct htrace_consumer *c, struct htrace_batch *b, enum htrace_take how)
{
	__u64 head = load_head(c);

	if (!anchored(c))
		return -ESTALE;
	if (!same_life(c))
		return -EOWNERDEAD;
	if (c->over)
		return 0;
	if (head < c->pos || head > 1ULL << 62 || head & 7)
		return quarantine(c, "head went backwards, or is absurd");
	c->head = head;
	if (head == c->pos) {
		__u64 dropped = __atomic_load_n(&c->ring->dropped, __ATOMIC_ACQUIRE);

		/* Drained, and still so: all drops until now belong here. */
		if (load_head(c) != head)
			return -EAGAIN;
		if (!anchored(c))
			return -ESTALE;
		if (!same_life(c))
			return -EOWNERDEAD;
		count_dropped(c, dropped);
		c->over = c->finished;
		return 0;
	}
	if (lapped(c, head)) {
		if (c->g.policy == HTRACE_DISCARD && ++c->strikes >= MAX_STRIKES)
			return quarantine(c, "producers overran a ring that discards");
		skip_to_oldest(c, head);
	}
	return read_block(c, head, b, how);
}

int htrace_consumer_next(struct htrace_consumer *c, struct htrace_batch *b, enum htrace_take how)
{
	int ret = -EAGAIN;

	memset(b, 0, sizeof(*b));
	if (c->quarantined)
		return -EILSEQ;
	for (int i = 0; i < RETRIES && ret == -EAGAIN; i++) {
		ret = read_once(c, b, how);
		if (ret == 1 && !b->events)
			ret = -EAGAIN; /* only a block's end, or records of an earlier reader's */
	}
	if (ret == 1 || (ret < 0 && ret != -EAGAIN))
		return ret;
	b->len = b->events = 0;
	b->pos = b->end = c->pos;
	if (!any_loss(c))
		return 0;
	take_loss(c, b);
	return 1;
}

int htrace_consumer_read(struct htrace_consumer *c, struct htrace_batch *b)
{
	if (!c->rest.len)
		return htrace_consumer_next(c, b, TAKE_COPY);
	*b = c->rest;
	c->rest.len = 0;
	htrace_consumer_let_go(c);
	return 1;
}

/* ---------------------------------------------------------------------- what is still in use */

__u64 htrace_consumer_behind(const struct htrace_consumer *c, const struct htrace_batch *b, __u32 len, __u32 nr)
{
	struct walk w = { .may_pack = true };
	__u64 pos = b->pos;

	if (b->end - pos == b->len) /* what is packed would be shorter */
		return pos + len;
	for (; nr && pos < b->end; nr--) {
		w.off = 0;
		walk_until(&w, c->buf + (pos - c->buf_pos), 1, (__u32)(b->end - pos), false);
		pos += w.off;
	}
	return pos;
}

void htrace_consumer_hold(struct htrace_consumer *c)
{
	if (c->pos < c->hold)
		c->hold = c->pos;
}

void htrace_consumer_let_go(struct htrace_consumer *c)
{
	const struct htrace_loans *out = c->loans;

	c->hold = c->rest.len ? c->rest.pos : ~0ULL;
	if (out && out->nr && out->loan[out->first].pos < c->hold)
		c->hold = out->loan[out->first].pos;
	/* After the end it may be another life's word. */
	if (!c->over)
		htrace_consumer_publish(c);
}

bool htrace_consumer_intact(struct htrace_consumer *c, __u64 pos)
{
	/* As behind a copy: whoever saw a store of the block's next lap sees its head. */
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (!same_life(c))
		return false;
	return load_head(c) - (pos & ~(block_size(c) - 1)) <= ring_size(c) && anchored(c);
}

/* --------------------------------------------------------------------------------- the rest */

int htrace_consumer_move(struct htrace_consumer *c, const struct htrace_image *img, __u64 *consumed)
{
	if (!img->ring || img->geometry.ring_shift != c->g.ring_shift ||
	    img->geometry.block_shift != c->g.block_shift || img->geometry.policy != c->g.policy ||
	    !img->packed != !c->unpacked)
		return -EINVAL;
	if (c->loans && c->loans->nr)
		return -EBUSY;
	c->ring = img->ring;
	c->g = img->geometry;
	c->anchor = img->anchor;
	c->consumed = consumed;
	c->bad_block = 0;
	c->generation = __atomic_load_n(&c->ring->generation, __ATOMIC_ACQUIRE);
	advance(c, c->pos);
	return 0;
}

void htrace_consumer_finish(struct htrace_consumer *c)
{
	c->finished = true;
}

void htrace_consumer_salvage(struct htrace_consumer *c)
{
	c->finished = c->salvaging = true;
	c->consumed = NULL;
}

int htrace_consumer_restart(struct htrace_consumer *c)
{
	__u64 owner = __atomic_load_n(&c->ring->owner, __ATOMIC_ACQUIRE);
	__u64 generation = __atomic_load_n(&c->ring->generation, __ATOMIC_RELAXED);

	if (c->quarantined)
		return -EILSEQ;
	if (c->rest.len || (c->loans && c->loans->nr))
		return -EBUSY;
	if (owner & HTRACE_OWNER_RETIRING || generation == c->generation)
		return -EAGAIN;
	c->generation = generation;
	c->finished = c->over = c->salvaging = false;
	c->head = c->dropped = c->skip_until = 0;
	c->dropped_known = true;
	/* We were there from the beginning: whatever is gone already was overwritten. */
	for (__u64 i = 0; i < ring_size(c) / block_size(c); i++)
		c->slots[i] = (struct slot){ .known = true };
	leave_block(c, 0);
	return 0;
}

__u64 htrace_consumer_position(const struct htrace_consumer *c)
{
	return c->rest.len ? c->rest.pos : c->pos;
}

__u64 htrace_consumer_backlog(const struct htrace_consumer *c)
{
	__u64 pos = htrace_consumer_position(c);

	return c->head > pos ? c->head - pos : 0;
}

bool htrace_consumer_ready(const struct htrace_consumer *c)
{
	if (c->rest.len)
		return true;
	if (c->over) /* what is left to wait for is another life */
		return __atomic_load_n(&c->ring->generation, __ATOMIC_RELAXED) != c->generation;
	return !c->quarantined && __atomic_load_n(&c->ring->head, __ATOMIC_RELAXED) != c->pos;
}

void htrace_consumer_arm(const struct htrace_consumer *c, __u64 *event_idx)
{
	__atomic_store_n(event_idx, c->over ? 0 : c->pos, __ATOMIC_RELAXED);
}

void htrace_consumer_get_stats(const struct htrace_consumer *c, struct htrace_consumer_stats *s)
{
	struct htrace_consumer_stats now = c->stats;
	size_t sz = s->sz < sizeof(now) ? s->sz : sizeof(now);

	if (sz < sizeof(sz)) /* its size was not set: not a byte of it is known to be there */
		return;
	now.sz = sz;
	now.refused = __atomic_load_n(&c->ring->refused, __ATOMIC_RELAXED);
	now.position = htrace_consumer_position(c);
	now.head = c->head;
	memcpy(s, &now, sz);
}

const char *htrace_consumer_error(const struct htrace_consumer *c)
{
	return c->error;
}
