/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What it costs a traced program to have an event recorded by BPF, natively on this kernel, while
 * somebody reads: one thread makes system calls, each of which is one event, on a core of its own;
 * another thread reads on another core. In turn with nothing, an empty program, one that reads the
 * clock, htrace.bpf.h's ring, a BPF ring buffer and a perf buffer, each with several kinds of
 * readers. All that was recorded must arrive, in order: else the case says so.
 */
#include <bpf/bpf.h>
#include <bpf/libbpf.h>
#include <errno.h>
#include <linux/perf_event.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <htrace/consumer.h>
#include <htrace/pack.h>
#include <htrace/sync.h>

#include "bench.h"
#include "bpf-push.h"
#include "bpf-rings.h"

#define NAME "bpf-push"
/* So many fit into each of the rings, so that none may be lost however late a reader comes. */
#define CALLS 80000
#define WARM_UP (CALLS / 5)
#define QUICK 5000
#define WAIT_NS 10000000 /* longest sleep of a reader: it looks whether it shall stop */
#define EVENT_ID 1
#define SWITCH_ID 2

struct bench {
	struct bpf_rings rings;
	int producer_cpu, reader_cpu;
	unsigned long calls, rounds;
	/* of the present run */
	__u64 next; /* number of the next event to come */
	__u64 received;
	bool disordered;
	bool stop;
	bool reading;
};

struct way {
	const char *name, *params; /* as shown */
	const char *program;       /* NULL: none */
	int (*read)(struct bench *b, const struct way *w);
	const char *arg;
	unsigned int part; /* one of so many of the calls: it is slow */
	struct bench_rounds ns;
	const char *wrong; /* in some round */
};

static int fail(const char *what, int err)
{
	fprintf(stderr, NAME ": %s: %s\n", what, strerror(err < 0 ? -err : err));
	return -1;
}

static void arrived(struct bench *b, __u64 number)
{
	b->disordered |= number != b->next;
	b->next = number + 1;
	b->received++;
}

static bool stopped(const struct bench *b)
{
	return __atomic_load_n(&b->stop, __ATOMIC_ACQUIRE);
}

static void reading(struct bench *b)
{
	__atomic_store_n(&b->reading, true, __ATOMIC_RELEASE);
}

/* ------------------------------------------------------------------------------------- readers */

static void record_arrived(struct bench *b, const struct htrace_record *r)
{
	const struct htrace_switch *e = r->payload;

	if (r->id == EVENT_ID) {
		arrived(b, *(const __u64 *)r->payload);
		return;
	}
	b->disordered |= r->id != SWITCH_ID || e->prev_tid + 1 != e->next_tid || e->prev_prio != PUSH_PRIO ||
			 e->next_prio != PUSH_PRIO || e->prev_state != (e->next_tid & 2);
	arrived(b, e->next_tid);
}

static bool ready(void *ctx)
{
	return htrace_consumer_ready(ctx);
}

static __u64 drain(struct bench *b, struct htrace_consumer *c)
{
	struct htrace_batch batch;
	struct htrace_record r;
	struct htrace_iter it;
	__u64 events = 0;

	while (htrace_consumer_read(c, &batch) == 1) {
		for (htrace_iter_init(&it, &batch); htrace_iter_next(&it, &r);)
			record_arrived(b, &r);
		events += batch.events;
	}
	return events;
}

/* As host-reader does it, with the library's policy named by w->arg. */
static int read_htrace(struct bench *b, const struct way *w)
{
	struct htrace_image image = bpf_rings_image(&b->rings, b->producer_cpu);
	struct htrace_consumer_opts opts = { .sz = sizeof(opts), .start = HTRACE_START_NEWEST };
	struct htrace_sync_target target = { .sz = sizeof(target), .ready = ready };
	struct htrace_consumer *c;
	struct htrace_sync *sync;
	bool last;
	int err;

	image.packed = 1; /* in some rounds */
	err = htrace_consumer_new(&c, &image, &opts);
	if (err)
		return fail("cannot read the ring", err);
	drain(b, c); /* of the round before */
	b->received = b->next = 0;
	b->disordered = false;
	target.ctx = c;
	err = htrace_sync_new(&sync, w->arg, &target);
	if (err) {
		htrace_consumer_free(c);
		return fail(w->arg, err);
	}
	reading(b);
	do {
		last = stopped(b);
		htrace_sync_wait(sync, last ? 0 : WAIT_NS);
		htrace_sync_did(sync, drain(b, c), htrace_consumer_backlog(c));
	} while (!last);
	htrace_sync_free(sync);
	htrace_consumer_free(c);
	return 0;
}

