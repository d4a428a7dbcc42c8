/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Filters: which records are wanted, said by an expression over their events' fields and over where
 * they happened.
 *
 *	filter  = and { "||" and }
 *	and     = test { "&&" test }
 *	test    = "!" (field | "(" filter ")") | "(" filter ")"
 *	        | mask [ ("==" | "!=" | "<" | "<=" | ">" | ">=") mask ]
 *	mask    = value { "&" value }          binds tighter than comparisons, unlike in C
 *	value   = field | ["-"] number | 'c' | text | "(" mask ")"
 *	field   = name { "." name | "[" index "]" }
 *
 * Numbers are decimal, hexadecimal (0x) or octal (0), and compared as what they mean, whatever size
 * and sign their types have. A value alone is true if it is not 0. Where a field is an enum the names
 * of its values are numbers too, as are the letters of a task's state (R S D T t X Z P I), `true` and
 * `false`. Text is in "quotes" or a bare word; it is compared with a text field on its left, by ==
 * and != only, and is a pattern as of fnmatch(3): * ? [a-z] [!a-z] and \ before what stands for itself.
 *
 * `comm`, `tid`, `pid` and `cpu` say in which task and on which CPU it happened, where the event has
 * no field of its own of that name. A comparison with what the event does not have, or what is not
 * known, is false; so !(x == 1) is true there.
 */
#ifndef HTRACE_FILTER_H
#define HTRACE_FILTER_H

#include <htrace/schema.h>

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define HTRACE_FILTER_MAX HTRACE_FILTER_TEXT_MAX /* bytes of an expression */
#define HTRACE_FILTER_DEPTH 64 /* of parentheses and ! */
#define HTRACE_FILTER_TERMS 1000

struct htrace_filter;

struct htrace_filter_error {
	__u32 column; /* byte of the expression, from 1 */
	char msg[160];
};

/* -EINVAL, -ENOMEM: @err says what is wrong where. @text may be anybody's: work is bounded. */
int htrace_filter_parse(struct htrace_filter **out, const char *text,
			struct htrace_filter_error *err);
/* NULL is allowed. */
void htrace_filter_free(struct htrace_filter *f);
const char *htrace_filter_text(const struct htrace_filter *f);
/*
 * Can it mean anything for the events of @s? -ENOENT: a name that none of them has; -EINVAL: what is
 * compared does not go together in any of them; -ENOMEM. @err says what and where, whichever it is.
 */
int htrace_filter_check(const struct htrace_filter *f, const struct htrace_schema *s,
			struct htrace_filter_error *err);
/*
 * Two lines that show where column @column of @text is, for a terminal: a piece of the text, and a
 * caret below the place. Any bytes may be in @text.
 */
void htrace_filter_point(const char *text, __u32 column, char *out, size_t outlen);

/* A filter as it applies to one event. */
struct htrace_filter_bound;

/* 0 or -ENOMEM. @f and the event's schema must live longer. */
int htrace_filter_bind(struct htrace_filter_bound **out, const struct htrace_filter *f,
		       const struct htrace_event *e);
void htrace_filter_unbind(struct htrace_filter_bound *b);
/* Bytes that htrace_filter_bind() takes. */
size_t htrace_filter_bound_size(const struct htrace_filter *f);

/* What is known of where a record happened. */
struct htrace_filter_context {
	size_t sz;
	bool tid_known, pid_known, cpu_known;
	__u32 tid, pid, cpu;
	const char *comm; /* NULL: not known */
	size_t comm_len;
};

/* Does the record match? Reads within the payload only; its work is bounded. */
bool htrace_filter_matches(const struct htrace_filter_bound *b, const void *payload, size_t len,
			   const struct htrace_filter_context *c);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
