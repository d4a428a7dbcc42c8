// SPDX-License-Identifier: LGPL-2.1-or-later
/* Pages of --view steal: totals, shares of time, and what the host says, also where records are missing. */
#define SINK sink_text
#include "sink_fixture.h"

#include "vcpus.h"
#include "view.h"

static struct sinks sinks;
static __u32 steal_id, other_id;
static const __u8 boot_id[16] = { 1 }; /* the host's */
static struct vcpu_view vcpu; /* what the host says of the next event; vm 0: nothing */

static void setup_view(const char *name)
{
	__u32 u32, u64;
	struct htrace_schema_member m[3];

	setup();
	u32 = (__u32)htrace_builder_int(builder, "u32", 4, false, 0);
	u64 = (__u32)htrace_builder_int(builder, "u64", 8, false, 0);
	m[0] = (struct htrace_schema_member){ u64, 0, 0, 0, "stolen_ns" };
	m[1] = (struct htrace_schema_member){ u64, 64, 0, 0, "total_ns" };
	m[2] = (struct htrace_schema_member){ u32, 128, 0, 0, "cpu" };
	steal_id = (__u32)htrace_builder_event(builder, "steal",
					       htrace_builder_struct(builder, "steal", false, 24, m, 3));
	other_id = declare("other", "n", (int)u64);
	finish_schema();
	vcpu = (struct vcpu_view){ 0 };
	sinks = (struct sinks){ .sink = { sink }, .nr = 1 };
	ck_assert_int_eq(views_open(&sinks, view_find(name), 0, 1), 0);
	sink = sinks.sink[0];
}

static void happens(__u64 time, __u32 id, const void *payload, __u32 len)
{
	struct htrace_record r = { .id = id, .len = len, .time = time, .payload = payload };
	struct sink_event e = {
		.from = &origin, .time = time, .record = &r, .event = events_find(events, id)->event,
		.vcpu = vcpu.vm ? &vcpu : NULL,
	};

	sink.ops->event(&sink, &e);
}

static void steal(__u64 time, __u32 cpu, __u64 stolen, __u64 total)
{
	struct {
		__u64 stolen, total;
		__u32 cpu, pad;
	} s = { stolen, total, cpu, 0 };

	happens(time, steal_id, &s, sizeof(s));
}

static void other(__u64 time)
{
	__u64 n = 1;

	happens(time, other_id, &n, sizeof(n));
}

static const char *page(void)
{
	views_close(&sinks, true);
	return written();
}

static void has(const char *text, const char *what)
{
	ck_assert_msg(strstr(text, what), "no '%s' in:\n%.3000s", what, text);
}

START_TEST(test_json)
{
	setup_view("steal:json");
	steal(1000, 0, 0, 700);
	steal(1500, 0, 100, 800);
	steal(1900, 1, 0, 5);
	steal(2000, 0, 4, 804);
	other(3000);
	ck_assert_str_eq(page(),
		"{\"view\":\"steal\",\"first\":1000,\"last\":3000,\"lost\":0,\"no_room\":0,\"vcpus\":["
		"{\"vcpu\":0,\"count\":2,\"stolen_ns\":104,\"recorded_ns\":104,\"observed_ns\":2000,\"min_ns\":4,\"p50_ns\":4,"
		"\"p99_ns\":100,\"max_ns\":100,\"octaves\":[{\"from_ns\":4,\"count\":1},{\"from_ns\":64,\"count\":1}]},"
		"{\"vcpu\":1,\"count\":0,\"stolen_ns\":0,\"recorded_ns\":0,\"observed_ns\":1100,\"min_ns\":0,\"p50_ns\":0,"
		"\"p99_ns\":0,\"max_ns\":0,\"octaves\":[]}]}\n");
	teardown();
}
END_TEST

START_TEST(test_table)
{
	const char *text;

	setup_view("steal");
	steal(1000000, 2, 0, 0);
	steal(2000000, 2, 250000, 250000);
	steal(5000000, 2, 750000, 1000000);
	text = page();
	ck_assert_msg(
		      strstr(text, "1.000 ms stolen, 2 times, 25.00% of 1 vCPU's time, in 0.004 s\n") == text, "%s", text);
	ck_assert_ptr_nonnull(strstr(text, "\n2              2        1.000  25.00%     500.00 "));
	ck_assert_ptr_nonnull(strstr(text, "[512K, 1M)"));
	ck_assert_ptr_null(strstr(text, "Preempted"));
	teardown();
}
END_TEST

