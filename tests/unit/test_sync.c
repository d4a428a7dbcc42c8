// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Sync policies: what they do is counted. Time is only bounded generously, and from the side that a
 * busy machine cannot push it to.
 */
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/time.h>
#include <time.h>

#include <htrace/sync.h>

#include "sync_adaptive.h"
#include "unit.h"

#define MS 1000000ULL

static __u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (__u64)ts.tv_sec * 1000000000 + (__u64)ts.tv_nsec;
}

/* A target that is ready from the nth look on. */
struct rings {
	__u64 looks, ready_at;
	struct htrace_sync *wake_at_look; /* woken by the looks, so that no time is involved */
};

static bool look(void *ctx)
{
	struct rings *r = ctx;

	r->looks++;
	if (r->wake_at_look)
		htrace_sync_wake(r->wake_at_look);
	return r->looks >= r->ready_at;
}

static struct rings rings;
static const struct htrace_sync_target target = { sizeof(target), look, &rings };

static struct htrace_sync *make(const char *policy)
{
	struct htrace_sync *s;

	ck_assert_int_eq(htrace_sync_new(&s, policy, &target), 0);
	rings = (struct rings){ .ready_at = UINT64_MAX };
	return s;
}

static const char *const policies[] = { "spin", "adaptive", "timer:200" };

/* --------------------------------------------------------------------------------- all policies */

START_TEST(test_time_is_up)
{
	struct htrace_sync *s = make(policies[_i]);
	__u64 start = now_ns();

	ck_assert_int_eq(htrace_sync_wait(s, 20 * MS), 0);
	ck_assert_uint_ge(now_ns() - start, 20 * MS);
	ck_assert_uint_gt(rings.looks, 0);
	ck_assert_int_eq(htrace_sync_wait(s, 0), 0);
	htrace_sync_did(s, 0, 0);
	ck_assert_int_eq(htrace_sync_wait(s, 1000), 0);
	htrace_sync_free(s);
}
END_TEST

START_TEST(test_ready)
{
	struct htrace_sync *s = make(policies[_i]);

	for (__u64 at = 1; at < 8; at++) {
		rings = (struct rings){ .ready_at = at };
		ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), 1);
		ck_assert_uint_eq(rings.looks, at);
		htrace_sync_did(s, 1, 0);
	}
	rings.looks = 10;
	ck_assert_int_eq(htrace_sync_wait(s, 0), 1);
	htrace_sync_free(s);
}
END_TEST

/* A wake before the wait is not lost, and counts once. */
START_TEST(test_woken_before)
{
	struct htrace_sync *s = make(policies[_i]);

	htrace_sync_wake(s);
	htrace_sync_wake(s);
	ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), -EINTR);
	ck_assert_uint_eq(rings.looks, 0);
	ck_assert_int_eq(htrace_sync_wait(s, MS), 0);
	htrace_sync_free(s);
}
END_TEST

START_TEST(test_woken_between)
{
	struct htrace_sync *s = make(policies[_i]);

	rings.wake_at_look = s;
	ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), -EINTR);
	ck_assert_uint_eq(rings.looks, 1);
	htrace_sync_free(s);
}
END_TEST

static void *wake_often(void *s)
{
	struct timespec ms = { .tv_nsec = 1000000 };

	/* The waiter may not be there yet: whatever the order, it must wake. */
	nanosleep(&ms, NULL);
	htrace_sync_wake(s);
	return NULL;
}

/* The two that sleep do so for a second at a time: without the wake this runs into the timeout. */
START_TEST(test_woken_by_thread)
{
	static const char *const slow[] = { "spin", "adaptive:1000000", "timer:1000000" };
	struct htrace_sync *s = make(slow[_i]);

	for (int i = 0; i < 50; i++) {
		pthread_t thread;

		ck_assert_int_eq(pthread_create(&thread, NULL, wake_often, s), 0);
		ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), -EINTR);
		ck_assert_int_eq(pthread_join(thread, NULL), 0);
	}
	htrace_sync_free(s);
}
END_TEST

static struct htrace_sync *signalled;

static void on_signal(int sig)
{
	errno = ENOTTY;
	if (sig == SIGALRM && signalled)
		htrace_sync_wake(signalled);
	if (errno != ENOTTY)
		abort();
}

