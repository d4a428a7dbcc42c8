// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * The agent's reader of tracefs' format files: files of Debian's 6.1 and 6.12 as they are, each kind
 * of declaration that these kernels have, and what nobody would write.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "../../common/tracepoint_format.h"
#include "format_text.h"
#include "schema_text.h"
#include "unit.h"

#define COMMON "name: event\nID: 314\nformat:\n" COMMON_FIELDS
#define PRINT "\nprint fmt: \"field:%s; offset:8; size:4; signed:1;\", REC->x\n"

static struct tracepoint *tp;

static void setup(void)
{
	tp = calloc(1, sizeof(*tp));
}

static void teardown(void)
{
	tracepoint_free(tp);
}

static int parse(const char *text)
{
	FILE *f = fmemopen((void *)text, strlen(text), "r");
	int ret = tracepoint_parse(tp, f);

	fclose(f);
	return ret;
}

/* The event's schema as the host will read it. */
static void expect(const char *text, const char *want)
{
	struct htrace_schema_builder *b;
	struct text got = { .len = 0 };
	struct htrace_schema *s;
	char err[256] = "";
	const void *entries;
	size_t len;

	ck_assert_int_eq(parse(text), 0);
	ck_assert_int_eq(htrace_builder_new(&b, NULL, 0), 0);
	ck_assert_msg(tracepoint_declare(tp, b, "event", NULL, 0) == 1, "%s", htrace_builder_error(b));
	entries = htrace_builder_entries(b, &len);
	ck_assert_msg(!htrace_schema_parse(&s, entries, len, err, sizeof(err)), "%s", err);
	describe(&got, htrace_schema_event(s, 1)->type);
	ck_assert_str_eq(got.s, want);
	htrace_schema_free(s);
	htrace_builder_free(b);
}

static void expect_dyn(const struct tracepoint_dyn *d, unsigned int word, unsigned int base,
		       bool is_text)
{
	ck_assert_uint_eq(d->word, word);
	ck_assert_uint_eq(d->base, base);
	ck_assert_uint_eq(d->is_text, is_text);
}

/* ---------------------------------------------------------------------------- as kernels have it */

/* 6.12 has `signed:0` for char where 6.1 has 1. */
START_TEST(test_sched_switch)
{
	expect(COMMON FIELD("char prev_comm[16]", 8, 16, 0) FIELD("pid_t prev_pid", 24, 4, 1)
	       FIELD("int prev_prio", 28, 4, 1) FIELD("long prev_state", 32, 8, 1)
	       FIELD("char next_comm[16]", 40, 16, 1) FIELD("pid_t next_pid", 56, 4, 1)
	       FIELD("int next_prio", 60, 4, 1) PRINT,
	       "event{56: prev_comm@0 \"16\", prev_pid@16 s4, prev_prio@20 s4, prev_state@24 s8, "
	       "next_comm@32 \"16\", next_pid@48 s4, next_prio@52 s4}");
	ck_assert_uint_eq(tp->config.fixed, 56);
	ck_assert_uint_eq(tp->config.size, 56);
	expect_dyn(&tp->config.last, 0, 0, false);
}
END_TEST

START_TEST(test_exec)
{
	expect(COMMON FIELD("__data_loc char[] filename", 8, 4, 1) FIELD("pid_t pid", 12, 4, 1)
	       FIELD("pid_t old_pid", 16, 4, 1) PRINT,
	       "event{16: pid@4 s4, old_pid@8 s4, filename@16 \"0\"}");
	ck_assert_uint_eq(tp->config.fixed, 12);
	ck_assert_uint_eq(tp->config.size, 16);
	expect_dyn(&tp->config.last, 8, 0, true);
}
END_TEST

