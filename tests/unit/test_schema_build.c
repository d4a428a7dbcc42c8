// SPDX-License-Identifier: LGPL-2.1-or-later
/* Building a schema, parsing it, and decoding records by it. */
#include <errno.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include "schema_text.h"
#include "unit.h"

static struct htrace_schema_builder *b;

static void setup(void)
{
	ck_assert_int_eq(htrace_builder_new(&b, NULL, 0), 0);
}

static void teardown(void)
{
	htrace_builder_free(b);
}

/* Whatever a builder hands out is accepted. */
static struct htrace_schema *parsed(void)
{
	struct htrace_schema *s;
	const void *entries;
	char err[256] = "";
	size_t len;

	entries = htrace_builder_entries(b, &len);
	ck_assert_uint_eq(len % 8, 0);
	ck_assert_msg(!htrace_schema_parse(&s, entries, len, err, sizeof(err)), "%s", err);
	return s;
}

#define NR(array) ((__u32)(sizeof(array) / sizeof((array)[0])))
#define AT(record, member) .bit_off = 8 * offsetof(record, member), .name = #member

/* ------------------------------------------------------------------------------- round trip */

struct sample {
	__u8 tiny;
	__s16 small;
	__s32 pid;
	__u64 big;
	__s64 low : 12;
	__s64 high : 52;
	__u32 state;
	char comm[8];
	__u16 grid[2][3];
	union {
		__u32 word;
		__u8 bytes[4];
	} u;
	struct {
		__s8 x, y;
	} points[2];
	__u8 wide[16];
	char rest[];
};

static int build_sample(void)
{
	static const struct htrace_schema_value states[] = {
		{ 2, "RUNNING" }, { 0, "IDLE" }, { 2, "BUSY" }, { -1, "DEAD" },
	};
	int u8 = htrace_builder_int(b, "u8", 1, false, HTRACE_HINT_NONE);
	int s8 = htrace_builder_int(b, "s8", 1, true, HTRACE_HINT_NONE);
	int u16 = htrace_builder_int(b, "u16", 2, false, HTRACE_HINT_NONE);
	int s16 = htrace_builder_int(b, "s16", 2, true, HTRACE_HINT_NONE);
	int u32 = htrace_builder_int(b, "u32", 4, false, HTRACE_HINT_HEX);
	int tid = htrace_builder_int(b, "tid", 4, true, HTRACE_HINT_TID);
	int u64 = htrace_builder_int(b, "u64", 8, false, HTRACE_HINT_NONE);
	int s64 = htrace_builder_int(b, "s64", 8, true, HTRACE_HINT_NONE);
	int u128 = htrace_builder_int(b, "u128", 16, false, HTRACE_HINT_NONE);
	int state = htrace_builder_enum(b, "state", 4, true, states, NR(states));
	int row = htrace_builder_array(b, u16, 3);
	struct htrace_schema_member um[] = {
		{ .type = (__u32)u32, .name = "word" },
		{ .type = (__u32)htrace_builder_array(b, u8, 4), .name = "bytes" },
	};
	struct htrace_schema_member pm[] = {
		{ .type = (__u32)s8, .name = "x" },
		{ .type = (__u32)s8, .bit_off = 8, .name = "y" },
	};
	int u = htrace_builder_struct(b, NULL, true, 4, um, 2);
	int point = htrace_builder_struct(b, "point", false, 2, pm, 2);
	__u32 bits = 8 * (offsetof(struct sample, big) + 8);
	struct htrace_schema_member m[] = {
		{ .type = (__u32)u8, AT(struct sample, tiny) },
		{ .type = (__u32)s16, AT(struct sample, small) },
		{ .type = (__u32)tid, AT(struct sample, pid) },
		{ .type = (__u32)u64, AT(struct sample, big) },
		{ .type = (__u32)s64, .bit_off = bits, .bit_size = 12, .name = "low" },
		{ .type = (__u32)s64, .bit_off = bits + 12, .bit_size = 52, .name = "high" },
		{ .type = (__u32)state, AT(struct sample, state) },
		{ .type = (__u32)htrace_builder_string(b, 8), AT(struct sample, comm) },
		{ .type = (__u32)htrace_builder_array(b, row, 2), AT(struct sample, grid) },
		{ .type = (__u32)u, AT(struct sample, u) },
		{ .type = (__u32)htrace_builder_array(b, point, 2), AT(struct sample, points) },
		{ .type = (__u32)u128, AT(struct sample, wide) },
		{ .type = (__u32)htrace_builder_string(b, 0), AT(struct sample, rest) },
	};

	return htrace_builder_struct(b, "sample", false, sizeof(struct sample), m, NR(m));
}

