// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What source_clock.c claims of a guest's times, against what they are, in a world of its own: a host, a VM that is
 * paused, records in two rings, a reader that is late, and an agent that answers or does not. Whatever comes, no
 * record is further off than the session's bound says at its end, if it says one.
 */
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <htrace/clock.h>
#include <htrace/region.h>

#define READER_CLOCK_H /* time is ours */

static __u64 host_now; /* CLOCK_MONOTONIC */

static __u64 clock_now(void)
{
	return host_now;
}

static void fake_take(struct htrace_clock_sample *s);
static bool fake_same(const struct htrace_view *v);
static int fake_samples(const struct htrace_view *v, __u64 *next, struct htrace_clock_sample *sample);
static int fake_ping(struct htrace_view *v);
static int fake_pong(struct htrace_view *v, struct htrace_pong *p);
static void fake_guest(const struct htrace_view *v, struct htrace_guest *copy, bool arrays);
static bool fake_current(const struct htrace_view *v);
struct kvm_tsc;
static bool fake_kvm(struct kvm_tsc *t, int pid);

#define htrace_clock_take fake_take
#define htrace_view_same_boot fake_same
#define htrace_view_clock_samples fake_samples
#define htrace_view_ping fake_ping
#define htrace_view_pong fake_pong
#define htrace_view_guest fake_guest
#define htrace_view_current fake_current
#define session_host_clock fake_words
#define session_latest fake_latest
#define session_awaited fake_awaited
#define say_within fake_say
#define kvm_tsc_read fake_kvm

#include "../../host-reader/source_clock.c"

#include "region_clock.h"
#include "unit.h"

#define TICKS 3 /* a ns, of all TSCs */
#define OFFSET 1000000007ULL
#define PAUSES 8
#define RECORDS 200000
#define RINGS 2
#define BEAT (250 * MS)

struct pause {
	__u64 at, len;
};

struct record {
	__u64 time, host, arrival; /* the guest's clock, and when that was */
	bool out;
};

/* How it goes. */
struct plan {
	struct pause pause[PAUSES];
	unsigned int nr_pauses;
	__u64 deaf, hears;  /* no answers between */
	__u64 end;
	unsigned int good;  /* answers of 100 that say much */
	unsigned int stall; /* rounds of 1000 that come late */
	__u64 stall_ns;     /* by that at most */
	__u32 clock_id;
	bool kvm; /* tells the offset */
	__u64 relay; /* ns that the guest runs between two copies of the agent's; 0: the rings themselves are read */
	__u64 lose;  /* the question that is open then is gone; 0: never */
	unsigned long long seed;
};

static struct world {
	const struct plan *plan;
	unsigned long long seed;
	struct htrace_clock_sample sample[HTRACE_CLOCK_SAMPLES];
	__u64 nr_samples, next_beat; /* guest's time that it runs */
	__u64 asked_at, answer_at;   /* 0: not */
	bool lost;
	struct record record[RECORDS];
	unsigned int nr, first_held;
	__u64 next_record[RINGS], last[RINGS], empty[RINGS];
	struct region_clock clock;
	__u64 worst;
	unsigned int out, unknown;
	__u64 usable; /* since when times could be told */
	bool claims;  /* the bound has to hold */
	__u64 steps, doubts;
} world;

static __u64 some(__u64 n)
{
	return unit_random(&world.seed) % n;
}

/* ------------------------------------------------------------------------------------------ truth */

static __u64 ran(__u64 host)
{
	__u64 paused = 0;

	for (unsigned int i = 0; i < world.plan->nr_pauses; i++) {
		const struct pause *p = &world.plan->pause[i];

		if (host > p->at)
			paused += host - p->at < p->len ? host - p->at : p->len;
	}
	return host - paused;
}

static bool runs(__u64 host)
{
	for (unsigned int i = 0; i < world.plan->nr_pauses; i++)
		if (host >= world.plan->pause[i].at && host < world.plan->pause[i].at + world.plan->pause[i].len)
			return false;
	return true;
}

/* When the guest has run for so long, the pauses before it included. */
static __u64 host_when(__u64 guest)
{
	__u64 host = guest;

	for (unsigned int i = 0; i < world.plan->nr_pauses; i++)
		if (host > world.plan->pause[i].at)
			host += world.plan->pause[i].len;
	return host;
}

static __u64 host_tsc(__u64 host)
{
	return host * TICKS + 12345;
}

static __u64 guest_tsc(__u64 guest)
{
	return guest * TICKS + OFFSET;
}

