// SPDX-License-Identifier: LGPL-2.1-or-later
/* The host's clock beside those of guests: ping-pong, what KVM tells, lines and steps, the order of sources. */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define KVM_TSC_DIR "kvm"
#include "../../host-reader/kvm_tsc.c"
#include "host_clock.h"
#include "merge.h"
#include "order.h"
#include "region_clock.h"
#include "regionbox.h"
#include "unit.h"

#define MS 1000000ULL
#define SEC 1000000000ULL

/* -------------------------------------------------------------------------------------- ping-pong */

#ifdef __x86_64__
enum lie { HONEST, SHIFTED, RANDOM, SILENT };

static struct guest {
	struct htrace_region *region;
	enum lie lie;
	int stop;
	unsigned int answered;
} peer;

static void *answer_all(void *arg)
{
	struct guest *p = arg;
	unsigned long long seed = 7;

	while (!__atomic_load_n(&p->stop, __ATOMIC_ACQUIRE)) {
		const struct htrace_host *h = htrace_region_host(p->region);
		struct htrace_guest *g = htrace_region_guest(p->region);
		__u64 ping;

		if (p->lie == HONEST) {
			p->answered += htrace_region_answer(p->region, MS);
			usleep(200);
			continue;
		}
		ping = __atomic_load_n(&h->clock_ping, __ATOMIC_ACQUIRE);
		if (p->lie == SILENT || !ping)
			continue;
		g->clock_tsc = p->lie == SHIFTED ? htrace_clock_tsc() - 12345678 : unit_random(&seed);
		__atomic_store_n(&g->clock_pong, ping, __ATOMIC_RELEASE);
	}
	return NULL;
}

/* One burst; @ret: of htrace_view_pong(). */
static int burst(enum lie lie, struct htrace_pong *pong)
{
	struct htrace_view *v;
	pthread_t thread;
	__u64 until;
	int fd, ret;

	peer = (struct guest){ .lie = lie };
	ck_assert_int_eq(htrace_region_create_local(&peer.region, NULL, SIZE, &local_opts, &fd), 0);
	htrace_region_publish(peer.region);
	ck_assert_int_eq(htrace_view_open_fd(&v, fd, true, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_ping(v), -EINVAL); /* not attached */
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_ping(v), -EOPNOTSUPP);
	ck_assert_int_eq(htrace_view_pong(v, pong), -EAGAIN);
	ck_assert_uint_eq(htrace_region_answer(peer.region, 0), 0); /* it says that it is there */
	ck_assert_int_eq(htrace_view_ping(v), 0);
	ck_assert_int_eq(htrace_view_pong(v, pong), -EAGAIN);
	ck_assert(!pthread_create(&thread, NULL, answer_all, &peer));
	until = htrace_clock_monotonic() + (lie == SILENT ? 20 * MS : 5 * SEC);
	do
		ret = htrace_view_pong(v, pong);
	while (ret == -EAGAIN && htrace_clock_monotonic() < until);
	__atomic_store_n(&peer.stop, 1, __ATOMIC_RELEASE);
	pthread_join(thread, NULL);
	if (ret != -EAGAIN) /* nobody listens in vain */
		ck_assert_uint_eq(htrace_view_host(v)->clock_ping, 0);
	htrace_view_close(v);
	htrace_region_release(peer.region);
	close(fd);
	return ret;
}

START_TEST(test_ping_pong)
{
	struct htrace_pong p;

	/* Both have the same TSC: whatever was slow, 0 lies between. */
	for (int i = 0; i < 20; i++) {
		ck_assert_int_eq(burst(HONEST, &p), 0);
		ck_assert_uint_ge(p.rounds, 1);
		ck_assert_int_le((__s64)p.low, 0);
		ck_assert_int_ge((__s64)p.high, 0);
		ck_assert_uint_ge(peer.answered, p.rounds);
	}
}
END_TEST

START_TEST(test_ping_lies)
{
	struct htrace_pong p;
	__u64 begin = htrace_clock_monotonic();

	ck_assert_int_eq(burst(SHIFTED, &p), 0);
	ck_assert_int_le((__s64)p.low, -12345678);
	ck_assert_int_ge((__s64)p.high, -12345678);
	for (int i = 0; i < 20; i++) { /* of one answer, or two, it cannot be told */
		int ret = burst(RANDOM, &p);

		ck_assert(ret == -EPROTO || p.rounds <= 3);
	}
	ck_assert_int_eq(burst(SILENT, &p), -EAGAIN);
	ck_assert_uint_lt(htrace_clock_monotonic() - begin, 20 * SEC);
}
END_TEST
#endif

