/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Producers at full speed into a small ring, and its reader, on real CPUs. Every record says whose
 * it is, and each of its words can be told from that; times are unique and rise; the account must
 * add up. Exit status 0: all was right.
 *
 *   stress threads|signals|single|readers|killed discard|overwrite RECORDS [borrow|packed]
 *
 * threads: nothing else. signals: handlers interrupt producers anywhere, and produce. single: the same
 * with one producer, which therefore needs no bus locks. readers: they come and go. killed: producers
 * are processes, killed anywhere, by turns several and one that a timer's handler interrupts; RECORDS is
 * then the number of rounds, each with a new ring. borrow: read without a copy, several batches at a time.
 * packed: the first producer (not its handler) records switches of tasks, packed if they can be.
 */
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static void jitter(void);

/* The real code, which may be held up before each access to shared memory. */
#define __atomic_load_n(p, order) (jitter(), __atomic_load_n(p, order))
#define __atomic_store_n(p, v, order) (jitter(), __atomic_store_n(p, v, order))
#define __atomic_fetch_add(p, v, order) (jitter(), __atomic_fetch_add(p, v, order))
#define __atomic_compare_exchange_n(p, e, v, weak, order, order2) \
	(jitter(), __atomic_compare_exchange_n(p, e, v, weak, order, order2))
#include "consumer.c"
#include "consumer_borrow.c"

#include <htrace/pack.h>

#ifndef PRODUCERS
#define PRODUCERS 8
#endif
#define IDS (2 * PRODUCERS) /* a producer, and the handler that interrupts it */
#define SWITCHER 0 /* who packs */
#define TIMES 65536 /* of as many of its records */
#define SCHEMA 7
#define RING 2048
#define BLOCK 512

enum mode { THREADS, SIGNALS, SINGLE, READERS, KILLED };

/* Shared with producers that are processes. */
struct shared {
	__u64 clock;
	__u64 attempts[IDS], done[IDS]; /* records begun, and committed or dropped */
	__u64 times[TIMES]; /* of switches, by number */
	__u64 inside; /* records of handlers that came between reserve and commit */
	int stop;
};

#define SHARED ((sizeof(struct shared) + 4095) / 4096 * 4096)

static struct shared *shared;
static struct htrace_ring *ring;
static struct htrace_geometry g;
static enum mode mode;
static bool borrow, pack;
static unsigned long long records;
static pthread_t threads[PRODUCERS];
static _Thread_local int me = -1; /* the number of a producer */
static _Thread_local bool midway; /* reserved, not committed */
static _Thread_local __u64 seed;

/* Of the reader. */
static __u64 received, overwritten, dropped, before, last_time;
static __u64 next[IDS];

static bool single; /* one producer, which therefore needs no bus locks, and its handlers */

static int producers(void)
{
	return single ? 1 : PRODUCERS;
}

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
	_exit(1);
}

static unsigned int below(unsigned int n)
{
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned int)(seed >> 33) % n;
}

static void jitter(void)
{
	/* The reader, often: few of its accesses meet a producer's. */
	unsigned int x = below(me < 0 ? 1 << 12 : 1 << 16);

	if (x >> 10)
		return;
	if (x < 64)
		sched_yield();
	else if (x < 65)
		usleep(50);
	else
		for (volatile unsigned int i = 0; i < x; i++)
			;
}

static __u64 word_of(int id, __u64 nr, __u32 i)
{
	return ((__u64)id << 60) + nr * 1000003 + i;
}

/* ---------------------------------------------------------------------------------- producers */

/* Unique and rising; now and then further than the short form of the header can tell. */
static __u64 tick(void)
{
	__u64 step = below(64) ? 1 + below(1000) : 8ULL * below(1U << 30);

	if (!below(16))
		sched_yield();
	return __atomic_add_fetch(&shared->clock, step, __ATOMIC_SEQ_CST);
}

/*
 * Plain, as tracers do, so that ThreadSanitizer misses what orders it. But where records are
 * overwritten while they are copied, that is a race by design: the copy is thrown away.
 */
static void put(__u64 *at, __u64 word)
{
	if (g.policy == HTRACE_DISCARD)
		*at = word;
	else
		htrace_store(at, word);
}