static struct sample *make_sample(size_t *len)
{
	struct sample *r = calloc(1, 256);

	*r = (struct sample){ .tiny = 255, .small = -2, .pid = -7, .big = ~0ULL, .low = -3,
			      .high = -(1LL << 51), .state = 2, .comm = "swapper",
			      .grid = { { 1, 2, 3 }, { 4, 5, 65535 } }, .u.word = 0x04030201,
			      .points = { { -1, 1 }, { -128, 127 } } };
	r->comm[7] = '0'; /* all 8 bytes: no NUL */
	for (int i = 0; i < 16; i++)
		r->wide[i] = (__u8)i;
	strcpy(r->rest, "the rest");
	*len = offsetof(struct sample, rest) + 8;
	return r;
}

START_TEST(test_round_trip)
{
	struct text text = { .len = 0 };
	struct htrace_schema *s;
	struct sample *r;
	size_t len;

	ck_assert_int_eq(htrace_builder_event(b, "sample", build_sample()), 1);
	s = parsed();
	r = make_sample(&len);
	ck_assert_int_eq(htrace_event_visit(htrace_schema_event(s, 1), r, len, &text_visitor,
					    &text), 0);
	ck_assert_str_eq(text.s, "tiny=255 small=-2 pid=-7 big=18446744073709551615 low=-3 "
		"high=-2251799813685248 state=RUNNING comm=\"swapper0\" grid=[[1 2 3] [4 5 65535]] "
		"u={word=67305985 bytes=[1 2 3 4]} points=[{x=-1 y=1} {x=-128 y=127}] "
		"wide=0x0f0e0d0c0b0a09080706050403020100 rest=\"the rest\"");
	free(r);
	htrace_schema_free(s);
}
END_TEST

static void no_integer(void *ctx, const char *name, const struct htrace_type *t, __u64 value)
{
	ck_abort_msg("called, though it is beyond the visitor's size");
}

/* A program of an older library has a shorter visitor; one of a newer is refused. */
START_TEST(test_visitor_sizes)
{
	struct htrace_visitor v = { .sz = offsetof(struct htrace_visitor, integer),
				    .integer = no_integer };
	struct htrace_schema *s;
	struct sample *r;
	size_t whole;

	ck_assert_int_eq(htrace_builder_event(b, "sample", build_sample()), 1);
	s = parsed();
	r = make_sample(&whole);
	ck_assert_int_eq(htrace_event_visit(htrace_schema_event(s, 1), r, whole, &v, NULL), 0);
	v.sz = 0;
	ck_assert_int_eq(htrace_event_visit(htrace_schema_event(s, 1), r, whole, &v, NULL), -EINVAL);
	v.sz = sizeof(v) + 1;
	ck_assert_int_eq(htrace_event_visit(htrace_schema_event(s, 1), r, whole, &v, NULL), -EINVAL);
	free(r);
	htrace_schema_free(s);
}
END_TEST

/* All of a record or nothing, in exactly as much memory as it has. */
START_TEST(test_short_record)
{
	static const struct htrace_visitor nothing = { .sz = sizeof(nothing) };
	struct htrace_schema *s;
	struct sample *r;
	size_t whole;

	ck_assert_int_eq(htrace_builder_event(b, "sample", build_sample()), 1);
	s = parsed();
	r = make_sample(&whole);
	for (size_t len = 0; len <= whole; len++) {
		const struct htrace_event *e = htrace_schema_event(s, 1);
		struct text text = { .len = 0 };
		bool fits = len >= offsetof(struct sample, rest);
		void *copy = malloc(len ? len : 1);
		__u64 value;
		int ret;

		memcpy(copy, r, len);
		ret = htrace_event_visit(e, copy, len, &text_visitor, &text);
		ck_assert_int_eq(ret, fits ? 0 : -EMSGSIZE);
		ck_assert_uint_eq(text.len != 0, fits);
		ck_assert_int_eq(htrace_event_visit(e, copy, len, &nothing, NULL), ret);
		ck_assert_int_eq(htrace_event_get(e, copy, len, "tiny", &value), fits);
		free(copy);
	}
	free(r);
	htrace_schema_free(s);
}
END_TEST

