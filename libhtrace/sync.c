// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/* When to look at the rings: the registry of policies, and those that need nothing but a clock. */
#include <errno.h>
#include <linux/futex.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <htrace/sync.h>

#include "sync_adaptive.h"
#include "sync_internal.h"

#define MAX_POLICIES 32
#define MAX_NAME 32
#define MAX_USEC 1000000 /* of timer and adaptive */
#define ADAPTIVE_USEC 2000
#define MIN_REST_NS 32 /* of spin, between looks that all find something */
#define MAX_REST_NS 512
#define STREAM_REST_NS 2048 /* likewise, once records have come for long */
#define STREAM_PART 128     /* a rest is one of so many of the stream's age */
#define STREAM_GAP_NS 4096  /* no stream: so long between two looks */
#define SPINS_PER_CLOCK 64 /* so that the clock costs little beside looking at the rings */

struct htrace_sync {
	const struct htrace_sync_ops *ops;
	struct htrace_sync_target target; /* of the size that policies were told of */
	void *priv;
};

/* State of the built-in policies. */
struct waiter {
	struct htrace_sync_target target;
	__u32 woken; /* written by wake, taken by wait; a futex */
	__u64 next;  /* time of the next poll */
	__u64 period; /* timer */
	__u64 rest_ns; /* spin: until the next look, as those before found something at once */
	__u64 since;   /* spin: when the stream of records began */
	bool found;    /* spin: the last look found something */
	__u64 looked;  /* spin: when it last began to look */
	bool stream;   /* spin: there is one */
	struct htrace_adaptive adaptive;
	__u64 polled; /* time of the last poll */
};

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#endif
}

static bool take_woken(struct waiter *w)
{
	/* Look before taking: the line stays shared as long as nobody wakes. */
	return __atomic_load_n(&w->woken, __ATOMIC_RELAXED) &&
	       __atomic_exchange_n(&w->woken, 0, __ATOMIC_ACQUIRE);
}

static bool is_ready(struct waiter *w)
{
	return w->target.ready(w->target.ctx);
}

/* 0: it is @until. -EINTR: woken, or a signal was handled. */
static int sleep_until(struct waiter *w, __u64 until)
{
	struct timespec ts = {
		.tv_sec = (time_t)(until / 1000000000),
		.tv_nsec = (long)(until % 1000000000),
	};

	while (!take_woken(w)) {
		if (htrace_sync_now() >= until)
			return 0;
		/* BITSET, because its timeout is absolute. Does not sleep if wake came before. */
		if (syscall(SYS_futex, &w->woken, FUTEX_WAIT_BITSET_PRIVATE, 0, &ts, NULL,
			    FUTEX_BITSET_MATCH_ANY) < 0 && errno == EINTR)
			return -EINTR;
	}
	return -EINTR;
}

