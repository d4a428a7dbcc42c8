/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * A synchronisation policy of one's own, and a reader that uses it: "backoff" looks at the rings
 * again after 100 us, and while nothing comes after twice as long each time, up to a limit.
 *
 *	cc -O2 sync-policy.c -o sync-policy $(pkg-config --cflags --libs libhtrace)
 *	./sync-policy /dev/shm/calls backoff:50000       (a limit of 50000 us; without: 10000)
 *	./sync-policy /dev/shm/calls adaptive            (or any other policy, to compare)
 *
 * Reads a local region until its tracer has ended, or Ctrl-C; counts the events, the looks
 * that it took, and how often the policy asked whether there is something to read. Only one such reader at a time: it tells producers how far it has read.
 */
#define _GNU_SOURCE /* ppoll() */
#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include <htrace/consumer.h>
#include <htrace/sync.h>

/* ---------------------------------------------------------------------------------- the policy */

#define MIN_NS 100000ULL
#define DEFAULT_MAX_NS 10000000ULL

struct backoff {
	struct htrace_sync_target target;
	__u64 interval, max; /* ns */
	bool hurry;	     /* something was left: look again at once */
	int wakeup;	     /* eventfd: writing to it is allowed in signal handlers, and remembered */
};

static __u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (__u64)ts.tv_sec * 1000000000 + (__u64)ts.tv_nsec;
}

/* @arg comes from a command line: NULL without a colon in the policy's name. */
static int backoff_arm(void **priv, const struct htrace_sync_target *target, const char *arg)
{
	unsigned long usec = arg ? strtoul(arg, NULL, 10) : DEFAULT_MAX_NS / 1000;
	struct backoff *b;

	if (usec < MIN_NS / 1000 || usec > 1000000 || (arg && arg[strspn(arg, "0123456789")]))
		return -EINVAL;
	b = calloc(1, sizeof(*b));
	if (!b)
		return -ENOMEM;
	b->target = *target;
	b->interval = MIN_NS;
	b->max = usec * 1000;
	b->wakeup = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (b->wakeup < 0) {
		int err = -errno;

		free(b);
		return err;
	}
	*priv = b;
	return 0;
}

/* 0: slept for @ns. -EINTR: woken, or a signal was handled. */
static int nap(struct backoff *b, __u64 ns)
{
	struct timespec ts = { (time_t)(ns / 1000000000), (long)(ns % 1000000000) };
	struct pollfd fd = { .fd = b->wakeup, .events = POLLIN };
	eventfd_t ignored;
	int ret = ppoll(&fd, 1, &ts, NULL);

	if (ret > 0)
		eventfd_read(b->wakeup, &ignored);
	return ret ? -EINTR : 0;
}

static __u64 longer(const struct backoff *b)
{
	return 2 * b->interval < b->max ? 2 * b->interval : b->max;
}

static int backoff_wait(void *priv, __u64 max_ns)
{
	__u64 now = now_ns(), deadline = now + max_ns < now ? UINT64_MAX : now + max_ns;
	struct backoff *b = priv;

	for (; !b->hurry && now < deadline; now = now_ns()) {
		__u64 left = deadline - now;
		int ret = nap(b, b->interval < left ? b->interval : left);

		if (ret || b->target.ready(b->target.ctx))
			return ret ? ret : 1;
		b->interval = longer(b);
	}
	return b->target.ready(b->target.ctx);
}

static void backoff_did(void *priv, __u64 events, __u64 backlog)
{
	struct backoff *b = priv;

	/*
	 * Nothing although the rings were ready: their next record is reserved but not committed. Its
	 * writer may have been stopped or killed, so this is as good as silence.
	 */
	b->interval = events ? MIN_NS : longer(b);
	b->hurry = events && backlog;
}

/* From any thread or signal handler. */
static void backoff_wake(void *priv)
{
	struct backoff *b = priv;
	int saved = errno;

	eventfd_write(b->wakeup, 1);
	errno = saved;
}

static void backoff_close(void *priv)
{
	struct backoff *b = priv;

	close(b->wakeup);
	free(b);
}

static const struct htrace_sync_ops backoff_ops = {
	.sz = sizeof(backoff_ops),
	.name = "backoff",
	.arm = backoff_arm,
	.wait = backoff_wait,
	.did = backoff_did,
	.wake = backoff_wake,
	.close = backoff_close,
};

/* ---------------------------------------------------------------------------------- the reader */

static struct htrace_consumer *rings[HTRACE_MAX_RINGS];
static __u32 nr_rings;
static struct htrace_sync *sync_policy;
static volatile sig_atomic_t stopped;
static __u64 polls;

