// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * A silent guest of which a ring does not add up, in a world of its own: for how long it may be that an earlier state is
 * being loaded, and what is read meanwhile, and then.
 */
#include <stdarg.h>
#include <string.h>

#include "../../host-reader/source_silent.c"
#include "../../host-reader/source_back.c"

#include "unit.h"

#define STEP (100 * MS)

static struct source s;
static struct vmm vmm;
static enum vmm_is is;
static bool idles, gone, went_back;
static __u64 now;
static unsigned int reads, unverified, given_up, again;

/* ------------------------------------------------------------------------------------- the world */

bool source_has_heart(const struct source *source)
{
	return true;
}

void vmm_find(struct vmm *v, const struct htrace_view *view, int pid)
{
	ck_abort_msg("there is one");
}

void vmm_close(struct vmm *v)
{
}

void vmm_watch(struct vmm *v, __u64 at)
{
	v->since = at;
}

enum vmm_is vmm_look(const struct vmm *v, __u64 at)
{
	return gone ? VMM_GONE : v->nr ? is : VMM_UNKNOWN;
}

bool vmm_idles(const struct vmm *v, __u64 at)
{
	return idles;
}

bool vmm_gone(const struct vmm *v)
{
	return gone;
}

const char *vmm_words(enum vmm_is how)
{
	return "";
}

void live_give_up(struct live *l, __u64 at)
{
	given_up += went_back;
	went_back = false;
}

bool live_went_back(const struct live *l)
{
	return went_back;
}

unsigned int live_ends(struct live *l, bool first, const __u64 **ends)
{
	*ends = NULL;
	return 0;
}

void live_salvage(struct live *l)
{
}

bool source_read_rings(struct source *source, __u64 at, bool all, bool doubtful, struct live_pass *pass)
{
	*pass = (struct live_pass){ .drained = true, .went_back = went_back };
	reads++;
	unverified += doubtful;
	return true;
}

void source_enter(struct source *source, enum source_state state, __u64 at)
{
	source->state = state;
	source->since = at;
}

bool source_ended(struct source *source, __u64 at)
{
	return false;
}

bool source_heart_beat(struct source *source, __u64 at)
{
	return false;
}

void source_look_at_guest(struct source *source, __u64 at)
{
}

void source_await_next(struct source *source, __u64 at)
{
	again++;
}

void source_snapshot(struct source *source, const char *why, __u64 at)
{
}

void source_mark(struct source *source, __u64 at, const char *fmt, ...)
{
}

void source_say(struct source *source, __u64 at, const char *fmt, ...)
{
}

void say_within(struct say_quota *quota, const char *fmt, ...)
{
}

__u64 session_due(const struct session *session)
{
	return UINT64_MAX;
}

void session_mark_end(struct session *session, const char *text, __u64 at)
{
}

bool region_file_replaced(const struct htrace_view *view, const char *path)
{
	return false;
}

struct htrace_host *htrace_view_host(struct htrace_view *view)
{
	return NULL;
}

int htrace_view_beat(struct htrace_view *view)
{
	return 0;
}

bool htrace_view_current(const struct htrace_view *view)
{
	return true;
}

/* ----------------------------------------------------------------------------------------- tests */

/* Its heart beat just now, and a ring does not add up. */
static void setup(void)
{
	static char path[] = "vm";
	static const struct source_spec spec = { .path = path };

	now = 1000 * SEC;
	s = (struct source){ .spec = &spec, .vmm = &vmm, .heart_beat_at = now, .facts = { .nr_sets = 1 } };
	s.facts.set[0].kind = HTRACE_RING_PER_CPU;
	vmm = (struct vmm){ .pid = 1, .nr = 1 };
	is = VMM_PAUSED;
	idles = gone = false;
	went_back = true;
	reads = unverified = given_up = again = 0;
	source_go_back(&s, now);
}

static void pass(__u64 ns)
{
	struct source_round round = { 0 };

	for (__u64 end = now + ns; now < end;) {
		now += STEP;
		if (s.state == SOURCE_BACK)
			source_back_round(&s, now);
		else if (s.state == SOURCE_SILENT)
			source_silent_round(&s, now, &round);
	}
}

static void is_doubted(void)
{
	ck_assert_int_eq(s.state, SOURCE_SILENT);
	ck_assert(source_doubts(&s));
	ck_assert_uint_eq(reads + given_up, 0);
}

/* It takes as long as it takes, also if the process is stopped meanwhile, or vCPUs are asked something. */
START_TEST(test_loaded)
{
	is = _i == 1 ? VMM_STOPPED : VMM_PAUSED;
	idles = _i == 1;
	pass(100 * SEC);
	is_doubted();
	if (_i == 2) {
		is = VMM_IDLE;
		pass(SEC + STEP);
		is = VMM_PAUSED;
		pass(100 * SEC);
		is_doubted();
	}
	if (_i == 3)
		for (int i = 0; i < 100; i++) { /* rests, and goes on */
			idles = !idles;
			pass(5 * SEC);
			is_doubted();
		}
	s.set_back = true; /* it was */
	pass(STEP);
	ck_assert_int_eq(s.state, SOURCE_BACK);
	pass(STEP);
	ck_assert_uint_eq(again, 1);
}
END_TEST

/* It runs, and says nothing: what it left is read, as that of any such guest. */
START_TEST(test_runs)
{
	pass(30 * SEC);
	is_doubted();
	is = _i ? VMM_BUSY : VMM_IDLE;
	pass(STALE_NS - STEP);
	is_doubted();
	pass(3 * SEC);
	ck_assert_uint_eq(given_up, 1);
	ck_assert(!s.frozen && s.salvaged);
	ck_assert_uint_eq(reads, 1);
	ck_assert_uint_eq(unverified, 1);
}
END_TEST

/* Nobody loads: what else there is is read, as it is. */
START_TEST(test_rests)
{
	pass(30 * SEC);
	is_doubted();
	idles = true;
	pass(LOADS_NS - SEC);
	is_doubted();
	pass(3 * SEC);
	ck_assert_uint_eq(given_up, 1);
	ck_assert(s.frozen && s.salvaged);
	ck_assert_uint_eq(reads, 1);
	ck_assert_uint_eq(unverified, 0);
}
END_TEST

/* Nothing more comes, by a source that ends: what else there is is read. */
START_TEST(test_ends)
{
	pass(30 * SEC);
	is_doubted();
	ck_assert(!source_finish_silent(&s, now));
	ck_assert_uint_eq(given_up, 1);
	ck_assert_uint_eq(reads, 1);
	ck_assert_uint_eq(unverified, 0);
}
END_TEST

/* The process is not found, or nothing is known of what it runs; or it is gone. */
START_TEST(test_unseen)
{
	vmm.pid = _i == 0 ? 0 : 1;
	vmm.nr = 0;
	gone = _i == 2;
	if (_i < 2) {
		pass(UNSEEN_NS - STEP);
		ck_assert_int_eq(s.state, SOURCE_BACK);
	}
	pass(STALE_NS + 2 * STEP);
	ck_assert_int_eq(s.state, SOURCE_READING);
	ck_assert_uint_eq(given_up, 1);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("source_silent");
	TCase *c = tcase_create("all");

	tcase_add_checked_fixture(c, setup, NULL);
	tcase_add_loop_test(c, test_loaded, 0, 4);
	tcase_add_loop_test(c, test_runs, 0, 2);
	tcase_add_test(c, test_rests);
	tcase_add_test(c, test_ends);
	tcase_add_loop_test(c, test_unseen, 0, 3);
	suite_add_tcase(suite, c);
	return unit_run(suite);
}