/* --------------------------------------------------------------------------------------------- KVM */

static void put(const char *path, const char *text)
{
	FILE *f = fopen(path, "w");

	ck_assert_ptr_nonnull(f);
	fputs(text, f);
	fclose(f);
}

static void put_vcpu(const char *dir, const char *offset, const char *ratio, const char *bits)
{
	char path[100];

	mkdir(dir, 0755);
	snprintf(path, sizeof(path), "%s/tsc-offset", dir);
	put(path, offset);
	snprintf(path, sizeof(path), "%s/tsc-scaling-ratio", dir);
	if (ratio)
		put(path, ratio);
	snprintf(path, sizeof(path), "%s/tsc-scaling-ratio-frac-bits", dir);
	if (bits)
		put(path, bits);
}

START_TEST(test_kvm_tsc)
{
	char top[] = "/tmp/htrace-kvm-XXXXXX";
	struct kvm_tsc t;

	ck_assert_ptr_nonnull(mkdtemp(top));
	ck_assert(!chdir(top));
	ck_assert(!kvm_tsc_read(&t, 42)); /* no debugfs */
	mkdir("kvm", 0755);
	mkdir("kvm/42-11", 0755);
	mkdir("kvm/421-11", 0755); /* another process's */
	ck_assert(!kvm_tsc_read(&t, 42)); /* no virtual CPU */
	put_vcpu("kvm/42-11/vcpu0", "-1000000\n", NULL, NULL);
	ck_assert(kvm_tsc_read(&t, 42));
	ck_assert_uint_eq(kvm_tsc_host(&t, 5000000), 6000000);
	/* Twice as fast as the host's, in 48 bits behind the point; at a high TSC nothing is cut off. */
	put_vcpu("kvm/42-11/vcpu0", "-1000000\n", "562949953421312\n", "48\n");
	ck_assert(kvm_tsc_read(&t, 42));
	ck_assert_uint_eq(kvm_tsc_host(&t, 5000000), 3000000);
	ck_assert_uint_eq(kvm_tsc_host(&t, (1ULL << 62) - 1000000), 1ULL << 61);
	put_vcpu("kvm/42-11/vcpu1", "-1000000\n", "562949953421312\n", "48\n");
	ck_assert(kvm_tsc_read(&t, 42));
	put_vcpu("kvm/42-11/vcpu1", "-1000001\n", "562949953421312\n", "48\n"); /* not in step */
	ck_assert(!kvm_tsc_read(&t, 42));
	put_vcpu("kvm/42-11/vcpu1", "nonsense\n", "562949953421312\n", "48\n");
	ck_assert(!kvm_tsc_read(&t, 42));
	put_vcpu("kvm/42-11/vcpu1", "-1000000\n", "0\n", "48\n");
	ck_assert(!kvm_tsc_read(&t, 42));
	put_vcpu("kvm/42-11/vcpu1", "-1000000\n", "1\n", "64\n");
	ck_assert(!kvm_tsc_read(&t, 42));
	put_vcpu("kvm/42-11/vcpu1", "-1000000\n", "562949953421312\n", "48\n");
	ck_assert(kvm_tsc_read(&t, 42));
	mkdir("kvm/42-12", 0755); /* a second VM of the process's */
	put_vcpu("kvm/42-12/vcpu0", "-1000000\n", "562949953421312\n", "48\n");
	ck_assert(!kvm_tsc_read(&t, 42));
	ck_assert(!system("rm -r kvm"));
	ck_assert(!chdir("/") && !rmdir(top));
}
END_TEST

/* -------------------------------------------------------------------------------- lines and steps */

static int knot(struct host_clock *c, __u64 region, __u64 host, __u64 error)
{
	return host_clock_add(c, &(struct host_word){
		.kind = HOST_WORD_KNOT, .region = region, .host = host, .error = error });
}

static __u64 host_of(struct host_clock *c, __u64 region, __u64 *bound)
{
	__u64 ns = 0;

	ck_assert_int_eq(host_clock_time(c, region, &ns, bound), 0);
	return ns;
}

static __u64 apart(__u64 a, __u64 b)
{
	return a > b ? a - b : b - a;
}

/* A guest's clock that is 8 ppm fast, and 100 s behind. */
static __u64 truth(__u64 region)
{
	return region - region / 125000 + 100 * SEC;
}

