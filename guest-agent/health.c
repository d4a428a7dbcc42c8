/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "health.h"

#include <string.h>
#include <time.h>

#include "message.h"
#include "proc_names.h"
#include "symbols.h"

#define MS 1000000ULL
#define SEC (1000 * MS)
#define READER_TIMEOUT (3 * SEC) /* readers beat at least once a second */

/* Forwarding of consumed positions: bounds of the time from one to the next. */
#define FORWARD_MIN (1 * MS)
#define FORWARD_IDLE_MIN (10 * MS)
#define FORWARD_MAX (HEARTBEAT_MS * MS)
/* A reader that asked for our TSC sees that we answer, and has more questions: so long, and so often. */
#define LISTEN_NS (30 * MS)
#define LISTEN_EVERY_NS (MS / 2)
#define LISTEN_HARD_NS (MS / 5)
#define MAPPINGS_NS (50 * MS) /* what lives shorter has its files known from others only */
#define FAST_NS_PER_BYTE 10 /* a burst of 100 MB/s out of silence */

__u64 cpu_time_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
	return (__u64)t.tv_sec * SEC + (__u64)t.tv_nsec;
}

/* ---------------------------------------------------------------------------------- counters */

/* All that the region has of agents before this one. */
static void carry_over(struct health *h)
{
	const struct htrace_guest *g = htrace_region_guest(h->region);
	__u32 nr_old = __atomic_load_n(&g->nr_progs, __ATOMIC_RELAXED); /* the host could change it */

	h->nr_earlier = nr_old > HTRACE_MAX_PROGS ? HTRACE_MAX_PROGS : nr_old;
	memcpy(h->earlier, g->prog, h->nr_earlier * sizeof(*h->earlier));
}

/*
 * The kernel counts from when a program was loaded. After an adoption the counts of the agents
 * before are added, and programs that only they had stay in the list.
 */
static void know_programs(struct health *h)
{
	for (; h->nr_known < h->loader->nr_programs; h->nr_known++) {
		struct htrace_prog p;
		size_t i = 0;

		loader_counters(h->loader, h->nr_known, &p);
		while (i < h->nr_earlier && memcmp(h->earlier[i].name, p.name, sizeof(p.name)))
			i++;
		if (i == h->nr_earlier)
			continue;
		h->misses_before[h->nr_known] += h->earlier[i].misses;
		h->earlier[i] = h->earlier[--h->nr_earlier];
	}
}

static void publish_counters(struct health *h)
{
	struct htrace_guest *g = htrace_region_guest(h->region);
	size_t nr = h->loader->nr_programs;
	struct htrace_prog p;

	know_programs(h);
	for (size_t i = 0; i < nr; i++) {
		loader_counters(h->loader, i, &p);
		p.misses += h->misses_before[i];
		g->prog[i] = p;
	}
	for (size_t i = 0; i < h->nr_earlier && nr < HTRACE_MAX_PROGS; i++)
		g->prog[nr++] = h->earlier[i];
	htrace_region_fence(h->region);
	__atomic_store_n(&g->nr_progs, (__u32)nr, __ATOMIC_RELEASE);
}

/* ------------------------------------------------------------------------------------ the host */

static const char *refusal(__u32 reason)
{
	switch (reason) {
	case HTRACE_REASON_NO_RAM:
		return "it cannot map this VM's memory; give the VM shared memory: "
		       "-object memory-backend-memfd,...,share=on";
	case HTRACE_REASON_UNVERIFIED:
		return "the memory that it mapped is not this VM's, or laid out unlike what it knows";
	case HTRACE_REASON_INVALID:
		return "it takes the region's contents for invalid";
	case HTRACE_REASON_VERSION:
		return "it is of another version than this agent";
	default:
		return "it gives no reason";
	}
}

