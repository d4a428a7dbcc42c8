// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Policies that sleep until they are rung, and what producers ring for. As in test_sync.c, what is done is
 * counted; time is only bounded from the side that a busy machine cannot push it to.
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#include <htrace/producer.h>
#include <htrace/sync.h>

#include "regionbox.h"
#include "sync_adaptive.h"
#include "unit.h"

#define MS 1000000ULL
#define BOUND_NS (100 * MS)

static __u64 now_ns(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (__u64)ts.tv_sec * 1000000000 + (__u64)ts.tv_nsec;
}

/* ------------------------------------------------------------------------------- the arithmetic */

/* By what it is to mean, where nothing wraps; and the same moved to where it does. */
START_TEST(test_needs_bell)
{
	static const __u64 bases[] = { 0, 1, 1ULL << 32, 1ULL << 62, ~0ULL, ~0ULL - 7, ~0ULL - 1000 };

	for (unsigned int b = 0; b < sizeof(bases) / sizeof(*bases); b++)
		for (__u64 from = 0; from < 12; from++)
			for (__u64 to = from + 1; to < 14; to++)
				for (__u64 idx = 0; idx < 16; idx++)
					ck_assert_int_eq(htrace_ring_needs_bell(bases[b] + from, bases[b] + to,
										bases[b] + idx),
							 from <= idx && idx < to);
	/* a busy reader's is far behind */
	ck_assert_int_eq(htrace_ring_needs_bell(1ULL << 40, (1ULL << 40) + 64, 4096), 0);
}
END_TEST

/* ------------------------------------------------------------------------------ a region's bell */

struct box {
	struct htrace_region *region;
	struct htrace_view *view;
	struct htrace_producer p;
	struct htrace_consumer *c;
	struct htrace_host_ring *words;
	const __u32 *bell;
};

