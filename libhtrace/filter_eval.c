// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/* Filters: does a record match? Depth is bounded by HTRACE_FILTER_DEPTH, work by FILTER_STEPS. */
#include <string.h>

#include "filter_tree.h"
#include "internal.h"

#define FILTER_STEPS (1u << 20) /* of comparing text, for one record; beyond it nothing is equal */

struct eval {
	const struct htrace_filter_bound *b;
	const unsigned char *payload;
	size_t len;
	const struct htrace_filter_context *c;
	__u32 steps; /* left */
};

/* ---------------------------------------------------------------------------------------- text */

/* One character of pattern @p, an escaped one too; false at the end, and for a \ at the end. */
static bool plain(const char **p, const char *end, char *c)
{
	if (*p < end && **p == '\\')
		++*p;
	if (*p >= end)
		return false;
	*c = *(*p)++;
	return true;
}

/* The end of the class that begins at @p, or NULL: '[' stands for itself. */
static const char *class_end(const char *p, const char *end)
{
	p++;
	if (p < end && (*p == '!' || *p == '^'))
		p++;
	if (p < end && *p == ']')
		p++;
	while (p < end && *p != ']')
		p += *p == '\\' && p + 1 < end ? 2 : 1;
	return p < end ? p + 1 : NULL;
}

static bool in_class(const char *p, const char *end, char ch)
{
	unsigned char c = (unsigned char)ch;
	bool inverted, in = false;
	char low, high;

	p++;
	end--;
	inverted = *p == '!' || *p == '^';
	p += inverted;
	while (p < end && plain(&p, end, &low)) {
		high = low;
		if (end - p >= 2 && *p == '-') {
			p++;
			if (!plain(&p, end, &high))
				break;
		}
		in |= (unsigned char)low <= c && c <= (unsigned char)high;
	}
	return in != inverted;
}

/* As many steps as a class has characters; where there are not so many, there is none left. */
static void spend(struct eval *v, __u32 steps)
{
	v->steps -= steps < v->steps ? steps : v->steps;
}

/* Does the element of the pattern at *@p match @c? Goes on to the next one. */
static bool match_one(struct eval *v, const char **p, const char *end, char c)
{
	const char *at = *p, *close;
	char wanted;

	if (*at == '?') {
		++*p;
		return true;
	}
	close = *at == '[' ? class_end(at, end) : NULL;
	if (*at == '[')
		spend(v, (__u32)((close ? close : end) - at));
	if (close) {
		*p = close;
		return in_class(at, close, c);
	}
	return plain(p, end, &wanted) && wanted == c;
}

/* Only the last * is ever gone back to: steps are about the product of both lengths at most. */
static bool match(struct eval *v, const char *p, const char *end, const char *s, const char *send)
{
	const char *star = NULL, *from = NULL;

	while (s < send || p < end) {
		const char *at = p;

		if (!v->steps || !--v->steps)
			return false;
		if (p < end && *p == '*') {
			star = ++p;
			from = s;
			continue;
		}
		if (p < end && s < send && match_one(v, &at, end, *s)) {
			p = at;
			s++;
			continue;
		}
		if (!star || from == send)
			return false;
		s = ++from;
		p = star;
	}
	return true;
}

static bool test_text(struct eval *v, __u16 n)
{
	const struct htrace_filter *f = v->b->filter;
	__u16 left = f->node[n].child;
	const struct filter_node *pattern = &f->node[f->node[left].next];
	const struct filter_place *p = &v->b->place[left];
	const char *s, *at = f->text + pattern->text;
	size_t len;
	bool equal;

	if (p->what == WHAT_COMM) {
		s = v->c->comm;
		len = v->c->comm_len;
	} else {
		s = (const char *)v->payload + p->off;
		len = p->size ? p->size : v->len - p->off;
		if (p->off > v->len || len > v->len - p->off)
			s = NULL;
	}
	if (!s)
		return false;
	equal = match(v, at, at + pattern->len, s, s + strnlen(s, len));
	return v->steps && equal == (f->node[n].op == FILTER_EQ);
}

/* ------------------------------------------------------------------------------------- integers */