static int ringbuf_record(void *ctx, void *data, size_t len)
{
	arrived(ctx, ((struct push_record *)data)->number);
	return 0;
}

/* With libbpf, woken by the producer ("wake"), looking every 50 us ("50us") or all the time. */
static int read_ringbuf(struct bench *b, const struct way *w)
{
	int fd = bpf_object__find_map_fd_by_name(b->rings.obj, "ringbuf");
	struct ring_buffer *rb = ring_buffer__new(fd, ringbuf_record, b, NULL);
	bool last;

	if (!rb)
		return fail("cannot read the BPF ring buffer", errno);
	reading(b);
	do {
		last = stopped(b);
		if (!strcmp(w->arg, "wake"))
			ring_buffer__poll(rb, WAIT_NS / 1000000);
		else if (!strcmp(w->arg, "50us"))
			usleep(50);
		ring_buffer__consume(rb);
	} while (!last);
	ring_buffer__free(rb);
	return 0;
}

static enum bpf_perf_event_ret perf_record(void *ctx, int cpu, struct perf_event_header *e)
{
	struct bench *b = ctx;

	if (e->type == PERF_RECORD_SAMPLE) { /* header, u32 length of the data, data */
		struct push_record r;

		memcpy(&r, (char *)e + sizeof(*e) + sizeof(__u32), sizeof(r));
		arrived(b, r.number);
	}
	return LIBBPF_PERF_EVENT_CONT;
}

static int read_perf(struct bench *b, const struct way *w)
{
	bool wakes = !strcmp(w->arg, "wake");
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = PERF_TYPE_SOFTWARE,
		.config = PERF_COUNT_SW_BPF_OUTPUT,
		.sample_type = PERF_SAMPLE_RAW,
		.sample_period = 1,
		.watermark = !wakes,
		.wakeup_events = wakes ? 1 : ~0u, /* or as good as never, in bytes */
	};
	struct perf_buffer *pb =
		perf_buffer__new_raw(bpf_object__find_map_fd_by_name(b->rings.obj, "perf_events"),
				     PUSH_RING / (size_t)sysconf(_SC_PAGESIZE), &attr, perf_record, b,
				     NULL);
	bool last;

	if (!pb)
		return fail("cannot read the perf buffer", errno);
	reading(b);
	do {
		last = stopped(b);
		if (!strcmp(w->arg, "wake"))
			perf_buffer__poll(pb, WAIT_NS / 1000000);
		else if (!strcmp(w->arg, "50us"))
			usleep(50);
		perf_buffer__consume(pb);
	} while (!last);
	perf_buffer__free(pb);
	return 0;
}

/* ---------------------------------------------------------------------------------------- runs */

static struct way ways[] = {
	{ "nothing", "" },
	{ "empty", "", "empty" },
	{ "clock", "", "clock_only" },
	{ "htrace", "\"sync\": \"adaptive\"", "htrace", read_htrace, "adaptive" },
	{ "htrace", "\"sync\": \"spin\"", "htrace", read_htrace, "spin" },
	{ "switch", "\"sync\": \"adaptive\"", "switch_full", read_htrace, "adaptive" },
	{ "switch-packed", "\"sync\": \"adaptive\"", "switch_packed", read_htrace, "adaptive" },
	{ "ringbuf-woken", "", "ringbuf_wakes", read_ringbuf, "wake" },
	{ "ringbuf-polled", "", "ringbuf_quiet", read_ringbuf, "50us" },
	{ "ringbuf-busy", "", "ringbuf_quiet", read_ringbuf, "busy" },
	{ "perfbuf-woken", "", "perf_buffer", read_perf, "wake", .part = 10 },
	{ "perfbuf-polled", "", "perf_buffer", read_perf, "50us" },
	{ "perfbuf-busy", "", "perf_buffer", read_perf, "busy" },
};
#define NR_WAYS (sizeof(ways) / sizeof(ways[0]))