static void box_open(struct box *b, bool bell, enum htrace_policy policy)
{
	struct htrace_region_opts o = local_opts;
	struct htrace_consumer_opts c = { .sz = sizeof(c) };
	struct htrace_image img;
	int fd;

	o.bell = bell;
	o.policy = policy;
	ck_assert_int_eq(htrace_region_create_local(&b->region, NULL, SIZE, &o, &fd), 0);
	htrace_region_publish(b->region);
	ck_assert_int_eq(htrace_producer_get(&b->p, b->region, 0, 0), 0);
	ck_assert_int_eq(htrace_view_open_fd(&b->view, fd, true, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_attach(b->view, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_claim(b->view), 0);
	ck_assert_int_eq(htrace_view_ring(b->view, 0, 0, &img), 0);
	b->words = htrace_view_host_ring(b->view, img.slot);
	c.consumed = &b->words->consumed;
	ck_assert_int_eq(htrace_consumer_new(&b->c, &img, &c), 0);
	b->bell = htrace_view_bell(b->view);
	close(fd);
}

static void box_close(struct box *b)
{
	htrace_consumer_free(b->c);
	htrace_view_close(b->view);
	htrace_producer_put(&b->p);
	htrace_region_release(b->region);
}

static void push(struct box *b, int single)
{
	__u64 data = 7;

	ck_assert_int_eq(single ? htrace_push_single(&b->p, 1, &data, sizeof(data)) :
				  htrace_push(&b->p, 1, &data, sizeof(data)), 0);
}

/* One ring for each time that the reader goes to sleep; none while it is busy, or does not ask. */
START_TEST(test_region_rings)
{
	struct box b;

	box_open(&b, true, _i & 2 ? HTRACE_DISCARD : HTRACE_OVERWRITE);
	ck_assert_ptr_nonnull(b.bell);
	push(&b, _i & 1); /* nobody asked */
	ck_assert_uint_eq(*b.bell, 0);
	ck_assert_int_eq(htrace_view_set_sync(b.view, HTRACE_SYNC_RING), 0);
	for (__u32 sleeps = 1; sleeps < 1000; sleeps++) {
		drain(b.c);
		htrace_consumer_arm(b.c, &b.words->event_idx);
		htrace_sync_armed();
		ck_assert(!htrace_consumer_ready(b.c));
		for (__u32 i = 0; i < sleeps % 7 + 1; i++) {
			errno = ENOTTY;
			push(&b, _i & 1);
			ck_assert_int_eq(errno, ENOTTY);
			ck_assert_uint_eq(*b.bell, sleeps);
		}
	}
	/* busy: it reads, and does not say how far it is */
	for (int i = 0; i < 1000; i++) {
		drain(b.c);
		push(&b, _i & 1);
		ck_assert_uint_eq(*b.bell, 999);
	}
	drain(b.c);
	htrace_consumer_arm(b.c, &b.words->event_idx);
	ck_assert_int_eq(htrace_view_announce(b.view, HTRACE_HOST_GONE, 0, false, HTRACE_REASON_NONE), 0);
	push(&b, _i & 1);
	ck_assert_uint_eq(*b.bell, 999);
	box_close(&b);
}
END_TEST

/* Whoever commits by itself, or is of a region that was not made for it, wakes nobody. */
START_TEST(test_region_is_silent)
{
	struct htrace_slot slot;
	struct box b;

	box_open(&b, false, HTRACE_OVERWRITE);
	ck_assert_ptr_null(b.bell);
	ck_assert(b.p.bell == NULL);
	ck_assert_uint_eq(htrace_view_super(b.view)->features_optional, 0);
	ck_assert_int_eq(htrace_view_set_sync(b.view, HTRACE_SYNC_RING), 0);
	push(&b, 0);
	ck_assert_uint_eq(htrace_region_guest(b.region)->bell, 0);
	box_close(&b);

	box_open(&b, true, HTRACE_OVERWRITE);
	ck_assert_int_eq(htrace_view_set_sync(b.view, HTRACE_SYNC_RING), 0);
	ck_assert_ptr_nonnull(htrace_producer_reserve(&b.p, 1, 8, &slot));
	htrace_commit(&slot);
	ck_assert_uint_eq(*b.bell, 0);
	/* a claim forgets what an earlier reader asked for */
	ck_assert_int_eq(htrace_view_claim(b.view), 0);
	ck_assert_uint_eq(htrace_region_host(b.region)->sync, 0);
	box_close(&b);
}
END_TEST

/* A ring that was read to its end begins anew at 0: that is where the reader waits for it. */
START_TEST(test_next_life)
{
	struct box b;

	box_open(&b, true, HTRACE_OVERWRITE);
	push(&b, 0);
	drain(b.c);
	htrace_consumer_arm(b.c, &b.words->event_idx);
	ck_assert_uint_gt(b.words->event_idx, 0);
	htrace_consumer_finish(b.c);
	drain(b.c);
	htrace_consumer_arm(b.c, &b.words->event_idx);
	ck_assert_uint_eq(b.words->event_idx, 0);
	box_close(&b);
}
END_TEST

/* ------------------------------------------------------------------------------------- policies */

/* A target with one bell, of either kind. */
struct rings {
	__u64 looks, arms, ready_at;
	bool with_word, with_fd, all;
	bool ring_at_arm; /* rung just before it goes to sleep */
	__u32 word;
	int fd;
};

static struct rings rings;

static void ring(void)
{
	__u64 one = 1;

	__atomic_fetch_add(&rings.word, 1, __ATOMIC_RELEASE);
	syscall(SYS_futex, &rings.word, 1 /* FUTEX_WAKE */, 1, NULL, NULL, 0);
	ck_assert_int_eq(write(rings.fd, &one, sizeof(one)), sizeof(one));
}

static bool look(void *ctx)
{
	struct rings *r = ctx;

	return ++r->looks >= r->ready_at;
}

static int arm(void *ctx, struct htrace_bell *bell, int max, bool *all)
{
	struct rings *r = ctx;
	__u64 count;
	int nr = 0;

	ck_assert_int_ge(max, 2);
	r->arms++;
	*all = r->all;
	if (r->with_word)
		bell[nr++] = (struct htrace_bell){ .word = &r->word, .seen = r->word, .fd = -1 };
	if (r->with_fd) {
		if (read(r->fd, &count, sizeof(count)) < 0)
			ck_assert_int_eq(errno, EAGAIN);
		bell[nr++] = (struct htrace_bell){ .fd = r->fd };
	}
	if (r->ring_at_arm)
		ring();
	return nr;
}

static const struct htrace_sync_target target = { sizeof(target), look, &rings, arm };
static const char *const names[] = { "futex", "doorbell" };

/* NULL: this kernel (or an emulator) has no futex_waitv. */
static struct htrace_sync *make(int which)
{
	struct htrace_sync *s;
	int ret;

	rings = (struct rings){ .ready_at = UINT64_MAX, .with_word = which == 0, .with_fd = which == 1,
				.all = true, .fd = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC) };
	ret = htrace_sync_new(&s, names[which], &target);
	if (ret == -ENOSYS && which == 0) {
		printf("# no futex_waitv here\n");
		return NULL;
	}
	ck_assert_int_eq(ret, 0);
	return s;
}

static void done(struct htrace_sync *s)
{
	htrace_sync_free(s);
	close(rings.fd);
}

static void *ring_later(void *arg)
{
	struct timespec some = { .tv_nsec = 3000000 };

	(void)arg;
	nanosleep(&some, NULL);
	__atomic_store_n(&rings.ready_at, 0, __ATOMIC_RELEASE);
	ring();
	return NULL;
}

/* Rung, it looks: without, it would be a tenth of a second later each time. */
START_TEST(test_rung)
{
	struct htrace_sync *s = make(_i);
	__u64 start = now_ns();
	pthread_t thread;

	if (!s)
		return;
	for (int i = 0; i < 100; i++) {
		rings.ready_at = UINT64_MAX;
		ck_assert_int_eq(pthread_create(&thread, NULL, ring_later, NULL), 0);
		ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), 1);
		ck_assert_int_eq(pthread_join(thread, NULL), 0);
		htrace_sync_did(s, 1, 0);
	}
	ck_assert_uint_lt(now_ns() - start, 100 * BOUND_NS);
	done(s);
}
END_TEST

