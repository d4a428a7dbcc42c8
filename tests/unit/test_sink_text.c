// SPDX-License-Identifier: LGPL-2.1-or-later
/* Lines of the text sink: each hint and kind of type, names, loss, and what a guest makes up. */
#define SINK sink_text
#include "sink_fixture.h"

#define PLACE "   12.345678901 [002] "
#define NOBODY "-                      "

static const struct {
	__u32 size;
	bool is_signed;
	enum htrace_hint hint;
	__u64 value;
	const char *shown;
} integers[] = {
	{ 1, false, HTRACE_HINT_NONE, 255, "255" },
	{ 1, true, HTRACE_HINT_NONE, 255, "-1" },
	{ 8, true, HTRACE_HINT_NONE, 1ULL << 63, "-9223372036854775808" },
	{ 8, false, HTRACE_HINT_NONE, ~0ULL, "18446744073709551615" },
	{ 4, true, HTRACE_HINT_HEX, 0xfffffffe, "0xfffffffe" },
	{ 8, false, HTRACE_HINT_HEX, 0, "0x0" },
	{ 8, false, HTRACE_HINT_POINTER, 0x1234, "0x0000000000001234" },
	{ 4, true, HTRACE_HINT_SYSCALL, 0, "0(read)" },
	{ 4, true, HTRACE_HINT_SYSCALL, 462, "462(mseal)" },
	{ 4, true, HTRACE_HINT_SYSCALL, 0xffffffff, "-1" },
	{ 4, true, HTRACE_HINT_SYSCALL, 400, "400" },
	{ 1, false, HTRACE_HINT_BOOL, 1, "true" },
	{ 1, false, HTRACE_HINT_BOOL, 0, "false" },
	{ 1, false, HTRACE_HINT_CHAR, 'A', "'A'" },
	{ 1, false, HTRACE_HINT_CHAR, 0x1b, "'\\x1b'" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 0, "R" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 0x100, "R+" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 1, "S" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 2, "D" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 4, "T" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 8, "t" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 0x10, "X" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 0x20, "Z" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 0x40, "P" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 0x80, "I" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 0x11, "S|X" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 0xffffffff, "0xffffffff" },
	{ 4, false, HTRACE_HINT_TID, 0, "0(swapper/2)" },
	{ 4, false, HTRACE_HINT_TID, 7, "7(<...>)" },
	{ 4, false, HTRACE_HINT_TID, 8, "8(a\\x1bb)" },
	{ 8, false, HTRACE_HINT_TID, 1ULL << 32, "4294967296(<...>)" },
};

START_TEST(test_integers)
{
	int type = htrace_builder_int(builder, "t", integers[_i].size, integers[_i].is_signed,
				      integers[_i].hint);
	__u32 id = declare("e", "field", type);
	__u64 payload[2] = { integers[_i].value, 0 };
	char want[256];

	names_set(names, 8, 8, 1, "a\x1b" "b", 4);
	finish_schema();
	show(id, payload, 16, false);
	snprintf(want, sizeof(want), PLACE NOBODY "e: field=%s\n", integers[_i].shown);
	ck_assert_str_eq(written(), want);
}
END_TEST

START_TEST(test_enum_and_string)
{
	struct htrace_schema_value v[] = { { -1, "MINUS" }, { 5, "FIVE" } };
	__u32 e = declare("en", "v", htrace_builder_enum(builder, "en_t", 4, true, v, 2));
	__u32 s = declare("st", "text", htrace_builder_string(builder, 16));
	__u32 open = declare("op", "text", htrace_builder_string(builder, 0));
	__s32 five[4] = { 5 }, minus[4] = { -1 }, six[4] = { 6 };

	finish_schema();
	show(e, five, 16, false);
	show(e, minus, 16, true);
	show(e, six, 16, false);
	show(s, "sixteen bytes!!!", 16, false);
	show(s, "a \"b\" \\\n\0xxxxxxxxx", 16, false);
	show(open, "\xff" "1234567", 8, false);
	show(open, "", 0, false);
	ck_assert_str_eq(written(), PLACE NOBODY "en: v=FIVE\n"
				    PLACE NOBODY "en: v=MINUS (unverified)\n"
				    PLACE NOBODY "en: v=6\n"
				    PLACE NOBODY "st: text=\"sixteen bytes!!!\"\n"
				    PLACE NOBODY "st: text=\"a \\x22b\\x22 \\x5c\\x0a\"\n"
				    PLACE NOBODY "op: text=\"\\xff1234567\"\n"
				    PLACE NOBODY "op: text=\"\"\n");
}
END_TEST

