// SPDX-License-Identifier: LGPL-2.1-or-later
/* Pages of --view hypercalls: records of a Xen guest become tables, whatever a guest makes up. */
#define SINK sink_text
#include "sink_fixture.h"

#include "hypercalls.h"
#include "stacks.h"
#include "terminal.h"
#include "view.h"

static struct sinks sinks;
static struct stacks *stacks;
static __u32 flush_id, entry_id, upcall_id, channel_id, extend_id, batch_id;

struct __attribute__((packed)) flush {
	__u64 stack, ns;
	__u32 tid;
	__u8 calls, callbacks;
	__u16 arg_bytes;
	__u8 op[32];
};

static __u32 event(const char *name, __u32 size, struct htrace_schema_member *m, __u32 nr)
{
	return (__u32)htrace_builder_event(builder, name, htrace_builder_struct(builder, name, false, size, m, nr));
}

static void declare_events(void)
{
	static const struct htrace_schema_value ops[] = {
		{ 1, "mmu_update" }, { 14, "update_va_mapping" }, { 26, "mmuext_op" }, { 255, "none" },
	};
	static const struct htrace_schema_value types[] = {
		{ 0, "unbound" }, { 1, "pirq" }, { 2, "virq" }, { 3, "ipi" }, { 4, "evtchn" },
	};
	__u32 u8 = (__u32)htrace_builder_int(builder, "u8", 1, false, 0);
	__u32 u16 = (__u32)htrace_builder_int(builder, "u16", 2, false, 0);
	__u32 u32 = (__u32)htrace_builder_int(builder, "u32", 4, false, 0);
	__u32 u64 = (__u32)htrace_builder_int(builder, "u64", 8, false, 0);
	__u32 stack = (__u32)htrace_builder_int(builder, "stack", 8, false, HTRACE_HINT_STACK_KERNEL);
	__u32 op = (__u32)htrace_builder_enum(builder, "xen_hypercall", 1, false, ops, ARRAY_SIZE(ops));
	__u32 type = (__u32)htrace_builder_enum(builder, "xen_channel_type", 1, false, types, ARRAY_SIZE(types));
	__u32 list = (__u32)htrace_builder_array(builder, (int)op, 0);
	__u32 text = (__u32)htrace_builder_string(builder, 16);

	flush_id = event("xen_mc_flush", 24, (struct htrace_schema_member[]){
		{ stack, 0, 0, 0, "callstack_kernel" }, { u64, 64, 0, 0, "ns" }, { u32, 128, 0, 0, "tid" },
		{ u8, 160, 0, 0, "calls" }, { u8, 168, 0, 0, "callbacks" }, { u16, 176, 0, 0, "arg_bytes" },
		{ list, 192, 0, 0, "op" } }, 7);
	entry_id = event("xen_mc_entry", 16, (struct htrace_schema_member[]){
		{ stack, 0, 0, 0, "callstack_kernel" }, { u32, 64, 0, 0, "tid" }, { op, 96, 0, 0, "op" } }, 3);
	upcall_id = event("xen_upcall", 16, (struct htrace_schema_member[]){
		{ u64, 0, 0, 0, "ns" }, { u32, 64, 0, 0, "tid" }, { u32, 96, 0, 0, "channels" } }, 3);
	channel_id = event("xen_event_channel", 32, (struct htrace_schema_member[]){
		{ u64, 0, 0, 0, "ns" }, { u32, 64, 0, 0, "port" }, { u16, 96, 0, 0, "number" },
		{ type, 112, 0, 0, "type" }, { text, 128, 0, 0, "name" } }, 5);
	extend_id = declare("xen_mc_extend_args", "result", (int)u8);
	batch_id = declare("xen_mc_batch", "mode", (int)u8);
}

static void setup_view(const char *name)
{
	setup();
	declare_events();
	finish_schema();
	origin.stacks = stacks = stacks_new();
	sinks = (struct sinks){ .sink = { sink }, .nr = 1 };
	ck_assert_int_eq(views_open(&sinks, view_find(name), 0, 1), 0);
	sink = sinks.sink[0];
}