/* A ring between arming and sleep is not slept over. */
START_TEST(test_rung_before_sleep)
{
	struct htrace_sync *s = make(_i);

	if (!s)
		return;
	rings.ring_at_arm = true;
	rings.ready_at = 3; /* the looks before and behind arming find nothing */
	ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), 1);
	ck_assert_uint_eq(rings.arms, 1);
	ck_assert_uint_eq(rings.looks, 3);
	done(s);
}
END_TEST

/* Never rung: it looks after 100 ms, not before, and not over and over. */
START_TEST(test_never_rung)
{
	struct htrace_sync *s = make(_i);
	__u64 start = now_ns();

	if (!s)
		return;
	rings.ready_at = 3;
	ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), 1);
	ck_assert_uint_ge(now_ns() - start, BOUND_NS);
	ck_assert_uint_eq(rings.arms, 1);
	htrace_sync_did(s, 1, 0);
	rings.ready_at = UINT64_MAX;
	start = now_ns();
	ck_assert_int_eq(htrace_sync_wait(s, 20 * MS), 0);
	ck_assert_uint_ge(now_ns() - start, 20 * MS);
	done(s);
}
END_TEST

/* Who rings without end makes it look 20000 times a second at most; for nothing, soon 500 times. */
START_TEST(test_rung_without_end)
{
	struct htrace_sync *s = make(_i);
	__u64 start = now_ns(), took;

	if (!s)
		return;
	rings.ring_at_arm = true;
	ck_assert_int_eq(htrace_sync_wait(s, 50 * MS), 0);
	took = now_ns() - start;
	ck_assert_uint_le(rings.arms, 6 + took / (2 * MS) + 1);
	/* with something found each time */
	rings.ready_at = rings.looks = rings.arms = 0;
	start = now_ns();
	for (int i = 0; i < 200; i++) {
		ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), 1);
		htrace_sync_did(s, 1, 0);
	}
	ck_assert_uint_ge(now_ns() - start, 199 * HTRACE_ADAPTIVE_MIN_NS);
	ck_assert_uint_eq(rings.arms, 0); /* and so it asks for no ring at all */
	done(s);
}
END_TEST

