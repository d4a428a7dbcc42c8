// SPDX-License-Identifier: LGPL-2.1-or-later
/* Events from BTF: what compilers make, what libbpf can make, and what cannot be recorded. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/btf.h>

#include "btf_events.h"
#include "schema_text.h"
#include "unit.h"

static struct htrace_schema_builder *b;
static struct btf *btf;
/* Types that every test may use. */
static int s32, u64, c8;

static void setup(void)
{
	ck_assert_int_eq(htrace_builder_new(&b, NULL, 0), 0);
	btf = btf__new_empty();
	ck_assert_ptr_nonnull(btf);
	s32 = btf__add_int(btf, "int", 4, BTF_INT_SIGNED);
	u64 = btf__add_int(btf, "long unsigned int", 8, 0);
	c8 = btf__add_int(btf, "char", 1, BTF_INT_SIGNED);
}

static void teardown(void)
{
	htrace_builder_free(b);
	btf__free(btf);
}

static int add_array(int elem, __u32 nr)
{
	return btf__add_array(btf, s32, elem, nr);
}

struct field {
	const char *name;
	int type;
	__u32 bit_off, bits;
};

static int add_struct(int kind, const char *name, __u32 size, const struct field *f, size_t nr)
{
	int id = kind == BTF_KIND_UNION ? btf__add_union(btf, name, size) :
					  btf__add_struct(btf, name, size);

	for (size_t i = 0; i < nr; i++)
		ck_assert_int_eq(btf__add_field(btf, f[i].name, f[i].type, f[i].bit_off, f[i].bits),
				 0);
	return id;
}

/* The fields' types are evaluated first, so they may be made in place. */
#define FIELDS(...) \
	(const struct field[]){ __VA_ARGS__ }, \
	sizeof((const struct field[]){ __VA_ARGS__ }) / sizeof(struct field)
#define STRUCT(name, size, ...) add_struct(BTF_KIND_STRUCT, name, size, FIELDS(__VA_ARGS__))
#define UNION(name, size, ...) add_struct(BTF_KIND_UNION, name, size, FIELDS(__VA_ARGS__))

static struct htrace_schema *parsed(void)
{
	struct htrace_schema *s;
	char err[256] = "";
	const void *entries;
	size_t len;

	entries = htrace_builder_entries(b, &len);
	ck_assert_msg(!htrace_schema_parse(&s, entries, len, err, sizeof(err)), "%s", err);
	return s;
}

static void expect(int type, const char *want)
{
	struct text text = { .len = 0 };
	struct htrace_schema *s;
	char err[256] = "";
	int id;

	id = htrace_builder_btf_event(b, btf, "event", (__u32)type, err, sizeof(err));
	ck_assert_msg(id > 0, "%s", err);
	s = parsed();
	describe(&text, htrace_schema_event(s, (__u32)id)->type);
	ck_assert_str_eq(text.s, want);
	htrace_schema_free(s);
}

static void expect_refused(int type, const char *why)
{
	char err[256] = "";
	int ret;

	ret = htrace_builder_btf_event(b, btf, "event", (__u32)type, err, sizeof(err));
	ck_assert_int_eq(ret, -EINVAL);
	ck_assert_str_eq(err, why);
	htrace_schema_free(parsed()); /* and nothing half-made is left */
}

/* -------------------------------------------------------------------------- from the compiler */

static struct htrace_schema *compiled(const char *name, const char *want)
{
	const char *path = getenv("HTRACE_TEST_BTF");
	struct text text = { .len = 0 };
	struct htrace_schema *s;
	char err[256] = "";
	struct btf *file;
	int id;

	if (!path)
		ck_abort_msg("HTRACE_TEST_BTF must name btf_events.bpf.o, as meson test sets it");
	file = btf__parse(path, NULL);
	ck_assert_ptr_nonnull(file);
	id = btf__find_by_name_kind(file, name, BTF_KIND_STRUCT);
	ck_assert_int_gt(id, 0);
	id = htrace_builder_btf_event(b, file, name, (__u32)id, err, sizeof(err));
	ck_assert_msg(id == 1, "%s", err);
	btf__free(file);
	s = parsed();
	describe(&text, htrace_schema_event(s, 1)->type);
	ck_assert_str_eq(text.s, want);
	return s;
}