static void start_signals(int flags)
{
	struct sigaction sa = { .sa_handler = on_signal, .sa_flags = flags };
	/* Again and again: the first may come before the wait does. */
	struct itimerval soon = { .it_value.tv_usec = 5000, .it_interval.tv_usec = 5000 };

	sigaction(SIGALRM, &sa, NULL);
	setitimer(ITIMER_REAL, &soon, NULL);
}

static void stop_signals(void)
{
	struct itimerval never = { .it_value.tv_usec = 0 };

	setitimer(ITIMER_REAL, &never, NULL);
}

START_TEST(test_woken_by_signal_handler)
{
	struct htrace_sync *s = make(policies[_i]);

	signalled = s;
	start_signals(SA_RESTART);
	ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), -EINTR);
	stop_signals();
	htrace_sync_free(s);
}
END_TEST

/* A signal alone ends the sleep of those that sleep. */
START_TEST(test_signal)
{
	struct htrace_sync *s = make(_i ? "timer:1000000" : "adaptive:1000000");

	signalled = NULL;
	start_signals(0);
	ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), -EINTR);
	stop_signals();
	htrace_sync_free(s);
}
END_TEST

/* How long it waits for a record that is there. Assertions take time, so none in between. */
static __u64 timed_wait(struct htrace_sync *s)
{
	__u64 start = now_ns(), took;
	int ret = htrace_sync_wait(s, MS);

	took = now_ns() - start;
	ck_assert_int_eq(ret, 1);
	return took;
}

/* The shortest of some: others run on this machine, too. */
static __u64 shortest_wait(struct htrace_sync *s, bool silence)
{
	__u64 shortest = UINT64_MAX;

	for (int i = 0; i < 50; i++) {
		__u64 took;

		if (silence) {
			rings.ready_at = UINT64_MAX;
			ck_assert_int_eq(htrace_sync_wait(s, MS / 10), 0);
			rings.ready_at = 0;
			ck_assert_int_eq(htrace_sync_wait(s, MS), 1);
		}
		took = timed_wait(s);
		shortest = took < shortest ? took : shortest;
	}
	return shortest;
}

/* An emulator, for which tests/run.py gives more time, may need some microseconds for a look alone. */
static __u64 a_look(__u64 ns)
{
	return getenv("CK_TIMEOUT_MULTIPLIER") ? 4096 : ns;
}

/* While each look finds records it looks once in a while, more rarely when that lasts, but not after silence. */
START_TEST(test_spin_rests)
{
	struct htrace_sync *s = make("spin");
	__u64 start;

	rings.ready_at = 0;
	for (int i = 0; i < 20; i++)
		ck_assert_int_eq(htrace_sync_wait(s, MS), 1);
	start = now_ns();
	for (int i = 0; i < 1000; i++)
		ck_assert_int_eq(htrace_sync_wait(s, MS), 1);
	ck_assert_uint_ge(now_ns() - start, 1000 * 512);
	ck_assert_uint_eq(rings.looks, 1020); /* none in between */
	ck_assert_uint_ge(shortest_wait(s, false), 512);
	ck_assert_uint_lt(shortest_wait(s, true), a_look(512));
	htrace_sync_wake(s);
	ck_assert_int_eq(htrace_sync_wait(s, MS), -EINTR);
	htrace_sync_free(s);
}
END_TEST

/* Two microseconds from look to look in a stream of long; it is over where nobody looked for a while, too. */
static void a_stream(struct htrace_sync *s, __u64 ns)
{
	__u64 end = now_ns() + ns;

	while (now_ns() < end)
		if (htrace_sync_wait(s, MS) != 1)
			ck_abort_msg("nothing to read");
}

