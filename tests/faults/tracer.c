/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What test_faults.py does harm to: a tracer of user space, in processes that can be killed one by one.
 *
 *   tracer agent PATH discard|overwrite monotonic|best
 *          makes the region, or takes over the one that is there, and beats its heart; at SIGTERM it ends
 *          the session
 *   tracer work PATH TRUTH LIFE SECONDS
 *          two threads that record, until SIGTERM; each has a ring, or, in every other LIFE, they share
 *          one. By its clock, and so its records' times, it is SECONDS later (or -SECONDS earlier).
 *   tracer alone PATH TRUTH LIFE
 *          both in one, with one thread: to die with its file
 *
 *   tracer pace PATH discard|overwrite
 *          for each byte of standard input ROUND records as fast as it can; prints the median of what one took,
 *          that of where all were recorded, and that of where all were dropped (0: that was never so), in
 *          hundredths of a nanosecond
 *
 * "large" before all that: records, blocks and rings that are large enough for readers to write them without a copy.
 *
 * TRUTH holds what every thread of every LIFE (0 ... 1023) did: numbers of the records that it began, of
 * those that it came back from, and of those that were dropped by that.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <htrace/declare.h>
#include <htrace/producer.h>

#define THREADS 2
#define LIVES 1024
#define RINGS 8
#define RING 65536
#define BLOCK 4096
#define SIZE (2 << 20)
#define LARGE_RING 131072
#define LARGE_BLOCK 32768
#define LARGE_FILL 456
#define BURST 8
#define PAUSE_US 1000
#define SLOW 61      /* every so many records one takes long to be committed, */
#define SLOW_US 200  /* to be killed in the midst of it */
#define BEAT_MS 50
#define DRAIN_MS 1000
#define ROUND 200000
#define CHUNK 200 /* records between two looks at the clock */

struct record {
	__u64 seq;
	__u32 life, thread;
	__u64 check;
};

static const struct htrace_field record_fields[] = {
	HTRACE_FIELD(struct record, seq),
	HTRACE_FIELD(struct record, life),
	HTRACE_FIELD(struct record, thread),
	HTRACE_FIELD(struct record, check),
};
static const struct htrace_struct record = HTRACE_STRUCT(struct record, record_fields);

/* With a text behind it, which ends at once. */
struct large_record {
	__u64 seq;
	__u32 life, thread;
	__u64 check;
	char text[LARGE_FILL];
};

static const struct htrace_field large_fields[] = {
	HTRACE_FIELD(struct large_record, seq),
	HTRACE_FIELD(struct large_record, life),
	HTRACE_FIELD(struct large_record, thread),
	HTRACE_FIELD(struct large_record, check),
	HTRACE_FIELD_TEXT(struct large_record, text),
};
static const struct htrace_struct large_record = HTRACE_STRUCT(struct large_record, large_fields);

struct did {
	__u64 begun, done, dropped;
	__u64 reserved[5];
};

/* A thread at work. */
struct job {
	struct htrace_producer *p;
	struct did *did;
	__u32 life, thread;
};

static bool large;
static volatile sig_atomic_t stop;

static void on_stop(int sig)
{
	(void)sig;
	stop = 1;
}

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "tracer: %s failed: %s\n", what, strerror(errno));
	exit(1);
}

static void *map(const char *path, size_t size)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	void *mem;

	check(fd >= 0, path);
	mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	check(mem != MAP_FAILED, "mapping");
	close(fd);
	return mem;
}

/* ------------------------------------------------------------------------------------ the agent */

static struct htrace_region *make(const char *path, bool discard, bool monotonic)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .kind = HTRACE_RING_PER_THREAD,
		.policy = discard ? HTRACE_DISCARD : HTRACE_OVERWRITE, .nr_rings = RINGS,
		.ring_size = large ? LARGE_RING : RING, .block_size = large ? LARGE_BLOCK : BLOCK,
		.clock_id = monotonic ? HTRACE_CLOCK_MONOTONIC : 0,
	};
	struct htrace_region *r;
	char why[200] = "";
	int err;

	err = htrace_region_create_local(&r, path, SIZE, &o, NULL);
	errno = -err;
	check(!err, "making the region");
	check(htrace_region_declare(r, "record", large ? &large_record : &record, why, sizeof(why)) == 1, why);
	htrace_region_guest(r)->heartbeat_ms = BEAT_MS;
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	return r;
}