static void expect_record(const struct htrace_schema *s, const void *r, size_t len,
			  const char *want)
{
	struct text text = { .len = 0 };

	ck_assert_int_eq(htrace_event_visit(htrace_schema_event(s, 1), r, len, &text_visitor,
					    &text), 0);
	ck_assert_str_eq(text.s, want);
}

static struct everything *make_everything(void)
{
	struct everything *r = calloc(1, sizeof(*r) + 16);

	*r = (struct everything){
		.letter = 'x', .tiny = -1, .octet = 255, .yes = 1, .s16 = -16, .u16 = 16,
		.s32 = -32, .u32 = 32, .s64 = -64, .u64 = ~0ULL, .wide = 0xabcdef, .color = GREEN,
		.tid = 1234, .hex = 0xdeadbeef, .where = (void *)0xfff0, .nr = -38, .state = 2,
		.pointer = (void *)0x10, .three = 7, .five = -16, .many = 1ULL << 40, .flag = 1,
		.comm = "bash", .mac = { 1, 2, 3, 4, 5, 6 },
		.grid = { { 1, 2, 3 }, { -1, -2, -3 } }, .names = { "ab", "cdef" },
		.points = { { 1, 2 }, { 3, -4 } },
		.word = 0x00050006, .inner = 7, .innermost = 8, .named.value = 9,
	};
	strcpy(r->rest, "/etc/passwd");
	return r;
}

START_TEST(test_everything)
{
	struct everything *r = make_everything();
	struct htrace_schema *s;

	s = compiled("everything",
		"everything{192: letter@0 s1c, tiny@1 s1, octet@2 u1, yes@3 u1b, s16@4 s2, "
		"u16@6 u2, s32@8 s4, u32@12 u4, s64@16 s8, u64@24 u8, wide@32 s16, "
		"color@48 eu4 color(RED=0 GREEN=5 BLUE=2147483647), tid@52 s4t, hex@56 u8x, "
		"where@64 u8p, nr@72 s8s, state@80 u4T, pointer@88 u8p, three@96.0/3 u4, "
		"five@96.3/5 s4, many@97.0/41 u8, flag@102.1/1 u1b, comm@103 \"16\", "
		"mac@119 [6]u1, grid@128 [2][3]s4, names@152 [2]\"4\", "
		"points@160 [2]point_t{4: x@0 s2, y@2 s2}, "
		"anon_0@168 <4: word@0 u4, anon_0@0 {4: low@0 u2, high@2 u2}>, inner@172 s4, "
		"innermost@176 s4, named@180 {4: value@0 s4}, rest@184 \"0\"}");
	if (s)
		expect_record(s, r, sizeof(*r), "letter=120 tiny=-1 octet=255 yes=1 s16=-16 u16=16 "
			"s32=-32 u32=32 s64=-64 u64=18446744073709551615 "
			"wide=0x00000000000000000000000000abcdef color=GREEN tid=1234 "
			"hex=3735928559 where=65520 nr=-38 state=2 pointer=16 three=7 five=-16 "
			"many=1099511627776 flag=1 "
			"comm=\"bash\" mac=[1 2 3 4 5 6] grid=[[1 2 3] [-1 -2 -3]] "
			"names=[\"ab\" \"cdef\"] points=[{x=1 y=2} {x=3 y=-4}] "
			"anon_0={word=327686 anon_0={low=6 high=5}} inner=7 innermost=8 "
			"named={value=9} rest=\"/etc/pas\"");
	htrace_schema_free(s);
	free(r);
}
END_TEST

START_TEST(test_stack)
{
	static const __u64 r[] = { 4, 1, 2, 3 };
	struct htrace_schema *s = compiled("stack", "stack{8: id@0 s4, frames@8 [0]u8p}");

	if (s) {
		expect_record(s, r, sizeof(r), "id=4 frames=[1 2 3]");
		expect_record(s, r, sizeof(r) - 8, "id=4 frames=[1 2]");
		expect_record(s, r, sizeof(struct stack), "id=4 frames=[]");
	}
	htrace_schema_free(s);
}
END_TEST

/* --------------------------------------------------------------------------------- kinds of BTF */