START_TEST(test_get)
{
	static const struct { const char *name; bool found; __s64 value; } want[] = {
		{ "tiny", true, 255 }, { "small", true, -2 }, { "pid", true, -7 },
		{ "big", true, -1 }, { "low", true, -3 }, { "high", true, -(1LL << 51) },
		{ "state", true, 2 }, { "comm", false, 0 }, { "grid", false, 0 },
		{ "u", false, 0 }, { "word", false, 0 }, { "wide", false, 0 }, { "", false, 0 },
	};
	const struct htrace_event *e;
	struct htrace_schema *s;
	struct sample *r;
	size_t len;

	ck_assert_int_eq(htrace_builder_event(b, "sample", build_sample()), 1);
	s = parsed();
	e = htrace_schema_event(s, 1);
	r = make_sample(&len);
	for (size_t i = 0; i < NR(want); i++) {
		__u64 value = 0;

		ck_assert_int_eq(htrace_event_get(e, r, len, want[i].name, &value), want[i].found);
		ck_assert_int_eq((__s64)value, want[i].value);
	}
	ck_assert_str_eq(htrace_enum_name(e->type->members[6].type, 0), "IDLE");
	ck_assert_str_eq(htrace_enum_name(e->type->members[6].type, 2), "RUNNING");
	ck_assert_str_eq(htrace_enum_name(e->type->members[6].type, ~0ULL), "DEAD");
	ck_assert_ptr_null(htrace_enum_name(e->type->members[6].type, 1));
	ck_assert_ptr_null(htrace_enum_name(e->type->members[6].type, 3));
	ck_assert_ptr_null(htrace_enum_name(e->type->members[0].type, 0));
	free(r);
	htrace_schema_free(s);
}
END_TEST

/* Bit-fields of all places and widths that a single load can have. */
START_TEST(test_bitfields)
{
	unsigned long long seed = 7;

	for (__u32 i = 0; i < 2000; i++) {
		__u32 off = unit_random(&seed) % 64, bits = 1 + unit_random(&seed) % 64;
		bool is_signed = unit_random(&seed) % 2;
		struct htrace_schema_member m = { .bit_off = off, .bit_size = bits, .name = "f" };
		__u64 words[2] = { unit_random(&seed), unit_random(&seed) }, value = 1, want;
		struct htrace_schema *s;
		int type;

		teardown();
		setup();
		m.type = (__u32)htrace_builder_int(b, "t", 8, is_signed, HTRACE_HINT_NONE);
		type = htrace_builder_struct(b, "s", false, 16, &m, 1);
		if (off % 8 + bits > 64) {
			ck_assert_int_eq(type, -EINVAL);
			continue;
		}
		ck_assert_int_eq(htrace_builder_event(b, "e", type), 1);
		s = parsed();
		ck_assert(htrace_event_get(htrace_schema_event(s, 1), words, 16, "f", &value));
		want = words[0] >> off | (off ? words[1] << (64 - off) : 0);
		if (bits < 64) {
			want &= (1ULL << bits) - 1;
			if (is_signed && want >> (bits - 1))
				want |= ~0ULL << bits;
		}
		ck_assert_uint_eq(value, want);
		htrace_schema_free(s);
	}
}
END_TEST

/* -------------------------------------------------------------------- to the end of the record */

static struct htrace_schema *build_tail(int type, __u32 size, __u32 off)
{
	int u8 = htrace_builder_int(b, "u8", 1, false, HTRACE_HINT_NONE);
	struct htrace_schema_member m[] = {
		{ .type = (__u32)u8, .name = "n" },
		{ .type = (__u32)type, .bit_off = 8 * off, .name = "tail" },
	};
	int number = htrace_builder_struct(b, "s", false, size, m, 2);