static bool load(const struct eval *v, const struct filter_place *p, struct filter_value *out)
{
	unsigned int unused = 64u - p->bits;
	__u64 value = 0;

	if (p->off > v->len || p->size > v->len - p->off)
		return false;
	if (p->size > 8) { /* a bit-field across nine bytes */
		memcpy(&value, v->payload + p->off, 8);
		value = value >> p->shift | (__u64)v->payload[p->off + 8] << (64 - p->shift);
	} else {
		memcpy(&value, v->payload + p->off, p->size);
		value >>= p->shift;
	}
	value <<= unused;
	out->bits = p->is_signed ? (__u64)((__s64)value >> unused) : value >> unused;
	out->negative = p->is_signed && (__s64)out->bits < 0;
	return true;
}

static bool known(bool is_known, __u32 value, struct filter_value *out)
{
	*out = (struct filter_value){ .bits = value };
	return is_known;
}

static bool value_of(const struct eval *v, __u16 n, struct filter_value *out)
{
	const struct filter_node *at = &v->b->filter->node[n];
	const struct filter_place *p = &v->b->place[n];
	struct filter_value one;

	if (at->kind == FILTER_MASK) {
		*out = (struct filter_value){ .bits = ~0ULL, .negative = true };
		for (__u16 c = at->child; c; c = v->b->filter->node[c].next) {
			if (!value_of(v, c, &one))
				return false;
			out->bits &= one.bits;
			out->negative &= one.negative;
		}
		return true;
	}
	switch (p->what) {
	case WHAT_CONST:
		*out = p->value;
		return true;
	case WHAT_INT:
		return load(v, p, out);
	case WHAT_TID:
		return known(v->c->tid_known, v->c->tid, out);
	case WHAT_PID:
		return known(v->c->pid_known, v->c->pid, out);
	case WHAT_CPU:
		return known(v->c->cpu_known, v->c->cpu, out);
	default:
		return false;
	}
}

static bool test_int(const struct eval *v, __u16 n)
{
	const struct filter_node *test = &v->b->filter->node[n];
	struct filter_value left, right;

	if (!value_of(v, test->child, &left))
		return false;
	if (test->op == FILTER_NONE)
		return left.bits != 0;
	return value_of(v, v->b->filter->node[test->child].next, &right) &&
	       filter_holds(test->op, filter_compare(left, right));
}

static bool holds(struct eval *v, __u16 n)
{
	const struct filter_node *at = &v->b->filter->node[n];

	switch (at->kind) {
	case FILTER_OR:
		for (__u16 c = at->child; c; c = v->b->filter->node[c].next)
			if (holds(v, c))
				return true;
		return false;
	case FILTER_AND:
		for (__u16 c = at->child; c; c = v->b->filter->node[c].next)
			if (!holds(v, c))
				return false;
		return true;
	case FILTER_NOT:
		return !holds(v, at->child);
	default:
		break;
	}
	if (v->b->place[n].what == WHAT_TEST_TEXT)
		return test_text(v, n);
	return v->b->place[n].what == WHAT_TEST_INT && test_int(v, n);
}

bool htrace_filter_matches(const struct htrace_filter_bound *b, const void *payload, size_t len,
			   const struct htrace_filter_context *c)
{
	struct eval v = { .b = b, .payload = payload, .len = len, .c = c, .steps = FILTER_STEPS };
	struct htrace_filter_context known = { 0 };

	if (c->sz != sizeof(*c)) { /* what an older caller does not say is not known, a newer one's is not asked */
		memcpy(&known, c, c->sz < sizeof(known) ? c->sz : sizeof(known));
		v.c = &known;
	}
	return holds(&v, b->filter->root);
}

int filter_constant(const struct htrace_filter_bound *b, __u16 n)
{
	const struct filter_node *at = &b->filter->node[n];
	int all, one;

	switch (at->kind) {
	case FILTER_NOT:
		one = filter_constant(b, at->child);
		return one < 0 ? one : !one;
	case FILTER_OR:
	case FILTER_AND:
		all = at->kind == FILTER_AND;
		for (__u16 c = at->child; c; c = b->filter->node[c].next) {
			one = filter_constant(b, c);
			if (one == (at->kind == FILTER_OR))
				return one;
			if (one < 0)
				all = -1;
		}
		return all;
	default:
		return b->place[n].what == WHAT_TEST_INT || b->place[n].what == WHAT_TEST_TEXT ? -1 : 0;
	}
}