/* Its own clock is 8 ppm slow. */
static __u64 guest_clock(__u64 guest)
{
	return world.plan->clock_id == HTRACE_CLOCK_TSC ? guest_tsc(guest) : guest - guest / 125000 + 77;
}

/* ---------------------------------------------------------------------------------------- the VM */

static void beat(__u64 guest)
{
	struct htrace_clock_sample *s = &world.sample[world.nr_samples++ % HTRACE_CLOCK_SAMPLES];
	__u64 host = host_when(guest);

	*s = (struct htrace_clock_sample){ .tsc = guest_tsc(guest), .mono = guest - guest / 125000 + 77, .width = 60 };
	if (world.asked_at && !world.answer_at && (host < world.plan->deaf || host >= world.plan->hears))
		world.answer_at = host;
}

static void beat_until(__u64 host)
{
	for (; host_when(world.next_beat) <= host; world.next_beat += BEAT)
		beat(world.next_beat);
}

static void fake_take(struct htrace_clock_sample *s)
{
	*s = (struct htrace_clock_sample){ .tsc = host_tsc(host_now), .mono = host_now, .width = 60 };
}

static bool fake_same(const struct htrace_view *v)
{
	return false;
}

static bool fake_kvm(struct kvm_tsc *t, int pid)
{
	*t = (struct kvm_tsc){ .known = true, .offset = guest_tsc(ran(host_now)) - host_tsc(host_now), .ratio = 1 };
	return true;
}

static bool fake_current(const struct htrace_view *v)
{
	return true;
}

static void fake_guest(const struct htrace_view *v, struct htrace_guest *copy, bool arrays)
{
	memset(copy, 0, sizeof(*copy));
	copy->state = HTRACE_GUEST_RUNNING;
	copy->clock_pong = 1;
}

static int fake_samples(const struct htrace_view *v, __u64 *next, struct htrace_clock_sample *sample)
{
	int nr = 0;

	beat_until(host_now);
	if (world.nr_samples - *next > HTRACE_CLOCK_SAMPLES - 1)
		*next = world.nr_samples - (HTRACE_CLOCK_SAMPLES - 1);
	while (*next < world.nr_samples)
		sample[nr++] = world.sample[(*next)++ % HTRACE_CLOCK_SAMPLES];
	return nr;
}

static int fake_ping(struct htrace_view *v)
{
	beat_until(host_now);
	world.asked_at = host_now;
	world.answer_at = 0;
	return 0;
}

/* A guest that listens still answers many times; else there is one answer, which was there for a while. */
static int fake_pong(struct htrace_view *v, struct htrace_pong *p)
{
	__u64 then;

	beat_until(host_now);
	if (world.plan->lose && !world.lost && host_now > world.plan->lose) {
		world.lost = true;
		world.asked_at = world.answer_at = 0;
	}
	if (!world.answer_at)
		return -EAGAIN;
	then = guest_tsc(ran(world.answer_at));
	*p = (struct htrace_pong){ .rounds = 1, .low = then - host_tsc(host_now),
				   .high = then - host_tsc(world.asked_at), .tsc = host_tsc(host_now) };
	if (some(100) < world.plan->good && host_now - world.answer_at < 30 * MS && runs(host_now)) {
		__u64 offset = guest_tsc(ran(host_now)) - host_tsc(host_now);

		*p = (struct htrace_pong){ .rounds = 32, .low = offset - 50 - some(300), .high = offset + 50 + some(300),
					   .tsc = host_tsc(host_now) };
	}
	world.asked_at = world.answer_at = 0;
	return some(50) ? 0 : -EPROTO;
}

/* ------------------------------------------------------------------------------------- the session */

void fake_words(struct session *s, const struct host_word *words, __u32 nr, __u64 now)
{
	for (__u32 i = 0; i < nr; i++)
		ck_assert_int_eq(region_clock_learn(&world.clock, &words[i]), 0);
}

__u64 fake_latest(const struct session *s)
{
	return world.last[0] > world.last[1] ? world.last[0] : world.last[1];
}

void fake_awaited(struct session *s, __u64 until)
{
}

void fake_say(struct say_quota *q, const char *fmt, ...)
{
}

static void emit_until(__u64 now)
{
	for (unsigned int i = world.first_held; i < world.nr; i++) {
		struct record *r = &world.record[i];
		__u64 ns, off;

		if (r->out || r->arrival + MERGE_DELAY_NS > now)
			continue;
		region_clock_begin(&world.clock);
		ns = region_clock_time(&world.clock, r->time);
		off = ns > r->host ? ns - r->host : r->host - ns;
		world.worst = off > world.worst ? off : world.worst;
		world.unknown += world.clock.bound == HOST_CLOCK_UNKNOWN;
		world.out++;
		r->out = true;
	}
	while (world.first_held < world.nr && world.record[world.first_held].out)
		world.first_held++;
}

