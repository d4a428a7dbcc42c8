/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <string.h>

#include "message.h"
#include "region_file.h"
#include "source_internal.h"

#define IN_THE_MAKING_NS MS /* a record may be, that has its time already */
#define HOUSE_NS (200 * MS)      /* housekeeping: our heartbeat, the guest's header, names */
#define NAMES_NS SEC
#define AWAY_NS (500 * MS)       /* after such a pause of ours we wait for the next heartbeat */
#define FINISH_PASS 65536        /* at the end: bytes of a ring per pass, at least */
#define LAST_BEAT_NS (600 * MS)  /* at the end: for a heartbeat */
#define STUCK_NS (500 * MS)      /* what is uncommitted for so long at the end stays so */
#define TRUNCATED "the file was truncated while it was read"

void source_enter(struct source *s, enum source_state state, __u64 now)
{
	s->state = state;
	s->since = now;
}

/* -------------------------------------------------------------------------------------- reading */

bool source_heart_beat(struct source *s, __u64 now)
{
	__u64 beat = htrace_view_heartbeat(s->view);

	if (beat == s->heartbeat)
		return false;
	/* Not that of another session, that began just now. */
	s->set_back |= beat < s->heartbeat && source_steps_back(s) && htrace_view_current(s->view);
	s->heartbeat = beat;
	s->heart_beat_at = now;
	return true;
}

/* Outputs, and captures, are to know that its end is a proper one. */
static void tell_closed(struct source *s, __u64 now)
{
	static const struct htrace_clock_sample none;

	if (!s->session || !s->guest_seen)
		return;
	s->guest.state = HTRACE_GUEST_CLOSED;
	session_guest(s->session, &s->guest, &none, now);
}

bool source_ended(struct source *s, __u64 now)
{
	bool current = htrace_view_current(s->view);

	/* That look may have been the one that found it: what is there now is no session's. */
	if (htrace_view_shrunk(s->view)) {
		source_fail(s, HTRACE_REASON_NONE, TRUNCATED, now);
		return true;
	}
	if (!current) {
		if (!s->closing && !source_silence_recorded(s))
			source_snapshot(s, "the sudden end of its session", now);
		if (s->closing)
			tell_closed(s, now);
		source_await_next(s, now);
		return true;
	}
	if (htrace_view_state(s->view) == HTRACE_GUEST_CLOSED) {
		source_say(s, now, "the guest ended the session; waiting for a new one");
		s->said_waiting = true;
		tell_closed(s, now);
		source_await_next(s, now);
		return true;
	}
	return false;
}

static void listen_round(struct source *s, __u64 now)
{
	bool beat;

	if (source_ended(s, now))
		return;
	beat = source_heart_beat(s, now);
	if (source_went_back(s)) {
		source_go_back(s, now);
	} else if (beat) {
		s->guest_came = true;
		source_enter(s, SOURCE_READING, now);
	} else if (source_is_silent(s, now)) {
		source_go_silent(s, now);
	}
}

bool source_read_rings(struct source *s, __u64 now, bool all, bool unverified,
		       struct live_pass *pass)
{
	int ret = live_read(s->live, now, all, unverified, pass);

	if (htrace_view_shrunk(s->view)) {
		source_fail(s, HTRACE_REASON_NONE, TRUNCATED, now);
		return false;
	}
	if (ret == -ESTALE) {
		source_say(s, now, "the guest took back the memory of its rings");
		source_snapshot(s, "the loss of its rings", now);
		source_await_next(s, now);
		return false;
	}
	if (ret) {
		source_fail(s, HTRACE_REASON_NONE, strerror(-ret), now);
		return false;
	}
	s->lost_names |= pass->lost;
	if (pass->drained)
		session_read_until(s->session, now - IN_THE_MAKING_NS);
	return true;
}

