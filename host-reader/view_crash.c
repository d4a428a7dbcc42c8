/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --view crash: a report when a guest dies, is reset or shut down: the last events of each CPU, and its console's end. */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "crash.h"
#include "crash_json.h"
#include "message.h"
#include "options.h"
#include "show.h"

typedef unsigned long long ull;

#define KEEP 20
#define WIDTH 19 /* of times before the last event */
#define MS 1000000ULL
/*
 * CPU time of a report: no ring is begun after that, and no event after half as much again. Captures are read for it; a
 * guest that lives would keep others waiting, and can die again and again.
 */
#define SHOW_NS (200 * MS)
#define SHOW_CAPTURE_NS (2000 * MS)
#define SHOW_AGAIN_NS (10 * MS) /* at least; and */
#define SHOW_SHARE 20           /* a share of the time since the report before */

struct view_crash {
	unsigned int keep;
	struct crash_guest *guest[MAX_SOURCES];
	struct console *console[MAX_SOURCES];
	bool capture[MAX_SOURCES], resting[MAX_SOURCES];
	__u64 reported[MAX_SOURCES]; /* when its last report was done, host time; 0: there was none */
	bool finishing;
	void (*show)(struct out *o, const struct crash_report *r);
};

static void crash_view_close(void *view)
{
	struct view_crash *v = view;

	for (unsigned int i = 0; i < MAX_SOURCES; i++)
		crash_free(v->guest[i]);
	free(v);
}

static void crash_view_configure(void *view, const struct view_config *c)
{
	struct view_crash *v = view;

	if (c->number)
		v->keep = c->number;
	for (unsigned int i = 0; i < c->nr && i < MAX_SOURCES; i++) {
		v->console[i] = c->console ? c->console[i] : NULL;
		v->capture[i] = c->capture && c->capture[i];
	}
}

/* ------------------------------------------------------------------------------------ what happens */

/* NULL: what happens there is none of a guest's. */
static struct crash_guest *guest_of(struct view_crash *v, const struct sink_session *session)
{
	unsigned int nr = session->source_nr;

	if (nr >= MAX_SOURCES || session->facts.host)
		return NULL;
	if (!v->guest[nr])
		v->guest[nr] = crash_new(nr);
	if (!v->guest[nr] || v->guest[nr]->session == session)
		return v->guest[nr];
	crash_begin(v->guest[nr], session);
	if (v->console[nr])
		console_begin(v->console[nr]);
	return v->guest[nr];
}

static void crash_view_event(void *view, const struct sink_event *e)
{
	struct view_crash *v = view;
	struct crash_guest *g = guest_of(v, e->from->session);

	if (!g)
		return;
	v->resting[g->nr] = false;
	crash_event(g, e, v->keep);
}

static void crash_view_loss(void *view, const struct sink_loss *l)
{
	struct view_crash *v = view;
	struct crash_guest *g = guest_of(v, l->from->session);

	if (g)
		crash_loss(g, l, v->keep);
}

/* What is said of clocks is of no interest here. */
static void crash_view_note(void *view, const struct sink_note *n)
{
	struct view_crash *v = view;
	struct crash_guest *g = n->session && !n->clock ? guest_of(v, n->session) : NULL;

	if (!g || !strncmp(n->text, "clock: ", 7))
		return;
	v->resting[g->nr] = false;
	crash_note(g, n->text);
}

/* --------------------------------------------------------------------------------------- a report */

static __u64 work_of(const struct view_crash *v, unsigned int nr)
{
	__u64 work = SHOW_AGAIN_NS + (clock_now() - v->reported[nr]) / SHOW_SHARE;

	if (v->capture[nr])
		return SHOW_CAPTURE_NS;
	return v->reported[nr] && work < SHOW_NS ? work : SHOW_NS;
}

