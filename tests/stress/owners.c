/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Processes that take rings of a region by the library and are killed anywhere: while they take one,
 * while their threads reserve or commit, while they give it back. By turns two threads share a ring, or it
 * is one thread's, which a timer's handler interrupts and produces, too. A reader in this process reads
 * each ring to its end and lets the next ones have it. Every record checks itself, and of each life
 * of a ring the account is that of its commit words. Exit status 0: all was right.
 *
 *   owners discard|overwrite LIVES
 */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <unistd.h>

static void jitter(void);

/* The real code, which may be held up, and so be killed, before each access to shared memory. */
#define __atomic_load_n(p, order) (jitter(), __atomic_load_n(p, order))
#define __atomic_store_n(p, v, order) (jitter(), __atomic_store_n(p, v, order))
#define __atomic_fetch_add(p, v, order) (jitter(), __atomic_fetch_add(p, v, order))
#define __atomic_compare_exchange_n(p, e, v, weak, order, order2) \
	(jitter(), __atomic_compare_exchange_n(p, e, v, weak, order, order2))
#include "consumer.c"
#include "producer.c"

#define PROCESSES 4
#define RINGS 3 /* so somebody waits for one */
#define THREADS 2
#define RING 4096
#define BLOCK 512
#define ID 9

/* A process at work; shared with it. */
struct worker {
	__u64 attempts[THREADS], done[THREADS]; /* records begun, and committed or dropped */
};

static struct worker *workers;
static struct htrace_region *region;
static struct htrace_view *view;
static unsigned long long max_lives;
static _Thread_local bool produces;
static _Thread_local __u64 seed;

/* Of the reader: a ring's life. */
static struct life {
	struct htrace_image image;
	struct htrace_consumer *c;
	struct htrace_consumer_stats from; /* when it began */
	bool finished, drained;
	__u64 generation;
} rings[RINGS];

static __u64 next[1 << 16][THREADS]; /* by the life of a process */
static struct { __u64 ended, given_back, reused, holes, events, unfinished, uncommitted, lost; } sum;

static void die(const char *fmt, ...) __attribute__((format(printf, 1, 2), noreturn));
static void die(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vprintf(fmt, ap);
	va_end(ap);
	putchar('\n');
	fflush(stdout);
	signal(SIGTERM, SIG_IGN);
	kill(0, SIGTERM);
	_exit(1);
}

static unsigned int below(unsigned int n)
{
	seed = seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (unsigned int)(seed >> 33) % n;
}

static void jitter(void)
{
	unsigned int x;

	if (!produces)
		return;
	x = below(256);
	if (x < 8)
		sched_yield();
	else if (x < 9)
		usleep(100);
}

/* ---------------------------------------------------------------------------------- processes */

struct job {
	struct htrace_producer *p;
	struct worker *w;
	__u32 life;
	int thread;
	bool ends, single; /* single: the ring is one thread's, and its signal handler's */
};

static __u64 word_of(__u64 seq, __u32 life, int thread, __u32 i)
{
	return (seq * 1000003 + i) ^ (__u64)life << 40 ^ (__u64)thread << 60;
}

static void produce(struct job *j)
{
	__u64 seq = j->w->attempts[j->thread];
	__u32 words = 2 + below(12);
	struct htrace_slot slot;
	__u64 *at;

	__atomic_store_n(&j->w->attempts[j->thread], seq + 1, __ATOMIC_RELAXED);
	at = j->single ? htrace_producer_reserve_single(j->p, ID, 8 * words, &slot) :
			 htrace_producer_reserve(j->p, ID, 8 * words, &slot);
	if (at) {
		at[0] = seq;
		at[1] = j->life | (__u64)j->thread << 32;
		for (__u32 i = 2; i < words; i++)
			at[i] = word_of(seq, j->life, j->thread, i);
		if (j->single)
			htrace_commit_single(&slot);
		else
			htrace_commit(&slot);
	}
	__atomic_store_n(&j->w->done[j->thread], seq + 1, __ATOMIC_RELEASE);
}

static void *work(void *arg)
{
	struct job *j = arg;

	produces = true;
	seed = (__u64)getpid() * 7919 + (__u64)j->thread;
	for (__u64 n = below(400); !j->ends || n; n--) {
		produce(j);
		if (!below(100))
			usleep(below(300));
	}
	return NULL;
}

static struct job *interrupting;

static void on_timer(int sig)
{
	__u64 kept = seed;

	(void)sig;
	produce(interrupting);
	seed = kept + 1;
}

