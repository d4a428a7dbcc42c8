// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * How long a message takes from one core to another: through a ring by each policy, and through what else
 * there is. One way: from before the sender's call until the receiver has the content, by a clock that
 * both cores share (what their readings differ by is measured, and taken off). Round trip: until the
 * answer is there, by the sender's clock alone.
 *
 * Quiet: a message at a time, 20 to 85 us after the one before was received. Bursts: each is the last of
 * 64, one every 250 ns, all of which the receiver reads. Busy cores: as quiet, but on each of the two cores
 * something else computes, too, which the scheduler treats alike. The producer's cost is the time of the
 * call itself. Cases take turns.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <htrace/consumer.h>
#include <htrace/producer.h>
#include <htrace/region.h>
#include <htrace/sync.h>

#include "bench.h"

#define GAP_NS 20000
#define BURST 64
#define BURST_GAP_NS 250
#define MAX_SAMPLES 8192
#define RING_SIZE (1u << 20)
#define CALIBRATIONS 2000
#define CALIBRATE_NS 20000000
#define ENOUGH_NS 60000000000ull /* no further round then */

/* 32 bytes, as in the benchmark of pushes. */
struct message {
	uint64_t number;
	uint64_t sent; /* ticks */
	uint64_t flags;
	uint64_t check;
};
enum { LAST = 1, END = 2 };

/* One direction. */
struct channel {
	uint64_t *line;
	uint64_t seen;
	int fd[2]; /* receiver's, sender's */
	struct message *side; /* eventfd carries no content: it lies here */
	/* rings */
	struct htrace_region *region;
	struct htrace_view *view;
	struct htrace_producer producer;
	struct htrace_consumer *consumer;
	struct htrace_sync *sync;
	struct htrace_batch batch;
	struct htrace_iter iter;
	uint64_t events;
	int memfd;
	const char *error;
};

struct kind {
	const char *name;
	const char *sync;
	bool lossy; /* a later message may take an earlier one's place */
	void (*open)(struct channel *c, const struct kind *k);
	void (*send)(struct channel *c, const struct message *m);
	void (*receive)(struct channel *c, struct message *m); /* waits */
	void (*close)(struct channel *c);
};

/* All loads before it are done. */
static inline uint64_t stamp(void)
{
#ifdef __x86_64__
	__builtin_ia32_lfence();
#endif
	return bench_ticks();
}

/* ---------------------------------------------------------------------------------- cache line */

static void line_open(struct channel *c, const struct kind *k)
{
	c->line = bench_memory(4096);
	c->seen = 0;
}

/* All in one word: the stamp, whose low bits are the flags. Nothing but the line changes hands. */
static void line_send(struct channel *c, const struct message *m)
{
	__atomic_store_n(c->line, (m->sent & ~3ull) | m->flags, __ATOMIC_RELEASE);
}

static void line_receive(struct channel *c, struct message *m)
{
	uint64_t v;

	while ((v = __atomic_load_n(c->line, __ATOMIC_ACQUIRE)) == c->seen)
		;
	c->seen = v;
	m->sent = v & ~3ull;
	m->flags = v & 3;
}

static void line_close(struct channel *c)
{
	munmap(c->line, 4096);
}

/* ---------------------------------------------------------------------- what the kernel offers */

static void eventfd_open(struct channel *c, const struct kind *k)
{
	c->fd[0] = c->fd[1] = eventfd(0, EFD_CLOEXEC);
	if (c->fd[0] < 0)
		bench_die("eventfd", errno);
	c->side = bench_memory(4096);
}

static void eventfd_send(struct channel *c, const struct message *m)
{
	uint64_t one = 1;

	/* A slot that is not being read: messages are answered, or 20 us apart. */
	memcpy(&c->side[m->number % 64], m, sizeof(*m));
	__atomic_store_n(&c->side[64].number, m->number, __ATOMIC_RELEASE);
	if (write(c->fd[1], &one, sizeof(one)) != sizeof(one))
		bench_die("write to eventfd", errno);
}

static void eventfd_receive(struct channel *c, struct message *m)
{
	uint64_t nr;

	if (read(c->fd[0], &nr, sizeof(nr)) != sizeof(nr))
		bench_die("read from eventfd", errno);
	nr = __atomic_load_n(&c->side[64].number, __ATOMIC_ACQUIRE);
	memcpy(m, &c->side[nr % 64], sizeof(*m));
}

static void eventfd_close(struct channel *c)
{
	close(c->fd[0]);
	munmap(c->side, 4096);
}

static void pipe_open(struct channel *c, const struct kind *k)
{
	if (pipe(c->fd))
		bench_die("pipe", errno);
}

static void socket_open(struct channel *c, const struct kind *k)
{
	if (socketpair(AF_UNIX, SOCK_STREAM, 0, c->fd))
		bench_die("socketpair", errno);
}

