// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/*
 * Building schema entries. Each goes through the same check as a reader's before it is appended, so
 * whatever a builder hands out can be parsed.
 */
#include <errno.h>
#include <search.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/schema.h>

#include "internal.h"
#include "schema_builder.h"
#include "schema_check.h"


/* A declared type, to be found again by its entry's bytes, in which the number is 0. */
struct known {
	__u32 number;
	__u32 len;
	struct htrace_schema_type t;
	/* items follow */
};

struct htrace_schema_builder {
	struct htrace_schema_check check;
	void *known; /* tsearch(3) tree of struct known */
	char *buf;   /* new entries */
	size_t len, room;
	size_t old_len;
};

static int compare_known(const void *a, const void *b)
{
	const struct known *x = a, *y = b;

	if (x->len != y->len)
		return x->len < y->len ? -1 : 1;
	return memcmp(&x->t, &y->t, x->len);
}

static struct known *known_new(size_t len)
{
	struct known *k = calloc(1, offsetof(struct known, t) + len);

	if (k)
		k->len = (__u32)len;
	return k;
}

int htrace_builder_fail(struct htrace_schema_builder *b, int error, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	vsnprintf(b->check.msg, sizeof(b->check.msg), fmt, args);
	va_end(args);
	return error;
}

static int out_of_memory(struct htrace_schema_builder *b)
{
	return htrace_builder_fail(b, -ENOMEM, "out of memory");
}

const char *htrace_builder_error(const struct htrace_schema_builder *b)
{
	return b->check.msg;
}

/* What the parser refuses is the caller's mistake here. */
static int check_entry(struct htrace_schema_builder *b, const void *at, size_t avail, size_t *len)
{
	int ret = htrace_check_entry(&b->check, at, avail, len);

	if (ret == -ENOMEM)
		return out_of_memory(b);
	return ret == -EPROTO ? -EINVAL : ret;
}

static int make_room(struct htrace_schema_builder *b, size_t len)
{
	size_t room = b->room ? b->room : 4096;
	char *p;

	if (b->old_len + b->len + len > HTRACE_SCHEMA_MAX)
		return htrace_builder_fail(b, -ENOSPC, "the schema would exceed %u bytes",
					   HTRACE_SCHEMA_MAX);
	while (room < b->len + len)
		room *= 2;
	if (room == b->room)
		return 0;
	p = realloc(b->buf, room);
	if (!p)
		return out_of_memory(b);
	b->buf = p;
	b->room = room;
	return 0;
}

static int append(struct htrace_schema_builder *b, const void *entry, size_t len)
{
	size_t step;
	int ret;

	ret = make_room(b, len);
	if (!ret)
		ret = check_entry(b, entry, len, &step);
	if (ret)
		return ret;
	memcpy(b->buf + b->len, entry, len);
	b->len += len;
	return 0;
}

/* Takes over @k. */
static int add_type(struct htrace_schema_builder *b, struct known *k)
{
	struct known *const *at;
	int ret;

	k->t.entry.kind = HTRACE_SCHEMA_TYPE;
	k->t.entry.len = k->len;
	at = tfind(k, &b->known, compare_known);
	if (at) {
		ret = (int)(*at)->number;
		free(k);
		return ret;
	}
	ret = -ENOSPC;
	if (b->check.nr_types == HTRACE_MAX_TYPES) {
		htrace_builder_fail(b, ret, "more than %u types", HTRACE_MAX_TYPES);
		goto err_free;
	}
	k->t.type = k->number = b->check.nr_types + 1;
	ret = append(b, &k->t, k->len);
	if (ret)
		goto err_free;
	k->t.type = 0;
	ret = (int)k->number;
	/* Without a place in the tree an equal type gets another number, which does no harm. */
	if (!tsearch(k, &b->known, compare_known))
		goto err_free;
	return ret;
err_free:
	free(k);
	return ret;
}

static int set_name(struct htrace_schema_builder *b, char *to, const char *name)
{
	size_t len = name ? strlen(name) : 0;

	if (len >= HTRACE_NAME_MAX)
		return htrace_builder_fail(b, -EINVAL, "the name '%.63s...' is longer than %u", name,
			    HTRACE_NAME_MAX - 1);
	memcpy(to, name ? name : "", len);
	return 0;
}

