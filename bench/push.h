/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The queues that bench/push-queues compares: one file for each kind, one driver for all. */
#ifndef PUSH_H
#define PUSH_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <htrace/clock.h>
#include <htrace/producer.h>

#include "bench.h"

#define PUSH_CAPACITY (1u << 20) /* bytes of each ring; queues of entries: what fits, a power of two */
#define PUSH_MAX_WORDS 32
#define PUSH_MAX_PRODUCERS 2

/* What an entry is stamped with. */
enum push_clock { PUSH_NONE, PUSH_MONOTONIC, PUSH_TSC };

struct push_config {
	unsigned payload;   /* 16, 32, 64, 256 */
	unsigned producers; /* 1, 2 */
	bool shared;        /* one queue for all producers; else each has one */
	enum push_clock clock;
};

/* What the consumer has found: per producer, numbers and times only rise. */
struct push_check {
	uint64_t next[PUSH_MAX_PRODUCERS], time[PUSH_MAX_PRODUCERS];
	const char *error;
};

struct push_queue {
	const char *name;
	bool multi; /* may be shared by producers */
	bool single; /* is what producers that do not share would take */
	void *(*make)(const struct push_config *c);
	/* Push numbers @first to @first + @n - 1 one by one; how many there was room for. */
	uint64_t (*burst)(void *q, unsigned producer, uint64_t first, uint64_t n);
	bool (*ready)(void *q);
	/* Take out and check what is there. NULL: the queue has a consumer of its own. */
	void (*drain)(void *q, struct push_check *check);
	void (*free)(void *q);
	const char *(*missing)(void); /* why it cannot run here; NULL: it can */
};

extern const struct push_queue push_htrace, push_htrace_single, push_htrace_bell, push_htrace_single_bell;
extern const struct push_queue push_ck_spsc, push_ck_mpsc, push_ck_mpmc;
extern const struct push_queue push_rte_spsc, push_rte_mpsc, push_rte_mpmc;
extern const struct push_queue push_lttng;

#define PUSH_INLINE static inline __attribute__((always_inline, unused))

/* The same reading of the clock in all of them. */
PUSH_INLINE uint64_t push_now(enum push_clock clock)
{
	switch (clock) {
	case PUSH_MONOTONIC:
		return bench_now();
	case PUSH_TSC:
		return htrace_clock_read(HTRACE_CLOCK_TSC);
	default:
		return 0;
	}
}

PUSH_INLINE uint64_t push_word(unsigned i)
{
	return 0x9e3779b97f4a7c15ull * (i + 1);
}

PUSH_INLINE void push_fill(uint64_t *w, unsigned words)
{
	for (unsigned i = 0; i < words; i++)
		w[i] = push_word(i);
}

/* Make it the payload with this number. */
PUSH_INLINE void push_mark(uint64_t *w, unsigned words, unsigned producer, uint64_t number)
{
	w[0] = number | (uint64_t)producer << 56;
	w[words - 1] = ~w[0];
}

PUSH_INLINE void push_verify(struct push_check *c, const uint64_t *w, unsigned words, uint64_t time)
{
	uint64_t number = w[0] << 8 >> 8;
	unsigned producer = (unsigned)(w[0] >> 56);
	uint64_t differs = ~w[words - 1] ^ w[0];

	for (unsigned i = 1; i + 1 < words; i++)
		differs |= w[i] ^ push_word(i);
	if (differs || producer >= PUSH_MAX_PRODUCERS) {
		c->error = "an entry's content";
		return;
	}
	if (number != c->next[producer])
		c->error = "an entry's number";
	if (time < c->time[producer])
		c->error = "an entry's time";
	c->next[producer] = number + 1;
	c->time[producer] = time;
}

/* Entries of queues that have no time of their own. */
#define PUSH_ENTRIES(X) \
	X(16, PUSH_NONE) X(32, PUSH_NONE) X(64, PUSH_NONE) X(256, PUSH_NONE) \
	X(16, PUSH_MONOTONIC) X(32, PUSH_MONOTONIC) X(64, PUSH_MONOTONIC) X(256, PUSH_MONOTONIC) \
	X(16, PUSH_TSC) X(32, PUSH_TSC) X(64, PUSH_TSC) X(256, PUSH_TSC)
/* Without a time there is no room for it. */
#define PUSH_SIZE_PUSH_NONE(payload) (payload)
#define PUSH_SIZE_PUSH_MONOTONIC(payload) ((payload) + 8)
#define PUSH_SIZE_PUSH_TSC(payload) ((payload) + 8)

static inline unsigned push_entry_size(const struct push_config *c)
{
	return c->payload + (c->clock == PUSH_NONE ? 0 : 8);
}

/* As many entries as fit into the capacity, a power of two. */
static inline unsigned push_entries(const struct push_config *c)
{
	unsigned n = 1;

	while (2 * n * push_entry_size(c) <= PUSH_CAPACITY)
		n *= 2;
	return n;
}

/*
 * Burst and drain of a queue of entries of one size: PUT(ring, entry) and TAKE(ring, entry) copy one and
 * say whether that was possible.
 */
#define PUSH_BURST(name, payload, clock, ring_type, put)                                     \
	static __attribute__((noinline)) uint64_t burst_##name##_##payload##_##clock(       \
		ring_type *ring, unsigned producer, uint64_t first, uint64_t n)              \
	{                                                                                    \
		struct entry_##payload##_##clock e;                                          \
		uint64_t *w = e.w + ((clock) != PUSH_NONE), pushed = 0;                      \
		push_fill(w, (payload) / 8);                                                 \
		for (uint64_t i = first; i < first + n; i++) {                               \
			if ((clock) != PUSH_NONE)                                            \
				e.w[0] = push_now(clock);                                    \
			push_mark(w, (payload) / 8, producer, i);                            \
			pushed += !!put(payload, clock, ring, &e);                           \
		}                                                                            \
		return pushed;                                                               \
	}
#define PUSH_DRAIN(name, payload, clock, ring_type, take)                                    \
	static __attribute__((noinline)) void drain_##name##_##payload##_##clock(           \
		ring_type *ring, struct push_check *check)                                   \
	{                                                                                    \
		struct entry_##payload##_##clock e;                                          \
		while (take(payload, clock, ring, &e))                                       \
			push_verify(check, e.w + ((clock) != PUSH_NONE), (payload) / 8,      \
				    (clock) != PUSH_NONE ? e.w[0] : 0);                      \
	}
#define PUSH_ENTRY(payload, clock)                           \
	struct entry_##payload##_##clock {                   \
		uint64_t w[PUSH_SIZE_##clock(payload) / 8]; \
	};

#endif