	ck_assert_int_eq(htrace_builder_event(b, "e", number), 1);
	return parsed();
}

static void expect_record(const struct htrace_schema *s, const void *payload, size_t len,
			  const char *want)
{
	void *copy = malloc(len ? len : 1);
	struct text text = { .len = 0 };

	memcpy(copy, payload, len);
	ck_assert_int_eq(htrace_event_visit(htrace_schema_event(s, 1), copy, len, &text_visitor,
					    &text), 0);
	ck_assert_str_eq(text.s, want);
	free(copy);
}

START_TEST(test_tail_string)
{
	/* The tail begins before the struct's size: where C has padding. */
	struct htrace_schema *s = build_tail(htrace_builder_string(b, 0), 8, 1);

	expect_record(s, "\1", 1, "n=1 tail=\"\"");
	expect_record(s, "\1a", 2, "n=1 tail=\"a\"");
	expect_record(s, "\1abc\0\0\0\0", 8, "n=1 tail=\"abc\"");
	expect_record(s, "\1abcdefgh", 9, "n=1 tail=\"abcdefgh\"");
	expect_record(s, "\1\0bcdefgh", 9, "n=1 tail=\"\"");
	htrace_schema_free(s);
}
END_TEST

START_TEST(test_tail_array)
{
	int elem = htrace_builder_int(b, "u32", 4, false, HTRACE_HINT_NONE);
	struct htrace_schema *s = build_tail(htrace_builder_array(b, elem, 0), 4, 4);

	expect_record(s, "\1\0\0", 4, "n=1 tail=[]");
	expect_record(s, "\1\0\0\0\2\0", 7, "n=1 tail=[]");
	expect_record(s, "\1\0\0\0\2\0\0", 8, "n=1 tail=[2]");
	expect_record(s, "\1\0\0\0\2\0\0\0\3\0\0\0\4\0", 15, "n=1 tail=[2 3]");
	htrace_schema_free(s);
}
END_TEST

START_TEST(test_empty_event)
{
	int type = htrace_builder_struct(b, "nothing", false, 0, NULL, 0);
	struct htrace_schema *s;

	ck_assert_int_eq(htrace_builder_event(b, "mark", type), 1);
	s = parsed();
	expect_record(s, "", 0, "");
	expect_record(s, "12345678", 8, "");
	htrace_schema_free(s);
}
END_TEST

/* -------------------------------------------------------------------------------- declared once */

START_TEST(test_once)
{
	struct htrace_schema_member m = { .name = "x" }, same = { .name = "x" };
	struct htrace_schema_value v = { 1, "one" }, other = { 2, "one" };
	int u32 = htrace_builder_int(b, "u32", 4, false, HTRACE_HINT_NONE), type;
	size_t len, again;

	ck_assert_int_eq(htrace_builder_int(b, "u32", 4, false, HTRACE_HINT_NONE), u32);
	ck_assert_int_ne(htrace_builder_int(b, "u32", 4, true, HTRACE_HINT_NONE), u32);
	ck_assert_int_ne(htrace_builder_int(b, "u32", 4, false, HTRACE_HINT_HEX), u32);
	ck_assert_int_ne(htrace_builder_int(b, "uint", 4, false, HTRACE_HINT_NONE), u32);
	ck_assert_int_ne(htrace_builder_int(b, NULL, 4, false, HTRACE_HINT_NONE), u32);
	type = htrace_builder_enum(b, "e", 4, false, &v, 1);
	ck_assert_int_eq(htrace_builder_enum(b, "e", 4, false, &v, 1), type);
	ck_assert_int_ne(htrace_builder_enum(b, "e", 4, false, &other, 1), type);
	m.type = same.type = (__u32)u32;
	type = htrace_builder_struct(b, "s", false, 8, &m, 1);
	/* What is behind a name's end is not part of it. */
	memset(same.name + 2, 'q', sizeof(same.name) - 2);
	same.reserved = 5;
	ck_assert_int_eq(htrace_builder_struct(b, "s", false, 8, &same, 1), type);
	same.bit_off = 8;
	ck_assert_int_ne(htrace_builder_struct(b, "s", false, 8, &same, 1), type);
	ck_assert_int_ne(htrace_builder_struct(b, "s", true, 8, &m, 1), type);
	ck_assert_int_eq(htrace_builder_event(b, "ev", type), 1);
	htrace_builder_entries(b, &len);
	ck_assert_int_eq(htrace_builder_event(b, "ev", type), 1);
	ck_assert_int_eq(htrace_builder_struct(b, "s", false, 8, &m, 1), type);
	htrace_builder_entries(b, &again);
	ck_assert_uint_eq(again, len);
	ck_assert_int_eq(htrace_builder_event(b, "ev", type + 1), -EEXIST);
	ck_assert_ptr_nonnull(strstr(htrace_builder_error(b), "'ev' exists already"));
	ck_assert_int_eq(htrace_builder_event(b, "ev2", type), 2);
	htrace_schema_free(parsed());
}
END_TEST