static void report(struct view_crash *v, struct crash_guest *g, bool over, struct out *o)
{
	static struct console_tail tail;
	static const struct last_events *rings[CRASH_RINGS];
	struct crash_report r = { .guest = g, .rings = rings, .nr_rings = crash_rings(g, rings) };
	struct console *c = v->console[g->nr];
	__u64 work = work_of(v, g->nr), begin = crash_work();
	int ret = c ? console_read(c, &tail) : 0;

	if (ret)
		say("%s: %s", console_path(c), strerror(-ret));
	if (c && !ret) {
		r.console = console_path(c);
		r.tail = &tail;
		r.clock = crash_clock(g, &tail);
	}
	if (over && g->session->state >= HTRACE_GUEST_CLOSING)
		r.end = "its agent ended the session: nothing is recorded of what came after that";
	else if (over && v->capture[g->nr])
		r.end = "the capture ends here";
	else if (v->finishing)
		r.end = v->resting[g->nr] ? NULL : "host-reader was ended, the guest was not";
	else if (over)
		r.end = "its session was over without a word: it was reset, or another agent began a new one";
	else if (!v->resting[g->nr])
		r.end = "it goes on";
	r.enough = begin + work;
	r.stop = r.enough + work / 2;
	v->show(o, &r);
	out_flush(o);
	v->reported[g->nr] = clock_now();
	if (c)
		console_tail_free(&tail);
	g->notes = 0;
	g->fresh = false;
}

static void crash_view_print_session(void *view, const struct sink_session *session, struct view_page *p)
{
	unsigned int nr = session->source_nr;
	struct view_crash *v = view;

	if (nr >= MAX_SOURCES || !v->guest[nr] || v->guest[nr]->session != session)
		return;
	if (v->guest[nr]->fresh)
		report(v, v->guest[nr], true, p->out);
}

static void crash_view_session_end(void *view, const struct sink_session *session)
{
	unsigned int nr = session->source_nr;
	struct view_crash *v = view;

	if (nr < MAX_SOURCES && v->guest[nr] && v->guest[nr]->session == session)
		crash_begin(v->guest[nr], NULL);
	if (nr < MAX_SOURCES)
		v->resting[nr] = false;
}

static void crash_view_rest(void *view, unsigned int nr, struct view_page *p)
{
	struct view_crash *v = view;
	struct crash_guest *g = nr < MAX_SOURCES ? v->guest[nr] : NULL;

	if (!g || !g->session || !g->fresh)
		return;
	v->resting[nr] = true;
	report(v, g, false, p->out);
}

static void crash_view_finish(void *view)
{
	struct view_crash *v = view;

	v->finishing = true;
}

/* Of those whose sessions are not over. */
static void crash_view_print(void *view, struct view_page *p)
{
	struct view_crash *v = view;

	for (unsigned int i = 0; i < MAX_SOURCES; i++)
		if (v->guest[i] && v->guest[i]->session && v->guest[i]->fresh)
			report(v, v->guest[i], false, p->out);
}

/* ----------------------------------------------------------------------------------------- as text */

/* How long before the last event of all. */
static void put_before(struct out *o, const struct crash_guest *g, __u64 time, int width)
{
	__u64 by = time > g->latest ? time - g->latest : g->latest - time;
	const char *sign = time > g->latest ? "+" : by ? "-" : "";
	char text[48];

	if (g->session->ticks)
		snprintf(text, sizeof(text), "%s%llu", sign, (ull)by);
	else
		snprintf(text, sizeof(text), "%s%llu.%09llu", sign, (ull)(by / 1000000000), (ull)(by % 1000000000));
	out_printf(o, "%*s", width, text);
}

static void put_bytes(struct out *o, const char *text, size_t room, const char *none)
{
	size_t len = strnlen(text, room);

	if (len)
		out_escaped(o, text, len);
	else
		out_text(o, none);
}

