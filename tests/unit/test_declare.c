/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Events declared in C: the same as from BTF, and what is refused. */
#include <errno.h>
#include <limits.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/btf.h>
#include <htrace/declare.h>

#include "declared.h"
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

static void describe_event(struct text *text, __u32 id)
{
	struct htrace_schema *s = parsed();

	describe(text, htrace_schema_event(s, id)->type);
	htrace_schema_free(s);
}

/* An enum without its values' names is an integer; all else is as BTF tells it. */
START_TEST(test_as_btf)
{
	const char *path = getenv("HTRACE_TEST_BTF");
	struct text mine = { .len = 0 }, compiled = { .len = 0 };
	char err[256] = "", *at;
	struct btf *btf;
	int id;

	if (!path)
		ck_abort_msg("HTRACE_TEST_BTF must name btf_events.bpf.o, as meson test sets it");
	id = declare(b);
	ck_assert_msg(id == 1, "%s", htrace_builder_error(b));
	describe_event(&mine, 1);
	teardown();
	setup();
	btf = btf__parse(path, NULL);
	ck_assert_ptr_nonnull(btf);
	id = btf__find_by_name_kind(btf, "declared", BTF_KIND_STRUCT);
	ck_assert_int_gt(id, 0);
	id = htrace_builder_btf_event(b, btf, "declared", (__u32)id, err, sizeof(err));
	ck_assert_msg(id == 1, "%s", err);
	btf__free(btf);
	describe_event(&compiled, 1);
	/* A plain char is signed for BPF, and as the machine has it for us: on arm64 it is not. */
	at = strstr(compiled.s, "letter@0 s1c");
	ck_assert_ptr_nonnull(at);
	at[9] = CHAR_MIN < 0 ? 's' : 'u';
	at = strstr(compiled.s, "number@52 ");
	ck_assert_ptr_nonnull(at);
	memmove(at + 12, strchr(at, ')') + 1, strlen(strchr(at, ')')));
	memcpy(at, "number@52 u4", 12);
	at = strstr(compiled.s, "tid@56 s4"); /* C has no type for it */
	ck_assert_ptr_nonnull(at);
	memmove(at + 10, at + 9, strlen(at + 9) + 1);
	at[9] = 't';
	ck_assert_str_eq(mine.s, compiled.s);
	ck_assert_ptr_nonnull(strstr(mine.s, "wide@32 s16, shade@48 eu4 shade(PALE=0 DIM=5 "
				     "DARK=2147483647), number@52 u4, tid@56 s4t, where@64 u8p, "));
}
END_TEST

START_TEST(test_decoded)
{
	struct declared *r = calloc(1, sizeof(*r) + 16);
	struct text text = { .len = 0 };
	struct htrace_schema *s;

	ck_assert_int_eq(declare(b), 1);
	r->letter = 'x', r->tiny = -1, r->octet = 255, r->yes = 1, r->s16 = -16, r->u16 = 16;
	r->s32 = -32, r->u32 = 32, r->s64 = -64, r->u64 = ~0ULL, r->wide = 0xabcdef;
	r->shade = DIM, r->number = DARK, r->tid = 1234, r->where = (void *)0xfff0;
	r->pointer = (void *)0x10, r->three = 7, r->five = -16, r->many = 1ULL << 40, r->flag = 1;
	strcpy(r->comm, "bash");
	memcpy(r->mac, (char[]){ 1, 2, 3, 4, 5, 6 }, 6);
	r->counts[2] = -3, r->frames[1] = (void *)0x20, r->spots[1].y = -4, r->spot.x = 9;
	r->word.whole = 0x0102, r->last = -7;
	strcpy(r->rest, "/etc/passwd");
	s = parsed();
	ck_assert_int_eq(htrace_event_visit(htrace_schema_event(s, 1), r, sizeof(*r) + 8,
					    &text_visitor, &text), 0);
	htrace_schema_free(s);
	ck_assert_str_eq(text.s, "letter=120 tiny=-1 octet=255 yes=1 s16=-16 u16=16 s32=-32 u32=32 "
		"s64=-64 u64=18446744073709551615 wide=0x00000000000000000000000000abcdef shade=DIM "
		"number=2147483647 tid=1234 where=65520 pointer=16 fixed=0 three=7 five=-16 "
		"many=1099511627776 flag=1 comm=\"bash\" mac=[1 2 3 4 5 6] counts=[0 0 -3] "
		"frames=[0 32] spots=[{x=0 y=0} {x=0 y=-4}] spot={x=9 y=0} "
		"word={whole=258 bytes=[2 1 0 0]} last=-7 rest=\"/etc/passwd\"");
	free(r);
}
END_TEST

