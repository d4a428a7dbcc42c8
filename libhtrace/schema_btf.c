// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/*
 * BTF to schema. A library of its own, because it needs libbpf; it uses the builder's public calls
 * only. BTF comes from files that somebody compiled: loops and endless nesting are bounded, and
 * what cannot be recorded is refused with the member's path.
 */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/btf.h>
#include <htrace/schema.h>

#include "internal.h"

#define MAX_CHAIN 32 /* typedefs and qualifiers in a row, as in libbpf */
#define MAX_NESTING (4 * HTRACE_MAX_DEPTH) /* anonymous structs add to it, but not to the depth */

/*
 * Each member costs one. Every event within the limits can be converted: a member leads to at least
 * one field, and lies below so many others.
 */
#define MAX_WORK (MAX_NESTING * HTRACE_MAX_FIELDS)

struct conv {
	struct htrace_schema_builder *b;
	const struct btf *btf;
	const char *event;
	char *err;
	size_t errlen;
	__u32 work;
	__u32 nesting; /* calls of conv_type() and conv_members() that are under way */
	char path[256]; /* of the member at hand, from the event's struct */
};

/* A type behind its typedefs and qualifiers. */
struct plain {
	const struct btf_type *t;
	__u32 id;
	const char *name; /* its own or its outermost typedef's, or "" */
	enum htrace_hint hint;
};

struct member_list {
	struct htrace_schema_member *m;
	__u32 nr, room;
	__u32 nr_anon;
	bool open; /* the last one reaches to the end of the record, if it stays the last */
};

static int conv_type(struct conv *c, __u32 id, enum htrace_hint hint);

HTRACE_PRINTF(3, 4)
static int refuse(struct conv *c, int error, const char *fmt, ...)
{
	char why[160];
	va_list args;

	va_start(args, fmt);
	vsnprintf(why, sizeof(why), fmt, args);
	va_end(args);
	if (c->path[0])
		htrace_errf(c->err, c->errlen, "event '%s': member '%s': %s", c->event, c->path,
			    why);
	else
		htrace_errf(c->err, c->errlen, "event '%s': %s", c->event, why);
	return error;
}

/* Hand on what the builder says. */
static int built(struct conv *c, int ret)
{
	return ret < 0 ? refuse(c, ret, "%s", htrace_builder_error(c->b)) : ret;
}

/* Returns the length to go back to. */
static size_t push_path(struct conv *c, const char *name)
{
	size_t len = strlen(c->path);

	snprintf(c->path + len, sizeof(c->path) - len, "%s%s", len && name[0] != '[' ? "." : "",
		 name);
	return len;
}

static enum htrace_hint hint_of(const char *name)
{
	static const struct {
		const char *name;
		enum htrace_hint hint;
	} hints[] = {
		{ "htrace_tid_t", HTRACE_HINT_TID },
		{ "htrace_hex_t", HTRACE_HINT_HEX },
		{ "htrace_hex32_t", HTRACE_HINT_HEX },
		{ "htrace_hex16_t", HTRACE_HINT_HEX },
		{ "htrace_ptr_t", HTRACE_HINT_POINTER },
		{ "htrace_syscall_t", HTRACE_HINT_SYSCALL },
		{ "htrace_task_state_t", HTRACE_HINT_TASK_STATE },
	};

	for (size_t i = 0; i < sizeof(hints) / sizeof(hints[0]); i++)
		if (!strcmp(name, hints[i].name))
			return hints[i].hint;
	return HTRACE_HINT_NONE;
}

static const char *name_of(const struct conv *c, const struct btf_type *t)
{
	const char *name = btf__name_by_offset(c->btf, t->name_off);

	return name ? name : "";
}

