/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Events as they stand in packets: a record is decoded by its schema and written in CTF's way. */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "ctf.h"
#include "names.h"
#include "show.h"
#include "stacks.h"

#define UNKNOWN "<...>"

/* Makes room for @len bytes behind those that are there. */
static unsigned char *room(struct ctf_event *w, size_t len)
{
	if (w->failed)
		return NULL;
	if (w->len + len > w->room) {
		size_t size = 2 * (w->len + len);
		unsigned char *buf = realloc(w->buf, size);

		if (!buf) {
			w->failed = true;
			return NULL;
		}
		w->buf = buf;
		w->room = size;
	}
	return w->buf + w->len;
}

void ctf_event_free(struct ctf_event *w)
{
	free(w->buf);
	free(w->end);
	memset(w, 0, sizeof(*w));
}

void ctf_add(struct ctf_event *w, const void *p, size_t len)
{
	unsigned char *to = room(w, len);

	if (!to)
		return;
	memcpy(to, p, len);
	w->len += len;
}

void ctf_add_string(struct ctf_event *w, const char *s, size_t len)
{
	char *to;

	if (!len) { /* the NUL itself, made visible */
		s = "";
		len = 1;
	}
	to = (char *)room(w, 4 * len + 1);
	if (!to)
		return;
	w->len += htrace_escape(to, 4 * len, s, len);
	w->buf[w->len++] = 0;
}

void ctf_add_comm(struct ctf_event *w, const struct sink_event *e, __u64 tid)
{
	char buf[TASK_NAME];
	const char *comm = NULL;
	size_t len = 0;

	if (tid <= UINT32_MAX)
		comm = task_name(e->from, (__u32)tid, e->time, buf, &len);
	if (comm)
		ctf_add_string(w, comm, len);
	else
		ctf_add_string(w, UNKNOWN, strlen(UNKNOWN));
}

/* --------------------------------------------------------------------------------------- fields */

/* A value begins: one of the record's, or an element of the array that reaches to its end. */
static void begin_value(struct ctf_event *w)
{
	w->length += w->open && w->depth == 1;
}

static void end_value(struct ctf_event *w)
{
	if (!w->depth && w->nr < w->nr_room)
		w->end[w->nr++] = (__u32)w->len;
}

static void on_begin(void *ctx, const char *name, const struct htrace_type *t)
{
	struct ctf_event *w = ctx;
	__u32 none = 0;

	begin_value(w);
	w->depth++;
	if (t->kind != HTRACE_TYPE_ARRAY || t->size)
		return;
	w->open = true; /* the record's last member */
	w->length = 0;
	w->length_at = w->len;
	ctf_add(w, &none, sizeof(none));
}

static void on_end(void *ctx, const struct htrace_type *t)
{
	struct ctf_event *w = ctx;

	w->depth--;
	if (w->open && !w->depth && !w->failed)
		memcpy(w->buf + w->length_at, &w->length, sizeof(w->length));
	end_value(w);
}

/* As LTTng has it: addresses, innermost first; none if the stack is not known. */
static void add_stack(struct ctf_event *w, __u64 id)
{
	struct stack st = { 0 };

	/* Of more than so many a few bytes of a guest's would be very much. */
	if (id && w->stacks++ < SHOWN_STACKS)
		stacks_find(w->event->from->stacks, id, &st);
	ctf_add(w, &st.nr, sizeof(st.nr));
	if (st.nr)
		ctf_add(w, st.address, st.nr * sizeof(*st.address));
}

static void on_integer(void *ctx, const char *name, const struct htrace_type *t, __u64 v)
{
	struct ctf_event *w = ctx;

	begin_value(w);
	if (ctf_is_stack(t, w->depth))
		add_stack(w, v);
	else
		ctf_add(w, &v, t->size);
	end_value(w);
}

static void on_string(void *ctx, const char *name, const struct htrace_type *t, const char *s,
		      size_t len)
{
	struct ctf_event *w = ctx;

	begin_value(w);
	ctf_add_string(w, s, len);
	end_value(w);
}

/* Integers of 16 bytes, as text. */
static void on_bytes(void *ctx, const char *name, const struct htrace_type *t, const void *p,
		     size_t len)
{
	static const char digit[] = "0123456789abcdef";
	const unsigned char *b = p;
	struct ctf_event *w = ctx;
	char text[2 + 2 * 16] = "0x";
	size_t n = 2;

	begin_value(w);
	while (len && n < sizeof(text)) {
		text[n++] = digit[b[--len] >> 4];
		text[n++] = digit[b[len] & 15];
	}
	ctf_add_string(w, text, n);
	end_value(w);
}

static const struct htrace_visitor visitor = {
	.sz = sizeof(visitor),
	.begin = on_begin,
	.end = on_end,
	.integer = on_integer,
	.string = on_string,
	.bytes = on_bytes,
};

/* All members into @w, in the record's order, with an end for each. */
static bool decode(struct ctf_event *w, const struct sink_event *e)
{
	__u32 nr = e->event->type->nr;

	w->event = e;
	w->len = w->nr = w->depth = w->stacks = 0;
	w->open = w->failed = false;
	if (nr > w->nr_room) {
		__u32 *end = realloc(w->end, nr * sizeof(*end));

		if (!end) {
			w->failed = true;
			return true;
		}
		w->end = end;
		w->nr_room = nr;
	}
	return !htrace_event_visit(e->event, e->record->payload, e->record->len, &visitor, w);
}

static size_t begin_of(const struct ctf_event *w, __u32 member)
{
	return member ? w->end[member - 1] : 0;
}

/* The integer that a member or its element is, of at most 8 bytes. */
static __u64 load(const struct ctf_event *w, size_t at, size_t size)
{
	__u64 v = 0;

	memcpy(&v, w->buf + at, size);
	return v;
}

/* As Trace Compass knows them, from older kernels; the bits above say how a task that is ready came to be so. */
static void add_state(struct ctf_event *w, __u64 state, size_t size)
{
	enum { UNINTERRUPTIBLE = 2, EXITED = 0x30, OLD_DEAD = 0x40, PARKED_OR_IDLE = 0xc0 };

	if (state & PARKED_OR_IDLE)
		state = UNINTERRUPTIBLE;
	else
		state = state & EXITED ? OLD_DEAD : state & 0xff;
	ctf_add(w, &state, size);
}

bool ctf_add_fields(struct ctf_event *w, struct ctf_event *scratch, const struct sink_event *e,
		    const struct ctf_layout *l)
{
	if (!decode(scratch, e))
		return false;
	w->failed |= scratch->failed;
	for (__u32 i = 0; i < l->nr && !w->failed; i++) {
		const struct ctf_item *item = &l->item[i];
		size_t at = begin_of(scratch, item->member);
		size_t end = scratch->end[item->member];

		switch (item->what) {
		case CTF_MEMBER:
			ctf_add(w, scratch->buf + at, end - at);
			break;
		case CTF_STATE:
			add_state(w, load(scratch, at, end - at), end - at);
			break;
		case CTF_COMM:
			ctf_add_comm(w, e, load(scratch, at, end - at));
			break;
		case CTF_ARG:
			ctf_add(w, scratch->buf + at + 8 * item->arg,
				item->type == 'i' || item->type == 'u' ? 4 : 8);
			break;
		}
	}
	return true;
}
