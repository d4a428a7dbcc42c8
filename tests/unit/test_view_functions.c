// SPDX-License-Identifier: LGPL-2.1-or-later
/* Pages of --view functions: calls become a table and a graph, whatever depths a guest makes up. */
#define SINK sink_text
#include "sink_fixture.h"

#include "calls.h"
#include "terminal.h"
#include "view.h"

static struct sinks sinks;
static __u32 function_id;

struct call {
	__u32 tid;
	__u16 function;
	__u8 depth, interrupt;
	__u64 ns;
};

static void setup_view(const char *name)
{
	static const struct htrace_schema_value values[] = { { 0, "a" }, { 1, "b" }, { 2, "c" } };
	struct htrace_schema_member m[5];

	setup();
	m[0] = (struct htrace_schema_member){ (__u32)htrace_builder_int(builder, "tid", 4, false, 0), 0, 0, 0, "tid" };
	m[1] = (struct htrace_schema_member){
		(__u32)htrace_builder_enum(builder, "name", 2, false, values, 3), 32, 0, 0, "function"
	};
	m[2] = (struct htrace_schema_member){ (__u32)htrace_builder_int(builder, "u8", 1, false, 0), 48, 0, 0, "depth" };
	m[3] = (struct htrace_schema_member){ m[2].type, 56, 0, 0, "interrupt" };
	m[4] = (struct htrace_schema_member){ (__u32)htrace_builder_int(builder, "u64", 8, false, 0), 64, 0, 0, "ns" };
	function_id = (__u32)htrace_builder_event(builder, "function",
						  htrace_builder_struct(builder, "function", false, 16, m, 5));
	finish_schema();
	sinks = (struct sinks){ .sink = { sink }, .nr = 1 };
	ck_assert_int_eq(views_open(&sinks, view_find(name), 0, 1), 0);
	sink = sinks.sink[0];
}

static void returned(__u64 time, __u32 tid, __u16 function, __u8 depth, __u8 interrupt, __u64 ns)
{
	struct call c = { tid, function, depth, interrupt, ns };

	show_at(&origin, time, function_id, &c, sizeof(c), false);
}

static const char *page(void)
{
	views_close(&sinks, true);
	return written();
}

static void lose(__u64 nr)
{
	struct sink_loss l = { .from = &origin, .dropped = nr };

	sinks_loss(&sinks, &l);
}

/* Of two tasks and an interrupt between them; a calls b twice, one of which calls c. */
static void some_calls(void)
{
	returned(1000, 7, 2, 2, false, 10);
	returned(1100, 7, 1, 1, false, 30);
	returned(1150, 8, 1, 0, false, 5);
	returned(1160, 7, 2, 1, true, 3);
	returned(1170, 7, 0, 0, true, 4);
	returned(1200, 7, 1, 1, false, 40);
	returned(1300, 7, 0, 0, false, 100);
}

START_TEST(test_folded)
{
	setup_view("functions:folded");
	some_calls();
	ck_assert_str_eq(page(), "kernel;a 30\nkernel;a;b 60\nkernel;a;b;c 10\nkernel;b 5\n"
				 "interrupts;a 1\ninterrupts;a;c 3\n");
	teardown();
}
END_TEST

START_TEST(test_table)
{
	const char *text;

	setup_view("functions");
	some_calls();
	text = page();
	ck_assert_msg(strstr(text, "7 calls of 3 functions in 0.000 s, 0.000 ms in the outermost") == text, "%s", text);
	/* b: 75 of 109 ns, 65 of them itself */
	ck_assert_ptr_nonnull(strstr(text, "  42.86%  68.81%  59.63%       0.03 "));
	ck_assert(strstr(text, "MOST TIME") < strstr(text, "MOST CALLS"));
	teardown();
}
END_TEST

static void one_more(void)
{
	returned(1400, 7, 0, 0, false, 11);
}

START_TEST(test_terminal)
{
	terminal_open();
	setup_view("functions");
	some_calls();
	terminal_check(&sinks, one_more, "7 calls of 3 functions in ", "8 calls of 3 functions in ", "\nc ",
		       "\nand 2 more");
	teardown();
	terminal_close();
}
END_TEST

START_TEST(test_json)
{
	setup_view("functions:json");
	returned(1000, 7, 1, 1, false, 30);
	returned(1300, 7, 0, 0, false, 100);
	returned(1400, 7, 2, 3, false, 1);
	ck_assert_str_eq(page(),
		"{\"view\":\"functions\",\"calls\":3,\"first\":1000,\"last\":1400,\"outermost_ns\":100,\"lost\":0,\"waiting\":1,"
		"\"no_room\":0,\"no_room_in_graph\":0,\"functions\":["
		"{\"function\":\"a\",\"calls\":1,\"ns\":100,\"self_ns\":70,\"min_ns\":100,\"p50_ns\":100,\"p99_ns\":100,\"max_ns\":100},"
		"{\"function\":\"b\",\"calls\":1,\"ns\":30,\"self_ns\":30,\"min_ns\":30,\"p50_ns\":30,\"p99_ns\":30,\"max_ns\":30},"
		"{\"function\":\"c\",\"calls\":1,\"ns\":1,\"self_ns\":1,\"min_ns\":1,\"p50_ns\":1,\"p99_ns\":1,\"max_ns\":1}],"
		"\"graph\":[{\"root\":\"kernel\",\"called\":[{\"function\":\"a\",\"calls\":1,\"ns\":100,\"self_ns\":70,\"called\":["
		"{\"function\":\"b\",\"calls\":1,\"ns\":30,\"self_ns\":30}]}]}]}\n");
	teardown();
}
END_TEST