static void fd_send(struct channel *c, const struct message *m)
{
	if (write(c->fd[1], m, sizeof(*m)) != sizeof(*m))
		bench_die("write", errno);
}

static void fd_receive(struct channel *c, struct message *m)
{
	if (read(c->fd[0], m, sizeof(*m)) != sizeof(*m))
		bench_die("read", errno);
}

static void fd_close(struct channel *c)
{
	close(c->fd[0]);
	close(c->fd[1]);
}

/* ---------------------------------------------------------------------------------------- ring */

static bool ring_ready(void *arg)
{
	return htrace_consumer_ready(((struct channel *)arg)->consumer);
}

static void ring_open(struct channel *c, const struct kind *k)
{
	struct htrace_region_opts opts = {
		.sz = sizeof(opts),
		.placement = HTRACE_PLACEMENT_LOCAL,
		.policy = HTRACE_DISCARD,
		.kind = HTRACE_RING_PER_THREAD,
		.nr_rings = 1,
		.ring_size = RING_SIZE,
	};
	struct htrace_sync_target target = { .sz = sizeof(target), .ready = ring_ready, .ctx = c };
	struct htrace_consumer_opts copts = { .sz = sizeof(copts) };
	struct htrace_image image;
	char err[256];
	int ret;

	ret = htrace_region_create_local(&c->region, NULL, 2 * RING_SIZE, &opts, &c->memfd);
	if (ret)
		bench_die("htrace_region_create_local", ret);
	htrace_region_publish(c->region);
	ret = htrace_view_open_fd(&c->view, c->memfd, true, err, sizeof(err));
	if (!ret)
		ret = htrace_view_attach(c->view, err, sizeof(err));
	if (ret)
		bench_die(err, ret);
	ret = htrace_view_ring(c->view, 0, 0, &image);
	if (ret)
		bench_die("htrace_view_ring", ret);
	copts.consumed = &htrace_view_host_ring(c->view, image.slot)->consumed;
	ret = htrace_consumer_new(&c->consumer, &image, &copts);
	if (!ret)
		ret = htrace_producer_get(&c->producer, c->region, 0, 0);
	if (!ret)
		ret = htrace_sync_new(&c->sync, k->sync, &target);
	if (ret)
		bench_die("ring", ret);
	bench_touch(c->producer.ring, RING_SIZE);
	htrace_iter_init(&c->iter, &c->batch);
}

static void ring_send(struct channel *c, const struct message *m)
{
	/* Full, as the receiver has no CPU: wait, as a pipe does. */
	while (htrace_push_single(&c->producer, 1, m, sizeof(*m)))
		usleep(50);
}

/* The reader's loop, turned inside out. */
static void ring_receive(struct channel *c, struct message *m)
{
	struct htrace_record r;
	int ret;

	while (!htrace_iter_next(&c->iter, &r)) {
		ret = htrace_consumer_read(c->consumer, &c->batch);
		htrace_iter_init(&c->iter, &c->batch);
		if (ret < 0)
			bench_die("htrace_consumer_read", ret);
		c->events += c->batch.events;
		if (ret)
			continue;
		htrace_sync_did(c->sync, c->events, 0);
		c->events = 0;
		htrace_sync_wait(c->sync, 1000000000);
	}
	if (r.len == sizeof(*m))
		memcpy(m, r.payload, sizeof(*m));
	else
		c->error = "a message has another length";
}

static void ring_close(struct channel *c)
{
	htrace_sync_free(c->sync);
	htrace_consumer_free(c->consumer);
	htrace_producer_put(&c->producer);
	htrace_view_close(c->view);
	htrace_region_release(c->region);
	close(c->memfd);
}

#define RING(policy) { "ring, " policy, policy, false, ring_open, ring_send, ring_receive, ring_close }

static const struct kind kinds[] = {
	{ "cache line", NULL, true, line_open, line_send, line_receive, line_close },
	RING("spin"),
	RING("adaptive"),
	RING("timer:50"),
	{ "eventfd", NULL, true, eventfd_open, eventfd_send, eventfd_receive, eventfd_close },
	{ "pipe", NULL, false, pipe_open, fd_send, fd_receive, fd_close },
	{ "UNIX socket", NULL, false, socket_open, fd_send, fd_receive, fd_close },
};
#define NR_KINDS (sizeof(kinds) / sizeof(*kinds))

/* ------------------------------------------------------------------------------------ measuring */

enum { P50, P99, P999, COST, NR_STATS };
static const char *const stats[NR_STATS] = { "p50", "p99", "p99.9", "sender's p50" };

enum load { QUIET, BURSTS, BUSY, NR_LOADS };
static const char *const loads[NR_LOADS] = { "quiet", "bursts", "busy cores" };
#define BUSY_TIMES 4 /* as long as others: turns on a core are milliseconds */

