/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --view crash:json: a report as an object. */
#include "crash_json.h"

#include <string.h>
#include <time.h>

#include "show.h"

__u64 crash_work(void)
{
	struct timespec t;

	clock_gettime(CLOCK_THREAD_CPUTIME_ID, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

static void put_ends(struct out *o, const struct crash_report *r)
{
	const struct crash_guest *g = r->guest;
	unsigned int kept = g->notes < CRASH_NOTES ? g->notes : CRASH_NOTES;
	bool any = false;

	out_text(o, ",\"end\":[");
	for (unsigned int i = g->notes - kept; i < g->notes; i++, any = true) {
		out_text(o, any ? "," : "");
		view_json_text(o, g->note[i % CRASH_NOTES]);
	}
	if (r->end) {
		out_text(o, any ? "," : "");
		view_json_text(o, r->end);
	}
	out_char(o, ']');
}

static void put_loss(struct out *o, const struct sink_loss *l, bool *any)
{
	if (!l->from)
		return;
	out_text(o, *any ? "," : "");
	*any = true;
	json_show_loss(o, l);
}

static void put_ring(struct out *o, const struct crash_report *r, const struct last_events *l)
{
	unsigned int shown = 0;
	bool any = false;

	out_printf(o, "{\"%s\":%u", l->from.per_cpu ? "cpu" : "ring", l->from.ring);
	view_json_number(o, "count", l->count);
	view_json_number(o, "lost", l->lost);
	out_text(o, ",\"events\":[");
	for (; shown < l->nr && crash_work() < r->stop; shown++) {
		const struct last_event *k = last_events_at(l, shown);
		struct sink_event e = last_events_show(l, k);

		put_loss(o, &k->lost, &any);
		out_text(o, any ? "," : "");
		any = true;
		json_show_event(o, &e);
	}
	put_loss(o, &l->lost_since, &any);
	out_char(o, ']');
	if (shown < l->nr)
		view_json_number(o, "left_out", l->nr - shown);
	out_char(o, '}');
}

static void put_line(struct out *o, const struct console_line *l, const struct crash_clock *c)
{
	out_text(o, "{\"text\":");
	json_show_string(o, l->text, l->len < CONSOLE_LINE ? l->len : CONSOLE_LINE);
	if (l->stamped)
		view_json_number(o, "stamp", l->time);
	if (l->stamped && c->matches)
		view_json_number(o, "time", l->time + (__u64)c->offset);
	out_char(o, '}');
}

static void put_console(struct out *o, const struct crash_report *r)
{
	const struct console_tail *t = r->tail;

	if (!t)
		return;
	out_text(o, ",\"console\":{\"path\":");
	json_show_string(o, r->console, strlen(r->console));
	if (t->last_words.len)
		view_json_said(o, "last_words", t->last_words.text,
			       t->last_words.len < CONSOLE_LINE ? t->last_words.len : CONSOLE_LINE);
	if (r->clock.matches) {
		view_json_number(o, "matches", r->clock.matches);
		view_json_number(o, "within", r->clock.spread);
	}
	out_printf(o, ",\"next_boot\":%s,\"replaced\":%s,\"lines\":[", t->rebooted ? "true" : "false",
		   t->replaced ? "true" : "false");
	for (unsigned int i = 0; i < t->nr; i++) {
		out_text(o, i ? "," : "");
		put_line(o, &t->line[i], &r->clock);
	}
	out_text(o, "]}");
}

static void put_messages(struct out *o, const struct crash_guest *g)
{
	unsigned int nr = g->nr_said < CRASH_SAID ? g->nr_said : CRASH_SAID;

	out_text(o, ",\"messages\":[");
	for (unsigned int i = g->nr_said - nr; i < g->nr_said; i++) {
		const struct crash_message *m = &g->said[i % CRASH_SAID];

		out_printf(o, "%s{\"time\":%llu,\"text\":", i > g->nr_said - nr ? "," : "", (unsigned long long)m->time);
		json_show_string(o, m->text, m->len < CRASH_SAID_BYTES ? m->len : CRASH_SAID_BYTES);
		out_char(o, '}');
	}
	out_char(o, ']');
}

void crash_show_json(struct out *o, const struct crash_report *r)
{
	const struct sink_session *s = r->guest->session;
	unsigned int shown = 0;
	__u64 real;

	out_text(o, "{\"view\":\"crash\"");
	if (*r->guest->source) {
		out_text(o, ",\"source\":");
		view_json_text(o, r->guest->source);
	}
	view_json_said(o, "hostname", s->hostname, sizeof(s->hostname));
	view_json_said(o, "kernel", s->release, sizeof(s->release));
	view_json_number(o, "nr_cpus", s->facts.nr_cpus);
	put_ends(o, r);
	view_json_number(o, s->ticks ? "last_tsc" : "last", r->guest->latest);
	if (crash_real(r->guest, &real))
		view_json_number(o, "last_realtime", real);
	out_text(o, ",\"rings\":[");
	for (; shown < r->nr_rings && crash_work() < r->enough; shown++) {
		out_text(o, shown ? "," : "");
		put_ring(o, r, r->rings[shown]);
	}
	out_char(o, ']');
	if (shown < r->nr_rings)
		view_json_number(o, "left_out", r->nr_rings - shown);
	if (r->guest->nr_said)
		put_messages(o, r->guest);
	put_console(o, r);
	out_char(o, '}');
	out_newline(o);
}
