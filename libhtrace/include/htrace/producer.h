/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * User-space producers: a thread takes a ring of a region and writes records into it.
 */
#ifndef HTRACE_PRODUCER_H
#define HTRACE_PRODUCER_H

#include <htrace/region.h>
#include <htrace/ring.h>

#include <stddef.h>
#include <string.h>
#include <time.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/*
 * A producer's handle: its ring and the ring's shape. Belongs to the process that took it and is
 * not inherited over fork(). Threads may share one; signal handlers may use it.
 */
struct htrace_producer {
	struct htrace_ring *ring;
	const __u64 *consumed;
	struct htrace_geometry geometry;
	__u32 clock_id;
	__u32 schema;
};

/*
 * Take ring @index of set @set, or with index -1 any free one. -EBUSY: none free; -ENXIO: the set
 * is not in the region. The ring stays taken until htrace_producer_put() or its owner's death.
 */
int htrace_producer_get(struct htrace_producer *p, struct htrace_region *r, __u32 set, int index);
/* Give the ring back; all reserved records must be committed. Another thread may take it then. */
void htrace_producer_put(struct htrace_producer *p);

/* The region's clock. */
HTRACE_INLINE __u64 htrace_producer_now(const struct htrace_producer *p)
{
	struct timespec ts;

#ifdef __x86_64__
	if (p->clock_id == HTRACE_CLOCK_TSC)
		return __builtin_ia32_rdtsc();
#endif
	(void)p;
	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (__u64)ts.tv_sec * 1000000000ULL + (__u64)ts.tv_nsec;
}

/*
 * Reserve @len bytes for a record of event @id; NULL: dropped and counted. Fill it, then
 * htrace_commit(@slot). Any thread or signal handler, never waits.
 */
HTRACE_INLINE void *htrace_producer_reserve(struct htrace_producer *p, __u32 id, __u32 len,
					    struct htrace_slot *slot)
{
	return htrace_reserve(p->ring, &p->geometry, p->consumed, id, len, p->schema,
			      htrace_producer_now(p), slot);
}

/*
 * The same for a ring into which only one thread writes, and the signal handlers that interrupt it in that
 * thread: without bus locks on x86-64, and so in half the time. All of them must use these; it is the ring
 * that is one thread's, whichever handle it is reached by. htrace_commit_single(@slot).
 */
HTRACE_INLINE void *htrace_producer_reserve_single(struct htrace_producer *p, __u32 id, __u32 len,
						   struct htrace_slot *slot)
{
	return htrace_reserve_single(p->ring, &p->geometry, p->consumed, id, len, p->schema,
				     htrace_producer_now(p), slot);
}

/* Reserve, copy, commit. Returns 0, or -1 when the record was dropped and counted. */
HTRACE_INLINE int htrace_push(struct htrace_producer *p, __u32 id, const void *data, __u32 len)
{
	struct htrace_slot slot;
	void *at = htrace_producer_reserve(p, id, len, &slot);

	if (!at)
		return -1;
	memcpy(at, data, len);
	htrace_commit(&slot);
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
	memcpy(at, data, len);
	htrace_commit_single(&slot);
	return 0;
}

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
