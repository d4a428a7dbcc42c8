/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What tests of filters share: an event with every kind of field, and random expressions. */
#ifndef FILTER_FIXTURE_H
#define FILTER_FIXTURE_H

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/filter.h>

#include "unit.h"

/* One event with every kind of field, and another one with few of them. */
struct __attribute__((packed)) record {
	__u64 u64;
	__s64 s64;
	__u32 u32;
	__s32 s32;
	__u16 u16;
	__s16 s16;
	__u8 u8;
	__s8 s8;
	__u8 flag;
	__s8 level;
	__s16 array[4];
	struct {
		__u32 b;
		__u8 c[4];
	} a;
	char name[8];
	__u32 state;
	__u32 comm;
	__u64 wide[2];
	__u64 bits;
	__u8 last_bits;
	char text[];
};

#define AT(member) .bit_off = 8 * offsetof(struct record, member), .name = #member
#define NR(array) ((__u32)(sizeof(array) / sizeof((array)[0])))

static struct htrace_schema *schema;
static const struct htrace_event *event, *few_event;

static int integer(struct htrace_schema_builder *b, __u32 size, bool is_signed,
		   enum htrace_hint hint)
{
	return htrace_builder_int(b, NULL, size, is_signed, hint);
}

static void setup(void)
{
	static const struct htrace_schema_value levels[] = {
		{ .value = -1, .name = "LOW" }, { .value = 0, .name = "u8" }, { .value = 5, .name = "HIGH" },
	};
	struct htrace_schema_builder *b;
	struct htrace_schema_member inner[2] = { { .name = "b" }, { .name = "c", .bit_off = 32 } };
	struct htrace_schema_member few[] = { { .name = "only" } };
	const void *entries;
	char err[256] = "";
	size_t len;
	int type;

	ck_assert(!htrace_builder_new(&b, NULL, 0));
	inner[0].type = (__u32)integer(b, 4, false, 0);
	inner[1].type = (__u32)htrace_builder_array(b, integer(b, 1, false, 0), 4);
	{
		int s = htrace_builder_struct(b, NULL, false, 8, inner, NR(inner));
		int u8 = integer(b, 1, false, 0), u64 = integer(b, 8, false, 0);
		struct htrace_schema_member members[] = {
			{ AT(u64), .type = (__u32)u64 },
			{ AT(s64), .type = (__u32)integer(b, 8, true, 0) },
			{ AT(u32), .type = (__u32)integer(b, 4, false, 0) },
			{ AT(s32), .type = (__u32)integer(b, 4, true, 0) },
			{ AT(u16), .type = (__u32)integer(b, 2, false, 0) },
			{ AT(s16), .type = (__u32)integer(b, 2, true, 0) },
			{ AT(u8), .type = (__u32)u8 },
			{ AT(s8), .type = (__u32)integer(b, 1, true, 0) },
			{ AT(flag), .type = (__u32)integer(b, 1, false, HTRACE_HINT_BOOL) },
			{ AT(level), .type = (__u32)htrace_builder_enum(b, "level", 1, true, levels,
									NR(levels)) },
			{ AT(array), .type = (__u32)htrace_builder_array(
					     b, integer(b, 2, true, 0), 4) },
			{ AT(a), .type = (__u32)s },
			{ AT(name), .type = (__u32)htrace_builder_string(b, 8) },
			{ AT(state), .type = (__u32)integer(b, 4, false, HTRACE_HINT_TASK_STATE) },
			{ AT(comm), .type = (__u32)integer(b, 4, false, 0) },
			{ AT(wide), .type = (__u32)integer(b, 16, false, 0) },
			{ .name = "low", .bit_off = 8 * offsetof(struct record, bits), .bit_size = 3,
			  .type = (__u32)u64 },
			{ .name = "across", .bit_off = 8 * offsetof(struct record, bits) + 3,
			  .bit_size = 64, .type = (__u32)integer(b, 8, true, 0) },
			{ AT(text), .type = (__u32)htrace_builder_string(b, 0) },
		};

		type = htrace_builder_struct(b, "record", false, sizeof(struct record), members,
					     NR(members));
		if (type < 0) { /* bit-fields may not cross their type's size */
			members[17].bit_size = 61;
			type = htrace_builder_struct(b, "record", false, sizeof(struct record),
						     members, NR(members));
		}
	}
	ck_assert_msg(type > 0, "%s", htrace_builder_error(b));
	ck_assert_int_gt(htrace_builder_event(b, "everything", type), 0);
	few[0].type = (__u32)integer(b, 4, false, 0);
	type = htrace_builder_struct(b, "few", false, 4, few, 1);
	ck_assert_int_gt(htrace_builder_event(b, "few", type), 0);
	entries = htrace_builder_entries(b, &len);
	ck_assert_msg(!htrace_schema_parse(&schema, entries, len, err, sizeof(err)), "%s", err);
	htrace_builder_free(b);
	event = htrace_schema_event_by_name(schema, "everything");
	few_event = htrace_schema_event_by_name(schema, "few");
}