START_TEST(test_spin_rests_in_stream)
{
	struct htrace_sync *s = make("spin");
	__u64 longest = 0, shortest = UINT64_MAX;

	rings.ready_at = 0;
	/* Pauses of the machine's end streams: try some. One of 2 us in a longer wait would pass, but 20 do not. */
	for (int i = 0; i < 1000 && longest < 2048; i++) {
		__u64 least = UINT64_MAX;

		a_stream(s, MS);
		for (int j = 0; j < 20; j++) {
			__u64 start = now_ns(), took;

			htrace_sync_wait(s, MS);
			took = now_ns() - start;
			least = took < least ? took : least;
		}
		longest = least > longest ? least : longest;
	}
	ck_assert_uint_ge(longest, 2048);
	for (int i = 0; i < 50 || (i < 1000 && shortest >= a_look(2048)); i++) {
		__u64 took;

		a_stream(s, MS);
		nanosleep(&(struct timespec){ .tv_nsec = 10000 }, NULL);
		took = timed_wait(s);
		shortest = took < shortest ? took : shortest;
	}
	ck_assert_uint_lt(shortest, a_look(2048));
	htrace_sync_free(s);
}
END_TEST

/* ------------------------------------------------------------------------------- one by one */

/* Never more often than once a period, however idle the machine is. */
START_TEST(test_timer_rate)
{
	struct htrace_sync *s = make("timer:1000");
	__u64 start = now_ns(), ticks = 0;

	rings.ready_at = 0;
	while (ticks < 20) {
		ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), 1);
		ticks++;
	}
	ck_assert_uint_ge(now_ns() - start, 19 * MS);
	ck_assert_uint_eq(rings.looks, 20);
	/* Ticks that a slow reader missed are not made up for. */
	nanosleep(&(struct timespec){ .tv_nsec = 20 * MS }, NULL);
	rings.looks = 0;
	start = now_ns();
	for (int i = 0; i < 5; i++)
		ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), 1);
	ck_assert_uint_ge(now_ns() - start, 3 * MS);
	htrace_sync_free(s);
}
END_TEST

/* While nothing comes: 50, 100, ... us between looks, then MAX_USEC. */
START_TEST(test_adaptive_idle)
{
	struct htrace_sync *s = make("adaptive:5000");
	__u64 start;

	ck_assert_int_eq(htrace_sync_wait(s, 100 * MS), 0);
	ck_assert_uint_le(rings.looks, 7 + 100 / 5 + 1);
	ck_assert_uint_ge(rings.looks, 2);
	/* Short waits look once more at their ends, but that is all. */
	rings.looks = 0;
	start = now_ns();
	for (int i = 0; i < 100; i++)
		htrace_sync_wait(s, 10000);
	ck_assert_uint_le(rings.looks, 100 + (now_ns() - start) / (5 * MS) + 1);
	htrace_sync_free(s);
}
END_TEST

static __u64 settle(struct htrace_adaptive *a, __u64 events_per_sec, int polls)
{
	for (int i = 0; i < polls; i++)
		htrace_adaptive_polled(a, events_per_sec * a->interval_ns / 1000000000,
				       a->interval_ns, false);
	return a->interval_ns;
}

START_TEST(test_adaptive_rule)
{
	struct htrace_adaptive a;
	__u64 before;

	htrace_adaptive_init(&a, 2 * MS);
	ck_assert_uint_eq(a.interval_ns, 50000);
	/* nothing: doubles up to the maximum */
	for (__u64 want = 100000; want < 2 * MS; want *= 2) {
		htrace_adaptive_polled(&a, 0, a.interval_ns, false);
		ck_assert_uint_eq(a.interval_ns, want);
	}
	ck_assert_uint_eq(settle(&a, 0, 10), 2 * MS);
	/* settles where a poll finds about 64: 200000 a second make 320 us */
	before = settle(&a, 200000, 60);
	ck_assert_uint_ge(before, 300000);
	ck_assert_uint_le(before, 340000);
	/* within its bounds at any rate */
	ck_assert_uint_eq(settle(&a, 100000000, 60), 50000);
	ck_assert_uint_eq(settle(&a, 5000, 100), 2 * MS);
	/* one poll counts for an eighth: a single burst is no rate */
	htrace_adaptive_init(&a, 2 * MS);
	settle(&a, 0, 20);
	htrace_adaptive_polled(&a, 640, 2 * MS, false); /* 320000 a second, taken for 40000 */
	ck_assert_uint_ge(a.interval_ns, 1600000 - 1);
	ck_assert_uint_le(a.interval_ns, 1600000 + 1);
	/* more is there: at once, within the bounds */
	htrace_adaptive_polled(&a, 64, 2 * MS, true);
	ck_assert_uint_eq(a.interval_ns, 50000);
	/* more is there, but cannot be read, however long: not committed, as good as silence */
	for (int i = 0; i < 3; i++)
		htrace_adaptive_polled(&a, 0, a.interval_ns, true);
	ck_assert_uint_eq(a.interval_ns, 400000);
	for (int i = 0; i < 10; i++)
		htrace_adaptive_polled(&a, 0, a.interval_ns, true);
	ck_assert_uint_eq(a.interval_ns, 2 * MS);
	/* no time between two polls, absurd numbers: still within */
	htrace_adaptive_polled(&a, UINT64_MAX, 0, false);
	ck_assert_uint_eq(a.interval_ns, 50000);
	htrace_adaptive_polled(&a, 0, UINT64_MAX, false);
	ck_assert_uint_le(a.interval_ns, 100000);
}
END_TEST