/* -------------------------------------------------------------------------------------- the reader */

/* Host time from which on a record of the guest's time @guest can be read. */
static __u64 visible(__u64 guest)
{
	__u64 relay = world.plan->relay;

	return host_when(relay ? guest / relay * relay + relay : guest) + 1000;
}

static void read_ring(struct source *s, unsigned int ring, __u64 now)
{
	__u64 looked = host_now;
	bool any = false;

	for (; visible(world.next_record[ring]) <= looked; world.next_record[ring] += 20000 + some(6 * MS)) {
		__u64 guest = world.next_record[ring], time = guest_clock(guest);

		if (!any)
			source_clock_check(&s->clock, time, world.empty[ring], world.plan->relay != 0, fake_latest(NULL), now);
		any = true;
		ck_assert_uint_lt(world.nr, RECORDS);
		world.record[world.nr++] = (struct record){ .time = time, .host = host_when(guest), .arrival = now };
		world.last[ring] = time;
	}
	world.empty[ring] = looked;
}

static void pass_time(void)
{
	host_now += some(1000) < world.plan->stall ? some(world.plan->stall_ns) : some(300000);
}

/* Do all pauses lie between the first answers and the last one? Of others nothing can be known. */
static bool is_between(const struct plan *plan, __u64 first, __u64 last)
{
	for (unsigned int i = 0; i < plan->nr_pauses; i++)
		if (plan->pause[i].at < first || plan->pause[i].at + plan->pause[i].len > last)
			return false;
	return first && last;
}

static void run(const struct plan *plan)
{
	static struct source source;
	static const struct source_config config = { .host_clock = true };
	static char path[] = "a guest";
	static const struct source_spec spec = { .path = path };
	struct source *s = &source;
	__u64 now;

	memset(&world, 0, sizeof(world));
	memset(s, 0, sizeof(*s));
	world.plan = plan;
	world.seed = plan->seed;
	host_now = 1000 * SEC;
	world.next_beat = world.next_record[0] = world.next_record[1] = host_now;
	s->config = &config;
	s->spec = &spec;
	s->local = true; /* what KVM knows is not asked */
	s->session = (void *)&world;
	s->view = (void *)&world;
	s->state = SOURCE_READING;
	s->stats.sessions = 1;
	s->guest.heartbeat_ms = BEAT / MS;
	s->facts.clock_id = plan->clock_id;
	ck_assert_int_eq(region_clock_open(&world.clock, plan->clock_id, true), 0);
	source_clock_begin(s, host_now);
	if (plan->kvm)
		fake_kvm(&s->clock.kvm, 1);
	while (host_now < plan->end) {
		now = host_now;
		for (unsigned int i = 0; i < RINGS; i++) {
			read_ring(s, i, now);
			pass_time();
		}
		source_clock_look(s, now);
		if (!world.usable && host_clock_usable(&s->clock.model))
			world.usable = host_now;
		emit_until(source_clock_emit(s, now));
		pass_time();
	}
	source_clock_settle(s, host_now);
	emit_until(UINT64_MAX);
	ck_assert_uint_gt(world.out, 100);
	ck_assert_uint_eq(world.out, world.nr);
	world.claims = world.clock.on_host && is_between(plan, world.usable, s->clock.sure.host);
	ck_assert_msg(!world.claims || world.clock.bound >= world.worst, "seed %llu: off by %llu ns, bound %llu ns", plan->seed,
		      (unsigned long long)world.worst, (unsigned long long)world.clock.bound);
	world.steps = world.clock.host.steps;
	world.doubts = world.clock.host.doubts;
	source_clock_end(s);
	region_clock_close(&world.clock);
}

#define AT(sec) ((1000 + (sec)) * SEC)

static struct plan quiet(void)
{
	return (struct plan){ .end = AT(20), .good = 100, .clock_id = HTRACE_CLOCK_MONOTONIC, .seed = 5 };
}

START_TEST(test_quiet)
{
	struct plan p = quiet();

	for (p.seed = 0; p.seed < unit_some(20); p.seed++) {
		p.clock_id = p.seed % 2 ? HTRACE_CLOCK_TSC : HTRACE_CLOCK_MONOTONIC;
		run(&p);
		ck_assert(world.claims);
		ck_assert_uint_lt(world.clock.bound, 2000);
		ck_assert_uint_eq(world.steps, 0);
		ck_assert_uint_eq(world.unknown, 0);
	}
}
END_TEST

