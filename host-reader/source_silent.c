/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A source whose guest gives no sign of life: why, as far as its host can tell, and what it left.
 *
 * The memory of a guest that is paused is as it should be, and so is what one left whose process ended
 * while its heart was beating. Else the guest may have restarted, and use its memory for other things:
 * what is read then is marked as unverified.
 */
#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>

#include "message.h"
#include "region_file.h"
#include "source_internal.h"

#define STALE_NS (2 * SEC)       /* no heartbeat for so long, or for so many of its periods: */
#define STALE_BEATS 8
#define BEAT_MS_DEFAULT 250
#define BEAT_MS_MAX 5000
#define LOADS_NS (10 * SEC)      /* who loads a guest's state does not rest for so long */

static __u64 stale_after(const struct source *s)
{
	__u64 ms = s->guest.heartbeat_ms;

	if (!ms)
		ms = BEAT_MS_DEFAULT;
	if (ms > BEAT_MS_MAX)
		ms = BEAT_MS_MAX;
	return ms * STALE_BEATS * MS > STALE_NS ? ms * STALE_BEATS * MS : STALE_NS;
}

/* ------------------------------------------------------------------------------- who runs the guest */

bool source_is_machine(const struct source *s)
{
	for (__u32 i = 0; i < s->facts.nr_sets; i++)
		if (s->facts.set[i].kind == HTRACE_RING_PER_CPU)
			return true;
	return false;
}

/* Without a heart nobody could tell that it lives on: as of the kvm source, which is no guest. */
static void find_vmm(struct source *s)
{
	if (s->vmm || !source_is_machine(s) || !source_has_heart(s) || (s->stream && !s->spec->pid))
		return;
	s->vmm = malloc(sizeof(*s->vmm));
	if (s->vmm)
		vmm_find(s->vmm, s->view, s->spec->pid);
}

void source_forget_vmm(struct source *s)
{
	if (s->vmm)
		vmm_close(s->vmm);
	free(s->vmm);
	s->vmm = NULL;
	s->suspected = false;
}

/* It is a look through /proc: not for each of many sessions that are soon over. */
void source_watch_vmm(struct source *s, __u64 now)
{
	if (now - s->attached < SEC)
		return;
	find_vmm(s);
	if (s->vmm && vmm_gone(s->vmm) && (s->state == SOURCE_READING || s->state == SOURCE_LISTENING))
		source_go_silent(s, now);
}

bool source_is_silent(struct source *s, __u64 now)
{
	__u64 silent = now - s->heart_beat_at, stale = stale_after(s);

	if (silent < stale / 2) {
		s->suspected = false;
	} else if (!s->suspected) { /* what its threads do from here on tells */
		s->suspected = true;
		find_vmm(s);
		if (s->vmm)
			vmm_watch(s->vmm, now);
	}
	return silent > stale;
}

/* ------------------------------------------------------------------------------------ what it left */

enum vmm_is source_look_at_vmm(const struct source *s, __u64 now)
{
	return s->vmm ? vmm_look(s->vmm, now) : VMM_UNKNOWN;
}

void source_go_silent(struct source *s, __u64 now)
{
	source_silent_as(s, source_look_at_vmm(s, now), now);
}

void source_silent_as(struct source *s, enum vmm_is is, __u64 now)
{
	source_mark(s, now, "guest silent for %.1f s: %s", (double)(now - s->heart_beat_at) / 1e9,
		    vmm_words(is));
	s->frozen = vmm_stands_still(is);
	s->sure = s->frozen || s->stream || (is == VMM_GONE && s->state == SOURCE_READING);
	s->salvaged = s->buried = s->recorded = false;
	s->salvaged_events = 0;
	s->still_at = s->loads_at = now;
	source_enter(s, SOURCE_SILENT, now);
}

bool source_silence_recorded(const struct source *s)
{
	return s->state == SOURCE_SILENT && s->recorded;
}

bool source_rests(const struct source *s)
{
	return s->state == SOURCE_SILENT && s->salvaged && s->session && session_due(s->session) == UINT64_MAX;
}

/* It will not come back: what it did not finish is told as far as it can be. */
static void bury(struct source *s)
{
	live_salvage(s->live);
	s->buried = true;
	s->salvaged = false;
}