START_TEST(test_compound)
{
	int u8 = htrace_builder_int(builder, "u8", 1, false, HTRACE_HINT_NONE);
	struct htrace_schema_member in[] = {
		{ .type = (__u32)u8, .name = "a" },
		{ .type = (__u32)u8, .bit_off = 8, .bit_size = 3, .name = "bits" },
	};
	int inner = htrace_builder_struct(builder, "inner", false, 2, in, 2);
	struct htrace_schema_member m[] = {
		{ .type = (__u32)htrace_builder_array(builder, u8, 3), .name = "list" },
		{ .type = (__u32)inner, .bit_off = 24, .name = "in" },
		{ .type = (__u32)htrace_builder_array(builder, inner, 2), .bit_off = 40,
		  .name = "both" },
		{ .type = (__u32)htrace_builder_int(builder, "u128", 16, false, HTRACE_HINT_NONE),
		  .bit_off = 128, .name = "wide" },
	};
	__u32 id = (__u32)htrace_builder_event(
		builder, "e", htrace_builder_struct(builder, "e", false, 32, m, ARRAY_SIZE(m)));
	unsigned char payload[32] = { 1, 2, 3, 4, 0xfd, 5, 1, 6, 2, [16] = 0xef, [31] = 0x12 };

	finish_schema();
	show(id, payload, sizeof(payload), false);
	ck_assert_str_eq(written(), PLACE NOBODY
			 "e: list=[1,2,3] in={a=4 bits=5} both=[{a=5 bits=1},{a=6 bits=2}] "
			 "wide=0x120000000000000000000000000000ef\n");
}
END_TEST

/* A guest does not get to make more than so much text of a record; the next line is whole again. */
START_TEST(test_long_line)
{
	struct htrace_schema_member m = {
		.type = (__u32)htrace_builder_string(builder, 30000), .name = "f",
	};
	__u32 id = (__u32)htrace_builder_event(
		builder, "e", htrace_builder_struct(builder, "e", false, 30000, &m, 1));
	static char payload[30000];
	const char *text;

	memset(payload, 1, sizeof(payload));
	finish_schema();
	show(id, payload, sizeof(payload), false);
	text = written();
	ck_assert_uint_eq(strlen(text), 65536 + strlen("...\n"));
	ck_assert_str_eq(text + 65536, "...\n");
	memset(payload, 0, sizeof(payload));
	show(id, payload, sizeof(payload), false);
	ck_assert_str_eq(written() + 65536, "...\n" PLACE NOBODY "e: f=\"\"\n");
}
END_TEST

/* No schema for it, or less than the schema says. */
START_TEST(test_undecodable)
{
	__u32 id = declare("e", "v", htrace_builder_int(builder, "t", 4, false, HTRACE_HINT_NONE));
	static unsigned char large[1000];
	const char *text;

	finish_schema();
	show(999, "\x01\xab\xff", 3, false);
	show(id, "\x01\x02", 2, false);
	text = written();
	ck_assert_str_eq(text, PLACE NOBODY "event#999: raw=01abff\n" PLACE NOBODY "e: raw=0102\n");
	show(1000, large, sizeof(large), false);
	text = written();
	ck_assert_ptr_nonnull(strstr(text, "00... (1000 bytes)\n"));
	ck_assert_uint_lt(strlen(text), 1000);
}
END_TEST

START_TEST(test_loss)
{
	struct sink_loss l = { .from = &origin, .time = 12345678901ULL, .overwritten = 1200,
			       .dropped = 34 };
	struct sink_note note = { .text = "new session: x" };

	sink.ops->loss(&sink, &l);
	l.overwritten = l.dropped = 0;
	l.corrupt = 5;
	origin.source = "b";
	sink.ops->loss(&sink, &l);
	origin.source = NULL;
	origin.per_cpu = false;
	origin.ticks = true;
	sink.ops->loss(&sink, &l);
	l.unfinished = 3;
	l.uncommitted = 48;
	sink.ops->loss(&sink, &l);
	l.corrupt = l.unfinished = 0;
	sink.ops->loss(&sink, &l);
	sink.ops->note(&sink, &note);
	ck_assert_str_eq(written(),
			 PLACE "--- 1234 events lost (overwritten 1200, dropped 34) ---\n"
			 "[b] " PLACE "--- 5 events lost (corrupt 5) ---\n"
			 "         12345678901 [ring 002] --- 5 events lost (corrupt 5) ---\n"
			 "         12345678901 [ring 002] --- 8 events lost (corrupt 5, unfinished 3), "
			 "48 bytes never committed ---\n"
			 "         12345678901 [ring 002] --- 0 events lost, 48 bytes never committed ---\n"
			 "--- new session: x ---\n");
}
END_TEST

/* The task that an event happened in: from its tid, or from what was switched to before. */
START_TEST(test_task)
{
	__u32 id = declare("open", "tid",
			   htrace_builder_int(builder, "t", 4, false, HTRACE_HINT_TID));
	__u32 wake = declare("sched_waking", "tid",
			     htrace_builder_int(builder, "t", 4, false, HTRACE_HINT_TID));
	__u32 tid[4] = { 42 };

	finish_schema();
	names_set(names, 42, 42, 0, "vi", 3);
	show(id, tid, 16, false);
	show(wake, tid, 16, false);
	ck_assert_str_eq(written(), PLACE "vi-42                  open: tid=42(vi)\n"
				    PLACE NOBODY "sched_waking: tid=42(vi)\n");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("sink_text");
	TCase *c = tcase_create("sink_text");

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_loop_test(c, test_integers, 0, ARRAY_SIZE(integers));
	tcase_add_test(c, test_enum_and_string);
	tcase_add_test(c, test_compound);
	tcase_add_test(c, test_long_line);
	tcase_add_test(c, test_undecodable);
	tcase_add_test(c, test_loss);
	tcase_add_test(c, test_task);
	suite_add_tcase(s, c);
	return unit_run(s);
}
