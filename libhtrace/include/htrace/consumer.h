/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * The consumer of one ring. It trusts nothing in the ring: positions are its own, every shared
 * word is read once and checked, records are copied out and validated before they are handed on.
 * Work per call is bounded by a few blocks, or passes over the ring's descriptors.
 *
 * A consumer may be used by one thread at a time; several consumers of one ring do not disturb
 * each other under HTRACE_OVERWRITE (under HTRACE_DISCARD one of them owns `consumed`).
 */
#ifndef HTRACE_CONSUMER_H
#define HTRACE_CONSUMER_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/region.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct htrace_consumer;

enum htrace_start {
	HTRACE_START_OLDEST = 0,   /* all that memory still holds (discard: what is not consumed) */
	HTRACE_START_NEWEST = 1,   /* from the newest block on */
};

struct htrace_consumer_opts {
	size_t sz; /* sizeof(struct htrace_consumer_opts) */
	enum htrace_start start;
	/* discard: published after each batch (release); NULL: not told. Producers see it there. */
	__u64 *consumed;
};

/* Consecutive records of one block, copied and validated. */
struct htrace_batch {
	const unsigned char *data; /* the consumer's own memory, valid until its next call */
	__u32 len;
	__u32 events;   /* 0: the batch only reports loss */
	__u64 pos;      /* ring position of data */
	__u64 base;     /* time of the block's first record */
	__u32 schema;   /* low half of the schema generation it was written under */
	/* Lost between the batch before and this one, in events. */
	__u64 overwritten; /* overwritten before they were read */
	__u64 dropped;     /* dropped by producers */
	__u64 corrupt;     /* claimed by blocks that did not validate */
	__u64 before;      /* overwritten before this consumer started: not counted as lost */
};

struct htrace_consumer_stats {
	size_t sz;
	__u64 events; /* delivered */
	__u64 bytes;  /* of their records */
	__u64 overwritten, dropped, corrupt, before; /* events, as in the batches */
	__u64 refused;        /* of dropped: too large */
	__u64 corrupt_blocks; /* blocks that did not validate */
	__u64 lapped;         /* times that the producers overtook us */
	__u64 position;       /* up to which the ring was read */
	__u64 head;           /* as last seen */
};

/* -EINVAL: geometry. -ENOMEM. */
int htrace_consumer_new(struct htrace_consumer **out, const struct htrace_image *img,
			const struct htrace_consumer_opts *opts);
/* NULL is allowed. The last batch's data goes with it. */
void htrace_consumer_free(struct htrace_consumer *c);

/*
 * Next batch.
 *  1: *@b is filled.
 *  0: nothing more for now: drained, or the next record is not committed yet.
 *  -ESTALE: the memory is no longer the ring's (anchor gone); what was copied is discarded.
 *  -EILSEQ: the ring is broken beyond resuming and is quarantined; every later call says so.
 */
int htrace_consumer_read(struct htrace_consumer *c, struct htrace_batch *b);
/*
 * Go on in another image of the same ring, at the position reached: @img has the geometry and, from
 * there on, the contents of the ring read so far, which is its mirror. All accounts go on.
 * @consumed: as in the options. -EINVAL: another geometry.
 */
int htrace_consumer_move(struct htrace_consumer *c, const struct htrace_image *img, __u64 *consumed);
/* Position up to which the ring was read. */
__u64 htrace_consumer_position(const struct htrace_consumer *c);
/* Bytes reserved and not yet read, as of the last call; 0 = drained. */
__u64 htrace_consumer_backlog(const struct htrace_consumer *c);
/* Is there something to read? One load of head; what adaptive waiting polls. */
bool htrace_consumer_ready(const struct htrace_consumer *c);
/* Fill in *@s, as far as its sz (set by the caller) reaches. */
void htrace_consumer_get_stats(const struct htrace_consumer *c, struct htrace_consumer_stats *s);
/* Why it was quarantined or what last did not validate; never NULL. */
const char *htrace_consumer_error(const struct htrace_consumer *c);

/* One record of a batch. */
struct htrace_record {
	__u32 id;
	__u32 len; /* of the payload, padding included */
	__u64 time; /* region clock */
	const void *payload;
};

struct htrace_iter {
	const struct htrace_batch *batch;
	__u32 off;
};

/* for (htrace_iter_init(&it, &batch); htrace_iter_next(&it, &rec);) ... */
static inline void htrace_iter_init(struct htrace_iter *it, const struct htrace_batch *b)
{
	it->batch = b;
	it->off = 0;
}

static inline bool htrace_iter_next(struct htrace_iter *it, struct htrace_record *r)
{
	const struct htrace_batch *b = it->batch;
	__u64 head, hdr = HTRACE_REC_HDR;

	if (it->off >= b->len)
		return false;
	head = *(const __u64 *)(b->data + it->off);
	r->id = (__u32)(head & 0xffff);
	r->len = (__u32)(head >> 16 & 0xfff8);
	if (head >> 16 & HTRACE_REC_EXTENDED) {
		r->time = *(const __u64 *)(b->data + it->off + 8);
		hdr = 16;
	} else {
		r->time = b->base + (__u64)(__s64)(__s32)((__u32)(head >> 32) - (__u32)b->base);
	}
	r->payload = b->data + it->off + hdr;
	it->off += r->len;
	r->len -= (__u32)hdr;
	return true;
}

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
