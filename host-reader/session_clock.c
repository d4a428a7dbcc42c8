/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A session's clock: what is learnt of it takes effect at its place between the records, and what changes is said. */
#include "session_internal.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define NOTE_BYTES 256 /* of what is said of clocks */

/* What its times are, for outputs that have no place of their own for it. */
void session_note_clock(struct session *s, const char *when)
{
	char text[160];
	struct sink_note note = {
		.source = s->c.source, .text = text, .clock = s->clock.on_host ? "host" : "own",
		.bound = s->clock.bound,
	};

	if (s->clock.on_host && s->clock.bound == HOST_CLOCK_UNKNOWN)
		snprintf(text, sizeof(text), "clock %s: times are the host's CLOCK_MONOTONIC; within what is not known: a "
			 "step was suspected, and it did not answer", when);
	else if (s->clock.on_host)
		snprintf(text, sizeof(text), "clock %s: times are the host's CLOCK_MONOTONIC, within %llu ns",
			 when, (unsigned long long)s->clock.bound);
	else
		snprintf(text, sizeof(text), "clock %s: times are its own; how that goes beside the host's is "
			 "not known", when);
	sinks_note(s->c.sinks, &note);
}

void session_clock(struct session *s, const struct htrace_clock_sample *samples, __u32 nr,
		   __u64 now)
{
	size_t len = nr * sizeof(*samples);
	struct mark *m;

	if (!s->clock.clock)
		return;
	session_tell(s, CAPTURE_CLOCK, samples, len, now);
	if (session_watch(s))
		session_clock(session_watch(s), samples, nr, now);
	m = session_new_mark(MARK_CLOCK, len);
	if (!m)
		return;
	m->nr = nr;
	memcpy(m->sample, samples, len);
	session_put_mark(s, m, now);
}

void session_host_clock(struct session *s, const struct host_word *words, __u32 nr, __u64 now)
{
	size_t len = nr * sizeof(*words);
	struct mark *m;

	session_tell(s, CAPTURE_HOST, words, len, now);
	if (session_watch(s))
		session_host_clock(session_watch(s), words, nr, now);
	m = session_new_mark(MARK_HOST, len);
	if (!m)
		return;
	m->nr = nr;
	memcpy(m->word, words, len);
	session_put_mark(s, m, now);
}

/* @bound: NULL, or what can be claimed of times from here on. */
static void __attribute__((format(printf, 3, 4)))
queue_clock_note(struct session *s, const __u64 *bound, const char *fmt, ...)
{
	struct mark *m = session_new_mark(MARK_NOTE, NOTE_BYTES);
	va_list args;

	if (!m)
		return;
	va_start(args, fmt);
	vsnprintf(m->text, NOTE_BYTES, fmt, args);
	va_end(args);
	m->tells_bound = bound != NULL;
	m->bound = bound ? *bound : 0;
	session_queue_note(s, m);
}

/* What is claimed of times is said when it is no more, or not as it was; @doubted, @bound: before. */
static void note_doubt(struct session *s, const struct host_word *w, bool doubted, __u64 bound)
{
	static const __u64 unknown = HOST_CLOCK_UNKNOWN;
	const struct region_clock *c = &s->clock;

	if (!doubted && c->host.doubted)
		queue_clock_note(s, &unknown, "clock: a step of %.6f s or more is suspected, and the guest does not answer: "
				 "how far off times are from %llu.%09llu of its own on is not known, until it does",
				 (double)w->error / 1e9, (unsigned long long)(w->region / 1000000000),
				 (unsigned long long)(w->region % 1000000000));
	else if (doubted && !c->host.doubted)
		queue_clock_note(s, &c->bound, "clock: the guest has answered: all times so far are right within %llu ns",
				 (unsigned long long)c->bound);
	else if (!c->host.doubted && c->bound / 2 > bound) /* not for each ns */
		queue_clock_note(s, &c->bound, "clock: times before were further off than was known: all so far are right "
				 "within %llu ns", (unsigned long long)c->bound);
}

bool session_bound(const struct session *s, __u64 *bound)
{
	*bound = s->clock.bound;
	return s->clock.shown && s->clock.on_host;
}

void session_clock_so_far(const struct session *s, struct stats *stats)
{
	stats_clock_so_far(stats, &s->clock);
}

void session_use_host_word(struct session *s, const struct host_word *w)
{
	bool doubted = s->clock.host.doubted;
	__u64 bound = s->clock.bound;

	if (region_clock_learn(&s->clock, w))
		return;
	s->about.host_real = w->real;
	memcpy(s->about.host_boot_id, w->boot_id, sizeof(w->boot_id));
	if (!s->merge)
		return;
	if (s->clock.wants_host && s->clock.on_host == s->clock.shown)
		note_doubt(s, w, doubted, bound);
	if (w->kind == HOST_WORD_STEP)
		queue_clock_note(s, NULL, "clock: a step of %+.9f s against the host's at %llu.%09llu of its own",
				 (double)(__s64)w->host / 1e9, (unsigned long long)(w->region / 1000000000),
				 (unsigned long long)(w->region % 1000000000));
}
