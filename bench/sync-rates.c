// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Policies by event rate: a producer, a process on a core of its own, records on the beat of its clock; the
 * reader, on another core, reads by a policy. Delay: from the record's time, taken before the push, until
 * the reader has the record in its hands. CPU: of the reader's thread. The producer's cost is the time of the
 * push, less that of an empty one; with futex that of its system calls is in it. What took longer than
 * CAP_NS was preempted, and counts as that. Policies take turns.
 *
 * doorbell: the producer writes to an eventfd, which is what becomes of a guest's store to the device. Here
 * that is a system call, as futex's; from a guest it would be an exit.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <signal.h>
#include <unistd.h>

#include <htrace/consumer.h>
#include <htrace/producer.h>
#include <htrace/region.h>
#include <htrace/sync.h>

#include "bench.h"

#define MAX_EVENTS 1000000
#define SETTLE_NS 30000000 /* before the first event, for both to be at it */
#define RING_SIZE (4u << 20)
#define BOUND_NS 100000000
#define CAP_NS 50000
#define PATIENCE 50 /* waits in a row that end by the bound; not a time: machines are paused, too */

static const char *const policies[] = { "spin", "adaptive", "timer:50", "timer:1000", "futex", "doorbell" };
static const struct rate {
	const char *name;
	uint64_t per_second, events, quick;
} rates[] = {
	{ "1k", 1000, 1000, 100 }, { "100k", 100000, 50000, 5000 }, { "1M", 1000000, 400000, 50000 },
};
#define POLICIES (sizeof(policies) / sizeof(*policies))
#define RATES (sizeof(rates) / sizeof(*rates))
enum { P50, P99, P999, CPU, COST, RINGS, STATS };
static const struct {
	const char *name, *unit;
	double q;
} stats[STATS] = {
	{ "p50", "us", 0.5 }, { "p99", "us", 0.99 }, { "p99.9", "us", 0.999 },
	{ "reader CPU", "%", 0 }, { "producer", "ns", 0 }, { "wakes per million", "wakes", 0 },
};

struct event {
	uint64_t number, ticks, check;
};

/* What the producer found out, in memory that both have. */
struct report {
	uint64_t push_ticks, empty_ticks, pushed, failed;
};

struct run {
	const struct rate *rate;
	uint64_t events;
	struct htrace_region *region;
	struct htrace_view *view;
	struct htrace_consumer *consumer;
	struct htrace_host_ring *words;
	const __u32 *bell;
	int doorbell; /* or -1 */
	uint64_t rung;
	struct report *report;
	double *delay;
	uint64_t seen;
	const char *error;
	int cpu[2];
};

static struct bench_rounds result[POLICIES][RATES][STATS];
static const char *error[POLICIES][RATES];

static bool is_woken(const char *policy)
{
	return !strcmp(policy, "futex") || !strcmp(policy, "doorbell");
}

static uint64_t check_of(uint64_t number)
{
	return number * 0x9e3779b97f4a7c15ull;
}

/* ------------------------------------------------------------------------------------- producer */

static uint64_t since(uint64_t ticks, uint64_t cap)
{
	uint64_t took = bench_ticks() - ticks;

	return took < cap ? took : cap;
}

static int doorbell_of_producer;

static void ring_doorbell(struct htrace_producer *p)
{
	uint64_t one = 1;

	if (!(__atomic_load_n(&htrace_region_host(p->region)->sync, __ATOMIC_RELAXED) & HTRACE_SYNC_RING))
		return;
	if (write(doorbell_of_producer, &one, sizeof(one)) != sizeof(one))
		_exit(2);
}

static void produce(struct run *r)
{
	double per_event = 1e9 / (double)r->rate->per_second / bench_tick_ns();
	uint64_t start = bench_ticks() + (uint64_t)(SETTLE_NS / bench_tick_ns()), before;
	uint64_t cap = (uint64_t)(CAP_NS / bench_tick_ns());
	struct htrace_producer p;
	int ret = htrace_producer_get(&p, r->region, 0, 0);

	if (ret)
		bench_die("htrace_producer_get", ret);
	doorbell_of_producer = r->doorbell;
	if (r->doorbell >= 0)
		p.bell = ring_doorbell;
	for (uint64_t i = 0; i < r->events; i++) {
		uint64_t due = start + (uint64_t)((double)i * per_event);
		struct event e = { .number = i, .check = check_of(i) };

		while ((before = bench_ticks()) < due)
			bench_relax();
		r->report->empty_ticks += since(before, cap);
		e.ticks = before = bench_ticks();
		r->report->failed += htrace_push_single(&p, 1, &e, sizeof(e)) != 0;
		r->report->push_ticks += since(before, cap);
	}
	htrace_producer_put(&p);
	r->report->pushed = r->events;
}

