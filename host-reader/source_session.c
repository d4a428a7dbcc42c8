/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What sources of all kinds do with a session. */
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <htrace/schema.h>

#include "message.h"
#include "source_internal.h"

int source_open(struct source *s, const struct source_spec *spec, unsigned int nr,
		const struct source_config *config)
{
	memset(s, 0, sizeof(*s));
	s->ops = spec->kind == SOURCE_FILE ? &source_file : &source_live;
	s->spec = spec;
	s->name = spec->path;
	s->nr = nr;
	s->config = config;
	s->fd = -1;
	if (stats_init(&s->stats)) {
		say("out of memory");
		return -1;
	}
	return s->ops->open(s);
}

void source_close(struct source *s)
{
	s->ops->close(s);
	stats_free(&s->stats);
}

void source_snapshot(struct source *s, const char *why, __u64 now)
{
	if (s->session)
		session_snapshot(s->session, why, now);
}

/* On standard error; @text, of @len bytes, gets it. */
static void say_of(struct source *s, char *text, size_t len, const char *fmt, va_list args)
{
	vsnprintf(text, len, fmt, args);
	say_within(&s->quota, "%s: %s", s->spec->path, text);
}

/* Of the guest: said, and captured with its session. */
void source_say(struct source *s, __u64 now, const char *fmt, ...)
{
	char text[1024];
	va_list args;

	va_start(args, fmt);
	say_of(s, text, sizeof(text), fmt, args);
	va_end(args);
	if (s->session)
		session_tell(s->session, CAPTURE_SAID, text, strlen(text), now);
}

void source_mark(struct source *s, __u64 now, const char *fmt, ...)
{
	char text[1024];
	va_list args;

	va_start(args, fmt);
	say_of(s, text, sizeof(text), fmt, args);
	va_end(args);
	if (s->session)
		session_mark(s->session, text, now);
}

/* ------------------------------------------------------------------------------------ beginning */

int source_open_session(struct source *s, const struct session_facts *facts, char *err,
			size_t errlen)
{
	struct session_config c = {
		.facts = facts,
		.path = s->spec->path,
		.origin = s->name,
		.source = s->config->several ? s->name : NULL,
		.source_nr = s->nr,
		.stats = &s->stats,
		.sinks = s->config->sinks,
		.selection = s->config->selection,
		.filter = s->config->filter,
		.snapshot = s->config->snapshot,
		.hosts = s->config->hosts,
		.quota = &s->quota,
		.lend = s->spec->trusted && !s->config->copy,
		.order = s->config->order,
		.patient = s->spec->kind == SOURCE_FILE,
		.host_clock = s->config->host_clock,
	};
	int ret = session_open(&s->session, &c, err, errlen);

	if (ret)
		return ret;
	s->rebooted = memcmp(s->facts.boot_id, facts->boot_id, sizeof(facts->boot_id)) != 0;
	s->facts = *facts;
	s->guest_seen = false;
	s->stats.sessions++;
	return 0;
}

static void human_size(char *text, size_t len, __u64 bytes)
{
	if (bytes >= 1 << 20 && !(bytes & ((1 << 20) - 1)))
		snprintf(text, len, "%" PRIu64 " MiB", (uint64_t)(bytes >> 20));
	else if (bytes >= 1 << 10)
		snprintf(text, len, "%" PRIu64 " KiB", (uint64_t)(bytes >> 10));
	else
		snprintf(text, len, "%" PRIu64 " bytes", (uint64_t)bytes);
}

/* Who it is, and what its rings are like, for people. */
void source_describe(struct source *s)
{
	const struct session_set *set = &s->facts.set[0];
	char host[4 * 64 + 1], release[4 * 64 + 1], ring[32], block[32];
	const struct htrace_guest *g = &s->guest;

	host[htrace_escape(host, sizeof(host) - 1, g->hostname,
			   strnlen(g->hostname, sizeof(g->hostname)))] = 0;
	release[htrace_escape(release, sizeof(release) - 1, g->release,
			      strnlen(g->release, sizeof(g->release)))] = 0;
	s->nr_vcpus = s->facts.nr_cpus;
	snprintf(s->who, sizeof(s->who), "%s, kernel %s, %u %sCPUs", *host ? host : "(no name)",
		 *release ? release : "(unknown)", s->facts.nr_cpus, s->local ? "" : "v");
	if (!s->facts.nr_sets) {
		snprintf(s->buffer, sizeof(s->buffer), "no rings");
		return;
	}
	human_size(ring, sizeof(ring), 1ULL << set->ring_shift);
	human_size(block, sizeof(block), 1ULL << set->block_shift);
	snprintf(s->buffer, sizeof(s->buffer), "%s, %u rings of %s in blocks of %s",
		 set->policy == HTRACE_DISCARD ? "discard" : "overwrite", set->nr_rings, ring,
		 block);
}

/* What declaring it trusted comes to. */
static void announce_trust(struct source *s)
{
	if (!s->spec->trusted || s->config->copy || !s->config->sinks || !sinks_capture(s->config->sinks))
		return;
	if (session_lends(s->session))
		say_within(&s->quota, "%s: trusted: captured without a copy, by %s", s->spec->path,
			   sinks_lends_by(s->config->sinks));
	else
		say_within(&s->quota, "%s: trusted, but its events are copied: there is another output "
			   "beside raw:DIR", s->spec->path);
}

