// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What a push costs its producer, by queue, while a consumer reads.
 *
 * A producer pushes bursts of a quarter of the capacity, and waits behind each until all of it was
 * read; so no queue is ever full, and none gains from pushes that it refuses. The consumer waits by the
 * library's own policies, for all queues alike, and checks what it gets. A round's value is the median of
 * its bursts' CPU time by push. Cases take turns.
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <htrace/sync.h>

#include "push.h"

#define WARM_BURSTS 5 /* once round, and a bit */
#define MAX_BURSTS 64
#define STUCK_NS 10000000000ull
#define ENOUGH_NS 60000000000ull /* no further round then */

static const struct push_queue *const queues[] = {
	&push_htrace, &push_htrace_single, &push_htrace_bell, &push_htrace_single_bell,
#ifdef HAVE_CK
	&push_ck_spsc, &push_ck_mpsc, &push_ck_mpmc,
#endif
#ifdef HAVE_RTE
	&push_rte_spsc, &push_rte_mpsc, &push_rte_mpmc,
#endif
#ifdef HAVE_LTTNG
	&push_lttng,
#endif
};

struct one_case {
	const struct push_queue *queue;
	struct push_config config;
	const char *sync; /* NULL: the queue's own consumer */
	struct bench_rounds rounds;
	uint64_t pushed;
	const char *error;
};

/* One case in one round. */
struct run {
	struct one_case *c;
	void *q;
	struct htrace_sync *sync;
	uint64_t burst, bursts;
	unsigned arrived; /* at the barrier of producers */
	/* Read by waiting producers between bursts, written by the consumer. */
	uint64_t received[PUSH_MAX_PRODUCERS] __attribute__((aligned(128)));
	bool stop;
	const char *error;
	double value[PUSH_MAX_PRODUCERS][MAX_BURSTS];
};

struct producer {
	struct run *run;
	unsigned index;
	int cpu;
	pthread_t thread;
};

static int cpus[2];
static int nr_cpus;

static bool is_ready(void *arg)
{
	struct run *r = arg;

	return r->c->queue->ready(r->q);
}

static void *consume(void *arg)
{
	struct run *r = arg;
	struct push_check check = { 0 };

	bench_no_timer_slack();
	/* With two producers on two CPUs there is none for the consumer alone. */
	bench_pin(r->c->config.producers == 1 && nr_cpus > 1 ? cpus[1] : -1);
	while (!__atomic_load_n(&r->stop, __ATOMIC_ACQUIRE)) {
		uint64_t before = check.next[0] + check.next[1];

		htrace_sync_wait(r->sync, 1000000);
		r->c->queue->drain(r->q, &check);
		htrace_sync_did(r->sync, check.next[0] + check.next[1] - before, 0);
		for (int i = 0; i < PUSH_MAX_PRODUCERS; i++)
			__atomic_store_n(&r->received[i], check.next[i], __ATOMIC_RELEASE);
		if (check.error)
			__atomic_store_n(&r->error, check.error, __ATOMIC_RELEASE);
	}
	return NULL;
}

static bool failed(struct run *r)
{
	return __atomic_load_n(&r->error, __ATOMIC_ACQUIRE) != NULL;
}

static void relax(struct run *r)
{
	if (r->c->config.producers > 1)
		sched_yield();
	else
		bench_relax();
}

/* All producers begin a burst at once. */
static void barrier(struct run *r, uint64_t burst)
{
	unsigned all = r->c->config.producers * (unsigned)(burst + 1);

	__atomic_fetch_add(&r->arrived, 1, __ATOMIC_ACQ_REL);
	while (__atomic_load_n(&r->arrived, __ATOMIC_ACQUIRE) < all && !failed(r))
		relax(r);
}

static void until_received(struct run *r, unsigned producer, uint64_t number)
{
	uint64_t since = bench_now();

	if (!r->c->queue->drain) { /* nobody says when LTTng's daemon has read */
		usleep(3000);
		return;
	}
	while (__atomic_load_n(&r->received[producer], __ATOMIC_ACQUIRE) < number && !failed(r)) {
		relax(r);
		if (bench_now() - since > STUCK_NS)
			__atomic_store_n(&r->error, "the consumer does not get all of it",
					 __ATOMIC_RELEASE);
	}
}

