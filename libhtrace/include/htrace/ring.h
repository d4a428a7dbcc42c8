/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * The producer's half of the ring: one implementation for BPF programs, user space and
 * freestanding code. Needs nothing but the compiler (no libc). docs/memory-ordering.md has the
 * argument for each order used here.
 *
 * Context: any, NMI and signal handlers included. A producer may be interrupted anywhere, also by
 * another producer of the same ring, and never waits: retries are bounded, then the record is
 * dropped and counted.
 */
#ifndef HTRACE_RING_H
#define HTRACE_RING_H

#include "abi.h"

#define HTRACE_INLINE static inline __attribute__((always_inline, unused))

#ifdef __bpf__
/*
 * BPF: atomics that return a value are full barriers. clang <= 19 makes an add whose result is
 * unused a relaxed one, hence the consumed result in htrace_add(). There is no store that releases;
 * readers can do without.
 */
#define htrace_load(p) (*(const volatile __u64 *)(p))
#define htrace_load_acquire(p) htrace_load(p)
#define htrace_store(p, v) (*(volatile __typeof__(*(p)) *)(p) = (v))
#define htrace_store_release(p, v) htrace_store((p), (v))
#define htrace_cas(p, old, new)                                                  \
	__extension__({                                                          \
		__u64 seen_ = __sync_val_compare_and_swap((p), (old), (new));    \
		/* else clang compares twice: into a bool, and that with true */ \
		__asm__ volatile("" : "+r"(seen_));                              \
		seen_ == (old);                                                  \
	})
#define htrace_fence_opener() ((void)0)
#define htrace_add(p, v)                                       \
	do {                                                   \
		__u64 before_ = __sync_fetch_and_add((p), (v)); \
		__asm__ volatile("" ::"r"(before_));           \
	} while (0)
#define HTRACE_RETRIES 6
/* Evaluate until true, HTRACE_RETRIES times less the quick one. No loop: 6.1 refuses clang's shape. */
#define htrace_retry(done) ((void)((done) || (done) || (done) || (done) || (done)))
#else
#define htrace_load(p) __atomic_load_n((p), __ATOMIC_RELAXED)
#define htrace_load_acquire(p) __atomic_load_n((p), __ATOMIC_ACQUIRE)
#define htrace_store(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)
#define htrace_store_release(p, v) __atomic_store_n((p), (v), __ATOMIC_RELEASE)
#define htrace_cas(p, old, new)                                                              \
	__extension__({                                                                      \
		__u64 expect_ = (old);                                                       \
		__atomic_compare_exchange_n((p), &expect_, (new), 0, __ATOMIC_SEQ_CST,       \
					    __ATOMIC_RELAXED);                               \
	})
#define htrace_fence_opener() __atomic_thread_fence(__ATOMIC_SEQ_CST)
#define htrace_add(p, v) ((void)__atomic_fetch_add((p), (v), __ATOMIC_RELEASE))
#define HTRACE_RETRIES 64
#define htrace_retry(done)                                              \
	do {                                                            \
		for (int try_ = 1; try_ < HTRACE_RETRIES; try_++)       \
			if (done)                                       \
				break;                                  \
	} while (0)
#endif

/*
 * A ring into which one thread writes, and the signal handlers that interrupt it, needs no bus lock: nobody
 * else's stores come in between, and a signal comes before or behind an instruction, never within. On x86-64
 * that is all there is to it, as stores become visible in their order. Elsewhere the atomics above are used.
 */
#if defined(__SANITIZE_THREAD__)
#define HTRACE_TSAN 1
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define HTRACE_TSAN 1
#endif
#endif
#if defined(__x86_64__) && !defined(__bpf__) && !defined(HTRACE_TSAN) /* which sees no assembly */
HTRACE_INLINE int htrace_cas_single(__u64 *p, __u64 old, __u64 new_)
{
	__u8 done;

	__asm__ volatile("cmpxchgq %[new_], %[at]\n\tsete %[done]"
			 : [done] "=q"(done), [at] "+m"(*p), "+a"(old)
			 : [new_] "r"(new_)
			 : "memory", "cc");
	return done;
}

