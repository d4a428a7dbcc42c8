/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Schema entries by a small program in the input: right unless it says otherwise, so that what
 * lies behind the checks is reached, and wrong in single values, so that the checks are.
 */
#ifndef FUZZ_SCHEMA_H
#define FUZZ_SCHEMA_H

#include "fuzz.h"

#define SCHEMA_ROOM 32768u

struct schema_maker {
	size_t len;
	__u32 nr_types, nr_events;
	__u32 size[256]; /* of type n at [n - 1] */
	_Alignas(8) char at[SCHEMA_ROOM];
};

/* Names that the reader knows, for what it does with those. */
static const char *const schema_names[] = {
	"a", "b", "tid", "comm", "prev_tid", "next_tid", "parent_tid", "child_tid", "child_comm",
	"child_pid", "pid", "sched_switch", "sched_process_fork", "sched_process_exec", "task_rename",
	"sched_process_exit", "sched_waking", HTRACE_STACK_EVENT, "sys_enter", "sys_exit", "nr", "args",
	"ret", "callstack_kernel", "callstack_user", "prev_state", "next_prio", "irq_handler_entry",
	"name", "x0123456789012345678901234567890123456789012345678901234567890a", "9bad", "",
};

static inline void schema_name(struct schema_maker *m, struct input *in, char name[HTRACE_NAME_MAX])
{
	__u64 which = take(in, 1);

	if (which < 192)
		snprintf(name, HTRACE_NAME_MAX, "%s", schema_names[which % ARRAY_SIZE(schema_names)]);
	else if (which < 240)
		snprintf(name, HTRACE_NAME_MAX, "n%u", m->nr_types * 8 + m->nr_events + (unsigned)which);
	else
		memset(name, (int)take(in, 1), HTRACE_NAME_MAX);
}

static inline void *schema_entry(struct schema_maker *m, __u16 kind, size_t len)
{
	struct htrace_schema_entry *e = (void *)(m->at + m->len);

	if (len > SCHEMA_ROOM - m->len)
		return NULL;
	memset(e, 0, len);
	e->kind = kind;
	e->len = (__u32)len;
	m->len += len;
	return e;
}

static inline __u32 schema_ref(const struct schema_maker *m, struct input *in)
{
	__u32 v = (__u32)take(in, 1);

	return v < 250 && m->nr_types ? m->nr_types - v % m->nr_types : v;
}

static inline __u32 size_of_type(const struct schema_maker *m, __u32 number)
{
	return number && number <= m->nr_types ? m->size[number - 1] : 0;
}

/* Members behind each other, unless it is a union or the input moves them. */
static inline void schema_members(struct schema_maker *m, struct input *in,
				  struct htrace_schema_type *t)
{
	struct htrace_schema_member *member = (void *)(t + 1);
	__u32 at = 0;

	for (__u32 i = 0; i < t->nr; i++) {
		__u64 how = take(in, 1);

		member[i].type = schema_ref(m, in);
		schema_name(m, in, member[i].name);
		member[i].bit_off = t->kind == HTRACE_TYPE_UNION ? 0 : at;
		if (how >= 128 && how < 192) {
			member[i].bit_size = (__u32)(how % 64) + 1;
			at += member[i].bit_size;
		} else {
			at = (at + 7) & ~7u;
			member[i].bit_off = t->kind == HTRACE_TYPE_UNION ? 0 : at;
			at += size_of_type(m, member[i].type) * 8;
		}
		if (how >= 240)
			member[i].bit_off = (__u32)take_number(in);
		if (t->kind == HTRACE_TYPE_UNION)
			t->size = t->size * 8 > at ? t->size : at / 8, at = 0;
	}
	if (t->kind == HTRACE_TYPE_STRUCT)
		t->size = (at + 7) / 8;
}