/*
 * It is told before anything that came behind it goes out: nothing is off. But it might have been two, and that is
 * excluded by when the reader looked only.
 */
START_TEST(test_pause)
{
	struct plan p = quiet();

	p.pause[0] = (struct pause){ AT(10), 400 * MS };
	p.nr_pauses = 1;
	for (p.seed = 0; p.seed < unit_some(20); p.seed++) {
		p.clock_id = p.seed % 2 ? HTRACE_CLOCK_TSC : HTRACE_CLOCK_MONOTONIC;
		run(&p);
		ck_assert(world.claims);
		ck_assert_uint_lt(world.worst, 2000);
		ck_assert_uint_lt(world.clock.bound, 2 * MS);
		ck_assert_uint_eq(world.steps, 1);
		ck_assert_uint_eq(world.doubts, 0);
	}
}
END_TEST

/* As when its state is loaded: the offset that KVM tells is another one from there on. */
START_TEST(test_kvm)
{
	struct plan p = quiet();

	p.kvm = true;
	p.deaf = AT(0); /* nobody answers */
	p.hears = AT(100);
	p.pause[0] = (struct pause){ AT(10), 400 * MS };
	p.nr_pauses = 1;
	for (p.seed = 0; p.seed < unit_some(20); p.seed++) {
		p.clock_id = p.seed % 2 ? HTRACE_CLOCK_TSC : HTRACE_CLOCK_MONOTONIC;
		run(&p);
		ck_assert(world.claims);
		ck_assert_uint_lt(world.worst, 2000);
		ck_assert_uint_lt(world.clock.bound, 2 * MS);
		ck_assert_uint_eq(world.steps, 1);
	}
}
END_TEST

/* Held for 5 s, it goes out without a claim; once the guest has answered, by what it was off is known. */
START_TEST(test_deaf)
{
	struct plan p = quiet();

	p.pause[0] = (struct pause){ AT(10), 400 * MS };
	p.nr_pauses = 1;
	p.deaf = AT(9);
	p.hears = AT(18);
	run(&p);
	ck_assert(world.claims);
	ck_assert_uint_eq(world.doubts, 1);
	ck_assert_uint_gt(world.unknown, 100);
	ck_assert_uint_gt(world.worst, 399 * MS);
	ck_assert_uint_lt(world.clock.bound, 410 * MS);
	ck_assert_uint_eq(world.steps, 1);
	p.hears = AT(100); /* or never */
	run(&p);
	ck_assert_uint_gt(world.worst, 399 * MS);
	ck_assert_uint_eq(world.clock.bound, HOST_CLOCK_UNKNOWN);
	p.end = AT(12); /* while it is held */
	run(&p);
	ck_assert_uint_gt(world.worst, 399 * MS);
	ck_assert_uint_eq(world.clock.bound, HOST_CLOCK_UNKNOWN);
}
END_TEST

/* Shorter than what can be told from being late: told with the next answer, and by how much it was off before. */
START_TEST(test_short)
{
	struct plan p = quiet();

	p.pause[0] = (struct pause){ AT(10), 0 };
	p.nr_pauses = 1;
	for (p.pause[0].len = 2000; p.pause[0].len < 20 * MS; p.pause[0].len *= 3) {
		run(&p);
		ck_assert(world.claims);
		ck_assert_uint_gt(world.worst, p.pause[0].len / 2);
		ck_assert_uint_lt(world.clock.bound, 2 * p.pause[0].len + 20000);
	}
}
END_TEST

/* What a guest relays may have waited while it was paused: of that it is not known on which side of the pause it lies. */
START_TEST(test_relay)
{
	struct plan p = quiet();
	unsigned int off = 0;

	p.relay = 10 * MS;
	p.pause[0] = (struct pause){ AT(10) + 5 * MS, 400 * MS };
	p.nr_pauses = 1;
	for (p.seed = 0; p.seed < unit_some(20); p.seed++) {
		run(&p);
		ck_assert(world.claims);
		ck_assert_uint_eq(world.steps, 1);
		ck_assert_uint_lt(world.clock.bound, 410 * MS);
		off += world.worst > 399 * MS;
	}
	ck_assert_uint_gt(2 * off, unit_some(20));
}
END_TEST

/* Between two answers: what was read before both, between them and behind them is as far off as is claimed. */
START_TEST(test_two_pauses)
{
	struct plan p = quiet();

	p.nr_pauses = 2;
	p.pause[0] = (struct pause){ AT(10) + 300 * MS, 300 * MS };
	for (p.seed = 0; p.seed < 200; p.seed += unit_share()) {
		p.pause[1] = (struct pause){ p.pause[0].at + p.pause[0].len + 1 + p.seed * 50000, 1 + p.seed % 7 * 800000 };
		run(&p);
		ck_assert(world.claims);
		ck_assert_uint_eq(world.steps, 1);
		ck_assert_uint_lt(world.clock.bound, 8 * MS);
	}
}
END_TEST