/* A timer's handler takes the second thread's place: it interrupts the first one anywhere, and produces. */
static void work_interrupted(struct job *job)
{
	const struct itimerval often = { { 0, 150 }, { 0, 150 } }, never = { { 0, 0 }, { 0, 0 } };
	struct sigaction sa = { .sa_handler = on_timer, .sa_flags = SA_RESTART };

	interrupting = &job[1];
	if (sigaction(SIGALRM, &sa, NULL) || setitimer(ITIMER_REAL, &often, NULL))
		_exit(3);
	work(&job[0]);
	setitimer(ITIMER_REAL, &never, NULL);
	sa.sa_handler = SIG_IGN; /* one may be pending still */
	sigaction(SIGALRM, &sa, NULL);
}

static void work_together(struct job *job)
{
	pthread_t thread;

	if (pthread_create(&thread, NULL, work, &job[1]))
		_exit(3);
	work(&job[0]);
	pthread_join(thread, NULL);
}

/* Some give their ring back and end; most go on until they are killed. By turns the ring is one thread's. */
static void process(struct worker *w, __u32 life)
{
	struct htrace_producer p;
	struct job job[THREADS];
	bool ends, single = life & 1;
	int err;

	produces = true;
	seed = (__u64)getpid() * 104729;
	ends = !below(4);
	while ((err = htrace_producer_get(&p, region, 0, -1)) == -EBUSY)
		usleep(below(500));
	if (err)
		die("no ring: %s", strerror(-err));
	for (int t = 0; t < THREADS; t++)
		job[t] = (struct job){ &p, w, life, t, ends, single };
	if (single)
		work_interrupted(job);
	else
		work_together(job);
	htrace_producer_put(&p);
	_exit(0);
}

/* ----------------------------------------------------------------------------------- the reader */

static void check_record(const struct htrace_record *r)
{
	const __u64 *at = r->payload;
	__u32 life;
	int thread;

	if (r->id != ID || r->len < 16)
		die("a record of nobody: id %u, %u bytes", r->id, r->len);
	life = (__u32)at[1];
	thread = (int)(at[1] >> 32);
	if (life >= max_lives + PROCESSES || thread < 0 || thread >= THREADS)
		die("a record of process %u, thread %d", life, thread);
	if (at[0] < next[life & 0xffff][thread])
		die("record %llu of process %u after %llu", at[0], life,
		    next[life & 0xffff][thread] - 1);
	for (__u32 i = 2; i < r->len / 8; i++)
		if (at[i] != word_of(at[0], life, thread, i))
			die("record %llu of process %u: word %u is %#llx", at[0], life, i, at[i]);
	next[life & 0xffff][thread] = at[0] + 1;
	sum.events++;
}

static int read_one(struct life *l)
{
	struct htrace_record r;
	struct htrace_iter it;
	struct htrace_batch b;
	int ret = htrace_consumer_read(l->c, &b);

	if (ret == -EOWNERDEAD)
		die("a ring was taken before it was read");
	if (ret < 0)
		die("the ring is broken: %s", htrace_consumer_error(l->c));
	if (ret && b.corrupt)
		die("corrupt: %s", htrace_consumer_error(l->c));
	if (ret)
		for (htrace_iter_init(&it, &b); htrace_iter_next(&it, &r);)
			check_record(&r);
	return ret;
}

/* The life is over, and read: do the reader's numbers agree with the ring's own? */
static void check_account(struct life *l)
{
	struct htrace_consumer_stats st = { .sz = sizeof(st) };
	const struct htrace_block *b =
		htrace_ring_block((struct htrace_ring *)l->image.ring, &l->image.geometry, 0);
	__u64 events = 0, bytes = 0, told, uncommitted;

	for (int i = 0; i < RING / BLOCK; i++) {
		events += b[i].commit >> 32; /* so few that nothing carries */
		bytes += (__u32)b[i].commit;
	}
	htrace_consumer_get_stats(l->c, &st);
	told = st.events - l->from.events + st.overwritten - l->from.overwritten + st.unfinished -
	       l->from.unfinished;
	uncommitted = st.uncommitted - l->from.uncommitted;
	if (st.before || told != events)
		die("%llu events are told of, %llu are committed", told, events);
	if (st.dropped - l->from.dropped != l->image.ring->dropped)
		die("%llu dropped, not %llu", st.dropped - l->from.dropped, l->image.ring->dropped);
	if (uncommitted != l->image.ring->head - bytes)
		die("%llu bytes uncommitted, not %llu", uncommitted, l->image.ring->head - bytes);
	sum.holes += uncommitted != 0;
	sum.uncommitted += uncommitted;
	sum.unfinished += st.unfinished - l->from.unfinished;
	sum.lost += st.overwritten - l->from.overwritten + st.dropped - l->from.dropped;
	l->from = st;
}

/* All of a dead process's ring was read: let others have it. */
static void end_life(struct life *l)
{
	if (htrace_consumer_backlog(l->c))
		die("stuck, %llu bytes before the end", htrace_consumer_backlog(l->c));
	check_account(l);
	l->drained = true;
	sum.ended++;
	htrace_view_drained(view, &l->image, l->generation);
}