/* Also from signal handlers: errno is theirs. */
static void waiter_wake(void *priv)
{
	struct waiter *w = priv;
	int saved = errno;

	__atomic_store_n(&w->woken, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &w->woken, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	errno = saved;
}

static int waiter_new(void **priv, const struct htrace_sync_target *target)
{
	struct waiter *w = calloc(1, sizeof(*w));

	if (!w)
		return -ENOMEM;
	w->target = *target;
	w->polled = htrace_sync_now();
	*priv = w;
	return 0;
}

/* Digits only, within @min ... MAX_USEC; in nanoseconds. */
static int parse_usec(const char *arg, unsigned long min, __u64 *ns)
{
	unsigned long usec;

	if (!*arg || strlen(arg) > 9 || arg[strspn(arg, "0123456789")])
		return -EINVAL;
	usec = strtoul(arg, NULL, 10);
	if (usec < min || usec > MAX_USEC)
		return -EINVAL;
	*ns = (__u64)usec * 1000;
	return 0;
}

/* ---------------------------------------------------------------------------------------- spin */

static int spin_arm(void **priv, const struct htrace_sync_target *target, const char *arg)
{
	return arg ? -EINVAL : waiter_new(priv, target);
}

/*
 * Each look that finds something takes head, counter and data from the producer's cache; one that finds
 * nothing new takes nothing. Who looks again without delay finds records one by one, at the producer's
 * expense, up to several times that of the record where the cores are far apart. So rest before the next look: for
 * longer each time while there is something at once (records come about as fast as they are read, or one is not
 * committed yet, maybe for long), and for longer the longer the stream lasts. Nobody waits for the last of a burst
 * for more than a small part of what the burst took, and what comes after silence is seen without delay.
 */
static __u64 next_rest(struct waiter *w, __u64 now)
{
	__u64 rest;

	if (!w->stream || now - w->looked > STREAM_GAP_NS)
		w->since = now;
	w->stream = true;
	rest = (now - w->since) / STREAM_PART;
	if (rest > STREAM_REST_NS)
		rest = STREAM_REST_NS;
	return rest > w->rest_ns ? rest : w->rest_ns;
}

static bool rested_look(struct waiter *w, __u64 now)
{
	__u64 rest = next_rest(w, now), until = now + rest;

	while (now < until) {
		relax();
		now = htrace_sync_now();
	}
	w->looked = now;
	if (!is_ready(w)) {
		w->rest_ns = 0;
		w->stream = rest < MAX_REST_NS; /* else too slow for a rest to save anything */
		return false;
	}
	w->rest_ns = w->rest_ns ? 2 * w->rest_ns : MIN_REST_NS;
	if (w->rest_ns > MAX_REST_NS)
		w->rest_ns = MAX_REST_NS;
	return true;
}

static int spin_wait(void *priv, __u64 max_ns)
{
	struct waiter *w = priv;
	__u64 now = htrace_sync_now(), deadline = htrace_sync_add(now, max_ns);

	if (w->found && max_ns) {
		w->found = rested_look(w, now);
		if (w->found)
			return take_woken(w) ? -EINTR : 1;
	} else {
		w->looked = now;
	}
	for (;;) {
		for (int i = 0; i < SPINS_PER_CLOCK; i++) {
			if (take_woken(w))
				return -EINTR;
			if (is_ready(w)) {
				w->found = true;
				return 1;
			}
			if (!max_ns)
				return 0;
			relax();
		}
		w->stream = false;
		if (htrace_sync_now() >= deadline)
			return 0;
	}
}

static const struct htrace_sync_ops spin_ops = {
	.sz = sizeof(spin_ops),
	.name = "spin",
	.arm = spin_arm,
	.wait = spin_wait,
	.wake = waiter_wake,
	.close = free,
};

/* --------------------------------------------------------------------------------------- timer */

static int timer_arm(void **priv, const struct htrace_sync_target *target, const char *arg)
{
	struct waiter *w;
	__u64 period;
	int ret;

	ret = arg ? parse_usec(arg, 1, &period) : -EINVAL;
	if (!ret)
		ret = waiter_new(priv, target);
	if (ret)
		return ret;
	w = *priv;
	w->period = period;
	w->next = w->polled + period;
	return 0;
}

/* On a grid, so that reading takes nothing from the rate; ticks that were missed are left out. */
static void timer_next(struct waiter *w)
{
	__u64 now = htrace_sync_now();

	w->next += w->period;
	if (w->next <= now)
		w->next = now + w->period;
}

static int timer_wait(void *priv, __u64 max_ns)
{
	__u64 deadline = htrace_sync_add(htrace_sync_now(), max_ns);
	struct waiter *w = priv;
	int ret;

	while (w->next <= deadline) {
		ret = sleep_until(w, w->next);
		if (ret)
			return ret;
		timer_next(w);
		if (is_ready(w))
			return 1;
	}
	ret = sleep_until(w, deadline);
	return ret ? ret : is_ready(w);
}

static const struct htrace_sync_ops timer_ops = {
	.sz = sizeof(timer_ops),
	.name = "timer",
	.arm = timer_arm,
	.wait = timer_wait,
	.wake = waiter_wake,
	.close = free,
};

/* ------------------------------------------------------------------------------------ adaptive */

static int adaptive_arm(void **priv, const struct htrace_sync_target *target, const char *arg)
{
	__u64 max_ns = ADAPTIVE_USEC * 1000;
	struct waiter *w;
	int ret;

	ret = arg ? parse_usec(arg, HTRACE_ADAPTIVE_MIN_NS / 1000, &max_ns) : 0;
	if (!ret)
		ret = waiter_new(priv, target);
	if (ret)
		return ret;
	w = *priv;
	htrace_adaptive_init(&w->adaptive, max_ns);
	w->next = w->polled + w->adaptive.interval_ns;
	return 0;
}

static void adaptive_polled(struct waiter *w, __u64 events, bool backlog)
{
	__u64 now = htrace_sync_now();

	htrace_adaptive_polled(&w->adaptive, events, now - w->polled, backlog);
	w->polled = now;
	w->next = now + w->adaptive.interval_ns;
}

static int adaptive_wait(void *priv, __u64 max_ns)
{
	__u64 deadline = htrace_sync_add(htrace_sync_now(), max_ns);
	struct waiter *w = priv;
	int ret;

	while (w->next <= deadline) {
		ret = sleep_until(w, w->next);
		if (ret)
			return ret;
		if (is_ready(w))
			return 1; /* what the poll found, adaptive_did() is told */
		adaptive_polled(w, 0, false);
	}
	ret = sleep_until(w, deadline);
	return ret ? ret : is_ready(w);
}

static void adaptive_did(void *priv, __u64 events, __u64 backlog)
{
	adaptive_polled(priv, events, backlog != 0);
}

static const struct htrace_sync_ops adaptive_ops = {
	.sz = sizeof(adaptive_ops),
	.name = "adaptive",
	.arm = adaptive_arm,
	.wait = adaptive_wait,
	.did = adaptive_did,
	.wake = waiter_wake,
	.close = free,
};

/* ------------------------------------------------------------------------------------ registry */

static const struct htrace_sync_ops *policies[MAX_POLICIES] = {
	&spin_ops, &adaptive_ops, &timer_ops, &htrace_sync_futex, &htrace_sync_doorbell,
};
static struct htrace_sync_ops registered[MAX_POLICIES]; /* of this library's size */
static size_t nr_policies = 5;
static char all_names[MAX_POLICIES * (MAX_NAME + 2)] = "spin, adaptive, timer, futex, doorbell";

static const struct htrace_sync_ops *find(const char *name, size_t len)
{
	for (size_t i = 0; i < nr_policies; i++)
		if (strlen(policies[i]->name) == len && !memcmp(policies[i]->name, name, len))
			return policies[i];
	return NULL;
}

static bool good_name(const char *name)
{
	size_t len = name ? strlen(name) : 0;

	return len && len <= MAX_NAME &&
	       len == strspn(name, "abcdefghijklmnopqrstuvwxyz0123456789-_");
}

int htrace_sync_register(const struct htrace_sync_ops *ops)
{
	struct htrace_sync_ops known = { 0 };

	if (ops->sz < sizeof(ops->sz) || ops->sz > sizeof(known))
		return -EINVAL;
	memcpy(&known, ops, ops->sz); /* an older one has fewer calls */
	if (!good_name(known.name) || !known.wait)
		return -EINVAL;
	if (find(known.name, strlen(known.name)))
		return -EEXIST;
	if (nr_policies == MAX_POLICIES)
		return -ENOSPC;
	registered[nr_policies] = known;
	policies[nr_policies] = &registered[nr_policies];
	nr_policies++;
	strcat(all_names, ", ");
	strcat(all_names, known.name);
	return 0;
}

const char *htrace_sync_names(void)
{
	return all_names;
}

int htrace_sync_new(struct htrace_sync **out, const char *policy,
		    const struct htrace_sync_target *target)
{
	size_t len = strcspn(policy, ":");
	struct htrace_sync *s;
	int ret = 0;

	*out = NULL;
	if (target->sz < sizeof(target->sz) || target->sz > sizeof(*target))
		return -EINVAL;
	s = calloc(1, sizeof(*s));
	if (!s)
		return -ENOMEM;
	memcpy(&s->target, target, target->sz);
	s->target.sz = sizeof(s->target);
	s->ops = find(policy, len);
	if (!s->target.ready)
		ret = -EINVAL;
	else if (!s->ops)
		ret = -ENOENT;
	else if (s->ops->arm)
		ret = s->ops->arm(&s->priv, &s->target, policy[len] ? policy + len + 1 : NULL);
	if (ret)
		free(s);
	else
		*out = s;
	return ret;
}

int htrace_sync_wait(struct htrace_sync *s, __u64 max_ns)
{
	return s->ops->wait(s->priv, max_ns);
}

void htrace_sync_did(struct htrace_sync *s, __u64 events, __u64 backlog)
{
	if (s->ops->did)
		s->ops->did(s->priv, events, backlog);
}

void htrace_sync_wake(struct htrace_sync *s)
{
	if (s->ops->wake)
		s->ops->wake(s->priv);
}

void htrace_sync_free(struct htrace_sync *s)
{
	if (!s)
		return;
	if (s->ops->close)
		s->ops->close(s->priv);
	free(s);
}
