/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How the small guest writes its records: a part of l2.c, and of ../l2native.c, where the same code runs without a
 * virtual CPU.
 */
#ifndef TESTS_L2_RECORD_H
#define TESTS_L2_RECORD_H

#include <htrace/clock.h>

#include "l2.h"

static inline void outb(__u16 port, __u8 value)
{
	__asm__ volatile("outb %0, %1" ::"a"(value), "Nd"(port) : "memory");
}

static inline __u64 rdtsc(void)
{
	__u32 low, high;

	__asm__ volatile("rdtsc" : "=a"(low), "=d"(high));
	return (__u64)high << 32 | low;
}

static inline __u64 now(const struct l2_cpu *c)
{
	__u64 ticks;

	if (c->ticks)
		return htrace_clock_tsc();
	ticks = rdtsc() - c->tsc_at;

	return c->ns_at + (__u64)((unsigned __int128)ticks * c->mult >> 32);
}

/* Are @blocks and what is left of the present one free? */
static int has_room(const struct l2_cpu *c, __u64 blocks)
{
	const struct htrace_ring *r = (const struct htrace_ring *)c->ring;
	__u64 most = c->geometry.ring_mask + 1 - ((blocks + 1) << c->geometry.block_shift);

	if (c->geometry.policy == HTRACE_OVERWRITE) /* the reader takes nothing away */
		return 1;
	return htrace_load(&r->head) - htrace_load_acquire((const __u64 *)c->consumed) <= most;
}

static void wait_for_blocks(struct l2_cpu *c, __u64 blocks)
{
	while (!has_room(c, blocks)) {
		c->waited++;
		__asm__ volatile("pause" ::: "memory");
	}
}

/* One block for this record, the other for the interrupt handler's. */
static void wait_for_room(struct l2_cpu *c)
{
	wait_for_blocks(c, 2);
}

/* As an ivshmem device's doorbell: an exit, for the one record for which the reader sleeps. */
static void ring_reader(struct l2_cpu *c, const struct htrace_slot *slot, __u64 at)
{
	if (!c->event_idx || !htrace_slot_wakes(slot, (const __u64 *)c->event_idx) ||
	    !(*(const volatile __u32 *)c->sync & HTRACE_SYNC_RING))
		return;
	c->bells++;
	htrace_store(&c->rang, at);
	outb(L2_PORT_BELL, 0);
}

static void push(struct l2_cpu *c, __u32 event, __u64 seq, __u64 value)
{
	struct htrace_slot slot;
	__u64 at = now(c);
	struct l2_record *r = (struct l2_record *)htrace_reserve(
		(struct htrace_ring *)c->ring, &c->geometry, (const __u64 *)c->consumed, event,
		sizeof(*r), 1, at, &slot);

	if (!r)
		return; /* the test misses it */
	r->seq = seq;
	r->check = l2_check(seq, c->cpu);
	r->cpu = c->cpu;
	r->work = c->work;
	r->value = value;
	r->at = at;
	htrace_commit(&slot);
	ring_reader(c, &slot, at);
}

/* What a record is made of, but no ring: a clock, its bytes, a compare-and-swap and an atomic addition. */
static void store_plainly(struct l2_cpu *c, __u64 n)
{
	__u64 *words = (__u64 *)c->plain, expected = words[0];
	struct l2_record *r = (struct l2_record *)c->plain + 1 + n % 64;
	__u64 at = now(c);

	__atomic_compare_exchange_n(&words[0], &expected, expected + sizeof(*r), 0, __ATOMIC_RELAXED, __ATOMIC_RELAXED);
	r->seq = n;
	r->check = l2_check(n, c->cpu);
	r->cpu = c->cpu;
	r->work = c->work;
	r->value = c->made;
	r->at = at;
	__atomic_fetch_add(&words[1], sizeof(*r), __ATOMIC_RELEASE);
}

static void write_records(struct l2_cpu *c)
{
	__u64 start = rdtsc();

	for (__u32 i = 0; i < c->records; i++) {
		if (c->plain) {
			store_plainly(c, i);
			continue;
		}
		wait_for_room(c);
		push(c, c->event, c->seq, c->made);
		c->seq++;
	}
	if (c->records)
		c->took[l2_bucket((rdtsc() - start) / c->records)]++;
}

#endif
