/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One JSON object (RFC 8259) per line; host-reader(1) describes them.
 *
 *	{"time":12345678901,"cpu":2,"event":"sys_enter","tid":7,"comm":"sh",
 *	 "fields":{"tid":7,"tid.name":"sh","nr":257,"nr.name":"openat","args":[4294967196,...]}}
 *
 * Written here and not by a library: those of C build a tree of allocations first, and hold
 * integers as doubles (cJSON), or as signed 64-bit ones (jansson); ours are unsigned too, and come
 * by the million. Writing is the easy half of JSON; nothing is parsed here.
 *
 * The output is ASCII whatever a guest made up, so that it is valid UTF-8 and steers no terminal.
 * Names of events, fields and enumerators were checked when the schema was; they are C identifiers.
 */
#include "show.h"

#include <stdint.h>
#include <string.h>

#include "host_clock.h"
#include "stacks.h"
#include "symbols.h"
#include "vcpus.h"

#define NO_CHARACTER 0xfffd
#define SHORT_STRING 128 /* bytes that are written as one piece, if none has to be escaped */

struct json {
	struct out *out;
	const struct sink_event *event;
	bool opened; /* "fields" is begun */
	bool first;  /* in the innermost array or object */
	unsigned int stacks; /* shown of this record */
};

/* ---------------------------------------------------------------------------------------- text */

/*
 * The first character of the @len bytes at @s (at least one), in *@used bytes. What is not UTF-8
 * (stray and missing bytes, overlong forms, surrogates) is one NO_CHARACTER per byte.
 */
static __u32 decode(const unsigned char *s, size_t len, size_t *used, bool *bad)
{
	static const __u32 least[] = { 0, 0, 0x80, 0x800, 0x10000 };
	size_t n = s[0] < 0x80 ? 1 : s[0] >= 0xc2 && s[0] < 0xe0 ? 2 : (s[0] & 0xf0) == 0xe0 ? 3 :
		   s[0] >= 0xf0 && s[0] < 0xf5 ? 4 : 0;
	__u32 c = n == 1 ? s[0] : s[0] & (0xffu >> (n + 1));

	*used = 1;
	for (size_t i = 1; i < n && n <= len; i++) {
		if ((s[i] & 0xc0) != 0x80)
			n = 0;
		c = c << 6 | (s[i] & 0x3f);
	}
	if (!n || n > len || c < least[n] || c > 0x10ffff || (c >= 0xd800 && c < 0xe000)) {
		*bad = true;
		return NO_CHARACTER;
	}
	*used = n;
	return c;
}

static void put_unit(struct out *o, __u32 unit)
{
	static const char digit[] = "0123456789abcdef";
	char text[6] = { '\\', 'u', digit[unit >> 12 & 15], digit[unit >> 8 & 15],
			 digit[unit >> 4 & 15], digit[unit & 15] };

	out_mem(o, text, sizeof(text));
}

static void put_character(struct out *o, __u32 c)
{
	if (c == '"' || c == '\\') {
		out_char(o, '\\');
		out_char(o, (char)c);
	} else if (c < 0x10000) {
		put_unit(o, c);
	} else {
		put_unit(o, 0xd800 + ((c - 0x10000) >> 10));
		put_unit(o, 0xdc00 + (c & 0x3ff));
	}
}

static char *piece_quoted(char *p, const char *text, size_t len)
{
	*p++ = '"';
	p = piece_mem(p, text, len);
	*p++ = '"';
	return p;
}

bool json_show_string(struct out *o, const char *text, size_t len)
{
	const unsigned char *s = (const unsigned char *)text;
	bool bad = false;

	if (len <= SHORT_STRING && out_plain(text, len) == len) {
		out_piece_end(o, piece_quoted(out_piece(o), text, len));
		return true;
	}
	out_char(o, '"');
	while (len) {
		size_t n = out_plain((const char *)s, len);

		if (n)
			out_mem(o, (const char *)s, n);
		else
			put_character(o, decode(s, len, &n, &bad));
		s += n;
		len -= n;
	}
	out_char(o, '"');
	return !bad;
}

/* ,"@key": with a key that needs no escaping */
static char *piece_key(char *p, const char *key)
{
	p = piece_mem(p, ",\"", 2);
	p = piece_text(p, key);
	return piece_mem(p, "\":", 2);
}