static void *produce(void *arg)
{
	struct producer *p = arg;
	struct run *r = p->run;

	bench_pin(p->cpu);
	for (uint64_t b = 0; b < r->bursts && !failed(r); b++) {
		uint64_t start, pushed, ns;

		barrier(r, b);
		start = bench_clock(CLOCK_THREAD_CPUTIME_ID);
		pushed = r->c->queue->burst(r->q, p->index, b * r->burst, r->burst);
		ns = bench_clock(CLOCK_THREAD_CPUTIME_ID) - start;
		r->value[p->index][b] = (double)ns / (double)r->burst;
		if (pushed != r->burst)
			__atomic_store_n(&r->error, "a queue was full", __ATOMIC_RELEASE);
		until_received(r, p->index, (b + 1) * r->burst);
	}
	return NULL;
}

/* Of all producers of a ring together, a quarter of what it holds (LTTng has one per CPU). */
static uint64_t burst_size(const struct push_config *c)
{
	return PUSH_CAPACITY / 4 / (c->payload + 16) / (c->shared ? c->producers : 1);
}

static void take_values(struct run *r)
{
	double all[PUSH_MAX_PRODUCERS * MAX_BURSTS];
	size_t nr = 0;

	for (unsigned p = 0; p < r->c->config.producers; p++)
		for (uint64_t b = WARM_BURSTS; b < r->bursts; b++)
			all[nr++] = r->value[p][b];
	bench_add(&r->c->rounds, bench_quantile(all, nr, 0.5));
}

static void run_case(struct one_case *c, unsigned bursts)
{
	struct producer producer[PUSH_MAX_PRODUCERS];
	struct run *r = aligned_alloc(128, (sizeof(*r) + 127) & ~127ul);
	struct htrace_sync_target target = { .sz = sizeof(target), .ready = is_ready, .ctx = r };
	pthread_t consumer;
	int ret;

	memset(r, 0, sizeof(*r));
	r->c = c;
	r->burst = burst_size(&c->config);
	r->bursts = c->queue->drain ? bursts : WARM_BURSTS + 3; /* all of these are kept */
	r->q = c->queue->make(&c->config);
	if (c->sync) {
		ret = htrace_sync_new(&r->sync, c->sync, &target);
		if (ret)
			bench_die(c->sync, ret);
		pthread_create(&consumer, NULL, consume, r);
	}
	for (unsigned i = 0; i < c->config.producers; i++) {
		producer[i] = (struct producer){ .run = r, .index = i, .cpu = cpus[i % (unsigned)nr_cpus] };
		pthread_create(&producer[i].thread, NULL, produce, &producer[i]);
	}
	for (unsigned i = 0; i < c->config.producers; i++)
		pthread_join(producer[i].thread, NULL);
	if (c->sync) {
		__atomic_store_n(&r->stop, true, __ATOMIC_RELEASE);
		pthread_join(consumer, NULL);
		htrace_sync_free(r->sync);
	}
	c->queue->free(r->q);
	c->pushed += r->burst * r->bursts * c->config.producers;
	if (r->error)
		c->error = r->error;
	else
		take_values(r);
	free(r);
}

/* ---------------------------------------------------------------------------------------- cases */

static struct one_case cases[1024];
static size_t nr_cases;

static const char *params(const struct one_case *c)
{
	static const char *const clocks[] = { "none", "monotonic", "tsc" };
	static char text[256];

	snprintf(text, sizeof(text),
		 "\"payload\": %u, \"producers\": %u, \"rings\": \"%s\", \"sync\": \"%s\", \"clock\": \"%s\"",
		 c->config.payload, c->config.producers, c->config.shared ? "shared" : "own",
		 c->sync ? c->sync : "own", clocks[c->config.clock]);
	return text;
}

static void add_case(const struct push_queue *q, struct push_config config, const char *sync)
{
	struct one_case *c = &cases[nr_cases];

	if (config.shared ? !q->multi : config.producers > 1 && !q->single)
		return;
	*c = (struct one_case){ .queue = q, .config = config, .sync = sync };
	if (q->missing && q->missing())
		bench_skip("push", q->name, params(c), q->missing());
	else if (nr_cases + 1 < sizeof(cases) / sizeof(*cases))
		nr_cases++;
}

