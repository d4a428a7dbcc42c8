/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * How long between two events? Reads a region, pairs each BEGIN with the END of the same KEY, a field
 * of both, and prints how the times between them are distributed.
 *
 *	cc -O2 latency-histogram.c -o latency-histogram $(pkg-config --cflags --libs libhtrace)
 *	./latency-histogram /dev/shm/calls function_entry function_exit id
 *	./latency-histogram /dev/shm/myvm.htrace sys_enter sys_exit tid 10
 *
 * Ends when the tracer does, at Ctrl-C, or after the seconds given last. It maps all read-only, so it
 * may run beside host-reader. A begin and its end may lie in different rings, which are read one
 * after the other: so events are kept (40 bytes each), and sorted by time at the end.
 *
 * Where events are missing in any ring, the end seen may be that of a begin not seen: pairs that
 * touch such a gap are not used, but counted.
 */
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <htrace/clock.h>
#include <htrace/consumer.h>
#include <htrace/schema.h>

#define IN_GAP SIZE_MAX

struct sample {
	__u64 time, key;
	size_t order; /* first that of reading, then that of time */
	size_t gap;   /* IN_GAP, or how many ends of gaps came before it */
	enum { BEGIN, END, GAP_START, GAP_END } what;
};

struct ring {
	struct htrace_consumer *consumer;
	__u64 known; /* time until which all of its records were seen */
	bool in_gap; /* records are missing after that, and none was seen since */
};

static const struct htrace_event *begin, *end;
static const char *key;
static struct sample *samples;
static size_t nr_samples, room;
static struct htrace_clock *region_clock;
static __u64 nr_read, lost, before, newest;
static volatile sig_atomic_t stopped;

static void stop(int signo)
{
	(void)signo;
	stopped = 1;
}

static _Noreturn void die(const char *what, const char *why)
{
	fprintf(stderr, "latency-histogram: %s: %s\n", what, why);
	exit(1);
}

/* ------------------------------------------------------------------------------------- reading */

static void add(int what, __u64 time, __u64 value)
{
	if (nr_samples == room) {
		room = room ? 2 * room : 4096;
		samples = realloc(samples, room * sizeof(*samples));
		if (!samples)
			die("cannot keep all events", "out of memory; read for a shorter time");
	}
	samples[nr_samples] = (struct sample){ time, value, nr_samples, 0, what };
	nr_samples++;
}

static void open_gap(struct ring *ring)
{
	if (!ring->in_gap)
		add(GAP_START, ring->known, 0);
	ring->in_gap = true;
}

static void take(struct ring *ring, const struct htrace_batch *b)
{
	struct htrace_record rec;
	struct htrace_iter it;
	__u64 value;

	nr_read += b->events;
	lost += b->overwritten + b->dropped + b->corrupt + b->unfinished;
	before += b->before;
	if (b->overwritten || b->dropped || b->corrupt || b->unfinished || b->before)
		open_gap(ring); /* before the batch's first record; it may have none */
	for (htrace_iter_init(&it, b); htrace_iter_next(&it, &rec);) {
		const struct htrace_event *e = rec.id == begin->id ? begin : end;

		if (ring->in_gap)
			add(GAP_END, rec.time, 0);
		ring->in_gap = false;
		ring->known = rec.time;
		newest = rec.time > newest ? rec.time : newest;
		if (rec.id == e->id && htrace_event_get(e, rec.payload, rec.len, key, &value))
			add(e == begin ? BEGIN : END, rec.time, value);
	}
}

/* What is there now; what comes meanwhile is left for the next time, so this ends. */
static void read_ring(struct ring *ring)
{
	struct htrace_consumer *c = ring->consumer;
	__u64 until = UINT64_MAX;
	struct htrace_batch b;

	/* A ring that is gone or broken (< 0) is at its end, too. */
	while (htrace_consumer_position(c) < until && htrace_consumer_read(c, &b) == 1) {
		take(ring, &b);
		if (until == UINT64_MAX)
			until = htrace_consumer_position(c) + htrace_consumer_backlog(c);
	}
	if (!htrace_consumer_backlog(c) && !ring->in_gap)
		ring->known = newest;
}