/* A session that closes is waited for until all that was committed is read. */
static void drain(struct source *s, __u64 now, const struct live_pass *pass)
{
	if (pass->events || pass->backlog != s->progress_backlog || !s->closing) {
		s->closing = true;
		s->progress_at = now;
		s->progress_backlog = pass->backlog;
	}
	if (s->drained || !pass->drained || (pass->backlog && now - s->progress_at < STUCK_NS))
		return;
	if (!session_take_back(s->session, TAKE_BACK_ALL))
		return;
	s->drained = true;
	htrace_view_session_drained(s->view);
}

static void read_round(struct source *s, __u64 now, struct source_round *round)
{
	struct live_pass pass;
	bool closing, beat;

	if (source_ended(s, now))
		return;
	beat = source_heart_beat(s, now);
	if (source_went_back(s)) {
		source_go_back(s, now);
		return;
	}
	if (!beat && source_has_heart(s) && source_is_silent(s, now)) {
		source_go_silent(s, now);
		return;
	}
	/* Before the rings: what was committed when it closed is found in them then. */
	closing = htrace_view_state(s->view) == HTRACE_GUEST_CLOSING;
	if (!closing)
		s->closing = s->drained = false;
	else if (s->drained) /* its memory may be taken back at any time */
		return;
	if (!source_read_rings(s, now, closing, false, &pass))
		return;
	if (pass.went_back)
		source_go_back(s, now);
	else
		s->fine = now;
	s->was_read = true;
	round->events += pass.events;
	round->backlog += pass.backlog;
	round->more |= pass.more;
	if (closing)
		drain(s, now, &pass);
}

/* --------------------------------------------------------------------------------- housekeeping */

void source_look_at_guest(struct source *s, __u64 now)
{
	struct htrace_clock_sample clock;
	struct htrace_guest fresh;

	live_clock(s->live, now);
	htrace_view_guest(s->view, &fresh, true);
	if (htrace_view_clock(s->view, &clock))
		memset(&clock, 0, sizeof(clock));
	if (!htrace_view_current(s->view))
		return;
	/* Within a life of the agent its clock does not go back. */
	s->set_back |= fresh.agent_start_mono == s->guest.agent_start_mono && s->guest_seen &&
		       fresh.heartbeat_mono < s->guest.heartbeat_mono;
	if (!s->set_back)
		source_take_guest(s, &fresh, &clock, now);
}

static void keep_house(struct source *s, __u64 now)
{
	if (now < s->next_house)
		return;
	s->next_house = now + HOUSE_NS;
	if (s->refused || !source_may_write(s, now)) /* it may not be our region any more */
		return;
	if (s->session && source_went_back(s)) /* the next look finds why */
		return;
	source_beat(s);
	if (s->state == SOURCE_WAITING && !s->announced)
		source_announce(s, now);
	if (!s->session || !htrace_view_current(s->view))
		return;
	source_look_at_guest(s, now);
	source_watch_relay(s, now);
	live_look_at_owners(s->live, false);
	source_watch_vm(s, now);
	if (s->kvm)
		kvm_events_account(s->kvm);
	source_watch_vmm(s, now);
	source_find_vcpus(s, now);
	if (s->lost_names && s->config->sinks && now >= s->next_names) {
		htrace_view_ask_names(s->view);
		s->lost_names = false;
		s->next_names = now + NAMES_NS;
	}
}

/* If we were away, the guest may have restarted, and its memory serve other purposes. */
static void notice_absence(struct source *s, __u64 now)
{
	if (s->state == SOURCE_READING && source_has_heart(s) && now - s->looked > AWAY_NS) {
		source_heart_beat(s, now);
		s->heart_beat_at = now;
		source_enter(s, SOURCE_LISTENING, now);
	}
	s->looked = now;
}

/* Of the ring of a guest's boot: it is in our rings then. */
static void work_on_boot(struct source *s, __u64 now)
{
	const char *said = s->boot ? boot_events_work(s->boot, now) : NULL;

	if (said)
		source_mark(s, now, "%s", said);
}