/* Polls in a second of the rule's time, at @rate; each interval within its bounds. */
static __u64 polls_per_second(struct htrace_adaptive *a, __u64 rate)
{
	__u64 polls = 0, ns = 0;
	double events = 0;

	for (; ns < 1000000000; polls++) {
		__u64 interval = a->interval_ns, whole;

		ck_assert_uint_ge(interval, HTRACE_ADAPTIVE_MIN_NS);
		ck_assert_uint_le(interval, a->max_ns);
		ns += interval;
		events += (double)rate * (double)interval / 1e9;
		whole = (__u64)events;
		events -= (double)whole;
		htrace_adaptive_polled(a, whole, interval, false);
	}
	return polls;
}

/* The rate of polls follows that of events, 64 at a time, from 1 / MAX_USEC to 20000; a change within a second. */
START_TEST(test_adaptive_follows)
{
	static const __u64 max_usec[] = { 50, 2000, 1000000 }; /* the last one takes long */
	static const __u64 rates[] = { 0, 100, 10000000, 1000, 100000, 1000000, 10000, 0 };
	const __u64 max_ns = max_usec[_i] * 1000;
	struct htrace_adaptive a;

	htrace_adaptive_init(&a, max_ns);
	for (unsigned int i = 0; i < sizeof(rates) / sizeof(*rates); i++) {
		__u64 least = 1000000000 / max_ns, most = 20000, want = rates[i] / HTRACE_ADAPTIVE_BATCH, polls;

		for (int s = 0; s < (max_usec[_i] > 2000 ? 60 : 1); s++) /* by far slower: it looks so rarely */
			polls_per_second(&a, rates[i]);
		polls = polls_per_second(&a, rates[i]);
		want = want < least ? least : want > most ? most : want;
		ck_assert_msg(polls >= want * 8 / 10 && polls <= want * 12 / 10 + 1, "%llu events: %llu polls, not %llu",
			      (unsigned long long)rates[i], (unsigned long long)polls, (unsigned long long)want);
	}
}
END_TEST

/* A policy is told what was read, and uses it. */
START_TEST(test_adaptive_did)
{
	struct htrace_sync *s = make("adaptive:1000000");
	__u64 start;

	ck_assert_int_eq(htrace_sync_wait(s, 300 * MS), 0);
	htrace_sync_did(s, 0, 0);
	/* It would sleep for hundreds of ms by now, but for what it is told here. */
	htrace_sync_did(s, 1000, 4096);
	rings.looks = 0;
	rings.ready_at = 1;
	start = now_ns();
	ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), 1);
	ck_assert_uint_le(now_ns() - start, 250 * MS);
	htrace_sync_free(s);
}
END_TEST

/* The rings look ready all the time, but their next record is never committed. */
START_TEST(test_adaptive_uncommitted)
{
	struct htrace_sync *s = make("adaptive:5000");
	__u64 start = now_ns();
	int looks = 0;

	rings.ready_at = 0;
	while (now_ns() - start < 200 * MS) {
		htrace_sync_wait(s, 100 * MS);
		htrace_sync_did(s, 0, 24);
		looks++;
	}
	ck_assert_int_le(looks, 8 + 200 / 5 + 1);
	htrace_sync_free(s);
}
END_TEST