static void end_session(struct htrace_region *r)
{
	const struct htrace_host *h = htrace_region_host(r);

	htrace_region_set_state(r, HTRACE_GUEST_CLOSING);
	for (int ms = 0; ms < DRAIN_MS; ms++) {
		if (__atomic_load_n(&h->drained, __ATOMIC_ACQUIRE) == htrace_region_super(r)->session)
			break;
		if (ms % BEAT_MS == 0)
			htrace_region_beat(r, 0);
		usleep(1000);
	}
	htrace_region_set_state(r, HTRACE_GUEST_CLOSED);
}

static int agent(const char *path, bool discard, bool monotonic)
{
	struct htrace_region *r;

	if (access(path, F_OK) || htrace_region_adopt(&r, map(path, SIZE), SIZE, false))
		r = make(path, discard, monotonic);
	puts("ready");
	fflush(stdout);
	while (!stop) {
		htrace_region_beat(r, 0);
		usleep(BEAT_MS * 1000);
	}
	end_session(r);
	return 0;
}

/* ------------------------------------------------------------------------------------- the work */

static void push(struct job *j)
{
	struct record rec = { .seq = j->did->begun, .life = j->life, .thread = j->thread };
	struct htrace_slot slot;
	void *at;

	rec.check = rec.seq * 0x9e3779b97f4a7c15ULL ^ (__u64)j->life << 32 ^ j->thread;
	__atomic_store_n(&j->did->begun, rec.seq + 1, __ATOMIC_RELEASE);
	at = htrace_producer_reserve(j->p, 1, large ? sizeof(struct large_record) : sizeof(rec), &slot);
	if (at) {
		if (large)
			((struct large_record *)at)->text[0] = 0;
		if (rec.seq % SLOW == SLOW - 1)
			usleep(SLOW_US);
		memcpy(at, &rec, sizeof(rec));
		htrace_producer_commit(j->p, &slot);
	} else {
		__atomic_store_n(&j->did->dropped, j->did->dropped + 1, __ATOMIC_RELEASE);
	}
	__atomic_store_n(&j->did->done, rec.seq + 1, __ATOMIC_RELEASE);
}

static void *work(void *arg)
{
	struct job *j = arg;

	while (!stop) {
		for (int i = 0; i < BURST; i++)
			push(j);
		usleep(PAUSE_US);
	}
	return NULL;
}

/* What dead ones left may still be read: then there is none for a while. */
static bool take(struct htrace_producer *p, struct htrace_region *r)
{
	int err;

	while ((err = htrace_producer_get(p, r, 0, -1)) == -EBUSY && !stop)
		usleep(2000);
	errno = -err;
	check(!err || stop, "taking a ring");
	return !err;
}

