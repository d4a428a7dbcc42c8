/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source.h"

#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "host.h"
#include "message.h"
#include "region_file.h"

#define MS 1000000ULL
#define SEC 1000000000ULL

#define QUIET_NS (100 * MS)      /* a guest that is there is not waited for */
#define SETTLE_LOOKS 30          /* 10 ms apart, at what may be a region in the making */
#define ATTACH_NS (20 * MS)      /* between two looks for a guest */
#define BRIEF_NS (500 * MS)      /* likewise, after a session that was soon over */
#define MAP_NS (250 * MS)        /* between two tries to map guest RAM */
#define MAP_GIVE_UP (3 * SEC)    /* of a guest that lives */
#define HOUSE_NS (200 * MS)      /* housekeeping: our heartbeat, the guest's header, names */
#define NAMES_NS SEC
#define REFUSALS 10              /* in a row, before a region that changes is given up */
#define REFUSAL_NS (100 * MS)
#define STALE_NS (2 * SEC)       /* no heartbeat for so long, or for so many of its periods: */
#define STALE_BEATS 8
#define BEAT_MS_DEFAULT 250
#define BEAT_MS_MAX 5000
#define AWAY_NS (500 * MS)       /* after such a pause of ours we wait for the next heartbeat */
#define FINISH_PASS 65536         /* at the end: bytes of a ring per pass, at least */
#define STUCK_NS (500 * MS)      /* what is uncommitted for so long at the end stays so */

static void enter(struct source *s, enum source_state state, __u64 now)
{
	s->state = state;
	s->since = now;
	s->next_try = 0;
}

/* -------------------------------------------------------------------------------------- opening */

static const char *hint(int err)
{
	switch (err) {
	case -ENOSPC:
		return "; is the path right, and the device's size a power of two from 1M on?";
	case -EINVAL:
		return "; give the file behind the region";
	default:
		return "";
	}
}

static int open_view(struct source *s)
{
	char err[256] = "";
	int ret;

	s->fd = region_file_open(s->spec->path, &s->writable, err, sizeof(err));
	if (s->fd < 0) {
		say("cannot open region '%s': %s", s->spec->path, err);
		return s->fd;
	}
	ret = htrace_view_open_fd(&s->view, s->fd, s->writable, err, sizeof(err));
	if (ret) {
		say("cannot open region '%s': %s%s", s->spec->path, err[0] ? err : strerror(-ret),
		    hint(ret));
		close(s->fd);
		s->fd = -1;
	}
	return ret;
}

static void close_view(struct source *s)
{
	htrace_view_close(s->view);
	s->view = NULL;
	if (s->fd >= 0)
		close(s->fd);
	s->fd = -1;
}

/* May we write into the file? What is being made when we look is a region a moment later. */
static int check_contents(struct source *s)
{
	enum region_content content = region_file_inspect(s->fd);
	char err[256] = "";
	int ret;

	for (int i = 0; i < SETTLE_LOOKS && content == CONTENT_UNKNOWN; i++) {
		usleep(10000);
		content = region_file_inspect(s->fd);
	}
	ret = htrace_view_attach(s->view, err, sizeof(err));
	if (ret && ret != -EAGAIN) {
		say("'%s' cannot be read: %s%s", s->spec->path, err[0] ? err : strerror(-ret),
		    ret == -EPROTONOSUPPORT ? "; use the host-reader of the guest-agent's version" :
					      "; nothing was written to it");
		return ret;
	}
	if (content == CONTENT_EMPTY || content == CONTENT_REGION)
		return 0;
	say("'%s' cannot be read: something other than a libhtrace region is in it; nothing was "
	    "written to it (fill it with zeroes to use it all the same)", s->spec->path);
	return -EPROTO;
}


int source_open(struct source *s, const struct source_spec *spec,
		const struct source_config *config)
{
	memset(s, 0, sizeof(*s));
	s->spec = spec;
	s->config = config;
	s->fd = -1;
	if (stats_init(&s->stats)) {
		say("out of memory");
		return 1;
	}
	if (open_view(s))
		return 1;
	return check_contents(s) ? 1 : 0;
}

void source_begin(struct source *s, __u64 now)
{
	if (!s->writable)
		say("%s: no permission to write: the guest will not know that it is read",
		    s->spec->path);
	host_waiting(s->view);
	enter(s, SOURCE_WAITING, now);
}

/* --------------------------------------------------------------------------------------- ending */

/* What the agent that leaves did while we watched; before that it loaded its programs. */
static void fold_agent(struct source *s)
{
	const struct htrace_guest *g = &s->guest;

	s->stats.agent_total_ns += g->agent_cpu_ns;
	if (g->heartbeat_mono <= s->agent_mono_from || g->agent_cpu_ns < s->agent_cpu_from)
		return;
	s->stats.agent_cpu_ns += g->agent_cpu_ns - s->agent_cpu_from;
	s->stats.agent_ns += g->heartbeat_mono - s->agent_mono_from;
}