/* Items may come with anything behind their names' ends, which must not tell equal types apart. */
static int set_item_name(struct htrace_schema_builder *b, char *to, const char *from, __u32 index)
{
	size_t len = strnlen(from, HTRACE_NAME_MAX);

	if (len == HTRACE_NAME_MAX)
		return htrace_builder_fail(b, -EINVAL, "the name of item %u is longer than %u", index,
			    HTRACE_NAME_MAX - 1);
	memcpy(to, from, len);
	return 0;
}

static int known_named(struct htrace_schema_builder *b, struct known **k, const char *name,
		       __u32 nr, size_t each)
{
	int ret;

	if (nr > HTRACE_SCHEMA_MAX / each)
		return htrace_builder_fail(b, -ENOSPC, "the schema would exceed %u bytes",
					   HTRACE_SCHEMA_MAX);
	*k = known_new(sizeof((*k)->t) + nr * each);
	if (!*k)
		return out_of_memory(b);
	(*k)->t.nr = nr;
	ret = set_name(b, (*k)->t.name, name);
	if (ret)
		free(*k);
	return ret;
}

int htrace_builder_int(struct htrace_schema_builder *b, const char *name, __u32 size,
		       bool is_signed, enum htrace_hint hint)
{
	struct known *k;
	int ret = known_named(b, &k, name, 0, 1);

	if (ret)
		return ret;
	k->t.kind = HTRACE_TYPE_INT;
	k->t.hint = (__u8)hint;
	k->t.flags = is_signed ? HTRACE_TYPE_SIGNED : 0;
	k->t.size = size;
	return add_type(b, k);
}

int htrace_builder_enum(struct htrace_schema_builder *b, const char *name, __u32 size,
			bool is_signed, const struct htrace_schema_value *values, __u32 nr)
{
	struct htrace_schema_value *v;
	struct known *k;
	int ret = known_named(b, &k, name, nr, sizeof(*v));

	if (ret)
		return ret;
	k->t.kind = HTRACE_TYPE_ENUM;
	k->t.flags = is_signed ? HTRACE_TYPE_SIGNED : 0;
	k->t.size = size;
	v = (struct htrace_schema_value *)(&k->t + 1);
	for (__u32 i = 0; i < nr; i++) {
		v[i].value = values[i].value;
		ret = set_item_name(b, v[i].name, values[i].name, i);
		if (ret) {
			free(k);
			return ret;
		}
	}
	return add_type(b, k);
}

int htrace_builder_array(struct htrace_schema_builder *b, int elem, __u32 nr)
{
	struct known *k;
	__u64 size;
	int ret;

	if (elem < 1 || (__u32)elem > b->check.nr_types)
		return htrace_builder_fail(b, -EINVAL, "there is no type %d", elem);
	size = (__u64)nr * b->check.types[elem - 1].size;
	if (size > HTRACE_REC_MAX)
		return htrace_builder_fail(b, -EINVAL, "an array of %llu bytes is larger than a record",
			    (unsigned long long)size);
	ret = known_named(b, &k, NULL, 0, 1);
	if (ret)
		return ret;
	k->t.kind = HTRACE_TYPE_ARRAY;
	k->t.ref = (__u32)elem;
	k->t.nr = nr;
	k->t.size = (__u32)size;
	return add_type(b, k);
}

int htrace_builder_string(struct htrace_schema_builder *b, __u32 size)
{
	struct known *k;
	int ret = known_named(b, &k, NULL, 0, 1);

	if (ret)
		return ret;
	k->t.kind = HTRACE_TYPE_STRING;
	k->t.size = size;
	return add_type(b, k);
}

int htrace_builder_struct(struct htrace_schema_builder *b, const char *name, bool is_union,
			  __u32 size, const struct htrace_schema_member *members, __u32 nr)
{
	struct htrace_schema_member *m;
	struct known *k;
	int ret = known_named(b, &k, name, nr, sizeof(*m));

	if (ret)
		return ret;
	k->t.kind = is_union ? HTRACE_TYPE_UNION : HTRACE_TYPE_STRUCT;
	k->t.size = size;
	m = (struct htrace_schema_member *)(&k->t + 1);
	for (__u32 i = 0; i < nr; i++) {
		m[i].type = members[i].type;
		m[i].bit_off = members[i].bit_off;
		m[i].bit_size = members[i].bit_size;
		ret = set_item_name(b, m[i].name, members[i].name, i);
		if (ret) {
			free(k);
			return ret;
		}
	}
	return add_type(b, k);
}

