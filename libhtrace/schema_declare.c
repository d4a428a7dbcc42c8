/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* Events from what the macros of htrace/declare.h made of a C struct. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/declare.h>

#include "internal.h"
#include "schema_builder.h"

static int declare_struct(struct htrace_schema_builder *b, const struct htrace_struct *s, int depth);

/* What a field and a struct of them cannot do without. */
#define MIN_FIELD offsetof(struct htrace_field, of)
#define MIN_STRUCT offsetof(struct htrace_struct, is_union)

/* As an older or this library's header made it; what an older one lacks is 0. */
static int known_struct(struct htrace_schema_builder *b, const struct htrace_struct *s,
			struct htrace_struct *known)
{
	memset(known, 0, sizeof(*known));
	if (s->sz < MIN_STRUCT || s->sz > sizeof(*known) || s->field_size < MIN_FIELD ||
	    s->field_size > sizeof(struct htrace_field))
		return htrace_builder_fail(b, -EINVAL, "it is described for another library than %s",
					   htrace_version());
	memcpy(known, s, s->sz);
	return 0;
}

/* Fields are as large as the caller's header made them. */
static void field_at(const struct htrace_struct *s, __u32 i, struct htrace_field *f)
{
	memset(f, 0, sizeof(*f));
	memcpy(f, (const char *)s->fields + i * s->field_size, s->field_size);
}

/* As from BTF: named by what it is. */
static int declare_scalar(struct htrace_schema_builder *b, const struct htrace_field *f)
{
	bool is_signed = f->scalar & HTRACE_SCALAR_SIGNED;
	enum htrace_hint hint = (enum htrace_hint)f->hint;
	char name[16];

	snprintf(name, sizeof(name), "%c%u", is_signed ? 's' : 'u', f->elem * 8);
	if (!hint)
		hint = f->scalar & HTRACE_SCALAR_BOOL	 ? HTRACE_HINT_BOOL :
		       f->scalar & HTRACE_SCALAR_CHAR	 ? HTRACE_HINT_CHAR :
		       f->scalar & HTRACE_SCALAR_POINTER ? HTRACE_HINT_POINTER :
							   HTRACE_HINT_NONE;
	return htrace_builder_int(b, name, f->elem, is_signed, hint);
}

static int declare_enum(struct htrace_schema_builder *b, const struct htrace_field *f)
{
	const struct htrace_enumerator *e = f->of;
	struct htrace_schema_value *v;
	int ret;

	if (f->scalar & HTRACE_SCALAR_POINTER)
		return htrace_builder_fail(b, -EINVAL, "it is a pointer, no enum");
	v = calloc(f->nr_of ? f->nr_of : 1, sizeof(*v));
	if (!v)
		return htrace_builder_fail(b, -ENOMEM, "out of memory");
	for (__u32 i = 0; i < f->nr_of; i++) {
		v[i].value = e[i].value;
		/* for display only: what is too long is cut */
		snprintf(v[i].name, sizeof(v[i].name), "%s", e[i].name);
	}
	ret = htrace_builder_enum(b, f->of_name, f->elem, f->scalar & HTRACE_SCALAR_SIGNED, v,
				  f->nr_of);
	free(v);
	return ret;
}

static int declare_inner(struct htrace_schema_builder *b, const struct htrace_field *f, int depth)
{
	__u32 size = f->form == HTRACE_FORM_STRUCTS ? f->elem : f->size;
	struct htrace_struct s;
	int ret;

	if (depth == HTRACE_MAX_DEPTH)
		return htrace_builder_fail(b, -EINVAL, "nested deeper than %u", HTRACE_MAX_DEPTH);
	ret = known_struct(b, f->of, &s);
	if (ret)
		return ret;
	if (s.size != size)
		return htrace_builder_fail(b, -EINVAL, "it has %u bytes, but is described as '%s' of %u",
					   size, s.name, s.size);
	ret = declare_struct(b, &s, depth + 1);
	if (ret > 0 && f->form == HTRACE_FORM_STRUCTS)
		ret = htrace_builder_array(b, ret, size ? f->size / size : 0);
	return ret;
}