static void put_key(struct out *o, const char *key)
{
	out_piece_end(o, piece_key(out_piece(o), key));
}

static char *piece_count(char *p, const char *key, __u64 v)
{
	return piece_unsigned(piece_key(p, key), v);
}

static void put_count(struct out *o, const char *key, __u64 v)
{
	out_piece_end(o, piece_count(out_piece(o), key, v));
}

/* -------------------------------------------------------------------------------------- fields */

static char *piece_open_fields(struct json *w, char *p)
{
	w->opened = true;
	return piece_text(p, ",\"fields\":{");
}

/* A field's key, with ".@about" if it says something more of the same field. Not in arrays. */
static inline char *piece_begin(struct json *w, char *p, const char *name, const char *about)
{
	if (!w->opened)
		p = piece_open_fields(w, p);
	else if (!w->first)
		*p++ = ',';
	w->first = false;
	if (!name)
		return p;
	*p++ = '"';
	p = piece_text(p, name);
	p = piece_text(p, about);
	return piece_mem(p, "\":", 2);
}

static void begin_value(struct json *w, const char *name, const char *about)
{
	out_piece_end(w->out, piece_begin(w, out_piece(w->out), name, about));
}

static void on_begin(void *ctx, const char *name, const struct htrace_type *t)
{
	struct json *w = ctx;

	begin_value(w, name, "");
	out_char(w->out, t->kind == HTRACE_TYPE_ARRAY ? '[' : '{');
	w->first = true;
}

static void on_end(void *ctx, const struct htrace_type *t)
{
	struct json *w = ctx;

	out_char(w->out, t->kind == HTRACE_TYPE_ARRAY ? ']' : '}');
	w->first = false;
}

static char *piece_label(struct json *w, char *p, const char *name, const char *label)
{
	if (!label)
		return p;
	p = piece_begin(w, p, name, ".name");
	return piece_quoted(p, label, strlen(label));
}

static void put_task(struct json *w, const char *name, __u64 tid)
{
	const struct sink_event *e = w->event;
	char buf[TASK_NAME];
	const char *comm;
	size_t len;

	comm = tid <= UINT32_MAX ? task_name(e->from, (__u32)tid, e->time, buf, &len) : NULL;
	if (!comm)
		return;
	begin_value(w, name, ".name");
	json_show_string(w->out, comm, len);
}

/* What a number stands for, but for tasks. */
static char *piece_meaning(struct json *w, char *p, const char *name, const struct htrace_type *t,
			   __u64 v)
{
	if (t->kind == HTRACE_TYPE_ENUM)
		return piece_label(w, p, name, htrace_enum_name(t, v));
	if (t->hint == HTRACE_HINT_SYSCALL)
		return piece_label(w, p, name, syscall_name(v));
	if (t->hint != HTRACE_HINT_TASK_STATE)
		return p;
	p = piece_begin(w, p, name, ".name");
	*p++ = '"';
	p = piece_task_state(p, unextended(t, v));
	*p++ = '"';
	return p;
}

static char *piece_integer(char *p, const struct htrace_type *t, __u64 v)
{
	switch (t->hint) {
	case HTRACE_HINT_BOOL:
		return piece_text(p, v ? "true" : "false");
	case HTRACE_HINT_HEX:
	case HTRACE_HINT_POINTER:
	case HTRACE_HINT_TID:
	case HTRACE_HINT_TASK_STATE:
		return piece_unsigned(p, unextended(t, v));
	default:
		return t->is_signed ? piece_signed(p, (__s64)v) : piece_unsigned(p, v);
	}
}

static void begin_key(struct json *w, const char *key)
{
	out_text(w->out, w->first ? "\"" : ",\"");
	w->first = false;
	out_text(w->out, key);
	out_mem(w->out, "\":", 2);
}

static void put_text_member(struct json *w, const char *key, const char *text)
{
	if (!text)
		return;
	begin_key(w, key);
	json_show_string(w->out, text, strlen(text));
}

static void put_number_member(struct json *w, const char *key, __u64 v)
{
	begin_key(w, key);
	out_unsigned(w->out, v);
}

