// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Concurrency Kit's rings: entries are copied into the ring and out of it. A consumer that
 * might be one of several (mpmc) makes no difference to what producers execute.
 */
#include <ck_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "push.h"

struct ring {
	struct ck_ring ck;
	void *entries;
} __attribute__((aligned(128)));

struct queue {
	struct push_config config;
	unsigned rings;
	struct ring ring[PUSH_MAX_PRODUCERS];
};

static void *make(const struct push_config *c)
{
	struct queue *q = aligned_alloc(128, sizeof(*q));

	memset(q, 0, sizeof(*q));
	q->config = *c;
	q->rings = c->shared ? 1 : c->producers;
	for (unsigned i = 0; i < q->rings; i++) {
		ck_ring_init(&q->ring[i].ck, push_entries(c));
		q->ring[i].entries = bench_memory(PUSH_CAPACITY);
	}
	return q;
}

static void end(void *arg)
{
	struct queue *q = arg;

	for (unsigned i = 0; i < q->rings; i++)
		munmap(q->ring[i].entries, PUSH_CAPACITY);
	free(q);
}

static bool ready(void *arg)
{
	struct queue *q = arg;

	for (unsigned i = 0; i < q->rings; i++)
		if (ck_ring_size(&q->ring[i].ck))
			return true;
	return false;
}

#define SP(payload, clock, r, e) \
	ck_ring_enqueue_spsc_##payload##_##clock(&(r)->ck, (r)->entries, (e))
#define MP(payload, clock, r, e) \
	ck_ring_enqueue_mpsc_##payload##_##clock(&(r)->ck, (r)->entries, (e))
#define TAKE(payload, clock, r, e) \
	ck_ring_dequeue_mpsc_##payload##_##clock(&(r)->ck, (r)->entries, (e))
#define TAKE_MC(payload, clock, r, e) \
	ck_ring_dequeue_mpmc_##payload##_##clock(&(r)->ck, (r)->entries, (e))
#define FUNCTIONS(payload, clock)                                              \
	PUSH_ENTRY(payload, clock)                                             \
	CK_RING_PROTOTYPE(payload##_##clock, entry_##payload##_##clock)        \
	PUSH_BURST(sp, payload, clock, struct ring, SP)                        \
	PUSH_BURST(mp, payload, clock, struct ring, MP)                        \
	PUSH_DRAIN(sc, payload, clock, struct ring, TAKE)                        \
	PUSH_DRAIN(mc, payload, clock, struct ring, TAKE_MC)
PUSH_ENTRIES(FUNCTIONS)

static struct ring *ring_of(struct queue *q, unsigned producer)
{
	return &q->ring[q->rings == 1 ? 0 : producer];
}

#define CALL(form, size, clk, ...)                                 \
	if (q->config.payload == (size) && q->config.clock == (clk)) \
		return form##_##size##_##clk(__VA_ARGS__);

static uint64_t burst_spsc(void *arg, unsigned producer, uint64_t first, uint64_t n)
{
	struct queue *q = arg;

#define CALL_SP(size, clk) CALL(burst_sp, size, clk, ring_of(q, producer), producer, first, n)
	PUSH_ENTRIES(CALL_SP)
	return 0;
}

static uint64_t burst_mpsc(void *arg, unsigned producer, uint64_t first, uint64_t n)
{
	struct queue *q = arg;

#define CALL_MP(size, clk) CALL(burst_mp, size, clk, ring_of(q, producer), producer, first, n)
	PUSH_ENTRIES(CALL_MP)
	return 0;
}

static void drain_ring(struct queue *q, struct ring *r, struct push_check *check)
{
#define CALL_SC(size, clk) CALL(drain_sc, size, clk, r, check)
	PUSH_ENTRIES(CALL_SC)
}

static void drain_ring_mc(struct queue *q, struct ring *r, struct push_check *check)
{
#define CALL_MC(size, clk) CALL(drain_mc, size, clk, r, check)
	PUSH_ENTRIES(CALL_MC)
}

static void drain(void *arg, struct push_check *check)
{
	struct queue *q = arg;

	for (unsigned i = 0; i < q->rings; i++)
		drain_ring(q, &q->ring[i], check);
}

static void drain_mpmc(void *arg, struct push_check *check)
{
	struct queue *q = arg;

	for (unsigned i = 0; i < q->rings; i++)
		drain_ring_mc(q, &q->ring[i], check);
}

const struct push_queue push_ck_spsc = {
	.name = "ck_ring spsc",
	.single = true,
	.make = make,
	.burst = burst_spsc,
	.ready = ready,
	.drain = drain,
	.free = end,
};

const struct push_queue push_ck_mpsc = {
	.name = "ck_ring mpsc",
	.multi = true,
	.make = make,
	.burst = burst_mpsc,
	.ready = ready,
	.drain = drain,
	.free = end,
};

const struct push_queue push_ck_mpmc = {
	.name = "ck_ring mpmc",
	.multi = true,
	.make = make,
	.burst = burst_mpsc,
	.ready = ready,
	.drain = drain_mpmc,
	.free = end,
};
