// SPDX-License-Identifier: LGPL-2.1-or-later
#include "boot_records.h"

#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIELDS 6

/* A field of ours, what the kernel calls it, and what it is; text to its end or of so many bytes. */
struct field {
	const char *name, *kernel; /* NULL: it does not say */
	__u32 size;
	bool is_text, is_signed, is_path; /* of a path the last component */
	enum htrace_hint hint;
};

struct known {
	const char *event;
	struct field field[FIELDS];
};

#define TID(name, kernel) { name, kernel, 4, false, false, false, HTRACE_HINT_TID }
#define INT(name, kernel, size, is_signed) { name, kernel, size, false, is_signed, false, HTRACE_HINT_NONE }
#define TEXT(name, kernel, size) { name, kernel, size, true, false, false, HTRACE_HINT_NONE }
#define WAKEUP(event) { event, { TID("tid", "pid"), INT("prio", "prio", 2, true), \
				 INT("target_cpu", "target_cpu", 2, false) } }

static const struct known known[] = {
	{ "sched_switch", { TID("prev_tid", "prev_pid"), TID("next_tid", "next_pid"),
			    INT("prev_prio", "prev_prio", 2, true), INT("next_prio", "next_prio", 2, true),
			    { "prev_state", "prev_state", 4, .hint = HTRACE_HINT_TASK_STATE } } },
	WAKEUP("sched_waking"), WAKEUP("sched_wakeup"), WAKEUP("sched_wakeup_new"),
	{ "sched_process_fork", { TID("parent_tid", "parent_pid"), TID("parent_pid", NULL),
				  TID("child_tid", "child_pid"), TID("child_pid", NULL),
				  TEXT("child_comm", "child_comm", 16) } },
	/* What a task is called that begins another program: so does the kernel. */
	{ "sched_process_exec", { TID("tid", "pid"), TID("old_tid", "old_pid"),
				  { "comm", "filename", 16, .is_text = true, .is_path = true },
				  TEXT("filename", "filename", 0) } },
	{ "sched_process_exit", { TID("tid", "pid"), INT("prio", "prio", 4, true) } },
	{ "task_rename", { TID("tid", "pid"), TID("pid", NULL), TEXT("comm", "newcomm", 16) } },
	{ "module_load", { TID("tid", "common_pid"), { "taints", "taints", 8, .hint = HTRACE_HINT_HEX },
			   TEXT("name", "name", 56) } },
	{ "module_free", { TID("tid", "common_pid"), TEXT("name", "name", 56) } },
};

struct type {
	struct tracepoint *tp;
	const struct known *known; /* NULL: it stays as it is */
	const struct htrace_event *event;
	__u32 id; /* 0: it is not declared */
};

struct boot_records {
	struct type *type[BOOT_TYPES];
	struct htrace_schema *schema; /* what events are looked up in */
	struct htrace_schema_value *function;
	__u32 nr_functions;
};

/* ------------------------------------------------------------------------------------ what there is */

struct boot_records *boot_records_new(void)
{
	return calloc(1, sizeof(struct boot_records));
}

void boot_records_free(struct boot_records *b)
{
	for (size_t i = 0; b && i < BOOT_TYPES; i++) {
		if (b->type[i])
			tracepoint_free(b->type[i]->tp);
		free(b->type[i]);
	}
	if (b) {
		htrace_schema_free(b->schema);
		free(b->function);
	}
	free(b);
}

static const struct known *find_known(const char *event)
{
	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++)
		if (!strcmp(known[i].event, event))
			return &known[i];
	return NULL;
}

int boot_records_add(struct boot_records *b, __u32 type, struct tracepoint *tp)
{
	struct type *t = type < BOOT_TYPES && !b->type[type] ? calloc(1, sizeof(*t)) : NULL;

	if (!t) {
		tracepoint_free(tp);
		return type >= BOOT_TYPES ? -E2BIG : b->type[type] ? -EEXIST : -ENOMEM;
	}
	t->tp = tp;
	t->known = find_known(tp->name);
	b->type[type] = t;
	return 0;
}

/* One format file. 1, 0: it is left out; or -ENOMEM. */
static int add_format(struct boot_records *b, const char *text, size_t len)
{
	struct tracepoint *tp;
	unsigned int type;
	char name[64];
	FILE *f;
	int ret;

	f = fmemopen((void *)(size_t)text, len, "r");
	if (!f)
		return -ENOMEM;
	if (fscanf(f, "name: %63s ID: %u", name, &type) != 2) {
		fclose(f);
		return 0;
	}
	tp = calloc(1, sizeof(*tp));
	ret = tp ? tracepoint_parse(tp, f) : -ENOMEM;
	fclose(f);
	if (ret) {
		tracepoint_free(tp);
		return ret == -ENOMEM ? ret : 0;
	}
	snprintf(tp->name, sizeof(tp->name), "%s", name);
	ret = boot_records_add(b, type, tp);
	return ret == -ENOMEM ? ret : !ret;
}