/* Whose record was lost, or whose session is over, calls nobody any more. */
START_TEST(test_lost)
{
	setup_view("functions:folded");
	returned(1000, 7, 2, 2, false, 10);
	if (_i)
		sinks_session_end(&sinks, &session);
	else
		lose(5);
	returned(1300, 7, 0, 0, false, 100);
	ck_assert_str_eq(page(), "kernel;a 100\nkernel;[caller not seen];c 10\n");
	teardown();
}
END_TEST

/* Callers between may be left out; nothing that is said of depths and times does harm. */
START_TEST(test_odd)
{
	setup_view("functions:folded");
	returned(1000, 7, 2, 200, false, 10);
	returned(1100, 7, 1, 100, false, 30);
	returned(1200, 7, 0, 0, false, 7); /* less than what it called */
	returned(1300, 7, 9, 255, false, ~0ULL);
	returned(1300, 7, 9, 0, false, 1); /* it has no name */
	ck_assert_str_eq(page(), "kernel;a 0\nkernel;a;b 20\nkernel;a;b;c 10\n"
				 "kernel;function_9 0\nkernel;function_9;function_9 18446744073709551615\n");
	teardown();
}
END_TEST

/* More tasks, and more paths, than there is room for: what they took is in the table still. */
START_TEST(test_bounds)
{
	struct calls *c = calls_new();
	struct calls_at at = { .time = 1 };
	size_t nr;
	char name[20];

	for (__u32 i = 0; i < 2 * CALLS_FUNCTIONS; i++) {
		snprintf(name, sizeof(name), "f%u", i);
		for (at.depth = 3; at.depth + 1; at.depth--) {
			at.tid = i;
			calls_returned(c, &at, name, 10);
		}
	}
	free(calls_functions(c, true, &nr));
	ck_assert_uint_eq(nr, CALLS_FUNCTIONS);
	ck_assert_uint_eq(c->count, 8ULL * CALLS_FUNCTIONS);
	ck_assert_uint_eq(c->beyond, 4ULL * CALLS_FUNCTIONS);
	ck_assert_uint_le(c->nodes, CALLS_NODES);
	for (at.tid = 0; at.tid < 2 * CALLS_STACKS; at.tid++) {
		at.depth = 1;
		calls_returned(c, &at, "f1", 10);
	}
	ck_assert_uint_gt(c->beyond_graph, CALLS_STACKS);
	ck_assert_uint_le(c->stacks.nr, CALLS_STACKS);
	calls_loss(c, 0, 1);
	ck_assert_uint_eq(calls_waiting(c), 0);
	calls_free(c);
}
END_TEST

/* A loss is its own source's, also where the stack is never used again; what waits in vain gives its room back. */
START_TEST(test_losses)
{
	struct calls *c = calls_new();
	struct calls_at at = { .time = 1, .depth = 1 };
	size_t nodes;

	for (at.source = 0; at.source < 2; at.source++)
		for (at.tid = 0; at.tid < 10; at.tid++)
			calls_returned(c, &at, "f", 10);
	nodes = c->nodes;
	calls_loss(c, 1, 3);
	ck_assert_uint_eq(calls_waiting(c), 10);
	at = (struct calls_at){ .time = 2, .source = 1 };
	calls_returned(c, &at, "g", 50);
	ck_assert_uint_eq(c->root[1][CALLS_KERNEL].seen.self, 0);
	ck_assert_uint_eq(c->root[1][CALLS_KERNEL].seen.child->self, 50);
	ck_assert_uint_eq(c->root[1][CALLS_KERNEL].unseen.child->count, 1);
	for (int i = 0; i < 2000; i++)
		calls_loss(c, 1, 0);
	ck_assert_uint_eq(c->root[1][CALLS_KERNEL].unseen.child->count, 10);
	ck_assert_uint_eq(c->nodes, nodes - 9 + 1);
	at = (struct calls_at){ .time = 2, .source = 0 };
	calls_returned(c, &at, "g", 50);
	ck_assert_uint_eq(c->root[0][CALLS_KERNEL].seen.child->self, 40);
	ck_assert_uint_eq(c->lost, 3);
	calls_free(c);
}
END_TEST

/* An NMI comes into an interrupt whose calls have not all returned: they are still that interrupt's. */
START_TEST(test_nmi)
{
	setup_view("functions:folded");
	returned(1000, 7, 1, 1, 1, 10);
	returned(1100, 7, 2, 0, 2, 5);
	returned(1200, 7, 0, 0, 1, 300);
	ck_assert_str_eq(page(), "interrupts;a 290\ninterrupts;a;b 10\ninterrupts;c 5\n");
	teardown();
}
END_TEST

