/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The real producer and the real consumer under random schedules. Each of three producers and a
 * reader is a coroutine, and each access to shared memory a point at which it may be preempted:
 * for a moment, for whole records of the others (nested), or for laps. In every other schedule the
 * producers' stores become visible late, in any order that their fences and releases leave (as
 * on arm64); loads are in order. tests/model checks all of it exhaustively, in a model.
 *
 * HTRACE_SCHEDULES=n runs n schedules of each scenario, HTRACE_SCHEDULE=n only the n-th; HTRACE_SCENARIO=n one scenario only.
 */
#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <ucontext.h>

#include "unit.h"

static void point(void);
static const volatile void *load(const volatile void *at, int order);
static int compare_exchange(void *at, void *expected, unsigned long long value);
static unsigned long long fetch_add(void *at, unsigned long long value, int order);
static void store(void *at, unsigned long long value, size_t size, int order);
static void drain(void);

#define __atomic_load_n(p, order) \
	(*(const volatile __typeof__(*(p)) *)load((p), (order)))
#define __atomic_store_n(p, v, order) \
	store((void *)(p), (v), sizeof(*(p)), order)
#define __atomic_thread_fence(order) drain()
#define __atomic_fetch_add(p, v, order) fetch_add((p), (v), order)
#define __atomic_compare_exchange_n(p, e, v, weak, order, order2) compare_exchange((p), (e), (v))
#include "core.h"

static void copy_preempted(void *to, const void *from, size_t len)
{
	for (size_t i = 0; i < len; i += 8) {
		point();
		memcpy((char *)to + i, (const char *)from + i, 8);
	}
}

#define htrace_copy_out copy_preempted
#include "consumer.c"
#include "consumer_borrow.c"
#include "consumer_each.c"

#define PRODUCERS 3
#define READER PRODUCERS
#define EARLIER PRODUCERS /* who wrote what is there before the start, one record a block */
#define MAX_RECORDS 80
#define SCHEMA 7
#define STACK (128 << 10)

/* DELAYED: stores may become visible late; PLAIN: releasing ones too, as in BPF on arm64 */
enum order { STRONG, DELAYED, PLAIN };
enum start { PRESENT, LATE, CARRY, RESUMED, NR_STARTS };
/* How the reader reads. */
enum way { COPIED, BORROWED, BY_CALLBACK };

static struct {
	__u64 random;
	struct htrace_ring *ring;
	struct htrace_geometry g;
	__u64 clock, now[PRODUCERS]; /* the last, and what each read of it */
	/* Of each attempt to reserve: the head that it began with; has it moved when the ring seemed full? */
	__u64 loaded[PRODUCERS], began_at[PRODUCERS];
	bool moved[PRODUCERS], unordered[PRODUCERS];
	int attempts[PRODUCERS]; /* loads of head: one each, or two of one that was refused */
	unsigned int records;        /* per producer */
	unsigned int idle[READER + 1]; /* most points between two records, or reads */
	enum start start;
	enum way way;
	enum htrace_start from;
	__u64 produced;
	__u64 at[EARLIER + 1][MAX_RECORDS]; /* position of each payload, 0: dropped */
	__u64 drop_head[PRODUCERS * MAX_RECORDS]; /* head when the n-th was dropped */
	/* the reader's */
	__u64 start_pos, received, overwritten, dropped, before, last_time;
	__s64 last[EARLIER + 1];
	struct htrace_consumer *present;
	bool exact; /* it could see all of what was there before it; else some is in no account */
	enum order order;
	__u64 seen_head; /* while late_head: what all see, as the CAS of head_by is not visible yet */
	bool late_head;
	int head_by;
	unsigned int nap; /* points of the reader until producers go round the ring meanwhile; 0: no */
	char failure[200];
} run;

#define MAX_DELAYED 8 /* stores of one producer that nobody else sees yet */

static struct {
	ucontext_t context;
	bool done;
	struct {
		void *at;
		__u64 value;
		size_t size;
	} delayed[MAX_DELAYED];
	unsigned int nr_delayed;
} routine[READER + 1];
static ucontext_t scheduler;
static int current = -1;
static unsigned int points_left; /* until the current one is preempted */
static char stacks[READER + 1][STACK] __attribute__((aligned(64)));

