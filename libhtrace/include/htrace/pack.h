/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Switches of tasks, recorded in 8 bytes where that is possible: the producer's half, for BPF and user space as
 * ring.h is, and what both halves share. docs/format.md, "Packed records".
 *
 * Context: of one ring, one at a time, and none interrupted by another: as tp_btf/sched_switch, which runs with
 * interrupts off, into its CPU's ring. Other producers may do in between what they like.
 */
#ifndef HTRACE_PACK_H
#define HTRACE_PACK_H

#include "ring.h"

/* Of a state of one bit, or none: each has another code. State << 12 bits of a de Bruijn sequence. */
HTRACE_INLINE __u32 htrace_pack_state(__u32 state)
{
	return state * 0x135eu >> 12 & 15;
}

/* Whom the basis switched to, or who is switched from: one word to compare. */
HTRACE_INLINE __u64 htrace_pack_task(__u32 tid, __s16 prio)
{
	return (__u64)(__u16)prio << 32 | tid;
}

HTRACE_INLINE __u64 htrace_pack_word(const struct htrace_switch *e, __u64 distance)
{
	__u64 fields = htrace_pack_state(e->prev_state) | (__u64)(__u8)(e->next_prio + 1) << 4 |
		       (__u64)e->next_tid << 12;

	return (fields & 0x3ffff) | (__u64)HTRACE_REC_PACKED << 16 | fields >> 18 << 19 | distance << 35;
}

/* Do its values fit, whatever the basis says? */
HTRACE_INLINE int htrace_pack_fits(const struct htrace_switch *e)
{
	return e->next_tid < HTRACE_PACKED_TIDS && (__u16)(e->next_prio + 1) < 256 && e->prev_state < 1u << 15 &&
	       !(e->prev_state & (e->prev_state - 1));
}

/*
 * The usual case: the basis is in the block that is open and says what is left out, there is room, and nobody else
 * reserves just now. 1: it is recorded; 0: it is not that simple, and nothing was done.
 */
HTRACE_INLINE int htrace_try_packed(struct htrace_ring *r, const struct htrace_geometry *g,
				    const struct htrace_switch *e, __u64 pos, __u64 now)
{
	const __u64 block = 1ULL << (g->block_shift & 63);
	struct htrace_block *b = htrace_ring_block(r, g, pos);
	__u64 used = pos & (block - 1), distance = now - r->packed_time;
	__u32 len = HTRACE_REC_HDR;
	char *at;

	if (r->packed_block != pos - used + 1 || r->packed_next != htrace_pack_task(e->prev_tid, e->prev_prio) ||
	    !htrace_pack_fits(e))
		return 0;
	if (distance >= HTRACE_PACKED_FAR) { /* also back */
		distance = HTRACE_PACKED_FAR;
		len += 8;
	}
	if (used + len + 8 > block || !htrace_cas(&r->head, pos, pos + len))
		return 0;
	at = htrace_ring_data(r, g, pos);
	htrace_store((__u64 *)at, htrace_pack_word(e, distance));
	if (len > HTRACE_REC_HDR)
		htrace_store((__u64 *)(at + 8), now);
	htrace_own(htrace_ring_data(r, g, pos + len + HTRACE_OWN_AHEAD));
	r->packed_time = now;
	r->packed_next = htrace_pack_task(e->next_tid, e->next_prio);
	htrace_add(&b->commit, (1ULL << 32) + len);
	return 1;
}

/*
 * Fill in and publish what htrace_reserve() gave for the event's struct htrace_switch, at @now, as the basis of those
 * that follow.
 */
HTRACE_INLINE void htrace_commit_basis(struct htrace_ring *r, struct htrace_slot *slot, struct htrace_switch *to,
				       const struct htrace_switch *e, __u64 now)
{
	/* The opener's, which has been here unless it was interrupted: then the block is not the one that is looked for. */
	const struct htrace_block *b = (const struct htrace_block *)slot->commit;
	__u64 *header = (__u64 *)to - 1, words[sizeof(*e) / 8];

	if ((__u32)slot->add > HTRACE_REC_HDR + sizeof(*e))
		header--; /* the full time is in between */
	__builtin_memcpy(words, e, sizeof(words));
	htrace_store((__u64 *)to, words[0]);
	htrace_store((__u64 *)to + 1, words[1]);
	htrace_store(header, htrace_load(header) | HTRACE_REC_BASIS << 16);
	r->packed_block = htrace_load(&b->beg) + 1;
	r->packed_time = now;
	r->packed_next = htrace_pack_task(e->next_tid, e->next_prio);
	htrace_commit(slot);
}

/*
 * Record the switch @e_ (a struct htrace_switch *) as event @id_, packed or in full: as htrace_reserve() and
 * htrace_commit(). @quick_geo_ as for htrace_reserve_with(). Evaluates to whether it was recorded; else it was
 * dropped and counted. In full it has the time that was read for packing, if head has not moved since.
 */
#define htrace_record_switch(ring_, quick_geo_, geo_, consumed_, id_, e_, schema_, now_)                  \
	__extension__({                                                                                   \
		__u64 packed_pos_ = htrace_load(&(ring_)->head);                                          \
		__u64 switch_time_ = (now_);                                                              \
		int recorded_ = htrace_try_packed((ring_), (quick_geo_), (e_), packed_pos_, switch_time_); \
		if (!recorded_) {                                                                         \
			struct htrace_slot slot_;                                                         \
			struct htrace_switch *full_ =                                                     \
				htrace_reserve_with(0, (ring_), (quick_geo_), (geo_), (consumed_), (id_), \
						    sizeof(*full_), (schema_),                            \
						    htrace_load(&(ring_)->head) == packed_pos_ ? switch_time_ : \
							    (switch_time_ = (now_)),                      \
						    &slot_);                                              \
			if (full_)                                                                        \
				htrace_commit_basis((ring_), &slot_, full_, (e_), switch_time_);          \
			recorded_ = full_ != 0;                                                           \
		}                                                                                         \
		recorded_;                                                                                \
	})

#endif /* HTRACE_PACK_H */
