/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * --view hypercalls: what Xen guests' kernels ask of Xen, how it is batched, how long Xen takes for which
 * batch, who leads to it; and what Xen tells them: upcalls and event channels.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "event_fields.h"
#include "hypercalls.h"
#include "hypercalls_show.h"
#include "show.h"
#include "stacks.h"
#include "symbols.h"
#include "view.h"

typedef unsigned long long ull;

#define TEXT 2048 /* of a folded stack */
#define NONE 255 /* what arrays of operations are filled up with */

enum field {
	F_TID, F_OP, F_CALLS, F_NS, F_CHANNELS, F_TYPE, F_NUMBER, F_PORT, F_RESULT, F_STACK, FIELDS
};

enum kind {
	KIND_OTHER, KIND_BATCH, KIND_ISSUE, KIND_ENTRY, KIND_EXTEND, KIND_FLUSH, KIND_UPCALL, KIND_CHANNEL,
};

#define BIT(field) (1u << (field))

static const char *const fields[FIELDS] = {
	"tid", "op", "calls", "ns", "channels", "type", "number", "port", "result", "callstack_kernel",
};

static const struct event_fields_spec spec = {
	.field = fields,
	.nr_fields = FIELDS,
	.kind = {
		[KIND_BATCH] = { "xen_mc_batch", 0 },
		[KIND_ISSUE] = { "xen_mc_issue", 0 },
		[KIND_ENTRY] = { "xen_mc_entry", BIT(F_OP) },
		[KIND_EXTEND] = { "xen_mc_extend_args", BIT(F_RESULT) },
		[KIND_FLUSH] = { "xen_mc_flush", BIT(F_CALLS) | BIT(F_NS) },
		[KIND_UPCALL] = { "xen_upcall", BIT(F_TID) | BIT(F_NS) | BIT(F_CHANNELS) },
		[KIND_CHANNEL] = { "xen_event_channel", BIT(F_TYPE) | BIT(F_NUMBER) | BIT(F_PORT) | BIT(F_NS) },
	},
};

struct view_hypercalls {
	struct hypercalls h;
	struct event_fields *fields;
	char source[HYPERCALLS_SOURCES][VIEW_SOURCE];
	__u32 sessions[HYPERCALLS_SOURCES]; /* that are over */
	bool entries_have_stacks[HYPERCALLS_SOURCES];
	__u64 shown; /* when there was a page before: the last event's time */
};

static void hypercalls_view_close(void *view)
{
	struct view_hypercalls *v = view;

	hypercalls_free(&v->h);
	event_fields_free(v->fields);
	free(v);
}

static void *hypercalls_view_open(void)
{
	struct view_hypercalls *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	v->fields = event_fields_new(&spec);
	if (!hypercalls_init(&v->h) && v->fields)
		return v;
	hypercalls_view_close(v);
	return NULL;
}

/* ------------------------------------------------------------------------------------------ stacks */

/* As a part of a folded stack: what divides these is no part of it. */
static size_t put_part(char *text, size_t at, const char *part)
{
	size_t len = strlen(part);

	if (at + 4 * len + 2 > TEXT)
		return at;
	if (at)
		text[at++] = ';';
	len = htrace_escape(text + at, TEXT - at - 1, part, len);
	for (size_t i = at; i < at + len; i++)
		if (text[i] == ';' || text[i] == ' ')
			text[i] = '_';
	text[at + len] = 0;
	return at + len;
}

/* Outermost first, then the operation. NULL: the stack is not there (yet). */
static char *fold(const struct view_hypercalls *v, const struct sink_event *e, __u64 id, const char *op)
{
	const struct origin *from = e->from;
	char text[TEXT] = "", address[20];
	struct stack st;
	struct frame f;
	__u32 first;
	size_t at;

	if (!from->stacks || !stacks_find(from->stacks, id, &st))
		return NULL;
	first = first_frame(e, &st);
	at = put_part(text, 0, v->source[from->session->source_nr]);
	for (__u32 i = st.nr; i-- > first;) {
		symbols_kernel_frame(from->symbols, &st, i, &f);
		snprintf(address, sizeof(address), "0x%llx", (ull)f.address);
		at = put_part(text, at, f.symbol ? f.symbol : address);
	}
	put_part(text, at, op);
	return strdup(text);
}