/* As by a migration, which puts back what the host had written in the region: it is asked again. */
START_TEST(test_lost)
{
	struct plan p = quiet();

	p.lose = AT(8);
	p.pause[0] = (struct pause){ AT(15), 400 * MS };
	p.nr_pauses = 1;
	run(&p);
	ck_assert(world.lost && world.claims);
	ck_assert_uint_eq(world.steps, 1);
	ck_assert_uint_eq(world.doubts, 0);
	ck_assert_uint_lt(world.clock.bound, 2 * MS);
}
END_TEST

/* What a guest says of when it was is no more than what numbers can be. */
START_TEST(test_mad_time)
{
	struct source_clock c = { .used = true };
	struct host_word w = { .kind = HOST_WORD_KNOT, .region = SEC, .host = 900 * SEC, .error = 100 };

	ck_assert_int_eq(host_clock_add(&c.model, &w), 0);
	w.region += SEC;
	w.host += SEC;
	ck_assert_int_eq(host_clock_add(&c.model, &w), 0);
	host_now = w.host + SEC;
	note_latest(&c, w.region + SEC / 2);
	ck_assert_uint_ge(c.lag, SEC / 2);
	ck_assert_uint_lt(c.lag, SEC / 2 + SEC / 100);
	note_latest(&c, 1ULL << 63);
	ck_assert_uint_eq(c.lag, UNKNOWN);
	host_clock_close(&c.model);
}
END_TEST

/* Anything. */
static struct plan any_plan(unsigned long long seed)
{
	unsigned long long r = seed;
	struct plan p = {
		.seed = seed, .end = AT(40), .clock_id = seed % 2 ? HTRACE_CLOCK_TSC : HTRACE_CLOCK_MONOTONIC,
	};

	p.good = 10 + unit_random(&r) % 91;
	p.stall = unit_random(&r) % 4 ? unit_random(&r) % 20 : 0;
	p.stall_ns = 1 + unit_random(&r) % (700 * MS);
	p.nr_pauses = unit_random(&r) % 4;
	for (unsigned int i = 0; i < p.nr_pauses; i++)
		p.pause[i] = (struct pause){ AT(6 + 8 * i) + unit_random(&r) % (6 * SEC),
					     unit_random(&r) % (unit_random(&r) % 2 ? SEC : 30 * MS) };
	if (unit_random(&r) % 3 == 0) {
		p.deaf = AT(6) + unit_random(&r) % (20 * SEC);
		p.hears = p.deaf + unit_random(&r) % (10 * SEC);
	}
	if (p.nr_pauses > 1 && unit_random(&r) % 3 == 0) /* soon behind the other */
		p.pause[1].at = p.pause[0].at + p.pause[0].len + 1 + unit_random(&r) % SEC;
	p.relay = unit_random(&r) % 4 ? 0 : 1 + unit_random(&r) % (16 * MS);
	p.lose = unit_random(&r) % 4 ? 0 : AT(6) + unit_random(&r) % (20 * SEC);
	return p;
}

START_TEST(test_any)
{
	unsigned int claims = 0, known = 0, steps = 0, doubts = 0;
	unsigned int nr = unit_some(200);

	for (unsigned long long seed = 0; seed < nr; seed++) {
		struct plan p = any_plan(seed);

		run(&p);
		claims += world.claims;
		known += world.claims && world.clock.bound < SEC;
		steps += world.steps;
		doubts += world.doubts;
	}
	ck_assert_uint_gt(claims, nr * 3 / 4);
	ck_assert_uint_gt(known, nr * 5 / 8);
	ck_assert_uint_gt(steps, nr / 2);
	ck_assert_uint_gt(doubts, nr / 40);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("source_clock");
	TCase *c = tcase_create("source_clock");

	tcase_add_test(c, test_quiet);
	tcase_add_test(c, test_pause);
	tcase_add_test(c, test_kvm);
	tcase_add_test(c, test_deaf);
	tcase_add_test(c, test_short);
	tcase_add_test(c, test_relay);
	tcase_add_test(c, test_two_pauses);
	tcase_add_test(c, test_lost);
	tcase_add_test(c, test_mad_time);
	tcase_add_test(c, test_any);
	tcase_set_timeout(c, 120);
	suite_add_tcase(s, c);
	return unit_run(s);
}
