/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --follow-host: the ring in the host's part of the region, as a consumer reads any ring. */
#include "follow.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <htrace/consumer.h>

#include "agent_internal.h"
#include "exit_names.h"
#include "follow_table.h"
#include "message.h"

#define MS 1000000ULL
#define POLL_NS \
	(2 * MS) /* while the host tells: the ring holds some 13 ms of the most that it tells */
#define WAIT_NS (50 * MS) /* while it does not */
#define BATCHES 64 /* of the ring in one look: more than it has blocks */
#define SILENT_NS (3000 * MS) /* without a heartbeat of the host's */
#define BROKEN_NS (1000 * MS) /* until a ring that is broken is looked at again */
#define LATE_SHARE 256 /* how fast the clocks' distance may grow again: they drift */
#define UNTOLD_NS (500 * MS) /* that a reader which just started is given */

struct follow {
	struct agent region;
	const struct htrace_host *host;
	struct htrace_consumer *consumer;
	struct follow_table *table;
	__u64 number; /* of what is being told; 0: nothing is */
	__u64 clock; /* the ring's, as last seen */
	__s64 distance; /* to our CLOCK_MONOTONIC */
	bool clock_known;
	__u64 lost;        /* records of this telling */
	__u64 heartbeat, beat_at, broken_at, started, began;
	bool ever, said_untold, said_silent;
};

