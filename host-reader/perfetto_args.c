/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Events that the format does not know, as instants on their ring's track: all fields are
 * annotations, with names and values as the JSON output has them, but that text is escaped, as in
 * the text output. What is more than the bounds allow is left out, and an annotation "truncated"
 * says that it was.
 */
#include <stdio.h>
#include <string.h>

#include "perfetto.h"
#include "show.h"
#include "stacks.h"
#include "symbols.h"

#define KEPT 8u /* nodes that a record's own fields leave free */
#define MAX_RAW 256u
#define FRAME_TEXT 512u

struct fields {
	struct pf *pf;
	struct pf_machine *machine;
	const struct sink_event *event;
};

/* ---------------------------------------------------------------------------------------- nodes */

void pf_args_begin(struct pf *p)
{
	struct pf_args *a = &p->args;

	a->nr = 0;
	a->text_len = 0;
	a->full = false;
	a->stacks = a->depth = 0;
	a->parent[0] = PF_NODES; /* the event itself */
}

/* Called @name and @about together; @name NULL: an array's element. NULL: there is no room. */
static Pf__DebugAnnotation *add(struct pf *p, struct pf_machine *m, const char *name,
				const char *about, __u32 room)
{
	struct pf_args *a = &p->args;
	struct pf_node *n = &a->node[a->nr];
	char text[PF_NAME];

	if (a->nr + 1 + room > PF_NODES) { /* so no more names than nodes are interned, either */
		a->full = true;
		return NULL;
	}
	pf__debug_annotation__init(&n->a);
	n->a.has_name_iid = name != NULL;
	if (name) {
		snprintf(text, sizeof(text), "%s%s", name, about);
		n->a.name_iid = pf_intern(p, m, PF_FIELD_NAME, text);
	}
	n->parent = a->parent[a->depth];
	n->nr_children = 0;
	n->is_array = false;
	if (n->parent < PF_NODES)
		a->node[n->parent].nr_children++;
	a->nr++;
	return &n->a;
}

static void enter(struct pf_args *a, bool array)
{
	a->node[a->nr - 1].is_array = array;
	a->parent[++a->depth] = a->nr - 1;
}

static void leave(struct pf_args *a)
{
	a->depth--;
}

/* Let each node point at its children, which come behind it and in order. */
void pf_args_end(struct pf *p, Pf__TrackEvent *e)
{
	struct pf_args *a = &p->args;
	Pf__DebugAnnotation **at = a->child;

	e->debug_annotations = at;
	e->n_debug_annotations = 0;
	for (__u32 i = 0; i < a->nr; i++)
		if (a->node[i].parent == PF_NODES)
			at[e->n_debug_annotations++] = &a->node[i].a;
	at += e->n_debug_annotations;
	for (__u32 i = 0; i < a->nr; i++) {
		struct pf_node *n = &a->node[i];

		*(n->is_array ? &n->a.array_values : &n->a.dict_entries) = at;
		at += n->nr_children;
	}
	for (__u32 i = 0; i < a->nr; i++) {
		struct pf_node *n = &a->node[i], *up;

		if (n->parent == PF_NODES)
			continue;
		up = &a->node[n->parent];
		if (up->is_array)
			up->a.array_values[up->a.n_array_values++] = &n->a;
		else
			up->a.dict_entries[up->a.n_dict_entries++] = &n->a;
	}
}

void pf_args_count(struct pf *p, struct pf_machine *m, const char *name, __u64 v)
{
	Pf__DebugAnnotation *n = add(p, m, name, "", 0);

	if (!n)
		return;
	n->has_uint_value = true;
	n->uint_value = v;
}

/* ----------------------------------------------------------------------------------------- text */

/* @len bytes, made harmless; NULL: there is no room. */
static char *text_of(struct pf_args *a, const char *s, size_t len)
{
	size_t room = PF_TEXT - a->text_len, n = len < PF_STRING ? len : PF_STRING;
	char *to = a->text + a->text_len;

	if (room < 4 * n + 4) {
		a->full = true;
		return NULL;
	}
	n = htrace_escape(to, room, s, n);
	if (len > PF_STRING) {
		memcpy(to + n, "...", 3);
		n += 3;
	}
	to[n++] = 0;
	a->text_len += n;
	return to;
}

static void put_text(const struct fields *f, const char *name, const char *about, const char *s,
		     size_t len, __u32 room)
{
	Pf__DebugAnnotation *n = add(f->pf, f->machine, name, about, room);

	if (n)
		n->string_value = text_of(&f->pf->args, s, len);
}