START_TEST(test_line)
{
	struct host_clock c = { 0 };
	__u64 bound;

	ck_assert(!host_clock_usable(&c));
	ck_assert_int_eq(host_clock_time(&c, 1, NULL, NULL), -EAGAIN);
	for (__u64 t = 10 * SEC; t < 20 * SEC; t += 250 * MS) {
		ck_assert_int_eq(knot(&c, t, truth(t) + (t / MS) % 3 * 40, 100), 0);
		if (t < 11 * SEC)
			continue;
		ck_assert_uint_le(apart(host_of(&c, t + 250 * MS, &bound), truth(t + 250 * MS)), bound);
	}
	ck_assert_uint_lt(bound, 1000);
	host_clock_close(&c);
}
END_TEST

START_TEST(test_step)
{
	struct host_clock c = { 0 };
	struct host_word step = { .kind = HOST_WORD_STEP, .region = 15 * SEC, .host = SEC };
	__u64 bound;

	for (__u64 t = 10 * SEC; t < 15 * SEC; t += 250 * MS)
		ck_assert_int_eq(knot(&c, t, truth(t), 100), 0);
	ck_assert_int_eq(host_clock_add(&c, &step), 0);
	ck_assert_uint_le(apart(host_of(&c, 16 * SEC, NULL), truth(16 * SEC)), 2); /* until more is known */
	for (__u64 t = 13 * SEC; t < 16 * SEC; t += 250 * MS)
		ck_assert_int_eq(knot(&c, t, truth(t) + SEC, 100), 0);
	ck_assert_uint_le(apart(host_of(&c, 15 * SEC - 1, &bound), truth(15 * SEC)), bound + 1);
	ck_assert_uint_le(apart(host_of(&c, 15 * SEC, &bound), truth(15 * SEC) + SEC), bound);
	ck_assert_uint_eq(c.steps, 1);
	ck_assert_int_eq(c.step, SEC);
	/* As many as somebody likes. */
	for (int i = 0; i < 1000; i++) {
		step.region++;
		ck_assert_int_eq(host_clock_add(&c, &step), 0);
	}
	ck_assert_uint_eq(c.nr, HOST_CLOCK_SEGMENTS);
	step.region = SEC; /* back */
	ck_assert_int_eq(host_clock_add(&c, &step), -ERANGE);
	host_clock_close(&c);
}
END_TEST

START_TEST(test_words)
{
	struct host_clock c = { 0 };
	struct host_word w = { .kind = 77 };

	ck_assert_int_eq(host_clock_add(&c, &w), -ERANGE);
	ck_assert_int_eq(knot(&c, 0, SEC, 1), -ERANGE);
	ck_assert_int_eq(knot(&c, SEC, 0, 1), -ERANGE);
	ck_assert_int_eq(knot(&c, ~0ULL, SEC, 1), -ERANGE);
	ck_assert_int_eq(knot(&c, SEC, ~0ULL, 1), -ERANGE);
	ck_assert_int_eq(knot(&c, SEC, SEC, ~0ULL), -ERANGE);
	w.kind = HOST_WORD_STEP; /* of nothing */
	w.region = SEC;
	ck_assert_int_eq(host_clock_add(&c, &w), -ERANGE);
	w.kind = HOST_WORD_SAME;
	ck_assert_int_eq(host_clock_add(&c, &w), 0);
	ck_assert(host_clock_usable(&c));
	ck_assert_int_eq(knot(&c, SEC, SEC, 1), -ERANGE); /* it is both or neither */
	host_clock_close(&c);
}
END_TEST

/* Ticks may be shorter than a ns: what the first knots are off by is no less for it. */
START_TEST(test_ticks)
{
	struct host_clock c = { 0 };
	__u64 bound;

	ck_assert_int_eq(knot(&c, 30 * SEC, 10 * SEC + 400000, 500000), 0);
	ck_assert_int_eq(knot(&c, 36 * SEC, 12 * SEC - 400000, 500000), 0);
	host_of(&c, 30 * SEC, &bound);
	ck_assert_uint_ge(bound, 400000);
	host_of(&c, 36 * SEC, &bound);
	ck_assert_uint_ge(bound, 400000);
	host_clock_close(&c);
	/* Of the first one alone nothing is made, nor of one that is not behind it. */
	ck_assert_int_eq(knot(&c, 30 * SEC, 10 * SEC, 100), 0);
	ck_assert_int_eq(knot(&c, 30 * SEC, 11 * SEC, 100), -ERANGE);
	ck_assert_int_eq(knot(&c, 33 * SEC, 9 * SEC, 100), -ERANGE);
	ck_assert(!host_clock_usable(&c));
	ck_assert_int_eq(knot(&c, 33 * SEC, 11 * SEC, 100), 0);
	ck_assert(host_clock_usable(&c));
	host_clock_close(&c);
}
END_TEST

