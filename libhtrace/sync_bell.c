// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/*
 * Policies that sleep until producers ring: "futex" waits for words in memory, "doorbell" for descriptors.
 * Both look, rest, and go to sleep by the same rules; docs/format.md ("Waking the reader") has the other side.
 */
#include <errno.h>
#include <linux/futex.h>
#include <poll.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <htrace/sync.h>

#include "sync_adaptive.h"
#include "sync_internal.h"

#ifndef SYS_futex_waitv
#define SYS_futex_waitv 449 /* on all machines */
#endif

#define MAX_BELLS (FUTEX_WAITV_MAX - 1) /* one is our own */
#define ASLEEP_NS 100000000ULL /* at most, whether rung or not */
#define POLL_MAX_NS 2000000ULL

struct sleeper {
	struct htrace_sync_target target;
	bool by_word;
	__u32 woken;  /* written by wake, taken by wait; a futex */
	int wake_fd;  /* likewise, where descriptors are waited for; else -1 */
	bool found;   /* the last look found something, and it was not said yet what */
	bool rung;    /* all producers ring: what the last arming gave */
	__u64 rest_ns; /* until the next look, after one that found something, or a ring for nothing */
	__u64 look_at; /* not before */
	__u64 looked;
	struct htrace_adaptive adaptive; /* for producers that do not ring */
	struct htrace_bell bell[MAX_BELLS];
	int nr_bells;
};

/* ------------------------------------------------------------------------------ waiting for bells */

static struct timespec to_timespec(__u64 ns)
{
	return (struct timespec){ .tv_sec = (time_t)(ns / 1000000000),
				  .tv_nsec = (long)(ns % 1000000000) };
}

static void empty(int fd)
{
	__u64 count;

	while (read(fd, &count, sizeof(count)) < 0 && errno == EINTR)
		;
}

static bool take_woken(struct sleeper *s)
{
	if (!__atomic_load_n(&s->woken, __ATOMIC_RELAXED) ||
	    !__atomic_exchange_n(&s->woken, 0, __ATOMIC_ACQUIRE))
		return false;
	if (s->wake_fd >= 0)
		empty(s->wake_fd);
	return true;
}

static long wait_for_words(struct sleeper *s, int nr, __u64 until)
{
	struct futex_waitv w[FUTEX_WAITV_MAX] = {
		{ .uaddr = (uintptr_t)&s->woken, .flags = FUTEX_32 | FUTEX_PRIVATE_FLAG },
	};
	struct timespec ts = to_timespec(until);

	for (int i = 0; i < nr; i++)
		w[i + 1] = (struct futex_waitv){ .uaddr = (uintptr_t)s->bell[i].word,
						 .val = s->bell[i].seen, .flags = FUTEX_32 };
	return syscall(SYS_futex_waitv, w, nr + 1, 0, &ts, CLOCK_MONOTONIC);
}

static long wait_for_fds(struct sleeper *s, int nr, __u64 until)
{
	__u64 now = htrace_sync_now();
	struct timespec ts = to_timespec(until > now ? until - now : 0);
	struct pollfd p[MAX_BELLS + 1] = { { .fd = s->wake_fd, .events = POLLIN } };
	int ret;

	for (int i = 0; i < nr; i++)
		p[i + 1] = (struct pollfd){ .fd = s->bell[i].fd, .events = POLLIN };
	ret = ppoll(p, (nfds_t)nr + 1, &ts, NULL);
	if (ret < 0 || (ret && !p[0].revents))
		return ret;
	if (ret) /* even if what it tells of was taken before it was written */
		empty(s->wake_fd);
	errno = ret ? EINTR : ETIMEDOUT;
	return -1;
}

/* Until @until: 0; one of @nr bells was rung: 1; -EINTR: woken, or a signal was handled. */
static int doze(struct sleeper *s, int nr, __u64 until)
{
	for (;;) {
		long ret;

		if (take_woken(s))
			return -EINTR;
		if (htrace_sync_now() >= until)
			return 0;
		ret = s->by_word ? wait_for_words(s, nr, until) : wait_for_fds(s, nr, until);
		if (take_woken(s) || (ret < 0 && errno == EINTR))
			return -EINTR;
		if (ret < 0 && errno == ETIMEDOUT)
			return 0;
		if (nr) /* EAGAIN: rung before we slept */
			return 1;
	}
}