START_TEST(test_enums)
{
	int e, se, big, sbig;

	e = btf__add_enum(btf, "flags", 4);
	btf__add_enum_value(btf, "HIGH", (__s64)0x80000000U);
	btf__add_enum_value(btf, "LOW", 1);
	se = btf__add_enum(btf, "answer", 1);
	btf__add_enum_value(btf, "NO", -1);
	btf__add_enum_value(btf, "YES", 1);
	big = btf__add_enum64(btf, "big", 8, false);
	btf__add_enum64_value(btf, "TOP", 1ULL << 63);
	sbig = btf__add_enum64(btf, NULL, 8, true);
	btf__add_enum64_value(btf, "MINUS", ~0ULL);
	sbig = btf__add_typedef(btf, "sbig_t", sbig);
	expect(STRUCT("s", 24, { "e", e, 0, 0 }, { "se", se, 32, 0 }, { "big", big, 64, 0 },
		      { "sbig", sbig, 128, 0 }),
	       "s{24: e@0 eu4 flags(LOW=1 HIGH=2147483648), se@4 es1 answer(NO=-1 YES=1), "
	       "big@8 eu8 big(TOP=-9223372036854775808), sbig@16 es8 sbig_t(MINUS=-1)}");
}
END_TEST

/* From compilers before clang 16: negative values of narrow types, 64-bit ones that were cut. */
START_TEST(test_old_enums)
{
	int narrow = btf__add_enum(btf, "narrow", 2), cut;
	struct btf_type *t;

	btf__add_enum_value(btf, "MINUS", (__s64)0xfffffffeU);
	t = (struct btf_type *)btf__type_by_id(btf, (__u32)narrow);
	t->info &= ~(1U << 31); /* not flagged as signed */
	cut = btf__add_enum(btf, "cut", 8);
	btf__add_enum_value(btf, "TOP", 0);
	btf__add_enum_value(btf, "ONE", 1);
	expect(STRUCT("s", 16, { "narrow", narrow, 0, 0 }, { "cut", cut, 64, 0 }),
	       "s{16: narrow@0 eu2 narrow(MINUS=65534), cut@8 eu8 cut()}");
}
END_TEST

/* The first typedef that says something counts; qualifiers and tags say nothing. */
START_TEST(test_hints)
{
	int t, tagged, hex;

	t = btf__add_typedef(btf, "other_t", btf__add_typedef(btf, "htrace_ptr_t", u64));
	t = btf__add_restrict(btf, btf__add_volatile(btf, btf__add_const(btf, t)));
	tagged = btf__add_type_tag(btf, "user", t);
	hex = btf__add_typedef(btf, "htrace_hex_t", tagged);
	expect(STRUCT("s", 40, { "a", tagged, 0, 0 }, { "b", hex, 64, 0 },
		      { "c", btf__add_typedef(btf, "htrace_hex_t", add_array(u64, 2)), 128, 0 },
		      { "d", btf__add_typedef(btf, "htrace_hex_t", add_array(c8, 2)), 256, 0 },
		      { "e", btf__add_typedef(btf, "byte_t", c8), 272, 0 }),
	       "s{40: a@0 u8p, b@8 u8x, c@16 [2]u8x, d@32 [2]s1x, e@34 s1c}");
}
END_TEST

/* Old compilers put bit-fields into integer types of their own. */
START_TEST(test_old_bitfields)
{
	struct btf_type *t;
	int three, five;

	three = btf__add_int(btf, "int", 4, BTF_INT_SIGNED);
	t = (struct btf_type *)btf__type_by_id(btf, (__u32)three);
	*(__u32 *)(t + 1) = BTF_INT_SIGNED << 24 | 3;
	five = btf__add_int(btf, "int", 4, BTF_INT_SIGNED);
	t = (struct btf_type *)btf__type_by_id(btf, (__u32)five);
	*(__u32 *)(t + 1) = BTF_INT_SIGNED << 24 | 3 << 16 | 5;
	expect(STRUCT("s", 8, { "a", s32, 0, 0 }, { "b", three, 32, 0 }, { "c", five, 32, 0 }),
	       "s{8: a@0 s4, b@4.0/3 s4, c@4.3/5 s4}");
}
END_TEST

START_TEST(test_new_bitfields)
{
	expect(STRUCT("s", 8, { "a", s32, 0, 31 }, { NULL, s32, 31, 1 }, { "b", s32, 33, 2 }),
	       "s{8: a@0.0/31 s4, b@4.1/2 s4}");
}
END_TEST