static void watch_agent(struct source *s)
{
	s->agent_cpu_from = s->guest.agent_cpu_ns;
	s->agent_mono_from = s->guest.heartbeat_mono;
}

static void fold_programs(struct source *s)
{
	s->stats.nr_progs = s->guest.nr_progs;
	s->stats.nr_uncounted = 0;
	for (__u32 i = 0; i < s->guest.nr_progs; i++) {
		s->stats.misses += s->guest.prog[i].misses;
		s->stats.nr_uncounted += !(s->guest.prog[i].flags & HTRACE_PROG_MISSES_COUNTED);
	}
}

/* From here on the memory of the session's rings is not touched. */
static void end_session(struct source *s, __u64 now)
{
	__u64 left;

	if (!s->session)
		return;
	left = session_backlog(s->session);
	session_close(s->session);
	s->session = NULL;
	fold_agent(s);
	fold_programs(s);
	s->stats.attached_ns += now - s->attached;
	s->stats.unread += left;
	if (left)
		say("%s: %" PRIu64 " bytes of the session's rings were not read", s->spec->path,
		    (uint64_t)left);
	s->done_id = s->session_id;
}

static void fail(struct source *s, enum htrace_host_reason reason, const char *why, __u64 now)
{
	say("%s: %s", s->spec->path, why);
	if (reason)
		host_refused(s->view, s->session_id, reason);
	end_session(s, now);
	s->state = SOURCE_FAILED;
}

/* Wait for another session. Guest RAM is let go: it may be that of a VM that is gone. */
static void await_next(struct source *s, __u64 now)
{
	char err[256] = "";
	bool brief = now - s->attached < SEC;

	end_session(s, now);
	htrace_view_close(s->view);
	s->view = NULL;
	if (htrace_view_open_fd(&s->view, s->fd, s->writable, err, sizeof(err))) {
		say("%s: %s", s->spec->path, err);
		s->state = SOURCE_FAILED;
		return;
	}
	host_waiting(s->view);
	enter(s, SOURCE_WAITING, now);
	if (brief) /* sessions that come and go do not get to fill logs */
		s->next_try = now + BRIEF_NS;
}

/* ------------------------------------------------------------------------------------ attaching */

static const struct htrace_ringset *ram_set(const struct source *s)
{
	const struct htrace_super *super = htrace_view_super(s->view);

	for (__u32 i = 0; i < super->nr_ringsets; i++)
		if (super->ringset[i].placement == HTRACE_PLACEMENT_VSHMEM)
			return &super->ringset[i];
	return NULL;
}

static void human_size(char *text, size_t len, __u64 bytes)
{
	if (bytes >= 1 << 20 && !(bytes & ((1 << 20) - 1)))
		snprintf(text, len, "%" PRIu64 " MiB", (uint64_t)(bytes >> 20));
	else
		snprintf(text, len, "%" PRIu64 " KiB", (uint64_t)(bytes >> 10));
}

static void describe(struct source *s)
{
	const struct htrace_super *super = htrace_view_super(s->view);
	const struct htrace_ringset *set = ram_set(s);
	char host[4 * 64 + 1], release[4 * 64 + 1], ring[32], block[32];
	const struct htrace_guest *g = &s->guest;

	host[htrace_escape(host, sizeof(host) - 1, g->hostname,
			   strnlen(g->hostname, sizeof(g->hostname)))] = 0;
	release[htrace_escape(release, sizeof(release) - 1, g->release,
			      strnlen(g->release, sizeof(g->release)))] = 0;
	s->nr_vcpus = super->nr_cpus;
	snprintf(s->who, sizeof(s->who), "%s, kernel %s, %u %sCPUs", *host ? host : "(no name)",
		 *release ? release : "(unknown)", super->nr_cpus,
		 s->spec->kind == SOURCE_LOCAL ? "" : "v");
	if (set)
		snprintf(s->placement, sizeof(s->placement), "direct: guest RAM mapped from %s",
			 htrace_view_ram_name(s->view));
	else
		snprintf(s->placement, sizeof(s->placement), "%s",
			 s->spec->kind == SOURCE_LOCAL ? "local: rings in the file" :
							 "ivshmem: rings in the region");
	set = super->nr_ringsets ? &super->ringset[0] : NULL;
	if (!set) {
		snprintf(s->buffer, sizeof(s->buffer), "no rings");
		return;
	}
	human_size(ring, sizeof(ring), 1ULL << set->ring_shift);
	human_size(block, sizeof(block), 1ULL << set->block_shift);
	snprintf(s->buffer, sizeof(s->buffer), "%s, %u rings of %s in blocks of %s",
		 set->policy == HTRACE_DISCARD ? "discard" : "overwrite", set->nr_rings, ring, block);
}