/* Of a region in the guest's memory: it is in ours then. Once the process is gone what it left is read: that is all. */
static void work_on_mirror(struct source *s, __u64 now)
{
	const char *said = s->mirror ? ram_mirror_work(s->mirror, now) : NULL;

	if (said)
		say_within(&s->quota, "%s: %s", s->name, said);
	if (!s->mirror || !ram_mirror_gone(s->mirror) || s->ending || s->state == SOURCE_FAILED || s->state == SOURCE_DONE)
		return;
	if (!s->vm_gone)
		source_say(s, now, "process %d, which ran the VM, is gone", s->spec->pid);
	s->vm_gone = true;
	if (s->state == SOURCE_SILENT ? source_finish_silent(s, now) : s->state != SOURCE_WAITING && s->state != SOURCE_MAPPING)
		return;
	if (s->state == SOURCE_FAILED)
		return;
	source_end_session(s, now);
	s->state = SOURCE_DONE; /* another VM is another process */
}

static void region_round(struct source *s, __u64 now, struct source_round *round)
{
	work_on_boot(s, now);
	work_on_mirror(s, now);
	notice_absence(s, now);
	source_serve(s, now);
	if (s->plug)
		source_watch_plug(s, now);
	if (s->stream)
		source_watch_stream(s, now);
	if (s->view && htrace_view_shrunk(s->view) && s->state != SOURCE_FAILED)
		source_fail(s, HTRACE_REASON_NONE, TRUNCATED, now);
	if (source_emit_ending(s, now)) {
		round->more = true;
		if (s->state != SOURCE_FAILED) {
			keep_house(s, now);
			source_tell(s, now);
		}
		return; /* another session's have to come behind them */
	}
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
		source_silent_round(s, now, round);
		break;
	case SOURCE_BACK:
		source_back_round(s, now);
		break;
	case SOURCE_FAILED:
	case SOURCE_DONE:
		return;
	}
	round->more |= s->ending != NULL;
	if (s->state == SOURCE_FAILED)
		return;
	source_tell(s, now);
	if (s->session) {
		if (htrace_view_current(s->view) && !source_doubts(s))
			live_refresh(s->live, now);
		if (!source_doubts(s)) /* what is told of its clock then may be of both times */
			source_clock_look(s, now);
		round->more |= session_emit(s->session, source_clock_emit(s, now), false);
	}
	keep_house(s, now);
}

/* Passes that read what is in the rings now, of a guest that goes on writing. */
static unsigned int finish_passes(const struct source *s)
{
	const struct htrace_super *super = htrace_view_super(s->view);
	__u64 most = 0;

	for (__u32 i = 0; i < super->nr_ringsets; i++)
		if (1ULL << super->ringset[i].ring_shift > most)
			most = 1ULL << super->ringset[i].ring_shift;
	return (unsigned int)(most / FINISH_PASS + 2);
}

/* One pass, of a guest that is alive, or silent for good. Returns whether another one may find more. */
static bool finish_reading(struct source *s, __u64 now)
{
	struct live_pass pass;

	if (s->state == SOURCE_LISTENING && s->was_read) { /* we were away */
		if (source_ended(s, now))
			return false;
		if (!source_heart_beat(s, now))
			return now - s->finish_at < LAST_BEAT_NS;
		s->guest_came = true;
		source_enter(s, SOURCE_READING, now);
	}
	if (s->state == SOURCE_SILENT)
		return source_finish_silent(s, now);
	if (s->state != SOURCE_READING || !s->passes || s->drained)
		return false;
	if (source_ended(s, now) || !source_read_rings(s, now, true, false, &pass))
		return false;
	s->passes -= !pass.cut;
	s->all_read = pass.drained || !s->passes;
	if (!pass.drained) {
		source_clock_settle(s, now);
		session_emit(s->session, now, !pass.more);
	}
	return !pass.drained;
}

