/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A source's ends: what is summed up when a session is over, and what comes after it. */
#include <inttypes.h>
#include <stdio.h>

#include "host.h"
#include "message.h"
#include "source_internal.h"

#define BRIEF_NS (500 * MS) /* from a session that was soon over to the next */

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
	left = session_backlog(s->session);
	session_close(s->session);
	s->session = NULL;
	source_fold_agent(s);
	fold_programs(s);
	s->stats.attached_ns += now - s->attached;
	s->stats.unread += left;
	if (left)
		say("%s: %" PRIu64 " bytes of the session's rings were not read", s->spec->path,
		    (uint64_t)left);
	s->done_id = s->session_id;
}

void source_fail(struct source *s, enum htrace_host_reason reason, const char *why, __u64 now)
{
	say("%s: %s", s->spec->path, why);
	if (reason)
		host_refused(s->view, s->session_id, reason);
	source_end_session(s, now);
	s->state = SOURCE_FAILED;
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
	host_waiting(s->view);
	source_enter(s, SOURCE_WAITING, now);
	if (brief) /* sessions that come and go do not get to fill logs */
		s->next_try = now + BRIEF_NS;
}