static pid_t start_producer(struct run *r)
{
	pid_t pid = fork();

	if (pid < 0)
		bench_die("fork", errno);
	if (pid)
		return pid;
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	bench_pin(r->cpu[0]);
	produce(r);
	_exit(0);
}

/* --------------------------------------------------------------------------------------- reader */

static bool ready(void *ctx)
{
	return htrace_consumer_ready(((struct run *)ctx)->consumer);
}

static void take_rings(struct run *r)
{
	uint64_t count;

	if (r->doorbell >= 0 && read(r->doorbell, &count, sizeof(count)) == sizeof(count))
		r->rung += count;
}

static int arm(void *ctx, struct htrace_bell *bell, int max, bool *all)
{
	struct run *r = ctx;

	(void)max;
	(void)all;
	take_rings(r);
	*bell = (struct htrace_bell){ .fd = r->doorbell };
	if (r->doorbell < 0) {
		bell->word = r->bell;
		bell->seen = __atomic_load_n(r->bell, __ATOMIC_ACQUIRE);
	}
	htrace_consumer_arm(r->consumer, &r->words->event_idx);
	htrace_sync_armed();
	return 1;
}

static uint64_t take(struct run *r)
{
	struct htrace_record rec;
	struct htrace_batch b;
	struct htrace_iter it;
	uint64_t from = r->seen;
	int ret;

	while ((ret = htrace_consumer_read(r->consumer, &b)) == 1) {
		if (b.overwritten || b.dropped || b.corrupt)
			r->error = "events were lost";
		htrace_iter_init(&it, &b);
		while (htrace_iter_next(&it, &rec)) {
			const struct event *e = rec.payload;
			uint64_t now = bench_ticks();

			if (rec.len != sizeof(*e) || r->seen >= r->events || e->number != r->seen ||
			    e->check != check_of(r->seen)) {
				r->error = "an event is not what was recorded";
				return 0;
			}
			r->delay[r->seen++] = now < e->ticks ? 0 :
					      (double)(now - e->ticks) * bench_tick_ns() / 1000;
		}
	}
	if (ret)
		r->error = strdup(htrace_consumer_error(r->consumer)); /* it outlives the consumer */
	return r->seen - from;
}

static void read_all(struct run *r, struct htrace_sync *sync)
{
	int empty = 0;

	while (r->seen < r->events && !r->error) {
		bool over = htrace_sync_wait(sync, BOUND_NS) == 0;
		uint64_t events = take(r);

		htrace_sync_did(sync, events, htrace_consumer_backlog(r->consumer));
		empty = over && !events ? empty + 1 : 0;
		if (empty > PATIENCE && !r->error)
			r->error = "events did not come";
	}
}

/* ------------------------------------------------------------------------------------------ runs */

static void open_run(struct run *r, bool bell)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_DISCARD,
		.kind = HTRACE_RING_PER_THREAD, .nr_rings = 1, .ring_size = RING_SIZE, .bell = bell,
	};
	struct htrace_consumer_opts c = { .sz = sizeof(c) };
	struct htrace_image img;
	char why[200] = "";
	int fd, ret = htrace_region_create_local(&r->region, NULL, 4 * RING_SIZE, &o, &fd);

	if (ret)
		bench_die("htrace_region_create_local", ret);
	htrace_region_publish(r->region);
	ret = htrace_view_open_fd(&r->view, fd, true, why, sizeof(why));
	if (!ret)
		ret = htrace_view_attach(r->view, why, sizeof(why));
	if (!ret)
		ret = htrace_view_ring(r->view, 0, 0, &img);
	if (ret)
		bench_die(why, ret);
	bench_touch(htrace_region_ring(r->region, 0, 0, NULL), RING_SIZE);
	r->words = htrace_view_host_ring(r->view, img.slot);
	c.consumed = &r->words->consumed;
	ret = htrace_consumer_new(&r->consumer, &img, &c);
	if (ret)
		bench_die("htrace_consumer_new", ret);
	r->bell = htrace_view_bell(r->view);
	htrace_view_set_sync(r->view, bell ? HTRACE_SYNC_RING : 0);
	close(fd);
}

