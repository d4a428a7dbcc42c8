/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <string.h>

#include "host.h"
#include "message.h"
#include "region_file.h"
#include "source_internal.h"

#define HOUSE_NS (200 * MS)      /* housekeeping: our heartbeat, the guest's header, names */
#define NAMES_NS SEC
#define STALE_NS (2 * SEC)       /* no heartbeat for so long, or for so many of its periods: */
#define STALE_BEATS 8
#define BEAT_MS_DEFAULT 250
#define BEAT_MS_MAX 5000
#define AWAY_NS (500 * MS)       /* after such a pause of ours we wait for the next heartbeat */
#define FINISH_PASS 65536        /* at the end: bytes of a ring per pass, at least */
#define STUCK_NS (500 * MS)      /* what is uncommitted for so long at the end stays so */

void source_enter(struct source *s, enum source_state state, __u64 now)
{
	s->state = state;
	s->since = now;
	s->next_try = 0;
}

/* -------------------------------------------------------------------------------------- reading */

static __u64 stale_after(const struct source *s)
{
	__u64 ms = s->guest.heartbeat_ms;

	if (!ms)
		ms = BEAT_MS_DEFAULT;
	if (ms > BEAT_MS_MAX)
		ms = BEAT_MS_MAX;
	return ms * STALE_BEATS * MS > STALE_NS ? ms * STALE_BEATS * MS : STALE_NS;
}

/* Did the guest's heart beat since the last look? */
static bool heart_beat(struct source *s, __u64 now)
{
	__u64 beat = htrace_view_heartbeat(s->view);

	if (beat == s->heartbeat)
		return false;
	s->heartbeat = beat;
	s->heart_beat_at = now;
	return true;
}

static void go_silent(struct source *s, __u64 now)
{
	say("%s: guest silent for %.1f s: paused, crashed or agent killed", s->spec->path,
	    (double)(now - s->heart_beat_at) / 1e9);
	s->salvaged = false;
	s->salvaged_events = 0;
	source_enter(s, SOURCE_SILENT, now);
}

/* Is there an end to the session? Then it was dealt with. */
static bool ended(struct source *s, __u64 now)
{
	if (!htrace_view_current(s->view)) {
		source_await_next(s, now);
		return true;
	}
	if (htrace_view_state(s->view) == HTRACE_GUEST_CLOSED) {
		say("%s: the guest ended the session; waiting for a new one", s->spec->path);
		s->said_waiting = true;
		source_await_next(s, now);
		return true;
	}
	return false;
}

static void listen_round(struct source *s, __u64 now)
{
	if (ended(s, now))
		return;
	if (heart_beat(s, now)) {
		s->guest_came = true;
		source_enter(s, SOURCE_READING, now);
	} else if (now - s->heart_beat_at > stale_after(s)) {
		go_silent(s, now);
	}
}

/* Read, and take care of what can go wrong. False: the source is in another state now. */
static bool read_rings(struct source *s, __u64 now, bool unverified, struct session_pass *pass)
{
	int ret = session_read(s->session, now, unverified, pass);

	if (htrace_view_shrunk(s->view)) {
		source_fail(s, HTRACE_REASON_NONE, "the file was truncated while it was read", now);
		return false;
	}
	if (ret == -ESTALE) {
		say("%s: the guest took back the memory of its rings", s->spec->path);
		source_await_next(s, now);
		return false;
	}
	if (ret) {
		source_fail(s, HTRACE_REASON_NONE, strerror(-ret), now);
		return false;
	}
	s->lost_names |= pass->lost;
	return true;
}

static void salvage(struct source *s, __u64 now, struct source_round *round)
{
	struct session_pass pass;

	if (!read_rings(s, now, true, &pass))
		return;
	round->events += pass.events;
	round->more |= !pass.drained;
	s->salvaged_events += pass.events;
	s->guest_came |= pass.events != 0;
	s->salvaged = pass.drained;
	if (s->salvaged && s->salvaged_events)
		say("%s: %" PRIu64 " events of the silent guest were read, and marked unverified",
		    s->spec->path, (uint64_t)s->salvaged_events);
}

static void silent_round(struct source *s, __u64 now, struct source_round *round)
{
	if (ended(s, now))
		return;
	if (heart_beat(s, now)) {
		say("%s: the guest is back", s->spec->path);
		s->guest_came = true;
		source_enter(s, SOURCE_READING, now);
		return;
	}
	if (!s->salvaged)
		salvage(s, now, round);
	else if (now >= s->next_house && region_file_replaced(s->view, s->spec->path))
		source_await_next(s, now);
}

/* A session that closes is waited for until all that was committed is read. */
static void drain(struct source *s, __u64 now, const struct session_pass *pass)
{
	if (pass->events || pass->backlog != s->progress_backlog || !s->closing) {
		s->closing = true;
		s->progress_at = now;
		s->progress_backlog = pass->backlog;
	}
	if (s->drained || !pass->drained || (pass->backlog && now - s->progress_at < STUCK_NS))
		return;
	s->drained = true;
	host_drained(s->view, s->session_id);
}