void source_announce_session(struct source *s, __u64 now)
{
	const char *how = s->rebooted ? "restarted: " : "new session: ";
	char text[720];

	say_within(&s->quota, "%s: %s%s; %s; %s%s%s", s->spec->path,
		   s->stats.sessions == 1 ? "" : how, s->who, s->placement, s->buffer,
		   s->spec->kind == SOURCE_FILE ? "" : "; sync ",
		   s->spec->kind == SOURCE_FILE ? "; from a capture" : s->config->sync);
	announce_trust(s);
	if (s->stats.sessions == 1)
		return;
	snprintf(text, sizeof(text), "%s%s", how, s->who);
	session_began(s->session, text, now);
}

/* ------------------------------------------------------------------------------------ the guest */

/* What the agent that leaves did while we watched; before that it loaded its programs. */
static void fold_agent(const struct source *s, struct stats *st)
{
	const struct htrace_guest *g = &s->guest;

	st->agent_total_ns += g->agent_cpu_ns;
	if (g->heartbeat_mono <= s->agent_mono_from || g->agent_cpu_ns < s->agent_cpu_from)
		return;
	st->agent_cpu_ns += g->agent_cpu_ns - s->agent_cpu_from;
	st->agent_ns += g->heartbeat_mono - s->agent_mono_from;
}

/* An agent is there; fold_agent() when it is no more. */
static void watch_agent(struct source *s)
{
	s->agent_cpu_from = s->guest.agent_cpu_ns;
	s->agent_mono_from = s->guest.heartbeat_mono;
}

/*
 * Calls that the kernel skipped since the last look are lost before they could become events; they
 * are told as soon as the agent has counted them, which is once a second.
 */
static void note_skipped(struct source *s, const struct htrace_guest *fresh, __u64 now)
{
	char name[4 * HTRACE_PROG_NAME + 1], text[4 * HTRACE_PROG_NAME + 128];
	size_t len;

	if (!s->config->sinks)
		return;
	for (__u32 i = 0; i < fresh->nr_progs; i++) {
		const struct htrace_prog *p = &fresh->prog[i];
		__u64 before = 0;

		if (i < s->guest.nr_progs && !memcmp(s->guest.prog[i].name, p->name, sizeof(p->name)))
			before = s->guest.prog[i].misses;
		if (p->misses <= before)
			continue;
		name[htrace_escape(name, sizeof(name) - 1, p->name,
				   strnlen(p->name, sizeof(p->name)))] = 0;
		len = (size_t)snprintf(text, sizeof(text), "%" PRIu64 " calls of %s were skipped by the kernel",
				       (uint64_t)(p->misses - before), name);
		if (fresh->heartbeat_mono)
			snprintf(text + len, sizeof(text) - len, " between %.3f and %.3f",
				 (double)s->guest.heartbeat_mono / 1e9, (double)fresh->heartbeat_mono / 1e9);
		session_note(s->session, text, now);
	}
}

void source_take_guest(struct source *s, const struct htrace_guest *copy,
		       const struct htrace_clock_sample *clock, __u64 now)
{
	struct htrace_guest fresh = *copy;

	session_guest(s->session, &fresh, clock, now);
	if (!s->guest_seen) {
		s->guest_seen = true;
		s->guest = fresh;
		watch_agent(s);
		return;
	}
	note_skipped(s, &fresh, now);
	if (fresh.agent_start_mono != s->guest.agent_start_mono) {
		fold_agent(s, &s->stats);
		s->guest = fresh;
		watch_agent(s);
	} else if (s->guest.state < HTRACE_GUEST_RUNNING && fresh.state == HTRACE_GUEST_RUNNING) {
		s->guest = fresh; /* all until now was its start */
		watch_agent(s);
	} else if (fresh.state > HTRACE_GUEST_RUNNING) {
		/* Taking its programs away is not what it costs while it traces. */
		fresh.agent_cpu_ns = s->guest.agent_cpu_ns;
		fresh.heartbeat_mono = s->guest.heartbeat_mono;
	}
	s->guest = fresh;
}

/* ---------------------------------------------------------------------------------------- ending */

static void fold_programs(const struct source *s, struct stats *st)
{
	st->nr_progs = s->guest.nr_progs;
	st->nr_uncounted = 0;
	for (__u32 i = 0; i < s->guest.nr_progs; i++) {
		st->misses += s->guest.prog[i].misses;
		st->nr_uncounted += !(s->guest.prog[i].flags & HTRACE_PROG_MISSES_COUNTED);
	}
}

struct stats source_stats(const struct source *s, __u64 now)
{
	const struct session *session = s->session ? s->session : s->ending;
	struct stats st = s->stats;

	if (session)
		session_clock_so_far(session, &st);
	if (!s->session)
		return st;
	st.attached_ns += s->ops->attached_ns(s, now);
	if (s->guest_seen) {
		fold_agent(s, &st);
		fold_programs(s, &st);
	}
	return st;
}

void source_let_go(struct source *s, const struct capture_end *end, __u64 now)
{
	session_end(s->session, end, now);
	s->ending = s->session;
	s->session = NULL;
	fold_agent(s, &s->stats);
	fold_programs(s, &s->stats);
	s->stats.attached_ns += end->attached_ns;
	s->stats.unread += end->unread;
	if (end->unread)
		say_within(&s->quota, "%s: %" PRIu64 " bytes of the session's rings were not read",
			   s->spec->path, (uint64_t)end->unread);
}

/* The records of a session that is over go out. Returns whether there are more. */
bool source_emit_ending(struct source *s, __u64 now)
{
	if (!s->ending)
		return false;
	if (session_emit(s->ending, now, true) || !session_is_out(s->ending))
		return true;
	session_close(s->ending);
	s->ending = NULL;
	return false;
}