/* Of rings that were read to their end, what came since is not what anybody waited for. */
static void finish_session(struct source *s)
{
	bool current = s->session && htrace_view_current(s->view);

	if (current)
		source_look_at_guest(s, s->finish_at);
	s->look_last = current && !s->all_read && !s->drained &&
		       (s->state == SOURCE_LISTENING || s->state == SOURCE_READING);
	source_end_session(s, s->finish_at);
}

static bool region_finish_some(struct source *s, __u64 now, bool late)
{
	if (!s->finishing) {
		s->finishing = true;
		s->finish_at = now;
		s->passes = s->session ? finish_passes(s) : 0;
		if (s->state == SOURCE_BACK && !s->set_back) /* what else there is can be read */
			source_not_back(s, now);
		else if (s->state == SOURCE_SILENT)
			live_give_up(s->live, now);
		if (s->kvm) /* all that it wrote can be read then */
			kvm_events_end(s->kvm);
		if (s->boot)
			boot_events_hurry(s->boot);
		work_on_boot(s, now);
		if (s->mirror)
			ram_mirror_hurry(s->mirror);
		work_on_mirror(s, now);
		if (s->session)
			live_look_at_owners(s->live, true);
		notice_absence(s, now);
	}
	/* A session that ended before it goes out first. */
	if (!s->finished && s->ending)
		return source_emit_ending(s, now) || s->session;
	if (!s->finished && !late && finish_reading(s, now))
		return true;
	if (!s->finished)
		finish_session(s);
	s->finished = true;
	return source_emit_ending(s, now);
}

static void region_finish(struct source *s, __u64 now)
{
	if (!s->finished)
		region_finish_some(s, now, true);
	session_close(s->ending);
	s->ending = NULL;
	if (s->stats.unwritten)
		say("%s: %" PRIu64 " events that were read could not be written in time",
		    s->spec->path, (uint64_t)s->stats.unwritten);
	if (s->quota.unsaid)
		say("%s: %llu more messages", s->spec->path, s->quota.unsaid);
	source_tell_end(s, now);
	if (s->state != SOURCE_FAILED && source_may_write(s, now))
		htrace_view_announce(s->view, HTRACE_HOST_GONE, 0, false, HTRACE_REASON_NONE);
}

static bool region_is_reading(const struct source *s)
{
	return s->state == SOURCE_READING || (s->state == SOURCE_SILENT && !s->salvaged);
}

static bool region_ready(const struct source *s)
{
	return s->state == SOURCE_READING && live_ready(s->live);
}

static __u64 region_attached_ns(const struct source *s, __u64 now)
{
	return now - s->attached;
}

static __u64 region_due(const struct source *s)
{
	__u64 due = s->session ? session_due(s->session) : UINT64_MAX, tell = source_tell_due(s);

	if (s->ending)
		return 0;
	if (s->state == SOURCE_BACK) /* what it does from then on is to be told from what it did */
		return s->looked + MS;
	due = source_clock_due(s, due);
	if (s->boot && boot_events_due(s->boot) < due)
		due = boot_events_due(s->boot);
	if (s->mirror && ram_mirror_due(s->mirror) < due)
		due = ram_mirror_due(s->mirror);
	return due < tell ? due : tell;
}

static const char *region_awaits(const struct source *s)
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
	case SOURCE_BACK:
		return "what became of the guest";
	default:
		return NULL;
	}
}

static void region_close(struct source *s)
{
	source_plug_out(s);
	source_close_view(s);
	source_forget_ends(s);
	bell_server_close(s->server);
	s->server = NULL;
	kvm_events_close(s->kvm);
	s->kvm = NULL;
	boot_events_close(s->boot);
	s->boot = NULL;
	ram_mirror_close(s->mirror);
	s->mirror = NULL;
}

const struct source_ops source_live = {
	.open = source_open_region,
	.begin = source_begin_region,
	.round = region_round,
	.finish_some = region_finish_some,
	.finish = region_finish,
	.close = region_close,
	.is_reading = region_is_reading,
	.ready = region_ready,
	.arm = source_arm_region,
	.due = region_due,
	.awaits = region_awaits,
	.attached_ns = region_attached_ns,
};
