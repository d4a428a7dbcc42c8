// SPDX-License-Identifier: LGPL-2.1-or-later
/* Lines of the JSON sink: exact integers, what they stand for, nesting, text of any bytes, loss. */
#define SINK sink_json
#include "sink_fixture.h"

#define PLACE "{\"time\":12345678901,\"cpu\":2,"

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
	{ 4, true, HTRACE_HINT_HEX, 0xfffffffe, "4294967294" },
	{ 8, false, HTRACE_HINT_POINTER, 0xffff888000000000, "18446612682070032384" },
	{ 4, true, HTRACE_HINT_SYSCALL, 0, "0,\"v.name\":\"read\"" },
	{ 4, true, HTRACE_HINT_SYSCALL, 0xffffffff, "-1" },
	{ 1, false, HTRACE_HINT_BOOL, 1, "true" },
	{ 1, false, HTRACE_HINT_BOOL, 0, "false" },
	{ 1, false, HTRACE_HINT_CHAR, 'A', "65" },
	{ 4, false, HTRACE_HINT_TASK_STATE, 0x101, "257,\"v.name\":\"S+\"" },
	{ 4, false, HTRACE_HINT_TID, 0, "0,\"v.name\":\"swapper/2\"" },
	{ 4, true, HTRACE_HINT_TID, 7, "7" },
	{ 4, false, HTRACE_HINT_TID, 8, "8,\"v.name\":\"a\\u001bb\"" },
	{ 8, false, HTRACE_HINT_TID, 1ULL << 32, "4294967296" },
};

START_TEST(test_integers)
{
	int type = htrace_builder_int(builder, "t", integers[_i].size, integers[_i].is_signed,
				      integers[_i].hint);
	__u32 id = declare("e", "v", type);
	__u64 payload[2] = { integers[_i].value, 0 };
	char want[256];

	names_set(names, 8, 8, 1, "a\x1b" "b", 4);
	finish_schema();
	show(id, payload, 16, false);
	snprintf(want, sizeof(want), PLACE "\"event\":\"e\",\"fields\":{\"v\":%s}}\n",
		 integers[_i].shown);
	ck_assert_str_eq(written(), want);
}
END_TEST

START_TEST(test_enum)
{
	struct htrace_schema_value v[] = { { -1, "MINUS" }, { 5, "FIVE" } };
	__u32 e = declare("en", "v", htrace_builder_enum(builder, "en_t", 4, true, v, 2));
	__s32 minus[4] = { -1 }, six[4] = { 6 };

	finish_schema();
	show(e, minus, 16, true);
	show(e, six, 16, false);
	ck_assert_str_eq(written(), PLACE "\"event\":\"en\",\"fields\":{\"v\":-1,"
				    "\"v.name\":\"MINUS\"},\"unverified\":true}\n"
				    PLACE "\"event\":\"en\",\"fields\":{\"v\":6}}\n");
}
END_TEST

/* Characters are kept; bytes that are none are replaced, and then told beside. */
static const struct {
	const char *bytes, *shown;
} texts[] = {
	{ "plain", "\"plain\"" },
	{ "", "\"\"" },
	{ "a \"b\" \\\n\x7f", "\"a \\\"b\\\" \\\\\\u000a\\u007f\"" },
	{ "\xc3\xa9\xe2\x82\xac", "\"\\u00e9\\u20ac\"" },
	{ "\xf0\x9f\x98\x80", "\"\\ud83d\\ude00\"" },
	{ "\xff" "1", "\"\\ufffd1\",\"v.bytes\":\"ff31\"" },
	{ "\xc3", "\"\\ufffd\",\"v.bytes\":\"c3\"" },
	{ "\xc3(", "\"\\ufffd(\",\"v.bytes\":\"c328\"" },
	{ "\xc0\x80", "\"\\ufffd\\ufffd\",\"v.bytes\":\"c080\"" },
	{ "\xe0\x80\x80", "\"\\ufffd\\ufffd\\ufffd\",\"v.bytes\":\"e08080\"" },
	{ "\xed\xa0\x80", "\"\\ufffd\\ufffd\\ufffd\",\"v.bytes\":\"eda080\"" },
	{ "\xf4\x90\x80\x80", "\"\\ufffd\\ufffd\\ufffd\\ufffd\",\"v.bytes\":\"f4908080\"" },
	{ "\xf8\x88", "\"\\ufffd\\ufffd\",\"v.bytes\":\"f888\"" },
};

