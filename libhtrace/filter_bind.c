// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/* Filters: what an expression's names are in an event, and whether they go together. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filter_tree.h"
#include "internal.h"

static const struct filter_node *node(const struct htrace_filter *f, __u16 n)
{
	return &f->node[n];
}

static bool is(const char *text, __u32 len, const char *name)
{
	return !strncmp(text, name, len) && !name[len];
}

/* --------------------------------------------------------------------------------------- fields */

static struct filter_place bad(const char *why)
{
	return (struct filter_place){ .what = WHAT_BAD, .error = why };
}

/* What lies at @bit_off of the record, of type @t; @bits: of a bit-field. */
static struct filter_place place_of(const struct htrace_type *t, __u64 bit_off, __u32 bits)
{
	struct filter_place p = { .off = (__u32)(bit_off / 8), .size = t->size };

	switch (t->kind) {
	case HTRACE_TYPE_INT:
	case HTRACE_TYPE_ENUM:
		if (t->size > 8)
			return bad("an integer of 16 bytes cannot be compared");
		p.what = WHAT_INT;
		p.is_signed = t->is_signed;
		p.shift = bits ? bit_off % 8 : 0;
		p.bits = (__u8)(bits ? bits : t->size * 8);
		p.size = (p.shift + p.bits + 7u) / 8;
		return p;
	case HTRACE_TYPE_STRING:
		p.what = WHAT_STRING;
		return p;
	case HTRACE_TYPE_ARRAY:
		return bad("an array cannot be compared; an element of it can, as in a[0]");
	default:
		return bad("a struct cannot be compared; a member of it can, as in a.b");
	}
}

static const struct htrace_member *find_member(const struct htrace_type *t, const char *name,
					       __u32 len)
{
	if (t->kind != HTRACE_TYPE_STRUCT && t->kind != HTRACE_TYPE_UNION)
		return NULL;
	for (__u32 i = 0; i < t->nr; i++)
		if (is(name, len, t->members[i].name))
			return &t->members[i];
	return NULL;
}

/* The field that @len bytes of @path name, and its type. Offsets stay below 2^40: no overflow. */
static struct filter_place find_field(const struct htrace_event *e, const char *path, __u32 len,
				      const struct htrace_type **type)
{
	static const struct htrace_type character = { .kind = HTRACE_TYPE_INT, .size = 1 };
	const struct filter_place missing = { .what = WHAT_MISSING };
	const struct htrace_type *t = e->type;
	__u64 bit_off = 0;
	__u32 bits = 0, i = 0;

	while (i < len) {
		if (path[i] == '[') {
			__u64 index = 0;

			for (i++; path[i] != ']'; i++)
				index = index > HTRACE_REC_MAX ? index :
					index * 10 + (__u64)(path[i] - '0');
			i++;
			if (t->kind == HTRACE_TYPE_STRING) {
				if (t->size && index >= t->size)
					return missing;
				t = &character;
			} else if (t->kind == HTRACE_TYPE_ARRAY) {
				if (t->size && index >= t->nr)
					return missing;
				t = t->elem;
			} else {
				return missing;
			}
			if (index > HTRACE_REC_MAX)
				return missing;
			bit_off += 8 * index * t->size;
		} else {
			const struct htrace_member *m;
			__u32 n;

			i += path[i] == '.';
			for (n = 0; i + n < len && path[i + n] != '.' && path[i + n] != '[';)
				n++;
			m = find_member(t, path + i, n);
			if (!m)
				return missing;
			i += n;
			bit_off += m->bit_off;
			bits = m->bit_size;
			t = m->type;
		}
	}
	if (bit_off / 8 > HTRACE_REC_MAX)
		return missing;
	*type = t;
	return place_of(t, bit_off, bits);
}

static struct filter_place find_context(const char *name, __u32 len)
{
	static const struct {
		const char *name;
		enum filter_what what;
	} contexts[] = {
		{ "comm", WHAT_COMM }, { "tid", WHAT_TID }, { "pid", WHAT_PID }, { "cpu", WHAT_CPU },
	};

	for (size_t i = 0; i < sizeof(contexts) / sizeof(*contexts); i++)
		if (is(name, len, contexts[i].name))
			return (struct filter_place){ .what = contexts[i].what };
	return (struct filter_place){ .what = WHAT_MISSING };
}

/* ------------------------------------------------------------------------------------ constants */

static struct filter_place constant(__s64 value, bool is_signed)
{
	return (struct filter_place){
		.what = WHAT_CONST,
		.value = { .bits = (__u64)value, .negative = is_signed && value < 0 },
	};
}

/* As sched_switch's prev_state is shown. */
static bool find_task_state(const char *name, __u32 len, struct filter_place *p)
{
	static const char letters[] = "SDTtXZPI";
	const char *at = len == 1 ? strchr(letters, *name) : NULL;

	if (is(name, len, "R"))
		*p = constant(0, false);
	else if (at)
		*p = constant(1LL << (at - letters), false);
	else
		return false;
	return true;
}