static inline void schema_type(struct schema_maker *m, struct input *in, __u16 kind)
{
	static const __u32 sizes[] = { 1, 2, 4, 8, 4, 8, 16, 3 };
	__u64 how = take(in, 1);
	__u32 nr = kind == HTRACE_TYPE_INT || kind == HTRACE_TYPE_STRING ? 0 : (__u32)(how >> 3) % 12;
	size_t items = kind == HTRACE_TYPE_ENUM ? nr * sizeof(struct htrace_schema_value) :
		       kind == HTRACE_TYPE_ARRAY ? 0 : nr * sizeof(struct htrace_schema_member);
	struct htrace_schema_type *t = schema_entry(m, HTRACE_SCHEMA_TYPE, sizeof(*t) + items);

	if (!t || m->nr_types == ARRAY_SIZE(m->size))
		return;
	t->kind = kind;
	t->type = m->nr_types + 1;
	t->nr = nr;
	t->hint = (__u8)take(in, 1) % 12;
	t->flags = how & 8 ? HTRACE_TYPE_SIGNED : 0;
	if (how & 128)
		schema_name(m, in, t->name);
	if (kind == HTRACE_TYPE_INT || kind == HTRACE_TYPE_ENUM)
		t->size = sizes[how % 8];
	else if (kind == HTRACE_TYPE_STRING)
		t->size = how >> 3;
	if (kind == HTRACE_TYPE_ENUM) {
		struct htrace_schema_value *v = (void *)(t + 1);

		for (__u32 i = 0; i < nr; i++) {
			v[i].value = (__s64)take_number(in);
			schema_name(m, in, v[i].name);
		}
	} else if (kind == HTRACE_TYPE_ARRAY) {
		t->ref = schema_ref(m, in);
		t->size = size_of_type(m, t->ref) * nr;
	} else if (kind >= HTRACE_TYPE_STRUCT) {
		schema_members(m, in, t);
	}
	m->size[m->nr_types++] = t->size;
	switch (take(in, 1)) { /* mostly 0: nothing is wrong */
	case 1:
		t->size = (__u32)take_number(in);
		break;
	case 2:
		t->nr = (__u32)take_number(in);
		break;
	case 3:
		t->type = (__u32)take_number(in);
		break;
	case 4:
		t->ref = (__u32)take_number(in);
		break;
	case 5:
		t->entry.len = (__u32)take_number(in);
		break;
	case 6:
		t->kind = (__u16)take_number(in);
		break;
	case 7:
		m->size[m->nr_types - 1] = t->size = (__u32)take_number(in);
		break;
	}
}

static inline void schema_event(struct schema_maker *m, struct input *in)
{
	struct htrace_schema_event *e = schema_entry(m, HTRACE_SCHEMA_EVENT, sizeof(*e));
	__u64 how = take(in, 1);

	if (!e)
		return;
	e->id = how < 240 ? ++m->nr_events : (__u32)take_number(in);
	e->type = schema_ref(m, in);
	schema_name(m, in, e->name);
}

/* Filters, symbols, mappings, and what is not known: any bytes. */
static inline void schema_other(struct schema_maker *m, struct input *in, __u16 kind)
{
	size_t len = take(in, 1), n = len < in->left ? len : in->left;
	char *e = schema_entry(m, kind, sizeof(struct htrace_schema_entry) + ((len + 7) & ~7ULL));

	if (!e)
		return;
	memcpy(e + sizeof(struct htrace_schema_entry), in->at, n);
	in->at += n;
	in->left -= n;
}

static inline void schema_filter(struct schema_maker *m, struct input *in)
{
	static const char *const texts[] = { "tid == 1", "comm == \"a*\" || cpu < 2", "a & 3", "",
					     "args[1] != 0", "name == b?", "!(x", "pid" };
	__u64 how = take(in, 1);
	const char *text = texts[how % ARRAY_SIZE(texts)];
	size_t room = (strlen(text) + 8) & ~7ULL;
	struct htrace_schema_filter *f = schema_entry(m, HTRACE_SCHEMA_FILTER, sizeof(*f) + room);

	if (!f)
		return;
	f->id = how & 8 ? (__u32)take(in, 1) : 0;
	f->flags = (__u32)(how >> 4);
	strcpy((char *)(f + 1), f->id ? "" : text);
}

/* Up to @most entries more. */
static inline void schema_make(struct schema_maker *m, struct input *in, unsigned int most)
{
	for (unsigned int n = (unsigned int)take(in, 1) % (most + 1); n && in->left; n--) {
		__u64 op = take(in, 1);

		if (op % 16 < 2)
			schema_type(m, in, HTRACE_TYPE_INT);
		else if (op % 16 < 8)
			schema_type(m, in, (__u16)(op % 16 - 1)); /* int ... union */
		else if (op % 16 < 12)
			schema_event(m, in);
		else if (op % 16 == 12)
			schema_filter(m, in);
		else
			schema_other(m, in, (__u16)(op % 16 - 10)); /* 3 ... 5: filter ... mapping */
	}
}

#endif