/* {"symbol":"schedule","offset":94,"module":"...","file":"...",...,"address":...}: what is known. */
static void put_frame(struct json *w, const struct frame *f)
{
	out_char(w->out, '{');
	w->first = true;
	if (f->symbol) {
		put_text_member(w, "symbol", f->symbol);
		put_number_member(w, "offset", f->offset);
	}
	put_text_member(w, "module", f->module);
	put_text_member(w, "file", f->file);
	if (f->in_file) {
		begin_key(w, "build_id");
		out_char(w->out, '"');
		out_bytes(w->out, f->build_id, sizeof(f->build_id));
		out_char(w->out, '"');
		put_number_member(w, "file_offset", f->file_offset);
	}
	put_number_member(w, "address", f->address);
	out_char(w->out, '}');
}

/* An array of frames, innermost first; empty if there was no stack, null if it is not known. */
static void put_stack(struct json *w, const char *name, __u64 id, bool user)
{
	const struct origin *from = w->event->from;
	struct stack st = { 0 };
	struct frame f;

	begin_value(w, name, "");
	if (id && !stacks_find(from->stacks, id, &st)) {
		out_text(w->out, "null");
		if (!name)
			return;
		begin_value(w, name, ".id");
		out_unsigned(w->out, id);
		return;
	}
	out_char(w->out, '[');
	for (__u32 own = user ? 0 : first_frame(w->event, &st), i = own; i < st.nr; i++) {
		if (i > own)
			out_char(w->out, ',');
		if (user)
			symbols_user_frame(from->symbols, &st, i, &f);
		else
			symbols_kernel_frame(from->symbols, &st, i, &f);
		put_frame(w, &f);
	}
	out_char(w->out, ']');
	w->first = false;
}

static void on_integer(void *ctx, const char *name, const struct htrace_type *t, __u64 v)
{
	struct json *w = ctx;
	char *p;

	/* Of more than so many a few bytes of a guest's would be very much text: they are numbers. */
	if ((t->hint == HTRACE_HINT_STACK_KERNEL || t->hint == HTRACE_HINT_STACK_USER) &&
	    w->stacks++ < SHOWN_STACKS) {
		put_stack(w, name, v, t->hint == HTRACE_HINT_STACK_USER);
		return;
	}
	p = piece_begin(w, out_piece(w->out), name, "");
	p = piece_integer(p, t, v);
	if (name)
		p = piece_meaning(w, p, name, t, v);
	out_piece_end(w->out, p);
	if (name && t->hint == HTRACE_HINT_TID && t->kind != HTRACE_TYPE_ENUM)
		put_task(w, name, unextended(t, v));
}

static void on_string(void *ctx, const char *name, const struct htrace_type *t, const char *s,
		      size_t len)
{
	struct json *w = ctx;

	begin_value(w, name, "");
	if (json_show_string(w->out, s, len) || !name)
		return;
	begin_value(w, name, ".bytes");
	out_char(w->out, '"');
	out_bytes(w->out, s, len);
	out_char(w->out, '"');
}

/* Integers of 16 bytes: most significant byte first, as they would be written. */
static void on_bytes(void *ctx, const char *name, const struct htrace_type *t, const void *p,
		     size_t len)
{
	const unsigned char *b = p;
	struct json *w = ctx;

	begin_value(w, name, "");
	out_mem(w->out, "\"0x", 3);
	while (len)
		out_bytes(w->out, &b[--len], 1);
	out_char(w->out, '"');
}

static const struct htrace_visitor visitor = {
	.sz = sizeof(visitor),
	.begin = on_begin,
	.end = on_end,
	.integer = on_integer,
	.string = on_string,
	.bytes = on_bytes,
};

static void put_raw(struct out *o, const struct htrace_record *r)
{
	put_key(o, "raw");
	out_char(o, '"');
	out_bytes(o, r->payload, r->len);
	out_char(o, '"');
}

/* Nothing is visited of a record that is shorter than its event. */
static bool put_fields(struct out *o, const struct sink_event *e)
{
	struct json w = { .out = o, .event = e, .first = true };

	if (!e->event ||
	    htrace_event_visit(e->event, e->record->payload, e->record->len, &visitor, &w))
		return false;
	if (!w.opened)
		out_piece_end(o, piece_open_fields(&w, out_piece(o)));
	out_char(o, '}');
	return true;
}

