// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/* The rules of the schema format. Entries come from a guest: everything is bounded before use. */
#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include "internal.h"
#include "schema_check.h"

struct event_name {
	__u32 id;
	__u32 type;
	char name[HTRACE_NAME_MAX];
};

HTRACE_PRINTF(2, 3)
static int refuse(struct htrace_schema_check *c, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(c->msg, sizeof(c->msg), fmt, args);
	va_end(args);
	return -EPROTO;
}

static bool is_letter(char ch)
{
	return (ch >= 'a' && ch <= 'z') || (ch >= 'A' && ch <= 'Z') || ch == '_';
}

static bool is_digit(char ch)
{
	return ch >= '0' && ch <= '9';
}

/* Only names that pass here are ever printed: sinks put them out without escapes. */
static bool good_name(const char name[HTRACE_NAME_MAX])
{
	size_t i;

	if (!is_letter(name[0]))
		return false;
	for (i = 1; i < HTRACE_NAME_MAX && name[i]; i++)
		if (!is_letter(name[i]) && !is_digit(name[i]))
			return false;
	return i < HTRACE_NAME_MAX;
}

static const struct htrace_type_facts *earlier(const struct htrace_schema_check *c, __u32 number)
{
	return number && number <= c->nr_types ? &c->types[number - 1] : NULL;
}

static int check_int(struct htrace_schema_check *c, const struct htrace_schema_type *t,
		     struct htrace_type_facts *f)
{
	__u32 max = t->kind == HTRACE_TYPE_ENUM ? 8 : 16;

	if (!t->size || t->size > max || (t->size & (t->size - 1)))
		return refuse(c, "size %u is not one of 1, 2, 4, 8%s", t->size,
			      max == 16 ? ", 16" : "");
	f->fields = 1;
	f->expanded = t->size;
	return 0;
}

/* Do @nr items of @each bytes follow the fixed part of @t? */
static int check_room(struct htrace_schema_check *c, const struct htrace_schema_type *t,
		      size_t each)
{
	size_t room = (t->entry.len - sizeof(*t)) / each;

	if (t->nr > room)
		return refuse(c, "%u members do not fit into the entry's %u bytes", t->nr,
			      t->entry.len);
	return 0;
}

static int check_enum(struct htrace_schema_check *c, const struct htrace_schema_type *t,
		      const char *items, struct htrace_type_facts *f)
{
	size_t text = 0;
	int ret;

	ret = check_int(c, t, f);
	if (!ret)
		ret = check_room(c, t, sizeof(struct htrace_schema_value));
	if (ret)
		return ret;
	for (__u32 i = 0; i < t->nr; i++) {
		const char *name = items + i * sizeof(struct htrace_schema_value) +
				   offsetof(struct htrace_schema_value, name);

		if (!good_name(name))
			return refuse(c, "the name of value %u is not allowed", i);
		text += strlen(name) + 1;
	}
	c->nr_values += t->nr;
	c->text += text;
	return 0;
}

static int check_string(struct htrace_schema_check *c, const struct htrace_schema_type *t,
			struct htrace_type_facts *f)
{
	if (t->size > HTRACE_REC_MAX)
		return refuse(c, "size %u is larger than a record", t->size);
	f->open = !t->size;
	f->fields = 1;
	f->expanded = f->open ? HTRACE_REC_MAX : t->size;
	return 0;
}

/* Fields and expanded size; bounded for each type, so that the sums of later ones cannot wrap. */
static int set_extent(struct htrace_schema_check *c, struct htrace_type_facts *f, __u64 fields,
		      __u64 expanded)
{
	if (fields > HTRACE_MAX_FIELDS)
		return refuse(c, "more than %u fields", HTRACE_MAX_FIELDS);
	if (expanded > HTRACE_MAX_EXPANDED)
		return refuse(c, "unions that expand to more than %u bytes", HTRACE_MAX_EXPANDED);
	f->fields = (__u32)fields;
	f->expanded = (__u32)expanded;
	return 0;
}

static int check_array(struct htrace_schema_check *c, const struct htrace_schema_type *t,
		       struct htrace_type_facts *f)
{
	const struct htrace_type_facts *elem = earlier(c, t->ref);
	bool scalar;