static int resolve(struct conv *c, __u32 id, enum htrace_hint hint, struct plain *out)
{
	const char *alias = "";

	for (int i = 0; i < MAX_CHAIN; i++) {
		const struct btf_type *t = id ? btf__type_by_id(c->btf, id) : NULL;

		if (!t)
			return refuse(c, -EINVAL, id ? "its type is not in the BTF" :
						       "void cannot be recorded");
		if (btf_is_typedef(t)) {
			if (!hint)
				hint = hint_of(name_of(c, t));
			if (!alias[0])
				alias = name_of(c, t);
		} else if (!btf_is_mod(t)) {
			*out = (struct plain){ t, id, name_of(c, t), hint };
			if (!out->name[0])
				out->name = alias;
			return 0;
		}
		id = t->type;
	}
	return refuse(c, -EINVAL, "a chain of more than %d typedefs", MAX_CHAIN);
}

static bool is_char(const struct plain *p)
{
	return btf_is_int(p->t) && p->t->size == 1 && !p->hint &&
	       (!strcmp(p->name, "char") || (btf_int_encoding(p->t) & BTF_INT_CHAR));
}

/* Named by what they are: compilers spell one type in different ways, and typedefs abound. */
static int conv_int(struct conv *c, const struct plain *p)
{
	bool is_signed = btf_int_encoding(p->t) & BTF_INT_SIGNED;
	enum htrace_hint hint = p->hint;
	char name[16];

	snprintf(name, sizeof(name), "%c%u", is_signed ? 's' : 'u', p->t->size * 8);
	if (is_char(p))
		hint = HTRACE_HINT_CHAR;
	else if (!hint && (btf_int_encoding(p->t) & BTF_INT_BOOL))
		hint = HTRACE_HINT_BOOL;
	return built(c, htrace_builder_int(c->b, name, p->t->size, is_signed, hint));
}

static int conv_pointer(struct conv *c, const struct plain *p)
{
	return built(c, htrace_builder_int(c->b, "u64", 8, false,
					   p->hint ? p->hint : HTRACE_HINT_POINTER));
}

/* Names of types and enumerators are for display: what is too long is cut. */
static void cut_name(char to[HTRACE_NAME_MAX], const char *name)
{
	snprintf(to, HTRACE_NAME_MAX, "%s", name);
}

/*
 * 32 bits are extended, and cut, as the type's values will be, so that they compare equal. Compilers
 * that know no flag for signed types (clang before 16) have all enums unsigned.
 */
static __s64 enum32_value(const struct btf_type *t, __u32 i)
{
	__s32 value = btf_enum(t)[i].val;

	if (btf_kflag(t))
		return value;
	return t->size < 4 ? value & ((1 << 8 * t->size) - 1) : (__s64)(__u32)value;
}

static int conv_enum(struct conv *c, const struct plain *p)
{
	bool wide = btf_is_enum64(p->t);
	/* The compilers before ENUM64 cut values to 32 bits: rather no names than wrong ones. */
	__u32 nr = wide || p->t->size <= 4 ? btf_vlen(p->t) : 0;
	struct htrace_schema_value *v = calloc(nr + 1, sizeof(*v));
	char name[HTRACE_NAME_MAX];
	int ret;

	if (!v)
		return refuse(c, -ENOMEM, "out of memory");
	for (__u32 i = 0; i < nr; i++) {
		__u32 name_off = wide ? btf_enum64(p->t)[i].name_off : btf_enum(p->t)[i].name_off;
		const char *text = btf__name_by_offset(c->btf, name_off);

		v[i].value = wide ? (__s64)btf_enum64_value(&btf_enum64(p->t)[i]) :
				    enum32_value(p->t, i);
		cut_name(v[i].name, text ? text : "");
	}
	cut_name(name, p->name);
	ret = built(c, htrace_builder_enum(c->b, name, p->t->size, btf_kflag(p->t), v, nr));
	free(v);
	return ret;
}