/* A value of @t, beside which the name stands. */
static bool find_enumerator(const struct htrace_type *t, const char *name, __u32 len,
			    struct filter_place *p)
{
	if (t && t->hint == HTRACE_HINT_TASK_STATE)
		return find_task_state(name, len, p);
	for (__u32 i = 0; t && t->kind == HTRACE_TYPE_ENUM && i < t->nr; i++) {
		if (!is(name, len, t->values[i].name))
			continue;
		*p = constant(t->values[i].value, t->is_signed);
		return true;
	}
	return false;
}

static bool find_truth(const char *name, __u32 len, struct filter_place *p)
{
	bool yes = is(name, len, "true");

	if (!yes && !is(name, len, "false"))
		return false;
	*p = constant(yes, false);
	return true;
}

/* ---------------------------------------------------------------------------------------- tests */

static bool has_names(const struct htrace_type *t)
{
	return t && (t->kind == HTRACE_TYPE_ENUM || t->hint == HTRACE_HINT_TASK_STATE);
}

/* The first type with names of values, of fields below @n. */
static const struct htrace_type *named_type(const struct htrace_filter *f, __u16 n,
					    const struct htrace_event *e)
{
	const struct htrace_type *t = NULL;

	if (node(f, n)->kind == FILTER_MASK) {
		for (__u16 c = node(f, n)->child; c; c = node(f, c)->next) {
			t = named_type(f, c, e);
			if (t)
				return t;
		}
	}
	if (node(f, n)->kind != FILTER_NAME)
		return NULL;
	find_field(e, f->text + node(f, n)->text, node(f, n)->len, &t);
	return has_names(t) ? t : NULL;
}

static void bind_name(struct htrace_filter_bound *b, const struct htrace_event *e, __u16 n,
		      const struct htrace_type *named)
{
	const struct filter_node *at = node(b->filter, n);
	const char *name = b->filter->text + at->text;
	const struct htrace_type *t = NULL;
	struct filter_place p = find_field(e, name, at->len, &t), value;

	if (!(t && t == named) && find_enumerator(named, name, at->len, &value))
		p = value;
	else if (p.what == WHAT_MISSING)
		p = find_context(name, at->len);
	if (p.what == WHAT_MISSING)
		find_truth(name, at->len, &p);
	b->place[n] = p;
}

static void bind_values(struct htrace_filter_bound *b, const struct htrace_event *e, __u16 n,
			const struct htrace_type *named)
{
	const struct filter_node *at = node(b->filter, n);

	switch (at->kind) {
	case FILTER_NAME:
		bind_name(b, e, n, named);
		break;
	case FILTER_NUMBER:
		b->place[n] = (struct filter_place){ .what = WHAT_CONST, .value = at->value };
		break;
	case FILTER_TEXT:
		b->place[n] = bad("a number is compared with text");
		break;
	default:
		for (__u16 c = at->child; c; c = node(b->filter, c)->next)
			bind_values(b, e, c, named);
	}
}

/* What the values below @n make of a test: WHAT_TEST_INT unless something is missing, or wrong. */
static struct filter_place judge(const struct htrace_filter_bound *b, __u16 n)
{
	struct filter_place p = b->place[n], q;

	if (node(b->filter, n)->kind == FILTER_MASK) {
		p.what = WHAT_TEST_INT;
		for (__u16 c = node(b->filter, n)->child; c; c = node(b->filter, c)->next) {
			q = judge(b, c);
			if (q.what == WHAT_BAD || (q.what == WHAT_MISSING && p.what != WHAT_BAD))
				p = q;
		}
		return p;
	}
	if (p.what == WHAT_STRING || p.what == WHAT_COMM)
		return bad("text is compared by == or != with text on the right");
	if (p.what != WHAT_BAD && p.what != WHAT_MISSING)
		p.what = WHAT_TEST_INT;
	return p;
}

static bool is_text_test(const struct htrace_filter_bound *b, __u16 left, __u16 right)
{
	const struct filter_node *r = node(b->filter, right);

	return (b->place[left].what == WHAT_STRING || b->place[left].what == WHAT_COMM) && right &&
	       r->kind != FILTER_MASK && (r->kind != FILTER_NUMBER || r->len);
}

void filter_bind_test(struct htrace_filter_bound *b, const struct htrace_event *e, __u16 n)
{
	const struct filter_node *test = node(b->filter, n);
	__u16 left = test->child, right = test->op ? node(b->filter, left)->next : 0;
	const struct htrace_type *named = named_type(b->filter, left, e);
	struct filter_place p, q;

	if (!named && right)
		named = named_type(b->filter, right, e);
	bind_values(b, e, left, named);
	if (is_text_test(b, left, right) && (test->op == FILTER_EQ || test->op == FILTER_NE)) {
		b->place[right] = (struct filter_place){ .what = WHAT_PATTERN };
		b->place[n] = (struct filter_place){ .what = WHAT_TEST_TEXT };
		return;
	}
	p = judge(b, left);
	if (right) {
		bind_values(b, e, right, named);
		q = judge(b, right);
		/* Where one side is missing nothing can be said of the other. */
		if (p.what == WHAT_TEST_INT || (p.what == WHAT_BAD && q.what == WHAT_MISSING))
			p = q;
	}
	b->place[n] = p;
}