/* Anonymous: structs in structs and unions in unions dissolve, the others get names. */
START_TEST(test_anonymous)
{
	int in_u = UNION(NULL, 8, { "p", s32, 0, 0 }, { "q", u64, 0, 0 });
	int u = UNION(NULL, 8, { "o", s32, 0, 0 }, { NULL, in_u, 0, 0 });
	int in_s = STRUCT(NULL, 8, { "x", s32, 0, 0 }, { "y", s32, 32, 5 });
	int mid = STRUCT(NULL, 16, { NULL, in_s, 0, 0 }, { "z", s32, 64, 0 });

	expect(STRUCT("s", 40, { "a", s32, 0, 0 }, { NULL, mid, 32, 0 }, { NULL, u, 192, 0 },
		      { NULL, u, 256, 0 }),
	       "s{40: a@0 s4, x@4 s4, y@8.0/5 s4, z@12 s4, anon_0@24 <8: o@0 s4, p@0 s4, q@0 u8>, "
	       "anon_1@32 <8: o@0 s4, p@0 s4, q@0 u8>}");
}
END_TEST

/* Nothing to record: left out. Of zero-length arrays only one at the very end is a flexible one. */
START_TEST(test_no_size)
{
	int empty = add_struct(BTF_KIND_STRUCT, "empty", 0, NULL, 0);
	int flex = add_array(c8, 0);

	expect(STRUCT("s", 8, { "mark", flex, 0, 0 }, { "a", s32, 0, 0 }, { "e", empty, 32, 0 },
		      { "es", add_array(empty, 3), 32, 0 }, { "b", s32, 32, 0 },
		      { "ff", add_array(add_array(s32, 0), 4), 64, 0 },
		      { "fe", add_array(empty, 0), 64, 0 }),
	       "s{8: a@0 s4, b@4 s4}");
	htrace_builder_free(b);
	ck_assert_int_eq(htrace_builder_new(&b, NULL, 0), 0);
	expect(empty, "empty{0:}");
}
END_TEST

START_TEST(test_flexible)
{
	int tail = STRUCT(NULL, 4, { "n", s32, 0, 0 }, { "d", add_array(s32, 0), 32, 0 });

	expect(STRUCT("s", 8, { "a", s32, 0, 0 }, { NULL, tail, 32, 0 }),
	       "s{8: a@0 s4, n@4 s4, d@8 [0]s4}");
}
END_TEST

/* Members in front of the struct's own, which may end in an array without a length. */
START_TEST(test_behind)
{
	int id64 = htrace_builder_int(b, "id", 8, false, HTRACE_HINT_STACK_USER), id;
	struct htrace_schema_member front[2] = {
		{ .type = (__u32)id64, .name = "one" },
		{ .type = (__u32)id64, .bit_off = 64, .name = "two" },
	};
	int st = STRUCT("s", 8, { "x", s32, 0, 0 }, { "bits", s32, 35, 3 },
			{ "rest", add_array(u64, 0), 64, 0 });
	__u64 payload[5] = { 11, 22, 33 | 5ULL << 35, 44, 55 }, value;
	const struct htrace_event *e;
	struct htrace_schema *s;
	char err[256] = "";

	id = htrace_builder_btf_event_behind(b, btf, "e", (__u32)st, front, 2, err, sizeof(err));
	ck_assert_msg(id > 0, "%s", err);
	s = parsed();
	e = htrace_schema_event(s, (__u32)id);
	ck_assert_uint_eq(e->type->nr, 5);
	ck_assert_uint_eq(e->type->size, 24);
	ck_assert_int_eq(e->type->members[1].type->hint, HTRACE_HINT_STACK_USER);
	ck_assert(htrace_event_get(e, payload, sizeof(payload), "two", &value) && value == 22);
	ck_assert(htrace_event_get(e, payload, sizeof(payload), "x", &value) && value == 33);
	ck_assert(htrace_event_get(e, payload, sizeof(payload), "bits", &value) &&
		  (value & 7) == 5);
	ck_assert_uint_eq(e->type->members[4].bit_off, 192);
	ck_assert(!htrace_event_get(e, payload, 16, "x", &value)); /* too short */
	htrace_schema_free(s);
	id = htrace_builder_btf_event(b, btf, "e", (__u32)st, err, sizeof(err));
	ck_assert_int_eq(id, -EEXIST);
}
END_TEST

