/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tracer that holds its records' times against clocks that it reads around each: two threads, and a
 * process that is killed at its end. Never beats its heart.
 *
 *   stamps PATH tsc|monotonic|best RECORDS MICROSECONDS
 *
 * RECORDS of each, as fast as it can, with a pause of MICROSECONDS after each tenth. "die" as a last
 * argument: is killed itself when all are written. Prints the clock of the region.
 */
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <htrace/producer.h>
#include <htrace/schema.h>

struct stamp {
	__u64 before, after;           /* CLOCK_MONOTONIC */
	__u64 real_before, real_after; /* CLOCK_REALTIME */
};

static struct htrace_region *region;
static unsigned long records, pause_us;
static __u32 id;

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "stamps: %s failed\n", what);
	exit(1);
}

static __u64 now(clockid_t clock)
{
	struct timespec t;

	clock_gettime(clock, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

static void declare(void)
{
	struct htrace_schema_builder *b;
	const void *entries;
	int type, ret;
	size_t len;

	check(!htrace_builder_new(&b, NULL, 0), "the builder");
	const __u32 u64 = (__u32)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE);
	const struct htrace_schema_member members[] = {
		{ .type = u64, .name = "before" },
		{ .type = u64, .bit_off = 64, .name = "after" },
		{ .type = u64, .bit_off = 128, .name = "real_before" },
		{ .type = u64, .bit_off = 192, .name = "real_after" },
	};
	type = htrace_builder_struct(b, "stamp", false, sizeof(struct stamp), members, 4);
	ret = htrace_builder_event(b, "stamp", type);
	check(ret > 0, htrace_builder_error(b));
	id = (__u32)ret;
	entries = htrace_builder_entries(b, &len);
	check(!htrace_region_add_schema(region, entries, len), "the schema");
	htrace_builder_free(b);
}

static void *produce(void *ring)
{
	struct htrace_producer p;
	struct htrace_slot slot;

	check(!htrace_producer_get(&p, region, 0, (int)(long)ring), "taking a ring");
	for (unsigned long i = 0; i < records; i++) {
		struct stamp s = { .real_before = now(CLOCK_REALTIME), .before = now(CLOCK_MONOTONIC) };
		void *at = htrace_producer_reserve(&p, id, sizeof(s), &slot);

		check(at, "a record");
		s.after = now(CLOCK_MONOTONIC);
		s.real_after = now(CLOCK_REALTIME);
		memcpy(at, &s, sizeof(s));
		htrace_commit(&slot);
		if (i % 10 == 9 && pause_us)
			usleep((useconds_t)pause_us);
	}
	return NULL; /* the ring stays taken: it is as if it went on */
}

int main(int argc, char **argv)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_DISCARD,
		.kind = HTRACE_RING_PER_THREAD, .nr_rings = 3,
	};
	pthread_t threads[2];
	pid_t child;

	check(argc >= 5, "see the head of its source for how to call it; this");
	o.clock_id = !strcmp(argv[2], "tsc") ? HTRACE_CLOCK_TSC :
		     !strcmp(argv[2], "monotonic") ? HTRACE_CLOCK_MONOTONIC : 0;
	records = strtoul(argv[3], NULL, 10);
	pause_us = strtoul(argv[4], NULL, 10);
	check(!htrace_region_create_local(&region, argv[1], 8 << 20, &o, NULL), "making the region");
	puts(htrace_region_super(region)->clock_id == HTRACE_CLOCK_TSC ? "TSC" : "CLOCK_MONOTONIC");
	fflush(stdout);
	declare();
	htrace_region_set_state(region, HTRACE_GUEST_RUNNING);
	htrace_region_publish(region);
	child = fork();
	if (!child) {
		produce((void *)2);
		kill(getpid(), SIGKILL);
	}
	check(child > 0, "a process");
	for (long i = 0; i < 2; i++)
		check(!pthread_create(&threads[i], NULL, produce, (void *)i), "a thread");
	for (int i = 0; i < 2; i++)
		pthread_join(threads[i], NULL);
	waitpid(child, NULL, 0);
	if (argc > 5)
		kill(getpid(), SIGKILL);
	htrace_region_set_state(region, HTRACE_GUEST_CLOSING);
	htrace_region_release(region);
	return 0;
}