static void announce(struct source *s, bool rebooted)
{
	struct sink_note note = { .source = s->config->several ? s->spec->path : NULL };
	char text[720];

	say("%s: %s%s; %s; %s; sync %s", s->spec->path,
	    s->stats.sessions == 1 ? "" : rebooted ? "restarted: " : "new session: ", s->who,
	    s->placement, s->buffer, s->config->sync);
	if (s->stats.sessions == 1 || !s->config->sinks)
		return;
	snprintf(text, sizeof(text), "%s: %s", rebooted ? "restarted" : "new session", s->who);
	note.text = text;
	sinks_note(s->config->sinks, &note);
}

/* Does this session beat its heart at all? A tracer on this machine need not. */
static bool has_heart(const struct source *s)
{
	return s->spec->kind != SOURCE_LOCAL || s->guest.heartbeat_ms;
}

static void start_session(struct source *s, __u64 now)
{
	const struct htrace_super *super = htrace_view_super(s->view);
	struct session_config c = {
		.view = s->view,
		.path = s->spec->path,
		.source = s->config->several ? s->spec->path : NULL,
		.stats = &s->stats,
		.sinks = s->config->sinks,
		.selection = s->config->selection,
	};
	bool rebooted = memcmp(s->boot_id, super->boot_id, sizeof(s->boot_id)) != 0;
	char err[256] = "";

	host_forget_other(s->view, super->session);
	if (session_open(&s->session, &c, err, sizeof(err))) {
		fail(s, HTRACE_REASON_INVALID, err, now);
		return;
	}
	memcpy(s->boot_id, super->boot_id, sizeof(s->boot_id));
	htrace_view_guest(s->view, &s->guest, true);
	watch_agent(s);
	s->stats.sessions++;
	s->closing = s->drained = s->salvaged = s->said_stale = false;
	s->salvaged_events = 0;
	s->attached = now;
	s->heartbeat = htrace_view_heartbeat(s->view);
	s->heart_beat_at = now;
	s->next_house = s->next_names = 0;
	s->lost_names = true;
	describe(s);
	host_attached(s->view, super->session, ram_set(s) != NULL);
	announce(s, rebooted);
	enter(s, has_heart(s) ? SOURCE_LISTENING : SOURCE_READING, now);
	s->guest_came |= s->state == SOURCE_READING;
	s->looked = now;
}

/* The file was made anew beside us, as by a VM that was started again: go over to it. */
static void follow_file(struct source *s, __u64 now)
{
	if (!region_file_replaced(s->view, s->spec->path))
		return;
	close_view(s);
	if (open_view(s) || check_contents(s)) {
		s->state = SOURCE_FAILED;
		return;
	}
	say("%s: another file took its place; going on there", s->spec->path);
	source_begin(s, now);
}

static void await_message(struct source *s, __u64 now)
{
	if (!s->said_waiting && now - s->since > QUIET_NS) {
		say("%s: waiting for a guest ...", s->spec->path);
		s->said_waiting = true;
	}
	if (now >= s->next_house)
		follow_file(s, now);
}

/* The guest is told why only if it is one of ours: nothing else is written to. */
static void fail_attach(struct source *s, int ret, const char *why, __u64 now)
{
	enum htrace_host_reason reason = HTRACE_REASON_NONE;
	struct htrace_super super;

	if (region_file_inspect(s->fd) == CONTENT_REGION &&
	    pread(s->fd, &super, sizeof(super), HTRACE_SUPER_OFF) == sizeof(super)) {
		reason = ret == -EPROTONOSUPPORT ? HTRACE_REASON_VERSION : HTRACE_REASON_INVALID;
		s->session_id = super.session;
	}
	fail(s, reason, why, now);
}

static void try_attach(struct source *s, __u64 now)
{
	char err[256] = "";
	int ret;

	if (now < s->next_try)
		return;
	s->next_try = now + ATTACH_NS;
	ret = htrace_view_attach(s->view, err, sizeof(err));
	if (ret == -EPROTO || ret == -EPROTONOSUPPORT) {
		/* What a guest that starts leaves half written must settle; then it is an error. */
		s->next_try = now + REFUSAL_NS;
		if (++s->refused < REFUSALS)
			return;
		fail_attach(s, ret, err, now);
		return;
	}
	s->refused = 0;
	if (ret || htrace_view_super(s->view)->session == s->done_id) {
		await_message(s, now);
		return;
	}
	s->session_id = htrace_view_super(s->view)->session;
	if (htrace_view_state(s->view) == HTRACE_GUEST_CLOSED) {
		s->done_id = s->session_id;
		say("%s: it holds a session that is over; waiting for a new one", s->spec->path);
		s->said_waiting = true;
		return;
	}
	htrace_view_guest(s->view, &s->guest, true);
	s->heartbeat = htrace_view_heartbeat(s->view);
	enter(s, SOURCE_MAPPING, now);
}

