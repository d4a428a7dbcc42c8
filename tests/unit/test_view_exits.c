// SPDX-License-Identifier: LGPL-2.1-or-later
/* Pages of --view exits: names of VMs and of places in their guests, hostile ones too, and sessions that end. */
#define SINK sink_text
#include "sink_fixture.h"

#include <zlib.h>

#include "symbols.h"
#include "view.h"

#define KERNEL 0xffffffff81000000

static struct sinks sinks;
static struct sink_session guest;
static struct origin in_guest;
static struct symbols *symbols;
static __u32 exit_id, entry_id, other_id;
static __u64 now;

static __u32 declare_event(const char *name, __u32 nr)
{
	static const struct htrace_schema_value reason[] = { { 0x78, "hlt" } };
	__u32 u16 = (__u32)htrace_builder_int(builder, "u16", 2, false, HTRACE_HINT_NONE);
	__u32 u32 = (__u32)htrace_builder_int(builder, "u32", 4, false, HTRACE_HINT_NONE);
	__u32 u64 = (__u32)htrace_builder_int(builder, "u64", 8, false, HTRACE_HINT_NONE);
	struct htrace_schema_member m[] = {
		{ u32, 0, 0, 0, "vm" }, { u32, 32, 0, 0, "tid" }, { u16, 64, 0, 0, "vcpu_id" },
		{ (__u32)htrace_builder_enum(builder, "why", 4, false, reason, 1), 96, 0, 0, "reason" },
		{ u64, 128, 0, 0, "guest_rip" },
	};
	int id = htrace_builder_event(builder, name,
				      htrace_builder_struct(builder, name, false, nr == 3 ? 16 : 24, m, nr));

	ck_assert_int_gt(id, 0);
	return (__u32)id;
}

static void load_symbols(void)
{
	static const char lines[] = "ffffffff81000000 do_\x1b[2Jit\n1000 in_mod my_\"mod\n";
	struct {
		struct htrace_schema_symbols s;
		char packed[256];
	} e = { 0 };
	uLongf packed = sizeof(e.packed);

	ck_assert_int_eq(compress((Bytef *)e.packed, &packed, (const Bytef *)lines, strlen(lines)), Z_OK);
	e.s.entry.kind = HTRACE_SCHEMA_SYMBOLS;
	e.s.entry.len = sizeof(e);
	e.s.raw = (__u32)strlen(lines);
	e.s.packed = (__u32)packed;
	symbols = symbols_new();
	ck_assert_ptr_null(symbols_load(symbols, &e, sizeof(e)));
}

static void setup_as(const char *view)
{
	setup();
	exit_id = declare_event("kvm_exit", 5);
	entry_id = declare_event("kvm_entry", 3);
	other_id = declare_event("block_rq_issue", 3);
	finish_schema();
	session.facts.host = true;
	session.source = "kv\033m";
	guest = (struct sink_session){ .path = "/dev/shm/vm", .names = names, .source_nr = 1, .vm = 100 };
	load_symbols();
	in_guest = (struct origin){ .session = &guest, .names = names, .per_cpu = true, .symbols = symbols };
	sinks = (struct sinks){ .sink = { sink }, .nr = 1 };
	ck_assert_int_eq(views_open(&sinks, view_find(view), 0, 1), 0);
	sink = sinks.sink[0];
	now = 1000000;
}

static void setup_view(void)
{
	setup_as("exits");
}

static void setup_json(void)
{
	setup_as("exits:json");
}

static void teardown_view(void)
{
	symbols_free(symbols);
	teardown();
}

static void make_exit(__u32 vm, __u32 reason, __u64 rip, __u64 ns)
{
	struct {
		__u32 vm, tid, vcpu, reason;
		__u64 rip;
	} e = { vm, vm + 1, 0, reason, rip };

	show_at(&origin, now, exit_id, &e, sizeof(e), false);
	now += ns;
	show_at(&origin, now, entry_id, &e, 16, false);
	now += 1000;
}

static const char *page(void)
{
	views_close(&sinks, true);
	return written();
}

static void has(const char *text, const char *what)
{
	ck_assert_msg(strstr(text, what), "no '%s' in:\n%s", what, text);
}

START_TEST(test_names)
{
	__u64 nothing[2] = { 0 };
	const char *text;

	names_set(names, 100, 100, 1, "qe\033[mu", 6);
	show_at(&in_guest, now, other_id, nothing, sizeof(nothing), false); /* the guest is there */
	make_exit(100, 0x78, KERNEL + 0x10, 2000);
	make_exit(100, 0x78, KERNEL + 0x1020, 3000);
	make_exit(100, 0x79, 0x1234, 4000);
	make_exit(300, 0x78, KERNEL + 0x10, 5000); /* another VM, whose kernel is not known */
	if (_i)
		sinks_session_end(&sinks, &guest);
	if (_i > 1)
		sinks_session_end(&sinks, &session);
	text = page();
	ck_assert_ptr_null(strchr(text, '\033'));
	has(text, "exits of 2 VMs in 0.000 s: 4\n");
	has(text, "\nVM 100 (qe\\x1b[mu) of kv\\x1bm, all vCPUs\n");
	has(text, "\nTotal Samples:3, Total events handled time:9.00us, 81.82% of the vCPUs' time.\n");
	has(text, "\nTotal Samples:1, Total events handled time:5.00us, 100.00% of the vCPUs' time.\n");
	has(text, "\nVM 300 of kv\\x1bm, all vCPUs\n");
	has(text, "2.00  do_\\x1b[2Jit+0x10\n");
	has(text, "3.00  in_mod+0x20 [my_\\x22mod]\n");
	has(text, "4.00  0x0000000000001234\n");
	has(text, "5.00  0xffffffff81000010\n");
	has(text, "\n0x79 ");
}
END_TEST

