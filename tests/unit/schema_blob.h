/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Schema entries made by hand, right or wrong, and what the parser says of them. */
#ifndef SCHEMA_BLOB_H
#define SCHEMA_BLOB_H

#include <check.h>
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/schema.h>

#define BLOB_MAX (HTRACE_SCHEMA_MAX + 4096)

static struct {
	char at[BLOB_MAX];
	size_t len;
	size_t entry[64]; /* where the first entries begin */
	__u32 nr_entries, nr_types;
} *blob;

static inline void setup(void)
{
	blob = calloc(1, sizeof(*blob));
	ck_assert_ptr_nonnull(blob);
}

static inline void teardown(void)
{
	free(blob);
}

static inline void *add_entry(__u16 kind, size_t len)
{
	struct htrace_schema_entry *e = (void *)(blob->at + blob->len);

	ck_assert_uint_le(blob->len + len, BLOB_MAX);
	if (blob->nr_entries < 64)
		blob->entry[blob->nr_entries] = blob->len;
	blob->nr_entries++;
	e->kind = kind;
	e->len = (__u32)len;
	blob->len += len;
	return e;
}

static inline __u32 add_type(__u16 kind, __u32 size, __u32 ref, __u32 nr, size_t items)
{
	struct htrace_schema_type *t = add_entry(HTRACE_SCHEMA_TYPE, sizeof(*t) + items);

	t->type = ++blob->nr_types;
	t->kind = kind;
	t->size = size;
	t->ref = ref;
	t->nr = nr;
	return t->type;
}

struct item {
	const char *name;
	__u32 type, bit_off, bit_size;
};

static inline __u32 add_struct(__u16 kind, __u32 size, const struct item *items, __u32 nr)
{
	__u32 number = add_type(kind, size, 0, nr, nr * sizeof(struct htrace_schema_member));
	struct htrace_schema_member *m = (void *)(blob->at + blob->len);

	m -= nr;
	for (__u32 i = 0; i < nr; i++) {
		m[i].type = items[i].type;
		m[i].bit_off = items[i].bit_off;
		m[i].bit_size = items[i].bit_size;
		strcpy(m[i].name, items[i].name);
	}
	return number;
}

#define STRUCT(size, ...)                                                                 \
	add_struct(HTRACE_TYPE_STRUCT, size, (const struct item[]){ __VA_ARGS__ },        \
		   sizeof((const struct item[]){ __VA_ARGS__ }) / sizeof(struct item))
#define UNION(size, ...)                                                                  \
	add_struct(HTRACE_TYPE_UNION, size, (const struct item[]){ __VA_ARGS__ },         \
		   sizeof((const struct item[]){ __VA_ARGS__ }) / sizeof(struct item))

static inline void add_event(__u32 id, const char *name, __u32 type)
{
	struct htrace_schema_event *e = add_entry(HTRACE_SCHEMA_EVENT, sizeof(*e));

	e->id = id;
	e->type = type;
	strcpy(e->name, name);
}

/* One of everything. Types are named by their numbers below; entry n - 1 is type n. */
enum { U8 = 1, S32, U64, U128, COLOR, ARRAY, TEXT, OPEN_TEXT, OPEN_ARRAY, CHOICE, INNER, EMPTY,
       OUTER, EVENT, SECOND };

static inline void add_valid(void)
{
	struct htrace_schema_value *v;
	struct htrace_schema_type *t;

	add_type(HTRACE_TYPE_INT, 1, 0, 0, 0);
	add_type(HTRACE_TYPE_INT, 4, 0, 0, 0);
	t = (void *)(blob->at + blob->entry[S32 - 1]);
	t->flags = HTRACE_TYPE_SIGNED;
	strcpy(t->name, "s32");
	add_type(HTRACE_TYPE_INT, 8, 0, 0, 0);
	add_type(HTRACE_TYPE_INT, 16, 0, 0, 0);
	add_type(HTRACE_TYPE_ENUM, 4, 0, 2, 2 * sizeof(*v));
	v = (void *)(blob->at + blob->len - 2 * sizeof(*v));
	v[0].value = 5;
	strcpy(v[0].name, "red");
	v[1].value = -1;
	strcpy(v[1].name, "blue");
	add_type(HTRACE_TYPE_ARRAY, 16, S32, 4, 0);
	add_type(HTRACE_TYPE_STRING, 16, 0, 0, 0);
	add_type(HTRACE_TYPE_STRING, 0, 0, 0, 0);
	add_type(HTRACE_TYPE_ARRAY, 0, U64, 0, 0);
	UNION(8, { "a", S32, 0, 0 }, { "b", U64, 0, 0 });
	STRUCT(8, { "x", S32, 0, 0 }, { "y", S32, 32, 0 });
	add_struct(HTRACE_TYPE_STRUCT, 0, NULL, 0);
	STRUCT(48, { "id", S32, 0, 0 }, { "flags", S32, 32, 3 }, { "u", CHOICE, 64, 0 },
	       { "in", INNER, 128, 0 }, { "text", TEXT, 192, 0 }, { "rest", OPEN_TEXT, 320, 0 });
	add_event(7, "first", OUTER);
	add_event(60000, "second", EMPTY);
}

/* Exactly as much memory as there are bytes, so that a sanitizer sees a read behind them. */
static inline int parse(struct htrace_schema **s, const void *at, size_t len, char err[256])
{
	void *copy = malloc(len ? len : 1);
	int ret;

	memcpy(copy, at, len);
	strcpy(err, "?");
	ret = htrace_schema_parse(s, copy, len, err, 256);
	free(copy);
	if (ret) {
		ck_assert_int_eq(ret, -EPROTO);
		ck_assert_ptr_null(*s);
		ck_assert_ptr_null(strchr(err, '\n'));
	}
	return ret;
}

static inline void expect_accepted(void)
{
	struct htrace_schema *s;
	char err[256];

	ck_assert_msg(!parse(&s, blob->at, blob->len, err), "refused: %s", err);
	htrace_schema_free(s);
}

static inline void expect_refused(const char *why)
{
	struct htrace_schema *s;
	char err[256];

	ck_assert_msg(parse(&s, blob->at, blob->len, err), "accepted, but: %s", why);
	ck_assert_msg(strstr(err, why) != NULL, "'%s' does not say '%s'", err, why);
	ck_assert_msg(!strncmp(err, "schema: ", 8), "%s", err);
}

#endif /* SCHEMA_BLOB_H */
