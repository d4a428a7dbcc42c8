// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * DPDK's rings: entries are copied into the ring and out of it. A consumer that
 * might be one of several (mpmc) makes no difference to what producers execute.
 */
#include <rte_ring.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include "push.h"

struct queue {
	struct push_config config;
	unsigned rings;
	struct rte_ring *ring[PUSH_MAX_PRODUCERS]; /* with the entries behind it */
	size_t size;
};

static void *make_with(const struct push_config *c, unsigned flags)
{
	struct queue *q = calloc(1, sizeof(*q));
	int ret;

	q->config = *c;
	q->rings = c->shared ? 1 : c->producers;
	q->size = (size_t)rte_ring_get_memsize_elem(push_entry_size(c), push_entries(c));
	for (unsigned i = 0; i < q->rings; i++) {
		q->ring[i] = bench_memory(q->size);
		ret = rte_ring_init(q->ring[i], "push", push_entries(c), flags);
		if (ret)
			bench_die("rte_ring_init", ret);
	}
	return q;
}

static void *make_spsc(const struct push_config *c)
{
	return make_with(c, RING_F_SP_ENQ | RING_F_SC_DEQ);
}

static void *make_mpsc(const struct push_config *c)
{
	return make_with(c, RING_F_SC_DEQ);
}

static void *make_mpmc(const struct push_config *c)
{
	return make_with(c, 0);
}

static void end(void *arg)
{
	struct queue *q = arg;

	for (unsigned i = 0; i < q->rings; i++)
		munmap(q->ring[i], q->size);
	free(q);
}

static bool ready(void *arg)
{
	struct queue *q = arg;

	for (unsigned i = 0; i < q->rings; i++)
		if (!rte_ring_empty(q->ring[i]))
			return true;
	return false;
}

#define SP(payload, clock, r, e) (rte_ring_sp_enqueue_elem((r), (e), sizeof(*(e))) == 0)
#define MP(payload, clock, r, e) (rte_ring_mp_enqueue_elem((r), (e), sizeof(*(e))) == 0)
#define TAKE(payload, clock, r, e) (rte_ring_sc_dequeue_elem((r), (e), sizeof(*(e))) == 0)
#define TAKE_MC(payload, clock, r, e) (rte_ring_mc_dequeue_elem((r), (e), sizeof(*(e))) == 0)
#define FUNCTIONS(payload, clock)                                              \
	PUSH_ENTRY(payload, clock)                                             \
	PUSH_BURST(sp, payload, clock, struct rte_ring, SP)                        \
	PUSH_BURST(mp, payload, clock, struct rte_ring, MP)                        \
	PUSH_DRAIN(sc, payload, clock, struct rte_ring, TAKE)                        \
	PUSH_DRAIN(mc, payload, clock, struct rte_ring, TAKE_MC)
PUSH_ENTRIES(FUNCTIONS)

static struct rte_ring *ring_of(struct queue *q, unsigned producer)
{
	return q->ring[q->rings == 1 ? 0 : producer];
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

static void drain_ring(struct queue *q, struct rte_ring *r, struct push_check *check)
{
#define CALL_SC(size, clk) CALL(drain_sc, size, clk, r, check)
	PUSH_ENTRIES(CALL_SC)
}

static void drain_ring_mc(struct queue *q, struct rte_ring *r, struct push_check *check)
{
#define CALL_MC(size, clk) CALL(drain_mc, size, clk, r, check)
	PUSH_ENTRIES(CALL_MC)
}

static void drain(void *arg, struct push_check *check)
{
	struct queue *q = arg;

	for (unsigned i = 0; i < q->rings; i++)
		drain_ring(q, q->ring[i], check);
}

static void drain_mpmc(void *arg, struct push_check *check)
{
	struct queue *q = arg;

	for (unsigned i = 0; i < q->rings; i++)
		drain_ring_mc(q, q->ring[i], check);
}

const struct push_queue push_rte_spsc = {
	.name = "rte_ring spsc",
	.single = true,
	.make = make_spsc,
	.burst = burst_spsc,
	.ready = ready,
	.drain = drain,
	.free = end,
};

const struct push_queue push_rte_mpsc = {
	.name = "rte_ring mpsc",
	.multi = true,
	.make = make_mpsc,
	.burst = burst_mpsc,
	.ready = ready,
	.drain = drain,
	.free = end,
};

const struct push_queue push_rte_mpmc = {
	.name = "rte_ring mpmc",
	.multi = true,
	.make = make_mpmc,
	.burst = burst_mpsc,
	.ready = ready,
	.drain = drain_mpmc,
	.free = end,
};