/* A bound is not claimed while a step is suspected, nor one that is less than what times were off by. */
START_TEST(test_doubt)
{
	struct region_clock c;
	struct host_word w = { .kind = HOST_WORD_DOUBT, .region = 15 * SEC, .error = SEC };

	ck_assert_int_eq(region_clock_open(&c, HTRACE_CLOCK_MONOTONIC, true), 0);
	for (__u64 t = 10 * SEC; t < 15 * SEC; t += 250 * MS)
		ck_assert_int_eq(knot(&c.host, t, truth(t), 100), 0);
	ck_assert(region_clock_begin(&c));
	region_clock_time(&c, 14 * SEC);
	ck_assert_int_eq(region_clock_learn(&c, &w), 0);
	ck_assert_uint_lt(c.bound, 1000); /* what was told lies before */
	region_clock_time(&c, 15 * SEC - 1);
	ck_assert_uint_lt(c.bound, 1000);
	region_clock_time(&c, 15 * SEC);
	ck_assert_uint_eq(c.bound, HOST_CLOCK_UNKNOWN);
	region_clock_time(&c, 14 * SEC);
	ck_assert_uint_eq(c.bound, HOST_CLOCK_UNKNOWN);
	ck_assert(!host_clock_doubts(&c.host, 15 * SEC - 1));
	ck_assert(host_clock_doubts(&c.host, 15 * SEC));
	ck_assert_uint_eq(c.host.doubts, 1);
	w = (struct host_word){ .kind = HOST_WORD_DOUBT, .region = 14 * SEC, .host = SEC / 2 };
	ck_assert_int_eq(region_clock_learn(&c, &w), 0);
	ck_assert_uint_eq(c.bound, HOST_CLOCK_UNKNOWN);
	w = (struct host_word){ .kind = HOST_WORD_KNOT, .region = 16 * SEC, .host = truth(16 * SEC), .error = 100 };
	ck_assert_int_eq(region_clock_learn(&c, &w), 0);
	ck_assert(c.bound >= SEC / 2 && c.bound < SEC / 2 + 1000);
	region_clock_time(&c, 16 * SEC);
	ck_assert(c.bound >= SEC / 2 && c.bound < SEC / 2 + 1000);
	/* One of them was shown while nothing was claimed of it. */
	ck_assert(c.times == 5 && c.within[3] == 4 && c.within[4] == 4);
	/* Of what was shown already, too. */
	w = (struct host_word){ .kind = HOST_WORD_DOUBT, .region = 15 * SEC };
	ck_assert_int_eq(region_clock_learn(&c, &w), 0);
	ck_assert_uint_eq(c.bound, HOST_CLOCK_UNKNOWN);
	w.region = 0;
	ck_assert_int_eq(region_clock_learn(&c, &w), -ERANGE);
	w = (struct host_word){ .kind = HOST_WORD_DOUBT, .region = SEC, .host = ~0ULL };
	ck_assert_int_eq(region_clock_learn(&c, &w), -ERANGE);
	region_clock_close(&c);
}
END_TEST

/* What a region's times go out as is settled with the first one. */
START_TEST(test_settled)
{
	struct region_clock c;

	ck_assert_int_eq(region_clock_open(&c, HTRACE_CLOCK_MONOTONIC, true), 0);
	ck_assert(region_clock_begin(&c));
	ck_assert(!c.on_host);
	for (__u64 t = 10 * SEC; t < 15 * SEC; t += 250 * MS)
		ck_assert_int_eq(knot(&c.host, t, truth(t), 100), 0);
	ck_assert(!region_clock_begin(&c));
	ck_assert_uint_eq(region_clock_time(&c, 12 * SEC), 12 * SEC);
	ck_assert_uint_eq(c.times, 0);
	region_clock_close(&c);
	ck_assert_int_eq(region_clock_open(&c, HTRACE_CLOCK_MONOTONIC, true), 0);
	for (__u64 t = 10 * SEC; t < 15 * SEC; t += 250 * MS)
		ck_assert_int_eq(knot(&c.host, t, truth(t), 100), 0);
	ck_assert(region_clock_begin(&c));
	ck_assert(c.on_host);
	ck_assert_uint_eq(region_clock_past(&c, 0), 0);
	ck_assert_uint_eq(c.bound, 0);
	ck_assert_uint_le(apart(region_clock_time(&c, 12 * SEC), truth(12 * SEC)), c.bound);
	region_clock_close(&c);
}
END_TEST