struct stack {
	int id;
	const void *frames[];
};

START_TEST(test_rest)
{
	static const struct htrace_field fields[] = {
		HTRACE_FIELD(struct stack, id),
		HTRACE_FIELD_REST(struct stack, frames),
	};
	static const struct htrace_struct stack = HTRACE_STRUCT(struct stack, fields);
	struct text text = { .len = 0 };

	ck_assert_int_eq(htrace_builder_declare(b, "stack", &stack), 1);
	describe_event(&text, 1);
	ck_assert_str_eq(text.s, "stack{8: id@0 s4, frames@8 [0]u8p}");
	/* again: the same; of another name: another event of the same type */
	ck_assert_int_eq(htrace_builder_declare(b, "stack", &stack), 1);
	ck_assert_int_eq(htrace_builder_declare(b, "other", &stack), 2);
	ck_assert_int_eq(htrace_builder_declare(b, "stack", &spot), -EEXIST);
}
END_TEST

/* Typedefs and anonymous types: a name that is none is left out. */
START_TEST(test_names)
{
	typedef struct {
		int a;
	} plain_t;
	static const struct htrace_field fields[] = {
		HTRACE_FIELD_AS(plain_t, a, HTRACE_HINT_HEX),
	};
	static const struct htrace_struct one = HTRACE_STRUCT(plain_t, fields);
	static const struct htrace_struct two = HTRACE_STRUCT(__typeof__(plain_t), fields);
	struct text text = { .len = 0 };

	ck_assert_int_eq(htrace_builder_declare(b, "one", &one), 1);
	ck_assert_int_eq(htrace_builder_declare(b, "two", &two), 2);
	describe_event(&text, 1);
	describe_event(&text, 2);
	ck_assert_str_eq(text.s, "plain_t{4: a@0 s4x}{4: a@0 s4x}");
}
END_TEST

/* ---------------------------------------------------------------------------------- refusals */

static void expect_refused(const struct htrace_struct *s, const char *why)
{
	ck_assert_int_eq(htrace_builder_declare(b, "event", s), -EINVAL);
	ck_assert_str_eq(htrace_builder_error(b), why);
	htrace_schema_free(parsed());
}

START_TEST(test_refused)
{
	static const struct htrace_field swapped[] = {
		HTRACE_FIELD(struct spot, y), HTRACE_FIELD(struct spot, x),
	};
	static const struct htrace_field twice[] = {
		HTRACE_FIELD(struct spot, x), HTRACE_FIELD(struct spot, x),
	};
	static const struct htrace_field path[] = { HTRACE_FIELD(struct declared, spot.x) };
	static const struct htrace_field wrong[] = {
		HTRACE_FIELD_STRUCT(struct declared, comm, spot),
	};
	static const struct htrace_field pointer[] = {
		HTRACE_FIELD_ENUM(struct declared, where, shade),
	};
	static const struct htrace_field early[] = {
		HTRACE_FIELD_REST_TEXT(struct declared, rest), HTRACE_FIELD(struct declared, last),
	};
	struct htrace_struct s = HTRACE_STRUCT(struct spot, swapped);
	struct htrace_field odd = spot_fields[0];

	expect_refused(&s, "event 'event': member 'x' overlaps the one before");
	s = (struct htrace_struct)HTRACE_STRUCT(struct spot, twice);
	expect_refused(&s, "event 'event': member 'x' overlaps the one before");
	s = (struct htrace_struct)HTRACE_STRUCT(struct declared, path);
	expect_refused(&s, "event 'event': the name of member 0 is not allowed");
	s = (struct htrace_struct)HTRACE_STRUCT(struct declared, wrong);
	expect_refused(&s, "event 'event': member 'comm': it has 16 bytes, but is described as 'struct spot' of 4");
	s = (struct htrace_struct)HTRACE_STRUCT(struct declared, pointer);
	expect_refused(&s, "event 'event': member 'where': it is a pointer, no enum");
	s = (struct htrace_struct)HTRACE_STRUCT(struct declared, early);
	expect_refused(&s, "event 'event': member 'rest' reaches to the end of the record, which only the last of "
			   "an event's struct may");
	s = (struct htrace_struct)HTRACE_STRUCT(struct spot, spot_fields);
	s.sz += 8;
	expect_refused(&s, "event 'event': it is described for another library than 0.1.0");
	s.sz -= 8;
	s.field_size = 8;
	expect_refused(&s, "event 'event': it is described for another library than 0.1.0");
	s.field_size = sizeof(odd);
	s.fields = &odd;
	s.nr_fields = 1;
	odd.form = 99;
	expect_refused(&s, "event 'event': member 'x': unknown form 99: a newer htrace/declare.h?");
	ck_assert_int_eq(htrace_builder_declare(b, "no name", &spot), -EINVAL);
	ck_assert_str_eq(htrace_builder_error(b), "the event's name is not allowed");
}
END_TEST