static const char *page(void)
{
	views_close(&sinks, true);
	return written();
}

static void done(void)
{
	stacks_free(stacks);
	teardown();
}

/* @ops: numbers, in decimal. */
static void flushed(__u64 time, __u64 ns, __u64 stack, unsigned int calls, const __u8 *op)
{
	struct flush f = { .stack = stack, .ns = ns, .tid = 7, .calls = (__u8)calls };

	memset(f.op, 255, sizeof(f.op));
	if (calls)
		memcpy(f.op, op, calls < sizeof(f.op) ? calls : sizeof(f.op));
	show_at(&origin, time, flush_id, &f, 24 + (calls + 7) / 8 * 8, false);
}

static void queued(__u64 time, __u64 stack, __u8 op)
{
	struct __attribute__((packed)) {
		__u64 stack;
		__u32 tid;
		__u8 op, pad[3];
	} e = { stack, 7, op, { 0 } };

	show_at(&origin, time, entry_id, &e, sizeof(e), false);
}

static void upcall(__u64 time, __u32 tid, __u64 ns, __u32 channels)
{
	struct {
		__u64 ns;
		__u32 tid, channels;
	} e = { ns, tid, channels };

	show_at(&origin, time, upcall_id, &e, sizeof(e), false);
}

static void channel(__u64 time, __u8 type, __u16 number, __u32 port, const char *name, __u64 ns)
{
	struct __attribute__((packed)) {
		__u64 ns;
		__u32 port;
		__u16 number;
		__u8 type, pad;
		char name[16];
	} e = { ns, port, number, type, 0, "" };

	memcpy(e.name, name, strnlen(name, sizeof(e.name)));
	show_at(&origin, time, channel_id, &e, sizeof(e), false);
}

static void some_flushes(void)
{
	flushed(1000, 100, 0, 3, (const __u8[]){ 1, 26, 1 });
	flushed(2000, 300, 0, 3, (const __u8[]){ 26, 1, 1 }); /* the same, in another order */
	flushed(3000, 50, 0, 2, (const __u8[]){ 1, 1 });
	flushed(4000, 7, 0, 0, NULL);
	flushed(5000, 40, 0, 1, (const __u8[]){ 99 }); /* it has no name */
}

START_TEST(test_operations)
{
	setup_view("hypercalls:json");
	some_flushes();
	ck_assert_ptr_nonnull(strstr(page(),
		"\"flushes\":{\"count\":4,\"ns\":490,\"min_ns\":40,\"p50_ns\":50,\"p99_ns\":295,\"max_ns\":300},"
		"\"empty_flushes\":{\"count\":1,\"ns\":7,\"min_ns\":7,\"p50_ns\":7,\"p99_ns\":7,\"max_ns\":7},"
		"\"upcalls\":{\"count\":0,\"ns\":0,\"min_ns\":0,\"p50_ns\":0,\"p99_ns\":0,\"max_ns\":0},"
		"\"one_call\":1,\"most_calls\":3,\"operations\":["
		"{\"operation\":\"mmu_update\",\"number\":1,\"calls\":6,\"queued\":0,\"flushes\":3,\"alone_calls\":2,"
		"\"alone_ns\":50,\"ns\":450,\"min_ns\":50,\"p50_ns\":101,\"p99_ns\":295,\"max_ns\":300},"
		"{\"operation\":\"mmuext_op\",\"number\":26,\"calls\":2,\"queued\":0,\"flushes\":2,\"alone_calls\":0,"
		"\"alone_ns\":0,\"ns\":400,\"min_ns\":100,\"p50_ns\":101,\"p99_ns\":295,\"max_ns\":300},"
		"{\"operation\":\"hypercall_99\",\"number\":99,\"calls\":1,\"queued\":0,\"flushes\":1,\"alone_calls\":1,"
		"\"alone_ns\":40,\"ns\":40,\"min_ns\":40,\"p50_ns\":40,\"p99_ns\":40,\"max_ns\":40}],"
		"\"batches\":[{\"calls\":[{\"operation\":\"mmu_update\",\"calls\":2},{\"operation\":\"mmuext_op\",\"calls\":1}],"
		"\"flushes\":2,\"ns\":400,\"min_ns\":100,\"p50_ns\":101,\"p99_ns\":295,\"max_ns\":300},"
		"{\"calls\":[{\"operation\":\"mmu_update\",\"calls\":2}],\"flushes\":1,\"ns\":50,"));
	done();
}
END_TEST