static int conv_array(struct conv *c, const struct plain *p)
{
	const struct btf_array *a = btf_array(p->t);
	struct plain elem;
	size_t back;
	int ret;

	ret = resolve(c, a->type, p->hint, &elem);
	if (ret)
		return ret;
	if (is_char(&elem))
		return built(c, htrace_builder_string(c->b, a->nelems));
	back = push_path(c, "[]");
	ret = conv_type(c, a->type, p->hint);
	c->path[back] = '\0';
	return ret < 0 ? ret : built(c, htrace_builder_array(c->b, ret, a->nelems));
}

static int add_member(struct conv *c, struct member_list *l, const struct htrace_schema_member *m)
{
	__u32 room = l->room ? l->room * 2 : 16;
	void *p;

	if (l->nr == l->room) {
		p = realloc(l->m, room * sizeof(*l->m));
		if (!p)
			return refuse(c, -ENOMEM, "out of memory");
		l->m = p;
		l->room = room;
	}
	l->m[l->nr++] = *m;
	return 0;
}

/*
 * Bits that the member has as a bit-field, and where it begins: new BTF says so in the member, old
 * BTF in an integer type made for it.
 */
static __u32 bitfield(const struct btf_type *parent, __u32 index, const struct btf_type *type,
		      __u64 *off)
{
	__u32 bits = btf_member_bitfield_size(parent, index);

	*off += btf_member_bit_offset(parent, index);
	if (bits || btf_kflag(parent) || !btf_is_int(type))
		return bits;
	if (!btf_int_offset(type) && btf_int_bits(type) == type->size * 8)
		return 0;
	*off += btf_int_offset(type);
	return btf_int_bits(type);
}

static int conv_members(struct conv *c, const struct plain *p, __u64 base, struct member_list *l);

/*
 * Is there anything to record in it? An array of no elements may be the flexible one at the end:
 * *@open. Sizes that cannot be told are left to conv_type(), which says why.
 */
static bool has_size(const struct conv *c, const struct plain *p, bool *open)
{
	*open = false;
	if (btf_is_array(p->t) && !btf_array(p->t)->nelems) {
		*open = btf__resolve_size(c->btf, btf_array(p->t)->type) != 0;
		return *open;
	}
	return btf__resolve_size(c->btf, p->id) != 0;
}

static int conv_member(struct conv *c, const struct plain *parent, __u32 index, __u64 base,
		       struct member_list *l)
{
	const struct btf_member *bm = &btf_members(parent->t)[index];
	const char *name = btf__name_by_offset(c->btf, bm->name_off);
	struct htrace_schema_member m = { 0 };
	struct plain type;
	bool open;
	int ret;

	if (++c->work > MAX_WORK)
		return refuse(c, -EINVAL, "the event has too many members");
	ret = resolve(c, bm->type, HTRACE_HINT_NONE, &type);
	if (ret || !has_size(c, &type, &open))
		return ret;
	m.bit_size = bitfield(parent->t, index, type.t, &base);
	if (!name || !name[0]) {
		if (!btf_is_composite(type.t))
			return 0; /* an unnamed bit-field is padding */
		if (btf_kind(type.t) == btf_kind(parent->t))
			return conv_members(c, &type, base, l);
		snprintf(m.name, sizeof(m.name), "anon_%u", l->nr_anon++);
	} else if (strlen(name) >= sizeof(m.name)) {
		return refuse(c, -EINVAL, "the name is longer than %u", HTRACE_NAME_MAX - 1);
	} else {
		strcpy(m.name, name);
	}
	if (base > UINT32_MAX)
		return refuse(c, -EINVAL, "it lies beyond the largest record");
	m.bit_off = (__u32)base;
	ret = conv_type(c, bm->type, HTRACE_HINT_NONE);
	if (ret < 0)
		return ret;
	m.type = (__u32)ret;
	/* Zero-length arrays before others only mark a place. */
	if (l->open)
		l->nr--;
	l->open = open;
	return add_member(c, l, &m);
}

static int enter(struct conv *c)
{
	if (c->nesting == MAX_NESTING)
		return refuse(c, -EINVAL, "nested deeper than %u", HTRACE_MAX_DEPTH);
	c->nesting++;
	return 0;
}

