// SPDX-License-Identifier: LGPL-2.1-or-later
/* The library's rings, as a tracer and a reader of user space use them. */
#include <stdlib.h>
#include <unistd.h>

#include <htrace/consumer.h>
#include <htrace/region.h>

#include "push.h"

struct queue {
	struct push_config config;
	struct htrace_region *region;
	struct htrace_view *view;
	struct htrace_producer producer[PUSH_MAX_PRODUCERS];
	struct htrace_consumer *consumer[PUSH_MAX_PRODUCERS];
	unsigned rings;
	int fd;
};

static void make_consumer(struct queue *q, unsigned i)
{
	struct htrace_consumer_opts opts = { .sz = sizeof(opts) };
	struct htrace_image image;
	int ret = htrace_view_ring(q->view, 0, i, &image);

	if (ret)
		bench_die("htrace_view_ring", ret);
	opts.consumed = &htrace_view_host_ring(q->view, image.slot)->consumed;
	ret = htrace_consumer_new(&q->consumer[i], &image, &opts);
	if (ret)
		bench_die("htrace_consumer_new", ret);
}

static void *make_region(const struct push_config *c, bool bell)
{
	struct htrace_region_opts opts = {
		.sz = sizeof(opts),
		.placement = HTRACE_PLACEMENT_LOCAL,
		.policy = HTRACE_DISCARD,
		.kind = HTRACE_RING_PER_THREAD,
		.ring_size = PUSH_CAPACITY,
		.clock_id = c->clock == PUSH_TSC ? HTRACE_CLOCK_TSC : HTRACE_CLOCK_MONOTONIC,
		.bell = bell,
	};
	struct queue *q = calloc(1, sizeof(*q));
	char err[256];
	int ret;

	q->config = *c;
	q->rings = c->shared ? 1 : c->producers;
	opts.nr_rings = q->rings;
	ret = htrace_region_create_local(&q->region, NULL, 4 * PUSH_CAPACITY, &opts, &q->fd);
	if (ret)
		bench_die("htrace_region_create_local", ret);
	htrace_region_publish(q->region);
	ret = htrace_view_open_fd(&q->view, q->fd, true, err, sizeof(err));
	if (!ret)
		ret = htrace_view_attach(q->view, err, sizeof(err));
	if (ret)
		bench_die(err, ret);
	for (unsigned i = 0; i < q->rings; i++) {
		ret = htrace_producer_get(&q->producer[i], q->region, 0, (int)i);
		if (ret)
			bench_die("htrace_producer_get", ret);
		bench_touch(q->producer[i].ring, PUSH_CAPACITY);
		make_consumer(q, i);
	}
	return q;
}

static void *make(const struct push_config *c)
{
	return make_region(c, false);
}

/* A reader may ask to be woken, and does not. */
static void *make_with_bell(const struct push_config *c)
{
	return make_region(c, true);
}

static void end(void *arg)
{
	struct queue *q = arg;

	for (unsigned i = 0; i < q->rings; i++) {
		htrace_consumer_free(q->consumer[i]);
		htrace_producer_put(&q->producer[i]);
	}
	htrace_view_close(q->view);
	htrace_region_release(q->region);
	close(q->fd);
	free(q);
}

/* A push without a clock, for comparison with queues that have none. */
PUSH_INLINE int push_untimed(bool single, struct htrace_producer *p, const void *data, unsigned len)
{
	struct htrace_slot slot;
	void *at = htrace_reserve_by(single, p->ring, &p->geometry, p->consumed, 1, len, p->schema, 0,
				     &slot);

	if (!at)
		return -1;
	memcpy(at, data, len);
	if (single)
		htrace_commit_single(&slot);
	else
		htrace_commit(&slot);
	return 0;
}

PUSH_INLINE int push(bool single, bool timed, struct htrace_producer *p, const void *data, unsigned len)
{
	return !timed ? push_untimed(single, p, data, len) :
	       single ? htrace_push_single(p, 1, data, len) :
			htrace_push(p, 1, data, len);
}