/* A new agent in a session that goes on: same events, same ids; only what is new is appended. */
START_TEST(test_adopted)
{
	struct htrace_schema *s;
	const void *entries;
	size_t old_len, len;
	char *all, err[256];

	ck_assert_int_eq(htrace_builder_event(b, "sample", build_sample()), 1);
	entries = htrace_builder_entries(b, &old_len);
	all = malloc(2 * old_len);
	memcpy(all, entries, old_len);
	teardown();
	ck_assert_int_eq(htrace_builder_new(&b, all, old_len), 0);
	ck_assert_int_eq(htrace_builder_event(b, "sample", build_sample()), 1);
	htrace_builder_entries(b, &len);
	ck_assert_uint_eq(len, 0);
	ck_assert_int_eq(htrace_builder_event(b, "another", build_sample()), 2);
	entries = htrace_builder_entries(b, &len);
	ck_assert_uint_eq(len, sizeof(struct htrace_schema_event));
	memcpy(all + old_len, entries, len);
	ck_assert_int_eq(htrace_schema_parse(&s, all, old_len + len, err, sizeof(err)), 0);
	ck_assert_ptr_eq(htrace_schema_event(s, 1)->type, htrace_schema_event(s, 2)->type);
	htrace_schema_free(s);
	teardown();
	ck_assert_int_eq(htrace_builder_new(&b, all, old_len - 8), -EINVAL);
	ck_assert_ptr_null(b);
	free(all);
}
END_TEST

/* ------------------------------------------------------------------------------------ mistakes */

static void expect_mistake(int ret, const char *why)
{
	ck_assert_int_eq(ret, -EINVAL);
	ck_assert_msg(strstr(htrace_builder_error(b), why) != NULL, "'%s' does not say '%s'",
		      htrace_builder_error(b), why);
}