START_TEST(test_text)
{
	__u32 id = declare("e", "v", htrace_builder_string(builder, 16));
	char payload[16] = "", want[256];

	strcpy(payload, texts[_i].bytes);
	finish_schema();
	show(id, payload, 16, false);
	snprintf(want, sizeof(want), PLACE "\"event\":\"e\",\"fields\":{\"v\":%s}}\n",
		 texts[_i].shown);
	ck_assert_str_eq(written(), want);
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
		{ .type = (__u32)htrace_builder_array(builder, u8, 0), .bit_off = 256,
		  .name = "rest" },
	};
	__u32 id = (__u32)htrace_builder_event(
		builder, "e", htrace_builder_struct(builder, "e", false, 32, m, ARRAY_SIZE(m)));
	unsigned char payload[32] = { 1, 2, 3, 4, 0xfd, 5, 1, 6, 2, [16] = 0xef, [31] = 0x12 };

	finish_schema();
	show(id, payload, sizeof(payload), false);
	ck_assert_str_eq(written(), PLACE "\"event\":\"e\",\"fields\":{\"list\":[1,2,3],"
			 "\"in\":{\"a\":4,\"bits\":5},"
			 "\"both\":[{\"a\":5,\"bits\":1},{\"a\":6,\"bits\":2}],"
			 "\"wide\":\"0x120000000000000000000000000000ef\",\"rest\":[]}}\n");
}
END_TEST

/* No schema for it, less than the schema says, no fields at all. */
START_TEST(test_raw)
{
	__u32 id = declare("e", "v", htrace_builder_int(builder, "t", 4, false, HTRACE_HINT_NONE));
	__u32 empty = (__u32)htrace_builder_event(
		builder, "none", htrace_builder_struct(builder, "none", false, 8, NULL, 0));

	finish_schema();
	show(999, "\x01\xab\xff", 3, false);
	show(id, "\x01\x02", 2, false);
	show(empty, "12345678", 8, false);
	ck_assert_str_eq(written(), PLACE "\"event\":\"event#999\",\"raw\":\"01abff\"}\n"
				    PLACE "\"event\":\"e\",\"raw\":\"0102\"}\n"
				    PLACE "\"event\":\"none\",\"fields\":{}}\n");
}
END_TEST

START_TEST(test_loss_and_notes)
{
	struct sink_loss l = { .from = &origin, .time = 12345678901ULL, .overwritten = 1200,
			       .dropped = 34 };
	struct sink_note note = { .text = "new session: \"x\"" };

	sink.ops->loss(&sink, &l);
	l.unfinished = 7;
	l.uncommitted = 48;
	origin.source = "b\xff";
	origin.per_cpu = false;
	origin.ticks = true;
	sink.ops->loss(&sink, &l);
	sink.ops->note(&sink, &note);
	note.source = "b";
	sink.ops->note(&sink, &note);
	ck_assert_str_eq(written(),
			 PLACE "\"lost\":1234,\"overwritten\":1200,\"dropped\":34,\"corrupt\":0,"
			 "\"unfinished\":0,\"uncommitted_bytes\":0}\n"
			 "{\"tsc\":12345678901,\"source\":\"b\\ufffd\",\"ring\":2,\"lost\":1241,"
			 "\"overwritten\":1200,\"dropped\":34,\"corrupt\":0,"
			 "\"unfinished\":7,\"uncommitted_bytes\":48}\n"
			 "{\"note\":\"new session: \\\"x\\\"\"}\n"
			 "{\"note\":\"new session: \\\"x\\\"\",\"source\":\"b\"}\n");
}
END_TEST

START_TEST(test_task)
{
	__u32 id = declare("open", "tid",
			   htrace_builder_int(builder, "t", 4, false, HTRACE_HINT_TID));
	__u32 tid[4] = { 42 };

	finish_schema();
	show(id, tid, 16, false);
	names_set(names, 42, 42, 0, "v\xc3\xaf", 4);
	show(id, tid, 16, false);
	ck_assert_str_eq(written(), PLACE "\"event\":\"open\",\"tid\":42,\"fields\":{\"tid\":42}}\n"
				    PLACE "\"event\":\"open\",\"tid\":42,\"comm\":\"v\\u00ef\","
				    "\"fields\":{\"tid\":42,\"tid.name\":\"v\\u00ef\"}}\n");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("sink_json");
	TCase *c = tcase_create("sink_json");

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_loop_test(c, test_integers, 0, ARRAY_SIZE(integers));
	tcase_add_test(c, test_enum);
	tcase_add_loop_test(c, test_text, 0, ARRAY_SIZE(texts));
	tcase_add_test(c, test_compound);
	tcase_add_test(c, test_raw);
	tcase_add_test(c, test_loss_and_notes);
	tcase_add_test(c, test_task);
	suite_add_tcase(s, c);
	return unit_run(s);
}