static void add_stack(struct view_hypercalls *v, const struct sink_event *e, __u64 id, const struct hypercalls_row *op,
		      __u64 calls)
{
	unsigned int source = e->from->session->source_nr;
	struct hypercalls_stack *s;

	if (!id || !op)
		return;
	s = hypercalls_stack(&v->h, (__u64)source << 32 | v->sessions[source], id, (__u32)op->key.b);
	if (!s)
		return;
	if (!s->text)
		s->text = fold(v, e, id, op->name);
	s->calls += calls;
}

/* ------------------------------------------------------------------------------------ what happens */

static const char *enum_name(const struct htrace_type *t, __u64 value)
{
	return t && t->kind == HTRACE_TYPE_ENUM ? htrace_enum_name(t, value) : NULL;
}

/* NULL: there is no such member, or the record ends before it; *@len: up to its end. */
static const unsigned char *member_of(const struct sink_event *e, const char *name, const struct htrace_type **type,
				      size_t *len)
{
	const struct htrace_type *t = e->event->type;

	for (__u32 i = 0; i < t->nr; i++) {
		const struct htrace_member *m = &t->members[i];

		if (strcmp(m->name, name) != 0 || m->bit_size || m->bit_off % 8 || m->bit_off / 8 > e->record->len)
			continue;
		*type = m->type;
		*len = e->record->len - m->bit_off / 8;
		if (m->type->size && m->type->size < *len)
			*len = m->type->size;
		return (const unsigned char *)e->record->payload + m->bit_off / 8;
	}
	return NULL;
}

static void take_flush(struct view_hypercalls *v, const struct sink_event *e, const struct event_values *f)
{
	unsigned int source = e->from->session->source_nr;
	struct hypercalls_flush flush = { .calls = (unsigned int)f->v[F_CALLS] & 0xff, .ns = f->v[F_NS] };
	const struct htrace_type *t = NULL;
	size_t len = 0;
	const unsigned char *op = member_of(e, "op", &t, &len);

	if (op && t->kind == HTRACE_TYPE_ARRAY && t->elem->size == 1)
		for (size_t i = 0; i < len && i < flush.calls && flush.nr < HYPERCALLS_BATCH; i++)
			if (op[i] != NONE) {
				flush.op[flush.nr].number = op[i];
				flush.op[flush.nr++].name = enum_name(t->elem, op[i]);
			}
	hypercalls_flushed(&v->h, source, &flush);
	for (unsigned int i = 0; i < flush.nr && f->v[F_STACK] && !v->entries_have_stacks[source]; i++)
		add_stack(v, e, f->v[F_STACK], hypercalls_op(&v->h, source, flush.op[i].number, flush.op[i].name), 1);
}

static void take_entry(struct view_hypercalls *v, const struct sink_event *e, const struct event_values *f)
{
	unsigned int source = e->from->session->source_nr;
	struct hypercalls_row *op = hypercalls_op(&v->h, source, (__u32)f->v[F_OP] & 0xffff,
						  enum_name(f->type[F_OP], f->v[F_OP]));

	v->h.queued++;
	if (op)
		op->queued++;
	v->entries_have_stacks[source] |= f->v[F_STACK] != 0;
	add_stack(v, e, f->v[F_STACK], op, 1);
}

static void take_upcall(struct view_hypercalls *v, const struct sink_event *e, const struct event_values *f)
{
	char buf[TASK_NAME], comm[16] = "", name[HYPERCALLS_NAME];
	size_t len = 0;
	const char *task = task_name(e->from, (__u32)f->v[F_TID], e->time, buf, &len);

	if (!task) {
		task = "<...>";
		len = strlen(task);
	}
	memcpy(comm, task, len < sizeof(comm) ? len : sizeof(comm));
	name[htrace_escape(name, sizeof(name) - 1, task, len < sizeof(comm) ? len : sizeof(comm))] = 0;
	hypercalls_upcall(&v->h, e->from->session->source_nr, comm, name, f->v[F_NS], f->v[F_CHANNELS]);
}