/* Where records were lost the total still says how much it was. */
START_TEST(test_lost)
{
	struct sink_loss l = { .from = &origin, .overwritten = 3 };

	setup_view("steal");
	steal(1000000, 0, 10, 1010);
	sinks_loss(&sinks, &l);
	steal(2000000, 0, 10, 500000);
	ck_assert_ptr_nonnull(strstr(page(), "lost: 3 events\n"));
	ck_assert_ptr_nonnull(strstr(written(), "  0.499 ms not one by one\n"));
	teardown();
}
END_TEST

/* An agent that starts again, and a guest whose count does, begin anew; what was before stays counted. */
START_TEST(test_again)
{
	setup_view("steal:json");
	steal(1000, 0, 0, 100);
	steal(2000, 0, 50, 150);
	if (_i == 0)
		sinks_session_end(&sinks, &session);
	if (_i == 2) {
		steal(9000, 0, 7, 7); /* without an agent's word */
		steal(9500, 0, 3, 10);
	} else {
		steal(9000, 0, 0, 990);
		steal(9500, 0, 10, 1000);
	}
	ck_assert_ptr_nonnull(strstr(page(), _i ? "\"stolen_ns\":60,\"recorded_ns\":60,\"observed_ns\":8500," :
						  "\"stolen_ns\":60,\"recorded_ns\":60,\"observed_ns\":1500,"));
	teardown();
}
END_TEST

START_TEST(test_host)
{
	setup_view("steal");
	steal(1000000, 2, 0, 0);
	vcpu = (struct vcpu_view){ .host = boot_id, .vm = 9, .state = VCPU_RUNNING };
	other(1100000);
	vcpu = (struct vcpu_view){
		.host = boot_id, .vm = 9, .since_known = true, .preempted_since = 400000, .out_since = 100000,
	};
	other(1900000);
	vcpu.preempted_since = 200000;
	steal(2000000, 2, 600000, 600000);
	vcpu.since_known = false;
	other(2100000);
	ck_assert_ptr_nonnull(strstr(page(), " Preempted ms     Out ms    Told\n"));
	ck_assert_ptr_nonnull(strstr(written(), "        0.600      0.200   50.00%\n"));
	teardown();
}
END_TEST

/* The kvm source says: of @vm's virtual CPU the thread was off its CPU, for @comm. NULL: it does not say for whom. */
static void taken(__u32 vm, __u32 number, __u64 since, __u64 until, __u32 tid, const char *comm)
{
	struct sink_session host = { .path = "kvm", .source_nr = 5, .facts.host = true };
	struct vcpu_taker taker = { .tid = tid };
	struct vcpu_change c = {
		.vm = vm, .vcpu = number, .time = until, .since = since, .before = VCPU_PREEMPTED, .state = VCPU_OUT,
		.taker = comm ? &taker : NULL,
	};

	memcpy(host.facts.boot_id, boot_id, sizeof(boot_id));
	if (comm)
		memcpy(taker.comm, comm, strnlen(comm, sizeof(taker.comm)));
	sinks_vcpu(&sinks, &host, &c);
	c.before = VCPU_ASLEEP; /* not preempted: nobody took anything */
	sinks_vcpu(&sinks, &host, &c);
}

/* By whom, largest first; virtual CPUs are called as above where their guests say something. */
static void be_taken(void)
{
	taken(9, 0, 1000000, 1400000, 77, "gzip");
	vcpu = (struct vcpu_view){ .host = boot_id, .vm = 9, .state = VCPU_RUNNING };
	steal(1400000, 2, 0, 0);
	taken(9, 0, 1500000, 3000000, 0, "swapper/1");
	taken(9, 0, 3100000, 6100000, 77, "gzip");
	taken(9, 0, 7000000, 7100000, 77, "bash"); /* that has another name by now */
	taken(9, 1, 1000000, 1500000, 78, "\033[2J\"\\12345678x"); /* which it has none after */
	taken(9, 1, 2000000, 2500000, 0, NULL);
}