/* Most say by whom the one before was left; now and then none of it can be packed. */
static struct htrace_switch switch_of(__u64 nr)
{
	struct htrace_switch e = {
		.prev_tid = (__u32)(nr % 37 ? nr - 1 : nr), .next_tid = (__u32)nr, .prev_prio = (__s16)((nr - 1) % 140),
		.next_prio = (__s16)(nr % 140), .prev_state = nr % 10 ? 1u << (nr % 9) : 0,
	};

	if (!(nr % 101))
		e.prev_state = (__u32)nr;
	return e;
}

static void switch_task(void)
{
	__u64 nr = shared->attempts[SWITCHER], now;
	struct htrace_switch e = switch_of(nr);

	__atomic_store_n(&shared->attempts[SWITCHER], nr + 1, __ATOMIC_RELAXED);
	htrace_record_switch(ring, &g, &g, &ring->consumed, 1u + SWITCHER, &e, SCHEMA,
			     (now = tick(), __atomic_store_n(&shared->times[nr % TIMES], now, __ATOMIC_RELAXED), now));
	__atomic_store_n(&shared->done[SWITCHER], nr + 1, __ATOMIC_RELEASE);
}

static void produce(int id)
{
	if (pack && id == SWITCHER) {
		switch_task();
		return;
	}

	__u64 nr = shared->attempts[id], now = 0;
	bool slow = nr >> 8 & 1; /* by turns, so that the reader reads live, and is lapped */
	__u32 words = 2 + below(slow || below(8) ? 2 : 50);
	struct htrace_slot slot;
	__u64 *at;

	__atomic_store_n(&shared->attempts[id], nr + 1, __ATOMIC_RELAXED);
	if (single)
		at = htrace_reserve_single(ring, &g, &ring->consumed, 1u + (__u32)id, 8 * words,
					   SCHEMA, (now = tick()), &slot);
	else
		at = htrace_reserve(ring, &g, &ring->consumed, 1u + (__u32)id, 8 * words, SCHEMA,
				    (now = tick()), &slot);
	if (at) {
		midway = true;
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
		for (__u32 i = 0; i < words; i++)
			put(&at[i], i == 1 ? now : i ? word_of(id, nr, i) : nr);
		if (!below(slow ? 4 : 32))
			sched_yield();
		/* ThreadSanitizer lets only signals of one's own come anywhere. */
		if ((mode == SIGNALS || mode == SINGLE) && id < PRODUCERS && !below(64))
			raise(SIGUSR1);
		__atomic_signal_fence(__ATOMIC_SEQ_CST);
		midway = false;
		if (single)
			htrace_commit_single(&slot);
		else
			htrace_commit(&slot);
	}
	__atomic_store_n(&shared->done[id], nr + 1, __ATOMIC_RELEASE);
}

static void interrupted(int sig)
{
	__u64 kept = seed;
	bool inside = midway;

	(void)sig;
	if (me < 0) /* the thread has not begun: it is nobody yet */
		return;
	if (inside)
		__atomic_add_fetch(&shared->inside, 1, __ATOMIC_RELAXED);
	produce(PRODUCERS + me);
	midway = inside;
	seed = kept + 1;
}

static void *producer(void *arg)
{
	me = (int)(long)arg;
	seed = 17 + (__u64)me + (__u64)getpid();
	for (__u64 i = 0; i < records; i++) {
		produce(me);
		if (i >> 8 & 1)
			sched_yield();
		if (!below(1000))
			usleep(below(300));
	}
	__atomic_add_fetch(&shared->stop, 1, __ATOMIC_RELEASE);
	/* Signals may come until everybody is through. */
	while (__atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE) <= producers())
		usleep(1000);
	return NULL;
}

static bool all_through(void)
{
	return __atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE) >= producers();
}

static void *interrupter(void *arg)
{
	seed = 99;
	while (!all_through()) {
		pthread_kill(threads[below((unsigned int)producers())], SIGUSR1);
		usleep(below(60));
	}
	/* Also those whose signal is pending still: handlers run in a thread that sleeps. */
	usleep(20000);
	__atomic_add_fetch(&shared->stop, 1, __ATOMIC_RELEASE);
	return arg;
}

/* ----------------------------------------------------------------------------------- the reader */

static struct htrace_consumer *start_reader(void)
{
	struct htrace_image image = { .ring = ring, .geometry = g, .packed = pack };
	struct htrace_consumer_opts o = { .sz = sizeof(o) };
	struct htrace_consumer *c;