int boot_records_add_formats(struct boot_records *b, const char *text, size_t len)
{
	const char *end = text + len, *at = text;
	int nr = 0;

	while (at < end) {
		const char *next = memmem(at + 1, (size_t)(end - at - 1), "\nname: ", 7);
		int ret;

		next = next ? next + 1 : end;
		ret = add_format(b, at, (size_t)(next - at));
		if (ret < 0)
			return ret;
		nr += ret;
		at = next;
	}
	return nr;
}

/* ---------------------------------------------------------------------------------- its declaration */

int boot_records_name(struct boot_records *b, __u64 address, const char *name)
{
	struct htrace_schema_value *more;

	if (b->nr_functions == BOOT_FUNCTIONS)
		return -ENOSPC;
	if (!(b->nr_functions & (b->nr_functions - 1))) { /* a power of two: twice as many */
		more = realloc(b->function, 2 * (b->nr_functions + 1) * sizeof(*more));
		if (!more)
			return -ENOMEM;
		b->function = more;
	}
	more = &b->function[b->nr_functions++];
	memset(more, 0, sizeof(*more));
	more->value = (__s64)address;
	/* As C has it: compilers add dots to some. */
	for (size_t i = 0; i < sizeof(more->name) - 1 && name[i]; i++)
		more->name[i] = isalnum((unsigned char)name[i]) ? name[i] : '_';
	if (more->name[0] >= '0' && more->name[0] <= '9')
		more->name[0] = '_';
	if (!more->name[0])
		b->nr_functions--;
	return 0;
}

int boot_records_functions(const struct boot_records *b, struct htrace_schema_builder *s)
{
	return b->nr_functions ? htrace_builder_enum(s, "kernel_function", 8, false, b->function, b->nr_functions) :
				 0;
}

static int declare_known(const struct known *k, struct htrace_schema_builder *s)
{
	struct htrace_schema_member m[FIELDS] = { { 0 } };
	__u32 nr = 0, at = 0;
	int type;

	for (; nr < FIELDS && k->field[nr].name; nr++) {
		const struct field *f = &k->field[nr];
		char name[8];

		snprintf(name, sizeof(name), "%c%u", f->is_signed ? 's' : 'u', f->size * 8);
		type = f->is_text ? htrace_builder_string(s, f->size) :
				    htrace_builder_int(s, name, f->size, f->is_signed, f->hint);
		if (type < 0)
			return type;
		if (!f->is_text)
			at = (at + f->size - 1) & ~(f->size - 1);
		m[nr].type = (__u32)type;
		m[nr].bit_off = 8 * at;
		snprintf(m[nr].name, sizeof(m[nr].name), "%s", f->name);
		at += f->size;
	}
	type = htrace_builder_struct(s, k->event, false, at, m, nr);
	return type < 0 ? type : htrace_builder_event(s, k->event, type);
}

/* Under its own name, or, if something else has that, or a program's event is called so, as SYSTEM_NAME. */
static int declare_one(const struct boot_records *b, const struct type *t, struct htrace_schema_builder *s)
{
	char name[2 * 64 + 2];
	int ret = -EEXIST;

	if (t->known)
		return declare_known(t->known, s);
	snprintf(name, sizeof(name), "%s_%s", *t->tp->system ? t->tp->system : "boot", t->tp->name);
	name[HTRACE_NAME_MAX - 1] = 0;
	if (!htrace_schema_event_by_name(b->schema, name))
		ret = tracepoint_declare(t->tp, s, t->tp->name, NULL, 0);
	return ret == -EEXIST ? tracepoint_declare(t->tp, s, name, NULL, 0) : ret;
}

static int look_up(struct boot_records *b, struct htrace_schema_builder *s)
{
	size_t len;
	const void *entries = htrace_builder_entries(s, &len);
	char err[256];

	int ret;

	htrace_schema_free(b->schema);
	b->schema = NULL;
	ret = htrace_schema_parse(&b->schema, entries, len, err, sizeof(err));
	for (size_t i = 0; i < BOOT_TYPES; i++)
		if (b->type[i] && b->type[i]->id)
			b->type[i]->event = ret ? NULL : htrace_schema_event(b->schema, b->type[i]->id);
	return ret;
}