/* Times may be ticks of the TSC: by these it is known how long they are. */
static void read_clock(const struct htrace_view *v)
{
	struct htrace_clock_sample fresh[HTRACE_CLOCK_SAMPLES];
	static __u64 next;
	int n = htrace_view_clock_samples(v, &next, fresh);

	for (int i = 0; i < n; i++)
		htrace_clock_add(region_clock, &fresh[i]);
}

static void read_all(const struct htrace_view *v, struct ring *rings, __u32 nr)
{
	bool last;

	do {
		read_clock(v);
		last = stopped || !htrace_view_current(v) ||
		       htrace_view_state(v) >= HTRACE_GUEST_CLOSING;
		for (__u32 i = 0; i < nr; i++)
			read_ring(&rings[i]);
		if (!last)
			usleep(2000);
	} while (!last);
	for (__u32 i = 0; i < nr; i++) /* what came since is as good as missing */
		if (htrace_consumer_ready(rings[i].consumer))
			open_gap(&rings[i]);
}

/* ------------------------------------------------------------------------------------- opening */

static const struct htrace_event *find(const struct htrace_schema *s, const char *name)
{
	const struct htrace_event *e = htrace_schema_event_by_name(s, name);

	if (!e)
		die(name, "the region has no such event; host-reader --view summary shows which");
	for (__u32 i = 0; i < e->type->nr; i++) {
		const struct htrace_member *m = &e->type->members[i];

		if (!strcmp(m->name, key) && (m->type->kind == HTRACE_TYPE_INT ||
					      m->type->kind == HTRACE_TYPE_ENUM))
			return e;
	}
	die(name, "the event has no integer field with the key's name");
}

static struct htrace_schema *load_schema(const struct htrace_view *v)
{
	struct htrace_schema *s;
	char why[256] = "nothing is declared in it";
	__u64 generation = 0;
	void *entries;
	size_t len;

	if (htrace_view_schema(v, &generation, &entries, &len) != 1 ||
	    htrace_schema_parse(&s, entries, len, why, sizeof(why)))
		die("cannot read the schema", why);
	free(entries);
	return s;
}

static struct ring *open_rings(struct htrace_view *v, __u32 *nr)
{
	struct ring *rings = calloc(HTRACE_MAX_RINGS, sizeof(*rings));
	const struct htrace_super *super = htrace_view_super(v);
	struct htrace_image image;
	char why[256];

	for (__u32 set = 0; rings && set < super->nr_ringsets; set++) {
		const struct htrace_ringset *s = &super->ringset[set];

		if (s->relays) /* mirrors of rings in guest RAM, where they are read */
			continue;
		if (s->placement == HTRACE_PLACEMENT_VSHMEM &&
		    htrace_view_map_ram(v, 0, NULL, why, sizeof(why)))
			die("cannot map the guest's memory", why);
		for (__u32 i = 0; i < s->nr_rings; i++)
			if (htrace_view_ring(v, set, i, &image) ||
			    htrace_consumer_new(&rings[(*nr)++].consumer, &image, NULL))
				die("cannot open the rings", "not there, or out of memory");
	}
	if (!rings)
		die("cannot open the rings", "out of memory");
	return rings;
}

/* ------------------------------------------------------------------------------------- pairing */

static int compare(__u64 a, __u64 b, size_t order_a, size_t order_b)
{
	return a != b ? (a < b ? -1 : 1) : order_a < order_b ? -1 : order_a > order_b;
}

static int by_time(const void *x, const void *y)
{
	const struct sample *a = x, *b = y;

	return compare(a->time, b->time, a->order, b->order);
}

static int by_key(const void *x, const void *y)
{
	const struct sample *a = x, *b = y;

	return compare(a->key, b->key, a->order, b->order);
}

static int by_value(const void *x, const void *y)
{
	return compare(*(const __u64 *)x, *(const __u64 *)y, 0, 0);
}

/* False: there is nothing to convert them by, and they stay ticks. */
static bool to_ns(void)
{
	for (size_t i = 0; i < nr_samples; i++)
		if (htrace_clock_ns(region_clock, samples[i].time, &samples[i].time, NULL))
			return false;
	return true;
}

