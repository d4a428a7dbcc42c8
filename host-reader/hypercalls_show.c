/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypercalls_show.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef unsigned long long ull;

#define TOP 20
#define NAME_WIDTH 44
#define BATCH_TEXT 200

static double seconds(const struct hypercalls_shown *s, __u64 from)
{
	return s->h->last > from ? (double)(s->h->last - from) / 1e9 : 0.0;
}

/* "SOURCE:NAME", or what there is of it. */
static void full_name(const struct hypercalls_shown *s, unsigned int source, const char *name, char *text, size_t len)
{
	snprintf(text, len, "%s%s%s", s->source[source], *s->source[source] ? ":" : "", name);
}

/* As "mmu_update x3 + mmuext_op". */
static void batch_name(const struct hypercalls_batch *b, char *text, size_t len)
{
	size_t at = 0;

	*text = 0;
	for (unsigned int i = 0; i < b->nr && at < len; i++) {
		char times[16] = "";

		if (b->op[i].nr > 1)
			snprintf(times, sizeof(times), " x%u", b->op[i].nr);
		at += (size_t)snprintf(text + at, len - at, "%s%s%s", i ? " + " : "", b->op[i].row->name, times);
	}
}

/* ----------------------------------------------------------------------------------------- as tables */

/* On a terminal each of the tables has so many rows. */
static size_t rows_of(const struct view_page *p, size_t nr)
{
	size_t most = p->rows ? p->rows / 6 : TOP;

	most = most ? most : 1;
	return nr < most ? nr : most;
}

static void print_head(struct view_page *p, int width, const char *what, const char *count)
{
	view_line(p, "%s", "");
	view_line(p, "%-*s %9s %10s %7s %7s %10s %9s %9s %10s", width, what, count, "per s", "Count%", "Time%", "Mean us",
		  "p50 us", "p99 us", "Max us");
}

static void print_times(struct view_page *p, int width, const char *name, __u64 count, double per_second,
			double count_share, double time_share, const struct durations *d)
{
	view_line(p, "%-*s %9llu %10.1f %6.2f%% %6.2f%% %10.2f %9.2f %9.2f %10.2f", width, name, (ull)count, per_second,
		  count_share, time_share, durations_mean(d) / 1e3, us(durations_percentile(d, 0.5)),
		  us(durations_percentile(d, 0.99)), us(d->max));
}

static void print_more(struct view_page *p, size_t shown, size_t nr)
{
	if (nr > shown)
		view_line(p, "and %zu more", nr - shown);
}

/* Of hypercalls those that were flushed; or, where flushes were not recorded, queued. */
static __u64 count_of(const struct hypercalls *h, const struct hypercalls_row *r, bool is_op)
{
	return !is_op ? r->d.count : h->calls ? r->calls : r->queued;
}

/* @of: the sum of counts, of times. */
static void print_rows(const struct hypercalls_shown *s, struct view_page *p, const struct table *t, const char *what,
		       const char *count, bool is_op, const __u64 of[2])
{
	size_t nr, shown;
	struct hypercalls_row **row = hypercalls_rows(t, is_op, &nr);
	double time = seconds(s, s->since ? s->since : s->h->first);
	char name[VIEW_SOURCE + HYPERCALLS_NAME];
	int width = 24;

	shown = rows_of(p, nr);
	for (size_t i = 0; i < shown; i++) {
		full_name(s, row[i]->source, row[i]->name, name, sizeof(name));
		width = (int)strlen(name) > width ? (int)strlen(name) : width;
	}
	width = width > NAME_WIDTH ? NAME_WIDTH : width;
	if (nr)
		print_head(p, width, what, count);
	for (size_t i = 0; i < shown; i++) {
		const struct hypercalls_row *r = row[i];
		__u64 n = count_of(s->h, r, is_op);

		full_name(s, r->source, r->name, name, sizeof(name));
		print_times(p, width, name, n, time > 0 ? (double)(n - r->before) / time : 0.0, percent(n, of[0]),
			    percent(r->d.sum, of[1]), &r->d);
	}
	print_more(p, shown, nr);
	for (size_t i = 0; i < nr; i++)
		row[i]->before = count_of(s->h, row[i], is_op);
	free(row);
}

static void print_alone(const struct hypercalls_shown *s, struct view_page *p)
{
	size_t nr, shown = 0;
	struct hypercalls_row **row = hypercalls_rows(&s->h->ops, true, &nr);

	for (size_t i = 0; i < nr && shown < rows_of(p, nr); i++) {
		char name[VIEW_SOURCE + HYPERCALLS_NAME];

		if (!row[i]->alone_calls)
			continue;
		if (!shown++) {
			view_line(p, "%s", "");
			view_line(p, "%-*s %9s %10s", NAME_WIDTH, "FLUSHED WITH ITS LIKE ONLY", "Calls", "us a call");
		}
		full_name(s, row[i]->source, row[i]->name, name, sizeof(name));
		view_line(p, "%-*s %9llu %10.2f", NAME_WIDTH, name, (ull)row[i]->alone_calls,
			  (double)row[i]->alone_ns / (double)row[i]->alone_calls / 1e3);
	}
	free(row);
}

