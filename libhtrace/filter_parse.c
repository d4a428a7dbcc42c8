// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/* Filter expressions: from text to a tree. The grammar is in filter.h. */
#include <ctype.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "filter_tree.h"
#include "internal.h"

enum token {
	TOK_END,
	TOK_OPEN,
	TOK_CLOSE,
	TOK_NOT,
	TOK_AND,
	TOK_OR,
	TOK_MASK,
	TOK_MINUS,
	TOK_COMPARE, /* which: op */
	TOK_NUMBER,
	TOK_NAME,
	TOK_TEXT,
};

struct parser {
	const char *s;
	struct htrace_filter *f;
	struct htrace_filter_error *err;
	unsigned int depth;
	bool failed;
	/* the token that comes next */
	enum token token;
	enum filter_op op;
	struct filter_value value;
	__u32 at, text, len; /* where it begins; what of it is text */
	__u32 end;
};

static __u16 parse_or(struct parser *p);

HTRACE_PRINTF(3, 4)
static __u16 fail(struct parser *p, __u32 at, const char *fmt, ...)
{
	va_list args;

	if (p->failed)
		return 0;
	p->failed = true;
	p->token = TOK_END;
	if (!p->err)
		return 0;
	p->err->column = at + 1;
	va_start(args, fmt);
	vsnprintf(p->err->msg, sizeof(p->err->msg), fmt, args);
	va_end(args);
	return 0;
}

/* --------------------------------------------------------------------------------------- tokens */

static bool is_name_start(char c)
{
	return isalpha((unsigned char)c) || c == '_';
}

static bool is_word(char c)
{
	return c && (isalnum((unsigned char)c) || strchr("_.*?-/:@+%,~$#\\", c));
}

/* Of the word at @at, with [...] in it. */
static __u32 word_length(const char *at)
{
	__u32 n = 0;

	for (;;) {
		if (is_word(at[n])) {
			n += at[n] == '\\' && at[n + 1] ? 2 : 1;
		} else if (at[n] == '[') {
			__u32 close = n + 1;

			while (at[close] && (at[close] != ']' || close == n + 1))
				close++;
			if (!at[close])
				return n;
			n = close + 1;
		} else {
			return n;
		}
	}
}

/* name { "." name | "[" digits "]" } */
static bool is_field(const char *s, __u32 len)
{
	__u32 i = 0;

	do {
		if (i == len || !is_name_start(s[i]))
			return false;
		while (i < len && (is_name_start(s[i]) || isdigit((unsigned char)s[i])))
			i++;
		while (i < len && s[i] == '[') {
			__u32 digits = ++i;

			while (i < len && isdigit((unsigned char)s[i]))
				i++;
			if (i == digits || i == len || s[i++] != ']')
				return false;
		}
	} while (i < len && s[i] == '.' && ++i);
	return i == len;
}

static int digit_of(char c)
{
	if (isdigit((unsigned char)c))
		return c - '0';
	return isxdigit((unsigned char)c) ? tolower((unsigned char)c) - 'a' + 10 : 16;
}

/* 0: it is not one; -ERANGE. */
static int parse_number(const char *s, __u32 len, __u64 *value)
{
	unsigned int base = 10;
	__u64 v = 0;

	if (len > 2 && s[0] == '0' && (s[1] == 'x' || s[1] == 'X')) {
		base = 16;
		s += 2;
		len -= 2;
	} else if (len > 1 && s[0] == '0') {
		base = 8;
	}
	for (__u32 i = 0; i < len; i++) {
		unsigned int d = (unsigned int)digit_of(s[i]);

		if (d >= base)
			return 0;
		if (__builtin_mul_overflow(v, (__u64)base, &v) ||
		    __builtin_add_overflow(v, (__u64)d, &v))
			return -ERANGE;
	}
	*value = v;
	return 1;
}

static void lex_word(struct parser *p, __u32 len)
{
	const char *at = p->s + p->at;
	int ret = parse_number(at, len, &p->value.bits);

	p->text = p->at;
	p->len = len;
	p->end = p->at + len;
	p->value.negative = false;
	if (ret < 0)
		fail(p, p->at, "the number does not fit into 64 bits");
	else if (ret)
		p->token = TOK_NUMBER;
	else
		p->token = is_field(at, len) ? TOK_NAME : TOK_TEXT;
}

