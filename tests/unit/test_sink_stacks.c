// SPDX-License-Identifier: LGPL-2.1-or-later
/* Stacks as the sinks show them. */
#define SINK sink_text
#include "sink_fixture.h"

#include <zlib.h>

#include "stacks.h"
#include "symbols.h"

#define TEXT "   12.345678901 [002] -                      e: "
#define JSON "{\"time\":12345678901,\"cpu\":2,\"event\":\"e\",\"fields\":{"

static struct stacks *stacks;
static struct symbols *symbols;

static void setup_stacks(void)
{
	setup();
	origin.stacks = stacks = stacks_new();
	origin.symbols = symbols = symbols_new();
}

static void teardown_stacks(void)
{
	teardown();
	stacks_free(stacks);
	symbols_free(symbols);
}

static void define(__u64 id, __u16 kind, __u16 nr, const void *frames, size_t len)
{
	char buf[1024];
	struct htrace_stack head = { .id = id, .pid = kind == HTRACE_STACK_KERNEL ? 0 : 7,
				     .kind = kind, .nr = nr };

	memcpy(buf, &head, sizeof(head));
	memcpy(buf + sizeof(head), frames, len);
	stacks_add(stacks, buf, sizeof(head) + len);
}

/* Two stacks and a number; kernel 5, user 6. */
static __u32 with_stacks(void)
{
	static const char lines[] = "ffffffff81000000 bpf_prog_77_e bpf\n1000 bpf_trace_run1\n"
				    "1000 do_it\n1000 in_mod\x1b\" my_mod\n";
	struct {
		struct htrace_schema_symbols s;
		char packed[512];
		struct htrace_schema_mapping m;
		char path[24];
	} entries = { 0 };
	uLongf packed = sizeof(entries.packed);
	struct htrace_schema_member m[3] = {
		{ .type = (__u32)htrace_builder_int(builder, "k", 8, false, HTRACE_HINT_STACK_KERNEL),
		  .name = "callstack_kernel" },
		{ .type = (__u32)htrace_builder_int(builder, "u", 8, false, HTRACE_HINT_STACK_USER),
		  .bit_off = 64, .name = "callstack_user" },
		{ .type = (__u32)htrace_builder_int(builder, "n", 8, false, HTRACE_HINT_NONE),
		  .bit_off = 128, .name = "n" },
	};
	int id = htrace_builder_event(builder, "e",
				      htrace_builder_struct(builder, "e", false, 24, m, 3));
	__u64 kernel[] = { 0xffffffff81000010, 0xffffffff81001010, 0xffffffff81002010,
			   0xffffffff81003010, 0xdead };
	__u64 user[] = { 0x1010, 0x9999, 0x7f0000000010 };
	struct htrace_stack_file_frame file[2] = { { .status = HTRACE_FRAME_ADDRESS, .offset = 0x1010 },
						   { .status = HTRACE_FRAME_FILE, .offset = 0x99 } };

	ck_assert_int_gt(id, 0);
	finish_schema();
	ck_assert_int_eq(compress((Bytef *)entries.packed, &packed, (const Bytef *)lines,
				  strlen(lines)), Z_OK);
	entries.s.entry.kind = HTRACE_SCHEMA_SYMBOLS;
	entries.s.entry.len = sizeof(entries.s) + sizeof(entries.packed);
	entries.s.raw = (__u32)strlen(lines);
	entries.s.packed = (__u32)packed;
	entries.m = (struct htrace_schema_mapping){
		.entry = { HTRACE_SCHEMA_MAPPING, 0, sizeof(entries.m) + sizeof(entries.path) },
		.pid = 7, .start = 0x1000, .end = 0x2000,
	};
	entries.m.build_id[0] = 0xab;
	memcpy(entries.path, "/lib/x/li\x1b[b.so", 15);
	ck_assert_ptr_null(symbols_load(symbols, &entries, sizeof(entries)));
	memset(file[1].build_id, 0xcd, 20);
	define(5, HTRACE_STACK_KERNEL, 5, kernel, sizeof(kernel));
	define(6, HTRACE_STACK_USER, 3, user, sizeof(user));
	define(6, HTRACE_STACK_USER_FILES, 2, file, sizeof(file));
	return (__u32)id;
}