static void print_batches(const struct hypercalls_shown *s, struct view_page *p)
{
	size_t nr, shown;
	struct hypercalls_batch **b = hypercalls_batches(s->h, &nr);

	shown = rows_of(p, nr);
	if (nr) {
		view_line(p, "%s", "");
		view_line(p, "%9s %7s %7s %10s %9s %9s %10s  %s", "Flushes", "Count%", "Time%", "Mean us", "p50 us",
			  "p99 us", "Max us", "FLUSHED TOGETHER");
	}
	for (size_t i = 0; i < shown; i++) {
		const struct durations *d = &b[i]->d;
		char name[BATCH_TEXT], full[BATCH_TEXT + VIEW_SOURCE];

		batch_name(b[i], name, sizeof(name));
		full_name(s, b[i]->source, name, full, sizeof(full));
		view_line(p, "%9llu %6.2f%% %6.2f%% %10.2f %9.2f %9.2f %10.2f  %s", (ull)d->count,
			  percent(d->count, s->h->flush.count), percent(d->sum, s->h->flush.sum),
			  durations_mean(d) / 1e3, us(durations_percentile(d, 0.5)), us(durations_percentile(d, 0.99)),
			  us(d->max), full);
	}
	print_more(p, shown, nr);
	free(b);
}

static void print_head_lines(const struct hypercalls *h, struct view_page *p)
{
	__u64 flushes = h->flush.count + h->empty.count;

	view_line(p, "%llu hypercalls in %llu flushes, %llu upcalls with %llu event channels, in %.3f s", (ull)h->calls,
		  (ull)flushes, (ull)h->upcall.count, (ull)h->channels_handled, (double)(h->last - h->first) / 1e9);
	if (!flushes && !h->queued && !h->upcall.count && !h->channels_handled)
		view_line(p, "nothing was recorded: start guest-agent with --events hypercalls in a Xen PV guest");
	if (flushes) {
		view_line(p, "flushes: %llu empty (%.2f%%), %llu of one call (%.2f%%), %.2f calls in each that is not empty (at "
			  "most %llu)", (ull)h->empty.count, percent(h->empty.count, flushes), (ull)h->single,
			  percent(h->single, flushes), durations_mean(&h->size), (ull)h->size.max);
		view_line(p, "         %.3f ms in all, p50 %.2f us, p99 %.2f us, max %.2f us", (double)h->flush.sum / 1e6,
			  us(durations_percentile(&h->flush, 0.5)), us(durations_percentile(&h->flush, 0.99)),
			  us(h->flush.max));
	}
	if (h->begun || h->issued || h->queued || h->extended || h->not_extended)
		view_line(p, "batches: %llu begun, %llu issued; calls: %llu queued, %llu extended, %llu not extended",
			  (ull)h->begun, (ull)h->issued, (ull)h->queued, (ull)h->extended, (ull)h->not_extended);
	if (h->unknown)
		view_line(p, "operations that were not told: %llu", (ull)h->unknown);
	if (h->lost)
		view_line(p, "lost: %llu events", (ull)h->lost);
	if (h->beyond)
		view_line(p, "for which there was no room: %llu", (ull)h->beyond);
}

static void print_bars(struct view_page *p, const char *what, const struct durations *d)
{
	if (!d->count)
		return;
	view_line(p, "%s", "");
	view_line(p, "%s:", what);
	view_octaves(p, d);
}

void hypercalls_show_tables(const struct hypercalls_shown *s, struct view_page *p)
{
	struct hypercalls *h = s->h;

	print_head_lines(h, p);
	print_rows(s, p, &h->ops, "HYPERCALL, in flushes of", "Calls", true,
		   (const __u64[]){ h->calls ? h->calls : h->queued, h->flush.sum });
	print_batches(s, p);
	print_alone(s, p);
	print_rows(s, p, &h->upcalls, "UPCALLS WHILE IT RAN", "Upcalls", false,
		   (const __u64[]){ h->upcall.count, h->upcall.sum });
	print_rows(s, p, &h->channels, "EVENT CHANNEL", "Events", false,
		   (const __u64[]){ h->channels_handled, h->upcall.sum });
	print_bars(p, "calls of a flush", &h->size);
	print_bars(p, "flush, ns", &h->flush);
	print_bars(p, "upcall, ns", &h->upcall);
}

