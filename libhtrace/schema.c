// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/*
 * Parsing: all entries are checked first, then turned into objects that nothing needs to be checked
 * of again. Memory is a small multiple of the entries' length.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/schema.h>

#include "internal.h"
#include "schema_check.h"

struct htrace_schema {
	struct htrace_type *types;
	struct htrace_member *members;
	struct htrace_enumerator *values;
	struct htrace_event *events;
	const struct htrace_event **by_name; /* sorted */
	__u16 *by_id; /* index + 1; 0: no such event */
	char *text;
	char *filter;      /* "": none */
	bool *is_filtered; /* by id: in the guest */
	__u32 nr_types, nr_events, max_id;
};

/* Where the next object goes. */
struct fill {
	struct htrace_schema *s;
	struct htrace_member *member;
	struct htrace_enumerator *value;
	char *text;
};

static int check_all(struct htrace_schema_check *c, const char *buf, size_t len, char *err,
		     size_t errlen)
{
	size_t entry = 0, step;
	int ret;

	if (len > HTRACE_SCHEMA_MAX) {
		htrace_errf(err, errlen, "schema: %zu bytes are more than %u", len,
			    HTRACE_SCHEMA_MAX);
		return -EPROTO;
	}
	for (size_t off = 0; off < len; off += step, entry++) {
		ret = htrace_check_entry(c, buf + off, len - off, &step);
		if (ret == -EPROTO)
			htrace_errf(err, errlen, "schema: entry %zu at byte %zu: %s", entry, off,
				    c->msg);
		if (ret)
			return ret;
	}
	return 0;
}

static struct htrace_schema *alloc_schema(const struct htrace_schema_check *c)
{
	struct htrace_schema *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	/* One more of each: an allocation of nothing may be NULL. */
	s->types = calloc(c->nr_types + 1, sizeof(*s->types));
	s->members = calloc(c->nr_members + 1, sizeof(*s->members));
	s->values = calloc(c->nr_values + 1, sizeof(*s->values));
	s->events = calloc(c->nr_events + 1, sizeof(*s->events));
	s->by_name = calloc(c->nr_events + 1, sizeof(*s->by_name));
	s->by_id = calloc(c->max_id + 1, sizeof(*s->by_id));
	s->text = malloc(c->text + 1);
	s->filter = calloc(1, HTRACE_FILTER_TEXT_MAX + 1);
	s->is_filtered = calloc(c->max_id + 1, sizeof(*s->is_filtered));
	s->max_id = c->max_id;
	if (!s->types || !s->members || !s->values || !s->events || !s->by_name || !s->by_id ||
	    !s->text || !s->filter || !s->is_filtered) {
		htrace_schema_free(s);
		return NULL;
	}
	return s;
}

static const char *fill_text(struct fill *f, const char *name)
{
	char *at = f->text;

	f->text = stpcpy(at, name) + 1;
	return at;
}

/* By value; of equal ones the one declared first comes first (their names lie in that order). */
static int compare_values(const void *a, const void *b)
{
	const struct htrace_enumerator *x = a, *y = b;

	if (x->value != y->value)
		return x->value < y->value ? -1 : 1;
	return x->name < y->name ? -1 : x->name > y->name;
}

static void fill_values(struct fill *f, struct htrace_type *t, const char *items)
{
	struct htrace_schema_value v;

	t->values = f->value;
	for (__u32 i = 0; i < t->nr; i++, f->value++) {
		memcpy(&v, items + i * sizeof(v), sizeof(v));
		f->value->value = v.value;
		f->value->name = fill_text(f, v.name);
	}
	qsort(f->value - t->nr, t->nr, sizeof(*f->value), compare_values);
}

static void fill_members(struct fill *f, struct htrace_type *t, const char *items)
{
	struct htrace_schema_member m;

	t->members = f->member;
	for (__u32 i = 0; i < t->nr; i++, f->member++) {
		memcpy(&m, items + i * sizeof(m), sizeof(m));
		f->member->name = fill_text(f, m.name);
		f->member->type = &f->s->types[m.type - 1];
		f->member->bit_off = m.bit_off;
		f->member->bit_size = m.bit_size;
	}
}

static void fill_type(struct fill *f, const char *at)
{
	struct htrace_type *t = &f->s->types[f->s->nr_types++];
	struct htrace_schema_type e;

	memcpy(&e, at, sizeof(e));
	t->number = e.type;
	t->kind = e.kind;
	t->size = e.size;
	t->name = fill_text(f, e.name);
	switch (t->kind) {
	case HTRACE_TYPE_INT:
	case HTRACE_TYPE_ENUM:
		t->is_signed = e.flags & HTRACE_TYPE_SIGNED;
		/* A hint that only a newer version knows is none. */
		t->hint = e.hint <= HTRACE_HINT_STACK_USER && e.hint != HTRACE_HINT_FLOAT ?
				  e.hint : HTRACE_HINT_NONE;
		break;
	case HTRACE_TYPE_ARRAY:
		t->elem = &f->s->types[e.ref - 1];
		t->nr = e.nr;
		break;
	default:
		break;
	}
	if (t->kind == HTRACE_TYPE_ENUM) {
		t->nr = e.nr;
		fill_values(f, t, at + sizeof(e));
	} else if (t->kind == HTRACE_TYPE_STRUCT || t->kind == HTRACE_TYPE_UNION) {
		t->nr = e.nr;
		fill_members(f, t, at + sizeof(e));
	}
}

