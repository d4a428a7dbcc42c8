/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "view.h"

#include <errno.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "show.h"

#define SECOND 1000000000ULL
#define BAR 40

typedef unsigned long long ull;

static const struct view_ops *const kinds[] = {
	&view_exits, &view_exits_json, &view_io, &view_io_json,
	&view_functions, &view_functions_graph, &view_functions_folded,
	&view_functions_json, &view_steal, &view_steal_json, &view_hypercalls, &view_hypercalls_folded,
	&view_hypercalls_json, &view_boot, &view_boot_json, &view_crash, &view_crash_json,
	&view_summary_json,
};

struct view {
	const struct view_ops *ops;
	void *state;
	__u64 interval; /* 0: at the end only */
	__u64 next;     /* page, host time */
	bool in_place;  /* on a terminal */
	bool printed;
};

/* The colon before a number at its end, or NULL. */
static const char *number_at(const char *name)
{
	const char *colon = strrchr(name, ':');

	return colon && colon[1] && !colon[1 + strspn(colon + 1, "0123456789")] ? colon : NULL;
}

unsigned int view_number(const char *name)
{
	const char *colon = number_at(name);
	unsigned long v = colon ? strtoul(colon + 1, NULL, 10) : 0;

	return v < UINT_MAX ? (unsigned int)v : UINT_MAX;
}

const struct view_ops *view_find(const char *name)
{
	const char *colon = number_at(name);
	size_t len = colon ? (size_t)(colon - name) : strlen(name);
	unsigned int number = view_number(name);

	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (strlen(kinds[i]->name) == len && !memcmp(kinds[i]->name, name, len))
			return number > kinds[i]->most || (colon && !number) ? NULL : kinds[i];
	return NULL;
}

/* -------------------------------------------------------------------------------------- as a sink */

static void view_event(struct sink *s, const struct sink_event *e)
{
	struct view *v = s->state;

	v->ops->event(v->state, e);
}

static void view_loss(struct sink *s, const struct sink_loss *l)
{
	struct view *v = s->state;

	v->ops->loss(v->state, l);
}

static void view_vcpu(struct sink *s, const struct sink_session *session, const struct vcpu_change *c)
{
	struct view *v = s->state;

	if (v->ops->vcpu)
		v->ops->vcpu(v->state, session, c);
}

static void view_note(struct sink *s, const struct sink_note *n)
{
	struct view *v = s->state;

	if (v->ops->note)
		v->ops->note(v->state, n);
}

static void view_session_end(struct sink *s, const struct sink_session *session)
{
	struct view_page p = { .out = s->out };
	struct view *v = s->state;

	if (v->ops->print_session)
		v->ops->print_session(v->state, session, &p);
	v->ops->session_end(v->state, session);
}

static const struct sink_ops sink_view = {
	.name = "view",
	.event = view_event,
	.loss = view_loss,
	.note = view_note,
	.vcpu = view_vcpu,
	.session_end = view_session_end,
};

/* That counts elsewhere: no record has to be put in order for it. */
static const struct sink_ops sink_view_of_numbers = {
	.name = "view",
};

int views_open(struct sinks *s, const struct view_ops *ops, __u64 interval, __u64 now)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		struct sink *k = &s->sink[i];
		struct view *v;

		if (k->ops != &sink_text)
			continue;
		v = calloc(1, sizeof(*v));
		if (v)
			v->state = ops->open();
		if (!v || !v->state) {
			free(v);
			return -ENOMEM;
		}
		v->ops = ops;
		v->in_place = out_is_terminal(k->out) && !ops->lines;
		v->interval = interval || !v->in_place ? interval : SECOND;
		v->next = v->in_place ? now : now + interval;
		k->ops = ops->event ? &sink_view : &sink_view_of_numbers;
		k->state = v;
	}
	return 0;
}

/* ------------------------------------------------------------------------------------------ pages */

void view_line(struct view_page *p, const char *fmt, ...)
{
	char text[512];
	va_list args;
	int len;

	if (p->rows && p->used + 1 >= p->rows) { /* the last one says how many are missing */
		p->left_out++;
		return;
	}
	va_start(args, fmt);
	len = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (len < 0)
		len = 0;
	if ((size_t)len >= sizeof(text))
		len = sizeof(text) - 1;
	if (p->columns && (unsigned int)len > p->columns)
		len = (int)p->columns;
	out_mem(p->out, text, (size_t)len);
	if (p->rows)
		out_text(p->out, "\033[K"); /* what stood there before */
	out_newline(p->out);
	p->used++;
}

void view_octaves(struct view_page *p, const struct durations *d)
{
	static const char unit[] = " KMGTP";
	unsigned int first = DURATIONS_OCTAVES, last = 0;
	__u64 most = 1;

	for (unsigned int i = 0; i < DURATIONS_OCTAVES; i++) {
		__u64 nr = durations_octave(d, i);

		if (!nr)
			continue;
		first = first < i ? first : i;
		last = i;
		most = nr > most ? nr : most;
	}
	for (unsigned int i = first; i <= last; i++) {
		__u64 nr = durations_octave(d, i);
		int bar = (int)((nr * BAR + most - 1) / most);
		char from[8], range[20];

		snprintf(from, sizeof(from), "%u%.1s", i ? 1u << i % 10 : 0, i < 10 ? "" : &unit[i / 10]);
		snprintf(range, sizeof(range), "[%s, %u%.1s)", from, 1u << (i + 1) % 10,
			 i < 9 ? "" : &unit[(i + 1) / 10]);
		view_line(p, "%-16s %9llu |%-*.*s|", range, (ull)nr, BAR, bar,
			  "@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@@");
	}
}