#define CHECK(c, ...)                                                               \
	do {                                                                        \
		if (!(c) && !run.failure[0])                                        \
			snprintf(run.failure, sizeof(run.failure), #c ": " __VA_ARGS__); \
	} while (0)

/* Stacks of our own: keep ASan from putting frames elsewhere. */
const char *__asan_default_options(void);
const char *__asan_default_options(void)
{
	return "detect_stack_use_after_return=0";
}

static unsigned int below(unsigned int n)
{
	return (unsigned int)(unit_random(&run.random) % n);
}

static void nap(void);

static void point(void)
{
	if (current == READER && run.nap && !--run.nap)
		nap();
	if (current >= 0 && !points_left--)
		swapcontext(&routine[current].context, &scheduler);
}

static void rest(unsigned int points)
{
	points_left = 0;
	while (points--)
		point();
}

static bool all_produced(void)
{
	for (int p = 0; p < PRODUCERS; p++)
		if (!routine[p].done)
			return false;
	return true;
}

/* Some laps, whatever the schedule: what was loaded before is that much older than what follows. */
static void nap(void)
{
	__u64 laps = 1 + below(3), was = run.ring->head;

	while (!all_produced() && run.ring->head - was < laps * (run.g.ring_mask + 1))
		rest(1);
}

static void perform(void *at, __u64 value, size_t size)
{
	point();
	if (size == 4)
		*(volatile __u32 *)at = (__u32)value;
	else
		*(volatile __u64 *)at = value;
}

/* As all but who is about to move it see it. */
static __u64 visible_head(void)
{
	return run.late_head ? run.seen_head : run.ring->head;
}

/* Is it a word by which a block may turn out not to be free? */
static bool may_refuse(const volatile void *at)
{
	__u64 off = (__u64)((const volatile char *)at - (const char *)run.ring) - run.g.desc_off;

	return at == &run.ring->consumed ||
	       (off < run.g.data_off - run.g.desc_off &&
		off % sizeof(struct htrace_block) == offsetof(struct htrace_block, commit));
}

/*
 * A CAS's store may come late too: others see the head before, and their CASes fail meanwhile. And if a
 * load by which a block may turn out not to be free does not acquire, the one of head behind it comes first.
 */
static const volatile void *load(const volatile void *at, int order)
{
	const volatile void *from = at;

	point();
	if (at == &run.ring->head && run.late_head)
		from = &run.seen_head;
	if (current < 0 || current == READER)
		return from;
	if (at == &run.ring->head) {
		run.attempts[current]++;
		if (!run.unordered[current])
			run.loaded[current] = visible_head();
		else
			from = &run.loaded[current];
		run.unordered[current] = false;
	} else if (may_refuse(at)) {
		run.moved[current] = visible_head() != run.began_at[current];
		run.unordered[current] = run.order != STRONG && order == __ATOMIC_RELAXED;
	}
	return from;
}

/* What this coroutine stored becomes visible, in any order. */
static void drain(void)
{
	unsigned int i;

	point();
	if (current < 0)
		return;
	if (run.late_head && run.head_by == current)
		run.late_head = false;
	for (__typeof__(&routine[0]) r = &routine[current]; r->nr_delayed;) {
		i = below(r->nr_delayed);
		perform(r->delayed[i].at, r->delayed[i].value, r->delayed[i].size);
		r->delayed[i] = r->delayed[--r->nr_delayed];
	}
}

/* No word is stored twice, or loaded by whom stored it, between two orders: no need to look. */
static void store(void *at, unsigned long long value, size_t size, int order)
{
	__typeof__(&routine[0]) r = &routine[current < 0 ? READER : current];

	if (order == __ATOMIC_RELEASE && run.order != PLAIN)
		drain();
	if (run.order == STRONG || current < 0 || current == READER || r->nr_delayed == MAX_DELAYED ||
	    !below(4)) {
		perform(at, value, size);
		return;
	}
	r->delayed[r->nr_delayed].at = at;
	r->delayed[r->nr_delayed].value = value;
	r->delayed[r->nr_delayed++].size = size;
}

static int compare_exchange(void *at, void *expected, unsigned long long value)
{
	__u64 *word = at, *old = expected;

	drain();
	if (current >= 0 && current < PRODUCERS)
		run.unordered[current] = false;
	if (*word != *old) {
		*old = *word;
		return 0;
	}
	if (run.order != STRONG && word == &run.ring->head && below(2)) {
		run.seen_head = *word;
		run.head_by = current;
		run.late_head = true;
	}
	*word = value;
	return 1;
}

/* Full is a ring whose head stayed where it was; else somebody got that room, or there was more. */
static void check_drop(__u64 nr)
{
	CHECK(!run.moved[current] || run.attempts[current] >= HTRACE_RETRIES,
	      "drop %llu: head had moved, %d attempts", nr, run.attempts[current]);
	if (nr < PRODUCERS * MAX_RECORDS)
		run.drop_head[nr] = visible_head();
}

static unsigned long long fetch_add(void *at, unsigned long long value, int order)
{
	__u64 *word = at, old;

	if (order == __ATOMIC_RELAXED)
		point();
	else
		drain();
	old = *word;
	*word += value;
	if (word == &run.ring->dropped)
		check_drop(old);
	return old;
}

/* ------------------------------------------------------------------------------- the coroutines */

static __u64 tick(int p)
{
	point();
	run.clock += 1 + (below(40) ? below(50) : unit_random(&run.random) % (3ULL << 31));
	run.began_at[p] = run.loaded[p];
	return run.now[p] = run.clock;
}

static __u64 word_of(int p, __u64 nr, __u32 i)
{
	return ((__u64)p << 60) + nr * 1000003 + i;
}

static void produce(int p, unsigned int nr)
{
	static const __u32 most[] = { 24, 100, 400 };
	__u32 len = below(10) ? 8 + below(most[below(3)]) : run.g.max_payload - below(2);
	struct htrace_slot slot;
	__u64 *at, off;

	len += below(50) ? 0 : run.g.max_payload; /* now and then too large */
	run.produced++;
	run.attempts[p] = 0;
	run.moved[p] = run.unordered[p] = false;
	at = htrace_reserve(run.ring, &run.g, &run.ring->consumed, 1 + p, len, SCHEMA, tick(p),
			    &slot);
	if (!at)
		return;
	for (__u32 i = 0; i < (len + 7) / 8; i++)
		store(&at[i], i == 1 ? run.now[p] : i ? word_of(p, nr, i) : nr, 8,
		      __ATOMIC_RELAXED);
	/* Found from head: until the commit, the ring's rules keep head within a lap of it. */
	off = (__u64)((char *)at - (char *)run.ring) - run.g.data_off;
	run.at[p][nr] = run.ring->head - ((run.ring->head - off) & run.g.ring_mask);
	htrace_commit(&slot);
}

static void producer(int p)
{
	for (unsigned int nr = 0; nr < run.records; nr++) {
		produce(p, nr);
		rest(below(run.idle[p] + 1));
	}
	routine[p].done = true;
	swapcontext(&routine[p].context, &scheduler);
}

static struct htrace_consumer *start_reader(void)
{
	struct htrace_image image = { .ring = run.ring, .geometry = run.g };
	struct htrace_consumer_opts o = { .sz = sizeof(o), .start = run.from };
	__u64 head = visible_head();
	struct htrace_consumer *c = NULL;

	image.placement = HTRACE_PLACEMENT_VSHMEM;
	o.consumed = run.g.policy == HTRACE_DISCARD ? &run.ring->consumed : NULL;
	/* Two loads of the start seldom are laps apart by themselves. */
	if (run.start == CARRY && run.g.policy == HTRACE_OVERWRITE && below(2))
		run.nap = 1 + below(24);
	if (htrace_consumer_new(&c, &image, &o))
		abort();
	run.nap = 0;
	run.exact = head == visible_head();
	for (__u64 i = 0; i < ring_size(c) / block_size(c); i++)
		run.exact &= c->slots[i].known;
	return c;
}

static void check_loss(struct htrace_consumer *c, const struct htrace_batch *b)
{
	run.overwritten += b->overwritten;
	run.dropped += b->dropped;
	run.before += b->before;
	CHECK(!b->corrupt, "%s", htrace_consumer_error(c));
	CHECK(!b->events || b->schema == SCHEMA, "%u", b->schema);
}

static void check_record(const struct htrace_record *r)
{
	const __u64 *at = r->payload;
	int p = (int)r->id - 1;

	CHECK(p <= EARLIER && (__s64)at[0] > run.last[p] && at[0] < MAX_RECORDS, "record %llu of %d",
	      at[0], p);
	CHECK(r->time > run.last_time, "%#llx %#llx", r->time, run.last_time);
	CHECK(r->len < 16 || at[1] == r->time, "%#llx %#llx", at[1], r->time);
	for (__u32 i = 2; i < r->len / 8; i++)
		CHECK(at[i] == word_of(p, at[0], i), "record %llu of %d", at[0], p);
	if (run.failure[0])
		return;
	run.last[p] = (__s64)at[0];
	run.last_time = r->time;
	run.received++;
}

static void check_batch(struct htrace_consumer *c, const struct htrace_batch *b)
{
	struct htrace_record r;
	struct htrace_iter it;
	__u32 events = 0;

	check_loss(c, b);
	for (htrace_iter_init(&it, b); !run.failure[0] && htrace_iter_next(&it, &r); events++)
		check_record(&r);
	CHECK(events == b->events, "%u %u", events, b->events);
}

/* ----------------------------------------------------------------------------- ways of reading */

#define MAX_HELD 4

/* What is out, oldest first: copies, which are looked at when the ring says that they hold. */
static struct {
	struct htrace_batch b;
	unsigned char data[1024];
	bool back, stale;
} held[MAX_HELD];
static unsigned int nr_held;

static int borrow_one(struct htrace_consumer *c)
{
	__typeof__(&held[0]) h = &held[nr_held];
	int ret = htrace_consumer_borrow(c, &h->b);

	if (ret != 1)
		return ret;
	htrace_copy_out(h->data, h->b.data, h->b.len);
	h->back = !h->b.len;
	h->stale = false;
	nr_held++;
	return 1;
}

/* The oldest, when it is back: to be looked at in the order of the ring. */
static void take_oldest(struct htrace_consumer *c)
{
	struct htrace_batch b = held[0].b;

	b.data = held[0].data;
	if (held[0].stale) {
		check_loss(c, &b);
		run.overwritten += b.events;
	} else {
		check_batch(c, &b);
	}
	memmove(held, held + 1, --nr_held * sizeof(*held));
}

static void give_back(struct htrace_consumer *c, unsigned int i)
{
	int ret;

	if (held[i].back)
		return;
	ret = htrace_consumer_release(c, &held[i].b);
	CHECK(!ret || (ret == -ESTALE && run.g.policy == HTRACE_OVERWRITE), "%d", ret);
	CHECK(htrace_consumer_release(c, &held[i].b) == -EINVAL, "back already");
	held[i].back = true;
	held[i].stale = ret != 0;
}

/* Some borrow, some give back in any order; 1: something was done. */
static int read_borrowed(struct htrace_consumer *c)
{
	int ret = 1;

	if (nr_held < MAX_HELD && (!nr_held || below(2)))
		ret = borrow_one(c);
	else
		give_back(c, below(nr_held));
	if (ret <= 0 && nr_held) {
		give_back(c, below(nr_held));
		ret = 1;
	}
	while (nr_held && held[0].back)
		take_oldest(c);
	CHECK(!nr_held || run.g.policy != HTRACE_DISCARD || run.ring->consumed <= held[0].b.pos,
	      "%#llx %#llx", run.ring->consumed, held[0].b.pos);
	return ret;
}

static int on_record(void *ctx, const struct htrace_record *r, const struct htrace_batch *b)
{
	__u64 pos = b->pos + (__u64)((const unsigned char *)r->payload - b->data) - HTRACE_REC_HDR;

	(void)ctx;
	rest(below(5));
	CHECK(run.g.policy != HTRACE_DISCARD || run.ring->consumed <= pos, "%#llx %#llx",
	      run.ring->consumed, pos);
	check_record(r);
	return run.failure[0] || !below(4);
}

static int on_loss(void *ctx, const struct htrace_batch *b)
{
	check_loss(ctx, b);
	return !below(4);
}

static int read_by_callback(struct htrace_consumer *c)
{
	struct htrace_each_opts o = { sizeof(o), on_record, on_loss, c, 1 + below(3) };
	__u64 had = run.received, lost = run.overwritten + run.dropped + run.before;
	long ret = htrace_consumer_each(c, &o);

	CHECK(ret < 0 || run.failure[0] || (__u64)ret == run.received - had, "%ld", ret);
	return ret < 0 ? (int)ret : ret || lost != run.overwritten + run.dropped + run.before;
}

/* As htrace_consumer_read(); what was read is checked. */
static int read_some(struct htrace_consumer *c)
{
	struct htrace_batch b;
	int ret;

	if (run.way == BORROWED)
		return read_borrowed(c);
	if (run.way == BY_CALLBACK && below(4))
		return read_by_callback(c);
	ret = htrace_consumer_read(c, &b);
	if (ret == 1)
		check_batch(c, &b);
	return ret;
}

/* Everything was produced and read: does the account of each kind of loss add up? */
static void check_account(struct htrace_consumer *c)
{
	struct htrace_consumer_stats s = { .sz = sizeof(s) };
	__u64 sum = run.received + run.overwritten + run.dropped + run.before, missing = 0;

	htrace_consumer_get_stats(c, &s);
	for (int p = 0; p <= EARLIER; p++)
		for (int i = 0; i < MAX_RECORDS; i++)
			missing += run.at[p][i] > run.start_pos;
	missing -= run.received;
	CHECK(!htrace_consumer_backlog(c), "stuck");
	CHECK(!s.corrupt_blocks, "%s", htrace_consumer_error(c));
	CHECK(run.start == RESUMED || (s.events == run.received && s.overwritten == run.overwritten),
	      "statistics: %llu events, %llu overwritten", s.events, s.overwritten);
	CHECK(run.g.policy == HTRACE_OVERWRITE || !missing, "%llu missing", missing);
	if (run.start == RESUMED)
		return; /* of loss, several readers have one part each */
	/* PLAIN: what was there before the start may be taken for what was lost since */
	CHECK(run.order == PLAIN || (run.exact ? run.overwritten == missing :
						 run.overwritten <= missing + run.before),
	      "%llu, %llu missing", run.overwritten, missing);
	CHECK(run.dropped <= run.ring->dropped, "%llu %llu", run.dropped, run.ring->dropped);
	CHECK(run.exact ? sum == run.produced : sum <= run.produced,
	      "received %llu overwritten %llu dropped %llu before %llu, produced %llu",
	      run.received, run.overwritten, run.dropped, run.before, run.produced);
	if (run.start == PRESENT)
		CHECK(!run.before && run.dropped == run.ring->dropped, "%llu %llu", run.before,
		      run.dropped);
}

static void reader(void)
{
	struct htrace_consumer *c;
	const __u64 *at = run.drop_head;
	__u64 backlog, had;
	bool last;
	int ret;

	if (run.start == LATE)
		rest(below(4000));
	c = run.start == PRESENT ? run.present : start_reader();
	run.start_pos = c->pos > c->skip_until ? c->pos : c->skip_until;
	for (int idle = 0; idle < 16 && !run.failure[0];) {
		if (run.start == RESUMED && !below(20)) {
			htrace_consumer_free(c);
			nr_held = 0; /* not looked at: the next one gets them */
			c = start_reader();
		}
		last = all_produced();
		had = run.received;
		ret = read_some(c);
		backlog = htrace_consumer_backlog(c);
		CHECK(ret >= 0, "%d %s", ret, htrace_consumer_error(c));
		/* Drained: no drop is told before the position at which it happened is reached. */
		CHECK(run.received != had || backlog || !c->dropped || at[c->dropped - 1] <= c->pos,
		      "drop %llu at %#llx, told at %#llx", c->dropped, at[c->dropped - 1], c->pos);
		idle = ret || !last ? 0 : backlog ? idle + 1 : 16;
		rest(below(run.idle[READER] + 1));
	}
	check_account(c);
	htrace_consumer_free(c);
	routine[READER].done = true;
	swapcontext(&routine[READER].context, &scheduler);
}

/* -------------------------------------------------------------------------------- the schedules */

/* Laps without number have passed; the counters' low halves and their events are about to wrap. */
static void make_earlier(void)
{
	__u64 block = 1ULL << run.g.block_shift, ring = run.g.ring_mask + 1;
	__u64 laps = (1ULL << 37) / block - 2, before = (1ULL << 32) - 6;

	for (__u64 i = 0; i < ring / block; i++) {
		__u64 beg = (laps - 1) * ring + i * block;
		struct htrace_block *b = htrace_ring_block(run.ring, &run.g, beg);
		__u64 *at = (__u64 *)htrace_ring_data(run.ring, &run.g, beg);

		run.clock += 10;
		*b = (struct htrace_block){ .commit = ((before + 1) << 32) + laps * block,
			.base = run.clock, .t_end = run.clock, .events_before = before,
			.beg = beg, .end = beg + 16, .schema = SCHEMA };
		at[0] = (EARLIER + 1) | 16 << 16 | run.clock << 32;
		at[1] = i;
		at[2] = HTRACE_ID_PAD | b->end << 32;
		run.at[EARLIER][i] = beg + 8;
		run.produced += before + 1;
	}
	run.ring->head = run.ring->consumed = laps * ring;
}

static void prepare(enum htrace_policy policy, enum start start, enum way way, __u64 nr)
{
	__u64 block;
	size_t size;

	memset(&run, 0, sizeof(run));
	run.random = nr * NR_STARTS + start;
	run.start = start;
	run.way = way;
	nr_held = 0;
	run.order = nr % 2 ? STRONG : nr % 4 ? DELAYED : PLAIN;
	run.from = (start == LATE || start == CARRY) && below(2) ? HTRACE_START_NEWEST
								: HTRACE_START_OLDEST;
	run.clock = 5ULL << 40;
	run.records = MAX_RECORDS / 4 + below(MAX_RECORDS * 3 / 4);
	for (int i = 0; i <= READER; i++)
		run.idle[i] = below(2) ? 5 : 200;
	memset(run.last, 0xff, sizeof(run.last));
	block = 512 << below(2);
	if (htrace_geometry_init(&run.g, block << (1 + below(2)), block, policy))
		abort();
	size = htrace_image_size(&run.g, 4096);
	run.ring = aligned_alloc(4096, size);
	memset(run.ring, 0xa5, size);
	memset(run.ring, 0, run.g.data_off);
	if (start == CARRY)
		make_earlier();
	if (start == PRESENT)
		run.present = start_reader();
	for (int i = 0; i <= READER; i++) {
		ucontext_t *u = &routine[i].context;

		routine[i].done = false;
		routine[i].nr_delayed = 0;
		getcontext(u);
		u->uc_stack.ss_sp = stacks[i];
		u->uc_stack.ss_size = STACK;
		makecontext(u, i < READER ? (void (*)(void))producer : reader, 1, i);
	}
}

/* One after the other, for so many points; one of them may be asleep meanwhile. */
static void schedule(void)
{
	static const unsigned int bursts[] = { 1, 8, 100, ~0u /* until it rests */ };
	unsigned int style = below(8), sleep = 0;
	int asleep = -1;

	while (!routine[READER].done) {
		int i = (int)below(READER + 1);

		if (!sleep--) {
			asleep = below(4) ? -1 : (int)below(READER + 1);
			sleep = below(300);
		}
		if (i == asleep || routine[i].done)
			continue;
		points_left = bursts[style < 4 ? style : below(4)];
		points_left -= points_left < ~0u ? below(points_left) : 0;
		current = i;
		swapcontext(&scheduler, &routine[i].context);
		current = -1;
	}
	free(run.ring);
}

static void run_schedules(int scenario, enum way way)
{
	enum htrace_policy policy = scenario % 2 ? HTRACE_OVERWRITE : HTRACE_DISCARD;
	enum start start = (enum start)(scenario / 2);
	const char *many = getenv("HTRACE_SCHEDULES"), *one = getenv("HTRACE_SCHEDULE");
	__u64 first = one ? strtoull(one, NULL, 0) : 1;
	__u64 most = unit_some((start == CARRY ? 5000 : 1500) / (way == COPIED ? 1 : 4));
	__u64 last = one ? first : many ? strtoull(many, NULL, 0) : most;
	const char *only = getenv("HTRACE_SCENARIO");
	__u64 received = 0, overwritten = 0, dropped = 0;

	if (only && atoi(only) != scenario)
		return;
	for (__u64 nr = first; nr <= last; nr++) {
		prepare(policy, start, way, nr);
		schedule();
		if (run.failure[0])
			ck_abort_msg("HTRACE_SCHEDULE=%llu, policy %u, start %u: way %u: %s", nr,
				     policy, start, way, run.failure);
		received += run.received;
		overwritten += run.overwritten;
		dropped += run.dropped;
	}
	ck_assert_uint_gt(received, 0);
	ck_assert(one || dropped);
	ck_assert(one || policy == HTRACE_DISCARD || overwritten);
}

START_TEST(test_schedules)
{
	run_schedules(_i, COPIED);
}
END_TEST

START_TEST(test_borrowed)
{
	run_schedules(_i, BORROWED);
}
END_TEST

START_TEST(test_by_callback)
{
	run_schedules(_i, BY_CALLBACK);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("schedules");
	TCase *t = tcase_create("schedules");

	tcase_set_timeout(t, 0);
	/* RESUMED is the last and for discard only: of overwriting readers each reads all. */
	tcase_add_loop_test(t, test_schedules, 0, 2 * RESUMED + 1);
	tcase_add_loop_test(t, test_borrowed, 0, 2 * RESUMED + 1);
	tcase_add_loop_test(t, test_by_callback, 0, 2 * RESUMED + 1);
	suite_add_tcase(s, t);
	return unit_run(s);
}