static void lex_string(struct parser *p)
{
	const char *s = p->s;
	__u32 i = p->at + 1;

	while (s[i] && s[i] != '"')
		i += s[i] == '\\' && s[i + 1] ? 2 : 1;
	if (!s[i]) {
		fail(p, p->at, "no '\"' ends the text that begins here");
		return;
	}
	p->token = TOK_TEXT;
	p->text = p->at + 1;
	p->len = i - p->text;
	p->end = i + 1;
}

static void lex_char(struct parser *p)
{
	static const char names[] = "ntr0\\'\"", values[] = "\n\t\r\0\\'\"";
	const char *s = p->s + p->at + 1;
	const char *found;
	unsigned char c = (unsigned char)*s;

	if (c == '\\' && s[1] && (found = strchr(names, s[1])) != NULL) {
		c = (unsigned char)values[found - names];
		s++;
	} else if (!c || c == '\'' || c == '\\') {
		s = "";
	}
	if (!*s || s[1] != '\'') {
		fail(p, p->at, "this is no character as 'a' or '\\n'");
		return;
	}
	p->token = TOK_NUMBER;
	p->value = (struct filter_value){ .bits = c };
	p->len = 0;
	p->end = (__u32)(s + 2 - p->s);
}

static bool lex_operator(struct parser *p)
{
	static const struct {
		char text[3];
		enum token token;
		enum filter_op op;
	} operators[] = {
		{ "==", TOK_COMPARE, FILTER_EQ }, { "!=", TOK_COMPARE, FILTER_NE },
		{ "<=", TOK_COMPARE, FILTER_LE }, { ">=", TOK_COMPARE, FILTER_GE },
		{ "&&", TOK_AND, FILTER_NONE },   { "||", TOK_OR, FILTER_NONE },
		{ "<", TOK_COMPARE, FILTER_LT },  { ">", TOK_COMPARE, FILTER_GT },
		{ "&", TOK_MASK, FILTER_NONE },   { "!", TOK_NOT, FILTER_NONE },
		{ "(", TOK_OPEN, FILTER_NONE },   { ")", TOK_CLOSE, FILTER_NONE },
		{ "-", TOK_MINUS, FILTER_NONE },
	};

	for (size_t i = 0; i < sizeof(operators) / sizeof(*operators); i++) {
		size_t len = strlen(operators[i].text);

		if (strncmp(p->s + p->at, operators[i].text, len))
			continue;
		p->token = operators[i].token;
		p->op = operators[i].op;
		p->end = p->at + (__u32)len;
		return true;
	}
	return false;
}

static void next(struct parser *p)
{
	const char *at;
	__u32 len;

	if (p->failed)
		return;
	p->at = p->end + (__u32)strspn(p->s + p->end, " \t\n");
	at = p->s + p->at;
	p->end = p->at;
	if (!*at) {
		p->token = TOK_END;
	} else if (*at == '"') {
		lex_string(p);
	} else if (*at == '\'') {
		lex_char(p);
	} else if (!lex_operator(p)) {
		len = word_length(at);
		if (len)
			lex_word(p, len);
		else if (*at == '=')
			fail(p, p->at, "'=' is no operator; equality is '=='");
		else if (*at == '|')
			fail(p, p->at, "'|' is no operator; or is '||'");
		else if (*at == '[')
			fail(p, p->at, "no ']' ends what begins here");
		else
			fail(p, p->at, "nothing begins with this character; text with it goes into "
				       "\"quotes\"");
	}
}

/* ----------------------------------------------------------------------------------------- tree */

static __u16 add(struct parser *p, enum filter_kind kind, __u32 at)
{
	struct filter_node *n = &p->f->node[p->f->nr];

	if (p->failed)
		return 0;
	/* Node 0 stays unused: 0 means none. */
	if (p->f->nr > HTRACE_FILTER_TERMS)
		return fail(p, at, "more than %u terms", HTRACE_FILTER_TERMS);
	n->kind = (__u8)kind;
	n->column = (__u16)(at + 1);
	return (__u16)p->f->nr++;
}

static struct filter_node *node(const struct parser *p, __u16 n)
{
	return &p->f->node[n];
}

static bool is_value(const struct parser *p, __u16 n)
{
	return node(p, n)->kind >= FILTER_MASK;
}

