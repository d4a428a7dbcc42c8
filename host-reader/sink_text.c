/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One line per event, for people and for grep:
 *
 *     12.345678901 [002] bash-1234              sched_switch: prev_tid=1234(bash) ...
 *
 * and, where stacks were recorded, one more for each frame, which begins with blanks.
 */
#include "show.h"
#include "vcpus.h"

#define TASK_WIDTH 22

static void put_place(struct out *o, const struct origin *from, __u64 time)
{
	char *p;

	if (from->source) {
		out_char(o, '[');
		out_text(o, from->source);
		out_text(o, "] ");
	}
	p = out_piece(o);
	if (from->ticks) {
		p = piece_padded(p, time, 20, ' ');
	} else {
		p = piece_padded(p, time / 1000000000, 5, ' ');
		*p++ = '.';
		p = piece_padded(p, time % 1000000000, 9, '0');
	}
	p = piece_text(p, from->per_cpu ? " [" : " [ring ");
	p = piece_padded(p, from->ring, 3, '0');
	p = piece_text(p, "] ");
	out_piece_end(o, p);
}

static void put_task(struct out *o, const struct sink_event *e)
{
	char *begin = out_piece(o), *p = begin;

	if (e->task_known) {
		p = piece_task_name(p, e->from, e->task, e->time);
		if (p == begin)
			p = piece_text(p, "<...>");
		*p++ = '-';
		p = piece_unsigned(p, e->task);
	} else {
		*p++ = '-';
	}
	while (p - begin < TASK_WIDTH)
		*p++ = ' ';
	*p++ = ' ';
	out_piece_end(o, p);
}

/* {vcpu0:4711 running lost=123}: whether it ran on the host, and what it lost since the line before. */
static void put_vcpu(struct out *o, const struct vcpu_view *v)
{
	char *p = piece_text(out_piece(o), " {vcpu");

	p = piece_unsigned(p, v->vcpu);
	if (v->thread) {
		*p++ = ':';
		p = piece_unsigned(p, v->thread);
	}
	*p++ = ' ';
	p = piece_text(p, vcpu_state_names[v->state]);
	out_piece_end(o, p);
	if (v->why) {
		out_char(o, '=');
		out_text(o, v->why);
	}
	if (v->since_known && vcpu_lost_since(v)) {
		out_text(o, " lost=");
		out_unsigned(o, vcpu_lost_since(v));
	}
	out_char(o, '}');
}

void text_show_event(struct out *o, const struct sink_event *e)
{
	struct shown_stacks stacks;

	put_task(o, e);
	if (e->event) {
		out_text(o, e->event->name);
	} else {
		out_text(o, "event#");
		out_unsigned(o, e->record->id);
	}
	out_text(o, ": ");
	show_fields(o, e, &stacks);
	if (e->vcpu)
		put_vcpu(o, e->vcpu);
	if (e->unverified)
		out_text(o, " (unverified)");
	out_newline(o);
	show_stacks(o, e, &stacks);
}

static void text_event(struct sink *s, const struct sink_event *e)
{
	out_limit_line(s->out, TEXT_LINE_BYTES);
	put_place(s->out, e->from, e->time);
	text_show_event(s->out, e);
}

static void put_kind(struct out *o, const char **between, const char *kind, __u64 nr)
{
	if (!nr)
		return;
	out_text(o, *between);
	out_text(o, kind);
	out_char(o, ' ');
	out_unsigned(o, nr);
	*between = ", ";
}

void text_show_loss(struct out *o, const struct sink_loss *l)
{
	const char *between = " (";

	out_text(o, "--- ");
	out_unsigned(o, sink_lost(l));
	out_text(o, sink_lost(l) == 1 ? " event lost" : " events lost");
	put_kind(o, &between, "overwritten", l->overwritten);
	put_kind(o, &between, "dropped", l->dropped);
	put_kind(o, &between, "corrupt", l->corrupt);
	put_kind(o, &between, "unfinished", l->unfinished);
	if (*between == ',')
		out_char(o, ')');
	if (l->uncommitted) {
		out_text(o, ", ");
		out_unsigned(o, l->uncommitted);
		out_text(o, " bytes never committed");
	}
	out_text(o, " ---");
	out_newline(o);
}

static void text_loss(struct sink *s, const struct sink_loss *l)
{
	put_place(s->out, l->from, l->time);
	text_show_loss(s->out, l);
}

static void text_note(struct sink *s, const struct sink_note *n)
{
	out_text(s->out, "--- ");
	if (n->source) {
		out_char(s->out, '[');
		out_text(s->out, n->source);
		out_text(s->out, "] ");
	}
	out_text(s->out, n->text);
	out_text(s->out, " ---");
	out_newline(s->out);
}

const struct sink_ops sink_text = {
	.name = "text",
	.event = text_event,
	.loss = text_loss,
	.note = text_note,
};