START_TEST(test_arrays)
{
	expect(COMMON FIELD("long id", 8, 8, 1) FIELD("unsigned long args[6]", 16, 48, 0)
	       FIELD("__u8 src[16]", 64, 16, 0) FIELD("unsigned char mac[6]", 80, 6, 0)
	       FIELD("long times[3]", 88, 24, 1) FIELD("char name[31]", 112, 31, 1) PRINT,
	       "event{136: id@0 s8, args@8 [6]u8, src@56 [16]u1, mac@72 [6]u1, times@80 [3]s8, "
	       "name@104 \"31\"}");
}
END_TEST

START_TEST(test_pointers_and_small_ones)
{
	expect(COMMON FIELD("const char * filename", 8, 8, 0) FIELD("struct iocb * *list", 16, 8, 0)
	       FIELD("const void *const p", 24, 8, 1) FIELD("bool yes", 32, 1, 0)
	       FIELD("u16 port", 34, 2, 0) FIELD("enum lru_list lru", 36, 4, 0)
	       FIELD("umode_t mode", 40, 8, 0) FIELD("s8 tiny", 48, 1, 1) PRINT,
	       "event{48: filename@0 u8p, list@8 u8p, p@16 u8p, yes@24 u1b, port@26 u2, lru@28 u4, "
	       "mode@32 u8, tiny@40 s1}");
}
END_TEST

/* Structs by value are bytes, or an integer if they have one's size. */
START_TEST(test_structs)
{
	expect(COMMON FIELD("struct in6_addr addr", 8, 16, 0) FIELD("struct pair p", 24, 8, 0)
	       FIELD("struct odd o", 32, 12, 1) PRINT,
	       "event{40: addr@0 [16]u1, p@16 u8, o@24 [12]u1}");
}
END_TEST

/* Some in places of 64 bytes, with their size; the last text at the end. */
START_TEST(test_dynamic)
{
	expect(COMMON FIELD("__data_loc char[] first", 8, 4, 1) FIELD("__data_loc u32[] power", 12, 4, 0)
	       FIELD("__rel_loc u8[] buf", 16, 4, 0) FIELD("size_t buf_len", 24, 8, 0)
	       FIELD("__rel_loc char[] last", 32, 4, 1) PRINT,
	       "event{224: power_len@6 u2, buf_size@10 u2, buf_len@16 u8, first@32 \"64\", "
	       "power@96 [16]u4, buf@160 [64]u1, last@224 \"0\"}");
	ck_assert_uint_eq(tp->config.places, 32);
	ck_assert_uint_eq(tp->config.size, 224);
	expect_dyn(&tp->config.dyn[0], 8, 0, true);
	expect_dyn(&tp->config.dyn[1], 12, 0, false);
	expect_dyn(&tp->config.dyn[2], 16, 20, false); /* counted from behind the word */
	expect_dyn(&tp->config.last, 32, 36, true);
}
END_TEST

START_TEST(test_out_of_order)
{
	expect(COMMON FIELD("int b", 12, 4, 1) FIELD("int a", 8, 4, 1) FIELD("int gap[]", 16, 0, 1),
	       "event{8: a@0 s4, b@4 s4}");
}
END_TEST

START_TEST(test_no_fields)
{
	expect(COMMON PRINT, "event{0:}");
}
END_TEST

/* ------------------------------------------------------------------------------------- refusals */