/* What is the same on each CPU is told apart by nothing: "timer0" and "timer1" are "timer". */
static void take_channel(struct view_hypercalls *v, const struct sink_event *e, const struct event_values *f)
{
	const char *type = enum_name(f->type[F_TYPE], f->v[F_TYPE]);
	bool between = type && !strcmp(type, "evtchn"), per_cpu = type && (!strcmp(type, "virq") || !strcmp(type, "ipi"));
	__u64 number = (between ? f->v[F_PORT] : f->v[F_NUMBER]) & 0xffffffff;
	char name[80], handler[4 * 16 + 1] = "";
	const struct htrace_type *t = NULL;
	size_t len = 0;
	const unsigned char *text = member_of(e, "name", &t, &len);

	if (text && t->kind == HTRACE_TYPE_STRING) {
		len = strnlen((const char *)text, len < 16 ? len : 16);
		while (per_cpu && len && text[len - 1] >= '0' && text[len - 1] <= '9')
			len--;
		handler[htrace_escape(handler, sizeof(handler) - 1, (const char *)text, len)] = 0;
	}
	snprintf(name, sizeof(name), "%s%s %llu %s", type ? type : "type ?", between ? " port" : "", (ull)number, handler);
	hypercalls_channel(&v->h, e->from->session->source_nr, (f->v[F_TYPE] & 0xff) << 32 | number, name, f->v[F_NS]);
}

static void hypercalls_view_event(void *view, const struct sink_event *e)
{
	const struct sink_session *session = e->from->session;
	struct view_hypercalls *v = view;
	struct event_values f;

	if (session->source_nr >= HYPERCALLS_SOURCES)
		return;
	event_fields_take(v->fields, e, &f);
	if (f.kind == KIND_OTHER)
		return;
	view_source_name(v->source[session->source_nr], session);
	if (!v->h.first || e->time < v->h.first)
		v->h.first = e->time;
	if (e->time > v->h.last)
		v->h.last = e->time;
	switch ((enum kind)f.kind) {
	case KIND_BATCH:
		v->h.begun++;
		break;
	case KIND_ISSUE:
		v->h.issued++;
		break;
	case KIND_ENTRY:
		take_entry(v, e, &f);
		break;
	case KIND_EXTEND:
		v->h.extended += !f.v[F_RESULT];
		v->h.not_extended += f.v[F_RESULT] != 0;
		break;
	case KIND_FLUSH:
		take_flush(v, e, &f);
		break;
	case KIND_UPCALL:
		take_upcall(v, e, &f);
		break;
	case KIND_CHANNEL:
		take_channel(v, e, &f);
		break;
	case KIND_OTHER:
		break;
	}
}

static void hypercalls_view_loss(void *view, const struct sink_loss *l)
{
	struct view_hypercalls *v = view;

	v->h.lost += sink_lost(l);
}

static void hypercalls_view_session_end(void *view, const struct sink_session *session)
{
	struct view_hypercalls *v = view;

	if (session->source_nr < HYPERCALLS_SOURCES) {
		v->sessions[session->source_nr]++;
		v->entries_have_stacks[session->source_nr] = false;
	}
	event_fields_session_end(v->fields, session);
}

/* ------------------------------------------------------------------------------------------- pages */

static struct hypercalls_shown shown(struct view_hypercalls *v)
{
	return (struct hypercalls_shown){ .h = &v->h, .source = (const char (*)[VIEW_SOURCE])v->source, .since = v->shown };
}

static void hypercalls_view_print(void *view, struct view_page *p)
{
	struct view_hypercalls *v = view;
	struct hypercalls_shown s = shown(v);

	hypercalls_show_tables(&s, p);
	v->shown = v->h.last;
}

static void folded_view_print(void *view, struct view_page *p)
{
	struct hypercalls_shown s = shown(view);

	hypercalls_show_folded(&s, p);
}

static void json_view_print(void *view, struct view_page *p)
{
	struct hypercalls_shown s = shown(view);

	hypercalls_show_json(&s, p);
}

#define HYPERCALLS_VIEW(called, how, is_lines) {             \
		.name = called,                              \
		.lines = is_lines,                           \
		.open = hypercalls_view_open,                \
		.event = hypercalls_view_event,              \
		.loss = hypercalls_view_loss,                \
		.session_end = hypercalls_view_session_end,  \
		.print = how,                                \
		.close = hypercalls_view_close,              \
	}

const struct view_ops view_hypercalls = HYPERCALLS_VIEW("hypercalls", hypercalls_view_print, false);
const struct view_ops view_hypercalls_folded = HYPERCALLS_VIEW("hypercalls:folded", folded_view_print, true);
const struct view_ops view_hypercalls_json = HYPERCALLS_VIEW("hypercalls:json", json_view_print, true);