static void stop(int signo)
{
	(void)signo;
	stopped = 1;
	htrace_sync_wake(sync_policy);
}

static bool ready(void *ctx)
{
	(void)ctx;
	polls++;
	for (__u32 i = 0; i < nr_rings; i++)
		if (htrace_consumer_ready(rings[i]))
			return true;
	return false;
}

/* Read a little of each ring: a look must not take forever where events come quickly. */
static __u64 look(__u64 *lost, __u64 *backlog)
{
	struct htrace_batch batch;
	__u64 events = 0;

	*backlog = 0;
	for (__u32 i = 0; i < nr_rings; i++) {
		for (int n = 0; n < 16 && htrace_consumer_read(rings[i], &batch) == 1; n++) {
			events += batch.events; /* here they are: see latency-histogram.c */
			*lost += batch.overwritten + batch.dropped + batch.corrupt +
				 batch.unfinished;
		}
		*backlog += htrace_consumer_backlog(rings[i]);
	}
	return events;
}

/* A local region has one set of rings. */
static int open_rings(struct htrace_view *v)
{
	const struct htrace_super *super = htrace_view_super(v);
	struct htrace_consumer_opts opts = { .sz = sizeof(opts) };
	struct htrace_host_ring *words;
	struct htrace_image image;
	int err;

	for (__u32 i = 0; super->nr_ringsets && i < super->ringset[0].nr_rings; i++) {
		err = htrace_view_ring(v, 0, i, &image);
		if (err)
			return err;
		/* Where producers drop what finds no room, tell them what room there is. */
		words = htrace_view_host_ring(v, image.slot); /* NULL: we may not write the file */
		if (words && image.geometry.policy == HTRACE_DISCARD)
			opts.consumed = &words->consumed;
		err = htrace_consumer_new(&rings[nr_rings], &image, &opts);
		if (err)
			return err;
		nr_rings++;
	}
	return 0;
}

static int fail(const char *what, const char *why)
{
	fprintf(stderr, "sync-policy: %s: %s\n", what, why);
	return 1;
}

int main(int argc, char **argv)
{
	const struct htrace_sync_target target = { .sz = sizeof(target), .ready = ready };
	struct sigaction action = { .sa_handler = stop };
	__u64 found, events = 0, looks = 0, lost = 0, backlog = 0;
	char why[256] = "there is no tracer yet";
	struct htrace_view *v;
	bool last;
	int err;

	if (argc != 3) {
		fprintf(stderr, "Usage: sync-policy REGION POLICY\n");
		return 2;
	}
	err = htrace_sync_register(&backoff_ops);
	if (err)
		return fail("cannot register the policy", strerror(-err));
	if (htrace_view_open(&v, argv[1], true, why, sizeof(why)) ||
	    htrace_view_attach(v, why, sizeof(why)))
		return fail(argv[1], why);
	/* Producers that discard go by what one reader says: let us be that one. */
	err = htrace_view_claim(v);
	if (err)
		return fail(argv[1], err == -EBUSY ? "another reader reads it" : strerror(-err));
	err = open_rings(v);
	if (err)
		return fail("cannot open the rings", strerror(-err));
	htrace_view_announce(v, HTRACE_HOST_ATTACHED, htrace_view_super(v)->session, false,
			     HTRACE_REASON_NONE);
	err = htrace_sync_new(&sync_policy, argv[2], &target);
	if (err == -ENOENT)
		return fail("no such policy; there are", htrace_sync_names());
	if (err)
		return fail(argv[2], strerror(-err));
	sigaction(SIGINT, &action, NULL);
	do {
		/* Before the look: what was written until the tracer ended is then read. */
		last = stopped || !htrace_view_current(v) ||
		       htrace_view_state(v) >= HTRACE_GUEST_CLOSING;
		if (!last)
			htrace_sync_wait(sync_policy, 100000000);
		htrace_view_beat(v);
		found = look(&lost, &backlog);
		htrace_sync_did(sync_policy, found, backlog);
		events += found;
		looks++;
	} while (!last || (found && !stopped));
	printf("%llu events, %llu lost, in %llu looks; the policy polled %llu times\n",
	       (unsigned long long)events, (unsigned long long)lost, (unsigned long long)looks,
	       (unsigned long long)polls);
	htrace_view_announce(v, HTRACE_HOST_GONE, 0, false, HTRACE_REASON_NONE);
	htrace_sync_free(sync_policy);
	while (nr_rings)
		htrace_consumer_free(rings[--nr_rings]);
	htrace_view_close(v);
	return 0;
}