/* --------------------------------------------------------------------------------------- lines */

static void put_source(struct out *o, const char *source)
{
	if (!source)
		return;
	put_key(o, "source");
	json_show_string(o, source, strlen(source));
}

static void begin_line(struct out *o, const struct origin *from, __u64 time)
{
	char *p = piece_text(out_piece(o), from->ticks ? "{\"tsc\":" : "{\"time\":");

	out_piece_end(o, piece_unsigned(p, time));
	put_source(o, from->source);
	put_count(o, from->per_cpu ? "cpu" : "ring", from->ring);
}

static void put_current_name(struct out *o, const struct sink_event *e)
{
	char buf[TASK_NAME];
	const char *comm;
	size_t len;

	if (!e->task_known)
		return;
	comm = task_name(e->from, e->task, e->time, buf, &len);
	if (!comm)
		return;
	put_key(o, "comm");
	json_show_string(o, comm, len);
}

/* What is not known is not there. */
static void put_vcpu(struct out *o, const struct vcpu_view *v)
{
	char *p = piece_unsigned(piece_text(out_piece(o), ",\"vcpu\":{\"vm\":"), v->vm);

	p = piece_count(p, "id", v->vcpu);
	if (v->thread)
		p = piece_count(p, "thread", v->thread);
	p = piece_key(p, "state");
	p = piece_quoted(p, vcpu_state_names[v->state], strlen(vcpu_state_names[v->state]));
	out_piece_end(o, p);
	if (v->why) {
		put_key(o, "why");
		json_show_string(o, v->why, strlen(v->why));
	}
	if (v->state != VCPU_UNKNOWN) {
		put_count(o, "out_ns", v->out);
		put_count(o, "preempted_ns", v->preempted);
	}
	if (v->since_known) {
		put_count(o, "out_since_ns", v->out_since);
		put_count(o, "preempted_since_ns", v->preempted_since);
	}
	out_char(o, '}');
}

void json_show_event(struct out *o, const struct sink_event *e)
{
	char *p;

	begin_line(o, e->from, e->time);
	p = piece_key(out_piece(o), "event");
	*p++ = '"';
	if (e->event)
		p = piece_text(p, e->event->name);
	else
		p = piece_unsigned(piece_text(p, "event#"), e->record->id);
	*p++ = '"';
	if (e->task_known)
		p = piece_count(p, "tid", e->task);
	out_piece_end(o, p);
	put_current_name(o, e);
	if (!put_fields(o, e))
		put_raw(o, e->record);
	if (e->vcpu)
		put_vcpu(o, e->vcpu);
	if (e->unverified) {
		put_key(o, "unverified");
		out_text(o, "true");
	}
	out_char(o, '}');
}

static void json_event(struct sink *s, const struct sink_event *e)
{
	json_show_event(s->out, e);
	out_newline(s->out);
}

void json_show_loss(struct out *o, const struct sink_loss *l)
{
	begin_line(o, l->from, l->time);
	put_count(o, "lost", sink_lost(l));
	put_count(o, "overwritten", l->overwritten);
	put_count(o, "dropped", l->dropped);
	put_count(o, "corrupt", l->corrupt);
	put_count(o, "unfinished", l->unfinished);
	put_count(o, "uncommitted_bytes", l->uncommitted);
	out_char(o, '}');
}

static void json_loss(struct sink *s, const struct sink_loss *l)
{
	json_show_loss(s->out, l);
	out_newline(s->out);
}

static void json_note(struct sink *s, const struct sink_note *n)
{
	out_text(s->out, "{\"note\":");
	json_show_string(s->out, n->text, strlen(n->text));
	put_source(s->out, n->source);
	if (n->clock) {
		put_key(s->out, "clock");
		json_show_string(s->out, n->clock, strlen(n->clock));
		if (n->bound != HOST_CLOCK_UNKNOWN) {
			put_count(s->out, "bound", n->bound);
		} else {
			put_key(s->out, "bound");
			out_text(s->out, "null");
		}
	}
	out_char(s->out, '}');
	out_newline(s->out);
}

const struct sink_ops sink_json = {
	.name = "json",
	.event = json_event,
	.loss = json_loss,
	.note = json_note,
};