HTRACE_INLINE void htrace_add_single(__u64 *p, __u64 v)
{
	__asm__ volatile("addq %[v], %[at]" : [at] "+m"(*p) : [v] "r"(v) : "memory", "cc");
}
#else
#define htrace_cas_single(p, old, new) htrace_cas((p), (old), (new))
#define htrace_add_single(p, v) htrace_add((p), (v))
#endif

/* The cache line at @p will be written soon: take it from the reader of the lap before. */
#if defined(__bpf__)
#define htrace_own(p) ((void)0)
#elif defined(__x86_64__)
#define htrace_own(p) __asm__ volatile("prefetchw %0" ::"m"(*(const char *)(p)))
#else
#define htrace_own(p) __builtin_prefetch((p), 1)
#endif
#define HTRACE_OWN_AHEAD 128 /* bytes behind a record */

/* A ring's shape as producers need it; in BPF a read-only global, so the verifier knows it. */
struct htrace_geometry {
	__u64 ring_mask;  /* data size - 1 */
	__u32 ring_shift;
	__u32 block_shift;
	__u32 desc_off;
	__u32 data_off;
	__u32 max_payload; /* larger ones are refused */
	__u32 policy;      /* enum htrace_policy */
};

/* A record between reserve and commit. */
struct htrace_slot {
	__u64 *commit;
	__u64 add;
#ifndef __bpf__
	__u64 from, to; /* the ring's head before and after it */
#endif
};

#ifdef __bpf__
#define htrace_slot_span(slot, from_, to_) ((void)0)
#else
#define htrace_slot_span(slot, from_, to_) ((slot)->from = (from_), (slot)->to = (to_))
#endif

/* Bytes behind a ring's data that a verifier may believe a record to reach into (none does). */
#define HTRACE_SLACK 4096u

/* Largest payload that fits into a block beside header, extended time and closing word. */
#define HTRACE_MAX_PAYLOAD(block_shift) \
	((1u << (block_shift)) - 24u < HTRACE_REC_MAX - 16u ? (1u << (block_shift)) - 24u \
							    : HTRACE_REC_MAX - 16u)

/* Of the ring in which the host tells its guest. */
#define HTRACE_TOLD_GEOMETRY \
	{ \
		.ring_mask = (1ULL << HTRACE_TOLD_RING_SHIFT) - 1, .ring_shift = HTRACE_TOLD_RING_SHIFT, \
		.block_shift = HTRACE_TOLD_BLOCK_SHIFT, .desc_off = HTRACE_TOLD_DESC_OFF, \
		.data_off = HTRACE_TOLD_DATA_OFF, \
		.max_payload = HTRACE_MAX_PAYLOAD(HTRACE_TOLD_BLOCK_SHIFT), .policy = HTRACE_OVERWRITE, \
	}

HTRACE_INLINE struct htrace_block *htrace_ring_block(struct htrace_ring *r,
						     const struct htrace_geometry *g, __u64 pos)
{
	/* By shift and mask, never by division: what the BPF verifier can bound. */
	__u64 index = (pos & g->ring_mask) >> (g->block_shift & 63);

	return (struct htrace_block *)((char *)r + g->desc_off +
				       index * sizeof(struct htrace_block));
}

HTRACE_INLINE char *htrace_ring_data(struct htrace_ring *r, const struct htrace_geometry *g,
				     __u64 pos)
{
	__u64 off = pos & g->ring_mask & ~7ULL;

#ifdef __bpf__
	__asm__ volatile("" : "+r"(off)); /* keep the mask right before the pointer is formed */
	off &= g->ring_mask;
#endif
	return (char *)r + g->data_off + off;
}