static const struct {
	const char *text;
	int error;
} bad[] = {
	{ FIELD("int a", 8, 4, 1) FIELD("int b", 10, 4, 1), -EINVAL }, /* overlap */
	{ FIELD("int a", 8, 4, 1) FIELD("int a", 12, 4, 1), -EINVAL },
	{ FIELD("int", 8, 4, 1), -EINVAL },
	{ FIELD("int 1st", 8, 4, 1), -EINVAL },
	{ FIELD("int a;b", 8, 4, 1), -EINVAL },
	{ FIELD("int a-b", 8, 4, 1), -EINVAL },
	{ FIELD("int \033[2J", 8, 4, 1), -EINVAL },
	{ FIELD("int ", 8, 4, 1), -EINVAL },
	{ FIELD("", 8, 4, 1), -EINVAL },
	{ "\tfield:int a;\toffset:x;\tsize:4;\tsigned:1;\n", -EINVAL },
	{ "\tfield:int a;\toffset:8;\n", -EINVAL },
	{ "\tfield:int aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa;\t"
	  "offset:8;\tsize:4;\tsigned:1;\n", -EINVAL },
	{ FIELD("__data_loc char[] a", 8, 8, 1), -EINVAL },
	{ FIELD("int a", 4294967290, 4, 1), -E2BIG },
	{ FIELD("int a", 8, 4294967295, 1), -E2BIG },
	{ FIELD("u8 a[2000]", 8, 2000, 0), -E2BIG },
	{ FIELD("__data_loc u8[] a", 8, 4, 0) FIELD("__data_loc u8[] b", 12, 4, 0)
	  FIELD("__data_loc u8[] c", 16, 4, 0) FIELD("__data_loc u8[] d", 20, 4, 0)
	  FIELD("__data_loc u8[] e", 24, 4, 0), -E2BIG },
};

START_TEST(test_refused)
{
	ck_assert_int_eq(parse(bad[_i].text), bad[_i].error);
}
END_TEST

START_TEST(test_too_many)
{
	size_t room = 1 << 20, at = 0;
	char *text = malloc(room);

	for (int i = 0; i < 300; i++)
		at += (size_t)snprintf(text + at, room - at,
				       "\tfield:u8 f%d;\toffset:%d;\tsize:1;\tsigned:0;\n", i, 8 + i);
	ck_assert_int_eq(parse(text), -E2BIG);
	free(text);
}
END_TEST

/* A declaration that is longer than the line is refused, not left out without a word. */
START_TEST(test_long_line)
{
	size_t room = 4096;
	char *text = malloc(room);

	snprintf(text, room, "\tfield:int %0*d a;\toffset:8;\tsize:4;\tsigned:1;\n", 600, 0);
	ck_assert_int_eq(parse(text), -EINVAL);
	free(text);
}
END_TEST

/* Noise, and a good file with one byte changed: any answer, but no harm, and what is taken can be
 * declared. */
START_TEST(test_random)
{
	static const char good[] = COMMON FIELD("__data_loc char[] first", 8, 4, 1)
		FIELD("__rel_loc u8[] buf", 12, 4, 0) FIELD("char c[16]", 16, 16, 1) PRINT;
	unsigned long long seed = 4711;
	char text[sizeof(good)];

	for (int i = 0; i < 20000; i++) {
		struct htrace_schema_builder *b;

		memcpy(text, good, sizeof(good));
		for (int n = i % 4; n >= 0; n--)
			text[unit_random(&seed) % (sizeof(good) - 1)] =
				(char)(unit_random(&seed) % 255 + 1);
		if (!parse(text)) {
			ck_assert_int_eq(htrace_builder_new(&b, NULL, 0), 0);
			ck_assert_msg(tracepoint_declare(tp, b, "event", NULL, 0) == 1, "%s: %s",
				      htrace_builder_error(b), text);
			htrace_builder_free(b);
		}
		teardown();
		setup();
	}
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tracepoint-format");
	TCase *t = tcase_create("format");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_sched_switch);
	tcase_add_test(t, test_exec);
	tcase_add_test(t, test_arrays);
	tcase_add_test(t, test_pointers_and_small_ones);
	tcase_add_test(t, test_structs);
	tcase_add_test(t, test_dynamic);
	tcase_add_test(t, test_out_of_order);
	tcase_add_test(t, test_no_fields);
	tcase_add_loop_test(t, test_refused, 0, sizeof(bad) / sizeof(bad[0]));
	tcase_add_test(t, test_too_many);
	tcase_add_test(t, test_long_line);
	tcase_add_test(t, test_random);
	suite_add_tcase(s, t);
	return unit_run(s);
}
