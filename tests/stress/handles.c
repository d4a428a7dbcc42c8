/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One region's handle, and all that may be done with it at a time: threads take rings and give them back,
 * while one beats, names, declares and closes, and another reads. For ThreadSanitizer. Every record checks
 * itself, and all are accounted for. Exit status 0: all was right.
 *
 *   handles LIVES
 */
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <htrace/consumer.h>
#include <htrace/declare.h>

#include "producer.c"

#define THREADS 5
#define RINGS 2 /* so somebody comes in vain */
#define MOST 40 /* records by one handle */

struct record {
	__u64 thread, nr, mixed;
};

static const struct htrace_field fields[] = {
	HTRACE_FIELD(struct record, thread), HTRACE_FIELD(struct record, nr),
	HTRACE_FIELD(struct record, mixed),
};
static const struct htrace_struct layout = HTRACE_STRUCT(struct record, fields);

static struct htrace_region *region;
static struct htrace_view *view;
static unsigned long lives;
static __u64 attempts, taken, refused, received, lost, next[RINGS][THREADS];
static int producing = THREADS;

#define SURE(x)                                                    \
	do {                                                       \
		if (!(x)) {                                        \
			printf("line %d: %s\n", __LINE__, #x);     \
			exit(1);                                   \
		}                                                  \
	} while (0)

static __u64 mix(const struct record *r)
{
	return (r->nr << 8 | r->thread) * 0x9e3779b97f4a7c15ULL;
}

static void *produce(void *arg)
{
	struct record r = { .thread = (__u64)(size_t)arg };
	struct htrace_producer p;
	__u64 got = 0, none = 0, tried = 0;

	for (unsigned long life = 0; life < lives; life++) {
		if (htrace_producer_get(&p, region, 0, -1)) {
			SURE(htrace_push(&p, 1, &r, sizeof(r)) == -1); /* goes nowhere */
			none++;
			usleep(20);
			continue;
		}
		got++;
		for (int i = 0; i < MOST; i++) {
			r.nr++;
			r.mixed = mix(&r);
			tried++;
			htrace_push(&p, 1, &r, sizeof(r));
		}
		htrace_producer_put(&p);
	}
	__atomic_fetch_add(&attempts, tried, __ATOMIC_RELAXED);
	__atomic_fetch_add(&taken, got, __ATOMIC_RELAXED);
	__atomic_fetch_add(&refused, none, __ATOMIC_RELAXED);
	__atomic_fetch_sub(&producing, 1, __ATOMIC_RELEASE);
	return NULL;
}

/* What the handle's one owner does meanwhile. */
static void *keep(void *arg)
{
	char name[16], why[200];

	(void)arg;
	for (__u32 i = 0; __atomic_load_n(&producing, __ATOMIC_ACQUIRE); i++) {
		htrace_region_beat(region, 0);
		SURE(htrace_region_reap(region) == 0);
		snprintf(name, sizeof(name), "e%u", i);
		htrace_region_add_name(region, i, 1, name, 0);
		if (i < 100)
			SURE(htrace_region_declare(region, name, &layout, why, sizeof(why)) > 0);
		usleep(50);
	}
	return NULL;
}

static void take(struct htrace_consumer *c, __u32 ring)
{
	struct htrace_batch b;
	struct htrace_record rec;
	struct htrace_iter it;
	struct record r;
	int ret;

	while ((ret = htrace_consumer_read(c, &b)) == 1) {
		for (htrace_iter_init(&it, &b); htrace_iter_next(&it, &rec);) {
			memcpy(&r, rec.payload, sizeof(r));
			SURE(rec.id == 1 && rec.len == sizeof(r) && r.thread < THREADS);
			SURE(r.mixed == mix(&r) && r.nr > next[ring][r.thread]);
			next[ring][r.thread] = r.nr;
		}
		SURE(!b.corrupt);
		received += b.events;
		lost += b.overwritten + b.dropped + b.before; /* also before we came to it */
	}
	SURE(!ret);
}

static void *look(void *arg)
{
	struct htrace_owner o = { .sz = sizeof(o) };
	struct htrace_consumer *c[RINGS];
	struct htrace_image img[RINGS];
	struct htrace_guest guest;
	bool last = false;

	(void)arg;
	for (__u32 i = 0; i < RINGS; i++)
		SURE(!htrace_view_ring(view, 0, i, &img[i]) && !htrace_consumer_new(&c[i], &img[i], NULL));
	while (!last) {
		last = !__atomic_load_n(&producing, __ATOMIC_ACQUIRE);
		for (__u32 i = 0; i < RINGS; i++) {
			take(c[i], i);
			htrace_view_owner(view, &img[i], &o);
		}
		htrace_view_guest(view, &guest, true);
	}
	for (__u32 i = 0; i < RINGS; i++)
		htrace_consumer_free(c[i]);
	return NULL;
}

int main(int argc, char **argv)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_OVERWRITE,
		.kind = HTRACE_RING_PER_THREAD, .nr_rings = RINGS, .ring_size = 65536,
	};
	pthread_t threads[THREADS + 2];
	char why[200];
	int fd;

	lives = argc == 2 ? strtoul(argv[1], NULL, 0) : 0;
	SURE(lives);
	SURE(!htrace_region_create_local(&region, NULL, 4 << 20, &o, &fd));
	SURE(htrace_region_declare(region, "record", &layout, why, sizeof(why)) == 1);
	htrace_region_publish(region);
	SURE(!htrace_view_open_fd(&view, fd, true, why, sizeof(why)));
	SURE(!htrace_view_attach(view, why, sizeof(why)));
	for (size_t i = 0; i < THREADS + 2; i++)
		SURE(!pthread_create(&threads[i], NULL, i < THREADS ? produce : i == THREADS ? keep : look,
				     (void *)i));
	for (size_t i = 0; i < THREADS + 2; i++)
		pthread_join(threads[i], NULL);
	printf("%llu rings taken, %llu times none was free; %llu records: %llu read, %llu lost\n",
	       taken, refused, attempts, received, lost);
	SURE(received + lost == attempts && received && taken);
	htrace_view_close(view);
	htrace_region_release(region);
	close(fd);
	return 0;
}