/* ------------------------------------------------------------------------------------- registry */

START_TEST(test_names)
{
	static const struct { const char *policy; int ret; } cases[] = {
		{ "spin", 0 }, { "adaptive", 0 }, { "adaptive:50", 0 }, { "adaptive:1000000", 0 },
		{ "timer:1", 0 }, { "timer:1000000", 0 }, { "timer:0001", 0 },
		{ "", -ENOENT }, { "spi", -ENOENT }, { "spinn", -ENOENT }, { "Spin", -ENOENT },
		{ ":5", -ENOENT }, { "doorbel", -ENOENT }, { "doorbell", 0 }, { "spin:", -EINVAL },
		{ "spin:5", -EINVAL }, { "timer", -EINVAL }, { "timer:", -EINVAL },
		{ "timer:0", -EINVAL }, { "timer:1000001", -EINVAL }, { "timer:-1", -EINVAL },
		{ "timer:+1", -EINVAL }, { "timer: 1", -EINVAL }, { "timer:1ms", -EINVAL },
		{ "timer:18446744073709551617", -EINVAL }, { "adaptive:49", -EINVAL },
		{ "adaptive:1000001", -EINVAL }, { "adaptive:", -EINVAL },
		{ "adaptive:x", -EINVAL },
	};

	for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
		struct htrace_sync *s;
		int ret = htrace_sync_new(&s, cases[i].policy, &target);

		ck_assert_msg(ret == cases[i].ret, "'%s': %d", cases[i].policy, ret);
		ck_assert_int_eq(s != NULL, ret == 0);
		htrace_sync_free(s);
	}
	ck_assert_str_eq(htrace_sync_names(), "spin, adaptive, timer, futex, doorbell");
}
END_TEST

struct custom {
	struct htrace_sync_target target;
	char arg[16];
	int waits, wakes;
	__u64 events, backlog;
};

static struct custom custom;

static int custom_arm(void **priv, const struct htrace_sync_target *t, const char *arg)
{
	if (arg && !strcmp(arg, "bad"))
		return -EINVAL;
	custom = (struct custom){ .target = *t };
	strcpy(custom.arg, arg ? arg : "(none)");
	*priv = &custom;
	return 0;
}

static int custom_wait(void *priv, __u64 max_ns)
{
	struct custom *c = priv;

	c->waits++;
	return c->target.ready(c->target.ctx) && max_ns == 42;
}

static void custom_did(void *priv, __u64 events, __u64 backlog)
{
	((struct custom *)priv)->events += events;
	((struct custom *)priv)->backlog = backlog;
}

static void custom_wake(void *priv)
{
	((struct custom *)priv)->wakes++;
}

static void custom_close(void *priv)
{
	memset(priv, 0x5a, sizeof(struct custom));
}

START_TEST(test_custom)
{
	static const struct htrace_sync_ops ops = {
		sizeof(ops), "my-own_1", custom_arm, custom_wait, custom_did, custom_wake,
		custom_close,
	};
	struct htrace_sync *s;

	ck_assert_int_eq(htrace_sync_new(&s, "my-own_1", &target), -ENOENT);
	ck_assert_int_eq(htrace_sync_register(&ops), 0);
	ck_assert_int_eq(htrace_sync_register(&ops), -EEXIST);
	ck_assert_str_eq(htrace_sync_names(), "spin, adaptive, timer, futex, doorbell, my-own_1");
	ck_assert_int_eq(htrace_sync_new(&s, "my-own_1:bad", &target), -EINVAL);
	s = make("my-own_1:a:b");
	ck_assert_str_eq(custom.arg, "a:b");
	rings.ready_at = 1;
	ck_assert_int_eq(htrace_sync_wait(s, 42), 1);
	ck_assert_int_eq(htrace_sync_wait(s, 41), 0);
	htrace_sync_did(s, 3, 8);
	htrace_sync_did(s, 4, 16);
	htrace_sync_wake(s);
	ck_assert_int_eq(custom.waits, 2);
	ck_assert_int_eq(custom.wakes, 1);
	ck_assert_uint_eq(custom.events, 7);
	ck_assert_uint_eq(custom.backlog, 16);
	htrace_sync_free(s);
	ck_assert_int_eq(custom.waits, 0x5a5a5a5a);
}
END_TEST