static void show_head(struct out *o, const struct crash_report *r)
{
	const struct crash_guest *g = r->guest;
	const struct sink_session *s = g->session;
	unsigned int kept = g->notes < CRASH_NOTES ? g->notes : CRASH_NOTES;
	const char *whose;
	__u64 real;

	out_text(o, "==== ");
	if (*g->source)
		out_printf(o, "%s: ", g->source);
	put_bytes(o, s->hostname, sizeof(s->hostname), "(no name)");
	out_text(o, ", kernel ");
	put_bytes(o, s->release, sizeof(s->release), "(unknown)");
	out_printf(o, ", %u CPUs: its last events", s->facts.nr_cpus);
	out_newline(o);
	for (unsigned int i = g->notes - kept; i < g->notes; i++) {
		out_printf(o, "end:      %s", g->note[i % CRASH_NOTES]);
		out_newline(o);
	}
	if (r->end) {
		out_printf(o, "end:      %s", r->end);
		out_newline(o);
	}
	if (r->tail && r->tail->last_words.len) {
		out_text(o, "console:  ");
		console_show(o, &r->tail->last_words);
		out_newline(o);
	}
	out_printf(o, g->session->ticks ? "last:     %llu ticks of the TSC" : "last:     %llu.%09llu s",
		   (ull)(g->session->ticks ? g->latest : g->latest / 1000000000), (ull)(g->latest % 1000000000));
	whose = crash_real(g, &real);
	if (whose) {
		time_t at = (time_t)(real / 1000000000);
		char text[32] = "";
		struct tm tm;

		if (gmtime_r(&at, &tm))
			strftime(text, sizeof(text), "%Y-%m-%d %H:%M:%S", &tm);
		out_printf(o, ", %s.%06llu UTC by %s clock", text, (ull)(real % 1000000000 / 1000), whose);
	}
	out_printf(o, "; times below are %s before that", g->session->ticks ? "ticks" : "seconds");
	out_newline(o);
}

static void show_loss(struct out *o, const struct sink_loss *l)
{
	if (!l->from)
		return;
	out_spaces(o, WIDTH + 1);
	text_show_loss(o, l);
}

static void show_left_out(struct out *o, unsigned int nr, const char *what)
{
	if (!nr)
		return;
	out_printf(o, "--- %u more %s left out: it is too much work ---", nr, what);
	out_newline(o);
}

static void show_ring(struct out *o, const struct crash_report *r, const struct last_events *l)
{
	unsigned int shown = 0;

	out_newline(o);
	out_printf(o, "%s %u: the last %u of %llu events", l->from.per_cpu ? "CPU" : "ring", l->from.ring, l->nr,
		   (ull)l->count);
	if (l->lost)
		out_printf(o, "; %llu were lost", (ull)l->lost);
	out_newline(o);
	for (; shown < l->nr && crash_work() < r->stop; shown++) {
		const struct last_event *k = last_events_at(l, shown);
		struct sink_event e = last_events_show(l, k);

		show_loss(o, &k->lost);
		out_limit_line(o, TEXT_LINE_BYTES);
		put_before(o, r->guest, k->time, WIDTH);
		out_char(o, ' ');
		text_show_event(o, &e);
	}
	show_left_out(o, l->nr - shown, "events of it are");
	show_loss(o, &l->lost_since);
}

static void show_silent_cpus(struct out *o, const struct crash_report *r)
{
	const char *between = "without an event: CPU ";
	bool any = false;

	for (unsigned int i = 0; i < r->guest->session->facts.nr_cpus && i < HTRACE_MAX_CPUS; i++) {
		if (r->guest->ring[i] && r->guest->ring[i]->count)
			continue;
		if (!any)
			out_newline(o);
		any = true;
		out_printf(o, "%s%u", between, i);
		between = ", ";
	}
	if (any)
		out_newline(o);
}

static void show_clock(struct out *o, const struct crash_report *r)
{
	bool stamped = false;

	for (unsigned int i = 0; i < r->tail->nr; i++)
		stamped |= r->tail->line[i].stamped;
	if (!stamped)
		return;
	if (r->clock.matches)
		out_printf(o, "(placed by %u messages that are events, too; these agree within %llu.%03llu us)",
			   r->clock.matches, (ull)(r->clock.spread / 1000), (ull)(r->clock.spread % 1000));
	else
		out_text(o, "(its times are of the kernel's own clock, which is not the events': guest-agent --events "
			 "printk:console places them)");
	out_newline(o);
}