/* @n as something that is true or false. */
static __u16 as_test(struct parser *p, __u16 n)
{
	__u16 test;

	if (p->failed || !is_value(p, n))
		return n;
	if (node(p, n)->kind == FILTER_TEXT)
		return fail(p, node(p, n)->column - 1u, "text must be compared with a field");
	test = add(p, FILTER_TEST, node(p, n)->column - 1u);
	if (test)
		node(p, test)->child = n;
	return test;
}

/* What follows @after, in words. */
static __u16 expected(struct parser *p, const char *what, __u32 after, __u32 len)
{
	if (!len)
		return fail(p, p->at, "expected %s", what);
	return fail(p, p->at, "expected %s after '%.*s'", what, (int)len, p->s + after);
}

static bool enter(struct parser *p)
{
	if (p->depth == HTRACE_FILTER_DEPTH)
		fail(p, p->at, "nested deeper than %u", HTRACE_FILTER_DEPTH);
	else
		p->depth++;
	return !p->failed;
}

/* @after, @len: the operator before, for the message. */
static __u16 parse_value(struct parser *p, __u32 after, __u32 len)
{
	__u32 at = p->at;
	__u16 n;

	switch (p->token) {
	case TOK_OPEN:
		if (!enter(p))
			return 0;
		next(p);
		n = parse_or(p);
		if (!p->failed && p->token != TOK_CLOSE)
			return fail(p, p->at, "expected ')' for the '(' at column %u", at + 1);
		p->depth--;
		next(p);
		return n;
	case TOK_MINUS:
		next(p);
		if (p->token != TOK_NUMBER || !p->len)
			return fail(p, p->at, "expected a number after '-'");
		if (p->value.bits > 1ULL << 63)
			return fail(p, at, "the number does not fit into 64 bits");
		p->value.negative = p->value.bits != 0;
		p->value.bits = -p->value.bits;
		p->len += p->text - at;
		p->text = at;
		break;
	case TOK_NUMBER:
	case TOK_NAME:
	case TOK_TEXT:
		break;
	default:
		return expected(p, "a value", after, len);
	}
	n = add(p, p->token == TOK_NUMBER ? FILTER_NUMBER :
		   p->token == TOK_NAME   ? FILTER_NAME :
					    FILTER_TEXT, at);
	if (!n)
		return 0;
	node(p, n)->text = (__u16)p->text;
	node(p, n)->len = (__u16)p->len;
	node(p, n)->value = p->value;
	next(p);
	return n;
}

static __u16 parse_mask(struct parser *p, __u32 after, __u32 len)
{
	__u16 first = parse_value(p, after, len), last = first, mask = 0;

	while (!p->failed && p->token == TOK_MASK) {
		__u32 at = p->at;

		if (!is_value(p, last) || node(p, last)->kind == FILTER_TEXT)
			return fail(p, at, "'&' is between numbers; and is '&&'");
		if (!mask) {
			mask = add(p, FILTER_MASK, at);
			if (!mask)
				return 0;
			node(p, mask)->child = first;
		}
		next(p);
		last = node(p, last)->next = parse_value(p, at, 1);
		if (!p->failed && (!is_value(p, last) || node(p, last)->kind == FILTER_TEXT))
			return fail(p, node(p, last)->column - 1u,
				    "'&' is between numbers; and is '&&'");
	}
	return mask ? mask : first;
}

static __u16 parse_comparison(struct parser *p, __u32 after, __u32 len)
{
	__u16 left = parse_mask(p, after, len), right, test;
	enum filter_op op = p->op;
	__u32 at = p->at, oplen = p->end - p->at;

	if (p->failed || p->token != TOK_COMPARE)
		return left;
	if (!is_value(p, left))
		return fail(p, at, "what is true or false cannot be compared; use &&, || and !");
	next(p);
	right = parse_mask(p, at, oplen);
	if (p->failed)
		return 0;
	if (!is_value(p, right))
		return fail(p, node(p, right)->column - 1u,
			    "what is true or false cannot be compared; use &&, || and !");
	if (p->token == TOK_COMPARE)
		return fail(p, p->at, "comparisons do not chain; use &&");
	if (node(p, left)->kind == FILTER_TEXT && (op == FILTER_EQ || op == FILTER_NE)) {
		__u16 swap = left;

		left = right;
		right = swap;
	}
	test = add(p, FILTER_TEST, at);
	if (!test)
		return 0;
	node(p, test)->op = (__u8)op;
	node(p, test)->child = left;
	node(p, left)->next = right;
	return test;
}

