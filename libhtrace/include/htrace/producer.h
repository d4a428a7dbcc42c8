/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * User-space producers: a thread takes a ring of a region and writes records into it.
 *
 * What is inline needs no libc. In freestanding code (-ffreestanding, -nostdinc) the header includes no
 * other than those of the shared format; of a clock other than the TSC it calls htrace_clock_monotonic()
 * (clock.h), which the library has, or a program without it defines.
 */
#ifndef HTRACE_PRODUCER_H
#define HTRACE_PRODUCER_H

#include <htrace/clock.h>
#include <htrace/ring.h>

#if __STDC_HOSTED__
#include <htrace/region.h>

#include <stddef.h>
#include <string.h>
#endif

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct htrace_region;

/*
 * A producer's handle: its ring and the ring's shape. Belongs to the process that took it. Threads
 * may share one; signal handlers may use it. htrace_producer_get() makes it valid: what is recorded by
 * a handle that it failed for, or that was given back, is dropped, and counted nowhere. Before the first
 * htrace_producer_get() it is none, zeroed or not.
 *
 * It is not inherited over fork(): what a child records through its parent's handle is dropped, and
 * counted in the parent's ring. A child takes a ring of its own. Do not fork between a reserve and
 * its commit, nor in a signal handler that may have interrupted one: the child would return into
 * the middle of it, and commit its parent's record a second time.
 */
struct htrace_producer {
	struct htrace_ring *ring;
	const __u64 *consumed;
	struct htrace_geometry geometry;
	__u32 clock_id;
	__u32 schema;
	struct htrace_region *region; /* that it is of, which must outlive it */
	const __u64 *process; /* holds process_id in the process that took the ring, in no other */
	__u64 process_id;
	__u64 generation; /* of the ring, since it was taken */
	/*
	 * Called for a record that passes *event_idx, to wake the reader; NULL: never. Set by
	 * htrace_producer_get() if the region is a local one made with the option `bell`. In another
	 * region whoever knows how to ring may set it: it looks at htrace_region_host()'s sync first, and
	 * returns without an effect on errno, as it may be called from a signal handler.
	 */
	const __u64 *event_idx;
	void (*bell)(struct htrace_producer *p);
};

/*
 * Any thread, also while others do so, or use the region's handle. Not in signal handlers.
 * Take ring @index of set @set, or with index -1 any one: a free one first, which goes on where it
 * is; else one whose process died, if a reader has read it to its end, which begins anew. Rings of
 * other pid namespaces are never taken for dead.
 * 0: taken, until htrace_producer_put() or the death of this process (not of the thread).
 * -EBUSY: none can be had: others have them, or what dead ones left was not read yet (it stays
 *  readable; without a reader for ever).
 * -ENXIO: the set or ring is not in the region, or its rings are not such that threads take.
 * -ENOMEM: no page for telling a fork. -ENOSYS, -EINVAL: this kernel cannot (Linux 4.14 can).
 */
int htrace_producer_get(struct htrace_producer *p, struct htrace_region *r, __u32 set, int index);
/*
 * Any thread, likewise. Give the ring back; all reserved records must be committed, and no other thread
 * use this handle. Another may take the ring then. In a forked child the handle is given up, and the ring stays its
 * parent's. A second time it does nothing.
 */
void htrace_producer_put(struct htrace_producer *p);
/*
 * Close the rings whose processes died, so that readers which cannot judge that themselves (in
 * another pid namespace, or on the host) know. htrace_producer_get() does it where it has to; a
 * tracer's agent may do it now and then. Returns how many it closed.
 */
int htrace_region_reap(struct htrace_region *r);

/* The region's clock. */
HTRACE_INLINE __u64 htrace_producer_now(const struct htrace_producer *p)
{
	return htrace_clock_read(p->clock_id);
}

/* Is the ring this process's? Not in a child that fork() made: the kernel zeroed the word there. */
HTRACE_INLINE int htrace_producer_is_ours(const struct htrace_producer *p)
{
	return __builtin_expect(htrace_load(p->process) == p->process_id, 1);
}

/* A child's record. The ring may have begun another life, which has nothing to do with it. */
HTRACE_INLINE void htrace_producer_drop(struct htrace_producer *p)
{
	if (htrace_load_acquire(&p->ring->generation) == p->generation)
		htrace_ring_drop(p->ring);
}