static void fill_event(struct fill *f, const char *at)
{
	struct htrace_event *ev = &f->s->events[f->s->nr_events];
	struct htrace_schema_event e;

	memcpy(&e, at, sizeof(e));
	ev->id = e.id;
	ev->name = fill_text(f, e.name);
	ev->type = &f->s->types[e.type - 1];
	f->s->by_name[f->s->nr_events++] = ev;
	f->s->by_id[e.id] = (__u16)f->s->nr_events;
}

static int compare_events(const void *a, const void *b)
{
	const struct htrace_event *const *x = a, *const *y = b;

	return strcmp((*x)->name, (*y)->name);
}

static void fill_filter(struct fill *f, const char *at)
{
	struct htrace_schema_filter e;

	memcpy(&e, at, sizeof(e));
	if (e.id) {
		f->s->is_filtered[e.id] = e.flags & HTRACE_FILTER_IN_GUEST;
		return;
	}
	strcpy(f->s->filter, at + sizeof(e));
	memset(f->s->is_filtered, 0, (f->s->max_id + 1) * sizeof(*f->s->is_filtered));
}

/* Everything was checked: sizes and references hold. */
static void fill_all(struct htrace_schema *s, const char *buf, size_t len)
{
	struct fill f = { .s = s, .member = s->members, .value = s->values, .text = s->text };
	struct htrace_schema_entry e;

	for (size_t off = 0; off < len; off += e.len) {
		memcpy(&e, buf + off, sizeof(e));
		if (e.kind == HTRACE_SCHEMA_TYPE)
			fill_type(&f, buf + off);
		else if (e.kind == HTRACE_SCHEMA_EVENT)
			fill_event(&f, buf + off);
		else if (e.kind == HTRACE_SCHEMA_FILTER)
			fill_filter(&f, buf + off);
	}
	qsort(s->by_name, s->nr_events, sizeof(*s->by_name), compare_events);
}

int htrace_schema_parse(struct htrace_schema **out, const void *buf, size_t len, char *err,
			size_t errlen)
{
	struct htrace_schema_check *c = calloc(1, sizeof(*c));
	struct htrace_schema *s = NULL;
	int ret = -ENOMEM;

	*out = NULL;
	if (!c)
		goto done;
	ret = check_all(c, buf, len, err, errlen);
	if (ret)
		goto done;
	s = alloc_schema(c);
	if (s)
		fill_all(s, buf, len);
	else
		ret = -ENOMEM;
	*out = s;
done:
	if (c)
		htrace_check_done(c);
	free(c);
	if (ret == -ENOMEM)
		htrace_errf(err, errlen, "schema: out of memory");
	return ret;
}

void htrace_schema_free(struct htrace_schema *s)
{
	if (!s)
		return;
	free(s->types);
	free(s->members);
	free(s->values);
	free(s->events);
	free(s->by_name);
	free(s->by_id);
	free(s->text);
	free(s->filter);
	free(s->is_filtered);
	free(s);
}

const struct htrace_event *htrace_schema_event(const struct htrace_schema *s, __u32 id)
{
	__u32 index = id <= s->max_id ? s->by_id[id] : 0;

	return index ? &s->events[index - 1] : NULL;
}

const struct htrace_event *htrace_schema_event_by_name(const struct htrace_schema *s,
						       const char *name)
{
	struct htrace_event key = { .name = name };
	const struct htrace_event *k = &key, **at;

	at = bsearch(&k, s->by_name, s->nr_events, sizeof(*s->by_name), compare_events);
	return at ? *at : NULL;
}

__u32 htrace_schema_nr_events(const struct htrace_schema *s)
{
	return s->nr_events;
}

__u32 htrace_schema_nr_types(const struct htrace_schema *s)
{
	return s->nr_types;
}

const struct htrace_event *htrace_schema_event_at(const struct htrace_schema *s, __u32 index)
{
	return index < s->nr_events ? &s->events[index] : NULL;
}

const char *htrace_schema_filter(const struct htrace_schema *s)
{
	return s->filter[0] ? s->filter : NULL;
}

bool htrace_schema_is_filtered(const struct htrace_schema *s, __u32 id)
{
	return id <= s->max_id && s->is_filtered[id];
}