/* A description that contains itself, which no compiler stops. */
START_TEST(test_endless)
{
	static struct htrace_struct s;
	static struct htrace_field fields[] = { HTRACE_FIELD_STRUCT(struct declared, spot, s) };

	s = (struct htrace_struct)HTRACE_STRUCT(struct declared, fields);
	s.size = sizeof(struct spot);
	ck_assert_int_eq(htrace_builder_declare(b, "event", &s), -EINVAL);
	ck_assert_ptr_nonnull(strstr(htrace_builder_error(b), "nested deeper than 8"));
}
END_TEST

/* Into a region: a reader finds it, each id once. */
START_TEST(test_region)
{
	struct htrace_region_opts o = { .sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL,
					.policy = HTRACE_OVERWRITE, .kind = HTRACE_RING_PER_THREAD,
					.nr_rings = 1 };
	__u64 generation = 0;
	struct htrace_region *r;
	struct htrace_schema *s;
	struct htrace_view *v;
	char err[256] = "";
	size_t len;
	void *buf;
	int fd;

	ck_assert_int_eq(htrace_region_create_local(&r, NULL, 1 << 20, &o, &fd), 0);
	ck_assert_int_eq(htrace_region_declare(r, "spot", &spot, err, sizeof(err)), 1);
	ck_assert_int_eq(htrace_region_declare(r, "word", &word, err, sizeof(err)), -EINVAL);
	ck_assert_str_eq(err, "event 'word': it is a union, no struct");
	ck_assert_int_eq(htrace_region_declare(r, "second", &spot, err, sizeof(err)), 2);
	ck_assert_int_eq(htrace_region_declare(r, "spot", &spot, NULL, 0), 1);
	htrace_region_publish(r);
	ck_assert_int_eq(htrace_view_open_fd(&v, fd, false, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_schema(v, &generation, &buf, &len), 1);
	ck_assert_int_eq(htrace_schema_parse(&s, buf, len, err, sizeof(err)), 0);
	ck_assert_uint_eq(htrace_schema_nr_events(s), 2);
	ck_assert_str_eq(htrace_schema_event(s, 2)->name, "second");
	ck_assert_str_eq(htrace_schema_event(s, 1)->type->name, "spot");
	htrace_schema_free(s);
	free(buf);
	htrace_view_close(v);
	for (int i = 0, id = 1; id > 0; i++) { /* until the area is full */
		char name[32];

		snprintf(name, sizeof(name), "event_%d", i);
		id = htrace_region_declare(r, name, &spot, err, sizeof(err));
		if (id < 0)
			ck_assert_int_eq(id, -ENOSPC);
	}
	ck_assert_ptr_nonnull(strstr(err, "no room in the region's schema area"));
	htrace_region_release(r);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("declare");
	TCase *t = tcase_create("declare");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_as_btf);
	tcase_add_test(t, test_decoded);
	tcase_add_test(t, test_rest);
	tcase_add_test(t, test_names);
	tcase_add_test(t, test_refused);
	tcase_add_test(t, test_endless);
	tcase_add_test(t, test_region);
	suite_add_tcase(s, t);
	return unit_run(s);
}