struct one_case {
	const struct kind *kind;
	bool both_ways;
	enum load load;
	struct bench_rounds rounds[NR_STATS];
	const char *error;
};

struct run {
	struct one_case *c;
	struct channel there, back;
	double offset; /* of the receiver's clock, in ticks */
	double sample[MAX_SAMPLES], cost[MAX_SAMPLES];
	size_t nr, nr_cost;
	const char *error;
	uint64_t taken __attribute__((aligned(128))); /* last messages; the sender looks between its own */
	uint64_t pad[15];
};

static int cpus[2];

static void until(uint64_t ticks)
{
	while (bench_ticks() < ticks)
		bench_relax();
}

static void add_sample(double *to, size_t *nr, double value)
{
	if (*nr < MAX_SAMPLES)
		to[(*nr)++] = value;
}

static struct message make_message(uint64_t number, uint64_t flags)
{
	struct message m = { .number = number, .flags = flags };

	m.check = ~number;
	m.sent = stamp();
	return m;
}

static void *receiver(void *arg)
{
	struct run *r = arg;
	struct message m = { 0 }, answer;
	uint64_t number = 0, now;

	bench_pin(cpus[1]);
	bench_no_timer_slack();
	do {
		r->c->kind->receive(&r->there, &m);
		now = stamp();
		if (r->there.side && m.number < number)
			continue; /* told of again, by an earlier write */
		if (!r->c->kind->lossy && m.number != number)
			r->error = "a message's number";
		if (r->there.line == NULL && m.check != ~m.number)
			r->error = "a message's content";
		number = m.number + 1;
		if (!(m.flags & LAST))
			continue;
		if (r->c->both_ways) {
			answer = make_message(m.number, LAST);
			r->c->kind->send(&r->back, &answer);
		} else {
			add_sample(r->sample, &r->nr, (double)(now - m.sent) - r->offset);
		}
		__atomic_store_n(&r->taken, r->taken + 1, __ATOMIC_RELEASE);
	} while (!(m.flags & END));
	return NULL;
}

/* A message, or a burst that ends in it; when its last was sent. */
static uint64_t send_burst(struct run *r, uint64_t *number, uint64_t flags, double tick)
{
	unsigned nr = r->c->load == BURSTS ? BURST : 1;
	uint64_t sent = 0;

	for (unsigned i = 1; i <= nr; i++) {
		struct message m = make_message((*number)++, i == nr ? flags : 0);

		r->c->kind->send(&r->there, &m);
		if (i == nr)
			add_sample(r->cost, &r->nr_cost, (double)(stamp() - m.sent));
		else
			until(m.sent + (uint64_t)(BURST_GAP_NS / tick));
		sent = m.sent;
	}
	return sent;
}

/* At the end the receiver has all that was sent before, or it would wait for ever. */
static void sender(struct run *r, uint64_t ns, double tick)
{
	uint64_t start = bench_now(), number = 0, sent;
	struct message answer = { 0 };
	bool end = false;

	for (uint64_t i = 0; !end; i++) {
		/* not in step with any timer */
		until(bench_ticks() + (uint64_t)((double)(GAP_NS + i * 7919 % 65536) / tick));
		end = bench_now() - start > ns || i + 1 == MAX_SAMPLES;
		sent = send_burst(r, &number, LAST | (end ? END : 0), tick);
		if (!r->c->both_ways) {
			/* Nobody's messages are late because earlier ones are. */
			while (__atomic_load_n(&r->taken, __ATOMIC_ACQUIRE) <= i)
				bench_relax();
			continue;
		}
		r->c->kind->receive(&r->back, &answer);
		add_sample(r->sample, &r->nr, (double)(stamp() - sent));
		if (!r->there.line && answer.number + 1 != number)
			r->error = "an answer's number";
	}
}

static volatile bool hogging;

static void *hog(void *cpu)
{
	bench_pin(*(int *)cpu);
	while (hogging)
		bench_relax();
	return NULL;
}

static void start_hogs(pthread_t thread[2])
{
	hogging = true;
	for (int i = 0; i < 2; i++)
		if (pthread_create(&thread[i], NULL, hog, &cpus[i]))
			bench_die("pthread_create", EAGAIN);
}

static void stop_hogs(pthread_t thread[2])
{
	hogging = false;
	for (int i = 0; i < 2; i++)
		pthread_join(thread[i], NULL);
}