/* Another CLOCK_MONOTONIC for this process, as the kernel makes it for a container that was moved. */
static void shift_clock(const char *seconds)
{
	int fd;

	if (!strcmp(seconds, "0"))
		return;
	check(!unshare(CLONE_NEWTIME), "a time namespace");
	fd = open("/proc/self/timens_offsets", O_WRONLY | O_CLOEXEC);
	check(fd >= 0 && dprintf(fd, "monotonic %s 0\n", seconds) > 0 && !close(fd), "setting its clock");
	fd = open("/proc/self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
	check(fd >= 0 && !setns(fd, CLONE_NEWTIME) && !close(fd), "entering it");
}

static void run(struct htrace_region *r, struct did *did, __u32 life, __u32 threads)
{
	__u32 rings = life % 2 ? 1 : threads, taken = 0;
	struct htrace_producer p[THREADS];
	struct job job[THREADS];
	pthread_t thread;

	while (taken < rings && take(&p[taken], r))
		taken++;
	for (__u32 t = 0; t < threads; t++)
		job[t] = (struct job){ &p[t % rings], did + t, life, t };
	puts("ready");
	fflush(stdout);
	if (taken == rings) {
		if (threads > 1)
			check(!pthread_create(&thread, NULL, work, &job[1]), "a thread");
		work(&job[0]);
		if (threads > 1)
			pthread_join(thread, NULL);
	}
	while (taken)
		htrace_producer_put(&p[--taken]);
}

static struct did *truth(const char *path, __u32 life)
{
	check(life < LIVES, "a life's number");
	return (struct did *)map(path, sizeof(struct did) * LIVES * THREADS) + (size_t)life * THREADS;
}

static int worker(char **argv)
{
	__u32 life = (__u32)strtoul(argv[4], NULL, 10);
	struct did *did = truth(argv[3], life);
	struct htrace_region *r;

	shift_clock(argv[5]);
	check(!htrace_region_adopt(&r, map(argv[2], SIZE), SIZE, false), "finding the region");
	run(r, did, life, THREADS);
	return 0;
}

static int alone(char **argv)
{
	__u32 life = (__u32)strtoul(argv[4], NULL, 10);
	struct htrace_region *r = make(argv[2], life % 2, false);

	htrace_region_guest(r)->heartbeat_ms = 0;
	run(r, truth(argv[3], life), life, 1);
	return 0;
}

/* ------------------------------------------------------------------------------------- its pace */

static int by_value(const void *a, const void *b)
{
	__u64 x = *(const __u64 *)a, y = *(const __u64 *)b;

	return (x > y) - (x < y);
}

/* What chunks of records took. */
struct chunks {
	__u64 took[ROUND / CHUNK];
	int nr;
};

static void add_chunk(struct chunks *c, __u64 took)
{
	c->took[c->nr++] = took;
}

static __u64 median(struct chunks *c)
{
	qsort(c->took, (size_t)c->nr, sizeof(*c->took), by_value);
	return c->nr ? c->took[c->nr / 2] * 100 / CHUNK : 0;
}

static void one_round(struct htrace_producer *p)
{
	static struct chunks all, recorded, dropped;
	struct record rec = { 0 };
	__u64 start, took;

	all.nr = recorded.nr = dropped.nr = 0;
	for (int c = 0; c < ROUND / CHUNK; c++) {
		int lost = 0;

		start = htrace_clock_read(HTRACE_CLOCK_MONOTONIC);
		for (int i = 0; i < CHUNK; i++, rec.seq++)
			lost -= htrace_push(p, 1, &rec, sizeof(rec));
		took = htrace_clock_read(HTRACE_CLOCK_MONOTONIC) - start;
		add_chunk(&all, took);
		if (!lost)
			add_chunk(&recorded, took);
		else if (lost == CHUNK)
			add_chunk(&dropped, took);
	}
	printf("%llu %llu %llu\n", median(&all), median(&recorded), median(&dropped));
	fflush(stdout);
}

static int pace(const char *path, bool discard)
{
	struct htrace_region *r = make(path, discard, true);
	struct htrace_producer p;

	htrace_region_guest(r)->heartbeat_ms = 0;
	check(take(&p, r), "taking a ring");
	puts("ready");
	fflush(stdout);
	while (getchar() != EOF)
		one_round(&p);
	return 0;
}

int main(int argc, char **argv)
{
	struct sigaction sa = { .sa_handler = on_stop };

	sigaction(SIGTERM, &sa, NULL);
	if (argc > 1 && !strcmp(argv[1], "large")) {
		large = true;
		argc--;
		argv++;
	}
	if (argc == 5 && !strcmp(argv[1], "agent"))
		return agent(argv[2], !strcmp(argv[3], "discard"), !strcmp(argv[4], "monotonic"));
	if (argc == 6 && !strcmp(argv[1], "work"))
		return worker(argv);
	if (argc == 5 && !strcmp(argv[1], "alone"))
		return alone(argv);
	if (argc == 4 && !strcmp(argv[1], "pace"))
		return pace(argv[2], !strcmp(argv[3], "discard"));
	fprintf(stderr, "tracer: see the head of its source for how to call it\n");
	return 2;
}