static void read_round(struct source *s, __u64 now, struct source_round *round)
{
	struct session_pass pass;
	bool closing;

	if (ended(s, now))
		return;
	if (!heart_beat(s, now) && source_has_heart(s) && now - s->heart_beat_at > stale_after(s)) {
		go_silent(s, now);
		return;
	}
	/* Before the rings: what was committed when it closed is found in them then. */
	closing = htrace_view_state(s->view) == HTRACE_GUEST_CLOSING;
	if (!closing)
		s->closing = s->drained = false;
	else if (s->drained) /* its memory may be taken back at any time */
		return;
	if (!read_rings(s, now, false, &pass))
		return;
	round->events += pass.events;
	round->backlog += pass.backlog;
	round->more |= pass.more;
	if (closing)
		drain(s, now, &pass);
}

/* --------------------------------------------------------------------------------- housekeeping */

static void look_at_guest(struct source *s)
{
	struct htrace_guest fresh;

	htrace_view_guest(s->view, &fresh, true);
	if (!htrace_view_current(s->view))
		return;
	source_note_skipped(s, &fresh);
	if (fresh.agent_start_mono != s->guest.agent_start_mono) {
		source_fold_agent(s);
		s->guest = fresh;
		source_watch_agent(s);
	} else if (s->guest.state < HTRACE_GUEST_RUNNING && fresh.state == HTRACE_GUEST_RUNNING) {
		s->guest = fresh; /* all until now was its start */
		source_watch_agent(s);
	} else if (fresh.state > HTRACE_GUEST_RUNNING) {
		/* Taking its programs away is not what it costs while it traces. */
		fresh.agent_cpu_ns = s->guest.agent_cpu_ns;
		fresh.heartbeat_mono = s->guest.heartbeat_mono;
	}
	s->guest = fresh;
}

static void keep_house(struct source *s, __u64 now)
{
	if (now < s->next_house)
		return;
	s->next_house = now + HOUSE_NS;
	if (!s->refused) /* else it may not be our region any more */
		host_beat(s->view);
	if (!s->session || !htrace_view_current(s->view))
		return;
	look_at_guest(s);
	if (s->lost_names && s->config->sinks && now >= s->next_names) {
		host_want_names(s->view, s->guest.names_served);
		s->lost_names = false;
		s->next_names = now + NAMES_NS;
	}
}

void source_round(struct source *s, __u64 now, struct source_round *round)
{
	/* If we were away, the guest may have restarted, and its memory serve other purposes. */
	if (s->state == SOURCE_READING && source_has_heart(s) && now - s->looked > AWAY_NS) {
		heart_beat(s, now);
		s->heart_beat_at = now;
		source_enter(s, SOURCE_LISTENING, now);
	}
	s->looked = now;
	if (s->view && htrace_view_shrunk(s->view) && s->state != SOURCE_FAILED)
		source_fail(s, HTRACE_REASON_NONE, "the file was truncated while it was read", now);
	switch (s->state) {
	case SOURCE_WAITING:
		source_try_attach(s, now);
		break;
	case SOURCE_MAPPING:
		source_try_map(s, now);
		break;
	case SOURCE_LISTENING:
		listen_round(s, now);
		break;
	case SOURCE_READING:
		read_round(s, now, round);
		break;
	case SOURCE_SILENT:
		silent_round(s, now, round);
		break;
	case SOURCE_FAILED:
		return;
	}
	if (s->state == SOURCE_FAILED)
		return;
	if (s->session) {
		if (htrace_view_current(s->view))
			session_refresh(s->session, now);
		session_emit(s->session, now, false);
	}
	keep_house(s, now);
}

/* Passes that read what is in the rings now, of a guest that goes on writing. */
static __u64 finish_passes(const struct source *s)
{
	const struct htrace_super *super = htrace_view_super(s->view);
	__u64 most = 0;

	for (__u32 i = 0; i < super->nr_ringsets; i++)
		if (1ULL << super->ringset[i].ring_shift > most)
			most = 1ULL << super->ringset[i].ring_shift;
	return most / FINISH_PASS + 2;
}

void source_finish(struct source *s, __u64 now)
{
	__u64 passes = s->session ? finish_passes(s) : 0;
	struct session_pass pass = { 0 };

	while (passes-- && s->state == SOURCE_READING && !s->drained && !pass.drained) {
		if (ended(s, now) || !read_rings(s, now, false, &pass))
			break;
		if (!pass.drained)
			session_emit(s->session, now, !pass.more);
	}
	if (s->session && htrace_view_current(s->view))
		look_at_guest(s);
	source_end_session(s, now);
	if (s->state != SOURCE_FAILED)
		host_gone(s->view);
}

void source_close(struct source *s)
{
	source_close_view(s);
	stats_free(&s->stats);
}

bool source_is_reading(const struct source *s)
{
	return s->state == SOURCE_READING || (s->state == SOURCE_SILENT && !s->salvaged);
}

bool source_ready(const struct source *s)
{
	return s->state == SOURCE_READING && session_ready(s->session);
}

__u64 source_due(const struct source *s)
{
	return s->session ? session_due(s->session) : UINT64_MAX;
}

const char *source_awaits(const struct source *s)
{
	switch (s->state) {
	case SOURCE_WAITING:
		return "a guest";
	case SOURCE_MAPPING:
		return "guest RAM";
	case SOURCE_LISTENING:
		return "a sign of life";
	case SOURCE_SILENT:
		return "the silent guest";
	default:
		return NULL;
	}
}