/* Cases that are compared with each other lie side by side, so they run so. */
static void add_queues(struct push_config config, const char *sync)
{
	static const enum push_clock clocks[] = { PUSH_MONOTONIC, PUSH_TSC, PUSH_NONE };

	for (size_t k = 0; k < sizeof(clocks) / sizeof(*clocks); k++) {
		for (size_t i = 0; i < sizeof(queues) / sizeof(*queues); i++) {
			config.clock = clocks[k];
			if (queues[i]->drain)
				add_case(queues[i], config, sync);
			else if (clocks[k] == PUSH_MONOTONIC && !strcmp(sync, "timer:50") &&
				 !config.shared) /* it has a ring per CPU */
				add_case(queues[i], config, NULL);
		}
	}
}

/* Is @n in the list @of, "16,64"? */
static bool listed(unsigned n, const char *of)
{
	for (; of && *of; of += strcspn(of, ","), of += *of == ',')
		if (strtoul(of, NULL, 10) == n)
			return true;
	return !of;
}

static void add_cases(const char *only, const char *sizes)
{
	static const unsigned payloads[] = { 16, 32, 64, 256 };
	static const char *const syncs[] = { "spin", "timer:50" };

	for (size_t p = 0; p < 4; p++)
		for (unsigned producers = 1; producers <= PUSH_MAX_PRODUCERS; producers++)
			for (int shared = 0; shared < (int)producers; shared++)
				for (size_t s = 0; s < 2; s++) {
					struct push_config c = { .payload = payloads[p],
								 .producers = producers,
								 .shared = shared };

					if (!listed(c.payload, sizes))
						continue;
					if (only && strcmp(only, syncs[s]))
						continue;
					add_queues(c, syncs[s]);
				}
}

static void skip_missing(void)
{
#ifndef HAVE_CK
	bench_skip("push", "ck_ring", "", "built without libck-dev");
#endif
#ifndef HAVE_RTE
	bench_skip("push", "rte_ring", "", "built without libdpdk-dev");
#endif
#ifndef HAVE_LTTNG
	bench_skip("push", "LTTng-UST", "", "built without liblttng-ust-dev");
#endif
}

static void usage(void)
{
	fprintf(stderr, "Usage: push-queues [--quick] [--rounds N] [--sync POLICY] [--payload BYTES,...]\n");
	exit(2);
}

int main(int argc, char **argv)
{
	unsigned rounds = 15, bursts = WARM_BURSTS + 12;
	const char *sync = NULL, *sizes = NULL;
	uint64_t start = bench_now();

	for (int i = 1; i < argc; i++) {
		if (!strcmp(argv[i], "--quick"))
			rounds = 1, bursts = WARM_BURSTS + 3;
		else if (!strcmp(argv[i], "--rounds") && i + 1 < argc)
			rounds = (unsigned)atoi(argv[++i]);
		else if (!strcmp(argv[i], "--sync") && i + 1 < argc)
			sync = argv[++i];
		else if (!strcmp(argv[i], "--payload") && i + 1 < argc)
			sizes = argv[++i];
		else
			usage();
	}
	if (!rounds || rounds > BENCH_MAX_ROUNDS)
		usage();
	nr_cpus = bench_cpus(cpus, 2);
	skip_missing();
	add_cases(sync, sizes);
	/* Rounds are whole, or the cases' would not belong together. */
	for (unsigned round = 0; round < rounds && bench_now() - start < ENOUGH_NS; round++)
		for (size_t i = 0; i < nr_cases; i++)
			if (!cases[i].error)
				run_case(&cases[i], bursts);
	for (size_t i = 0; i < nr_cases; i++) {
		bench_print("push", cases[i].queue->name, params(&cases[i]), "ns", &cases[i].rounds,
			    cases[i].error);
		if (!cases[i].sync)
			fprintf(stderr, "lttng %u %llu\n", cases[i].config.payload,
				(unsigned long long)cases[i].pushed);
	}
	return 0;
}