void view_source_name(char name[VIEW_SOURCE], const struct sink_session *session)
{
	if (session->source && !*name)
		name[htrace_escape(name, VIEW_SOURCE - 1, session->source, strlen(session->source))] = 0;
}

/* What is harmless on a terminal has backslashes still. */
void view_json_text(struct out *o, const char *text)
{
	out_char(o, '"');
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			out_char(o, '\\');
		out_char(o, *text);
	}
	out_char(o, '"');
}

void view_json_number(struct out *o, const char *name, __u64 v)
{
	out_printf(o, ",\"%s\":%llu", name, (ull)v);
}

void view_json_spread(struct out *o, const struct durations *d)
{
	view_json_number(o, "min_ns", d->min);
	view_json_number(o, "p50_ns", durations_percentile(d, 0.5));
	view_json_number(o, "p99_ns", durations_percentile(d, 0.99));
	view_json_number(o, "max_ns", d->max);
}

void view_json_octaves(struct out *o, const struct durations *d, const char *unit)
{
	bool any = false;

	out_text(o, ",\"octaves\":[");
	for (unsigned int i = 0; i < DURATIONS_OCTAVES; i++) {
		__u64 nr = durations_octave(d, i);

		if (!nr)
			continue;
		out_printf(o, "%s{\"from_%s\":%llu,\"count\":%llu}", any ? "," : "", unit, i ? 1ULL << i : 0, (ull)nr);
		any = true;
	}
	out_char(o, ']');
}

void view_json_durations(struct out *o, const struct durations *d, const char *unit)
{
	const struct {
		const char *name;
		__u64 v;
	} all[] = {
		{ "sum", d->sum }, { "min", d->min }, { "p50", durations_percentile(d, 0.5) },
		{ "p99", durations_percentile(d, 0.99) }, { "p999", durations_percentile(d, 0.999) }, { "max", d->max },
	};

	out_printf(o, "\"count\":%llu", (ull)d->count);
	for (size_t i = 0; i < sizeof(all) / sizeof(*all); i++)
		out_printf(o, ",\"%s_%s\":%llu", all[i].name, unit, (ull)all[i].v);
	out_printf(o, ",\"error_percent\":%.2f", durations_error(d));
	view_json_octaves(o, d, unit);
}

void view_json_named(struct out *o, const char *name, const char *text)
{
	if (!*text)
		return;
	out_printf(o, ",\"%s\":", name);
	view_json_text(o, text);
}

void view_json_said(struct out *o, const char *name, const char *text, size_t room)
{
	size_t len = strnlen(text, room);

	if (!len)
		return;
	out_printf(o, ",\"%s\":", name);
	json_show_string(o, text, len);
}

/* In the place of the page before; the cursor stays below, where messages go. */
static void print_in_place(struct view *v, struct view_page *p)
{
	if (out_terminal_size(p->out, &p->rows, &p->columns)) {
		p->rows = 24;
		p->columns = 80;
	}
	p->rows--;
	out_text(p->out, v->printed ? "\033[H" : "\033[H\033[2J");
	v->ops->print(v->state, p);
	if (p->left_out) {
		out_printf(p->out, "... %u more lines, shown at the end\033[K", p->left_out);
		out_newline(p->out);
	}
	out_text(p->out, "\033[J");
}

static void print(struct view *v, struct out *o, bool end)
{
	struct view_page p = { .out = o };

	if (v->in_place && !end) {
		print_in_place(v, &p);
	} else {
		if (v->in_place && v->printed)
			out_text(o, "\033[H\033[J");
		else if (v->printed && !v->ops->lines)
			out_newline(o);
		v->ops->print(v->state, &p);
	}
	out_flush(o);
	v->printed = true;
}

static struct view *view_of(struct sinks *s, unsigned int i)
{
	const struct sink *k = &s->sink[i];

	return k->ops == &sink_view || k->ops == &sink_view_of_numbers ? k->state : NULL;
}

void views_configure(struct sinks *s, const struct view_config *c)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		struct view *v = view_of(s, i);

		if (v && v->ops->configure)
			v->ops->configure(v->state, c);
	}
}

void views_rest(struct sinks *s, unsigned int source_nr)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		struct view_page p = { .out = s->sink[i].out };
		struct view *v = view_of(s, i);

		if (v && v->ops->rest)
			v->ops->rest(v->state, source_nr, &p);
	}
}

void views_finish(struct sinks *s)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		struct view *v = view_of(s, i);

		if (v && v->ops->finish)
			v->ops->finish(v->state);
	}
}

void views_refresh(struct sinks *s, __u64 now)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		struct view *v = view_of(s, i);

		if (!v || !v->interval || now < v->next)
			continue;
		print(v, s->sink[i].out, false);
		v->next = now + v->interval;
	}
}

void views_close(struct sinks *s, bool last_page)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		struct view *v = view_of(s, i);

		if (!v)
			continue;
		if (last_page)
			print(v, s->sink[i].out, true);
		v->ops->close(v->state);
		free(v);
		s->sink[i].ops = &sink_text;
		s->sink[i].state = NULL;
	}
}