/* ---------------------------------------------------------------------------------- several sources */

/* Records with keys that were due at once, or are not yet. */
struct feed {
	struct order_entry e;
	const __u64 *key;
	unsigned int nr, due, at;
	char name;
};

static char out[64];

static bool feed_fill(struct order_entry *e)
{
	struct feed *f = (struct feed *)e;

	if (f->at >= f->due)
		return false;
	e->key = f->key[f->at];
	e->arrival = e->key;
	return true;
}

static void feed_emit(struct order_entry *e)
{
	struct feed *f = (struct feed *)e;

	e->have = false;
	snprintf(out + strlen(out), sizeof(out) - strlen(out), "%c%llu ", f->name,
		 (unsigned long long)f->key[f->at++]);
}

static bool feed_holds(const struct order_entry *e)
{
	const struct feed *f = (const struct feed *)e;

	return f->at < f->nr;
}

static const struct order_ops feed_ops = { feed_fill, feed_emit, feed_holds };

static const char *emit(struct feed *f, __u64 now)
{
	out[0] = 0;
	f->e.now = now;
	ck_assert(!order_emit(&f->e, UINT64_MAX));
	return out;
}

#define FEED(c, n, d, ...) \
	{ .e = { .ops = &feed_ops }, .key = (const __u64[]){ __VA_ARGS__ }, .nr = n, .due = d, .name = c }

START_TEST(test_order)
{
	struct order *o = order_new();
	struct feed a = FEED('a', 3, 2, 1, 4, 9), b = FEED('b', 3, 1, 2, 3, 5), late = FEED('c', 1, 0, 1);

	ck_assert_uint_eq(order_sharers(&a.e), 1);
	order_join(o, &a.e);
	order_join(o, &b.e);
	ck_assert_uint_eq(order_sharers(&b.e), 2);
	ck_assert_str_eq(emit(&a, 10), "a1 b2 "); /* b has something that may come before a4 */
	b.due = 3;
	ck_assert_str_eq(emit(&b, 10), "b3 a4 ");
	a.due = 3;
	ck_assert_str_eq(emit(&a, 10), "b5 a9 ");
	/* Who holds back holds up nobody for long. */
	order_join(o, &late.e);
	a = (struct feed)FEED('a', 1, 1, 7);
	a.e.order = o;
	a.e.next = NULL;
	order_leave(&b.e);
	late.e.next = &a.e;
	ck_assert_str_eq(emit(&a, 8), "");
	ck_assert_uint_eq(order_due(&a.e), 7 + 2 * MERGE_DELAY_NS);
	ck_assert_str_eq(emit(&a, 7 + 2 * MERGE_DELAY_NS), "a7 ");
	order_leave(&late.e);
	ck_assert_uint_eq(order_sharers(&a.e), 1);
	order_leave(&a.e);
	order_free(o);
}
END_TEST

/* Captures wait for each other, and for sessions to come, however long it takes. */
START_TEST(test_order_captures)
{
	struct order *o = order_new();
	struct feed a = FEED('a', 1, 1, 7), b = FEED('b', 1, 0, 6);

	a.e.patient = b.e.patient = true;
	order_await(o, true);
	order_join(o, &a.e);
	ck_assert_str_eq(emit(&a, UINT64_MAX), "");
	order_join(o, &b.e);
	order_await(o, false);
	ck_assert_str_eq(emit(&a, UINT64_MAX), "");
	b.due = 1;
	ck_assert_str_eq(emit(&a, UINT64_MAX), "b6 ");
	order_leave(&b.e);
	ck_assert_str_eq(emit(&a, UINT64_MAX), "a7 ");
	order_leave(&a.e);
	order_free(o);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("host_clock");
	TCase *c = tcase_create("host_clock");

#ifdef __x86_64__
	tcase_add_test(c, test_ping_pong);
	tcase_add_test(c, test_ping_lies);
#endif
	tcase_add_test(c, test_kvm_tsc);
	tcase_add_test(c, test_line);
	tcase_add_test(c, test_step);
	tcase_add_test(c, test_words);
	tcase_add_test(c, test_ticks);
	tcase_add_test(c, test_doubt);
	tcase_add_test(c, test_settled);
	tcase_add_test(c, test_order);
	tcase_add_test(c, test_order_captures);
	tcase_set_timeout(c, 60);
	suite_add_tcase(s, c);
	return unit_run(s);
}
