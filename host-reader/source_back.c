/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A source whose guest is set back to an earlier state (QEMU's loadvm), with the region, or may have been.
 *
 * All shared words go back then, page by page, while the guest stands still: heads of rings, the guest's
 * heartbeat, and also ours, which nobody but us writes. What goes back first is not known, and rings may lie in
 * guest RAM, which is loaded at another time than the region. So whatever does not add up is only a suspicion:
 * nothing more is read until a heartbeat has gone back, which shows it, or has risen a few times, which shows
 * that it is not so: then the ring is broken. If there is none, the guest may be loaded still, which takes as long as
 * it takes: no vCPU runs then. Once one does, or the process is gone, or rests for long, nobody loads it, and the ring
 * is broken, too.
 *
 * Where rings end before the guest runs again is where the states parted: what lies before that was read. That is
 * seen by looking often. Who comes too late for that begins with what memory holds, some of it again.
 *
 * A guest may pretend all this. It gets a session begun anew at most so often (BRIEF_NS), and its events wrong.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "source_internal.h"

#define PROVES_NOTHING 3     /* heartbeats that rise: it was not set back */
#define LATE_NS (500 * MS)   /* it may have run for so long before it was seen: then it comes again */
#define WATCHED_NS (500 * MS) /* vCPUs, until they tell whether the guest runs */
#define UNSEEN_NS (10 * SEC) /* to wait for a guest whose process is not found */

bool source_steps_back(const struct source *s)
{
	return source_has_heart(s) && source_is_machine(s) && !s->kvm && !s->boot;
}

static __u64 own_word(const struct source *s)
{
	const struct htrace_host *h = htrace_view_host(s->view);

	return h ? __atomic_load_n(&h->heartbeat, __ATOMIC_RELAXED) : s->own_beat;
}

void source_beat(struct source *s)
{
	htrace_view_beat(s->view);
	s->own_beat = own_word(s);
	s->own_beats++;
}

/* Only what we wrote in this session is sure to be ours. */
static bool own_went_back(const struct source *s)
{
	__u64 own = own_word(s);

	return own < s->own_beat && s->own_beat - own < s->own_beats;
}

bool source_went_back(struct source *s)
{
	if (!s->set_back && source_steps_back(s) && own_went_back(s) && htrace_view_current(s->view))
		s->set_back = true;
	return s->set_back;
}

void source_forget_ends(struct source *s)
{
	free(s->ends);
	s->ends = NULL;
	s->nr_ends = 0;
	s->back_id = 0;
}

/* Where its rings end is known, unless it may have run for long before that was seen. */
static void keep_ends(struct source *s)
{
	const __u64 *ends;
	unsigned int nr = live_ends(s->live, false, &ends);

	source_forget_ends(s);
	if (s->since - s->fine > LATE_NS || !nr)
		return;
	s->ends = malloc(nr * sizeof(*ends));
	if (!s->ends)
		return;
	memcpy(s->ends, ends, nr * sizeof(*ends));
	s->nr_ends = nr;
	s->back_id = s->session_id;
}

static void begin_again(struct source *s, __u64 now)
{
	unsigned long long ms = (s->since - s->fine) / MS + 1;
	char text[160];

	keep_ends(s);
	if (s->ends)
		snprintf(text, sizeof(text), "the guest was set back to an earlier state, and goes on from there; what it "
			 "recorded less than %llu ms before or behind that may be missing", ms);
	else
		snprintf(text, sizeof(text), "the guest was set back to an earlier state, and goes on from there; that was "
			 "seen late: what its memory holds comes again");
	say_within(&s->quota, "%s: %s", s->spec->path, text);
	session_mark_end(s->session, text, now);
	source_snapshot(s, "its return to an earlier state", now);
	source_await_next(s, now);
	s->done_id = 0;
}

void source_go_back(struct source *s, __u64 now)
{
	const __u64 *ends;

	s->beats_back = 0;
	s->suspected = false; /* what its vCPUs run is looked at from here on */
	live_ends(s->live, true, &ends);
	source_enter(s, SOURCE_BACK, now);
}

void source_not_back(struct source *s, __u64 now)
{
	live_give_up(s->live, now);
	source_enter(s, SOURCE_READING, now);
}

bool source_doubts(const struct source *s)
{
	return s->state == SOURCE_BACK || (s->state == SOURCE_SILENT && live_went_back(s->live));
}

/* Of a silent guest: was it looked at for long enough, so that its host can tell whether it runs? */
static bool was_watched(const struct source *s, __u64 now)
{
	if (s->vmm && vmm_gone(s->vmm))
		return true;
	if (!s->vmm || !s->vmm->nr) /* or of none of its threads is said what it runs */
		return now - s->since >= UNSEEN_NS;
	return now - s->vmm->since >= WATCHED_NS;
}

void source_back_round(struct source *s, __u64 now)
{
	enum vmm_is is;
	const __u64 *ends;
	__u64 before = s->heartbeat;
	bool rose;

	if (source_ended(s, now))
		return;
	live_ends(s->live, false, &ends);
	rose = source_heart_beat(s, now) && s->heartbeat > before;
	source_look_at_guest(s, now);
	s->beats_back += rose;
	/* It runs: all of its state was loaded. One that stays paused, or dead, is told as such in its session. */
	if (source_went_back(s)) {
		if (rose || source_is_silent(s, now))
			begin_again(s, now);
		return;
	}
	if (s->beats_back >= PROVES_NOTHING) {
		source_not_back(s, now);
		return;
	}
	if (!source_is_silent(s, now) || !was_watched(s, now))
		return;
	is = source_look_at_vmm(s, now);
	if (vmm_stands_still(is))
		source_silent_as(s, is, now);
	else
		source_not_back(s, now);
}
