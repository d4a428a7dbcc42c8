/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a packet says of its records. If all that can come is declared, and the block's own words say the
 * rest, the records are not looked at. Else it is found out where they are. Their writers can change them
 * at any time: each word is read once, and however it changes, no step leads out of the batch.
 */
#include <stdint.h>
#include <string.h>

#include "capture_span.h"
#include "capture_stream.h"
#include "capture_writer.h"

#define SLOTS 256u /* a power of two, above CAPTURE_TALLIES */
#define KEY_SIZE(key) ((key) >> 16 & 0xfff8)
#define KEY_EXTENDED(key) ((key) >> 16 & HTRACE_REC_EXTENDED)

struct kind {
	__u32 key; /* 0: none, as no record's */
	__u32 nr;
	__u32 unused;
};

struct scan {
	struct capture_writer *w;
	__u32 stream;
	__u64 base, time;
	struct kind *last; /* of the record before */
	__u32 size;        /* likewise */
	__u32 nr;          /* kinds */
	struct kind kind[SLOTS];
};

/* NULL: records of this kind cannot stay as they are, or there are too many kinds. */
static struct kind *find_kind(struct scan *s, __u32 key)
{
	const struct capture_class *class;
	__u32 at = key * 0x9e3779b1u >> 24;

	while (s->kind[at].key && s->kind[at].key != key)
		at = (at + 1) % SLOTS;
	if (s->kind[at].key)
		return &s->kind[at];
	class = (__u16)(key - 1) < HTRACE_MAX_EVENTS && s->nr < CAPTURE_TALLIES ?
			capture_metadata_class(&s->w->metadata, s->w->session, s->stream, key) : NULL;
	if (!class)
		return NULL;
	s->nr++;
	s->kind[at] = (struct kind){ .key = key, .unused = class->unused };
	return &s->kind[at];
}

/* Does it follow the one before as readers of CTF expect? */
static bool follows(struct scan *s, __u64 time)
{
	__u64 step = time - s->time;

	s->time = time;
	return step < 1ULL << 32 && time <= CAPTURE_TIME_MAX;
}

static __u64 load(const unsigned char *p)
{
	return __atomic_load_n((const __u64 *)p, __ATOMIC_RELAXED);
}

/* The record at @at, of which @left bytes may be. Its size, or 0: it cannot stay as it is. */
static inline __u32 scan_record(struct scan *s, const unsigned char *at, __u32 left)
{
	__u64 head = load(at), time = s->base;
	__u32 key = (__u32)head;

	/*
	 * Most are as long as the one before. Then where the next one is does not depend on this load:
	 * the processor need not wait for it (the compiler is kept from making one case of the two).
	 */
	if (KEY_SIZE(key) != s->size) {
		s->size = KEY_SIZE(key);
		__asm__ volatile("" : "+r"(s->size));
	}
	if (!s->last || key != s->last->key) {
		s->last = find_kind(s, key);
		if (!s->last)
			return 0;
	}
	if (s->size > left || s->size < HTRACE_REC_HDR * (1 + KEY_EXTENDED(key)) ||
	    (key >> 16 & HTRACE_REC_FLAGS) > HTRACE_REC_EXTENDED)
		return 0;
	if (KEY_EXTENDED(key))
		time = load(at + 8);
	else
		time += (__u64)(__s64)(__s32)((__u32)(head >> 32) - (__u32)time);
	if (!follows(s, time))
		return 0;
	s->last->nr++;
	return s->size;
}

static bool scan(struct scan *s, const struct htrace_batch *b, __u64 after, __u64 *begin)
{
	__u32 size = scan_record(s, b->data, b->len), nr = 1;

	/* The first one can be long after what came before; not a moment earlier. */
	if (!size || s->time < after)
		return false;
	*begin = s->time;
	for (__u32 off = size; off < b->len; off += size, nr++) {
		size = scan_record(s, b->data + off, b->len - off);
		if (!size)
			return false;
	}
	return nr == b->events;
}

