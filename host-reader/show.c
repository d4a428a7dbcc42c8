/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "show.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>

#include "names.h"

#define MAX_RAW 256 /* bytes shown of a record that cannot be decoded */

struct show {
	struct out *out;
	const struct sink_event *event;
	struct shown_stacks *stacks;
	bool first;   /* of what is in the innermost array or struct */
	char between; /* values: a space in structs, a comma in arrays */
	unsigned int depth;
	char outer[HTRACE_MAX_DEPTH + 2]; /* `between` of what encloses it */
};

const char *task_name(const struct origin *from, __u32 tid, __u64 time, char *buf, size_t *len)
{
	if (tid)
		return names_get(from->names, tid, time, len);
	*len = (size_t)(from->per_cpu ? snprintf(buf, TASK_NAME, "swapper/%u", from->ring) :
					snprintf(buf, TASK_NAME, "swapper"));
	return buf;
}

size_t show_task_name(struct out *o, const struct origin *from, __u32 tid, __u64 time)
{
	char buf[TASK_NAME];
	size_t len;
	const char *comm = task_name(from, tid, time, buf, &len);

	return comm ? out_escaped(o, comm, len) : 0;
}

/* The separator, then the name if it has one. */
static void begin_value(struct show *w, const char *name)
{
	if (!w->first)
		out_char(w->out, w->between);
	w->first = false;
	if (name) {
		out_text(w->out, name);
		out_char(w->out, '=');
	}
}

static void on_begin(void *ctx, const char *name, const struct htrace_type *t)
{
	struct show *w = ctx;

	begin_value(w, name);
	if (w->depth < sizeof(w->outer))
		w->outer[w->depth] = w->between;
	w->depth++;
	w->between = t->kind == HTRACE_TYPE_ARRAY ? ',' : ' ';
	w->first = true;
	out_char(w->out, t->kind == HTRACE_TYPE_ARRAY ? '[' : '{');
}

static void on_end(void *ctx, const struct htrace_type *t)
{
	struct show *w = ctx;

	w->depth--;
	if (w->depth < sizeof(w->outer))
		w->between = w->outer[w->depth];
	w->first = false;
	out_char(w->out, t->kind == HTRACE_TYPE_ARRAY ? ']' : '}');
}

/* --------------------------------------------------------------------------------------- values */

static void show_number(struct out *o, const struct htrace_type *t, __u64 v)
{
	if (t->is_signed)
		out_signed(o, (__s64)v);
	else
		out_unsigned(o, v, 0, ' ');
}

static void show_task(struct show *w, __u64 v)
{
	const struct origin *from = w->event->from;
	struct out *o = w->out;

	out_unsigned(o, v, 0, ' ');
	out_char(o, '(');
	if (v > UINT32_MAX || !show_task_name(o, from, (__u32)v, w->event->time))
		out_text(o, "<...>");
	out_char(o, ')');
}

static void show_syscall(struct out *o, const struct htrace_type *t, __u64 v)
{
	const char *name = syscall_name(v);

	show_number(o, t, v);
	if (name) {
		out_char(o, '(');
		out_text(o, name);
		out_char(o, ')');
	}
}

void show_task_state(struct out *o, __u64 v)
{
	static const char letter[] = "SDTtXZPI";
	__u64 rest = v >> 9;
	bool any = false;

	if (rest) {
		out_hex(o, v, 0);
		return;
	}
	for (int i = 0; i < 8; i++) {
		if (!(v >> i & 1))
			continue;
		if (any)
			out_char(o, '|');
		out_char(o, letter[i]);
		any = true;
	}
	if (!any)
		out_char(o, 'R');
	if (v & 0x100)
		out_char(o, '+');
}

static void show_char(struct out *o, __u64 v)
{
	char c = (char)v;

	out_char(o, '\'');
	out_escaped(o, &c, 1);
	out_char(o, '\'');
}

__u64 unextended(const struct htrace_type *t, __u64 v)
{
	return t->size && t->size < 8 ? v & ((1ULL << 8 * t->size) - 1) : v;
}

static void keep_stack(struct shown_stacks *s, const struct htrace_type *t, __u64 id)
{
	if (!id || s->nr == SHOWN_STACKS)
		return;
	s->stack[s->nr].id = id;
	s->stack[s->nr++].user = t->hint == HTRACE_HINT_STACK_USER;
}

static void on_integer(void *ctx, const char *name, const struct htrace_type *t, __u64 v)
{
	struct show *w = ctx;
	const char *label;

	if (t->hint == HTRACE_HINT_STACK_KERNEL || t->hint == HTRACE_HINT_STACK_USER) {
		keep_stack(w->stacks, t, v);
		return;
	}
	if (out_line_full(w->out))
		return;
	begin_value(w, name);
	label = t->kind == HTRACE_TYPE_ENUM ? htrace_enum_name(t, v) : NULL;
	if (label) {
		out_text(w->out, label);
		return;
	}
	switch (t->hint) {
	case HTRACE_HINT_HEX:
		out_hex(w->out, unextended(t, v), 0);
		break;
	case HTRACE_HINT_POINTER:
		out_hex(w->out, unextended(t, v), 16);
		break;
	case HTRACE_HINT_TID:
		show_task(w, unextended(t, v));
		break;
	case HTRACE_HINT_SYSCALL:
		show_syscall(w->out, t, v);
		break;
	case HTRACE_HINT_BOOL:
		out_text(w->out, v ? "true" : "false");
		break;
	case HTRACE_HINT_CHAR:
		show_char(w->out, v);
		break;
	case HTRACE_HINT_TASK_STATE:
		show_task_state(w->out, unextended(t, v));
		break;
	default:
		show_number(w->out, t, v);
	}
}

static void on_string(void *ctx, const char *name, const struct htrace_type *t, const char *s,
		      size_t len)
{
	struct show *w = ctx;

	if (out_line_full(w->out))
		return;
	begin_value(w, name);
	out_char(w->out, '"');
	out_escaped(w->out, s, len);
	out_char(w->out, '"');
}

/* Integers of 16 bytes: most significant byte first, as they would be written. */
static void on_bytes(void *ctx, const char *name, const struct htrace_type *t, const void *p,
		     size_t len)
{
	const unsigned char *b = p;
	struct show *w = ctx;

	begin_value(w, name);
	out_mem(w->out, "0x", 2);
	while (len)
		out_bytes(w->out, &b[--len], 1);
}

static const struct htrace_visitor visitor = {
	.sz = sizeof(visitor),
	.begin = on_begin,
	.end = on_end,
	.integer = on_integer,
	.string = on_string,
	.bytes = on_bytes,
};

static void show_raw(struct out *o, const struct htrace_record *r)
{
	size_t len = r->len < MAX_RAW ? r->len : MAX_RAW;

	out_text(o, "raw=");
	out_bytes(o, r->payload, len);
	if (len < r->len)
		out_printf(o, "... (%u bytes)", r->len);
}

void show_fields(struct out *o, const struct sink_event *e, struct shown_stacks *stacks)
{
	struct show w = { .out = o, .event = e, .stacks = stacks, .first = true, .between = ' ' };

	stacks->nr = 0;
	if (!e->event || htrace_event_visit(e->event, e->record->payload, e->record->len, &visitor,
					    &w) == -EMSGSIZE)
		show_raw(o, e->record);
}