static void teardown(void)
{
	htrace_schema_free(schema);
}

static char memory[sizeof(struct record) + 16];

static struct record *sample(void)
{
	struct record *r = (struct record *)memory;

	memset(memory, 0, sizeof(memory));
	r->u64 = 0xfffffffffffffff0ULL;
	r->s64 = -16;
	r->u32 = 0xfffffff0;
	r->s32 = -16;
	r->u16 = 1000;
	r->s16 = -1000;
	r->u8 = 200;
	r->s8 = -56;
	r->flag = 1;
	r->level = 5;
	r->array[0] = 10;
	r->array[3] = -30;
	r->a.b = 77;
	r->a.c[2] = 'x';
	memcpy(r->name, "kworker", 8);
	r->state = 2;
	r->comm = 42;
	r->bits = 5 | (__u64)-3LL << 3;
	strcpy(r->text, "/tmp/file.c");
	return r;
}

static const struct htrace_filter_context context = {
	.sz = sizeof(context), .tid_known = true, .pid_known = true, .cpu_known = true,
	.tid = 4000000000u, .pid = 12, .cpu = 3, .comm = "bash", .comm_len = 4,
};

static unsigned long long seed;

static unsigned int pick(unsigned int n)
{
	return (unsigned int)(unit_random(&seed) % n);
}

struct written {
	char s[HTRACE_FILTER_MAX];
	size_t len;
};

static void put(struct written *w, const char *text)
{
	size_t len = strlen(text);

	if (w->len + len < sizeof(w->s))
		memcpy(w->s + w->len, text, len + 1);
	w->len += len;
}

/* A random number near the edges of types. */
static __int128 edge(void)
{
	__int128 v = (__int128)1 << pick(65);

	v += (int)pick(5) - 2;
	if (v > (((__int128)1 << 64) - 1))
		v = ((__int128)1 << 64) - 1;
	if (pick(3) == 0 && v <= ((__int128)1 << 63))
		v = -v;
	return v < 0 && v < -((__int128)1 << 63) ? 0 : v;
}

/* Writes an operand, gives what it is. */
static __int128 operand(struct written *w, const struct record *r, int depth)
{
	static const char *const names[] = { "u64", "s64", "u32", "s32", "u16", "s16", "u8", "s8",
					     "array[1]", "a.b", "a.c[3]", "cpu", "tid" };
	const __int128 values[] = { r->u64, r->s64, r->u32, r->s32, r->u16, r->s16, r->u8, r->s8,
				    r->array[1], r->a.b, r->a.c[3], 3, 4000000000u };
	unsigned int n = pick(NR(names) + 4);
	char number[64];
	__int128 v;

	if (n < NR(names)) {
		put(w, names[n]);
		return values[n];
	}
	if (n == NR(names) && depth) {
		put(w, "(");
		v = operand(w, r, depth - 1);
		put(w, " & ");
		v &= operand(w, r, depth - 1);
		put(w, ")");
		return v;
	}
	v = pick(2) ? edge() : values[pick(NR(names))];
	snprintf(number, sizeof(number), v < 0 ? "-%llu" : pick(2) ? "0x%llx" : "%llu",
		 (unsigned long long)(v < 0 ? -v : v));
	put(w, number);
	return v;
}

static bool comparison(struct written *w, const struct record *r)
{
	static const char *const ops[] = { " == ", "!=", " <", "<= ", ">", ">=" };
	__int128 a = operand(w, r, 3), b;
	unsigned int op = pick(7);

	if (op == 6)
		return a != 0;
	put(w, ops[op]);
	b = operand(w, r, 3);
	return op == 0 ? a == b : op == 1 ? a != b : op == 2 ? a < b : op == 3 ? a <= b : op == 4 ? a > b :
											     a >= b;
}

static bool expression(struct written *w, const struct record *r, int depth)
{
	bool a, b;

	switch (depth ? pick(5) : 4) {
	case 0:
		put(w, "!(");
		a = !expression(w, r, depth - 1);
		put(w, ")");
		return a;
	case 1:
	case 2:
		put(w, "(");
		a = expression(w, r, depth - 1);
		put(w, ") && (");
		b = expression(w, r, depth - 1);
		put(w, ")");
		return a && b;
	case 3:
		put(w, "((");
		a = expression(w, r, depth - 1);
		put(w, ")||");
		b = comparison(w, r);
		put(w, ")");
		return a || b;
	default:
		return comparison(w, r);
	}
}

#endif