/* The number of a task that died in the midst of calls is another's later: it did not make them. */
START_TEST(test_number_again)
{
	setup_view("functions:folded");
	returned(1000000000, 7, 1, 1, 0, 10); /* b, by a, which never returns */
	returned(3000000000, 7, 2, 1, 0, 20);
	returned(3000000100, 7, 0, 0, 0, 500);
	returned(3000000200, 7, 0, 0, 0, 40);
	ck_assert_str_eq(page(), "kernel;a 520\nkernel;a;c 20\nkernel;[caller not seen];b 10\n");
	teardown();
}
END_TEST

/* Tasks that are over give their room to others. */
START_TEST(test_tasks_end)
{
	struct calls *c = calls_new();
	struct calls_at at = { .time = 1 };

	for (at.tid = 0; at.tid < 5 * CALLS_STACKS; at.tid++)
		for (at.depth = 1; at.depth + 1; at.depth--) {
			if (!at.depth && at.tid % 64 == 0)
				continue; /* this one waits */
			calls_returned(c, &at, at.depth ? "g" : "f", 10);
		}
	ck_assert_uint_eq(c->beyond_graph, 0);
	ck_assert_uint_le(c->stacks.nr, CALLS_STACKS);
	ck_assert_uint_eq(calls_waiting(c), 5 * CALLS_STACKS / 64);
	for (at.tid = 0; at.tid < 5 * CALLS_STACKS; at.tid += 64) { /* each is found where it is now */
		at.depth = 0;
		calls_returned(c, &at, "f", 10);
	}
	ck_assert_uint_eq(calls_waiting(c), 0);
	ck_assert_uint_eq(c->root[0][CALLS_KERNEL].seen.child->count, 5 * CALLS_STACKS);
	ck_assert_uint_eq(c->root[0][CALLS_KERNEL].seen.child->child->count, 5 * CALLS_STACKS);
	ck_assert_ptr_null(c->root[0][CALLS_KERNEL].unseen.child);
	calls_free(c);
}
END_TEST

/* Nothing outermost has returned: shares are of what is known, and small ones are left out all the same. */
START_TEST(test_no_outermost)
{
	const char *text;

	setup_view("functions:graph");
	returned(1000, 7, 1, 1, 0, 999999);
	returned(1100, 7, 2, 1, 0, 1);
	lose(1);
	text = page();
	ck_assert_ptr_nonnull(strstr(text, "100.00% 100.00%          1    1000.00  b\n"));
	ck_assert_ptr_nonnull(strstr(text, "1 more, of less than 0.1% each\n"));
	teardown();
}
END_TEST

/* What the source is called has no separators; lines are 64 MiB at most, whatever a guest makes up. */
START_TEST(test_folded_bounds)
{
	const char *text;

	setup_view("functions:folded");
	session.source = "a;b:c;d";
	returned(1000, 7, 1, 1, 0, 10);
	returned(1100, 7, 0, 0, 0, 30);
	returned(1200, 7, 2, 1, 0, 5);
	lose(1);
	returned(1300, 7, 0, 0, 0, 1);
	text = page();
	session.source = NULL;
	ck_assert_str_eq(text, "a,b:c,d:kernel;a 21\na,b:c,d:kernel;a;b 10\na,b:c,d:kernel;[caller not seen];c 5\n");
	teardown();
}
END_TEST

/* Chains of 256 calls with long names: some 500 MiB, if they all were written. */
START_TEST(test_folded_size)
{
	size_t len = 0;
	FILE *f;

	setup_view("functions:folded");
	for (unsigned int chain = 0; chain < 250; chain++)
		for (unsigned int depth = 255; depth + 1; depth--)
			returned(1000 + chain, 7, (__u16)(depth ? 1000 + depth : chain + 10), (__u8)depth, 0, 300 - depth);
	views_close(&sinks, true);
	f = fopen(path, "r");
	ck_assert_ptr_nonnull(f);
	fseek(f, 0, SEEK_END);
	len = (size_t)ftell(f);
	fclose(f);
	ck_assert_uint_gt(len, 40 << 20);
	ck_assert_uint_le(len, 64 << 20);
	teardown();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("view_functions");
	TCase *tc = tcase_create("pages");

	tcase_set_timeout(tc, 60); /* on a machine with other work */
	tcase_add_test(tc, test_folded);
	tcase_add_test(tc, test_table);
	tcase_add_test(tc, test_json);
	tcase_add_test(tc, test_terminal);
	tcase_add_loop_test(tc, test_lost, 0, 2);
	tcase_add_test(tc, test_odd);
	tcase_add_test(tc, test_bounds);
	tcase_add_test(tc, test_losses);
	tcase_add_test(tc, test_nmi);
	tcase_add_test(tc, test_number_again);
	tcase_add_test(tc, test_tasks_end);
	tcase_add_test(tc, test_no_outermost);
	tcase_add_test(tc, test_folded_bounds);
	tcase_add_test(tc, test_folded_size);
	suite_add_tcase(s, tc);
	return unit_run(s);
}