START_TEST(test_tables)
{
	const char *text;

	setup_view("hypercalls");
	names_set(names, 7, 7, 1, "sh", 2);
	some_flushes();
	queued(5000, 0, 14);
	upcall(6000, 7, 1000, 2);
	upcall(7000, 0, 500, 0);
	channel(8000, 2, 0, 3, "timer0", 400);
	channel(8100, 2, 0, 9, "timer1", 100);
	channel(8200, 4, 55, 12, "xenbus", 300);
	show_at(&origin, 9000, extend_id, "\0\0\0\0\0\0\0\0", 8, false);
	show_at(&origin, 9000, extend_id, "\2\0\0\0\0\0\0\0", 8, false);
	show_at(&origin, 9001, batch_id, "\1\0\0\0\0\0\0\0", 8, false);
	text = page();
	ck_assert_msg(strstr(text, "9 hypercalls in 5 flushes, 2 upcalls with 3 event channels, in 0.000 s\n") == text, "%s",
		      text);
	ck_assert_ptr_nonnull(strstr(text, "flushes: 1 empty (20.00%), 1 of one call (20.00%), "
					   "2.25 calls in each that is not empty (at most 3)\n"));
	ck_assert_ptr_nonnull(strstr(text, "batches: 1 begun, 0 issued; calls: 1 queued, 1 extended, 1 not extended\n"));
	ck_assert_ptr_nonnull(strstr(text, "mmu_update x2 + mmuext_op\n"));
	ck_assert_ptr_nonnull(strstr(text, "\nmmu_update               "));
	ck_assert_ptr_nonnull(strstr(text, "\nsh                               1 "));
	ck_assert_ptr_nonnull(strstr(text, "\nswapper/2                        1 "));
	ck_assert_ptr_nonnull(strstr(text, "\nvirq 0 timer                     2 "));
	ck_assert_ptr_nonnull(strstr(text, "\nevtchn port 12 xenbus            1 "));
	ck_assert_ptr_nonnull(strstr(text, "\ncalls of a flush:\n[0, 2)                   1 |"));
	done();
}
END_TEST

static void one_more(void)
{
	flushed(9000, 100, 0, 1, (const __u8[]){ 14 });
}

START_TEST(test_terminal)
{
	terminal_open();
	setup_view("hypercalls");
	some_flushes();
	upcall(6000, 7, 1000, 2);
	channel(8200, 4, 55, 12, "xenbus", 300);
	terminal_check(&sinks, one_more, "9 hypercalls in 5 flushes, ", "10 hypercalls in 6 flushes, ",
		       "\nevtchn port 12 xenbus ", TERMINAL_CUT);
	done();
	terminal_close();
}
END_TEST

static void stack_is(__u64 id, __u64 address, __u64 caller)
{
	struct htrace_stack head = { .id = id, .kind = HTRACE_STACK_KERNEL, .nr = 2 };
	__u64 frames[] = { address, caller };
	char s[sizeof(head) + sizeof(frames)];

	memcpy(s, &head, sizeof(head));
	memcpy(s + sizeof(head), frames, sizeof(frames));
	stacks_add(stacks, s, sizeof(s));
}

START_TEST(test_folded)
{
	setup_view("hypercalls:folded");
	stack_is(5, 0xffffffff81000010, 0xffffffff82000010);
	if (_i) { /* where calls are queued; those of flushes are not counted again */
		queued(500, 5, 26);
		queued(600, 5, 26);
		queued(700, 9, 26); /* not recorded */
	}
	flushed(1000, 100, 5, 3, (const __u8[]){ 1, 26, 1 });
	ck_assert_str_eq(page(), _i ? "0xffffffff82000010;0xffffffff81000010;mmuext_op 2\n" :
				      "0xffffffff82000010;0xffffffff81000010;mmu_update 2\n"
				      "0xffffffff82000010;0xffffffff81000010;mmuext_op 1\n");
	done();
}
END_TEST