static void watch_host(struct health *h, __u64 now)
{
	const struct htrace_host *host = htrace_region_host(h->region);
	__u64 session = htrace_region_super(h->region)->session;
	__u64 beat = __atomic_load_n(&host->heartbeat, __ATOMIC_RELAXED);
	__u32 state = HTRACE_HOST_NONE;

	if (beat != h->host_beat) {
		h->host_beat = beat;
		h->host_beat_time = now;
	}
	if (host->magic == HTRACE_HOST_MAGIC && host->session == session && h->host_beat_time &&
	    now - h->host_beat_time < READER_TIMEOUT)
		state = __atomic_load_n(&host->state, __ATOMIC_ACQUIRE);
	if (h->relay)
		relay_reader(h->relay, state == HTRACE_HOST_ATTACHED);
	if (h->relay && state == HTRACE_HOST_ATTACHED)
		relay_host(h->relay, host->verified == session, host->reason);
	if (state == h->host_state)
		return;
	if (state == HTRACE_HOST_ATTACHED)
		detail("the host reads this session");
	else if (state == HTRACE_HOST_REFUSED)
		say("the host refuses this session: %s", refusal(host->reason));
	else if (h->host_state == HTRACE_HOST_ATTACHED)
		detail("the host reads no more");
	h->host_state = state;
}

bool health_reader_attached(const struct health *h)
{
	return h->host_state == HTRACE_HOST_ATTACHED;
}

static void serve_names(struct health *h, __u64 now)
{
	struct htrace_guest *g = htrace_region_guest(h->region);
	__u64 wanted =
		__atomic_load_n(&htrace_region_host(h->region)->names_wanted, __ATOMIC_RELAXED);

	if (wanted == g->names_served || now < h->next_names)
		return;
	proc_names_update(h->region);
	__atomic_store_n(&g->names_served, wanted, __ATOMIC_RELEASE);
	h->next_names = now + SEC;
}

/* --------------------------------------------------------------------------------- forwarding */

/* Hand the host's position of ring @i to its producers. Returns whether it moved. */
static bool forward_one(struct health *h, __u32 i)
{
	const struct htrace_host_ring *slot = htrace_region_host_ring(h->region, i);
	struct htrace_ring *ring = rings_at(h->rings, i);
	__u64 to = __atomic_load_n(&slot->consumed, __ATOMIC_ACQUIRE);
	__u64 most = __atomic_load_n(&ring->head, __ATOMIC_RELAXED);

	/* The mirror has a word of its own, and what is not in it yet was not read there. */
	if (h->relay && relay_is_option(h->relay)) {
		__u64 there;

		slot = htrace_region_host_ring(h->region, h->rings->nr + i);
		there = __atomic_load_n(&slot->consumed, __ATOMIC_ACQUIRE);
		if (there > to)
			to = there;
	}
	if (h->relay && relay_active(h->relay))
		most = relay_position(h->relay, i);
	/* Forward only, and not past what there is, whatever the host says. */
	if (to <= ring->consumed || to > most)
		return false;
	__atomic_store_n(&ring->consumed, to, __ATOMIC_RELEASE);
	return true;
}

static __u64 clamp(__u64 v, __u64 low, __u64 high)
{
	return v < low ? low : v > high ? high : v;
}

/*
 * When to forward again: after a quarter of the time until the fullest ring is full, at the rate of
 * late, and while nothing comes, before a burst could fill it. When a ring is full and the host
 * does not move, wait longer and longer.
 */
static void plan_forward(struct health *h, __u64 now, __u64 rate, __u64 fill, bool moved)
{
	__u64 size = h->geometry.ring_mask + 1, block = 1ULL << h->geometry.block_shift;
	__u64 idle = clamp(size * FAST_NS_PER_BYTE, FORWARD_IDLE_MIN, FORWARD_MAX);

	if (fill + block >= size && !moved)
		h->forward_every = clamp(2 * h->forward_every, FORWARD_MIN, FORWARD_MAX);
	else if (rate)
		h->forward_every = clamp((size - fill) * (SEC / 4) / rate, FORWARD_MIN, idle);
	else
		h->forward_every = idle;
	h->next_forward = now + h->forward_every;
}