/* What is there and cannot be read is looked at ever less often, up to 2 ms. */
START_TEST(test_uncommitted)
{
	struct htrace_sync *s = make(_i);
	__u64 start = now_ns();

	if (!s)
		return;
	rings.ready_at = 0;
	for (int i = 0; i < 16; i++) {
		ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), 1);
		htrace_sync_did(s, 0, 64);
	}
	ck_assert_uint_ge(now_ns() - start, (50 + 100 + 200 + 400 + 800 + 1600 + 9 * 2000) * 1000ULL);
	done(s);
}
END_TEST

/* A ring that has no bell, or one of the other kind: it is polled every 2 ms at the latest, not slept over. */
START_TEST(test_no_bell)
{
	struct htrace_sync *s = make(_i & 1);
	__u64 start;

	if (!s)
		return;
	rings.all = !(_i & 2);
	if (rings.all) { /* the other kind */
		rings.with_word = !rings.with_word;
		rings.with_fd = !rings.with_fd;
	}
	start = now_ns();
	ck_assert_int_eq(htrace_sync_wait(s, 5 * BOUND_NS), 0);
	/* each arming is a sleep of at most 2 ms: if it were not, there would be 5 or so */
	ck_assert_uint_ge(rings.arms, 20);
	ck_assert_uint_le(rings.arms, 8 + (now_ns() - start) / MS);
	done(s);
}
END_TEST

static void *wake_often(void *s)
{
	struct timespec ms = { .tv_nsec = 1000000 };

	nanosleep(&ms, NULL);
	htrace_sync_wake(s);
	return NULL;
}

START_TEST(test_woken)
{
	struct htrace_sync *s = make(_i);
	pthread_t thread;

	if (!s)
		return;
	htrace_sync_wake(s);
	htrace_sync_wake(s);
	ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), -EINTR);
	ck_assert_uint_eq(rings.looks, 0);
	ck_assert_int_eq(htrace_sync_wait(s, MS), 0);
	for (int i = 0; i < 50; i++) {
		ck_assert_int_eq(pthread_create(&thread, NULL, wake_often, s), 0);
		ck_assert_int_eq(htrace_sync_wait(s, UINT64_MAX), -EINTR);
		ck_assert_int_eq(pthread_join(thread, NULL), 0);
	}
	done(s);
}
END_TEST

START_TEST(test_arguments)
{
	struct htrace_sync *s;

	ck_assert_int_eq(htrace_sync_new(&s, "doorbell:1", &target), -EINVAL);
	ck_assert_int_eq(htrace_sync_new(&s, "futex:1", &target), -EINVAL);
	ck_assert_ptr_nonnull(strstr(htrace_sync_names(), "futex, doorbell"));
}
END_TEST

/* ------------------------------------------------------------------------------- when, not which */

#define RECORDS 20000

struct reading {
	struct box box;
	struct htrace_sync *sync;
};

static bool box_ready(void *ctx)
{
	struct reading *r = ctx;

	return htrace_consumer_ready(r->box.c);
}

static int device = -1; /* stands for that of a guest; -1: the region's word is rung */
static __u64 rung;

static void ring_device(struct htrace_producer *p)
{
	const __u64 one = 1;

	(void)p;
	ck_assert_int_eq(write(device, &one, sizeof(one)), sizeof(one));
}