static void run_case(struct one_case *c, double offset, uint64_t ns)
{
	pthread_t hogs[2];
	double tick = bench_tick_ns();
	struct run *r = aligned_alloc(128, (sizeof(*r) + 127) & ~127ul);
	pthread_t thread;

	memset(r, 0, sizeof(*r));
	r->c = c;
	r->offset = offset;
	c->kind->open(&r->there, c->kind);
	c->kind->open(&r->back, c->kind);
	pthread_create(&thread, NULL, receiver, r);
	bench_pin(cpus[0]);
	bench_no_timer_slack();
	if (c->load == BUSY)
		start_hogs(hogs);
	sender(r, c->load == BUSY ? BUSY_TIMES * ns : ns, tick);
	pthread_join(thread, NULL);
	if (c->load == BUSY)
		stop_hogs(hogs);
	c->error = r->error ? r->error : r->there.error ? r->there.error : r->back.error;
	c->kind->close(&r->there);
	c->kind->close(&r->back);
	bench_add(&c->rounds[P50], tick * bench_quantile(r->sample, r->nr, 0.5));
	bench_add(&c->rounds[P99], tick * bench_quantile(r->sample, r->nr, 0.99));
	bench_add(&c->rounds[P999], tick * bench_quantile(r->sample, r->nr, 0.999));
	bench_add(&c->rounds[COST], tick * bench_quantile(r->cost, r->nr_cost, 0.5));
	free(r);
}

/* --------------------------------------------------------------------------------- the clocks */

struct ping {
	struct channel there, back;
	double least[2]; /* ticks there and back, by both clocks */
};

static void *pong(void *arg)
{
	struct ping *p = arg;
	struct message m;

	bench_pin(cpus[1]);
	for (bool first = true, end = false; !end; first = false) {
		line_receive(&p->there, &m);
		m.sent = stamp() - m.sent;
		if (first || (double)(int64_t)m.sent < p->least[0])
			p->least[0] = (double)(int64_t)m.sent;
		end = m.flags & END;
		m = make_message(0, LAST);
		line_send(&p->back, &m);
	}
	return NULL;
}

/* By how much the second core's clock is ahead, in ticks: a message takes as long either way. */
static double clock_offset(void)
{
	uint64_t start = bench_now();
	struct ping p = { 0 };
	struct message m;
	pthread_t thread;
	bool end = false;

	line_open(&p.there, NULL);
	line_open(&p.back, NULL);
	bench_pin(cpus[0]);
	pthread_create(&thread, NULL, pong, &p);
	for (int i = 0; !end; i++) {
		/* Who has to share the cores gets less of them. */
		end = i + 1 == CALIBRATIONS || (i > 50 && bench_now() - start > CALIBRATE_NS);
		m = make_message(0, LAST | (end ? END : 0));
		line_send(&p.there, &m);
		line_receive(&p.back, &m);
		m.sent = stamp() - m.sent;
		if (i == 0 || (double)(int64_t)m.sent < p.least[1])
			p.least[1] = (double)(int64_t)m.sent;
	}
	pthread_join(thread, NULL);
	line_close(&p.there);
	line_close(&p.back);
	return (p.least[0] - p.least[1]) / 2;
}

/* --------------------------------------------------------------------------------------- output */

static void print_case(const struct one_case *c)
{
	char params[128];

	for (int i = 0; i < NR_STATS; i++) {
		if (i == COST && c->both_ways)
			continue;
		snprintf(params, sizeof(params), "\"way\": \"%s\", \"load\": \"%s\", \"stat\": \"%s\"",
			 c->both_ways ? "round trip" : "one way", loads[c->load], stats[i]);
		bench_print("latency", c->kind->name, params, "ns", &c->rounds[i], c->error);
	}
}

int main(int argc, char **argv)
{
	enum { NR_CASES = 2 * NR_LOADS * NR_KINDS };
	static struct one_case cases[NR_CASES];
	unsigned rounds = 10;
	uint64_t ns = 60000000, start = bench_now();

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--quick")) {
			rounds = 2;
			ns = 10000000;
		} else if (!strcmp(argv[i], "--rounds") && i + 1 < argc && atoi(argv[i + 1]) > 0) {
			rounds = (unsigned)atoi(argv[++i]);
		} else {
			fprintf(stderr, "Usage: latency [--quick] [--rounds N]\n");
			return 2;
		}
	}
	if (bench_cpus(cpus, 2) < 2) {
		bench_skip("latency", "all", "", "there is only one CPU");
		return 0;
	}
	for (size_t i = 0; i < NR_CASES; i++)
		cases[i] = (struct one_case){ .kind = &kinds[i % NR_KINDS],
					      .both_ways = i / NR_KINDS & 1,
					      .load = (enum load)(i / NR_KINDS / 2) };
	for (unsigned round = 0; round < rounds && bench_now() - start < ENOUGH_NS; round++) {
		double offset = clock_offset();

		for (size_t i = 0; i < NR_CASES; i++)
			run_case(&cases[i], offset, ns);
	}
	for (size_t i = 0; i < NR_CASES; i++)
		print_case(&cases[i]);
	return 0;
}
