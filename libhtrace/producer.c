/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Rings taken by threads of user-space tracers. docs/format.md ("Owners") has the life of a ring's
 * words, docs/memory-ordering.md why nobody meets another's leavings.
 */
#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <htrace/producer.h>

#include "core.h"

#ifndef MADV_WIPEONFORK
#define MADV_WIPEONFORK 18
#endif

#define BEING_TAKEN (HTRACE_OWNER_RETIRING | HTRACE_OWNER_TAKING)

/* ---------------------------------------------------------------------------- telling a fork */

static __u64 *process_word; /* in a page that the kernel zeroes in a child */
static __u64 last_id;       /* that was given out; a child goes on from its parent's */

/*
 * Emulators (qemu-user) take any advice about memory and heed none: there, a child's library tells
 * of the fork. A child of clone(2), which only the kernel knows of, passes for its parent there.
 */
static void forked(void)
{
	__atomic_store_n(process_word, 0, __ATOMIC_RELAXED);
}

static int map_process_word(void)
{
	__u64 *mem = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	__u64 *none = NULL;
	int err = 0;

	if (mem == MAP_FAILED)
		return -errno;
	if (madvise(mem, 4096, MADV_WIPEONFORK))
		err = -errno;
	else if (__atomic_compare_exchange_n(&process_word, &none, mem, false, __ATOMIC_ACQ_REL,
					     __ATOMIC_RELAXED))
		return -pthread_atfork(NULL, NULL, forked);
	munmap(mem, 4096); /* another thread was first, or it is of no use */
	return err;
}

/* The word, and what it holds in this process and in no other that has its memory. */
static int identify(const __u64 **process, __u64 *process_id)
{
	__u64 *word = __atomic_load_n(&process_word, __ATOMIC_ACQUIRE), id;
	int err;

	if (!word) {
		err = map_process_word();
		if (err)
			return err;
		word = __atomic_load_n(&process_word, __ATOMIC_ACQUIRE);
	}
	id = __atomic_load_n(word, __ATOMIC_RELAXED);
	if (!id) {
		id = __atomic_add_fetch(&last_id, 1, __ATOMIC_RELAXED);
		if (!htrace_cas(word, 0, id))
			id = __atomic_load_n(word, __ATOMIC_RELAXED);
	}
	*process = word;
	*process_id = id;
	return 0;
}

/*
 * From here on what is recorded by @p goes nowhere, as in a child: the words that tell this are never
 * those of a process, nor the generation the ring's, so nothing is written there. In this order, for a
 * signal handler that comes in between.
 */
static void detach(struct htrace_producer *p)
{
	static const struct htrace_ring nowhere;
	static const __u64 nobody;

	htrace_store(&p->process, &nobody);
	htrace_store(&p->process_id, ~0ULL);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	htrace_store(&p->generation, ~0ULL);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
	htrace_store(&p->ring, (struct htrace_ring *)&nowhere);
	__atomic_signal_fence(__ATOMIC_SEQ_CST);
}

/* -------------------------------------------------------------------------------------- taking */

/* Who wants a ring. */
struct taker {
	__u64 owner, taking; /* what the ring's word will be, and what it is until then */
	__u64 ns, start;
	struct htrace_judge judge;
};

static void prepare(struct taker *t, const struct htrace_super *s)
{
	struct htrace_stat st;

	t->owner = (__u64)getpid() << 32 | (__u32)syscall(SYS_gettid);
	t->ns = htrace_own_ns();
	t->taking = (__u64)getpid() << 32 | (__u32)t->ns;
	t->start = htrace_read_stat("/proc/self", &st) ? st.start : 0;
	htrace_judge_init(&t->judge, s->boot_id);
}

/* We hold it by our word in the taking: say who we are, and then that it is ours. */
static void settle(const struct taker *t, struct htrace_ring *ring)
{
	htrace_store(&ring->owner_start, t->start);
	htrace_store(&ring->owner_ns, t->ns);
	htrace_store_release(&ring->owner, t->owner);
}

/*
 * Positions and counters begin anew. Whoever does this again after somebody died in it may. @consumed:
 * the host's word, which its reader has done with until there is another generation.
 */
static void retire(struct htrace_ring *ring, const struct htrace_geometry *g, __u64 *consumed)
{
	__u64 *desc = (__u64 *)htrace_ring_block(ring, g, 0);
	__u64 words = ((g->ring_mask + 1) >> g->block_shift) * (sizeof(struct htrace_block) / 8);

	htrace_fence_opener(); /* who sees any of this sees that the ring is retiring */
	htrace_store(&ring->head, 0);
	htrace_store(&ring->packed_block, 0);
	htrace_store(&ring->dropped, 0);
	htrace_store(&ring->refused, 0);
	htrace_store(&ring->consumed, 0);
	htrace_store(consumed, 0);
	for (__u64 i = 0; i < words; i++)
		htrace_store(&desc[i], 0);
	htrace_store_release(&ring->generation, htrace_load(&ring->generation) + 1);
}

static bool take_free(const struct taker *t, struct htrace_ring *ring)
{
	if (!htrace_cas(&ring->owner, 0, t->taking | HTRACE_OWNER_TAKING))
		return false;
	settle(t, ring);
	return true;
}

/* Its process died, and it is closed now by us; or that is so already. */
static bool close_dead(struct htrace_judge *j, struct htrace_ring *ring, __u64 *owner)
{
	__u64 ns = htrace_load(&ring->owner_ns), start = htrace_load(&ring->owner_start);

	if (*owner & HTRACE_OWNER_CLOSED)
		return true;
	if (!*owner || *owner & BEING_TAKEN ||
	    !htrace_judge_dead(j, HTRACE_OWNER_PID(*owner), ns, start) ||
	    !htrace_cas(&ring->owner, *owner, *owner | HTRACE_OWNER_CLOSED))
		return false;
	*owner |= HTRACE_OWNER_CLOSED;
	return true;
}