/* A session that comes after another one of the source: nothing of the one goes on in the other. */
START_TEST(test_sessions)
{
	struct sink_session second = session;
	struct origin from = origin;
	__u32 e[6] = { 100, 101, 0, 0x78, 0, 0 };
	const char *text;

	from.session = &second;
	make_exit(100, 0x78, 1, 1000);
	show_at(&origin, now, exit_id, e, sizeof(e), false);
	sinks_session_end(&sinks, &session);
	show_at(&from, now + 500, entry_id, e, 16, false);
	sinks_session_end(&sinks, &second);
	text = page();
	has(text, "exits of 1 VM in 0.000 s: 1\nnot counted: 1 out without end, 1 entries without an exit\n");
}
END_TEST

/* What a guest says of exits is not the host's word; nor what lacks a field, or is cut short. */
START_TEST(test_others)
{
	__u32 e[6] = { 100, 101, 0, 0x78, 0, 0 };
	const char *text;

	show_at(&in_guest, now, exit_id, e, sizeof(e), false);
	show_at(&in_guest, now + 1, entry_id, e, 16, false);
	show_at(&origin, now, exit_id, e, 8, false);
	show_at(&origin, now, other_id, e, 16, false);
	show_at(&origin, now, 999, e, 16, false);
	text = page();
	ck_assert_str_eq(text, "exits of 0 VMs in 0.000 s: 0\n");
}
END_TEST

#define ONCE(ns, from) \
	"\"count\":1,\"sum_ns\":" #ns ",\"min_ns\":" #ns ",\"p50_ns\":" #ns ",\"p99_ns\":" #ns ",\"p999_ns\":" #ns \
	",\"max_ns\":" #ns ",\"error_percent\":0.00,\"octaves\":[{\"from_ns\":" #from ",\"count\":1}]," \
	"\"asleep_ns\":0,\"preempted_ns\":0"

START_TEST(test_json)
{
	__u64 nothing[2] = { 0 };
	__u32 e[6] = { 100, 101, 0, 0x78, 0, 0 };

	names_set(names, 100, 100, 1, "qe\033[mu\"", 7);
	show_at(&in_guest, now, other_id, nothing, sizeof(nothing), false);
	make_exit(100, 0x78, KERNEL + 0x1020, 3000);
	make_exit(100, 0x79, 0x1234, 2000);
	show_at(&origin, now + 1, exit_id, e, sizeof(e), false);
	ck_assert_str_eq(page(),
		"{\"view\":\"exits\",\"first\":1000000,\"last\":1007001,\"no_end\":1,\"no_exit\":0,\"no_entry\":0,"
		"\"void\":0,\"no_room\":0,\"lost\":0,\"vms\":[{\"vm\":100,\"name\":\"qe\\\\x1b[mu\\\\x22\","
		"\"source\":\"kv\\\\x1bm\",\"count\":2,\"sum_ns\":5000,\"min_ns\":2000,\"p50_ns\":2015,"
		"\"p99_ns\":3000,\"p999_ns\":3000,\"max_ns\":3000,\"error_percent\":20.00,\"octaves\":["
		"{\"from_ns\":1024,\"count\":1},{\"from_ns\":2048,\"count\":1}],\"asleep_ns\":0,\"preempted_ns\":0,"
		"\"reasons\":[{\"number\":120,\"reason\":\"hlt\"," ONCE(3000, 2048)
		",\"places\":[{\"rip\":\"0xffffffff81001020\",\"name\":\"in_mod+0x20 [my_\\\\x22mod]\",\"count\":1,"
		"\"ns\":3000}]},{\"number\":121," ONCE(2000, 1024)
		",\"places\":[{\"rip\":\"0x1234\",\"count\":1,\"ns\":2000}]}],"
		"\"vcpus\":[{\"vcpu\":0,\"threads\":[{\"thread\":101,\"exits\":2,\"guest_ns\":2001,\"out_ns\":5000,"
		"\"asleep_ns\":0,\"preempted_ns\":0,\"state\":\"out\",\"since\":1007001,\"number\":120,\"reason\":\"hlt\","
		"\"thread_state\":\"runs\"}],\"reasons\":[{\"number\":120,\"reason\":\"hlt\"," ONCE(3000, 2048)
		"},{\"number\":121," ONCE(2000, 1024) "}]}]}]}\n");
}
END_TEST

START_TEST(test_json_nothing)
{
	__u32 e[6] = { 100, 101, 3, 0x78, 0, 0 };

	show_at(&origin, now, entry_id, e, 16, false);
	ck_assert_str_eq(page(),
		"{\"view\":\"exits\",\"first\":1000000,\"last\":1000000,\"no_end\":0,\"no_exit\":1,\"no_entry\":0,"
		"\"void\":0,\"no_room\":0,\"lost\":0,\"vms\":[]}\n");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("view_exits");
	TCase *tc = tcase_create("pages"), *json = tcase_create("json");

	tcase_add_checked_fixture(tc, setup_view, teardown_view);
	tcase_add_loop_test(tc, test_names, 0, 3);
	tcase_add_test(tc, test_sessions);
	tcase_add_test(tc, test_others);
	suite_add_tcase(s, tc);
	tcase_add_checked_fixture(json, setup_json, teardown_view);
	tcase_add_test(json, test_json);
	tcase_add_test(json, test_json_nothing);
	suite_add_tcase(s, json);
	return unit_run(s);
}