START_TEST(test_long_names)
{
	char name[128] = "";
	int e;

	memset(name, 'N', 100);
	e = btf__add_enum(btf, name, 4);
	btf__add_enum_value(btf, name, 1);
	memset(name, 'S', 100);
	expect(STRUCT(name, 4, { "e", e, 0, 0 }),
	       "SSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSSS{4: e@0 eu4 "
	       "NNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNN("
	       "NNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNNN=1)}");
}
END_TEST

/* Through a typedef; again: the same event; of other contents: not under the same name. */
START_TEST(test_event_again)
{
	int st = STRUCT("s", 4, { "a", s32, 0, 0 }), other = STRUCT("s", 8, { "a", u64, 0, 0 });
	int alias = btf__add_typedef(btf, "s_t", btf__add_const(btf, st));
	char err[256];

	ck_assert_int_eq(htrace_builder_btf_event(b, btf, "e", (__u32)alias, err, 256), 1);
	ck_assert_int_eq(htrace_builder_btf_event(b, btf, "e", (__u32)st, NULL, 0), 1);
	ck_assert_int_eq(htrace_builder_btf_event(b, btf, "e", (__u32)other, err, 256), -EEXIST);
	ck_assert_str_eq(err, "event 'e': event 'e' exists already with other fields");
	ck_assert_int_eq(htrace_builder_btf_event(b, btf, "f", (__u32)other, err, 256), 2);
	htrace_schema_free(parsed());
}
END_TEST

/* ------------------------------------------------------------------------------------ refusals */

START_TEST(test_not_a_struct)
{
	expect_refused(0, "event 'event': void cannot be recorded");
	expect_refused(999, "event 'event': its type is not in the BTF");
	expect_refused(s32, "event 'event': its type 'int' is not a struct");
	expect_refused(UNION("u", 4, { "a", s32, 0, 0 }),
		       "event 'event': its type 'u' is not a struct");
}
END_TEST

START_TEST(test_unrecordable)
{
	int fl = btf__add_float(btf, "double", 8), fwd = btf__add_fwd(btf, "task", BTF_FWD_STRUCT);
	int st, func = btf__add_func_proto(btf, 0);

	expect_refused(STRUCT("s", 8, { "d", fl, 0, 0 }),
		       "event 'event': member 'd': floating point ('double') cannot be recorded; "
		       "store it as an integer");
	st = STRUCT("in", 8, { "d", add_array(fl, 1), 0, 0 });
	expect_refused(STRUCT("s", 8, { "in", st, 0, 0 }),
		       "event 'event': member 'in.d[]': floating point ('double') cannot be "
		       "recorded; store it as an integer");
	expect_refused(STRUCT("s", 8, { "t", fwd, 0, 0 }),
		       "event 'event': member 't': 'task' is declared, but not defined");
	expect_refused(STRUCT("s", 8, { "v", 0, 0, 0 }),
		       "event 'event': member 'v': void cannot be recorded");
	expect_refused(STRUCT("s", 8, { "f", func, 0, 0 }),
		       "event 'event': member 'f': types of BTF kind 13 cannot be recorded");
}
END_TEST

START_TEST(test_flexible_inside)
{
	int tail = STRUCT("in", 4, { "n", s32, 0, 0 }, { "d", add_array(c8, 0), 32, 0 });

	expect_refused(STRUCT("s", 4, { "in", tail, 0, 0 }),
		       "event 'event': member 'in' reaches to the end of the record, which only "
		       "the last of an event's struct may");
	expect_refused(STRUCT("s", 8, { "u", UNION("u", 4, { "n", s32, 0, 0 },
						   { "d", add_array(c8, 0), 0, 0 }), 0, 0 }),
		       "event 'event': member 'u': member 'd' reaches to the end of the record, "
		       "which only the last of an event's struct may");
	expect_refused(STRUCT("s", 0, { "d", add_array(add_array(s32, 0), 0), 0, 0 },
			      { "e", add_array(tail, 2), 0, 0 }),
		       "event 'event': member 'e': its elements reach to the end of the record");
}
END_TEST

START_TEST(test_too_large)
{
	int st;

	expect_refused(STRUCT("s", 80000, { "a", add_array(s32, 20000), 0, 0 }),
		       "event 'event': member 'a': an array of 80000 bytes is larger than a "
		       "record");
	expect_refused(STRUCT("s", 80000, { "a", add_array(c8, 80000), 0, 0 }),
		       "event 'event': member 'a': size 80000 is larger than a record");
	expect_refused(STRUCT("s", 80000, { "a", s32, 0, 0 }),
		       "event 'event': size 80000 is larger than a record");
	st = STRUCT(NULL, 16, { "a", s32, 0xffffffc0, 0 });
	expect_refused(STRUCT("s", 16, { NULL, st, 64, 0 }),
		       "event 'event': member 'a': it lies beyond the largest record");
}
END_TEST