START_TEST(test_takers)
{
	setup_view("steal");
	be_taken();
	ck_assert_str_eq(page(),
		"0.000 ms stolen, 0 times, 0.00% of 1 vCPU's time, in 0.000 s\n"
		"none was recorded: start guest-agent with --events steal; its --probe says whether the hypervisor "
		"tells\n"
		"\n"
		"vCPU       Times    Stolen ms   Share    Mean us    p50 us    p90 us    p99 us     Max us Preempted ms "
		"    Out ms    Told\n"
		"2              0        0.000   0.00%       0.00      0.00      0.00      0.00       0.00            - "
		"         -    0.00%\n"
		"\n"
		"vCPU        TAKEN BY                   Thread     Times     Taken ms    Share    Mean us     Max us\n"
		"2           gzip                           77         2        3.400   68.00%    1700.00    3000.00\n"
		"            swapper/1                       0         1        1.500   30.00%    1500.00    1500.00\n"
		"            bash                           77         1        0.100    2.00%     100.00     100.00\n"
		"VM 9 vCPU 1 \\x1b[2J\\x22\\x5c12345678x       78         1        0.500   50.00%     500.00 "
		"    500.00\n"
		"            (others)                        -         1        0.500   50.00%     500.00          -\n");
	teardown();
}
END_TEST

START_TEST(test_takers_json)
{
	setup_view("steal:json");
	be_taken();
	ck_assert_str_eq(page(),
		"{\"view\":\"steal\",\"first\":1400000,\"last\":1400000,\"lost\":0,\"no_room\":0,\"vcpus\":["
		"{\"vcpu\":2,\"count\":0,\"stolen_ns\":0,\"recorded_ns\":0,\"observed_ns\":0,\"min_ns\":0,\"p50_ns\":0,"
		"\"p99_ns\":0,\"max_ns\":0,\"host_preempted_ns\":0,\"host_out_ns\":0,\"host_told\":0,"
		"\"host_not_told\":1,"
		"\"host_vm\":9,\"host_vcpu\":0,\"octaves\":[]}],\"taken\":["
		"{\"vm\":9,\"vcpu\":0,\"ns\":5000000,\"count\":4,\"by\":["
		"{\"tid\":77,\"comm\":\"gzip\",\"ns\":3400000,\"count\":2,\"max_ns\":3000000},"
		"{\"tid\":0,\"comm\":\"swapper/1\",\"ns\":1500000,\"count\":1,\"max_ns\":1500000},"
		"{\"tid\":77,\"comm\":\"bash\",\"ns\":100000,\"count\":1,\"max_ns\":100000}],"
		"\"others_ns\":0,\"others_count\":0},"
		"{\"vm\":9,\"vcpu\":1,\"ns\":1000000,\"count\":2,\"by\":["
		"{\"tid\":78,\"comm\":\"\\\\x1b[2J\\\\x22\\\\x5c12345678x\",\"ns\":500000,\"count\":1,"
		"\"max_ns\":500000}],"
		"\"others_ns\":500000,\"others_count\":1}]}\n");
	teardown();
}
END_TEST

/* However many take it: those that take most stay, all time is somebody's, and little is shown. */
START_TEST(test_many_takers)
{
	const char *text;

	setup_view("steal");
	for (__u32 i = 0; i < 100000; i++) {
		taken(9, i % 2, 1000, 2000, 1000 + i, "short");
		if (i % 1000 < 20)
			taken(9, 0, 10000, 110000, 7 + i % 1000, "long");
	}
	for (__u32 i = 1; i < 2000; i++)
		taken(9 + i, 0, 1000, 1001, 1, "x");
	text = page();
	has(text, "for which there was no room: 977\n");
	has(text, "\nVM 9 vCPU 0    long                    7       100       10.000    4.00%     100.00     100.00\n");
	has(text, "\n               long                   16       100       10.000    4.00%     100.00     100.00\n"
		  "               (others)                -     51000      150.000   60.00%       2.94          -\n");
	has(text, "\n               (others)                -     49990       49.990   99.98%       1.00          -\n");
	teardown();
}
END_TEST

START_TEST(test_bounds)
{
	setup_view("steal");
	for (__u32 i = 0; i < 3000; i++)
		steal(1000 + i, i, ~0ULL, 1);
	ck_assert_ptr_nonnull(strstr(page(), "for which there was no room: 1976\n"));
	teardown();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("view_steal");
	TCase *tc = tcase_create("pages");

	tcase_add_test(tc, test_json);
	tcase_add_test(tc, test_table);
	tcase_add_test(tc, test_lost);
	tcase_add_loop_test(tc, test_again, 0, 3);
	tcase_add_test(tc, test_host);
	tcase_add_test(tc, test_takers);
	tcase_add_test(tc, test_takers_json);
	tcase_add_test(tc, test_many_takers);
	tcase_add_test(tc, test_bounds);
	suite_add_tcase(s, tc);
	return unit_run(s);
}