int boot_records_declare(struct boot_records *b, struct htrace_schema_builder *s, int functions)
{
	int ret = look_up(b, s), left_out = 0;

	for (size_t i = 0; i < BOOT_TYPES && !ret; i++) {
		struct type *t = b->type[i];
		const struct htrace_event *e;

		if (!t)
			continue;
		e = t->known ? htrace_schema_event_by_name(b->schema, t->tp->name) : NULL;
		t->tp->functions = functions;
		ret = e ? (int)e->id : declare_one(b, t, s);
		t->id = ret > 0 ? (__u32)ret : 0;
		left_out += !t->id;
		ret = ret == -ENOMEM ? ret : 0;
	}
	if (!ret)
		ret = look_up(b, s);
	return ret ? ret : left_out;
}

/* --------------------------------------------------------------------------------------- its records */

static const struct type *type_of(const struct boot_records *b, __u32 type)
{
	return type < BOOT_TYPES ? b->type[type] : NULL;
}

const struct tracepoint *boot_records_event(const struct boot_records *b, __u32 type)
{
	const struct type *t = type_of(b, type);

	return t ? t->tp : NULL;
}

static __u64 number(const struct tracepoint_value *v)
{
	__u64 n = 0;

	memcpy(&n, v->at, v->len < 8 ? v->len : 8);
	if (v->is_signed && v->len && v->len < 8 && v->at[v->len - 1] & 0x80)
		n |= ~0ULL << (8 * v->len);
	return n;
}

bool boot_records_initcall(const struct boot_records *b, const struct ftrace_record *r, __u64 *address)
{
	const struct type *t = type_of(b, ftrace_record_type(r));
	struct tracepoint_value v;

	if (!t || strncmp(t->tp->name, "initcall_", 9) || !tracepoint_field(t->tp, r->data, r->len, "func", &v))
		return false;
	*address = number(&v);
	return true;
}

/* Text of fixed size, or to the end of the record; the payload's bytes by now. */
static size_t put_text(unsigned char *out, size_t at, __u32 size, const struct field *f,
		       const struct tracepoint_value *v)
{
	size_t room = size ? size : TRACEPOINT_TEXT_MAX, len = v->is_text ? v->len : 0;
	const unsigned char *text = v->at;

	if (f->is_path) {
		const unsigned char *slash = memrchr(text, '/', len);

		len -= slash ? (size_t)(slash + 1 - text) : 0;
		text = slash ? slash + 1 : text;
	}
	len = len < room ? len : room - 1;
	memcpy(out + at, text, len);
	memset(out + at + len, 0, size ? size - len : 1);
	return at + (size ? size : len + 1);
}

/* By the fields' names: the event may be our BPF programs', which has them elsewhere, and more of them. */
static size_t put_known(const struct type *t, const struct ftrace_record *r, unsigned char *out)
{
	const struct htrace_type *s = t->event->type;
	size_t len = s->size;

	if (len > TRACEPOINT_PAYLOAD_MAX - TRACEPOINT_TEXT_MAX)
		return 0;
	memset(out, 0, len);
	for (__u32 i = 0; i < s->nr; i++) {
		const struct htrace_member *m = &s->members[i];
		const struct field *f = t->known->field, *end = f + FIELDS;
		struct tracepoint_value v;
		size_t to;

		while (f < end && f->name && strcmp(f->name, m->name))
			f++;
		if (f == end || !f->name || !f->kernel || m->bit_size ||
		    !tracepoint_field(t->tp, r->data, r->len, f->kernel, &v))
			continue;
		if (m->type->kind == HTRACE_TYPE_STRING && f->is_text) {
			to = put_text(out, m->bit_off / 8, m->type->size, f, &v);
			len = to > len ? to : len;
		} else if (m->type->kind == HTRACE_TYPE_INT && m->type->size <= 8 && !v.is_text) {
			__u64 n = number(&v);

			memcpy(out + m->bit_off / 8, &n, m->type->size);
		}
	}
	return len;
}

size_t boot_records_payload(const struct boot_records *b, const struct ftrace_record *r,
			    unsigned char out[TRACEPOINT_PAYLOAD_MAX], __u32 *id)
{
	const struct type *t = type_of(b, ftrace_record_type(r));

	if (!t || !t->event)
		return 0;
	*id = t->id;
	return t->known ? put_known(t, r, out) : tracepoint_payload(t->tp, r->data, r->len, out);
}
