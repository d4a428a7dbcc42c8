/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* Filters from within: for what evaluates them, and for what compiles them. Not installed. */
#ifndef HTRACE_FILTER_TREE_H
#define HTRACE_FILTER_TREE_H

#include <htrace/filter.h>

enum filter_kind {
	FILTER_OR,  /* of its children */
	FILTER_AND, /* of its children */
	FILTER_NOT,
	FILTER_TEST, /* one child: not 0; two: compared by op */
	FILTER_MASK, /* its children, all values, &ed */
	FILTER_NUMBER,
	FILTER_NAME,
	FILTER_TEXT,
};

enum filter_op { FILTER_NONE, FILTER_EQ, FILTER_NE, FILTER_LT, FILTER_LE, FILTER_GT, FILTER_GE };

/* An integer: two's complement in bits; negative says that it is below 0. */
struct filter_value {
	__u64 bits;
	bool negative;
};

struct filter_node {
	__u8 kind, op;
	__u16 column; /* of what an error would be about */
	__u16 child, next; /* indices; 0: none (node 0 is the root, nobody's child) */
	__u16 text, len;   /* as it was written, within the expression: names, words, strings */
	struct filter_value value;
};

struct htrace_filter {
	char *text;
	__u16 root;
	__u32 nr;
	struct filter_node node[];
};

/* What a node is in one event. */
enum filter_what {
	WHAT_MISSING, /* a name: nothing in this event; a test: false */
	WHAT_BAD,     /* a name: no value, such as a struct; a test: false, error says why */
	WHAT_CONST,   /* value */
	WHAT_INT,     /* of the record */
	WHAT_STRING,  /* of the record */
	WHAT_PATTERN, /* a text, its own */
	WHAT_TID,
	WHAT_PID,
	WHAT_CPU,
	WHAT_COMM,
	WHAT_TEST_INT,
	WHAT_TEST_TEXT, /* first child: WHAT_STRING or WHAT_COMM; second: WHAT_PATTERN */
};

struct filter_place {
	__u8 what;
	bool is_signed;
	__u8 shift, bits; /* WHAT_INT: of the bytes at off */
	__u32 off, size;  /* WHAT_STRING: size 0: to the end of the record */
	union {
		struct filter_value value;
		const char *error;
	};
};

struct htrace_filter_bound {
	const struct htrace_filter *filter;
	struct filter_place place[]; /* of each node */
};

/* Places of the names of test @n, and of the test itself. filter_bind.c */
void filter_bind_test(struct htrace_filter_bound *b, const struct htrace_event *e, __u16 n);

static inline int filter_compare(struct filter_value a, struct filter_value b)
{
	if (a.negative != b.negative)
		return a.negative ? -1 : 1;
	return a.bits < b.bits ? -1 : a.bits > b.bits;
}

static inline bool filter_holds(enum filter_op op, int order)
{
	switch (op) {
	case FILTER_EQ:
		return order == 0;
	case FILTER_NE:
		return order != 0;
	case FILTER_LT:
		return order < 0;
	case FILTER_LE:
		return order <= 0;
	case FILTER_GT:
		return order > 0;
	case FILTER_GE:
		return order >= 0;
	case FILTER_NONE:
		break;
	}
	return false;
}

/* 1: @n holds for every record of the event, 0: for none, -1: it depends. */
int filter_constant(const struct htrace_filter_bound *b, __u16 n);

#endif /* HTRACE_FILTER_TREE_H */