/* Sort by time, mark what lies in gaps or between which of them, and leave the gaps out. */
static void mark_gaps(void)
{
	size_t ends = 0, open = 0, kept = 0;

	qsort(samples, nr_samples, sizeof(*samples), by_time);
	for (size_t i = 0; i < nr_samples; i++) {
		struct sample s = samples[i];

		open += s.what == GAP_START;
		open -= s.what == GAP_END;
		ends += s.what == GAP_END;
		s.gap = open ? IN_GAP : ends;
		s.order = i;
		if (s.what <= END)
			samples[kept++] = s;
	}
	nr_samples = kept;
}

static void print(const __u64 *times, size_t nr)
{
	static const double percents[] = { 50, 90, 99, 99.9, 100 };
	size_t rows[65] = { 0 }, most = 0;

	for (size_t i = 0; i < nr; i++) { /* row r: 2^(r-1) <= time < 2^r */
		size_t *row = &rows[times[i] ? 64 - __builtin_clzll(times[i]) : 0];

		most = ++*row > most ? *row : most;
	}
	for (int r = 0; r < 65; r++)
		if (rows[r])
			printf("%14llu ... %-14llu %10zu |%.*s\n", r ? 1ULL << (r - 1) : 0,
			       r ? ~0ULL >> (64 - r) : 0, rows[r], (int)((40 * rows[r] + most - 1) / most),
			       "########################################");
	for (size_t i = 0; nr && i < sizeof(percents) / sizeof(*percents); i++) {
		size_t rank = (size_t)(percents[i] / 100 * (double)nr + 0.999999); /* rounded up */

		printf("%8.1f %% within %llu\n", percents[i], (unsigned long long)times[rank - 1]);
	}
}

static void pair_and_print(void)
{
	const char *unit;
	size_t pairs = 0, at_gaps = 0, unpaired[2] = { 0 };
	__u64 *times;

	mark_gaps();
	unit = to_ns() ? "ns" : "TSC ticks";
	qsort(samples, nr_samples, sizeof(*samples), by_key);
	times = malloc((nr_samples / 2 + 1) * sizeof(*times));
	if (!times)
		die("cannot sort the times", "out of memory");
	for (size_t i = 0; i < nr_samples; i++) {
		const struct sample *a = &samples[i], *b = a + 1;

		if (a->what != BEGIN || i + 1 == nr_samples || b->what != END || a->key != b->key) {
			unpaired[a->what]++;
			continue;
		}
		i++;
		if (a->gap == b->gap && a->gap != IN_GAP)
			times[pairs++] = b->time - a->time;
		else
			at_gaps++;
	}
	qsort(times, pairs, sizeof(*times), by_value);
	printf("%s to %s of the same %s, in %s\n\n", begin->name, end->name, key, unit);
	print(times, pairs);
	printf("\n%zu pairs; not used: %zu pairs at gaps, %zu begins, %zu ends alone\n", pairs, at_gaps,
	       unpaired[BEGIN], unpaired[END]);
	printf("%llu events read; %llu lost, %llu overwritten before\n", (unsigned long long)nr_read,
	       (unsigned long long)lost, (unsigned long long)before);
	free(times);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = stop };
	char why[256] = "there is no tracer yet";
	struct htrace_schema *schema;
	struct htrace_view *v;
	struct ring *rings;
	__u32 nr = 0;

	if (argc < 5 || argc > 6) {
		fprintf(stderr, "Usage: latency-histogram REGION BEGIN END KEY [SECONDS]\n");
		return 2;
	}
	key = argv[4];
	if (htrace_view_open(&v, argv[1], false, why, sizeof(why)) ||
	    htrace_view_attach(v, why, sizeof(why)))
		die(argv[1], why);
	schema = load_schema(v);
	begin = find(schema, argv[2]);
	end = find(schema, argv[3]);
	rings = open_rings(v, &nr);
	if (htrace_clock_new(&region_clock, htrace_view_super(v)->clock_id))
		die("cannot convert times", "out of memory");
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGALRM, &action, NULL);
	if (argc == 6)
		alarm((unsigned int)strtoul(argv[5], NULL, 10));
	fprintf(stderr, "latency-histogram: reading %u rings\n", nr);
	read_all(v, rings, nr);
	read_clock(v);
	pair_and_print();
	while (nr)
		htrace_consumer_free(rings[--nr].consumer);
	free(rings);
	free(samples);
	htrace_clock_free(region_clock);
	htrace_schema_free(schema);
	htrace_view_close(v);
	return 0;
}
