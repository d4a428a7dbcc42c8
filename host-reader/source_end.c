/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A source's ends: what is summed up when a session is over, and what comes after it. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include <htrace/schema.h>

#include "clock.h"
#include "host.h"
#include "message.h"
#include "region_file.h"
#include "source_internal.h"

/* What the agent that leaves did while we watched; before that it loaded its programs. */
void source_fold_agent(struct source *s)
{
	const struct htrace_guest *g = &s->guest;

	s->stats.agent_total_ns += g->agent_cpu_ns;
	if (g->heartbeat_mono <= s->agent_mono_from || g->agent_cpu_ns < s->agent_cpu_from)
		return;
	s->stats.agent_cpu_ns += g->agent_cpu_ns - s->agent_cpu_from;
	s->stats.agent_ns += g->heartbeat_mono - s->agent_mono_from;
}

void source_watch_agent(struct source *s)
{
	s->agent_cpu_from = s->guest.agent_cpu_ns;
	s->agent_mono_from = s->guest.heartbeat_mono;
}

/*
 * Calls that the kernel skipped since the last look are lost before they could become events; they
 * are told as soon as the agent has counted them, which is once a second.
 */
void source_note_skipped(struct source *s, const struct htrace_guest *fresh)
{
	struct sink_note note = { .source = s->config->several ? s->spec->path : NULL };
	char name[4 * HTRACE_PROG_NAME + 1], text[4 * HTRACE_PROG_NAME + 128];

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
		snprintf(text, sizeof(text),
			 "%" PRIu64 " calls of %s were skipped by the kernel between %.3f and %.3f",
			 (uint64_t)(p->misses - before), name,
			 (double)s->guest.heartbeat_mono / 1e9, (double)fresh->heartbeat_mono / 1e9);
		note.text = text;
		sinks_note(s->config->sinks, &note);
	}
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
void source_end_session(struct source *s, __u64 now)
{
	__u64 left;

	if (!s->session)
		return;
	left = session_end(s->session, s->look_last);
	s->ending = s->session;
	s->session = NULL;
	source_fold_agent(s);
	fold_programs(s);
	s->stats.attached_ns += now - s->attached;
	s->stats.unread += left;
	if (left)
		say_within(&s->quota, "%s: %" PRIu64 " bytes of the session's rings were not read",
			   s->spec->path, (uint64_t)left);
	s->done_id = s->session_id;
}

void source_fail(struct source *s, enum htrace_host_reason reason, const char *why, __u64 now)
{
	say("%s: %s", s->spec->path, why);
	if (reason && source_may_write(s, now))
		host_refused(s->view, s->session_id, reason);
	source_end_session(s, now);
	s->state = SOURCE_FAILED;
}

/*
 * Whoever may write the file may also put something else there. Only from what a look at all of it
 * costs follows how often that is done.
 */
bool source_may_write(struct source *s, __u64 now)
{
	enum region_content content = region_file_glance(s->fd);
	__u64 took;

	if (content == CONTENT_UNKNOWN && now >= s->next_scan) {
		took = clock_now();
		content = region_file_inspect(s->fd);
		took = clock_now() - took;
		s->next_scan = now + 20 * took;
	}
	return content == CONTENT_EMPTY || content == CONTENT_REGION;
}

void source_announce(struct source *s, __u64 now)
{
	s->announced = source_may_write(s, now);
	if (s->announced)
		host_waiting(s->view);
}

/* Wait for another session. Guest RAM is let go: it may be that of a VM that is gone. */
void source_await_next(struct source *s, __u64 now)
{
	char err[256] = "";
	bool brief = now - s->attached < SEC;

	source_end_session(s, now);
	htrace_view_close(s->view);
	s->view = NULL;
	if (htrace_view_open_fd(&s->view, s->fd, s->writable, err, sizeof(err))) {
		say("%s: %s", s->spec->path, err);
		s->state = SOURCE_FAILED;
		return;
	}
	source_announce(s, now);
	source_enter(s, SOURCE_WAITING, now);
	s->next_try = brief ? now + BRIEF_NS : 0;
}
