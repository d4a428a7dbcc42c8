/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Schemas and records as text, so that a test's expectation is one line. */
#ifndef SCHEMA_TEXT_H
#define SCHEMA_TEXT_H

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include <htrace/schema.h>

struct text {
	char s[16384];
	size_t len;
};

__attribute__((format(printf, 2, 3))) static inline void put(struct text *t, const char *fmt, ...)
{
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(t->s + t->len, sizeof(t->s) - t->len, fmt, args);
	va_end(args);
	t->len += (size_t)n;
	if (t->len >= sizeof(t->s))
		t->len = sizeof(t->s) - 1;
}

/*
 * Integers: u or s and bytes, then the hint's letter; enums e... with their values; [n]element;
 * "n" strings; {} structs and <> unions with their size, members as name@byte, and .bit/bits.
 */
static inline void describe(struct text *out, const struct htrace_type *t)
{
	static const char hints[] = " xptsbcT";

	switch (t->kind) {
	case HTRACE_TYPE_INT:
		put(out, "%c%u", t->is_signed ? 's' : 'u', t->size);
		if (t->hint)
			put(out, "%c", hints[t->hint]);
		break;
	case HTRACE_TYPE_ENUM:
		put(out, "e%c%u %s(", t->is_signed ? 's' : 'u', t->size, t->name);
		for (__u32 i = 0; i < t->nr; i++)
			put(out, "%s%s=%lld", i ? " " : "", t->values[i].name,
			    (long long)t->values[i].value);
		put(out, ")");
		break;
	case HTRACE_TYPE_ARRAY:
		put(out, "[%u]", t->nr);
		describe(out, t->elem);
		break;
	case HTRACE_TYPE_STRING:
		put(out, "\"%u\"", t->size);
		break;
	case HTRACE_TYPE_STRUCT:
	case HTRACE_TYPE_UNION:
		put(out, "%s%s%u:", t->name, t->kind == HTRACE_TYPE_UNION ? "<" : "{", t->size);
		for (__u32 i = 0; i < t->nr; i++) {
			put(out, " %s@%u", t->members[i].name, t->members[i].bit_off / 8);
			if (t->members[i].bit_size)
				put(out, ".%u/%u", t->members[i].bit_off % 8,
				    t->members[i].bit_size);
			put(out, " ");
			describe(out, t->members[i].type);
			put(out, i + 1 < t->nr ? "," : "");
		}
		put(out, "%s", t->kind == HTRACE_TYPE_UNION ? ">" : "}");
		break;
	}
}

static inline void text_name(struct text *out, const char *name)
{
	if (out->len && !strchr("{[", out->s[out->len - 1]))
		put(out, " ");
	if (name)
		put(out, "%s=", name);
}

static inline void text_begin(void *ctx, const char *name, const struct htrace_type *t)
{
	text_name(ctx, name);
	put(ctx, t->kind == HTRACE_TYPE_ARRAY ? "[" : "{");
}

static inline void text_end(void *ctx, const struct htrace_type *t)
{
	put(ctx, t->kind == HTRACE_TYPE_ARRAY ? "]" : "}");
}

static inline void text_integer(void *ctx, const char *name, const struct htrace_type *t,
				__u64 value)
{
	const char *label = htrace_enum_name(t, value);

	text_name(ctx, name);
	if (label)
		put(ctx, "%s", label);
	else if (t->is_signed)
		put(ctx, "%lld", (long long)value);
	else
		put(ctx, "%llu", (unsigned long long)value);
}

static inline void text_string(void *ctx, const char *name, const struct htrace_type *t,
			       const char *s, size_t len)
{
	text_name(ctx, name);
	put(ctx, "\"%.*s\"", (int)len, s);
}

static inline void text_bytes(void *ctx, const char *name, const struct htrace_type *t,
			      const void *p, size_t len)
{
	text_name(ctx, name);
	put(ctx, "0x");
	for (size_t i = len; i-- > 0;)
		put(ctx, "%02x", ((const unsigned char *)p)[i]);
}

/* A record as "a=1 b={c=2}". */
static const struct htrace_visitor text_visitor __attribute__((unused)) = {
	.sz = sizeof(text_visitor),
	.begin = text_begin,
	.end = text_end,
	.integer = text_integer,
	.string = text_string,
	.bytes = text_bytes,
};

#endif /* SCHEMA_TEXT_H */