/* One step of one ring. */
static void follow(struct life *l, bool look)
{
	struct htrace_owner o = { .sz = sizeof(o) };

	if (l->drained) {
		if (htrace_consumer_restart(l->c))
			return;
		l->finished = l->drained = false;
		sum.reused++;
	}
	if (read_one(l))
		return;
	if (l->finished) {
		end_life(l);
		return;
	}
	view->judged_at = 0; /* no verdict of before: so soon after */
	if (!look || htrace_view_owner(view, &l->image, &o) || o.state != HTRACE_OWNER_DIED)
		return;
	l->finished = true;
	l->generation = o.generation;
	htrace_consumer_finish(l->c);
}

static void open_rings(enum htrace_policy policy)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .policy = policy,
		.kind = HTRACE_RING_PER_THREAD, .nr_rings = RINGS, .ring_size = RING,
		.block_size = BLOCK,
	};
	struct htrace_consumer_opts co = { .sz = sizeof(co) };
	char err[200];
	int fd;

	if (htrace_region_create_local(&region, NULL, 1 << 20, &o, &fd))
		die("no region");
	htrace_region_publish(region);
	if (htrace_view_open_fd(&view, fd, true, err, sizeof(err)) ||
	    htrace_view_attach(view, err, sizeof(err)))
		die("%s", err);
	for (__u32 i = 0; i < RINGS; i++) {
		struct life *l = &rings[i];

		if (htrace_view_ring(view, 0, i, &l->image))
			die("no ring %u", i);
		co.consumed = policy == HTRACE_DISCARD ? &htrace_view_host_ring(view, i)->consumed : NULL;
		if (htrace_consumer_new(&l->c, &l->image, &co))
			die("no reader");
		l->from.sz = sizeof(l->from);
	}
}

static pid_t start(__u32 slot, __u32 life)
{
	pid_t pid;

	memset(&workers[slot], 0, sizeof(workers[slot]));
	memset(next[life & 0xffff], 0, sizeof(next[0]));
	fflush(stdout);
	pid = fork();
	if (pid < 0)
		die("no process");
	if (!pid)
		process(&workers[slot], life);
	return pid;
}

static void run(void)
{
	__u64 attempts = 0, done = 0, told;
	pid_t pid[PROCESSES];
	__u32 life = 0;
	int status;

	for (__u32 i = 0; i < PROCESSES; i++)
		pid[i] = start(i, life++);
	for (__u64 n = 0; n < max_lives; n++) {
		__u32 i = below(PROCESSES), turns = below(60);

		for (__u32 k = 0; k < turns; k++) {
			follow(&rings[below(RINGS)], !below(4));
			if (!below(4))
				usleep(below(100));
		}
		kill(pid[i], SIGKILL);
		if (waitpid(pid[i], &status, 0) != pid[i] ||
		    (status != 0 && status != SIGKILL))
			die("a process died: %#x", (unsigned int)status);
		sum.given_back += status == 0;
		for (int t = 0; t < THREADS; t++) {
			attempts += workers[i].attempts[t];
			done += workers[i].done[t];
		}
		pid[i] = start(i, life++);
	}
	for (__u32 i = 0; i < PROCESSES; i++) {
		kill(pid[i], SIGKILL);
		waitpid(pid[i], &status, 0);
		for (int t = 0; t < THREADS; t++) {
			attempts += workers[i].attempts[t];
			done += workers[i].done[t];
		}
	}
	for (int k = 0; k < 10000; k++)
		follow(&rings[k % RINGS], true);
	told = sum.events + sum.unfinished + sum.lost;
	printf("%llu processes, %llu gave back; %llu lives of rings ended, %llu reused; %llu records: "
	       "%llu read, %llu lost, %llu unfinished, %llu bytes uncommitted in %llu rings\n",
	       max_lives, sum.given_back, sum.ended, sum.reused, attempts, sum.events, sum.lost,
	       sum.unfinished, sum.uncommitted, sum.holes);
	if (told > attempts || told < done)
		die("%llu attempts, %llu done: the account is %llu", attempts, done, told);
	if (sum.reused < max_lives / 8 || !sum.events)
		die("too few lives");
}

int main(int argc, char **argv)
{
	bool overwrite = argc == 3 && !strcmp(argv[1], "overwrite");

	max_lives = argc == 3 ? strtoull(argv[2], NULL, 0) : 0;
	if (!max_lives || max_lives > 60000 || (!overwrite && strcmp(argv[1], "discard"))) {
		fprintf(stderr, "Usage: owners discard|overwrite LIVES\n");
		return 2;
	}
	setpgid(0, 0);
	seed = (__u64)getpid();
	workers = mmap(NULL, sizeof(*workers) * PROCESSES, PROT_READ | PROT_WRITE,
		       MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	if (workers == MAP_FAILED)
		die("no memory");
	open_rings(overwrite ? HTRACE_OVERWRITE : HTRACE_DISCARD);
	run();
	return 0;
}
