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

char *piece_task_name(char *p, const struct origin *from, __u32 tid, __u64 time)
{
	char buf[TASK_NAME];
	size_t len;
	const char *comm = task_name(from, tid, time, buf, &len);

	if (!comm)
		return p;
	if (out_plain(comm, len) == len)
		return piece_mem(p, comm, len);
	return p + htrace_escape(p, 4 * TASK_NAME, comm, len);
}

/* The separator, then the name if it has one. */
static char *piece_begin(struct show *w, char *p, const char *name)
{
	if (!w->first)
		*p++ = w->between;
	w->first = false;
	if (name) {
		p = piece_text(p, name);
		*p++ = '=';
	}
	return p;
}

static void begin_value(struct show *w, const char *name, char first)
{
	char *p = piece_begin(w, out_piece(w->out), name);

	*p++ = first;
	out_piece_end(w->out, p);
}

static void on_begin(void *ctx, const char *name, const struct htrace_type *t)
{
	struct show *w = ctx;

	begin_value(w, name, t->kind == HTRACE_TYPE_ARRAY ? '[' : '{');
	if (w->depth < sizeof(w->outer))
		w->outer[w->depth] = w->between;
	w->depth++;
	w->between = t->kind == HTRACE_TYPE_ARRAY ? ',' : ' ';
	w->first = true;
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

static char *piece_number(char *p, const struct htrace_type *t, __u64 v)
{
	return t->is_signed ? piece_signed(p, (__s64)v) : piece_unsigned(p, v);
}

static char *piece_task(const struct show *w, char *p, __u64 v)
{
	char *name;

	p = piece_unsigned(p, v);
	*p++ = '(';
	name = p;
	if (v <= UINT32_MAX)
		p = piece_task_name(p, w->event->from, (__u32)v, w->event->time);
	if (p == name)
		p = piece_text(p, "<...>");
	*p++ = ')';
	return p;
}

static char *piece_syscall(char *p, const struct htrace_type *t, __u64 v)
{
	const char *name = syscall_name(v);

	p = piece_number(p, t, v);
	if (name) {
		*p++ = '(';
		p = piece_text(p, name);
		*p++ = ')';
	}
	return p;
}

char *piece_task_state(char *p, __u64 v)
{
	static const char letter[] = "SDTtXZPI";
	char *begin = p;

	if (v >> 9)
		return piece_hex(p, v, 0);
	for (int i = 0; i < 8; i++) {
		if (!(v >> i & 1))
			continue;
		if (p != begin)
			*p++ = '|';
		*p++ = letter[i];
	}
	if (p == begin)
		*p++ = 'R';
	if (v & 0x100)
		*p++ = '+';
	return p;
}

static char *piece_char(char *p, __u64 v)
{
	char c = (char)v;

	*p++ = '\'';
	p += htrace_escape(p, 4, &c, 1);
	*p++ = '\'';
	return p;
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

static char *piece_integer(const struct show *w, char *p, const struct htrace_type *t, __u64 v)
{
	const char *label = t->kind == HTRACE_TYPE_ENUM ? htrace_enum_name(t, v) : NULL;

	if (label)
		return piece_text(p, label);
	switch (t->hint) {
	case HTRACE_HINT_HEX:
		return piece_hex(p, unextended(t, v), 0);
	case HTRACE_HINT_POINTER:
		return piece_hex(p, unextended(t, v), 16);
	case HTRACE_HINT_TID:
		return piece_task(w, p, unextended(t, v));
	case HTRACE_HINT_SYSCALL:
		return piece_syscall(p, t, v);
	case HTRACE_HINT_BOOL:
		return piece_text(p, v ? "true" : "false");
	case HTRACE_HINT_CHAR:
		return piece_char(p, v);
	case HTRACE_HINT_TASK_STATE:
		return piece_task_state(p, unextended(t, v));
	default:
		return piece_number(p, t, v);
	}
}

static void on_integer(void *ctx, const char *name, const struct htrace_type *t, __u64 v)
{
	struct show *w = ctx;
	char *p;

	if (t->hint == HTRACE_HINT_STACK_KERNEL || t->hint == HTRACE_HINT_STACK_USER) {
		keep_stack(w->stacks, t, v);
		return;
	}
	if (out_line_full(w->out))
		return;
	p = piece_begin(w, out_piece(w->out), name);
	out_piece_end(w->out, piece_integer(w, p, t, v));
}

static void on_string(void *ctx, const char *name, const struct htrace_type *t, const char *s,
		      size_t len)
{
	struct show *w = ctx;

	if (out_line_full(w->out))
		return;
	begin_value(w, name, '"');
	out_escaped(w->out, s, len);
	out_char(w->out, '"');
}

/* Integers of 16 bytes: most significant byte first, as they would be written. */
static void on_bytes(void *ctx, const char *name, const struct htrace_type *t, const void *p,
		     size_t len)
{
	const unsigned char *b = p;
	struct show *w = ctx;

	begin_value(w, name, '0');
	out_char(w->out, 'x');
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