static void tally(const struct scan *s, struct capture_lent *lent, struct capture_tally *tally)
{
	lent->tally = tally;
	for (__u32 i = 0; i < SLOTS; i++)
		if (s->kind[i].nr)
			tally[lent->nr++] = (struct capture_tally){ s->kind[i].key,
								    s->kind[i].nr };
}

static bool is_foreseen(struct capture_writer *w, __u32 stream)
{
	if (w->foresight[stream] == NOT_ASKED)
		w->foresight[stream] =
			capture_metadata_declare_all(&w->metadata, w->session, stream) ? FORESEEN : NOT_FORESEEN;
	return w->foresight[stream] == FORESEEN;
}

/*
 * As its first record and its block's words have it. What cannot be known without a look is that no two
 * records are 2^32 apart: they cannot be if all of them are not.
 */
static bool believe(struct capture_writer *w, __u32 stream, const struct htrace_batch *b, __u64 after,
		    struct capture_run *run)
{
	struct htrace_record first;
	struct htrace_iter it;

	if (!b->until || b->until > CAPTURE_TIME_MAX || !is_foreseen(w, stream))
		return false;
	htrace_iter_init(&it, b);
	if (!htrace_iter_next(&it, &first) || first.time < after || first.time > b->until ||
	    b->until - first.time >= 1ULL << 32)
		return false;
	run->begin = first.time;
	run->end = b->until;
	run->unused = 0;
	return true;
}

static bool look(struct capture_writer *w, __u32 stream, const struct htrace_batch *b, __u64 after,
		 struct capture_run *run, struct capture_lent *lent, struct capture_tally *kinds)
{
	struct scan s = { .w = w, .stream = stream, .base = b->base, .time = b->base };

	if (!scan(&s, b, after, &run->begin))
		return false;
	tally(&s, lent, kinds);
	run->end = s.time;
	run->unused = s.last->unused;
	return true;
}

/* Of a stream that is written in pages the first packet is a copied one, behind which pages begin. */
static bool fits_pages(const struct capture_stream *st, const struct htrace_batch *b)
{
	return st && (st->size || st->nr) && (uintptr_t)b->data % CAPTURE_PAGE == 0;
}

int capture_writer_lend(struct capture_writer *w, struct capture_lender *l,
			const struct capture_item *item, const struct capture_loan *loan)
{
	const struct htrace_batch *b = item->batch;
	struct captured_ring *r = &w->ring[item->ring];
	struct capture_tally kinds[CAPTURE_TALLIES];
	struct capture_lent lent = { .batch = *b };
	struct capture_run run = {
		.data = b->data, .len = b->len, .position = b->pos, .base = b->base,
		.overwritten = b->overwritten, .dropped = b->dropped, .corrupt = b->corrupt,
		.unfinished = b->unfinished, .uncommitted = b->uncommitted, .before = b->before,
		.schema = b->schema,
		.how = { .arrival = item->arrival, .asked = item->asked, .len = b->len },
	};
	__u32 stream = capture_writer_stream_id(w, r, 0);
	int ret;

	if (w->way.direct && !fits_pages(r->stream[0], b))
		return 0;
	if (!believe(w, stream, b, r->time, &run) &&
	    !look(w, stream, b, r->time, &run, &lent, kinds))
		return 0;
	run.how.ordinal = w->ordinal;
	ret = capture_writer_open_stream(w, r, 0);
	if (!ret)
		ret = capture_writer_declare(w);
	if (!ret)
		ret = capture_stream_flush(r->stream[0]);
	if (!ret)
		ret = capture_span_add(l, r->stream[0], &run, &lent, loan,
				       w->session->facts.set[r->set].policy == HTRACE_DISCARD);
	if (ret)
		return ret;
	w->ordinal++;
	r->time = *loan->time = run.end;
	r->taken = b->pos + b->len;
	if (run.end > w->latest)
		w->latest = run.end;
	return 1;
}
