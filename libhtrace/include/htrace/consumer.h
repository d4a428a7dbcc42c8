/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * The consumer of one ring. It trusts nothing in the ring: positions are its own, every shared
 * word is read once and checked, records are copied out, validated and unpacked before they are handed on.
 * Work per call is bounded by a few blocks, or passes over the ring's descriptors.
 *
 * Three ways to take records: htrace_consumer_read() gives batches, htrace_consumer_each() calls a
 * function for each record, htrace_consumer_borrow() gives them where they are, for producers that
 * are trusted. They may be mixed; accounts of loss are the same.
 *
 * A consumer may be used by one thread at a time; several consumers of one ring do not disturb
 * each other under HTRACE_OVERWRITE (under HTRACE_DISCARD one of them owns `consumed`).
 */
#ifndef HTRACE_CONSUMER_H
#define HTRACE_CONSUMER_H

#include <htrace/region.h>

#include <stdbool.h>
#include <stddef.h>

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
	/* Records before this position of the ring were read already; 0: none were. */
	__u64 from;
};

/*
 * Consecutive records of one block, validated (but see htrace_consumer_borrow_unseen()). The library fills in the
 * whole struct, which does not grow.
 */
struct htrace_batch {
	/*
	 * htrace_consumer_read(): the consumer's own memory, valid until its next call;
	 * htrace_consumer_borrow(): the ring, valid until htrace_consumer_release().
	 */
	const unsigned char *data;
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
	/* Of a producer that died in the midst of records, see htrace_consumer_finish(). */
	__u64 unfinished;  /* lost, in events: committed, but not to be told from what was not */
	__u64 uncommitted; /* in bytes: reserved, and never committed */
	__u64 doubtful;    /* not 0: which of its events are committed is not known, see htrace_consumer_salvage() */
	__u64 until; /* htrace_consumer_borrow_unseen(): no record is later than this; else 0 */
	__u64 end;   /* ring position behind them: not pos + len, if some were packed there */
};

