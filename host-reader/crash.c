/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "crash.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "event_fields.h"

struct crash_guest *crash_new(unsigned int nr)
{
	struct crash_guest *g = calloc(1, sizeof(*g));

	if (g)
		g->nr = nr;
	return g;
}

static void forget_rings(struct crash_guest *g)
{
	for (unsigned int i = 0; i < CRASH_RINGS; i++) {
		last_events_free(g->ring[i]);
		g->ring[i] = NULL;
	}
}

void crash_free(struct crash_guest *g)
{
	if (!g)
		return;
	forget_rings(g);
	free(g);
}

void crash_begin(struct crash_guest *g, const struct sink_session *session)
{
	forget_rings(g);
	g->session = session;
	g->latest = g->unkept = 0;
	g->notes = g->nr_said = 0;
	g->fresh = false;
	if (session)
		view_source_name(g->source, session);
}

/* ------------------------------------------------------------------------------------ what happens */

static struct last_events *ring_of(struct crash_guest *g, const struct origin *from, unsigned int keep)
{
	struct last_events **l;

	if (from->ring >= HTRACE_MAX_CPUS)
		return NULL;
	l = &g->ring[from->ring + (from->per_cpu ? 0 : HTRACE_MAX_CPUS)];
	if (!*l)
		*l = last_events_new(keep, from);
	return *l;
}

/* The event `console`, or printk_console where there is another one of that name. */
static bool is_message(const struct sink_event *e)
{
	return e->event && (!strcmp(e->event->name, "console") || !strcmp(e->event->name, "printk_console"));
}

static void keep_message(struct crash_guest *g, __u64 time, const char *text, size_t len)
{
	struct crash_message *m = &g->said[g->nr_said++ % CRASH_SAID];

	m->time = time;
	m->len = (unsigned int)len;
	memcpy(m->text, text, len < CRASH_SAID_BYTES ? len : CRASH_SAID_BYTES);
}

void crash_event(struct crash_guest *g, const struct sink_event *e, unsigned int keep)
{
	struct last_events *l;
	const char *text;
	size_t len;

	g->fresh = true;
	text = is_message(e) ? event_text(e, "msg", &len) : NULL;
	if (text) {
		keep_message(g, e->time, text, len);
		return;
	}
	if (e->time > g->latest)
		g->latest = e->time;
	l = ring_of(g, e->from, keep);
	if (l)
		last_events_add(l, e);
	else
		g->unkept++;
}

void crash_loss(struct crash_guest *g, const struct sink_loss *lost, unsigned int keep)
{
	struct last_events *l = ring_of(g, lost->from, keep);

	g->fresh = true;
	if (l)
		last_events_lose(l, lost);
}

void crash_note(struct crash_guest *g, const char *text)
{
	snprintf(g->note[g->notes++ % CRASH_NOTES], CRASH_NOTE, "%s", text);
}

/* --------------------------------------------------------------------------------- what is made of it */

static int by_latest(const void *a, const void *b)
{
	const struct last_events *x = *(const struct last_events *const *)a, *y = *(const struct last_events *const *)b;

	if (x->latest != y->latest)
		return x->latest > y->latest ? -1 : 1;
	return x->from.ring < y->from.ring ? -1 : x->from.ring > y->from.ring;
}

unsigned int crash_rings(const struct crash_guest *g, const struct last_events *rings[CRASH_RINGS])
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < CRASH_RINGS; i++)
		if (g->ring[i] && (g->ring[i]->count || g->ring[i]->lost))
			rings[nr++] = g->ring[i];
	qsort(rings, nr, sizeof(*rings), by_latest);
	return nr;
}

/* The only line that has this message; NULL: there is none, or there are several. */
static const struct console_line *line_of(const struct console_tail *t, const struct crash_message *m)
{
	const struct console_line *found = NULL;

	for (unsigned int i = 0; i < t->nr; i++) {
		const struct console_line *l = &t->line[i];

		if (!l->stamped || l->len - l->message != m->len || m->len > CRASH_SAID_BYTES ||
		    memcmp(l->text + l->message, m->text, m->len))
			continue;
		if (found)
			return NULL;
		found = l;
	}
	return found;
}

/*
 * The event of a message comes right after the message got its time, so that the smallest difference is the
 * closest one.
 */
struct crash_clock crash_clock(const struct crash_guest *g, const struct console_tail *t)
{
	unsigned int nr = g->nr_said < CRASH_SAID ? g->nr_said : CRASH_SAID;
	struct crash_clock c = { 0 };
	__s64 least = 0, most = 0;

	for (unsigned int i = 0; i < nr; i++) {
		const struct console_line *l = line_of(t, &g->said[i]);
		__s64 offset;

		if (!l)
			continue;
		offset = (__s64)(g->said[i].time - l->time);
		least = !c.matches || offset < least ? offset : least;
		most = !c.matches || offset > most ? offset : most;
		c.matches++;
	}
	c.offset = least;
	c.spread = (__u64)most - (__u64)least;
	return c;
}

const char *crash_real(const struct crash_guest *g, __u64 *real)
{
	const struct sink_session *s = g->session;

	if (s->ticks)
		return NULL;
	if (s->on_host && s->host_real) {
		*real = g->latest + s->host_real;
		return "the host's";
	}
	if (s->on_host || !s->clock.mono || !s->clock.real)
		return NULL;
	*real = s->clock.real + (g->latest - s->clock.mono);
	return "the guest's";
}