/* Does the block at @beg have room for a new lap? Fills in what its opener will need. */
HTRACE_INLINE int htrace_block_free(struct htrace_block *b, const struct htrace_geometry *g,
				    const __u64 *consumed, __u64 beg, __u64 *events_before)
{
	__u64 bytes = (beg >> (g->ring_shift & 63)) << (g->block_shift & 63);
	__u64 commit;

	/* discard: the *whole* block must be free, else a later record in it could overwrite. */
	if (g->policy == HTRACE_DISCARD &&
	    (__s64)(beg + (1ULL << (g->block_shift & 63)) - htrace_load_acquire(consumed)) >
		    (__s64)(g->ring_mask + 1))
		return 0;
	/*
	 * Both policies: the lap before must be committed to its last byte, else a writer that was
	 * preempted in it for a whole lap would scribble over this one.
	 */
	commit = htrace_load_acquire(&b->commit);
	if ((__u32)commit != (__u32)bytes)
		return 0;
	*events_before = htrace_load(&b->events_before);
	*events_before += (__u32)((__u32)((commit - bytes) >> 32) - (__u32)*events_before);
	return 1;
}

/*
 * The opener of a block writes its descriptor, and closes the block before it at @pos: closing
 * word, descriptor, then the padding, by which all of that is published.
 */
HTRACE_INLINE void htrace_block_open(struct htrace_ring *r, const struct htrace_geometry *g,
				     struct htrace_block *b, __u64 pos, __u64 beg, __u64 now,
				     __u64 events_before, __u32 schema)
{
	htrace_fence_opener(); /* head before any store into the new lap: lapped readers notice */
	htrace_store(&b->base, now);
	htrace_store(&b->events_before, events_before);
	htrace_store_release(&b->beg, beg); /* who starts, or was lapped, reads both alone */
	htrace_store(&b->schema, schema);
	if (pos != beg) {
		struct htrace_block *old = htrace_ring_block(r, g, pos);

		htrace_store((__u64 *)htrace_ring_data(r, g, pos),
			     HTRACE_ID_PAD | (pos & 0xffffffffULL) << 32);
		htrace_store(&old->end, pos);
		htrace_store(&old->t_end, now);
		htrace_store(&old->dropped, htrace_load(&r->dropped));
		htrace_add(&old->commit, beg - pos);
	}
}

HTRACE_INLINE void htrace_ring_drop(struct htrace_ring *r)
{
	htrace_add(&r->dropped, 1);
}

/*
 * Reserve room for @payload bytes of a record with @id (1 ... HTRACE_MAX_EVENTS).
 *
 * @now is an expression that reads the region's clock; it is evaluated inside the retry loop,
 * after head was read, so that times rise with positions. @consumed points to the ring's consumed
 * word (used under HTRACE_DISCARD only).
 *
 * Evaluates to the payload's address (8-byte aligned, uninitialised), or to NULL when the record
 * was dropped and counted. The caller fills the payload and calls htrace_commit(@slot).
 */
#define htrace_reserve(ring_, geo_, consumed_, id_, payload_, schema_, now_, slot_)         \
	htrace_reserve_by(0, ring_, geo_, consumed_, id_, payload_, schema_, now_, slot_)

/*
 * Likewise, for a ring into which only this thread writes, and signal handlers that run in it, which reserve
 * by this, too. Commit by htrace_commit_single(). About half the price where the cache holds the ring.
 */
#define htrace_reserve_single(ring_, geo_, consumed_, id_, payload_, schema_, now_, slot_)  \
	htrace_reserve_by(1, ring_, geo_, consumed_, id_, payload_, schema_, now_, slot_)

#define htrace_reserve_by(single_, ring_, geo_, consumed_, id_, payload_, schema_, now_, slot_)   \
	htrace_reserve_with(single_, ring_, geo_, geo_, consumed_, id_, payload_, schema_, now_, slot_)

