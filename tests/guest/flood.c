// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Threads that write known records into a local region, one ring each:
 *
 *   flood PATH discard|overwrite RING BLOCK THREADS RECORDS PAYLOAD RATE MODE
 *
 * PAYLOAD: bytes, 0: of several sizes, and then the schema says of any. RATE: records a second of each thread, 0: as they come. MODE:
 *
 *   fill    without a reader, and that is it
 *   live    begins when a reader has come; a full ring is waited for, so nothing is dropped; then closes
 *   scribble  likewise, while another thread changes bytes that are committed
 *
 * Prints the number of records, and of tries that found no room and were made again (they count as dropped). Each has its number in its ring, and
 * bytes that follow from it.
 */
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include <htrace/producer.h>
#include <htrace/schema.h>

#define MAX_THREADS 8

struct record {
	__u64 seq, check;
};

static struct htrace_region *region;
static __u32 id;
static __u64 records, payload, rate, refused;
static bool wait_for_room;
static bool over;

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "flood: %s failed\n", what);
	exit(1);
}

/* A record's number, a word that follows from it, and the rest. */
static __u32 declare(void)
{
	struct htrace_schema_builder *b;
	const void *entries;
	size_t len;
	int event;

	check(!htrace_builder_new(&b, NULL, 0), "the builder");
	__u32 u64 = (__u32)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE);
	__u32 nr = payload ? (__u32)payload / 8 - 2 : 0;
	__u32 rest = (__u32)htrace_builder_array(b, (int)u64, nr);
	const struct htrace_schema_member members[] = {
		{ .type = u64, .name = "seq" },
		{ .type = u64, .bit_off = 64, .name = "check" },
		{ .type = rest, .bit_off = 128, .name = "rest" },
	};

	event = htrace_builder_event(b, "record", htrace_builder_struct(b, "record", false,
						sizeof(struct record) + 8 * nr, members, 3));
	check(event > 0, htrace_builder_error(b));
	entries = htrace_builder_entries(b, &len);
	check(!htrace_region_add_schema(region, entries, len), "the schema");
	htrace_builder_free(b);
	return (__u32)event;
}

static __u64 now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

/* Bursts of 100 us' worth: a tracer's threads do not wait between events. */
static void keep_pace(__u64 start, __u64 seq)
{
	__u64 due = rate ? start + seq * 1000000000 / rate : 0;

	while (rate && seq % (rate / 10000 + 1) == 0 && now() < due)
		usleep(50);
}

static void push(struct htrace_producer *p, __u64 seq)
{
	__u64 words[64], size = payload ? payload : sizeof(struct record) + seq % 7 * 8;

	words[0] = seq;
	words[1] = seq * 0x9e3779b97f4a7c15ULL;
	for (__u64 i = 2; i < size / 8; i++)
		words[i] = seq + i;
	while (htrace_push(p, id, words, (__u32)size) && wait_for_room) {
		__atomic_fetch_add(&refused, 1, __ATOMIC_RELAXED);
		usleep(20);
	}
}

static void *work(void *arg)
{
	struct htrace_producer p;
	__u64 start = now();

	check(!htrace_producer_get(&p, region, 0, -1), "taking a ring");
	for (__u64 seq = 0; seq < records; seq++) {
		push(&p, seq);
		keep_pace(start, seq);
	}
	return NULL;
}

/* Anywhere in the data of all rings. */
static void *scribble(void *arg)
{
	__u64 random = 88172645463325252ULL;
	struct htrace_geometry g;

	while (!__atomic_load_n(&over, __ATOMIC_RELAXED)) {
		unsigned char *ring = (unsigned char *)htrace_region_ring(region, 0, (__u32)(random >> 8) % *(__u32 *)arg, &g);

		random ^= random << 13, random ^= random >> 7, random ^= random << 17;
		ring[g.data_off + (random >> 16 & g.ring_mask)] = (unsigned char)random;
	}
	return NULL;
}

int main(int argc, char **argv)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .kind = HTRACE_RING_PER_THREAD,
	};
	pthread_t thread[MAX_THREADS], other;
	__u32 threads;
	int fd;

	check(argc == 10, "see the head of its source for how to call it; this");
	o.policy = strcmp(argv[2], "discard") ? HTRACE_OVERWRITE : HTRACE_DISCARD;
	o.ring_size = strtoull(argv[3], NULL, 10);
	o.block_size = strtoull(argv[4], NULL, 10);
	o.clock_id = HTRACE_CLOCK_MONOTONIC; /* the same for all readers */
	o.nr_rings = threads = (__u32)strtoul(argv[5], NULL, 10);
	records = strtoull(argv[6], NULL, 10);
	payload = strtoull(argv[7], NULL, 10);
	rate = strtoull(argv[8], NULL, 10);
	check(threads <= MAX_THREADS && payload <= 512 && payload % 8 == 0 && payload != 8 && payload != 16, "threads and payload");
	check(!htrace_region_create_local(&region, argv[1], (2u << 20) + threads * (o.ring_size + (2u << 20)), &o,
					  &fd), "making the region");
	id = declare();
	wait_for_room = o.policy == HTRACE_DISCARD && strcmp(argv[9], "fill") != 0;
	htrace_region_set_state(region, HTRACE_GUEST_RUNNING);
	htrace_region_publish(region);
	while (strcmp(argv[9], "fill") &&
	       __atomic_load_n(&htrace_region_host(region)->state, __ATOMIC_ACQUIRE) != HTRACE_HOST_ATTACHED)
		usleep(1000);
	if (!strcmp(argv[9], "scribble"))
		pthread_create(&other, NULL, scribble, &threads);
	for (__u32 i = 0; i < threads; i++)
		pthread_create(&thread[i], NULL, work, NULL);
	for (__u32 i = 0; i < threads; i++)
		pthread_join(thread[i], NULL);
	__atomic_store_n(&over, true, __ATOMIC_RELAXED);
	if (!strcmp(argv[9], "scribble"))
		pthread_join(other, NULL);
	if (strcmp(argv[9], "fill"))
		htrace_region_set_state(region, HTRACE_GUEST_CLOSING);
	printf("%llu %llu\n", records * threads, refused);
	return 0;
}