static void show_console(struct out *o, const struct crash_report *r)
{
	const struct console_tail *t = r->tail;

	if (!t)
		return;
	out_newline(o);
	out_printf(o, "console: the last %u lines of ", t->nr);
	out_escaped(o, r->console, strlen(r->console));
	out_text(o, t->rebooted ? " before its next boot" : "");
	out_text(o, t->replaced ? "; another file has that name by now" : "");
	out_newline(o);
	show_clock(o, r);
	for (unsigned int i = 0; i < t->nr; i++) {
		const struct console_line *l = &t->line[i];

		if (r->clock.matches && l->stamped)
			put_before(o, r->guest, l->time + (__u64)r->clock.offset, WIDTH);
		else if (r->clock.matches)
			out_spaces(o, WIDTH);
		out_text(o, r->clock.matches ? " " : "  ");
		console_show(o, l);
		out_newline(o);
	}
}

/* Where there is no console, what the kernel said as far as that was recorded. */
static void show_messages(struct out *o, const struct crash_report *r)
{
	const struct crash_guest *g = r->guest;
	unsigned int nr = g->nr_said < CRASH_SAID ? g->nr_said : CRASH_SAID;

	if (r->tail || !nr)
		return;
	out_newline(o);
	out_printf(o, "kernel messages: the last %u of %u", nr, g->nr_said);
	out_newline(o);
	for (unsigned int i = g->nr_said - nr; i < g->nr_said; i++) {
		const struct crash_message *m = &g->said[i % CRASH_SAID];
		struct console_line l = { .text = m->text, .len = m->len < CRASH_SAID_BYTES ? m->len : CRASH_SAID_BYTES };

		put_before(o, g, m->time, WIDTH);
		out_char(o, ' ');
		console_show(o, &l);
		out_newline(o);
	}
}

static void show_text(struct out *o, const struct crash_report *r)
{
	unsigned int shown = 0;

	show_head(o, r);
	for (; shown < r->nr_rings && crash_work() < r->enough; shown++)
		show_ring(o, r, r->rings[shown]);
	if (shown < r->nr_rings)
		out_newline(o);
	show_left_out(o, r->nr_rings - shown, r->guest->session->facts.local ? "rings are" : "CPUs are");
	if (!r->guest->session->facts.local)
		show_silent_cpus(o, r);
	show_console(o, r);
	show_messages(o, r);
	out_newline(o);
}

static void *open_showing(void (*show)(struct out *o, const struct crash_report *r))
{
	struct view_crash *v = calloc(1, sizeof(*v));

	if (v) {
		v->keep = KEEP;
		v->show = show;
	}
	return v;
}

static void *crash_view_open(void)
{
	return open_showing(show_text);
}

static void *crash_view_open_json(void)
{
	return open_showing(crash_show_json);
}

/* Reports come one behind the other, on terminals too. */
#define CRASH_VIEW(called, how) {                          \
		.name = called,                            \
		.most = LAST_EVENTS_MAX,                   \
		.lines = true,                             \
		.open = how,                               \
		.configure = crash_view_configure,         \
		.event = crash_view_event,                 \
		.loss = crash_view_loss,                   \
		.note = crash_view_note,                   \
		.rest = crash_view_rest,                   \
		.print_session = crash_view_print_session, \
		.session_end = crash_view_session_end,     \
		.finish = crash_view_finish,               \
		.print = crash_view_print,                 \
		.close = crash_view_close,                 \
	}

const struct view_ops view_crash = CRASH_VIEW("crash", crash_view_open);
const struct view_ops view_crash_json = CRASH_VIEW("crash:json", crash_view_open_json);
