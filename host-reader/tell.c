/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tell.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/random.h>

#include <htrace/ring.h>

#define IMAGE_SIZE (HTRACE_TOLD_DATA_OFF + (1u << HTRACE_TOLD_RING_SHIFT))
#define BLOCK_SIZE (1ULL << HTRACE_TOLD_BLOCK_SHIFT)

static const struct htrace_geometry geometry = HTRACE_TOLD_GEOMETRY;

struct tell {
	struct htrace_ring *ring; /* ours */
	struct htrace_host *host; /* where the copy is, or NULL */
	__u64 copied; /* position up to which it is one */
	__u64 number; /* of this copy's beginning */
	__u64 start; /* CLOCK_MONOTONIC at 0 of the ring's clock */
};

int tell_new(struct tell **out, __u64 now)
{
	struct tell *t = calloc(1, sizeof(*t));

	*out = NULL;
	if (!t)
		return -ENOMEM;
	t->ring = aligned_alloc(64, IMAGE_SIZE);
	if (!t->ring) {
		free(t);
		return -ENOMEM;
	}
	for (unsigned int i = 0; i < IMAGE_SIZE / 8; i++)
		((__u64 *)t->ring)[i] = 0;
	t->start = now;
	*out = t;
	return 0;
}

void tell_free(struct tell *t)
{
	if (!t)
		return;
	free(t->ring);
	free(t);
}

/* --------------------------------------------------------------------------------------- records */

static __u64 ring_time(const struct tell *t, __u64 at)
{
	return at > t->start ? at - t->start : 0;
}

static void put(struct tell *t, __u32 id, const void *record, __u32 len, __u64 at)
{
	__u64 time = ring_time(t, at);
	struct htrace_slot slot;
	__u64 *to = htrace_reserve_single(t->ring, &geometry, NULL, id, len, 0, time, &slot);
	const __u64 *from = record;

	if (!to)
		return; /* cannot be: nobody else writes, and it is no larger than a block */
	for (__u32 i = 0; i < len / 8; i++)
		to[i] = from[i];
	htrace_commit_single(&slot);
}

void tell_exit(struct tell *t, const struct htrace_told_exit *e, __u64 at)
{
	put(t, HTRACE_TOLD_EXIT, e, sizeof(*e), at);
}

void tell_total(struct tell *t, const struct htrace_told_total *total, __u64 now)
{
	put(t, HTRACE_TOLD_TOTAL, total, sizeof(*total), now);
}

/* -------------------------------------------------------------------------------------- the region */

static struct htrace_ring *ring_at(struct htrace_host *host)
{
	return (struct htrace_ring *)((char *)host + (HTRACE_TOLD_OFF - HTRACE_HOST_OFF));
}

static void fence(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

static void begin(struct tell *t, struct htrace_host *host)
{
	__u64 *words = (__u64 *)ring_at(host);

	htrace_store(&host->telling, 0);
	fence(); /* a reader of what was there finds out before it finds zeroes */
	for (unsigned int i = 0; i < IMAGE_SIZE / 8; i++)
		htrace_store(&words[i], 0);
	t->host = host;
	t->copied = 0;
	t->number = 0;
	while (!t->number && getrandom(&t->number, sizeof(t->number), 0) < 0)
		;
	t->number |= 1; /* never 0 */
}

/* All of a block but its data and its commit counter, which comes last. */
static void copy_descriptor(struct htrace_block *to, const struct htrace_block *from)
{
	htrace_store(&to->end, from->end);
	htrace_store(&to->t_end, from->t_end);
	htrace_store(&to->dropped, from->dropped);
	htrace_store(&to->base, from->base);
	htrace_store(&to->events_before, from->events_before);
	htrace_store(&to->beg, from->beg);
	htrace_store(&to->schema, from->schema);
}

/*
 * As any producer stores them: head, records and descriptors, commit counters; so a reader that
 * looks at any time finds whole records, or waits. Less than the ring is new: TELL_BATCH.
 */
static void copy(struct tell *t, struct htrace_ring *to)
{
	__u64 head = t->ring->head, first = t->copied & ~(BLOCK_SIZE - 1);

	htrace_store(&to->head, head);
	fence();
	for (__u64 at = t->copied; at < head; at += 8)
		htrace_store((__u64 *)htrace_ring_data(to, &geometry, at),
			     *(__u64 *)htrace_ring_data(t->ring, &geometry, at));
	for (__u64 beg = first; beg < head; beg += BLOCK_SIZE)
		copy_descriptor(htrace_ring_block(to, &geometry, beg),
				htrace_ring_block(t->ring, &geometry, beg));
	fence();
	for (__u64 beg = first; beg < head; beg += BLOCK_SIZE)
		htrace_store(&htrace_ring_block(to, &geometry, beg)->commit,
			     htrace_ring_block(t->ring, &geometry, beg)->commit);
	htrace_store(&to->dropped, t->ring->dropped);
	t->copied = head;
}

/* What the ring does not hold any more, and a reader that comes now does not look for. */
static void skip_gone(struct tell *t)
{
	__u64 last = (t->ring->head - 1) & ~(BLOCK_SIZE - 1),
	      most = geometry.ring_mask + 1 - BLOCK_SIZE;

	if (t->ring->head && last > most && t->copied < last - most)
		t->copied = last - most;
}

void tell_flush(struct tell *t, struct htrace_host *host, __u64 now)
{
	if (host != t->host)
		begin(t, host);
	skip_gone(t);
	copy(t, ring_at(host));
	/* The ring, then the words that speak of it. */
	__atomic_store_n(&host->told_clock, ring_time(t, now), __ATOMIC_RELEASE);
	__atomic_store_n(&host->telling, t->number, __ATOMIC_RELEASE);
}

void tell_end(struct tell *t, struct htrace_host *host)
{
	if (t->host == host)
		__atomic_store_n(&host->telling, 0, __ATOMIC_RELEASE);
	t->host = NULL;
}