static __u64 load(const __u64 *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

static bool host_there(const struct follow *f)
{
	__u32 state = __atomic_load_n(&f->host->state, __ATOMIC_RELAXED);

	return load(&f->host->magic) == HTRACE_HOST_MAGIC && state != HTRACE_HOST_NONE &&
	       state != HTRACE_HOST_GONE;
}

/* --------------------------------------------------------------------------------------- records */

/*
 * The ring's clock is the host's, from when it began to tell. What is seen of it comes late, but
 * never early: the smallest distance is the right one.
 */
static void look_at_clock(struct follow *f, __u64 now)
{
	__u64 clock = load(&f->host->told_clock) & ~(3ULL << 62); /* no clock runs so long; the distance has room */
	__s64 distance = (__s64)(now - clock);

	if (f->clock_known && clock == f->clock)
		return;
	if (!f->clock_known || distance < f->distance)
		f->distance = distance;
	else
		f->distance += (distance - f->distance) / LATE_SHARE;
	f->clock = clock;
	f->clock_known = true;
}

static void print_us(__u64 ns)
{
	if (ns)
		printf(" %12.1f", (double)ns / 1e3);
	else
		printf(" %12s", "-");
}

static void print_exit(const struct follow *f, const struct htrace_told_exit *e, __u64 at)
{
	__u64 time = at + (__u64)f->distance;
	char name[32];

	printf("%5" PRIu64 ".%09" PRIu64 " [%03u] %-22s %12.1f", (uint64_t)(time / 1000000000),
	       (uint64_t)(time % 1000000000), e->vcpu,
	       exit_name(e->isa, e->reason, name, sizeof(name)), (double)e->out_ns / 1e3);
	print_us(e->preempted_ns);
	print_us(e->woken_ns);
	print_us(e->slept_ns);
	putchar('\n');
}

/* Records of other kinds, or that are longer, may be a newer host's. */
static int take_record(void *arg, const struct htrace_record *r, const struct htrace_batch *b)
{
	struct follow *f = arg;
	struct htrace_told_total total;
	struct htrace_told_exit e;

	(void)b;
	if (r->id == HTRACE_TOLD_EXIT && r->len >= sizeof(e)) {
		memcpy(&e, r->payload, sizeof(e));
		print_exit(f, &e, r->time);
		follow_table_exit(f->table, &e);
	} else if (r->id == HTRACE_TOLD_TOTAL && r->len >= sizeof(total)) {
		memcpy(&total, r->payload, sizeof(total));
		follow_table_total(f->table, &total);
	}
	return 0;
}

static int take_loss(void *arg, const struct htrace_batch *b)
{
	struct follow *f = arg;

	__u64 lost = b->overwritten + b->dropped + b->corrupt;

	f->lost += lost;
	if (lost)
		printf("*** %" PRIu64 " records were overwritten before they were read\n",
		       (uint64_t)lost);
	return 0;
}

/* ------------------------------------------------------------------------------------ the ring */

static int open_ring(struct follow *f)
{
	struct htrace_consumer_opts opts = {.sz = sizeof(opts), .start = HTRACE_START_OLDEST};
	struct htrace_image image = {
		.ring = (const void *)((const char *)f->region.mem + HTRACE_TOLD_OFF),
		.geometry = HTRACE_TOLD_GEOMETRY,
		.kind = HTRACE_RING_PER_CPU,
		.placement = HTRACE_PLACEMENT_IVSHMEM,
	};

	return htrace_consumer_new(&f->consumer, &image, &opts);
}

static void read_ring(struct follow *f, __u64 now)
{
	const struct htrace_each_opts opts = {
		.sz = sizeof(opts),
		.record = take_record,
		.loss = take_loss,
		.ctx = f,
		.max_batches = BATCHES,
	};
	const char *why;
	long ret;

	if (!f->consumer && now - f->broken_at >= BROKEN_NS && open_ring(f))
		f->consumer = NULL;
	if (!f->consumer)
		return;
	ret = htrace_consumer_each(f->consumer, &opts);
	if (ret >= 0)
		return;
	why = htrace_consumer_error(f->consumer);
	say("what the host tells cannot be read: %s; trying again",
	    why[0] ? why : strerror((int)-ret));
	htrace_consumer_free(f->consumer);
	f->consumer = NULL;
	f->broken_at = now;
}

/* ---------------------------------------------------------------------------------------- telling */

static void end_telling(struct follow *f)
{
	if (!f->number)
		return;
	follow_table_print(f->table, f->clock, stdout);
	if (f->lost)
		printf("%" PRIu64
		       " records were overwritten before they were read; the number of exits is right all the same\n",
		       (uint64_t)f->lost);
	follow_table_free(f->table);
	htrace_consumer_free(f->consumer);
	f->table = NULL;
	f->consumer = NULL;
	f->lost = f->number = 0;
}

static int begin_telling(struct follow *f, __u64 number)
{
	f->table = follow_table_new();
	if (!f->table || open_ring(f)) {
		say("cannot follow the host: out of memory");
		return -1;
	}
	if (f->ever)
		say("the host has begun anew to tell of exits");
	f->number = number;
	f->began = monotonic_ns();
	f->clock_known = false;
	f->ever = true;
	f->said_silent = false;
	printf("%15s [cpu] %-22s %12s %12s %12s %12s\n", "time", "exit", "out us", "preempted us",
	       "woken us", "asleep us");
	return 0;
}

static void say_untold(struct follow *f, __u64 now)
{
	if (f->said_untold || now - f->started < UNTOLD_NS)
		return;
	f->said_untold = true;
	if (host_there(f))
		say("the host does not tell this guest of its exits; it would if its host-reader were started with "
		    "--tell-guest; waiting");
	else
		say("the host does not tell this guest of its exits: no host-reader is there; on the host, run "
		    "host-reader --tell-guest ivshmem:PATH as root, with the file behind this guest's device; waiting");
}

static void watch_heart(struct follow *f, __u64 now)
{
	__u64 beat = load(&f->host->heartbeat);

	if (beat != f->heartbeat || !f->beat_at) {
		f->heartbeat = beat;
		f->beat_at = now;
		f->said_silent = false;
	} else if (now - f->beat_at > SILENT_NS && !f->said_silent) {
		f->said_silent = true;
		say("the host is silent: its host-reader was killed or stopped; waiting");
	}
}

/* 0, or -1 after saying why it cannot go on. */
static int look(struct follow *f)
{
	__u64 now = monotonic_ns(),
	      number = load(&f->host->magic) == HTRACE_HOST_MAGIC ? load(&f->host->telling) : 0;

	if (number && number != f->number && f->ever && now - f->began < BROKEN_NS)
		number = 0; /* one that begins anew all the time is followed once a second */
	if (number != f->number) {
		if (f->number && !number) {
			read_ring(f, now); /* it stays as it was told to the end */
			look_at_clock(f, now);
			say("the host has stopped telling of exits; waiting");
		}
		end_telling(f);
		if (number && begin_telling(f, number))
			return -1;
	}
	if (f->number) {
		watch_heart(f, now);
		look_at_clock(f, now);
		read_ring(f, now);
	} else if (!f->ever) {
		say_untold(f, now);
	}
	if (fflush(stdout)) {
		say("cannot write what the host tells: %s", strerror(errno));
		return -1;
	}
	return 0;
}

static int follow_until(struct follow *f, const sigset_t *stop)
{
	for (;;) {
		struct timespec t = {0};

		if (look(f))
			return -1;
		t.tv_nsec = f->number && !f->said_silent ? (long)POLL_NS : (long)WAIT_NS;
		if (sigtimedwait(stop, NULL, &t) >= 0)
			return look(f);
	}
}

int follow_run(const struct options *o)
{
	struct follow f = {.region.module.fd = -1, .region.device_fd = -1};
	sigset_t stop;
	int ret;

	sigemptyset(&stop);
	sigaddset(&stop, SIGTERM);
	sigaddset(&stop, SIGINT);
	sigaddset(&stop, SIGHUP);
	sigprocmask(SIG_BLOCK, &stop, NULL);
	ret = agent_open_region(&f.region, o, o->region, NULL);
	if (!ret) {
		f.host = (const void *)((const char *)f.region.mem + HTRACE_HOST_OFF);
		f.started = monotonic_ns();
		detail("following the host in region %s", agent_region_name(&f.region, o));
		ret = follow_until(&f, &stop);
	}
	end_telling(&f);
	agent_close_region(&f.region);
	return !ret && f.ever ? EXIT_SUCCESS : EXIT_FAILURE;
}