/* The next id after those in use: they need not be dense, so the range may end early. */
static int next_id(struct htrace_schema_builder *b)
{
	if (b->check.max_id == HTRACE_MAX_EVENTS)
		return htrace_builder_fail(b, -ENOSPC, "no event id is left below %u",
					   HTRACE_MAX_EVENTS + 1);
	return (int)b->check.max_id + 1;
}

int htrace_builder_event(struct htrace_schema_builder *b, const char *name, int type)
{
	struct htrace_schema_event e = {
		.entry = { .kind = HTRACE_SCHEMA_EVENT, .len = sizeof(e) },
		.type = (__u32)type,
	};
	__u32 id, old_type;
	int ret;

	ret = set_name(b, e.name, name);
	if (ret)
		return ret;
	id = htrace_check_find(&b->check, e.name, &old_type);
	if (id && old_type == e.type)
		return (int)id;
	if (id)
		return htrace_builder_fail(b, -EEXIST, "event '%s' exists already with other fields",
					   e.name);
	ret = next_id(b);
	if (ret < 0)
		return ret;
	e.id = (__u32)ret;
	ret = append(b, &e, sizeof(e));
	return ret ? ret : (int)e.id;
}

static int add_filter(struct htrace_schema_builder *b, __u32 id, __u32 flags, const char *text)
{
	struct {
		struct htrace_schema_filter f;
		char text[HTRACE_FILTER_TEXT_MAX + 8];
	} e = { .f = { .id = id, .flags = flags } };
	size_t len = strlen(text);

	if (len > HTRACE_FILTER_TEXT_MAX)
		return htrace_builder_fail(b, -EINVAL, "the filter is longer than %u bytes",
					   HTRACE_FILTER_TEXT_MAX);
	memcpy(e.text, text, len);
	e.f.entry.kind = HTRACE_SCHEMA_FILTER;
	e.f.entry.len = (__u32)((sizeof(e.f) + len + 8) & ~7ULL);
	return append(b, &e, e.f.entry.len);
}

int htrace_builder_filter(struct htrace_schema_builder *b, const char *text)
{
	return add_filter(b, 0, 0, text);
}

int htrace_builder_filtered(struct htrace_schema_builder *b, __u32 id)
{
	return add_filter(b, id, HTRACE_FILTER_IN_GUEST, "");
}

int htrace_builder_unfiltered(struct htrace_schema_builder *b, __u32 id)
{
	return add_filter(b, id, 0, "");
}

bool htrace_builder_has_filter(const struct htrace_schema_builder *b)
{
	return b->check.filter || b->check.filtered;
}

const void *htrace_builder_entries(const struct htrace_schema_builder *b, size_t *len)
{
	*len = b->len;
	return b->buf;
}

static int remember(struct htrace_schema_builder *b, const void *entry, size_t len)
{
	struct known *k = known_new(len), **at;

	if (!k)
		return out_of_memory(b);
	memcpy(&k->t, entry, len);
	k->number = k->t.type;
	k->t.type = 0;
	at = tsearch(k, &b->known, compare_known);
	if (!at || *at != k)
		free(k); /* declared twice: the first number will do */
	return at ? 0 : out_of_memory(b);
}

static int take_old(struct htrace_schema_builder *b, const char *old, size_t len)
{
	struct htrace_schema_entry e;
	size_t step;
	int ret;

	if (len > HTRACE_SCHEMA_MAX)
		return -EINVAL;
	for (size_t off = 0; off < len; off += step) {
		ret = check_entry(b, old + off, len - off, &step);
		if (ret)
			return ret;
		memcpy(&e, old + off, sizeof(e));
		ret = e.kind == HTRACE_SCHEMA_TYPE ? remember(b, old + off, step) : 0;
		if (ret)
			return ret;
	}
	b->old_len = len;
	return 0;
}

int htrace_builder_new(struct htrace_schema_builder **out, const void *old, size_t oldlen)
{
	struct htrace_schema_builder *b = calloc(1, sizeof(*b));
	int ret;

	*out = NULL;
	if (!b)
		return -ENOMEM;
	ret = old ? take_old(b, old, oldlen) : 0;
	if (ret)
		htrace_builder_free(b);
	else
		*out = b;
	return ret;
}

void htrace_builder_free(struct htrace_schema_builder *b)
{
	if (!b)
		return;
	tdestroy(b->known, free);
	htrace_check_done(&b->check);
	free(b->buf);
	free(b);
}