static void forward(struct health *h, __u64 now)
{
	__u64 fill = 0, sum = 0, rate = 0;
	/* positions of another session's reader would free what nobody has read */
	bool moved = false, valid = htrace_region_host(h->region)->session ==
				    htrace_region_super(h->region)->session;

	for (__u32 i = 0; i < h->rings->nr; i++) {
		const struct htrace_ring *ring = rings_at(h->rings, i);
		__u64 head;

		moved |= valid && forward_one(h, i);
		head = __atomic_load_n(&ring->head, __ATOMIC_RELAXED);
		sum += head;
		if (head - ring->consumed > fill)
			fill = head - ring->consumed;
	}
	/* As if all of it came to the fullest ring: rates of single rings jump about. */
	if (h->head_time && now > h->head_time)
		rate = (sum - h->head_sum) * SEC / (now - h->head_time);
	h->head_sum = sum;
	h->head_time = now;
	plan_forward(h, now, rate, fill, moved);
}

/* --------------------------------------------------------------------------------------- loop */

void health_init(struct health *h, struct htrace_region *region, const struct loader *loader,
		 const struct rings *rings, const struct htrace_geometry *geometry,
		 struct relay *relay, bool forwards)
{
	memset(h, 0, sizeof(*h));
	h->region = region;
	h->loader = loader;
	h->rings = rings;
	h->geometry = *geometry;
	h->relay = relay;
	h->forwards = forwards && geometry->policy == HTRACE_DISCARD;
	h->host_beat = htrace_region_host(region)->heartbeat;
	carry_over(h);
	health_work(h);
}

/* Returns whether to go on with it soon: there was one question, and those that follow did not come yet. */
static bool listen(struct health *h)
{
	unsigned int nr = htrace_region_answer(h->region, LISTEN_HARD_NS);

	h->answered += nr;
	if (nr > 1 || !h->answered) {
		h->listen_until = 0;
		h->answered = 0;
	}
	return h->listen_until != 0;
}

__u64 health_work(struct health *h)
{
	__u64 now = monotonic_ns(), next;

	if (now >= h->next_counters) {
		publish_counters(h);
		if (loader_has_stacks(h->loader))
			symbols_update(h->region);
		h->next_counters = now + SEC;
	}
	if (now >= h->next_beat) {
		htrace_region_beat(h->region, cpu_time_ns());
		h->listen_until = now + LISTEN_NS;
		h->answered = 0;
		watch_host(h, now);
		serve_names(h, now);
		h->next_beat = now + HEARTBEAT_MS * MS;
	}
	next = h->next_beat;
	if (now < h->listen_until && listen(h))
		next = now + LISTEN_EVERY_NS;
	if (loader_has_stacks(h->loader)) {
		if (now >= h->next_mappings) {
			mappings_update(h->region, h->loader->stacks.pids_fd);
			h->next_mappings = now + MAPPINGS_NS;
		}
		if (h->next_mappings < next)
			next = h->next_mappings;
	}
	if (h->forwards) {
		if (now >= h->next_forward)
			forward(h, now);
		if (h->next_forward < next)
			next = h->next_forward;
	}
	now = monotonic_ns();
	return next > now ? next - now : 0;
}

/* Once a millisecond: it can interrupt as often as it likes. */
void health_listen(struct health *h)
{
	__u64 now = monotonic_ns();

	if (h->listened > now) /* it is about to */
		return;
	h->listened = h->listened + MS > now ? h->listened + MS : now;
	if (h->listened < h->next_beat)
		h->next_beat = h->listened;
}

void health_publish(struct health *h)
{
	publish_counters(h);
	if (!loader_has_stacks(h->loader))
		return;
	symbols_update(h->region);
	mappings_update(h->region, h->loader->stacks.pids_fd);
}

void health_final(struct health *h)
{
	publish_counters(h);
	htrace_region_beat(h->region, cpu_time_ns());
	watch_host(h, monotonic_ns());
}