void hypercalls_show_folded(const struct hypercalls_shown *s, struct view_page *p)
{
	size_t nr;
	struct hypercalls_stack **stack = hypercalls_stacks(s->h, &nr);

	for (size_t i = 0; i < nr; i++) {
		__u64 calls = stack[i]->calls;

		while (i + 1 < nr && !strcmp(stack[i]->text, stack[i + 1]->text))
			calls += stack[++i]->calls;
		out_text(p->out, stack[i]->text);
		out_printf(p->out, " %llu", (ull)calls);
		out_newline(p->out);
	}
	free(stack);
}

/* ------------------------------------------------------------------------------------------- as JSON */

static void json_times(struct out *o, const struct durations *d)
{
	view_json_number(o, "ns", d->sum);
	view_json_spread(o, d);
}

static void json_source(const struct hypercalls_shown *s, struct out *o, unsigned int source)
{
	if (!*s->source[source])
		return;
	out_text(o, ",\"source\":");
	view_json_text(o, s->source[source]);
}

/* A member whose value is an object of times. */
static void json_durations(struct out *o, const char *name, const struct durations *d)
{
	out_printf(o, ",\"%s\":{\"count\":%llu", name, (ull)d->count);
	json_times(o, d);
	out_char(o, '}');
}

enum { JSON_OPERATION, JSON_TASK, JSON_CHANNEL };

static void json_rows(const struct hypercalls_shown *s, struct out *o, const char *name, const struct table *t,
		      int what)
{
	static const char *const called[] = { "operation", "task", "channel" };
	size_t nr;
	struct hypercalls_row **row = hypercalls_rows(t, what == JSON_OPERATION, &nr);

	out_printf(o, ",\"%s\":[", name);
	for (size_t i = 0; i < nr; i++) {
		const struct hypercalls_row *r = row[i];

		out_printf(o, "%s{\"%s\":", i ? "," : "", called[what]);
		view_json_text(o, r->name);
		json_source(s, o, r->source);
		if (what == JSON_OPERATION) {
			view_json_number(o, "number", r->key.b);
			view_json_number(o, "calls", r->calls);
			view_json_number(o, "queued", r->queued);
			view_json_number(o, "flushes", r->d.count);
			view_json_number(o, "alone_calls", r->alone_calls);
			view_json_number(o, "alone_ns", r->alone_ns);
		} else {
			view_json_number(o, "count", r->d.count);
		}
		if (what == JSON_TASK)
			view_json_number(o, "channels", r->calls);
		json_times(o, &r->d);
		out_char(o, '}');
	}
	out_char(o, ']');
	free(row);
}

static void json_batches(const struct hypercalls_shown *s, struct out *o)
{
	size_t nr;
	struct hypercalls_batch **b = hypercalls_batches(s->h, &nr);

	out_text(o, ",\"batches\":[");
	for (size_t i = 0; i < nr; i++) {
		out_text(o, i ? ",{\"calls\":[" : "{\"calls\":[");
		for (unsigned int k = 0; k < b[i]->nr; k++) {
			out_text(o, k ? ",{\"operation\":" : "{\"operation\":");
			view_json_text(o, b[i]->op[k].row->name);
			view_json_number(o, "calls", b[i]->op[k].nr);
			out_char(o, '}');
		}
		out_char(o, ']');
		json_source(s, o, b[i]->source);
		view_json_number(o, "flushes", b[i]->d.count);
		json_times(o, &b[i]->d);
		out_char(o, '}');
	}
	out_char(o, ']');
	free(b);
}

void hypercalls_show_json(const struct hypercalls_shown *s, struct view_page *p)
{
	const struct hypercalls *h = s->h;
	struct out *o = p->out;

	out_printf(o, "{\"view\":\"hypercalls\",\"calls\":%llu", (ull)h->calls);
	view_json_number(o, "first", h->first);
	view_json_number(o, "last", h->last);
	view_json_number(o, "queued", h->queued);
	view_json_number(o, "begun", h->begun);
	view_json_number(o, "issued", h->issued);
	view_json_number(o, "extended", h->extended);
	view_json_number(o, "not_extended", h->not_extended);
	view_json_number(o, "unknown", h->unknown);
	view_json_number(o, "channels_handled", h->channels_handled);
	view_json_number(o, "lost", h->lost);
	view_json_number(o, "no_room", h->beyond);
	json_durations(o, "flushes", &h->flush);
	json_durations(o, "empty_flushes", &h->empty);
	json_durations(o, "upcalls", &h->upcall);
	view_json_number(o, "one_call", h->single);
	view_json_number(o, "most_calls", h->size.max);
	json_rows(s, o, "operations", &h->ops, JSON_OPERATION);
	json_batches(s, o);
	json_rows(s, o, "upcalls_by_task", &h->upcalls, JSON_TASK);
	json_rows(s, o, "channels", &h->channels, JSON_CHANNEL);
	out_char(o, '}');
	out_newline(o);
}