START_TEST(test_mistakes)
{
	char name[HTRACE_NAME_MAX + 1] = { 0 };
	struct htrace_schema_member m = { .type = 1, .name = "1" };
	struct htrace_schema_value v = { 1, "a b" };
	size_t before, after;

	memset(name, 'n', HTRACE_NAME_MAX);
	ck_assert_int_eq(htrace_builder_int(b, "u64", 8, false, HTRACE_HINT_NONE), 1);
	ck_assert_int_eq(htrace_builder_struct(b, "s", false, 0, NULL, 0), 2);
	htrace_builder_entries(b, &before);
	expect_mistake(htrace_builder_int(b, "a b", 4, false, HTRACE_HINT_NONE), "name of");
	expect_mistake(htrace_builder_int(b, name, 4, false, HTRACE_HINT_NONE), "longer than 63");
	expect_mistake(htrace_builder_int(b, "u24", 3, false, HTRACE_HINT_NONE), "size 3");
	expect_mistake(htrace_builder_enum(b, "e", 4, false, &v, 1), "name of value 0");
	memset(v.name, 'n', sizeof(v.name));
	expect_mistake(htrace_builder_enum(b, "e", 4, false, &v, 1), "item 0 is longer than 63");
	ck_assert_int_eq(htrace_builder_enum(b, "e", 4, false, &v, ~0u), -ENOSPC);
	expect_mistake(htrace_builder_array(b, 0, 1), "no type 0");
	expect_mistake(htrace_builder_array(b, -EINVAL, 1), "no type -22");
	expect_mistake(htrace_builder_array(b, 3, 1), "no type 3");
	expect_mistake(htrace_builder_array(b, 1, 1 << 29), "array of 4294967296 bytes");
	expect_mistake(htrace_builder_array(b, 2, 0), "elements are empty");
	expect_mistake(htrace_builder_string(b, HTRACE_REC_MAX + 1), "larger than a record");
	expect_mistake(htrace_builder_struct(b, "s", false, 8, &m, 1), "name of member 0");
	memset(m.name, 'n', sizeof(m.name));
	expect_mistake(htrace_builder_struct(b, "s", false, 8, &m, 1), "item 0 is longer than 63");
	expect_mistake(htrace_builder_event(b, "not-a-name", 2), "event's name");
	expect_mistake(htrace_builder_event(b, NULL, 2), "event's name");
	expect_mistake(htrace_builder_event(b, name, 2), "longer than 63");
	expect_mistake(htrace_builder_event(b, "e", 1), "no struct");
	expect_mistake(htrace_builder_event(b, "e", 3), "no struct");
	expect_mistake(htrace_builder_event(b, "e", -EINVAL), "no struct");
	/* Nothing of it was left behind. */
	htrace_builder_entries(b, &after);
	ck_assert_uint_eq(after, before);
	ck_assert_int_eq(htrace_builder_event(b, "e", 2), 1);
	htrace_schema_free(parsed());
}
END_TEST

START_TEST(test_full)
{
	struct htrace_schema_value *v = calloc(200000, sizeof(*v));
	char name[16];

	for (int i = 0; i < 200000; i++) {
		v[i].value = i;
		strcpy(v[i].name, "v");
	}
	ck_assert_int_eq(htrace_builder_enum(b, "large", 4, false, v, 200000), 1);
	ck_assert_int_eq(htrace_builder_enum(b, "more", 4, false, v, 200000), -ENOSPC);
	for (int i = 2; i <= HTRACE_MAX_TYPES / 8; i++) {
		snprintf(name, sizeof(name), "t%d", i);
		ck_assert_int_eq(htrace_builder_int(b, name, 4, false, HTRACE_HINT_NONE), i);
	}
	free(v);
	htrace_schema_free(parsed());
}
END_TEST

START_TEST(test_ids_used_up)
{
	struct {
		struct htrace_schema_type t;
		struct htrace_schema_event e;
	} old = {
		.t = { .entry = { HTRACE_SCHEMA_TYPE, 0, sizeof(old.t) }, .type = 1,
		       .kind = HTRACE_TYPE_STRUCT },
		.e = { .entry = { HTRACE_SCHEMA_EVENT, 0, sizeof(old.e) }, .id = 59999, .type = 1,
		       .name = "last" },
	};

	teardown();
	ck_assert_int_eq(htrace_builder_new(&b, &old, sizeof(old)), 0);
	ck_assert_int_eq(htrace_builder_event(b, "a", 1), 60000);
	ck_assert_int_eq(htrace_builder_event(b, "b", 1), -ENOSPC);
	ck_assert_int_eq(htrace_builder_event(b, "last", 1), 59999);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("schema-build");
	TCase *t = tcase_create("build");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_test(t, test_round_trip);
	tcase_add_test(t, test_visitor_sizes);
	tcase_add_test(t, test_short_record);
	tcase_add_test(t, test_get);
	tcase_add_test(t, test_bitfields);
	tcase_add_test(t, test_tail_string);
	tcase_add_test(t, test_tail_array);
	tcase_add_test(t, test_empty_event);
	tcase_add_test(t, test_once);
	tcase_add_test(t, test_adopted);
	tcase_add_test(t, test_mistakes);
	tcase_add_test(t, test_full);
	tcase_add_test(t, test_ids_used_up);
	suite_add_tcase(s, t);
	return unit_run(s);
}