/* @quick_geo_ needs to have only what htrace_try_quick() uses; each is evaluated where it is needed. */
#define htrace_reserve_with(single_, ring_, quick_geo_, geo_, consumed_, id_, payload_, schema_, now_, slot_) \
	__extension__({                                                                     \
		__u32 want_ = (payload_);                                                   \
		__u64 quick_pos_ = htrace_load(&(ring_)->head);                             \
		__u64 quick_time_ = (now_);                                                 \
		char *payload_at_ = htrace_try_quick((single_), (ring_), (quick_geo_), (id_), \
						     want_, quick_pos_, quick_time_, (slot_)); \
		if (!payload_at_)                                                           \
			payload_at_ = htrace_reserve_slowly((single_), (ring_), (geo_),     \
							    (consumed_), (id_), want_,      \
							    (schema_), quick_pos_,          \
							    quick_time_, now_, (slot_));    \
		(void *)payload_at_;                                                        \
	})

/*
 * The clock is not read twice for one head: of a record that is dropped, or opens a block, htrace_try_quick()'s
 * time is as good, as head was loaded before it, and has not moved since. So a drop costs no more than a record.
 */
#define htrace_reserve_slowly(single_, ring_, geo_, consumed_, id_, want_, schema_, quick_pos_, quick_time_, now_, \
			      slot_)                                                        \
	__extension__({                                                                     \
		const struct htrace_geometry *shape_ = (geo_);                              \
		__u32 body_ = ((want_) + 7u) & ~7u;                                         \
		char *found_ = 0;                                                           \
		if ((want_) > shape_->max_payload)                                          \
			htrace_add(&(ring_)->refused, 1);                                   \
		else                                                                        \
			htrace_retry(__extension__({                                        \
				__u64 pos_ = htrace_load(&(ring_)->head);                   \
				__u64 time_ = pos_ == (quick_pos_) ? (quick_time_) : (now_); \
				htrace_try_reserve((single_), (ring_), shape_, (consumed_), \
						   (id_), body_, (schema_), pos_, time_,    \
						   &found_, (slot_)) == HTRACE_TRY_DONE;    \
			}));                                                                \
		if (!found_)                                                                \
			htrace_ring_drop(ring_);                                            \
		found_;                                                                     \
	})

#define HTRACE_TRY_AGAIN 0
#define HTRACE_TRY_DONE 1

/*
 * Is @now too far from the base of block @b for the short form? A nested writer may see the base of
 * the lap before here: then the form chosen is still right, since the true base lies between that
 * one and now.
 */
HTRACE_INLINE int htrace_needs_extended(const struct htrace_block *b, __u64 now)
{
	return now - htrace_load(&b->base) + (1ULL << 30) >= 3ULL << 30;
}

/*
 * What htrace_try_reserve() does for all records but few: the block is open and has room, the time
 * is near its base, and nobody else reserves just now. Straight on, with little of the geometry, and
 * so at half the cost. NULL: it is not that simple, and nothing was done.
 */
HTRACE_INLINE char *htrace_try_quick(int single, struct htrace_ring *r,
				     const struct htrace_geometry *g, __u32 id, __u32 payload,
				     __u64 pos, __u64 now, struct htrace_slot *slot)
{
	const __u64 block = 1ULL << (g->block_shift & 63);
	struct htrace_block *b = htrace_ring_block(r, g, pos);
	__u32 len = HTRACE_REC_HDR + ((payload + 7u) & ~7u);
	__u64 used = pos & (block - 1);
	char *at;

	/* What is larger than a block allows does not fit behind a record either. */
	if (payload > HTRACE_REC_MAX - 16u || !used || used + len + 8 > block ||
	    htrace_needs_extended(b, now))
		return 0;
	if (single ? !htrace_cas_single(&r->head, pos, pos + len) :
		     !htrace_cas(&r->head, pos, pos + len))
		return 0;
	at = htrace_ring_data(r, g, pos);
	htrace_store((__u64 *)at, (id & 0xffffu) | (__u64)len << 16 | now << 32);
	slot->commit = &b->commit; /* the usual case */
	slot->add = (1ULL << 32) + len;
	htrace_slot_span(slot, pos, pos + len);
	htrace_own(htrace_ring_data(r, g, pos + len + HTRACE_OWN_AHEAD));
	return at + HTRACE_REC_HDR;
}