static int just_wait(void *priv, __u64 max_ns)
{
	return !priv && max_ns == 1;
}

START_TEST(test_least_custom)
{
	static const struct htrace_sync_ops ops = { .sz = sizeof(ops), .name = "least",
						    .wait = just_wait };
	struct htrace_sync *s;

	ck_assert_int_eq(htrace_sync_register(&ops), 0);
	s = make("least");
	ck_assert_int_eq(htrace_sync_wait(s, 1), 1);
	htrace_sync_did(s, 1, 1);
	htrace_sync_wake(s);
	htrace_sync_free(s);
	htrace_sync_free(NULL);
}
END_TEST

START_TEST(test_wrong_ops)
{
	static const char *const names[] = { NULL, "", "a,b", "a b", "a:b", "UP",
					     "a-name-of-more-than-32-characters" };
	struct htrace_sync_ops ops = { .sz = sizeof(ops), .name = "ok", .wait = just_wait };
	struct htrace_sync_target bad = target;
	struct htrace_sync *s;

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		ops.name = names[i];
		ck_assert_int_eq(htrace_sync_register(&ops), -EINVAL);
	}
	ops.name = "spin";
	ck_assert_int_eq(htrace_sync_register(&ops), -EEXIST);
	ops.name = "ok";
	ops.wait = NULL;
	ck_assert_int_eq(htrace_sync_register(&ops), -EINVAL);
	bad.ready = NULL;
	ck_assert_int_eq(htrace_sync_new(&s, "spin", &bad), -EINVAL);
}
END_TEST

START_TEST(test_many)
{
	static struct htrace_sync_ops ops[40];
	static char names[40][48];
	int registered = 0;

	for (int i = 0; i < 40; i++) {
		snprintf(names[i], sizeof(names[i]), "policy-with-a-name-of-32-bytes%02d", i);
		ops[i] = (struct htrace_sync_ops){ .sz = sizeof(ops[i]), .name = names[i],
						   .wait = just_wait };
		if (!htrace_sync_register(&ops[i]))
			registered++;
		else
			ck_assert_int_eq(htrace_sync_register(&ops[i]), -ENOSPC);
	}
	ck_assert_int_eq(registered, 27);
	ck_assert_uint_eq(strlen(htrace_sync_names()),
			  strlen("spin, adaptive, timer, futex, doorbell") + 27 * strlen(", ") + 27 * 32);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("sync");
	TCase *all = tcase_create("all"), *each = tcase_create("each");
	TCase *reg = tcase_create("registry");

	tcase_set_timeout(all, 30);
	tcase_add_loop_test(all, test_time_is_up, 0, 3);
	tcase_add_loop_test(all, test_ready, 0, 3);
	tcase_add_loop_test(all, test_woken_before, 0, 3);
	tcase_add_loop_test(all, test_woken_between, 0, 3);
	tcase_add_loop_test(all, test_woken_by_thread, 0, 3);
	tcase_add_loop_test(all, test_woken_by_signal_handler, 0, 3);
	tcase_add_loop_test(all, test_signal, 0, 2);
	suite_add_tcase(s, all);
	tcase_set_timeout(each, 30);
	tcase_add_test(each, test_spin_rests);
	tcase_add_test(each, test_spin_rests_in_stream);
	tcase_add_test(each, test_timer_rate);
	tcase_add_test(each, test_adaptive_idle);
	tcase_add_test(each, test_adaptive_rule);
	tcase_add_loop_test(each, test_adaptive_follows, 0, unit_share() > 1 ? 2 : 3);
	tcase_add_test(each, test_adaptive_did);
	tcase_add_test(each, test_adaptive_uncommitted);
	suite_add_tcase(s, each);
	tcase_add_test(reg, test_names);
	tcase_add_test(reg, test_custom);
	tcase_add_test(reg, test_least_custom);
	tcase_add_test(reg, test_wrong_ops);
	tcase_add_test(reg, test_many);
	suite_add_tcase(s, reg);
	return unit_run(s);
}