/* Returns whether there may be more. */
static bool salvage(struct source *s, __u64 now, struct source_round *round)
{
	struct live_pass pass;

	if (s->frozen && source_doubts(s)) /* what is in the other rings may be of two times */
		return false;
	if (!source_read_rings(s, now, true, !s->sure, &pass))
		return false;
	round->events += pass.events;
	round->more |= !pass.drained;
	if (pass.went_back && !s->frozen) /* nobody loads anything into it */
		live_give_up(s->live, now);
	s->salvaged_events += pass.events;
	s->guest_came |= pass.events != 0;
	s->salvaged = pass.drained;
	if (!s->salvaged)
		return true;
	if (!s->frozen && (!s->recorded || s->salvaged_events)) {
		source_snapshot(s, s->buried ? "the guest's death" : "the guest's silence", now);
		s->recorded = true;
	}
	if (s->salvaged_events)
		source_say(s, now, "%" PRIu64 " events of the silent guest were read%s",
			   (uint64_t)s->salvaged_events, s->sure ? "" : ", and marked unverified");
	s->salvaged_events = 0;
	return false;
}

/*
 * Whose process is gone, and whose heart beats all the same, is run by another one: its memory was handed
 * over. Rings that were read to their end as a dead guest's are begun again, as another session.
 */
static void is_back(struct source *s, __u64 now)
{
	bool again = s->buried;

	source_mark(s, now, "the guest is back, after %.1f s%s%s", (double)(now - s->since) / 1e9,
		    s->frozen ? " in which it was paused" : "",
		    again ? "; what its memory holds comes again" : "");
	s->guest_came = true;
	s->suspected = false;
	if (s->vmm && vmm_gone(s->vmm))
		source_forget_vmm(s);
	if (!again) {
		source_enter(s, SOURCE_READING, now);
		return;
	}
	source_snapshot(s, "its return", now);
	source_await_next(s, now);
	s->done_id = 0;
}

/*
 * It may be that an earlier state is being loaded. None is if it runs, for so long that its heart would have beaten,
 * nor if hardly anything of its process does.
 */
static void look_whether_loaded(struct source *s, __u64 now)
{
	enum vmm_is is;

	if (!s->frozen || !source_doubts(s)) {
		s->still_at = s->loads_at = now;
		return;
	}
	if (!s->vmm || now - s->vmm->since < SEC)
		return;
	is = vmm_look(s->vmm, now);
	if (vmm_stands_still(is))
		s->still_at = now;
	if (is != VMM_PAUSED || !vmm_idles(s->vmm, now))
		s->loads_at = now;
	vmm_watch(s->vmm, now);
	if (now - s->still_at > stale_after(s)) {
		live_give_up(s->live, now);
		source_silent_as(s, is, now);
	} else if (now - s->loads_at > LOADS_NS) {
		live_give_up(s->live, now);
		s->salvaged = false; /* what else there is can be read */
	}
}

void source_silent_round(struct source *s, __u64 now, struct source_round *round)
{
	if (source_ended(s, now))
		return;
	if (source_heart_beat(s, now) && !source_went_back(s)) {
		is_back(s, now);
		return;
	}
	if (source_went_back(s)) {
		source_go_back(s, now);
		return;
	}
	s->fine = now;
	if ((s->salvaged || source_doubts(s)) && !s->buried && s->vmm && vmm_gone(s->vmm)) {
		if (s->frozen)
			source_mark(s, now, "%s", vmm_words(VMM_GONE));
		s->frozen = false;
		bury(s);
	}
	look_whether_loaded(s, now);
	if (!s->salvaged)
		salvage(s, now, round);
	else if (now >= s->next_house && region_file_replaced(s->view, s->spec->path))
		source_await_next(s, now);
}

bool source_finish_silent(struct source *s, __u64 now)
{
	struct source_round round = { 0 };

	live_give_up(s->live, now); /* nobody waits any longer until it is known whether it was set back */
	if (s->salvaged && (s->buried || s->frozen))
		return false;
	if (s->salvaged)
		bury(s);
	return salvage(s, now, &round) || (!s->buried && !s->frozen);
}