static void try_map(struct source *s, __u64 now)
{
	char err[300] = "";
	int ret;

	if (!htrace_view_current(s->view)) {
		enter(s, SOURCE_WAITING, now);
		return;
	}
	if (now < s->next_try)
		return;
	s->next_try = now + MAP_NS;
	ret = ram_set(s) ? htrace_view_map_ram(s->view, s->spec->pid, s->spec->ram, err,
					       sizeof(err)) : 0;
	if (!ret) {
		start_session(s, now);
		return;
	}
	if (!htrace_view_current(s->view))
		return;
	if (ret == -EPROTO || ret == -ENOMEM) {
		fail(s, HTRACE_REASON_INVALID, err, now);
		return;
	}
	/* A VM that is gone leaves its region behind: then another one is to come. */
	if (htrace_view_heartbeat(s->view) == s->heartbeat) {
		if (!s->said_stale && now - s->since > MAP_GIVE_UP)
			say("%s: it holds the session of a guest that gives no sign of life (%s); "
			    "waiting for a new one", s->spec->path, err);
		s->said_stale |= now - s->since > MAP_GIVE_UP;
		return;
	}
	if (now - s->since < MAP_GIVE_UP)
		return;
	fail(s, ret == -ENXIO ? HTRACE_REASON_UNVERIFIED : HTRACE_REASON_NO_RAM, err, now);
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
	enter(s, SOURCE_SILENT, now);
}

/* Is there an end to the session? Then it was dealt with. */
static bool ended(struct source *s, __u64 now)
{
	if (!htrace_view_current(s->view)) {
		await_next(s, now);
		return true;
	}
	if (htrace_view_state(s->view) == HTRACE_GUEST_CLOSED) {
		say("%s: the guest ended the session; waiting for a new one", s->spec->path);
		s->said_waiting = true;
		await_next(s, now);
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
		enter(s, SOURCE_READING, now);
	} else if (now - s->heart_beat_at > stale_after(s)) {
		go_silent(s, now);
	}
}

/* Read, and take care of what can go wrong. False: the source is in another state now. */
static bool read_rings(struct source *s, __u64 now, bool unverified, struct session_pass *pass)
{
	int ret = session_read(s->session, now, unverified, pass);

	if (htrace_view_shrunk(s->view)) {
		fail(s, HTRACE_REASON_NONE, "the file was truncated while it was read", now);
		return false;
	}
	if (ret == -ESTALE) {
		say("%s: the guest took back the memory of its rings", s->spec->path);
		await_next(s, now);
		return false;
	}
	if (ret) {
		fail(s, HTRACE_REASON_NONE, strerror(-ret), now);
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
		enter(s, SOURCE_READING, now);
		return;
	}
	if (!s->salvaged)
		salvage(s, now, round);
	else if (now >= s->next_house && region_file_replaced(s->view, s->spec->path))
		await_next(s, now);
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
	if (!heart_beat(s, now) && has_heart(s) && now - s->heart_beat_at > stale_after(s)) {
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

/* ---------------------------------------------------------------------------------- housekeeping */

static void look_at_guest(struct source *s)
{
	struct htrace_guest fresh;

	htrace_view_guest(s->view, &fresh, true);
	if (!htrace_view_current(s->view))
		return;
	if (fresh.agent_start_mono != s->guest.agent_start_mono) {
		fold_agent(s);
		s->guest = fresh;
		watch_agent(s);
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
	/* If we were away, the guest may have been restarted, and its memory used for other things. */
	if (s->state == SOURCE_READING && has_heart(s) && now - s->looked > AWAY_NS) {
		heart_beat(s, now);
		s->heart_beat_at = now;
		enter(s, SOURCE_LISTENING, now);
	}
	s->looked = now;
	if (s->view && htrace_view_shrunk(s->view) && s->state != SOURCE_FAILED)
		fail(s, HTRACE_REASON_NONE, "the file was truncated while it was read", now);
	switch (s->state) {
	case SOURCE_WAITING:
		try_attach(s, now);
		break;
	case SOURCE_MAPPING:
		try_map(s, now);
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
	end_session(s, now);
	if (s->state != SOURCE_FAILED)
		host_gone(s->view);
}

void source_close(struct source *s)
{
	close_view(s);
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