static void put_task_name(const struct fields *f, const char *name, const char *about, __u64 tid,
			  __u32 room)
{
	const struct sink_event *e = f->event;
	const char *comm;
	char buf[TASK_NAME];
	size_t len;

	comm = tid <= UINT32_MAX ? task_name(e->from, (__u32)tid, e->time, buf, &len) : NULL;
	if (comm)
		put_text(f, name, about, comm, len, room);
}

/* --------------------------------------------------------------------------------------- stacks */

bool pf_has_stacks(const struct htrace_event *e)
{
	for (__u32 i = 0; i < e->type->nr; i++) {
		enum htrace_hint hint = e->type->members[i].type->hint;

		if (hint == HTRACE_HINT_STACK_KERNEL || hint == HTRACE_HINT_STACK_USER)
			return true;
	}
	return false;
}

/* As the text output shows it, but not escaped yet. */
static int frame_text(char *to, size_t size, const struct frame *f, bool user)
{
	const char *open = user ? "(" : "[", *close = user ? ")" : "]";
	const char *where = user ? f->file : f->module;

	if (f->symbol)
		return snprintf(to, size, "%s+0x%llx%s%s%s%s", f->symbol,
				(unsigned long long)f->offset, where ? " " : "", where ? open : "",
				where ? where : "", where ? close : "");
	if (user && f->in_file && f->file)
		return snprintf(to, size, "%s+0x%llx", f->file, (unsigned long long)f->file_offset);
	if (user && f->in_file)
		return snprintf(to, size, "build-id:%02x%02x%02x%02x%02x%02x+0x%llx",
				f->build_id[0], f->build_id[1], f->build_id[2], f->build_id[3],
				f->build_id[4], f->build_id[5], (unsigned long long)f->file_offset);
	return snprintf(to, size, "0x%llx", (unsigned long long)f->address);
}

static void put_stack(const struct fields *f, const char *name, __u64 id, bool user)
{
	const struct origin *from = f->event->from;
	struct pf_args *a = &f->pf->args;
	char text[FRAME_TEXT];
	struct stack st = { 0 };
	struct frame frame;
	int n;

	if (id && !stacks_find(from->stacks, id, &st)) {
		put_text(f, name, "", "not recorded here", 17, KEPT);
		return;
	}
	if (!add(f->pf, f->machine, name, "", KEPT))
		return;
	enter(a, true);
	for (__u32 i = user || !id ? 0 : first_frame(f->event, &st); i < st.nr; i++) {
		if (user)
			symbols_user_frame(from->symbols, &st, i, &frame);
		else
			symbols_kernel_frame(from->symbols, &st, i, &frame);
		n = frame_text(text, sizeof(text), &frame, user);
		put_text(f, NULL, "", text, n < (int)sizeof(text) ? (size_t)n : sizeof(text) - 1,
			 KEPT);
	}
	leave(a);
}

/* --------------------------------------------------------------------------------------- fields */

static void on_begin(void *ctx, const char *name, const struct htrace_type *t)
{
	const struct fields *f = ctx;
	struct pf_args *a = &f->pf->args;

	/* Where there is no room for it, there is none for what is in it. */
	if (add(f->pf, f->machine, name, "", KEPT))
		enter(a, t->kind == HTRACE_TYPE_ARRAY);
	else
		a->parent[++a->depth] = PF_NODES;
}

static void on_end(void *ctx, const struct htrace_type *t)
{
	const struct fields *f = ctx;

	leave(&f->pf->args);
}

static void set_integer(Pf__DebugAnnotation *n, const struct htrace_type *t, __u64 v)
{
	switch (t->hint) {
	case HTRACE_HINT_BOOL:
		n->has_bool_value = true;
		n->bool_value = v != 0;
		return;
	case HTRACE_HINT_HEX:
	case HTRACE_HINT_POINTER:
		n->has_pointer_value = true;
		n->pointer_value = unextended(t, v);
		return;
	case HTRACE_HINT_TID:
	case HTRACE_HINT_TASK_STATE:
		n->has_uint_value = true;
		n->uint_value = unextended(t, v);
		return;
	default:
		n->has_int_value = t->is_signed;
		n->int_value = (__s64)v;
		n->has_uint_value = !t->is_signed;
		n->uint_value = v;
	}
}

/* What a number stands for. */
static void put_meaning(const struct fields *f, const char *name, const struct htrace_type *t,
			__u64 v)
{
	const char *label = NULL;
	char text[40];

	if (t->kind == HTRACE_TYPE_ENUM)
		label = htrace_enum_name(t, v);
	else if (t->hint == HTRACE_HINT_SYSCALL)
		label = syscall_name(v);
	if (label)
		put_text(f, name, ".name", label, strlen(label), KEPT);
	else if (t->kind == HTRACE_TYPE_ENUM)
		return;
	else if (t->hint == HTRACE_HINT_TASK_STATE)
		put_text(f, name, ".name", text,
			 (size_t)(piece_task_state(text, unextended(t, v)) - text), KEPT);
	else if (t->hint == HTRACE_HINT_TID)
		put_task_name(f, name, ".name", unextended(t, v), KEPT);
}