#define BURST(single, payload, clock)                                                          \
	static __attribute__((noinline)) uint64_t burst_##single##_##payload##_##clock(        \
		struct htrace_producer *p, unsigned producer, uint64_t first, uint64_t n)      \
	{                                                                                      \
		uint64_t w[(payload) / 8], pushed = 0;                                         \
		push_fill(w, (payload) / 8);                                                   \
		for (uint64_t i = first; i < first + n; i++) {                                 \
			push_mark(w, (payload) / 8, producer, i);                              \
			pushed += !push(single, (clock) != PUSH_NONE, p, w, (payload));        \
		}                                                                              \
		return pushed;                                                                 \
	}
#define BURSTS(payload, clock) BURST(0, payload, clock) BURST(1, payload, clock)
PUSH_ENTRIES(BURSTS)

#define CALL(single, size, clk)                                      \
	if (q->config.payload == (size) && q->config.clock == (clk)) \
		return burst_##single##_##size##_##clk(p, producer, first, n);

static uint64_t burst(void *arg, unsigned producer, uint64_t first, uint64_t n)
{
	struct queue *q = arg;
	struct htrace_producer *p = &q->producer[q->rings == 1 ? 0 : producer];

#define CALL_ANY(size, clk) CALL(0, size, clk)
	PUSH_ENTRIES(CALL_ANY)
	return 0;
}

static uint64_t burst_single(void *arg, unsigned producer, uint64_t first, uint64_t n)
{
	struct queue *q = arg;
	struct htrace_producer *p = &q->producer[q->rings == 1 ? 0 : producer];

#define CALL_SINGLE(size, clk) CALL(1, size, clk)
	PUSH_ENTRIES(CALL_SINGLE)
	return 0;
}

static bool ready(void *arg)
{
	struct queue *q = arg;

	for (unsigned i = 0; i < q->rings; i++)
		if (htrace_consumer_ready(q->consumer[i]))
			return true;
	return false;
}

static void verify(const struct htrace_batch *batch, unsigned payload, struct push_check *check)
{
	struct htrace_record r;
	struct htrace_iter it;

	for (htrace_iter_init(&it, batch); htrace_iter_next(&it, &r);) {
		if (r.len != payload) {
			check->error = "a record's length";
			continue;
		}
		switch (payload) { /* a constant for each, as the other queues have */
		case 16: push_verify(check, r.payload, 2, r.time); break;
		case 32: push_verify(check, r.payload, 4, r.time); break;
		case 64: push_verify(check, r.payload, 8, r.time); break;
		case 256: push_verify(check, r.payload, 32, r.time); break;
		}
	}
	if (batch->dropped || batch->overwritten || batch->corrupt)
		check->error = "loss";
}

static void drain(void *arg, struct push_check *check)
{
	struct queue *q = arg;
	struct htrace_batch batch;
	int ret;

	for (unsigned i = 0; i < q->rings; i++) {
		while ((ret = htrace_consumer_read(q->consumer[i], &batch)) == 1)
			verify(&batch, q->config.payload, check);
		if (ret)
			check->error = htrace_consumer_error(q->consumer[i]);
	}
}

/* Producers that are one thread each. */
const struct push_queue push_htrace_single = {
	.name = "htrace single",
	.single = true,
	.make = make,
	.burst = burst_single,
	.ready = ready,
	.drain = drain,
	.free = end,
};

const struct push_queue push_htrace_single_bell = {
	.name = "htrace single, may wake",
	.single = true,
	.make = make_with_bell,
	.burst = burst_single,
	.ready = ready,
	.drain = drain,
	.free = end,
};

const struct push_queue push_htrace_bell = {
	.name = "htrace, may wake",
	.multi = true,
	.single = true,
	.make = make_with_bell,
	.burst = burst,
	.ready = ready,
	.drain = drain,
	.free = end,
};

const struct push_queue push_htrace = {
	.name = "htrace",
	.multi = true,
	.single = true,
	.make = make,
	.burst = burst,
	.ready = ready,
	.drain = drain,
	.free = end,
};