	image.placement = HTRACE_PLACEMENT_VSHMEM;
	o.consumed = g.policy == HTRACE_DISCARD ? &ring->consumed : NULL;
	if (htrace_consumer_new(&c, &image, &o))
		die("no reader");
	return c;
}

/* Its number and its time, in the place of other records' first words. */
static void check_switch(const struct htrace_record *r, __u64 *first)
{
	const struct htrace_switch *e = r->payload;
	struct htrace_switch is = switch_of(e->next_tid);
	__u64 tried = __atomic_load_n(&shared->attempts[SWITCHER], __ATOMIC_ACQUIRE);

	if (r->len != sizeof(is) || memcmp(e, &is, sizeof(is)))
		die("switch %u of %llu: from %u, %d, %d, %#x", e->next_tid, tried, e->prev_tid, e->prev_prio, e->next_prio,
		    e->prev_state);
	first[0] = e->next_tid;
	first[1] = tried - first[0] < TIMES / 2 ?
		__atomic_load_n(&shared->times[first[0] % TIMES], __ATOMIC_RELAXED) : r->time;
}

static void check_record(const struct htrace_record *r)
{
	const __u64 *at = r->payload;
	int id = (int)r->id - 1;
	__u64 first[2];

	if (id < 0 || id >= IDS || r->len < 16)
		die("a record of nobody: id %u, %u bytes", r->id, r->len);
	if (pack && id == SWITCHER) {
		check_switch(r, first);
		at = first;
	}
	/* A reader that comes later may see what an earlier one read, if nothing is consumed. */
	if (at[0] < next[id] && (mode != READERS || g.policy == HTRACE_DISCARD))
		die("record %llu of %d after %llu", at[0], id, next[id] - 1);
	if (at[0] >= __atomic_load_n(&shared->attempts[id], __ATOMIC_RELAXED))
		die("record %llu of %d, which has not tried so many", at[0], id);
	if (at[1] != r->time)
		die("record %llu of %d: time %#llx, not %#llx", at[0], id, r->time, at[1]);
	for (__u32 i = 2; i < r->len / 8 && at == r->payload; i++)
		if (at[i] != word_of(id, at[0], i))
			die("record %llu of %d: word %u is %#llx", at[0], id, i, at[i]);
	if (r->time <= last_time && (mode != READERS || g.policy == HTRACE_DISCARD))
		die("record %llu of %d: time steps back", at[0], id);
	last_time = r->time;
	next[id] = at[0] + 1;
	received++;
}

static void check_loss(struct htrace_consumer *c, const struct htrace_batch *b)
{
	if (b->corrupt)
		die("corrupt: %s", htrace_consumer_error(c));
	if (b->overwritten && g.policy == HTRACE_DISCARD)
		die("%llu records overwritten that had to be kept", b->overwritten);
	if (b->events && b->schema != SCHEMA)
		die("schema %u", b->schema);
	overwritten += b->overwritten;
	dropped += b->dropped;
	before += b->before;
}

static void check_batch(const struct htrace_batch *b)
{
	struct htrace_record r;
	struct htrace_iter it;
	__u32 events = 0;

	for (htrace_iter_init(&it, b); htrace_iter_next(&it, &r); events++)
		check_record(&r);
	if (events != b->events)
		die("%u records in a batch of %u", events, b->events);
}

/* Batches that are out, oldest first, and what was in them: looked at when the ring says it holds. */
static struct {
	struct htrace_batch b;
	unsigned char data[BLOCK];
} held[8];
static unsigned int nr_held;

static void give_back_oldest(struct htrace_consumer *c)
{
	int ret = htrace_consumer_release(c, &held[0].b);

	if (ret && (ret != -ESTALE || g.policy == HTRACE_DISCARD))
		die("a batch given back: %d", ret);
	held[0].b.data = held[0].data;
	check_loss(c, &held[0].b);
	if (ret)
		overwritten += held[0].b.events;
	else
		check_batch(&held[0].b);
	memmove(held, held + 1, --nr_held * sizeof(*held));
}

static int borrow_one(struct htrace_consumer *c)
{
	int ret = nr_held < 8 ? htrace_consumer_borrow(c, &held[nr_held].b) : 0;

	if (ret == 1) {
		struct htrace_batch *b = &held[nr_held++].b;

		if (below(2))
			jitter();
		htrace_copy_once(held[nr_held - 1].data, b->data, b->len);
	}
	if (nr_held && (ret != 1 || below(2))) {
		give_back_oldest(c);
		return 1;
	}
	return ret;
}