/* Also from signal handlers: errno is theirs. */
static void sleeper_wake(void *priv)
{
	struct sleeper *s = priv;
	__u64 one = 1;
	int saved = errno;

	__atomic_store_n(&s->woken, 1, __ATOMIC_RELEASE);
	if (s->wake_fd >= 0) {
		while (write(s->wake_fd, &one, sizeof(one)) < 0 && errno == EINTR)
			; /* if it is full it wakes, too */
	} else {
		syscall(SYS_futex, &s->woken, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
	}
	errno = saved;
}

/* --------------------------------------------------------------------------------- when to look */

/*
 * Not again at once: records come in groups, a producer that found us awake does not ring, and one
 * that rings for nothing, or whose record is never committed, shall not keep us busy.
 */
static void rest(struct sleeper *s, bool found)
{
	if (found)
		s->rest_ns = HTRACE_ADAPTIVE_MIN_NS;
	else
		s->rest_ns = 2 * s->rest_ns < POLL_MAX_NS ? 2 * s->rest_ns : POLL_MAX_NS;
	s->look_at = htrace_sync_now() +
		     (s->rung || s->adaptive.interval_ns < s->rest_ns ? s->rest_ns :
									 s->adaptive.interval_ns);
}

static void sleeper_did(void *priv, __u64 events, __u64 backlog)
{
	struct sleeper *s = priv;
	__u64 now = htrace_sync_now();

	htrace_adaptive_polled(&s->adaptive, events, now - s->looked, backlog != 0);
	s->looked = now;
	if (events || backlog || s->found)
		rest(s, events != 0);
	s->found = false;
}

static bool look(struct sleeper *s)
{
	if (!s->target.ready(s->target.ctx))
		return false;
	s->found = true;
	s->look_at = htrace_sync_now() + s->rest_ns; /* for who does not say what was read */
	return true;
}

/* Bells that are of use to this policy, to the front. Do all producers ring one? */
static bool arm(struct sleeper *s)
{
	bool all = true;
	int nr = 0;

	s->nr_bells = 0;
	if (!s->target.arm)
		return false;
	nr = s->target.arm(s->target.ctx, s->bell, MAX_BELLS, &all);
	for (int i = 0; i < nr; i++) {
		if (s->by_word ? !s->bell[i].word : s->bell[i].fd < 0)
			all = false;
		else
			s->bell[s->nr_bells++] = s->bell[i];
	}
	return all;
}

static __u64 at_most(__u64 time, __u64 deadline)
{
	return time < deadline ? time : deadline;
}

/* Armed: sleep. As doze(). */
static int sleep_armed(struct sleeper *s, __u64 deadline)
{
	__u64 now = htrace_sync_now(), ns = s->rung ? ASLEEP_NS : s->adaptive.interval_ns;
	int ret = doze(s, s->nr_bells, at_most(now + ns, deadline));

	if (!ret && !s->rung) {
		now = htrace_sync_now();
		htrace_adaptive_polled(&s->adaptive, 0, now - s->looked, false);
		s->looked = now;
	}
	return ret;
}

static int sleeper_wait(void *priv, __u64 max_ns)
{
	struct sleeper *s = priv;
	__u64 deadline = htrace_sync_add(htrace_sync_now(), max_ns);
	int ret;

	for (;;) {
		ret = doze(s, 0, at_most(s->look_at, deadline));
		if (ret)
			return ret;
		if (look(s))
			return 1;
		if (htrace_sync_now() >= deadline)
			return 0;
		s->rung = arm(s);
		if (take_woken(s))
			return -EINTR;
		if (look(s))
			return 1;
		ret = sleep_armed(s, deadline);
		if (ret < 0)
			return ret;
		if (look(s))
			return 1;
		if (ret)
			rest(s, false);
	}
}

/* ------------------------------------------------------------------------------------- policies */

static int sleeper_new(struct sleeper **out, const struct htrace_sync_target *target)
{
	struct sleeper *s = calloc(1, sizeof(*s));

	if (!s)
		return -ENOMEM;
	s->target = *target;
	s->wake_fd = -1;
	s->rest_ns = HTRACE_ADAPTIVE_MIN_NS;
	s->looked = htrace_sync_now();
	htrace_adaptive_init(&s->adaptive, POLL_MAX_NS);
	*out = s;
	return 0;
}

static int futex_arm(void **priv, const struct htrace_sync_target *target, const char *arg)
{
	struct sleeper *s;
	int ret;

	if (arg)
		return -EINVAL;
	/* Nothing to wait for is EINVAL; filters of system calls have other errors. */
	if (syscall(SYS_futex_waitv, NULL, 0, 0, NULL, CLOCK_MONOTONIC) < 0 && errno != EINVAL)
		return -ENOSYS;
	ret = sleeper_new(&s, target);
	if (ret)
		return ret;
	s->by_word = true;
	*priv = s;
	return 0;
}

static int doorbell_arm(void **priv, const struct htrace_sync_target *target, const char *arg)
{
	struct sleeper *s;
	int ret;

	if (arg)
		return -EINVAL;
	ret = sleeper_new(&s, target);
	if (ret)
		return ret;
	s->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (s->wake_fd < 0) {
		ret = -errno;
		free(s);
		return ret;
	}
	*priv = s;
	return 0;
}

static void sleeper_close(void *priv)
{
	struct sleeper *s = priv;

	if (s->wake_fd >= 0)
		close(s->wake_fd);
	free(s);
}

const struct htrace_sync_ops htrace_sync_futex = {
	.sz = sizeof(htrace_sync_futex),
	.name = "futex",
	.arm = futex_arm,
	.wait = sleeper_wait,
	.did = sleeper_did,
	.wake = sleeper_wake,
	.close = sleeper_close,
};

const struct htrace_sync_ops htrace_sync_doorbell = {
	.sz = sizeof(htrace_sync_doorbell),
	.name = "doorbell",
	.arm = doorbell_arm,
	.wait = sleeper_wait,
	.did = sleeper_did,
	.wake = sleeper_wake,
	.close = sleeper_close,
};