static void on_integer(void *ctx, const char *name, const struct htrace_type *t, __u64 v)
{
	const struct fields *f = ctx;
	struct pf_args *a = &f->pf->args;
	Pf__DebugAnnotation *n;

	if (a->full)
		return;
	if ((t->hint == HTRACE_HINT_STACK_KERNEL || t->hint == HTRACE_HINT_STACK_USER) &&
	    a->stacks++ < SHOWN_STACKS) {
		put_stack(f, name, v, t->hint == HTRACE_HINT_STACK_USER);
		return;
	}
	n = add(f->pf, f->machine, name, "", KEPT);
	if (!n)
		return;
	set_integer(n, t, v);
	if (name)
		put_meaning(f, name, t, v);
}

static void on_string(void *ctx, const char *name, const struct htrace_type *t, const char *s,
		      size_t len)
{
	const struct fields *f = ctx;

	if (!f->pf->args.full)
		put_text(f, name, "", s, len, KEPT);
}

/* Integers of 16 bytes: most significant byte first, as they would be written. */
static void on_bytes(void *ctx, const char *name, const struct htrace_type *t, const void *p,
		     size_t len)
{
	const struct fields *f = ctx;
	const unsigned char *b = p;
	char text[2 + 2 * 16 + 1] = "0x";

	for (size_t i = 0; i < len && i < 16; i++)
		snprintf(text + 2 + 2 * i, 3, "%02x", b[len - 1 - i]);
	if (!f->pf->args.full)
		put_text(f, name, "", text, strlen(text), KEPT);
}

static const struct htrace_visitor visitor = {
	.sz = sizeof(visitor),
	.begin = on_begin,
	.end = on_end,
	.integer = on_integer,
	.string = on_string,
	.bytes = on_bytes,
};

static void put_raw(const struct fields *f)
{
	const struct htrace_record *r = f->event->record;
	const unsigned char *b = r->payload;
	__u32 len = r->len < MAX_RAW ? r->len : MAX_RAW;
	char text[2 * MAX_RAW + 1] = "";

	for (__u32 i = 0; i < len; i++)
		snprintf(text + 2 * i, 3, "%02x", b[i]);
	put_text(f, "raw", "", text, 2 * len, 0);
	if (len < r->len)
		pf_args_count(f->pf, f->machine, "raw.bytes", r->len);
}

static void put_fields(struct fields *f)
{
	const struct sink_event *e = f->event;

	if (!e->event ||
	    htrace_event_visit(e->event, e->record->payload, e->record->len, &visitor, f))
		put_raw(f);
}

/* {"tid":7,"comm":"sh"}: the task that ran. */
static void put_current(const struct fields *f)
{
	struct pf_args *a = &f->pf->args;

	if (!f->event->task_known || !add(f->pf, f->machine, "current", "", 0))
		return;
	enter(a, false);
	pf_args_count(f->pf, f->machine, "tid", f->event->task);
	put_task_name(f, "comm", "", f->event->task, 0);
	leave(a);
}

static void put_flag(const struct fields *f, const char *name)
{
	Pf__DebugAnnotation *n = add(f->pf, f->machine, name, "", 0);

	if (n)
		n->has_bool_value = n->bool_value = true;
}

void pf_instant(struct pf *p, struct pf_machine *m, struct pf_lane *l, const struct sink_event *e,
		__u64 time)
{
	struct fields f = { p, m, e };
	Pf__TrackEvent event = PF__TRACK_EVENT__INIT;
	char name[32];

	event.has_track_uuid = true;
	event.track_uuid = pf_track(p, m, l, PF_EVENTS);
	pf_begin(p, m);
	pf_args_begin(p);
	put_fields(&f);
	p->args.depth = 0;
	put_current(&f);
	if (e->unverified)
		put_flag(&f, "unverified");
	if (p->args.full)
		put_flag(&f, "truncated");
	snprintf(name, sizeof(name), "event#%u", e->record->id);
	event.has_type = event.has_name_iid = true;
	event.type = PF__TRACK_EVENT__TYPE__TYPE_INSTANT;
	event.name_iid = pf_intern(p, m, PF_EVENT_NAME, e->event ? e->event->name : name);
	pf_args_end(p, &event);
	pf_event(p, m, time, &event);
}
