/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Producers that wake a reader, which sleeps without a bound: a wake that is lost is a reader that
 * sleeps for ever over a record. Each producer waits until its record was read before it writes the
 * next one, so the reader goes to sleep again and again just when one comes.
 *
 *   wake alone|single|shared RECORDS     one producer; each of two in a ring of its own; both in one
 */
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <time.h>

#include "producer.c"

#include <htrace/consumer.h>
#include <htrace/schema.h>
#include <htrace/sync.h>

#define PRODUCERS 2
#define STUCK_MS 3000
#define PATIENCE 100000 /* looks, before other threads are let run */

static struct htrace_region *region;
static struct htrace_view *view;
static struct htrace_consumer *consumer[PRODUCERS];
static struct htrace_host_ring *words[PRODUCERS];
static struct htrace_producer shared;
static const __u32 *bell;
static bool single;
static __u64 producers = PRODUCERS;
static __u64 per_producer, got[PRODUCERS], total, sleeps, arms;
static bool asleep;

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	printf("%s\n", what);
	fflush(stdout);
	_exit(1);
}

/* ------------------------------------------------------------------------------------ producers */

static __u64 next_random(__u64 *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	return *seed ^= *seed << 17;
}

/* So that stores and loads of both sides meet. */
static void dawdle(__u64 *seed)
{
	for (__u64 n = next_random(seed) % 256; n; n--)
		__asm__ volatile("" ::: "memory");
}

static void *produce(void *arg)
{
	__u64 nr = (__u64)(size_t)arg, seed = 88172645463325252ULL + nr;
	struct htrace_producer own;

	if (single)
		check(!htrace_producer_get(&own, region, 0, (int)nr), "taking a ring failed");
	for (__u64 seq = 1; seq <= per_producer; seq++) {
		__u64 record[2] = { nr, seq };

		dawdle(&seed);
		while (single ? htrace_push_single(&own, 1, record, sizeof(record)) :
				htrace_push(&shared, 1, record, sizeof(record)))
			sched_yield();
		for (int n = 0; __atomic_load_n(&got[nr], __ATOMIC_ACQUIRE) != seq; n++)
			if (n > PATIENCE)
				sched_yield();
	}
	return NULL;
}

/* --------------------------------------------------------------------------------------- reader */

static void take(struct htrace_consumer *c)
{
	struct htrace_batch b;
	struct htrace_record r;
	struct htrace_iter it;

	while (htrace_consumer_read(c, &b) == 1) {
		htrace_iter_init(&it, &b);
		while (htrace_iter_next(&it, &r)) {
			const __u64 *record = r.payload;

			check(record[0] < PRODUCERS && record[1] == got[record[0]] + 1, "a record is wrong");
			__atomic_store_n(&total, total + 1, __ATOMIC_RELAXED);
			__atomic_store_n(&got[record[0]], record[1], __ATOMIC_RELEASE);
		}
	}
}

static bool any_ready(int rings)
{
	for (int i = 0; i < rings; i++)
		if (htrace_consumer_ready(consumer[i]))
			return true;
	return false;
}

static void *consume(void *arg)
{
	int rings = single ? (int)producers : 1;
	__u64 seed = 88172645463325252ULL;

	(void)arg;
	while (total < producers * per_producer) {
		__u32 seen = __atomic_load_n(bell, __ATOMIC_ACQUIRE);

		dawdle(&seed);
		dawdle(&seed);
		for (int i = 0; i < rings; i++)
			htrace_consumer_arm(consumer[i], &words[i]->event_idx);
		htrace_sync_armed();
		arms++;
		if (!any_ready(rings)) {
			__atomic_store_n(&asleep, true, __ATOMIC_RELAXED);
			syscall(SYS_futex, bell, FUTEX_WAIT, seen, NULL, NULL, 0);
			__atomic_store_n(&asleep, false, __ATOMIC_RELAXED);
			sleeps++;
		}
		for (int i = 0; i < rings; i++)
			take(consumer[i]);
	}
	return NULL;
}

/* ----------------------------------------------------------------------------------------- main */

static void make_region(void)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .kind = HTRACE_RING_PER_THREAD,
		.policy = HTRACE_OVERWRITE, .nr_rings = PRODUCERS, .ring_size = 4096, .block_size = 512, .bell = true,
	};
	struct htrace_image img;
	int fd;

	/* Overwrite: else the reader's `consumed`, beside event_idx, keeps the producers' caches from being stale. */

	check(!htrace_region_create_local(&region, NULL, 1 << 20, &o, &fd), "making the region failed");
	htrace_region_publish(region);
	check(!htrace_view_open_fd(&view, fd, true, NULL, 0) && !htrace_view_attach(view, NULL, 0) &&
		      !htrace_view_claim(view) && !htrace_view_set_sync(view, HTRACE_SYNC_RING),
	      "attaching failed");
	bell = htrace_view_bell(view);
	check(bell, "there is no bell");
	for (__u32 i = 0; i < PRODUCERS; i++) {
		struct htrace_consumer_opts c = { .sz = sizeof(c) };

		check(!htrace_view_ring(view, 0, i, &img), "there is no ring");
		words[i] = htrace_view_host_ring(view, img.slot);
		c.consumed = &words[i]->consumed;
		check(!htrace_consumer_new(&consumer[i], &img, &c), "making a consumer failed");
	}
}

/* Until all was read; who sleeps over a record for so long sleeps for ever. */
static void watch(void)
{
	struct timespec ms = { .tv_nsec = 1000000 };
	__u64 last = 0, still = 0;

	while (__atomic_load_n(&total, __ATOMIC_RELAXED) < producers * per_producer) {
		__u64 now = __atomic_load_n(&total, __ATOMIC_RELAXED);

		nanosleep(&ms, NULL);
		still = now == last && __atomic_load_n(&asleep, __ATOMIC_RELAXED) ? still + 1 : 0;
		last = now;
		if (still > STUCK_MS && any_ready(single ? (int)producers : 1)) {
			printf("a wake was lost, after %llu records\n", (unsigned long long)now);
			fflush(stdout);
			_exit(1);
		}
	}
}

int main(int argc, char **argv)
{
	pthread_t thread[PRODUCERS + 1];
	__u32 rings;

	if (argc != 3)
		return 2;
	single = strcmp(argv[1], "shared") != 0;
	producers = strcmp(argv[1], "alone") ? PRODUCERS : 1;
	per_producer = strtoull(argv[2], NULL, 10) / producers;
	make_region();
	if (!single)
		check(!htrace_producer_get(&shared, region, 0, 0), "taking a ring failed");
	pthread_create(&thread[producers], NULL, consume, NULL);
	for (size_t i = 0; i < producers; i++)
		pthread_create(&thread[i], NULL, produce, (void *)i);
	watch();
	for (__u64 i = 0; i <= producers; i++)
		pthread_join(thread[i], NULL);
	rings = *bell;
	/* Each value of a ring's event_idx is passed once, its first one (0) included. */
	check(rings <= producers * (arms + 1), "rung more often than was asked for");
	check(sleeps > 0 && rings > 0, "nobody slept");
	printf("%llu records, %llu sleeps, %u rings\n", (unsigned long long)total,
	       (unsigned long long)sleeps, rings);
	return 0;
}