static __u16 parse_not(struct parser *p, __u32 after, __u32 len)
{
	__u32 at = p->at;
	__u16 n, of;

	if (p->token != TOK_NOT)
		return as_test(p, parse_comparison(p, after, len));
	if (!enter(p))
		return 0;
	next(p);
	of = p->token == TOK_NOT ? parse_not(p, at, 1) : as_test(p, parse_value(p, at, 1));
	p->depth--;
	if (p->failed)
		return 0;
	if (p->token == TOK_MASK || p->token == TOK_COMPARE)
		return fail(p, p->at, "'!' would be of what is left of this only; use parentheses");
	n = add(p, FILTER_NOT, at);
	if (n)
		node(p, n)->child = of;
	return n;
}

/* Lists, not trees: their depth does not grow with their length. */
static __u16 parse_list(struct parser *p, enum token token, enum filter_kind kind,
			__u16 (*item)(struct parser *, __u32, __u32), __u32 after, __u32 len)
{
	__u16 first = item(p, after, len), last = first, list = 0;

	while (!p->failed && p->token == token) {
		__u32 at = p->at;

		if (!list) {
			first = last = as_test(p, first);
			list = add(p, kind, at);
			if (!list)
				return 0;
			node(p, list)->child = first;
		}
		next(p);
		last = node(p, last)->next = as_test(p, item(p, at, 2));
	}
	return list ? list : first;
}

/* Within parentheses a value stays one: what follows them decides. */
static __u16 parse_and_item(struct parser *p, __u32 after, __u32 len)
{
	if (p->token == TOK_NOT)
		return parse_not(p, after, len);
	return parse_comparison(p, after, len);
}

static __u16 parse_and(struct parser *p, __u32 after, __u32 len)
{
	return parse_list(p, TOK_AND, FILTER_AND, parse_and_item, after, len);
}

static __u16 parse_or(struct parser *p)
{
	return parse_list(p, TOK_OR, FILTER_OR, parse_and, 0, 0);
}

static void parse_all(struct parser *p)
{
	next(p);
	if (!p->failed && p->token == TOK_END)
		fail(p, p->at, "the filter is empty");
	p->f->root = as_test(p, parse_or(p));
	if (p->failed || p->token == TOK_END)
		return;
	if (p->token == TOK_CLOSE)
		fail(p, p->at, "no '(' belongs to this ')'");
	else
		fail(p, p->at, "expected an operator before this");
}

int htrace_filter_parse(struct htrace_filter **out, const char *text,
			struct htrace_filter_error *err)
{
	size_t len = strnlen(text, HTRACE_FILTER_MAX + 1);
	struct parser p = { .s = text, .err = err };

	*out = NULL;
	if (len > HTRACE_FILTER_MAX) {
		fail(&p, HTRACE_FILTER_MAX, "longer than %u bytes", HTRACE_FILTER_MAX);
		return -EINVAL;
	}
	p.f = calloc(1, sizeof(*p.f) + (HTRACE_FILTER_TERMS + 1) * sizeof(p.f->node[0]));
	if (p.f)
		p.f->text = strdup(text);
	if (!p.f || !p.f->text) {
		free(p.f);
		fail(&p, 0, "out of memory");
		return -ENOMEM;
	}
	p.f->nr = 1;
	parse_all(&p);
	if (p.failed) {
		htrace_filter_free(p.f);
		return -EINVAL;
	}
	*out = p.f;
	return 0;
}

void htrace_filter_free(struct htrace_filter *f)
{
	if (!f)
		return;
	free(f->text);
	free(f);
}

const char *htrace_filter_text(const struct htrace_filter *f)
{
	return f->text;
}

#define POINT_BEFORE 60u
#define POINT_AFTER 30u

void htrace_filter_point(const char *text, __u32 column, char *out, size_t outlen)
{
	__u32 at = (__u32)strnlen(text, column ? column - 1 : 0);
	__u32 from = at > POINT_BEFORE ? at - POINT_BEFORE : 0;
	char piece[POINT_BEFORE + POINT_AFTER + 1];
	size_t n;

	n = strnlen(text + from, sizeof(piece) - 1);
	for (size_t i = 0; i < n; i++)
		piece[i] = text[from + i] >= ' ' && text[from + i] < 127 ? text[from + i] : '?';
	piece[n] = 0;
	snprintf(out, outlen, "  %s%s%s\n  %*s^", from ? "..." : "", piece,
		 text[from + n] ? "..." : "", (int)(at - from + (from ? 3 : 0)), "");
}