START_TEST(test_text)
{
	__u64 payload[3] = { 5, 6, 42 };

	show(with_stacks(), payload, sizeof(payload), false);
	ck_assert_str_eq(written(), TEXT "n=42\n"
			 "        do_it+0x10\n"
			 "        in_mod\\x1b\\x22+0x10 [my_mod]\n"
			 "        0x000000000000dead\n"
			 "        li\\x1b[b.so+0x10\n"
			 "        build-id:cdcdcdcdcdcd+0x99\n"
			 "        0x7f0000000010\n");
}
END_TEST

START_TEST(test_json)
{
	__u64 payload[3] = { 5, 6, 42 };
	__u32 id = with_stacks();

	sink.ops = &sink_json;
	show(id, payload, sizeof(payload), false);
	ck_assert_str_eq(written(), JSON
			 "\"callstack_kernel\":[{\"symbol\":\"do_it\",\"offset\":16,"
			 "\"address\":18446744071578853392},"
			 "{\"symbol\":\"in_mod\\u001b\\\"\",\"offset\":16,\"module\":\"my_mod\","
			 "\"address\":18446744071578857488},{\"address\":57005}],"
			 "\"callstack_user\":[{\"file\":\"li\\u001b[b.so\",\"build_id\":"
			 "\"ab00000000000000000000000000000000000000\",\"file_offset\":16,"
			 "\"address\":4112},{\"build_id\":\"cdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcdcd\","
			 "\"file_offset\":153,\"address\":39321},{\"address\":139637976727568}],"
			 "\"n\":42}}\n");
}
END_TEST

/* None at all, and those that were lost. */
START_TEST(test_unknown)
{
	__u64 none[3] = { 0, 0, 1 }, lost[3] = { 77, 0, 2 };
	__u32 id = with_stacks();

	show(id, none, sizeof(none), false);
	show(id, lost, sizeof(lost), true);
	ck_assert_str_eq(written(), TEXT "n=1\n" TEXT "n=2 (unverified)\n"
			 "        [stack 0x000000000000004d not recorded here]\n");
	sink.ops = &sink_json;
	show(id, none, sizeof(none), false);
	show(id, lost, sizeof(lost), false);
	ck_assert_str_eq(strchr(written(), '{'),
			 JSON "\"callstack_kernel\":[],\"callstack_user\":[],\"n\":1}}\n"
			 JSON "\"callstack_kernel\":null,\"callstack_kernel.id\":77,"
			 "\"callstack_user\":[],\"n\":2}}\n");
}
END_TEST

/* A few bytes of a guest's that name stacks again and again are not made into megabytes. */
START_TEST(test_many)
{
	int type = htrace_builder_int(builder, "k", 8, false, HTRACE_HINT_STACK_KERNEL);
	__u32 id = declare("many", "stacks", htrace_builder_array(builder, type, 0));
	__u64 frames[127], payload[1000];
	const char *text;

	for (int i = 0; i < 127; i++)
		frames[i] = 0x1000;
	for (int i = 0; i < 1000; i++)
		payload[i] = 3;
	finish_schema();
	define(3, HTRACE_STACK_KERNEL, 60, frames, 60 * 8);
	show(id, payload, sizeof(payload), false);
	text = written();
	ck_assert_uint_lt(strlen(text), 10000);
	ck_assert_ptr_nonnull(strstr(text, "0x0000000000001000"));
	sink.ops = &sink_json;
	show(id, payload, sizeof(payload), false);
	text = written();
	ck_assert_uint_lt(strlen(text), 20000);
	ck_assert_ptr_nonnull(strstr(text, "],3,3,3,"));
	ck_assert_ptr_nonnull(strstr(text, "3,3]}}\n"));
}
END_TEST

/* Definitions are no events. */
START_TEST(test_hidden)
{
	__u32 id = declare(HTRACE_STACK_EVENT, "id",
			   htrace_builder_int(builder, "u64", 8, false, HTRACE_HINT_NONE));
	const struct event_info *info;

	finish_schema();
	info = events_find(events, id);
	ck_assert_ptr_nonnull(info);
	ck_assert_int_eq(info->role, ROLE_STACK);
	ck_assert(!info->shown);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("sink_stacks");
	TCase *c = tcase_create("sink_stacks");

	tcase_add_checked_fixture(c, setup_stacks, teardown_stacks);
	tcase_add_test(c, test_text);
	tcase_add_test(c, test_json);
	tcase_add_test(c, test_unknown);
	tcase_add_test(c, test_many);
	tcase_add_test(c, test_hidden);
	suite_add_tcase(s, c);
	return unit_run(s);
}