/* Members of @p, and of anonymous structs in it, at @base bits from the start of their struct. */
static int conv_members(struct conv *c, const struct plain *p, __u64 base, struct member_list *l)
{
	__u32 nr = btf_vlen(p->t);
	int ret;

	ret = enter(c);
	if (ret)
		return ret;
	for (__u32 i = 0; i < nr && ret >= 0; i++) {
		const char *name = btf__name_by_offset(c->btf, btf_members(p->t)[i].name_off);
		size_t back = push_path(c, name ? name : "");

		ret = conv_member(c, p, i, base, l);
		c->path[back] = '\0';
	}
	c->nesting--;
	return ret;
}

/* As it is, or behind @nr_front members of 8 bytes each. */
static int conv_composite(struct conv *c, const struct plain *p,
			  const struct htrace_schema_member *front, __u32 nr_front)
{
	struct member_list l = { 0 };
	char name[HTRACE_NAME_MAX];
	int ret = 0;

	for (__u32 i = 0; i < nr_front && ret >= 0; i++)
		ret = add_member(c, &l, &front[i]);
	if (ret >= 0)
		ret = conv_members(c, p, 64 * nr_front, &l);
	cut_name(name, p->name);
	if (ret >= 0)
		ret = built(c, htrace_builder_struct(c->b, name, btf_is_union(p->t),
						     p->t->size + 8 * nr_front, l.m, l.nr));
	free(l.m);
	return ret;
}

static int conv_kind(struct conv *c, const struct plain *p)
{
	switch (btf_kind(p->t)) {
	case BTF_KIND_INT:
		return conv_int(c, p);
	case BTF_KIND_PTR:
		return conv_pointer(c, p);
	case BTF_KIND_ENUM:
	case BTF_KIND_ENUM64:
		return conv_enum(c, p);
	case BTF_KIND_ARRAY:
		return conv_array(c, p);
	case BTF_KIND_STRUCT:
	case BTF_KIND_UNION:
		return conv_composite(c, p, NULL, 0);
	case BTF_KIND_FLOAT:
		return refuse(c, -EINVAL,
			      "floating point ('%s') cannot be recorded; store it as an integer",
			      p->name);
	case BTF_KIND_FWD:
		return refuse(c, -EINVAL, "'%s' is declared, but not defined", p->name);
	}
	return refuse(c, -EINVAL, "types of BTF kind %u cannot be recorded", btf_kind(p->t));
}

/* A type number. @hint: of a typedef around it. */
static int conv_type(struct conv *c, __u32 id, enum htrace_hint hint)
{
	struct plain p;
	int ret;

	ret = resolve(c, id, hint, &p);
	if (!ret)
		ret = enter(c);
	if (ret)
		return ret;
	ret = conv_kind(c, &p);
	c->nesting--;
	return ret;
}

int htrace_builder_btf_event_behind(struct htrace_schema_builder *b, const struct btf *btf,
				    const char *name, __u32 type_id,
				    const struct htrace_schema_member *front, __u32 nr_front,
				    char *err, size_t errlen)
{
	struct conv c = { .b = b, .btf = btf, .event = name, .err = err, .errlen = errlen };
	struct plain p;
	int ret;

	ret = resolve(&c, type_id, HTRACE_HINT_NONE, &p);
	if (ret)
		return ret;
	if (!btf_is_struct(p.t))
		return refuse(&c, -EINVAL, "its type '%s' is not a struct", p.name);
	ret = enter(&c);
	if (!ret)
		ret = conv_composite(&c, &p, front, nr_front);
	return ret < 0 ? ret : built(&c, htrace_builder_event(b, name, ret));
}

int htrace_builder_btf_event(struct htrace_schema_builder *b, const struct btf *btf,
			     const char *name, __u32 type_id, char *err, size_t errlen)
{
	return htrace_builder_btf_event_behind(b, btf, name, type_id, NULL, 0, err, errlen);
}