START_TEST(test_long_member_name)
{
	char name[65] = "", want[256];

	memset(name, 'm', 64);
	snprintf(want, sizeof(want), "event 'event': member '%s': the name is longer than 63",
		 name);
	expect_refused(STRUCT("s", 4, { name, s32, 0, 0 }), want);
}
END_TEST

START_TEST(test_too_deep)
{
	int st = STRUCT("s", 4, { "a", s32, 0, 0 });

	for (int i = 1; i < HTRACE_MAX_DEPTH; i++)
		st = STRUCT("s", 4, { "a", st, 0, 0 });
	ck_assert_int_gt(htrace_builder_btf_event(b, btf, "deep", (__u32)st, NULL, 0), 0);
	expect_refused(STRUCT("s", 4, { "b", st, 0, 0 }),
		       "event 'event': nested deeper than 8");
	for (int i = 0; i < 100; i++)
		st = STRUCT("s", 4, { "a", st, 0, 0 });
	expect_refused(st, "event 'event': member 'a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a': nested deeper "
			   "than 8");
}
END_TEST

/* BTF that no compiler makes: types that lead back to themselves. */
START_TEST(test_loops)
{
	int id = (int)btf__type_cnt(btf), st;

	st = btf__add_typedef(btf, "loop_t", id);
	ck_assert_int_eq(st, id);
	expect_refused(STRUCT("s", 4, { "a", st, 0, 0 }),
		       "event 'event': member 'a': a chain of more than 32 typedefs");
	id = (int)btf__type_cnt(btf);
	expect_refused(STRUCT("s", 4, { "a", id, 0, 0 }), "event 'event': member "
		       "'a.a.a.a.a.a.a.a.a.a.a.a.a.a.a.a': nested deeper than 8");
	id = (int)btf__type_cnt(btf);
	add_array(id, 1);
	expect_refused(STRUCT("s", 4, { "a", id, 0, 0 }), "event 'event': member "
		       "'a[][][][][][][][][][][][][][][][][][][][][][][][][][][][][][]': "
		       "nested deeper than 8");
}
END_TEST

/* Each level has the one below twice: 2^30 members, which nobody waits for. */
START_TEST(test_explosion)
{
	int st = STRUCT("s", 1, { "a", c8, 0, 0 });
	char err[256];

	for (int i = 0; i < 14; i++)
		st = STRUCT(NULL, 2, { NULL, st, 0, 0 }, { NULL, st, 0, 0 }, { NULL, st, 0, 0 },
			    { NULL, st, 0, 0 });
	st = STRUCT("s", 2, { NULL, st, 0, 0 });
	ck_assert_int_eq(htrace_builder_btf_event(b, btf, "e", (__u32)st, err, 256), -EINVAL);
	ck_assert_msg(strstr(err, "the event has too many members") != NULL, "%s", err);
}
END_TEST

static void add_refusals(Suite *s)
{
	TCase *t = tcase_create("refused");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_not_a_struct);
	tcase_add_test(t, test_unrecordable);
	tcase_add_test(t, test_flexible_inside);
	tcase_add_test(t, test_too_large);
	tcase_add_test(t, test_long_member_name);
	tcase_add_test(t, test_too_deep);
	tcase_add_test(t, test_loops);
	tcase_add_test(t, test_explosion);
	suite_add_tcase(s, t);
}

int main(void)
{
	Suite *s = suite_create("schema-btf");
	TCase *t = tcase_create("btf");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_everything);
	tcase_add_test(t, test_stack);
	tcase_add_test(t, test_enums);
	tcase_add_test(t, test_old_enums);
	tcase_add_test(t, test_hints);
	tcase_add_test(t, test_old_bitfields);
	tcase_add_test(t, test_new_bitfields);
	tcase_add_test(t, test_anonymous);
	tcase_add_test(t, test_no_size);
	tcase_add_test(t, test_flexible);
	tcase_add_test(t, test_behind);
	tcase_add_test(t, test_long_names);
	tcase_add_test(t, test_event_again);
	suite_add_tcase(s, t);
	add_refusals(s);
	return unit_run(s);
}