static int copy_one(struct htrace_consumer *c)
{
	struct htrace_batch b;
	int ret = htrace_consumer_read(c, &b);

	if (ret == 1) {
		check_loss(c, &b);
		check_batch(&b);
	}
	return ret;
}

/* One batch: is there more? */
static bool read_one(struct htrace_consumer *c)
{
	int ret = borrow ? borrow_one(c) : copy_one(c);

	if (ret < 0)
		die("the ring is broken: %s", htrace_consumer_error(c));
	return ret;
}

static __u64 sum(const __u64 *of)
{
	__u64 all = 0;

	for (int i = 0; i < IDS; i++)
		all += __atomic_load_n(&of[i], __ATOMIC_ACQUIRE);
	return all;
}

static void new_ring(void)
{
	memset(shared, 0, sizeof(*shared));
	shared->clock = 5ULL << 40;
	memset(ring, 0, g.data_off);
	memset((char *)ring + g.data_off, 0xa5, RING);
	received = overwritten = dropped = before = last_time = 0;
	memset(next, 0, sizeof(next));
}

static void run_threads(void)
{
	struct htrace_consumer *c = start_reader();
	bool interrupts_come = mode == SIGNALS || mode == SINGLE;
	unsigned int readers = 1;
	pthread_t interrupts;
	__u64 told;

	for (long i = 0; i < producers(); i++)
		if (pthread_create(&threads[i], NULL, producer, (void *)i))
			die("no thread");
	if (interrupts_come) {
		if (pthread_create(&interrupts, NULL, interrupter, NULL))
			die("no thread");
	}
	while (!all_through()) {
		if (!below(200))
			usleep(below(100));
		else if (!read_one(c))
			sched_yield();
		if (mode == READERS && !below(500)) {
			htrace_consumer_free(c);
			nr_held = 0; /* the next one gets them */
			c = start_reader();
			readers++;
		}
	}
	if (interrupts_come)
		pthread_join(interrupts, NULL);
	else
		__atomic_add_fetch(&shared->stop, 1, __ATOMIC_RELEASE);
	for (int i = 0; i < producers(); i++)
		pthread_join(threads[i], NULL);
	while (read_one(c))
		;
	if (htrace_consumer_backlog(c))
		die("stuck, %llu bytes before the end", htrace_consumer_backlog(c));
	told = received + overwritten + dropped + before;
	printf("%llu attempts: %llu received, %llu overwritten, %llu dropped; %llu of handlers, %llu of them "
	       "between reserve and commit, %u readers\n",
	       sum(shared->attempts), received, overwritten, dropped,
	       sum(shared->attempts) - (__u64)producers() * records, shared->inside, readers);
	if (!received)
		die("nothing was received");
	if (interrupts_come && !shared->inside)
		die("no handler came between reserve and commit");
	if (mode != READERS && told != sum(shared->attempts))
		die("%llu before: the account is %llu", before, told);
	/* One after the other they read all that was not dropped, each once. */
	if (mode == READERS && g.policy == HTRACE_DISCARD &&
	    received + ring->dropped != sum(shared->attempts))
		die("%llu dropped in all: the account is %llu", ring->dropped,
		    received + ring->dropped);
	htrace_consumer_free(c);
}

/* ---------------------------------------------------------------------------- killed producers */

static void child(int p)
{
	const struct itimerval often = { { 0, 150 }, { 0, 150 } };

	me = p;
	seed = (__u64)getpid() * 7919 + (__u64)p;
	if (single && setitimer(ITIMER_REAL, &often, NULL))
		_exit(1);
	while (!__atomic_load_n(&shared->stop, __ATOMIC_ACQUIRE)) {
		produce(p);
		if (!below(200))
			usleep(below(100));
	}
	_exit(0);
}

/* Bytes of the block at the reader's position that somebody reserved and never committed. */
static __u64 uncommitted(const struct htrace_consumer *c)
{
	__u64 beg = htrace_consumer_position(c) & ~(__u64)(BLOCK - 1), head = ring->head;
	__u64 reserved = head - beg < BLOCK ? head - beg : BLOCK;

	reserved += (beg >> g.ring_shift) << g.block_shift;
	return (__u32)reserved - (__u32)htrace_ring_block(ring, &g, beg)->commit;
}

