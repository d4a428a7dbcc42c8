// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/*
 * Decoding records by their schema. The schema was checked: members lie within their structs, depth
 * is at most HTRACE_MAX_DEPTH (hence the recursion), and all calls that one record leads to are
 * bounded by HTRACE_MAX_EXPANDED. What is left to check is the length of each record.
 */
#include <errno.h>
#include <string.h>

#include <htrace/schema.h>

struct visit {
	const struct htrace_visitor *v;
	void *ctx;
	const unsigned char *end; /* of the payload */
};

static void visit_type(const struct visit *w, const char *name, const struct htrace_type *t,
		       const unsigned char *p);

/* Does the event's last member reach to the end of the record? */
static const struct htrace_member *open_member(const struct htrace_type *t)
{
	const struct htrace_member *last = t->nr ? &t->members[t->nr - 1] : NULL;

	return last && !last->type->size ? last : NULL;
}

/*
 * An open member may begin before the struct's size, in what would be padding otherwise, and a
 * record may end there too.
 */
static size_t fixed_size(const struct htrace_type *t)
{
	const struct htrace_member *open = open_member(t);

	return open ? open->bit_off / 8 : t->size;
}

static __u64 extend(__u64 value, __u32 bits, bool is_signed)
{
	unsigned int unused = 64 - bits;

	value <<= unused;
	return is_signed ? (__u64)((__s64)value >> unused) : value >> unused;
}

static __u64 load_int(const struct htrace_type *t, const unsigned char *p)
{
	__u64 value = 0;

	/* Sizes that the compiler knows: a load each. */
	switch (t->size) {
	case 1: return t->is_signed ? (__u64)(__s8)*p : *p;
	case 2: memcpy(&value, p, 2); return t->is_signed ? (__u64)(__s16)value : value;
	case 4: memcpy(&value, p, 4); return t->is_signed ? (__u64)(__s32)value : value;
	case 8: memcpy(&value, p, 8); return value;
	}
	return 0; /* the schema was checked: there is no other */
}

/* Bits are counted as in memory: bit n of the struct is bit n % 8 of its byte n / 8. */
static __u64 load_bits(const struct htrace_member *m, const unsigned char *p)
{
	__u32 shift = m->bit_off % 8;
	__u64 value = 0;

	memcpy(&value, p + m->bit_off / 8, (shift + m->bit_size + 7) / 8);
	return extend(value >> shift, m->bit_size, m->type->is_signed);
}

static void visit_value(const struct visit *w, const char *name, const struct htrace_type *t,
			const unsigned char *p)
{
	if (t->size > 8) {
		if (w->v->bytes)
			w->v->bytes(w->ctx, name, t, p, t->size);
	} else if (w->v->integer) {
		w->v->integer(w->ctx, name, t, load_int(t, p));
	}
}

static void visit_string(const struct visit *w, const char *name, const struct htrace_type *t,
			 const unsigned char *p)
{
	size_t room = t->size ? t->size : (size_t)(w->end - p);

	if (w->v->string)
		w->v->string(w->ctx, name, t, (const char *)p, strnlen((const char *)p, room));
}

static void visit_array(const struct visit *w, const char *name, const struct htrace_type *t,
			const unsigned char *p)
{
	size_t nr = t->size ? t->nr : (size_t)(w->end - p) / t->elem->size;

	if (w->v->begin)
		w->v->begin(w->ctx, name, t);
	for (size_t i = 0; i < nr; i++, p += t->elem->size)
		visit_type(w, NULL, t->elem, p);
	if (w->v->end)
		w->v->end(w->ctx, t);
}

static void visit_members(const struct visit *w, const struct htrace_type *t,
			  const unsigned char *p)
{
	for (__u32 i = 0; i < t->nr; i++) {
		const struct htrace_member *m = &t->members[i];

		if (!m->bit_size)
			visit_type(w, m->name, m->type, p + m->bit_off / 8);
		else if (w->v->integer)
			w->v->integer(w->ctx, m->name, m->type, load_bits(m, p));
	}
}

static void visit_type(const struct visit *w, const char *name, const struct htrace_type *t,
		       const unsigned char *p)
{
	switch (t->kind) {
	case HTRACE_TYPE_INT:
	case HTRACE_TYPE_ENUM:
		visit_value(w, name, t, p);
		break;
	case HTRACE_TYPE_STRING:
		visit_string(w, name, t, p);
		break;
	case HTRACE_TYPE_ARRAY:
		visit_array(w, name, t, p);
		break;
	case HTRACE_TYPE_STRUCT:
	case HTRACE_TYPE_UNION:
		if (w->v->begin)
			w->v->begin(w->ctx, name, t);
		visit_members(w, t, p);
		if (w->v->end)
			w->v->end(w->ctx, t);
		break;
	}
}

int htrace_event_visit(const struct htrace_event *e, const void *payload, size_t len,
		       const struct htrace_visitor *v, void *ctx)
{
	const unsigned char *p = payload;
	struct htrace_visitor known = { 0 };
	struct visit w = { .v = &known, .ctx = ctx, .end = p + len };

	if (v->sz < sizeof(v->sz) || v->sz > sizeof(known))
		return -EINVAL;
	memcpy(&known, v, v->sz); /* an older one has fewer calls */
	if (len < fixed_size(e->type))
		return -EMSGSIZE;
	visit_members(&w, e->type, p);
	return 0;
}

bool htrace_event_get(const struct htrace_event *e, const void *payload, size_t len,
		      const char *name, __u64 *value)
{
	const struct htrace_type *t = e->type;

	if (len < fixed_size(t))
		return false;
	for (__u32 i = 0; i < t->nr; i++) {
		const struct htrace_member *m = &t->members[i];

		if (strcmp(m->name, name) != 0)
			continue;
		if ((m->type->kind != HTRACE_TYPE_INT && m->type->kind != HTRACE_TYPE_ENUM) ||
		    m->type->size > 8)
			return false;
		*value = m->bit_size ? load_bits(m, payload) :
				       load_int(m->type, (const unsigned char *)payload +
								 m->bit_off / 8);
		return true;
	}
	return false;
}

const char *htrace_enum_name(const struct htrace_type *t, __u64 value)
{
	__u32 low = 0, high = t->nr;

	if (t->kind != HTRACE_TYPE_ENUM)
		return NULL;
	/* The first of those with this value: values are sorted. */
	while (low < high) {
		__u32 mid = low + (high - low) / 2;

		if (t->values[mid].value < (__s64)value)
			low = mid + 1;
		else
			high = mid;
	}
	return low < t->nr && t->values[low].value == (__s64)value ? t->values[low].name : NULL;
}