struct job {
	struct bench *b;
	const struct way *w;
	int err;
};

static void *reader(void *arg)
{
	struct job *j = arg;

	bench_pin(j->b->reader_cpu);
	j->err = j->w->read(j->b, j->w);
	reading(j->b); /* it may have failed */
	return NULL;
}

static void call(unsigned long from, unsigned long to)
{
	for (unsigned long i = from; i < to; i++)
		syscall(SYS_getppid, PUSH_MAGIC, i);
}

static double timed_calls(unsigned long calls)
{
	__u64 start;

	call(0, WARM_UP);
	start = bench_now();
	call(WARM_UP, WARM_UP + calls);
	return (double)(bench_now() - start) / (double)calls;
}

/* Does the account of what came hold? NULL, or what is wrong. */
static const char *account(const struct bench *b, unsigned long calls)
{
	return b->received != WARM_UP + calls ? "not all events arrived, or more" :
	       b->disordered ? "events came out of order" : NULL;
}

static int run(struct bench *b, struct way *w)
{
	unsigned long calls = w->part ? b->calls / w->part : b->calls;
	struct job job = { .b = b, .w = w };
	struct bpf_link *link = NULL;
	pthread_t thread;
	int err = 0;

	b->next = b->received = 0;
	b->disordered = b->stop = b->reading = false;
	if (w->read) {
		err = pthread_create(&thread, NULL, reader, &job);
		if (err)
			return fail("cannot start a thread", err);
		while (!__atomic_load_n(&b->reading, __ATOMIC_ACQUIRE))
			usleep(100);
	}
	if (w->program) {
		link = bpf_program__attach(bpf_object__find_program_by_name(b->rings.obj, w->program));
		if (!link)
			err = fail("cannot attach to sys_enter", errno);
	}
	if (!err)
		bench_add(&w->ns, timed_calls(calls));
	bpf_link__destroy(link);
	if (!w->read)
		return err;
	__atomic_store_n(&b->stop, true, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	w->wrong = w->wrong ?: account(b, calls);
	return err ? err : job.err;
}

static int measure(struct bench *b)
{
	for (unsigned long r = 0; r < b->rounds; r++)
		for (size_t i = 0; i < NR_WAYS; i++) {
			struct way *w = &ways[(r + i) % NR_WAYS]; /* not always after the same */

			if (run(b, w))
				return -1;
		}
	return 0;
}

/* --------------------------------------------------------------------------------------- setup */

static const struct bpf_rings_event events[] = { { "pushed", EVENT_ID }, { "switched", SWITCH_ID }, { 0 } };

static void skip(const char *why)
{
	for (size_t i = 0; i < NR_WAYS; i++)
		bench_skip(NAME, ways[i].name, ways[i].params, why);
}

int main(int argc, char **argv)
{
	struct bench b = { .calls = CALLS, .rounds = 41 };
	int cpus[2], err;
	const char *why;
	char reason[200];

	if (argc > 1 && !strcmp(argv[1], "--quick"))
		b.calls = QUICK, b.rounds = 3;
	if (bench_cpus(cpus, 2) < 2) {
		skip("needs two CPUs");
		return 0;
	}
	b.producer_cpu = cpus[0];
	b.reader_cpu = cpus[1];
	err = bpf_rings_open(&b.rings, "bpf-push.bpf.o", PUSH_RING, events, &why);
	if (err) {
		snprintf(reason, sizeof(reason), "%s: %s", why, strerror(-err));
		skip(reason);
		return 0;
	}
	bench_pin(b.producer_cpu);
	if (measure(&b))
		return 1;
	for (size_t i = 0; i < NR_WAYS; i++)
		bench_print(NAME, ways[i].name, ways[i].params, "ns", &ways[i].ns, ways[i].wrong);
	bpf_rings_close(&b.rings);
	return 0;
}