static void close_run(struct run *r)
{
	htrace_consumer_free(r->consumer);
	htrace_view_close(r->view);
	htrace_region_release(r->region);
}

/* What was measured in one run, to the rounds. */
static void note(struct run *r, struct bench_rounds *to, double cpu, double rings)
{
	double n = (double)r->events, cost;

	for (int i = P50; i <= P999; i++)
		bench_add(&to[i], bench_quantile(r->delay, r->seen, stats[i].q));
	bench_add(&to[CPU], cpu);
	cost = ((double)r->report->push_ticks - (double)r->report->empty_ticks) * bench_tick_ns() / n;
	bench_add(&to[COST], cost > 1 ? cost : 1);
	bench_add(&to[RINGS], rings * 1e6 / n);
}

static void run(struct run *r, const char *policy, struct bench_rounds *to)
{
	struct htrace_sync_target target = { sizeof(target), ready, r, arm };
	uint64_t wall, cpu;
	struct htrace_sync *sync;
	pid_t pid;
	int ret, status;

	memset(r->report, 0, sizeof(*r->report));
	r->seen = 0;
	r->rung = 0;
	r->doorbell = strcmp(policy, "doorbell") ? -1 : eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
	open_run(r, is_woken(policy));
	ret = htrace_sync_new(&sync, policy, &target);
	if (ret)
		bench_die(policy, ret);
	pid = start_producer(r);
	wall = bench_now();
	cpu = bench_clock(CLOCK_THREAD_CPUTIME_ID);
	read_all(r, sync);
	cpu = bench_clock(CLOCK_THREAD_CPUTIME_ID) - cpu;
	wall = bench_now() - wall;
	if (waitpid(pid, &status, 0) != pid || status || r->report->pushed != r->events || r->report->failed)
		r->error = "the producer failed";
	take_rings(r);
	if (r->bell && r->doorbell < 0)
		r->rung = *r->bell;
	note(r, to, 100.0 * (double)cpu / (double)wall, (double)r->rung);
	if (r->doorbell >= 0)
		close(r->doorbell);
	htrace_sync_free(sync);
	close_run(r);
}

static void print_all(void)
{
	char params[80];

	for (size_t p = 0; p < POLICIES; p++)
		for (size_t i = 0; i < RATES; i++)
			for (int s = 0; s < STATS; s++) {
				if (s == RINGS && !is_woken(policies[p]))
					continue;
				snprintf(params, sizeof(params), "\"rate\": \"%s\", \"stat\": \"%s\"",
					 rates[i].name, stats[s].name);
				bench_print("sync", policies[p], params, stats[s].unit, &result[p][i][s],
					    error[p][i]);
			}
}

int main(int argc, char **argv)
{
	bool quick = argc > 1 && !strcmp(argv[argc - 1], "--quick");
	int rounds = quick ? 2 : 5;
	struct run r = { .seen = 0 };

	if (bench_cpus(r.cpu, 2) < 2) {
		bench_skip("sync", "all", "", "needs two CPUs");
		return 0;
	}
	bench_tick_ns();
	r.report = bench_memory(sizeof(*r.report));
	r.delay = malloc(MAX_EVENTS * sizeof(*r.delay));
	if (!r.delay)
		bench_die("malloc", ENOMEM);
	bench_pin(r.cpu[1]);
	bench_no_timer_slack();
	for (int round = 0; round < rounds; round++)
		for (size_t i = 0; i < RATES; i++)
			for (size_t p = 0; p < POLICIES; p++) {
				r.rate = &rates[i];
				r.events = quick ? rates[i].quick : rates[i].events;
				r.error = NULL;
				run(&r, policies[p], result[p][i]);
				if (r.error)
					error[p][i] = r.error;
			}
	print_all();
	return 0;
}
