/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tracers of user space that are killed: makes a local region of three rings, which processes of
 * two threads take, write into, and die with, so that each ring is many processes' in turn. Every
 * third one leaves a record that it never commits. It begins when a reader has come. At the end it prints
 *
 *   ATTEMPTS DONE HOLES
 *
 * records that were tried, those of which their thread came back, and processes that left a hole.
 *
 *   mortal PATH discard|overwrite LIVES
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include <htrace/producer.h>
#include <htrace/schema.h>

#define RINGS 3
#define THREADS 2
#define MAX_LIVES 1000
#define HOLE 40 /* payload of what is never committed */

struct record {
	__u64 seq;
	__u32 life, thread;
	__u64 check;
};

/* What the lives did; shared with them. */
struct done {
	__u64 attempts, done;
} __attribute__((aligned(64)));

static struct done (*lives)[THREADS];
static struct htrace_producer producer;
static __u32 id, life;

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "mortal: %s failed\n", what);
	exit(1);
}

static __u32 declare(struct htrace_region *r)
{
	struct htrace_schema_builder *b;
	const void *entries;
	size_t len;
	int event;

	check(!htrace_builder_new(&b, NULL, 0), "the builder");
	__u32 u64 = (__u32)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE);
	__u32 u32 = (__u32)htrace_builder_int(b, NULL, 4, false, HTRACE_HINT_NONE);
	const struct htrace_schema_member members[] = {
		{ .type = u64, .name = "seq" },
		{ .type = u32, .bit_off = 64, .name = "life" },
		{ .type = u32, .bit_off = 96, .name = "thread" },
		{ .type = u64, .bit_off = 128, .name = "check" },
	};

	event = htrace_builder_event(b, "record", htrace_builder_struct(b, "record", false,
						sizeof(struct record), members, 4));
	check(event > 0, htrace_builder_error(b));
	entries = htrace_builder_entries(b, &len);
	check(!htrace_region_add_schema(r, entries, len), "the schema");
	htrace_builder_free(b);
	return (__u32)event;
}

static void push(__u32 thread)
{
	struct done *d = &lives[life][thread];
	struct record rec = { .seq = d->attempts, .life = life, .thread = thread };

	rec.check = rec.seq * 0x9e3779b97f4a7c15ULL ^ (__u64)life << 32 ^ thread;
	__atomic_store_n(&d->attempts, rec.seq + 1, __ATOMIC_RELAXED);
	htrace_push(&producer, id, &rec, sizeof(rec));
	__atomic_store_n(&d->done, rec.seq + 1, __ATOMIC_RELEASE);
}

static void *work(void *arg)
{
	for (__u32 n = 1;; n++) {
		push((__u32)(unsigned long)arg);
		if (n % 64 == 0)
			usleep(500);
	}
	return NULL;
}

/* It never ends by itself. */
static void live(struct htrace_region *r)
{
	struct htrace_slot slot;
	pthread_t other;
	int err;

	while ((err = htrace_producer_get(&producer, r, 0, -1)) == -EBUSY)
		usleep(2000); /* its last owner's records are not read yet */
	check(!err, "taking a ring");
	if (life % 3) {
		pthread_create(&other, NULL, work, (void *)1);
		work(NULL);
	}
	for (int i = 0; i < 100; i++)
		push(0);
	usleep(20000);
	htrace_producer_reserve(&producer, id, HOLE, &slot);
	for (int i = 0; i < 5; i++)
		push(0);
	for (;;)
		pause();
}

static pid_t start(struct htrace_region *r)
{
	pid_t pid = fork();

	check(pid >= 0, "a process");
	if (!pid)
		live(r);
	life++;
	return pid;
}

int main(int argc, char **argv)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .kind = HTRACE_RING_PER_THREAD,
		.nr_rings = RINGS, .ring_size = 65536, .block_size = 4096,
	};
	__u64 attempts = 0, done = 0, holes = 0;
	pid_t pid[RINGS], dead;
	struct htrace_region *r;
	__u32 nr;
	int fd;

	check(argc == 4, "see the head of its source for how to call it; this");
	o.policy = strcmp(argv[2], "discard") ? HTRACE_OVERWRITE : HTRACE_DISCARD;
	nr = (__u32)strtoul(argv[3], NULL, 10);
	check(nr >= RINGS && nr < MAX_LIVES, "the number of lives");
	lives = mmap(NULL, sizeof(*lives) * MAX_LIVES, PROT_READ | PROT_WRITE,
		     MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	check(lives != MAP_FAILED, "memory");
	check(!htrace_region_create_local(&r, argv[1], 2 << 20, &o, &fd), "making the region");
	id = declare(r);
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	while (__atomic_load_n(&htrace_region_host(r)->state, __ATOMIC_ACQUIRE) != HTRACE_HOST_ATTACHED)
		usleep(1000);
	usleep(100000);
	for (int i = 0; i < RINGS; i++)
		pid[i] = start(r);
	for (__u32 n = 0; n < nr; n++) {
		int i = (int)(n % RINGS);

		/* Not before it has begun: it may wait for a ring. */
		while (__atomic_load_n(&lives[n][0].done, __ATOMIC_ACQUIRE) < (n % 3 ? 1 : 105))
			usleep(1000);
		usleep((useconds_t)(n * 7919 % 20000));
		kill(pid[i], SIGKILL);
		dead = waitpid(pid[i], NULL, 0);
		check(dead == pid[i], "waiting");
		holes += n % 3 == 0;
		if (life < nr)
			pid[i] = start(r);
	}
	for (__u32 i = 0; i < nr * THREADS; i++) {
		attempts += lives[0][i].attempts;
		done += lives[0][i].done;
	}
	htrace_region_set_state(r, HTRACE_GUEST_CLOSING);
	printf("%llu %llu %llu\n", attempts, done, holes);
	return 0;
}