	if (!elem)
		return refuse(c, "its element's type %u was not declared before", t->ref);
	if (elem->open)
		return refuse(c, "its elements reach to the end of the record");
	if (!elem->size)
		return refuse(c, "its elements are empty");
	if (t->size != (__u64)t->nr * elem->size)
		return refuse(c, "size %u is not that of %u elements of %u", t->size, t->nr,
			      elem->size);
	if (t->size > HTRACE_REC_MAX)
		return refuse(c, "size %u is larger than a record", t->size);
	scalar = elem->kind == HTRACE_TYPE_INT || elem->kind == HTRACE_TYPE_ENUM;
	f->open = !t->nr;
	f->depth = (__u8)(elem->depth + 1);
	return set_extent(c, f, scalar ? 1 : (__u64)(t->nr ? t->nr : 1) * elem->fields,
			  (__u64)(t->nr ? t->nr : HTRACE_REC_MAX / elem->size) * elem->expanded);
}

static int check_bitfield(struct htrace_schema_check *c, const struct htrace_schema_member *m,
			  const struct htrace_type_facts *type)
{
	if ((type->kind != HTRACE_TYPE_INT && type->kind != HTRACE_TYPE_ENUM) || type->size > 8)
		return refuse(c, "bit-field '%s' is no integer of up to 8 bytes", m->name);
	if (m->bit_size > type->size * 8)
		return refuse(c, "bit-field '%s' has %u bits, its type has %u", m->name,
			      m->bit_size, type->size * 8);
	/* So that one load of 8 bytes or less, from the byte it begins in, has all of it. */
	if (m->bit_off % 8 + m->bit_size > 64)
		return refuse(c, "bit-field '%s' spreads over more than 8 bytes", m->name);
	return 0;
}

/* Where member @m ends, in bits from the start of @t; negative: refused. */
static __s64 check_member(struct htrace_schema_check *c, const struct htrace_schema_type *t,
			  const struct htrace_schema_member *m, bool last)
{
	const struct htrace_type_facts *type = earlier(c, m->type);
	__u64 end;
	int ret;

	if (!type)
		return refuse(c, "the type %u of member '%s' was not declared before", m->type,
			      m->name);
	if (type->open &&
	    (t->kind == HTRACE_TYPE_UNION || type->kind == HTRACE_TYPE_STRUCT || !last))
		return refuse(c,
			      "member '%s' reaches to the end of the record, which only the last "
			      "of an event's struct may",
			      m->name);
	if (!type->size && !type->open)
		return refuse(c, "member '%s' is empty", m->name);
	if (m->bit_size) {
		ret = check_bitfield(c, m, type);
		if (ret)
			return ret;
		end = (__u64)m->bit_off + m->bit_size;
	} else {
		if (m->bit_off % 8)
			return refuse(c, "member '%s' does not begin at a byte", m->name);
		end = (__u64)m->bit_off + (__u64)type->size * 8;
	}
	if (t->kind == HTRACE_TYPE_UNION && m->bit_off)
		return refuse(c, "member '%s' of a union is not at its start", m->name);
	if (end > (__u64)t->size * 8)
		return refuse(c, "member '%s' ends behind the struct's %u bytes", m->name, t->size);
	return (__s64)end;
}