static int box_arm(void *ctx, struct htrace_bell *bell, int max, bool *all)
{
	struct reading *r = ctx;
	__u64 count;

	ck_assert(max > 0 && *all);
	bell[0] = (struct htrace_bell){ .fd = device };
	if (device < 0) {
		bell[0].word = r->box.bell;
		bell[0].seen = __atomic_load_n(r->box.bell, __ATOMIC_ACQUIRE);
	} else if (read(device, &count, sizeof(count)) == sizeof(count)) {
		rung += count;
	}
	htrace_consumer_arm(r->box.c, &r->box.words->event_idx);
	htrace_sync_armed();
	return 1;
}

static void *produce(void *arg)
{
	struct reading *r = arg;

	for (__u64 i = 0; i < RECORDS; i++) {
		struct timespec some = { .tv_nsec = 20000 }, long_time = { .tv_nsec = 100000000 };

		if (i == RECORDS / 2)
			nanosleep(&long_time, NULL); /* in which the reader falls asleep */
		while (htrace_push_single(&r->box.p, 1, &i, sizeof(i)))
			nanosleep(&some, NULL);
		if (i % 64 == 0)
			nanosleep(&some, NULL);
	}
	return NULL;
}

/* All records, in their order, whatever the policy; discard, with a ring that they do not fit into at once. */
START_TEST(test_same_records)
{
	static const char *const all[] = { "spin", "adaptive", "timer:50", "timer:1000", "futex", "doorbell" };
	struct reading r;
	struct htrace_sync_target t = { sizeof(t), box_ready, &r, box_arm };
	struct htrace_record rec;
	struct htrace_batch b;
	struct htrace_iter it;
	pthread_t thread;
	__u64 next = 0;
	int ret = htrace_sync_new(&r.sync, all[_i], &t);

	if (ret == -ENOSYS)
		return;
	ck_assert_int_eq(ret, 0);
	box_open(&r.box, true, HTRACE_DISCARD);
	if (!strcmp(all[_i], "doorbell")) {
		device = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
		r.box.p.bell = ring_device;
	}
	ck_assert_int_eq(htrace_view_set_sync(r.box.view, HTRACE_SYNC_RING), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, produce, &r), 0);
	while (next < RECORDS) {
		__u64 events = 0;

		htrace_sync_wait(r.sync, BOUND_NS);
		while (htrace_consumer_read(r.box.c, &b) == 1) {
			events += b.events;
			htrace_iter_init(&it, &b);
			while (htrace_iter_next(&it, &rec))
				ck_assert_uint_eq(*(const __u64 *)rec.payload, next++);
		}
		htrace_sync_did(r.sync, events, htrace_consumer_backlog(r.box.c));
	}
	ck_assert_int_eq(pthread_join(thread, NULL), 0);
	ck_assert_uint_eq(next, RECORDS);
	if (device >= 0) {
		__u64 last;

		if (read(device, &last, sizeof(last)) == sizeof(last))
			rung += last;
		ck_assert_uint_gt(rung, 0);
		close(device);
	}
	htrace_sync_free(r.sync);
	box_close(&r.box);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("sync_bell");
	TCase *t = tcase_create("all");

	tcase_set_timeout(t, 60);
	tcase_add_test(t, test_needs_bell);
	tcase_add_loop_test(t, test_region_rings, 0, 4);
	tcase_add_test(t, test_region_is_silent);
	tcase_add_test(t, test_next_life);
	tcase_add_loop_test(t, test_rung, 0, 2);
	tcase_add_loop_test(t, test_rung_before_sleep, 0, 2);
	tcase_add_loop_test(t, test_never_rung, 0, 2);
	tcase_add_loop_test(t, test_rung_without_end, 0, 2);
	tcase_add_loop_test(t, test_uncommitted, 0, 2);
	tcase_add_loop_test(t, test_no_bell, 0, 4);
	tcase_add_loop_test(t, test_woken, 0, 2);
	tcase_add_test(t, test_arguments);
	tcase_add_loop_test(t, test_same_records, 0, 6);
	suite_add_tcase(s, t);
	return unit_run(s);
}
