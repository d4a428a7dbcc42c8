/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * A program that traces its own functions: each call is an event at its entry and one at its exit,
 * written by each thread into a ring of its own, in a file that others read meanwhile or afterwards.
 *
 *	cc -O2 traced-threads.c -o traced-threads -pthread $(pkg-config --cflags --libs libhtrace)
 *	./traced-threads /dev/shm/calls THREADS DEPTH
 *	host-reader local:/dev/shm/calls
 *
 * The rings keep the newest events (HTRACE_OVERWRITE). They are in the file: what was written before
 * the program ended, or crashed, can still be read.
 */
#include <errno.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <htrace/declare.h>
#include <htrace/producer.h>

#define REGION_SIZE (8 << 20)
#define MAX_THREADS 64

enum function { FIBONACCI = 1, WORKER = 2 };

/* What both events consist of, and the same for readers. */
struct call {
	__u64 id; /* pairs entry and exit: no two calls have the same */
	__u32 tid;
	enum function function;
};

static const struct htrace_enumerator function[] = {
	{ FIBONACCI, "fibonacci" }, { WORKER, "worker" },
};

static const struct htrace_field call_fields[] = {
	HTRACE_FIELD_AS(struct call, id, HTRACE_HINT_HEX),
	HTRACE_FIELD_AS(struct call, tid, HTRACE_HINT_TID),
	HTRACE_FIELD_ENUM(struct call, function, function),
};

static const struct htrace_struct call = HTRACE_STRUCT(struct call, call_fields);

static __u32 entry_event, exit_event;
static __thread struct htrace_producer producer; /* the thread's ring */
static __thread struct call last;
static int depth;
static __u64 calls; /* of all threads, counted without the rings */

static struct call enter(enum function which)
{
	last.id++;
	last.function = which;
	htrace_push(&producer, entry_event, &last, sizeof(last)); /* dropped ones are counted there */
	return last;
}

static void leave(struct call *entered)
{
	htrace_push(&producer, exit_event, entered, sizeof(*entered));
}

/* First in a function: an event now, and one however the function is left. */
#define TRACED(function) \
	struct call call_ __attribute__((cleanup(leave), unused)) = enter(function)

static int fibonacci(int n)
{
	TRACED(FIBONACCI);

	return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

static void work(void)
{
	TRACED(WORKER);
	volatile int result = fibonacci(depth);

	(void)result;
}

/* Readers show it with each tid. A region's handle is for one thread at a time; its rings are not. */
static void name_thread(struct htrace_region *region)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	static int nr;
	char name[24];

	pthread_mutex_lock(&lock);
	snprintf(name, sizeof(name), "worker-%d", ++nr);
	htrace_region_add_name(region, last.tid, (__u32)getpid(), name, 0);
	pthread_mutex_unlock(&lock);
}

static void *thread(void *region)
{
	int err = htrace_producer_get(&producer, region, 0, -1);

	if (err) {
		fprintf(stderr, "traced-threads: no ring for a thread: %s\n", strerror(-err));
		exit(1);
	}
	last.tid = (__u32)syscall(SYS_gettid);
	name_thread(region);
	last.id = (__u64)last.tid << 32;
	work();
	__atomic_fetch_add(&calls, (__u32)last.id, __ATOMIC_RELAXED);
	htrace_producer_put(&producer);
	return NULL;
}

static __u32 declare(struct htrace_region *region, const char *event)
{
	char why[256];
	int id = htrace_region_declare(region, event, &call, why, sizeof(why));

	if (id < 0) {
		fprintf(stderr, "traced-threads: %s\n", why);
		exit(1);
	}
	return (__u32)id;
}

int main(int argc, char **argv)
{
	struct htrace_region_opts opts = {
		.sz = sizeof(opts),
		.placement = HTRACE_PLACEMENT_LOCAL,
		.policy = HTRACE_OVERWRITE,
		.kind = HTRACE_RING_PER_THREAD, /* one for each; as large as fits */
	};
	struct htrace_region *region;
	pthread_t threads[MAX_THREADS];
	int err;

	if (argc == 4) {
		opts.nr_rings = (__u32)strtoul(argv[2], NULL, 10);
		depth = atoi(argv[3]);
	}
	if (!opts.nr_rings || opts.nr_rings > MAX_THREADS || depth < 1 || depth > 40) {
		fprintf(stderr, "Usage: traced-threads FILE THREADS DEPTH, of 1 ... %d threads and a "
			"depth of 1 ... 40\n", MAX_THREADS);
		return 2;
	}
	err = htrace_region_create_local(&region, argv[1], REGION_SIZE, &opts, NULL);
	if (err) {
		fprintf(stderr, "traced-threads: cannot make %s: %s%s\n", argv[1], strerror(-err),
			err == -EEXIST ? "; remove it, or wait until its program has ended" : "");
		return 1;
	}
	entry_event = declare(region, "function_entry");
	exit_event = declare(region, "function_exit");
	htrace_region_set_state(region, HTRACE_GUEST_RUNNING);
	htrace_region_publish(region); /* readers may come from now on */
	for (__u32 i = 0; i < opts.nr_rings; i++) {
		err = pthread_create(&threads[i], NULL, thread, region);
		if (err) {
			fprintf(stderr, "traced-threads: cannot start a thread: %s\n", strerror(err));
			return 1;
		}
	}
	for (__u32 i = 0; i < opts.nr_rings; i++)
		pthread_join(threads[i], NULL);
	/* Complete: readers take the rest and end. Not CLOSED, which says that the rings are gone. */
	htrace_region_set_state(region, HTRACE_GUEST_CLOSING);
	htrace_region_release(region);
	printf("%llu calls\n", (unsigned long long)calls);
	return 0;
}