static void bind_all(struct htrace_filter_bound *b, const struct htrace_event *e)
{
	for (__u16 n = 1; n < b->filter->nr; n++)
		if (node(b->filter, n)->kind == FILTER_TEST)
			filter_bind_test(b, e, n);
}

size_t htrace_filter_bound_size(const struct htrace_filter *f)
{
	return sizeof(struct htrace_filter_bound) + f->nr * sizeof(struct filter_place);
}

int htrace_filter_bind(struct htrace_filter_bound **out, const struct htrace_filter *f,
		       const struct htrace_event *e)
{
	struct htrace_filter_bound *b = calloc(1, htrace_filter_bound_size(f));

	*out = b;
	if (!b)
		return -ENOMEM;
	b->filter = f;
	bind_all(b, e);
	return 0;
}

void htrace_filter_unbind(struct htrace_filter_bound *b)
{
	free(b);
}

/* ------------------------------------------------------------------------------------- checking */

/* What a look at all events has found of each node. */
struct seen {
	bool known;  /* a name: somewhere it is something */
	bool usable; /* a test: somewhere it can be made */
	const char *error;
};

static void look(const struct htrace_filter_bound *b, struct seen *seen)
{
	for (__u16 n = 1; n < b->filter->nr; n++) {
		const struct filter_place *p = &b->place[n];

		seen[n].known |= p->what != WHAT_MISSING;
		if (node(b->filter, n)->kind != FILTER_TEST)
			continue;
		seen[n].usable |= p->what == WHAT_TEST_INT || p->what == WHAT_TEST_TEXT;
		if (p->what == WHAT_BAD && !seen[n].error)
			seen[n].error = p->error;
	}
}

static int fail(struct htrace_filter_error *err, __u32 column, const char *fmt, ...)
	HTRACE_PRINTF(3, 4);

static int fail(struct htrace_filter_error *err, __u32 column, const char *fmt, ...)
{
	va_list args;

	if (err) {
		err->column = column;
		va_start(args, fmt);
		vsnprintf(err->msg, sizeof(err->msg), fmt, args);
		va_end(args);
	}
	return -EINVAL;
}

/* The first in the text of those that are nothing anywhere; then of tests that are impossible. */
static int verdict(const struct htrace_filter *f, const struct seen *seen,
		   struct htrace_filter_error *err)
{
	const struct filter_node *at, *name = NULL, *test = NULL;
	const char *why = NULL;

	for (__u16 n = 1; n < f->nr; n++) {
		at = node(f, n);
		if (at->kind == FILTER_NAME && !seen[n].known && (!name || at->column < name->column))
			name = at;
		if (at->kind != FILTER_TEST || seen[n].usable || !seen[n].error)
			continue;
		if (!test || at->column < test->column) {
			test = at;
			why = seen[n].error;
		}
	}
	if (name) {
		fail(err, name->column, "no event that is recorded has a field '%.*s'",
		     name->len < 64 ? name->len : 64, f->text + name->text);
		return -ENOENT;
	}
	return test ? fail(err, test->column, "%s", why) : 0;
}

static int by_type(const void *a, const void *b)
{
	const struct htrace_event *x = *(const struct htrace_event *const *)a;
	const struct htrace_event *y = *(const struct htrace_event *const *)b;

	return x->type < y->type ? -1 : x->type > y->type;
}

/* All events, those of one type side by side. */
static const struct htrace_event **sorted_events(const struct htrace_schema *s)
{
	__u32 nr = htrace_schema_nr_events(s);
	const struct htrace_event **events = calloc(nr + 1, sizeof(*events));

	for (__u32 i = 0; events && i < nr; i++)
		events[i] = htrace_schema_event_at(s, i);
	if (events)
		qsort(events, nr, sizeof(*events), by_type);
	return events;
}

int htrace_filter_check(const struct htrace_filter *f, const struct htrace_schema *s,
			struct htrace_filter_error *err)
{
	const struct htrace_event **events = sorted_events(s);
	struct seen *seen = calloc(f->nr, sizeof(*seen));
	struct htrace_filter_bound *b = NULL;
	int ret = seen && events ? 0 : -ENOMEM;

	for (__u32 i = 0; !ret && i < htrace_schema_nr_events(s); i++) {
		/* Many events may have one type, of many members: each is looked through once. */
		if (i && events[i]->type == events[i - 1]->type)
			continue;
		ret = htrace_filter_bind(&b, f, events[i]);
		if (!ret)
			look(b, seen);
		htrace_filter_unbind(b);
	}
	if (ret)
		fail(err, 1, "out of memory");
	else
		ret = verdict(f, seen, err);
	free(seen);
	free(events);
	return ret;
}