static int declare_type(struct htrace_schema_builder *b, const struct htrace_field *f, int depth)
{
	int ret;

	switch (f->form) {
	case HTRACE_FORM_SCALAR:
	case HTRACE_FORM_BITS:
		return declare_scalar(b, f);
	case HTRACE_FORM_ENUM:
		return declare_enum(b, f);
	case HTRACE_FORM_TEXT:
	case HTRACE_FORM_REST_TEXT:
		return htrace_builder_string(b, f->size);
	case HTRACE_FORM_ARRAY:
	case HTRACE_FORM_REST:
		ret = declare_scalar(b, f);
		return ret < 0 ? ret : htrace_builder_array(b, ret, f->size / f->elem);
	case HTRACE_FORM_STRUCT:
	case HTRACE_FORM_STRUCTS:
		return declare_inner(b, f, depth);
	}
	return htrace_builder_fail(b, -EINVAL, "unknown form %u: a newer htrace/declare.h?", f->form);
}

static int declare_member(struct htrace_schema_builder *b, const struct htrace_field *f, int depth,
			  struct htrace_schema_member *m)
{
	int ret = declare_type(b, f, depth);
	char why[256];

	if (ret < 0) {
		snprintf(why, sizeof(why), "%s", htrace_builder_error(b));
		return htrace_builder_fail(b, ret, "member '%s': %s", f->name, why);
	}
	if (strlen(f->name) >= sizeof(m->name))
		return htrace_builder_fail(b, -EINVAL, "the name '%.63s...' is longer than %u",
					   f->name, HTRACE_NAME_MAX - 1);
	m->type = (__u32)ret;
	m->bit_off = f->form == HTRACE_FORM_BITS ? f->off : f->off * 8;
	m->bit_size = f->form == HTRACE_FORM_BITS ? f->size : 0;
	strcpy(m->name, f->name);
	return 0;
}

/* "struct call", "ns::call": call. Names of types are for display; one that is none is left out. */
static const char *plain_name(const char *name)
{
	for (const char *p = name; *p; p++)
		if (*p == ' ' || *p == ':')
			name = p + 1;
	return name[strspn(name, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz_0123456789")] ||
			       strlen(name) >= HTRACE_NAME_MAX ? NULL : name;
}

static int declare_struct(struct htrace_schema_builder *b, const struct htrace_struct *s, int depth)
{
	struct htrace_schema_member *m;
	struct htrace_field f;
	int ret = 0;

	m = calloc(s->nr_fields ? s->nr_fields : 1, sizeof(*m));
	if (!m)
		return htrace_builder_fail(b, -ENOMEM, "out of memory");
	for (__u32 i = 0; i < s->nr_fields && !ret; i++) {
		field_at(s, i, &f);
		ret = declare_member(b, &f, depth, &m[i]);
	}
	if (!ret)
		ret = htrace_builder_struct(b, plain_name(s->name), s->is_union, s->size, m,
					    s->nr_fields);
	free(m);
	return ret;
}

int htrace_builder_declare(struct htrace_schema_builder *b, const char *event,
			   const struct htrace_struct *s)
{
	struct htrace_struct known;
	int ret = known_struct(b, s, &known);
	char why[256];

	if (!ret)
		ret = known.is_union ? htrace_builder_fail(b, -EINVAL, "it is a union, no struct") :
				       declare_struct(b, &known, 1);
	if (ret > 0)
		return htrace_builder_event(b, event, ret);
	snprintf(why, sizeof(why), "%s", htrace_builder_error(b));
	return htrace_builder_fail(b, ret, "event '%s': %s", event, why);
}

int htrace_region_declare(struct htrace_region *r, const char *event, const struct htrace_struct *s,
			  char *err, size_t errlen)
{
	struct htrace_schema_builder *b;
	const void *entries;
	size_t len;
	int id, ret;

	entries = htrace_region_schema_entries(r, &len);
	ret = htrace_builder_new(&b, len ? entries : NULL, len);
	if (ret)
		return htrace_errf(err, errlen, "event '%s': %s", event, strerror(-ret)), ret;
	id = htrace_builder_declare(b, event, s);
	if (id < 0) {
		htrace_errf(err, errlen, "%s", htrace_builder_error(b));
	} else {
		entries = htrace_builder_entries(b, &len);
		ret = len ? htrace_region_add_schema(r, entries, len) : 0;
		if (ret)
			htrace_errf(err, errlen, "event '%s': %s", event,
				    ret == -ENOSPC ? "no room in the region's schema area" :
						     strerror(-ret));
	}
	htrace_builder_free(b);
	return ret ? ret : id;
}