/*
 * One attempt of htrace_reserve(), or (@single, a constant) of htrace_reserve_single(). @body is the
 * payload rounded up to a multiple of 8.
 */
HTRACE_INLINE int htrace_try_reserve(int single, struct htrace_ring *r,
				     const struct htrace_geometry *g, const __u64 *consumed,
				     __u32 id, __u32 body, __u32 schema, __u64 pos, __u64 now,
				     char **payload, struct htrace_slot *slot)
{
	const __u64 bmask = (1ULL << (g->block_shift & 63)) - 1;
	struct htrace_block *b = htrace_ring_block(r, g, pos);
	__u32 extended = htrace_needs_extended(b, now);
	__u64 left = bmask + 1 - (pos & bmask), beg = pos, events_before = 0;
	__u32 len = HTRACE_REC_HDR + 8 * extended + body;
	int open = 0;
	char *at;

	/* At least the closing word must fit behind the record, so each block ends by padding. */
	if ((pos & bmask) == 0 || left < len + 8) {
		open = 1;
		extended = 0;
		len = HTRACE_REC_HDR + body;
		beg = (pos + bmask) & ~bmask;
		b = htrace_ring_block(r, g, beg);
		if (!htrace_block_free(b, g, consumed, beg, &events_before)) {
			/* Full only if nobody moved on meanwhile. */
			return htrace_load(&r->head) == pos ? HTRACE_TRY_DONE : HTRACE_TRY_AGAIN;
		}
	}
	if (single ? !htrace_cas_single(&r->head, pos, beg + len) :
		     !htrace_cas(&r->head, pos, beg + len))
		return HTRACE_TRY_AGAIN;
	if (open)
		htrace_block_open(r, g, b, pos, beg, now, events_before, schema);
	at = htrace_ring_data(r, g, beg);
	htrace_store((__u64 *)at, (id & 0xffffu) |
					  (__u64)(len | (extended ? HTRACE_REC_EXTENDED : 0)) << 16 |
					  now << 32);
	if (extended)
		htrace_store((__u64 *)(at + 8), now);
	slot->commit = &b->commit;
	slot->add = (1ULL << 32) + len;
	htrace_slot_span(slot, pos, beg + len);
	*payload = at + HTRACE_REC_HDR + 8 * extended;
	htrace_own(htrace_ring_data(r, g, beg + len + HTRACE_OWN_AHEAD));
	return HTRACE_TRY_DONE;
}

/* Publish a reserved record. Commits may come in any order. */
HTRACE_INLINE void htrace_commit(struct htrace_slot *slot)
{
	htrace_add(slot->commit, slot->add);
}

/* Publish what htrace_reserve_single() reserved. */
HTRACE_INLINE void htrace_commit_single(struct htrace_slot *slot)
{
	htrace_add_single(slot->commit, slot->add);
}

/*
 * Who moved head from @from to @to: must it wake a reader that sleeps at @event_idx, its position?
 * Of all who move head exactly one passes it. Any distances, as positions run freely.
 */
HTRACE_INLINE int htrace_ring_needs_bell(__u64 from, __u64 to, __u64 event_idx)
{
	return to - event_idx - 1 < to - from;
}

#ifndef __bpf__
/*
 * The same of a record, after its htrace_commit(). The full fence is for the reader, which stores
 * event_idx, fences, and looks at head: it sees the record, or we its event_idx.
 */
HTRACE_INLINE int htrace_slot_wakes(const struct htrace_slot *slot, const __u64 *event_idx)
{
#if defined(__x86_64__)
	__asm__ volatile("" ::: "memory"); /* the commit was a locked instruction */
#else
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
#endif
	return htrace_ring_needs_bell(slot->from, slot->to, htrace_load(event_idx));
}

/* Likewise, after htrace_commit_single(), which is no fence. */
HTRACE_INLINE int htrace_slot_wakes_single(const struct htrace_slot *slot, const __u64 *event_idx)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	return htrace_ring_needs_bell(slot->from, slot->to, htrace_load(event_idx));
}
#endif

#endif /* HTRACE_RING_H */