static void read_for(struct htrace_consumer *c, unsigned int us)
{
	for (; us > 20; us -= 20)
		if (!read_one(c))
			usleep(20);
}

/* One ring until its end: was it left with a hole? */
static __u64 run_round(int *killed)
{
	struct htrace_consumer *c;
	int pid[PRODUCERS], status, victims = 1 + (int)below((unsigned int)producers());
	__u64 told, hole, unfinished;

	new_ring();
	c = start_reader();
	fflush(stdout);
	for (int p = 0; p < producers(); p++) {
		pid[p] = fork();
		if (pid[p] < 0)
			die("no process");
		if (!pid[p])
			child(p);
	}
	for (int p = 0; p < victims; p++) {
		read_for(c, below(4000));
		kill(pid[p], SIGKILL);
	}
	read_for(c, below(2000));
	__atomic_store_n(&shared->stop, 1, __ATOMIC_RELEASE);
	for (int p = 0; p < producers(); p++)
		if (waitpid(pid[p], &status, 0) != pid[p] || (p >= victims && status))
			die("a producer died: %#x", (unsigned int)status);
	*killed += victims;
	while (read_one(c))
		;
	told = received + overwritten + dropped + before;
	unfinished = sum(shared->attempts) - sum(shared->done);
	hole = htrace_consumer_backlog(c) ? uncommitted(c) : 0;
	if (told > sum(shared->attempts))
		die("the account is %llu of %llu attempts", told, sum(shared->attempts));
	/* Killed between the commit, or the count of the drop, and done: that one is told. */
	if (!htrace_consumer_backlog(c) && told < sum(shared->done))
		die("the account is %llu, %llu are done", told, sum(shared->done));
	if (htrace_consumer_backlog(c) && (!hole || hole > BLOCK || !unfinished))
		die("stuck: %llu bytes uncommitted, %llu records unfinished", hole, unfinished);
	htrace_consumer_free(c);
	return hole;
}

static void run_killed(void)
{
	__u64 holes = 0, bytes = 0, hole;
	int killed = 0;

	for (__u64 i = 0; i < records; i++) {
		single = i & 1;
		hole = run_round(&killed);
		holes += hole > 0;
		bytes += hole;
	}
	printf("%llu rings, %d producers killed: %llu rings with holes, %llu bytes uncommitted\n",
	       records, killed, holes, bytes);
}

static int index_of(const char *what, const char *const *names)
{
	int i = 0;

	while (names[i] && strcmp(names[i], what))
		i++;
	return names[i] ? i : -1;
}

int main(int argc, char **argv)
{
	static const char *const modes[] = { "threads", "signals", "single", "readers", "killed",
					     NULL };
	static const char *const policies[] = { "discard", "overwrite", NULL };
	struct sigaction sa = { .sa_handler = interrupted, .sa_flags = SA_RESTART };
	int m = argc >= 4 ? index_of(argv[1], modes) : -1;
	int p = argc >= 4 ? index_of(argv[2], policies) : -1;
	size_t size;

	records = argc >= 4 ? strtoull(argv[3], NULL, 0) : 0;
	borrow = argc == 5 && !strcmp(argv[4], "borrow");
	pack = argc == 5 && !strcmp(argv[4], "packed");
	if (m < 0 || p < 0 || !records || argc > 5 || (argc == 5 && !borrow && !pack)) {
		fprintf(stderr, "Usage: stress threads|signals|single|readers|killed discard|overwrite "
				"RECORDS [borrow|packed]\n");
		return 2;
	}
	mode = (enum mode)m;
	single = mode == SINGLE;
	seed = (__u64)getpid();
	if (htrace_geometry_init(&g, RING, BLOCK, p ? HTRACE_OVERWRITE : HTRACE_DISCARD))
		die("no geometry");
	size = htrace_image_size(&g, 4096);
	shared = mmap(NULL, SHARED + size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (shared == MAP_FAILED)
		die("no memory");
	ring = (struct htrace_ring *)((char *)shared + SHARED);
	new_ring();
	if (sigaction(SIGUSR1, &sa, NULL) || sigaction(SIGALRM, &sa, NULL))
		die("no handler");
	if (mode == KILLED)
		run_killed();
	else
		run_threads();
	return 0;
}