/* Its word has the low half of the namespaces; of the time namespace, pids do not depend. */
bool htrace_judge_taker_dead(struct htrace_judge *j, __u64 owner)
{
	__u64 ns = (j->ns & ~0xffffffffULL) | (__u32)owner;

	return htrace_judge_dead(j, HTRACE_OWNER_PID(owner), ns, 0);
}

/* Somebody died while it took the ring: go on in its place. */
static bool take_over(struct taker *t, struct htrace_ring *ring, const struct htrace_geometry *g,
		      struct htrace_host_ring *host, __u64 owner)
{
	if (!(owner & BEING_TAKEN) || !htrace_judge_taker_dead(&t->judge, owner) ||
	    !htrace_cas(&ring->owner, owner, t->taking | (owner & BEING_TAKEN)))
		return false;
	if (owner & HTRACE_OWNER_RETIRING)
		retire(ring, g, &host->consumed);
	settle(t, ring);
	return true;
}

static bool take_dead(struct taker *t, struct htrace_ring *ring, const struct htrace_geometry *g,
		      struct htrace_host_ring *host)
{
	__u64 owner = htrace_load_acquire(&ring->owner), generation;

	if (!close_dead(&t->judge, ring, &owner))
		return take_over(t, ring, g, host, owner);
	generation = htrace_load(&ring->generation);
	if (htrace_load_acquire(&host->drained) != generation + 1 ||
	    !htrace_cas(&ring->owner, owner, t->taking | HTRACE_OWNER_RETIRING))
		return false;
	retire(ring, g, &host->consumed);
	settle(t, ring);
	return true;
}

/* --------------------------------------------------------------------------- waking the reader */

/* Whoever waits for the word; also from signal handlers: errno is theirs. */
static void ring_futex(struct htrace_producer *p)
{
	__u32 *word = &htrace_region_guest(p->region)->bell;
	int saved = errno;

	if (!(__atomic_load_n(&htrace_region_host(p->region)->sync, __ATOMIC_RELAXED) &
	      HTRACE_SYNC_RING))
		return;
	__atomic_fetch_add(word, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
	errno = saved;
}

/* ------------------------------------------------------------------------------------------------ */

int htrace_producer_get(struct htrace_producer *p, struct htrace_region *r, __u32 set, int index)
{
	const struct htrace_super *s = htrace_region_super(r);
	const struct htrace_ringset *of = &s->ringset[set < HTRACE_MAX_RINGSETS ? set : 0];
	__u32 first = index < 0 ? 0 : (__u32)index, end = index < 0 ? of->nr_rings : first + 1;
	const __u64 *process;
	__u64 process_id;
	struct taker t;
	int err;

	detach(p);
	if (set >= s->nr_ringsets || of->placement == HTRACE_PLACEMENT_VSHMEM ||
	    of->kind != HTRACE_RING_PER_THREAD || end > of->nr_rings)
		return -ENXIO;
	err = identify(&process, &process_id);
	if (err)
		return err;
	prepare(&t, s);
	for (__u32 n = 0; n < 2 * (end - first); n++) {
		__u32 i = first + n % (end - first);
		struct htrace_host_ring *host = htrace_host_words(r, of->first_slot + i);
		struct htrace_ring *ring = htrace_region_ring(r, set, i, &p->geometry);

		if (!take_free(&t, ring) &&
		    (n < end - first || !take_dead(&t, ring, &p->geometry, host)))
			continue;
		p->ring = ring;
		p->consumed = &host->consumed;
		p->event_idx = &host->event_idx;
		p->bell = s->features_optional & HTRACE_OPTIONAL_BELL &&
			  of->placement == HTRACE_PLACEMENT_LOCAL ? ring_futex : NULL;
		p->clock_id = s->clock_id;
		p->schema = (__u32)htrace_load(&htrace_region_schema(r)->generation);
		p->region = r;
		p->generation = htrace_load(&ring->generation);
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
		htrace_store(&p->process_id, process_id);
		htrace_store(&p->process, process); /* last: now signal handlers may record by it */
		htrace_region_sample(r);
		return 0;
	}
	return -EBUSY;
}

void htrace_producer_put(struct htrace_producer *p)
{
	bool ours = htrace_producer_is_ours(p);
	struct htrace_ring *ring = p->ring;

	if (ours)
		htrace_region_sample(p->region);
	detach(p); /* before another thread may take the ring */
	if (ours)
		htrace_store_release(&ring->owner, 0);
}

int htrace_region_reap(struct htrace_region *r)
{
	const struct htrace_super *s = htrace_region_super(r);
	struct htrace_judge judge;
	int closed = 0;

	htrace_judge_init(&judge, s->boot_id);
	for (__u32 set = 0; set < s->nr_ringsets; set++) {
		for (__u32 i = 0; i < s->ringset[set].nr_rings; i++) {
			struct htrace_ring *ring = htrace_region_ring(r, set, i, NULL);
			__u64 owner = ring ? htrace_load_acquire(&ring->owner) : 0;

			if (s->ringset[set].kind == HTRACE_RING_PER_THREAD && owner &&
			    !(owner & HTRACE_OWNER_CLOSED))
				closed += close_dead(&judge, ring, &owner);
		}
	}
	return closed;
}