/* Without flushes those that were queued are counted. */
START_TEST(test_queued)
{
	setup_view("hypercalls");
	queued(1000, 0, 26);
	queued(2000, 0, 26);
	queued(3000, 0, 1);
	ck_assert_ptr_nonnull(strstr(page(), "\nmmuext_op                        2 "));
	ck_assert_ptr_nonnull(strstr(written(), " 66.67% "));
	done();
}
END_TEST

/* Counts that do not fit what follows them, records that end early, types and numbers that there are not. */
START_TEST(test_odd)
{
	static const __u8 many[32] = { 1, 2, 3, 4, 5, 6, 7, 8, 9 };
	struct flush f = { .ns = 1, .calls = 255 };
	const char *text;

	setup_view("hypercalls");
	flushed(1000, ~0ULL, 0, 32, many);
	memset(f.op, 1, sizeof(f.op));
	show_at(&origin, 1001, flush_id, &f, sizeof(f), false);
	show_at(&origin, 1002, flush_id, &f, 24, false);
	show_at(&origin, 1003, flush_id, &f, 8, false);
	channel(1004, 77, 9, 3, "\033[2J;\"\\0123456789", ~0ULL);
	upcall(1, 12345, ~0ULL, ~0U); /* a task without a name */
	sinks_session_end(&sinks, &session);
	text = page();
	ck_assert_ptr_nonnull(strstr(text, "542 hypercalls in 3 flushes"));
	ck_assert_ptr_nonnull(strstr(text, "operations that were not told: 478\n"));
	ck_assert_ptr_nonnull(strstr(text, "type ? 9 \\x1b[2J;\\x22\\x5c0123"));
	ck_assert_ptr_nonnull(strstr(text, "\n<...> "));
	ck_assert_ptr_null(strchr(text, '\033'));
	done();
}
END_TEST

START_TEST(test_bounds)
{
	struct hypercalls *h = malloc(sizeof(*h));
	char comm[16] = "";

	ck_assert_int_eq(hypercalls_init(h), 0);
	for (__u32 i = 0; i < 2 * HYPERCALLS_ROWS; i++) {
		struct hypercalls_flush f = { .calls = 1, .nr = 1, .op = { { i, NULL } }, .ns = 1 };

		memcpy(comm, &i, sizeof(i));
		hypercalls_flushed(h, 0, &f);
		hypercalls_upcall(h, 0, comm, "x", 1, 1);
		hypercalls_channel(h, 0, i, "x", 1);
	}
	for (__u32 i = 0; i < 2 * HYPERCALLS_STACKS; i++)
		hypercalls_stack(h, 1, i, 1);
	ck_assert_uint_eq(h->flush.count, 2ULL * HYPERCALLS_ROWS);
	ck_assert_uint_eq(h->upcall.count, 2ULL * HYPERCALLS_ROWS);
	ck_assert_uint_eq(h->unknown, HYPERCALLS_ROWS);
	ck_assert_uint_eq(h->beyond, 3ULL * HYPERCALLS_ROWS + HYPERCALLS_STACKS);
	ck_assert_uint_eq(h->ops.nr, HYPERCALLS_ROWS);
	ck_assert_uint_eq(h->batches.nr, HYPERCALLS_ROWS);
	hypercalls_free(h);
	free(h);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("view_hypercalls");
	TCase *tc = tcase_create("pages");

	tcase_add_test(tc, test_operations);
	tcase_add_test(tc, test_tables);
	tcase_add_test(tc, test_terminal);
	tcase_add_loop_test(tc, test_folded, 0, 2);
	tcase_add_test(tc, test_queued);
	tcase_add_test(tc, test_odd);
	tcase_add_test(tc, test_bounds);
	suite_add_tcase(s, tc);
	return unit_run(s);
}