struct htrace_consumer_stats {
	size_t sz;
	__u64 events; /* delivered */
	__u64 bytes;  /* of their records, as they were in the ring */
	__u64 overwritten, dropped, corrupt, before; /* events, as in the batches */
	__u64 refused;        /* of dropped: too large, or of an id that no event has */
	__u64 corrupt_blocks; /* blocks that did not validate */
	__u64 lapped;         /* times that the producers overtook us */
	__u64 position;       /* up to which the ring was read */
	__u64 head;           /* as last seen */
	__u64 unfinished, uncommitted; /* as in the batches */
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
 *  -EOWNERDEAD: its owner had died, and the ring begins anew: htrace_consumer_restart().
 */
int htrace_consumer_read(struct htrace_consumer *c, struct htrace_batch *b);
/*
 * Nobody produces into the ring any more (HTRACE_OWNER_DIED): what is not committed never will be.
 * From now on htrace_consumer_read() goes on past it. What is known to be committed is delivered.
 * Of a block with a hole, events behind what was delivered cannot be told from records that were
 * begun: they are counted, exactly, as unfinished, and the bytes that were reserved and not
 * committed as uncommitted (the padding of a block among them, if its closer died). When it returns
 * 0 with no backlog all was read: then, with nothing borrowed, htrace_view_drained().
 */
void htrace_consumer_finish(struct htrace_consumer *c);
/*
 * As htrace_consumer_finish(), of a whole machine that is dead. And in a block with a hole what looks like
 * records is delivered, up to the first that cannot be one (its length, its id, its time): in a batch of its
 * own, which is doubtful. Some of its records may never have been committed, and hold anything; as many as
 * are committed beyond it are counted as unfinished. Nothing is told as consumed any more.
 */
void htrace_consumer_salvage(struct htrace_consumer *c);
/*
 * Go on at position 0 of a ring that began anew; the accounts go on. What the old life still held
 * unread is not counted: of several readers, one says when it may be reused.
 * -EAGAIN: it did not begin anew, or not yet. -EBUSY: records of the old life are borrowed, or left by
 * htrace_consumer_each(). -EILSEQ: quarantined.
 */
int htrace_consumer_restart(struct htrace_consumer *c);
/*
 * Go on in another image of the same ring, at the position reached: @img has the geometry and, from
 * there on, the contents of the ring read so far, which is its mirror. All accounts go on.
 * @consumed: as in the options. -EINVAL: another geometry. -EBUSY: records of it are borrowed.
 */
int htrace_consumer_move(struct htrace_consumer *c, const struct htrace_image *img, __u64 *consumed);
/* Position up to which the ring was read; what is borrowed is. */
__u64 htrace_consumer_position(const struct htrace_consumer *c);
/* Bytes reserved and not yet read, as of the last call; 0 = drained. */
__u64 htrace_consumer_backlog(const struct htrace_consumer *c);
/* Is there something to read? One load of head; what adaptive waiting polls. */
bool htrace_consumer_ready(const struct htrace_consumer *c);
/*
 * Before the reader sleeps: the next record is to wake it, says the ring's @event_idx in the host's words
 * (htrace_view_host_ring()). After all rings htrace_sync_armed(), and htrace_consumer_ready() of each again:
 * only if none is, it may sleep.
 */
void htrace_consumer_arm(const struct htrace_consumer *c, __u64 *event_idx);
/* Fill in *@s, as far as its sz (set by the caller) reaches; nothing if that is below sizeof(size_t). */
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

/* Never leaves the batch, whatever becomes of borrowed memory meanwhile. */
static inline bool htrace_iter_next(struct htrace_iter *it, struct htrace_record *r)
{
	const struct htrace_batch *b = it->batch;
	__u64 head, hdr = HTRACE_REC_HDR;

	if (it->off >= b->len)
		return false;
	head = __atomic_load_n((const __u64 *)(b->data + it->off), __ATOMIC_RELAXED);
	r->id = (__u32)(head & 0xffff);
	r->len = (__u32)(head >> 16 & 0xfff8);
	if (head >> 16 & HTRACE_REC_EXTENDED)
		hdr = 16;
	if (r->len < hdr || r->len > b->len - it->off) {
		it->off = b->len;
		return false;
	}
	if (hdr == 16)
		r->time = __atomic_load_n((const __u64 *)(b->data + it->off + 8), __ATOMIC_RELAXED);
	else
		r->time = b->base + (__u64)(__s64)(__s32)((__u32)(head >> 32) - (__u32)b->base);
	r->payload = b->data + it->off + hdr;
	it->off += r->len;
	r->len -= (__u32)hdr;
	return true;
}

/* ------------------------------------------------------------------------------- by callback */

struct htrace_each_opts {
	size_t sz; /* sizeof(struct htrace_each_opts) */
	/*
	 * Each record, of batch @b (which says position and schema). 0: go on. Else stop behind this
	 * record. Must be there. @r, @b and the payload are valid until it returns.
	 */
	int (*record)(void *ctx, const struct htrace_record *r, const struct htrace_batch *b);
	/* What was lost before the records of @b, once. Else than 0: stop before them. May be NULL. */
	int (*loss)(void *ctx, const struct htrace_batch *b);
	void *ctx;
	__u32 max_batches; /* read at most so many; 0: 64 */
};

/*
 * Hand records over in their order, copied and validated. Returns how many were; fewer than there
 * are if a function said stop or max_batches were read: then htrace_consumer_ready() says so.
 * Errors are those of htrace_consumer_read(), told by a call that handed over no record; -EINVAL:
 * the options.
 *
 * No record is handed over twice, or left out, by stopping: the next one comes first in the next
 * call, be it this function or htrace_consumer_read(). Under HTRACE_DISCARD `consumed` passes a
 * record only after the call in which its function returned; so a reader that dies in it, or is
 * freed with records left, leaves the rest to the next reader.
 *
 * The functions must not read from, borrow from, move or free this consumer, nor leave by longjmp()
 * or an exception.
 */
long htrace_consumer_each(struct htrace_consumer *c, const struct htrace_each_opts *opts);

/* -------------------------------------------------------------------------- without a copy */

#define HTRACE_BORROW_MAX 256 /* batches that may be out at a time */

/*
 * As htrace_consumer_read(), but @b->data points into the ring itself. **For producers that the
 * caller trusts**: records are validated, but who may write the ring can change them afterwards, at
 * any time. htrace_iter_next() keeps within the batch even then; payloads are anybody's.
 *
 * What is borrowed counts as delivered, and the position is behind it; the next call gives what
 * follows. Up to HTRACE_BORROW_MAX batches may be out at a time. Each with events must be given back
 * by htrace_consumer_release(), in any order. Until then
 *
 *  - under HTRACE_DISCARD it stays as it is: `consumed` is told up to the oldest batch that is out,
 *    so producers that find the ring full drop;
 *  - under HTRACE_OVERWRITE producers overwrite it when their turn comes. What was taken from it
 *    holds only if the release says so.
 *
 * The memory stays mapped, whatever is in it, until the view that the image is of attaches again or
 * is closed. htrace_consumer_free() ends all loans: what is out then is not told as consumed.
 *
 * Copying calls in between are allowed. -ENOBUFS: HTRACE_BORROW_MAX are out. -EBUSY:
 * htrace_consumer_each() left records, which must be taken first. -EOPNOTSUPP: records of the ring may
 * be packed (@htrace_image.packed): they are nowhere as they are given out. -ENOMEM. Others: as of
 * htrace_consumer_read().
 */
int htrace_consumer_borrow(struct htrace_consumer *c, struct htrace_batch *b);
/*
 * As htrace_consumer_borrow(), for who hands blocks on without reading them: what lies in a complete block
 * is not looked at. That all of it is committed, how many events they are and until when they were
 * recorded its words in the ring say, and these are believed. @b->until is not 0 then. Records of a block
 * that is still open are validated as ever; so are those behind what an earlier reader consumed.
 */
int htrace_consumer_borrow_unseen(struct htrace_consumer *c, struct htrace_batch *b);
/*
 * Give @b back, of which pos and len are looked at (a batch without events need not be).
 *  0: it was as it should be until now, and so is what was taken from it.
 *  -ESTALE: producers have overtaken it, or the memory is no longer the ring's. Throw away what was
 *   taken. Its @b->events are lost, at its place; the statistics count them as overwritten instead
 *   of delivered, and no later batch tells them.
 *  -EINVAL: it is not out.
 */
int htrace_consumer_release(struct htrace_consumer *c, const struct htrace_batch *b);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