static int compare_names(const void *a, const void *b)
{
	return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int check_distinct(struct htrace_schema_check *c, const char *items, __u32 nr)
{
	const char **names;
	int ret = 0;

	if (nr < 2)
		return 0;
	names = malloc(nr * sizeof(*names));
	if (!names)
		return -ENOMEM;
	for (__u32 i = 0; i < nr; i++)
		names[i] = items + i * sizeof(struct htrace_schema_member) +
			   offsetof(struct htrace_schema_member, name);
	qsort(names, nr, sizeof(*names), compare_names);
	for (__u32 i = 1; i < nr && !ret; i++)
		if (!strcmp(names[i - 1], names[i]))
			ret = refuse(c, "two members are called '%s'", names[i]);
	free(names);
	return ret;
}

static int check_members(struct htrace_schema_check *c, const struct htrace_schema_type *t,
			 const char *items, struct htrace_type_facts *f)
{
	/* A container counts for something itself: else empty ones could be had without bound. */
	__u64 fields = !t->nr, expanded = 1;
	size_t text = 0;
	__s64 end = 0;
	int ret;

	for (__u32 i = 0; i < t->nr; i++) {
		const struct htrace_type_facts *type;
		struct htrace_schema_member m;
		__s64 beg = end;

		memcpy(&m, items + i * sizeof(m), sizeof(m));
		if (!good_name(m.name))
			return refuse(c, "the name of member %u is not allowed", i);
		end = check_member(c, t, &m, i == t->nr - 1);
		if (end < 0)
			return (int)end;
		if (t->kind == HTRACE_TYPE_STRUCT && m.bit_off < beg)
			return refuse(c, "member '%s' overlaps the one before", m.name);
		type = earlier(c, m.type);
		fields += type->fields;
		expanded += type->expanded;
		ret = set_extent(c, f, fields, expanded);
		if (ret)
			return ret;
		if (f->depth <= type->depth)
			f->depth = (__u8)(type->depth + 1);
		f->open = type->open;
		text += strlen(m.name) + 1;
	}
	ret = set_extent(c, f, fields, expanded);
	if (!ret)
		ret = check_distinct(c, items, t->nr);
	if (ret)
		return ret;
	c->nr_members += t->nr;
	c->text += text;
	return 0;
}

static int check_struct(struct htrace_schema_check *c, const struct htrace_schema_type *t,
			const char *items, struct htrace_type_facts *f)
{
	int ret = check_room(c, t, sizeof(struct htrace_schema_member));

	if (ret)
		return ret;
	if (t->size > HTRACE_REC_MAX)
		return refuse(c, "size %u is larger than a record", t->size);
	if (t->kind == HTRACE_TYPE_UNION && !t->nr)
		return refuse(c, "a union needs members");
	f->depth = 1;
	return check_members(c, t, items, f);
}

static int check_kind(struct htrace_schema_check *c, const struct htrace_schema_type *t,
		      const char *items, struct htrace_type_facts *f)
{
	switch (t->kind) {
	case HTRACE_TYPE_INT:
		return check_int(c, t, f);
	case HTRACE_TYPE_ENUM:
		return check_enum(c, t, items, f);
	case HTRACE_TYPE_ARRAY:
		return check_array(c, t, f);
	case HTRACE_TYPE_STRING:
		return check_string(c, t, f);
	case HTRACE_TYPE_STRUCT:
	case HTRACE_TYPE_UNION:
		return check_struct(c, t, items, f);
	}
	/* It has a size that others build on: unlike an unknown entry, it cannot be skipped. */
	return refuse(c, "unknown kind %u of type", t->kind);
}

static int grow_types(struct htrace_schema_check *c)
{
	__u32 room = c->types_room ? c->types_room * 2 : 64;
	void *p;

	if (c->nr_types < c->types_room)
		return 0;
	p = realloc(c->types, room * sizeof(*c->types));
	if (!p)
		return -ENOMEM;
	c->types = p;
	c->types_room = room;
	return 0;
}

static int check_type(struct htrace_schema_check *c, const char *at, __u32 len)
{
	struct htrace_type_facts f = { 0 };
	struct htrace_schema_type t;
	int ret;

	if (len < sizeof(t))
		return refuse(c, "%u bytes are too few for a type", len);
	memcpy(&t, at, sizeof(t));
	if (c->nr_types == HTRACE_MAX_TYPES)
		return refuse(c, "more than %u types", HTRACE_MAX_TYPES);
	if (t.type != c->nr_types + 1)
		return refuse(c, "type %u where %u is due", t.type, c->nr_types + 1);
	if (t.name[0] && !good_name(t.name))
		return refuse(c, "the name of type %u is not allowed", t.type);
	ret = grow_types(c);
	if (!ret)
		ret = check_kind(c, &t, at + sizeof(t), &f);
	if (ret)
		return ret;
	if (f.depth > HTRACE_MAX_DEPTH)
		return refuse(c, "nested deeper than %u", HTRACE_MAX_DEPTH);
	f.kind = t.kind;
	f.size = t.size;
	c->types[c->nr_types++] = f;
	c->text += strlen(t.name) + 1;
	return 0;
}

static int compare_events(const void *a, const void *b)
{
	return strcmp(((const struct event_name *)a)->name, ((const struct event_name *)b)->name);
}

static int add_event_name(struct htrace_schema_check *c, const struct htrace_schema_event *e)
{
	struct event_name *n = malloc(sizeof(*n)), **at;

	if (!n)
		return -ENOMEM;
	n->id = e->id;
	n->type = e->type;
	memcpy(n->name, e->name, sizeof(n->name));
	at = tsearch(n, &c->names, compare_events);
	if (at && *at == n)
		return 0;
	free(n);
	return at ? refuse(c, "two events are called '%s'", e->name) : -ENOMEM;
}

static int check_event(struct htrace_schema_check *c, const char *at, __u32 len)
{
	const struct htrace_type_facts *type;
	struct htrace_schema_event e;
	int ret;

	if (len < sizeof(e))
		return refuse(c, "%u bytes are too few for an event", len);
	memcpy(&e, at, sizeof(e));
	if (!good_name(e.name))
		return refuse(c, "the event's name is not allowed");
	if (!e.id || e.id > HTRACE_MAX_EVENTS)
		return refuse(c, "event '%s': id %u is not within 1 ... %u", e.name, e.id,
			      HTRACE_MAX_EVENTS);
	if (c->ids[e.id / 64] >> (e.id % 64) & 1)
		return refuse(c, "event '%s': id %u is taken", e.name, e.id);
	type = earlier(c, e.type);
	if (!type || type->kind != HTRACE_TYPE_STRUCT)
		return refuse(c, "event '%s': type %u is no struct declared before", e.name,
			      e.type);
	ret = add_event_name(c, &e);
	if (ret)
		return ret;
	c->ids[e.id / 64] |= 1ULL << (e.id % 64);
	c->max_id = e.id > c->max_id ? e.id : c->max_id;
	c->nr_events++;
	c->text += strlen(e.name) + 1;
	return 0;
}

static int check_filter(struct htrace_schema_check *c, const char *at, __u32 len)
{
	struct htrace_schema_filter f;
	size_t text;

	if (len <= sizeof(f))
		return refuse(c, "%u bytes are too few for a filter", len);
	memcpy(&f, at, sizeof(f));
	text = strnlen(at + sizeof(f), len - sizeof(f));
	if (text == len - sizeof(f) || text > HTRACE_FILTER_TEXT_MAX)
		return refuse(c, "the filter's text has no end, or is too long");
	if (f.id && (f.id > HTRACE_MAX_EVENTS || !(c->ids[f.id / 64] >> (f.id % 64) & 1)))
		return refuse(c, "a filter of event %u, which was not declared before", f.id);
	if (!f.id)
		c->filter = text;
	c->filtered = f.id && (c->filtered || f.flags & HTRACE_FILTER_IN_GUEST);
	return 0;
}

int htrace_check_entry(struct htrace_schema_check *c, const void *at, size_t avail, size_t *len)
{
	struct htrace_schema_entry e;

	if (avail < sizeof(e))
		return refuse(c, "%zu bytes are left, too few for an entry", avail);
	memcpy(&e, at, sizeof(e));
	if (e.len < sizeof(e) || e.len % 8)
		return refuse(c, "length %u is not a multiple of 8 of at least 8", e.len);
	if (e.len > avail)
		return refuse(c, "length %u, but %zu bytes are left", e.len, avail);
	*len = e.len;
	switch (e.kind) {
	case HTRACE_SCHEMA_TYPE:
		return check_type(c, at, e.len);
	case HTRACE_SCHEMA_EVENT:
		return check_event(c, at, e.len);
	case HTRACE_SCHEMA_FILTER:
		return check_filter(c, at, e.len);
	}
	return 0; /* a newer minor version's */
}

__u32 htrace_check_find(const struct htrace_schema_check *c, const char *name, __u32 *type)
{
	struct event_name key, *const *at;

	if (strlen(name) >= sizeof(key.name))
		return 0;
	strcpy(key.name, name);
	at = tfind(&key, &c->names, compare_events);
	if (!at)
		return 0;
	*type = (*at)->type;
	return (*at)->id;
}

void htrace_check_done(struct htrace_schema_check *c)
{
	tdestroy(c->names, free);
	free(c->types);
	c->names = NULL;
	c->types = NULL;
}