/* Could @id be an event's? A constant costs nothing; a reader gives up the block in which there is another. */
HTRACE_INLINE int htrace_producer_knows(__u32 id)
{
	return __builtin_expect(id - 1 < HTRACE_MAX_EVENTS, 1);
}

HTRACE_INLINE void htrace_producer_refuse(struct htrace_producer *p)
{
	htrace_add(&p->ring->refused, 1);
	htrace_ring_drop(p->ring);
}

/*
 * Reserve @len bytes for a record of event @id; NULL: dropped and counted, also as refused if @id is not
 * 1 ... HTRACE_MAX_EVENTS, such as a negative error. Fill it, then htrace_producer_commit(@slot), or
 * htrace_commit(@slot), which wakes nobody. Any thread or signal handler, never waits.
 */
HTRACE_INLINE void *htrace_producer_reserve(struct htrace_producer *p, __u32 id, __u32 len,
					    struct htrace_slot *slot)
{
	if (!htrace_producer_is_ours(p)) {
		htrace_producer_drop(p);
		return 0;
	}
	if (!htrace_producer_knows(id)) {
		htrace_producer_refuse(p);
		return 0;
	}
	return htrace_reserve(p->ring, &p->geometry, p->consumed, id, len, p->schema,
			      htrace_producer_now(p), slot);
}

/*
 * The same for a ring into which only one thread writes, and the signal handlers that interrupt it in that
 * thread: without bus locks on x86-64, and so in half the time. All of them must use these; it is the ring
 * that is one thread's, whichever handle it is reached by. htrace_producer_commit_single(@slot).
 */
HTRACE_INLINE void *htrace_producer_reserve_single(struct htrace_producer *p, __u32 id, __u32 len,
						   struct htrace_slot *slot)
{
	if (!htrace_producer_is_ours(p)) {
		htrace_producer_drop(p);
		return 0;
	}
	if (!htrace_producer_knows(id)) {
		htrace_producer_refuse(p);
		return 0;
	}
	return htrace_reserve_single(p->ring, &p->geometry, p->consumed, id, len, p->schema,
				     htrace_producer_now(p), slot);
}

/* Publish the record, and wake the reader if it sleeps and this is what it waits for. */
HTRACE_INLINE void htrace_producer_commit(struct htrace_producer *p, struct htrace_slot *slot)
{
	htrace_commit(slot);
	if (__builtin_expect(p->bell != 0, 0) && htrace_slot_wakes(slot, p->event_idx))
		p->bell(p);
}

/* Likewise, of what htrace_producer_reserve_single() reserved. */
HTRACE_INLINE void htrace_producer_commit_single(struct htrace_producer *p, struct htrace_slot *slot)
{
	htrace_commit_single(slot);
	if (__builtin_expect(p->bell != 0, 0) && htrace_slot_wakes_single(slot, p->event_idx))
		p->bell(p);
}

HTRACE_INLINE void htrace_copy(void *to, const void *from, __u32 len)
{
#if __STDC_HOSTED__
	memcpy(to, from, len);
#else
	char *t = (char *)to;
	const char *f = (const char *)from;

	/* What a compiler knows for a copy it may make a call of memcpy(): so it is not to know. */
	for (; len >= 8; len -= 8, t += 8, f += 8) {
		__u64 word;

		__builtin_memcpy(&word, f, sizeof(word));
		__asm__ volatile("" : "+r"(word));
		__builtin_memcpy(t, &word, sizeof(word));
	}
	for (; len; len--) {
		__u32 byte = (unsigned char)*f++;

		__asm__ volatile("" : "+r"(byte));
		*t++ = (char)byte;
	}
#endif
}

/* Reserve, copy, commit. Returns 0, or -1 when the record was dropped and counted. */
HTRACE_INLINE int htrace_push(struct htrace_producer *p, __u32 id, const void *data, __u32 len)
{
	struct htrace_slot slot;
	void *at = htrace_producer_reserve(p, id, len, &slot);

	if (!at)
		return -1;
	htrace_copy(at, data, len);
	htrace_producer_commit(p, &slot);
	return 0;
}

/* Likewise, by htrace_producer_reserve_single(). */
HTRACE_INLINE int htrace_push_single(struct htrace_producer *p, __u32 id, const void *data,
				     __u32 len)
{
	struct htrace_slot slot;
	void *at = htrace_producer_reserve_single(p, id, len, &slot);

	if (!at)
		return -1;
	htrace_copy(at, data, len);
	htrace_producer_commit_single(p, &slot);
	return 0;
}

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
