// SPDX-License-Identifier: LGPL-2.1-or-later
/* Pages of --view io: records of a guest and of its host become stages, if both are of one host and one time. */
#define SINK sink_text
#include "sink_fixture.h"

#include "terminal.h"
#include "vcpus.h"
#include "view.h"

#define VM 70
#define DEV (254u << 20 | 16)
#define REQ "req.0"

static struct sinks sinks;
static struct sink_session guest;
static struct origin in_guest[2];
static __u32 insert_id, issue_id, complete_id, notify_id, interrupt_id;
static __u32 exit_id, mmio_id, inject_id, entry_id, disk_id;
static __u64 bound;
static bool tells_disks;
static const char *view_name = "io";

struct rq {
	__u64 sector;
	__u32 dev, bytes, nr_sector, rwbs;
	__s32 error, pad;
};

struct vq {
	__u64 vq;
	char name[16];
};

struct host {
	__u32 vm, tid, vcpu, what; /* what: reason, or kind */
	__u64 rip;
};

struct disk {
	__u32 vm, tid;
	__u64 ns, queue_ns;
	__u32 dev, bytes, rwbs;
	__s32 error;
	__u64 sector;
};

static __u32 type(unsigned int size)
{
	return (__u32)htrace_builder_int(builder, "u", size, false, HTRACE_HINT_NONE);
}

static __u32 declare_struct(const char *name, __u32 size, const struct htrace_schema_member *m, __u32 nr)
{
	int id = htrace_builder_event(builder, name,
				      htrace_builder_struct(builder, name, false, size, m, nr));

	ck_assert_int_gt(id, 0);
	return (__u32)id;
}

static void declare_events(void)
{
	struct htrace_schema_member rq[] = {
		{ type(8), 0, 0, 0, "sector" }, { type(4), 64, 0, 0, "dev" }, { type(4), 96, 0, 0, "bytes" },
		{ type(4), 128, 0, 0, "nr_sector" }, { type(4), 160, 0, 0, "rwbs" },
		{ (__u32)htrace_builder_int(builder, "s", 4, true, HTRACE_HINT_NONE), 192, 0, 0, "error" },
	};
	struct htrace_schema_member vq[] = {
		{ type(8), 0, 0, 0, "vq" }, { (__u32)htrace_builder_string(builder, 16), 64, 0, 0, "name" },
	};
	struct htrace_schema_member host[] = {
		{ type(4), 0, 0, 0, "vm" }, { type(4), 32, 0, 0, "tid" }, { type(2), 64, 0, 0, "vcpu_id" },
		{ type(4), 96, 0, 0, "reason" }, { type(8), 128, 0, 0, "guest_rip" },
	};

	struct htrace_schema_member disk[] = {
		{ type(4), 0, 0, 0, "vm" }, { type(4), 32, 0, 0, "tid" }, { type(8), 64, 0, 0, "ns" },
		{ type(8), 128, 0, 0, "queue_ns" }, { type(4), 192, 0, 0, "dev" }, { type(4), 224, 0, 0, "bytes" },
		{ type(4), 256, 0, 0, "rwbs" },
		{ (__u32)htrace_builder_int(builder, "s", 4, true, HTRACE_HINT_NONE), 288, 0, 0, "error" },
		{ type(8), 320, 0, 0, "sector" },
	};

	insert_id = declare_struct("block_rq_insert", 32, rq, 6);
	issue_id = declare_struct("block_rq_issue", 32, rq, 6);
	complete_id = declare_struct("block_rq_complete", 32, rq, 6);
	notify_id = declare_struct("virtqueue_notify", 24, vq, 2);
	interrupt_id = declare_struct("vring_interrupt", 24, vq, 2);
	exit_id = declare_struct("kvm_exit", 24, host, 5);
	strcpy(host[3].name, "kind");
	mmio_id = declare_struct("kvm_mmio", 24, host, 5);
	entry_id = declare_struct("kvm_entry", 24, host, 3);
	strcpy(host[3].name, "vector");
	inject_id = declare_struct("kvm_inj_virq", 24, host, 4);
	if (tells_disks)
		disk_id = declare_struct("kvm_disk_complete", 48, disk, 9);
}

static void setup_all(void)
{
	setup();
	declare_events();
	finish_schema();
	session.facts.host = true;
	session.reading = schema;
	session.schema = 1;
	session.boot_id[0] = 9;
	guest = (struct sink_session){
		.path = "/dev/shm/vm", .source = "v\033m", .names = names, .source_nr = 1, .vm = VM,
		.reading = schema, .schema = 1, .on_host = true, .bound = &bound, .host_boot_id = { 9 },
	};
	bound = 100;
	for (unsigned int i = 0; i < 2; i++)
		in_guest[i] = (struct origin){ .session = &guest, .names = names, .per_cpu = true, .ring = i };
	sinks = (struct sinks){ .sink = { sink }, .nr = 1 };
	ck_assert_int_eq(views_open(&sinks, view_find(view_name), 0, 1), 0);
	sink = sinks.sink[0];
}

static void setup_view(void)
{
	tells_disks = true;
	setup_all();
}

static void setup_json(void)
{
	view_name = "io:json";
	setup_view();
}

/* An older one, or of a kernel without the tracepoints. */
static void setup_no_disks(void)
{
	tells_disks = false;
	setup_all();
}

static void at_guest(__u64 time, unsigned int cpu, __u32 id, const void *payload, __u32 len)
{
	struct htrace_record r = { .id = id, .len = len, .time = time, .payload = payload };
	struct vcpu_view view = { .vm = VM, .vcpu = 10 + cpu };
	struct sink_event e = {
		.from = &in_guest[cpu], .time = time, .record = &r, .event = events_find(events, id)->event,
		.vcpu = guest.vm ? &view : NULL,
	};

	sink.ops->event(&sink, &e);
}

static void at_host(__u64 time, __u32 vcpu, __u32 id, __u32 what)
{
	struct host h = { VM, 700 + vcpu, vcpu, what, 0 };

	show_at(&origin, time, id, &h, sizeof(h), false);
}

static void disk_at_host(__u64 time, __u64 ns, __u64 queue_ns, __u32 bytes, __s32 error)
{
	struct disk d = { VM, 705, ns, queue_ns, DEV + 1, bytes, 1, error, 0 };

	if (tells_disks)
		show_at(&origin, time, disk_id, &d, sizeof(d), false);
}

/* One request all the way; of a second queue, which is not a disk's, nothing is taken. */
static void one_request(void)
{
	struct rq rq = { 8, DEV, 65536, 128, 1, 0, 0 };
	struct vq vq = { 0xff00, REQ }, net = { 0xee00, "output.0" };

	at_host(500000, 10, entry_id, 0);
	at_guest(1000000, 0, insert_id, &rq, sizeof(rq));
	at_guest(1100000, 0, issue_id, &rq, sizeof(rq));
	at_guest(1110000, 0, notify_id, &net, sizeof(net));
	at_guest(1150000, 0, notify_id, &vq, sizeof(vq));
	at_host(1160000, 10, exit_id, 0x400);
	at_host(1161000, 10, mmio_id, 2);
	at_host(1200000, 10, entry_id, 0);
	disk_at_host(1600000, 300000, 40000, 65024, 0); /* from 1260 by 1300 */
	disk_at_host(1700000, 200000, 300000, 512, -5);  /* from 1200 by 1500 */
	at_host(1890000, 11, exit_id, 0x60);
	at_host(1900000, 11, inject_id, 0);
	at_host(1910000, 11, entry_id, 0);
	at_guest(1950000, 1, interrupt_id, &vq, sizeof(vq));
	at_guest(2000000, 1, complete_id, &rq, sizeof(rq));
}

static const char *page(void)
{
	one_request();
	views_close(&sinks, true);
	return written();
}

static void has(const char *text, const char *stage, const char *mean, const char *rest)
{
	const char *line = strstr(text, stage), *end = line ? strchr(line, '\n') : NULL, *at;

	ck_assert_msg(end, "no '%s' in:\n%s", stage, text);
	at = strstr(line, mean);
	ck_assert_msg(at && at < end && !strncmp(end - strlen(rest), rest, strlen(rest)), "'%s': '%.*s'", stage,
		      (int)(end - line), line);
}

START_TEST(test_stages)
{
	const char *text = page(), *own;

	ck_assert_ptr_null(strchr(text, '\033'));
	ck_assert(!strncmp(text, "block requests of guests in 0.002 s: 1\n\n"
			   "v\\x1bm, disk 254:16, write: 1 requests, 65536 bytes (65536 to 65536, mean 65536)\n", 80));
	has(text, "guest queue ", "  100.00 ", " 0        0");
	has(text, "guest driver ", "  50.00 ", " 0        0");
	has(text, "kick exit ", "  40.00 ", " 0        0");
	has(text, "VMM with disk ", " 700.00 ", " 0        0");
	has(text, "  host queue ", " 100.00 ", " 0        0");
	has(text, "  host disk ", " 400.00 ", " 0        0");
	has(text, "  VMM and KVM ", " 240.00 ", " 0        0");
	own = strstr(text, "\nVM 70, host disk 254:17, write: 2 requests, 65536 bytes (512 to 65024, mean 32768), "
		     "1 failed\nSTAGE ");
	ck_assert_ptr_nonnull(own);
	has(own, "host queue ", " 170.00 ", " 300.00");
	has(own, "host disk  ", " 250.00 ", " 300.00");
	ck_assert_ptr_nonnull(strstr(own, "\nVM 70, host disk 254:17, write, host disk, ns:\n"));
	has(text, "completion ", " 100.00 ", " 0        0");
	has(text, "total ", " 1000.00 ", " 0        0");
}
END_TEST

static void one_more(void)
{
	struct rq rq = { 8, DEV, 4096, 8, 1, 0, 0 };

	at_guest(2100000, 0, issue_id, &rq, sizeof(rq));
	at_guest(2200000, 0, complete_id, &rq, sizeof(rq));
}

START_TEST(test_terminal)
{
	one_request();
	terminal_check(&sinks, one_more, "block requests of guests in 0.002 s: 1\033[K\n", " s: 2",
		       "\nVM 70, host disk 254:17, write, host disk, ns:\n", TERMINAL_CUT);
}
END_TEST

START_TEST(test_no_disks)
{
	const char *text = page();

	has(text, "VMM with disk ", " 700.00 ", " 0        0");
	has(text, "  host queue ", " - ", " 0        1");
	has(text, "  host disk ", " - ", " 0        1");
	has(text, "  VMM and KVM ", " - ", " 0        1");
	ck_assert_ptr_null(strstr(text, "VM 70"));
}
END_TEST

/* Another host's; times that are not the host's; whose virtual CPU it was is not known. */
START_TEST(test_not_of_this_host)
{
	const char *text;

	if (_i == 0)
		guest.host_boot_id[0] = 8;
	else if (_i == 1)
		guest.on_host = false;
	else
		guest.vm = 0;
	text = page();
	ck_assert_ptr_nonnull(strstr(text, "stages on the host are not known"));
	has(text, "guest queue ", "  100.00 ", " 0        0");
	has(text, "kick exit ", " - ", " 0        1");
	has(text, "VMM with disk ", " - ", " 0        1");
	has(text, "completion ", " - ", " 0        1");
	has(text, "total ", " 1000.00 ", " 0        0");
}
END_TEST

/* What was lost is in no number; and another session of the guest has nothing to do with the one before. */
START_TEST(test_lost)
{
	struct sink_loss l = { .from = &in_guest[0], .time = 900000, .dropped = 3 };
	struct rq rq = { 8, DEV, 65536, 128, 4, 0, 0 };
	const char *text;

	at_guest(800000, 0, issue_id, &rq, sizeof(rq));
	if (_i)
		sinks_session_end(&sinks, &guest);
	else
		sinks_loss(&sinks, &l);
	text = page();
	ck_assert_ptr_nonnull(strstr(text, "\nnot counted: 1 in flight when events were lost, or a session ended\n"));
	ck_assert((strstr(text, "lost: 3 events") == NULL) == (_i == 1));
	ck_assert_ptr_null(strstr(text, ", read: "));
}
END_TEST

/* Captures of two hosts, whose VMs and disks have the same numbers. */
START_TEST(test_two_hosts)
{
	struct sink_session other = session;
	struct origin there = origin;
	struct disk d = { VM, 705, 300000, 40000, DEV + 1, 4096, 1, 0, 0 };
	const char *text;

	session.source = "here";
	other.source = "th\033re";
	other.source_nr = 2;
	there.session = &other;
	show_at(&origin, 1000000, disk_id, &d, sizeof(d), false);
	show_at(&there, 2000000, disk_id, &d, sizeof(d), false);
	views_close(&sinks, true);
	text = written();
	ck_assert_ptr_nonnull(strstr(text, "\nhere, VM 70, host disk 254:17, write: 1 requests"));
	ck_assert_ptr_nonnull(strstr(text, "\nth\\x1bre, VM 70, host disk 254:17, write: 1 requests"));
	ck_assert_ptr_nonnull(strstr(text, "\nth\\x1bre, VM 70, host disk 254:17, write, host disk, ns:\n"));
	session.source = NULL;
}
END_TEST

#define ONCE(v, unit, from) \
	"\"count\":1,\"sum_" unit "\":" #v ",\"min_" unit "\":" #v ",\"p50_" unit "\":" #v ",\"p99_" unit "\":" #v \
	",\"p999_" unit "\":" #v ",\"max_" unit "\":" #v ",\"error_percent\":0.00,\"octaves\":[{\"from_" unit "\":" #from \
	",\"count\":1}]"

START_TEST(test_json)
{
	const char *text = page(), *host = strstr(text, ",\"host_disks\":[");
	static const char *const parts[] = {
		"{\"view\":\"io\",\"first\":500000,\"last\":2000000,\"in_flight\":0,\"no_issue\":0,\"ambiguous\":0,\"void\":0,"
		"\"no_room\":0,\"lost\":0,\"disks\":[{\"source_nr\":1,\"source\":\"v\\\\x1bm\",\"major\":254,\"minor\":16,"
		"\"kind\":\"write\",\"failed\":0,\"size\":{" ONCE(65536, "bytes", 65536) "},\"stages\":[",
		"{\"stage\":\"guest queue\"," ONCE(100000, "ns", 65536) ",\"none\":0,\"unknown\":0}",
		"{\"stage\":\"kick exit\"," ONCE(40000, "ns", 32768) ",\"none\":0,\"unknown\":0}",
		"{\"stage\":\"total\"," ONCE(1000000, "ns", 524288) ",\"none\":0,\"unknown\":0}]}],\"host_disks\":["
		"{\"vm\":70,\"major\":254,\"minor\":17,\"kind\":\"write\",\"failed\":1,\"size\":{\"count\":2,"
		"\"sum_bytes\":65536,\"min_bytes\":512,",
	};

	for (size_t i = 0; i < sizeof(parts) / sizeof(*parts); i++)
		ck_assert_msg(strstr(text, parts[i]), "no %s in:\n%s", parts[i], text);
	ck_assert_ptr_nonnull(strstr(host, "{\"stage\":\"host queue\",\"count\":2,\"sum_ns\":340000,\"min_ns\":40000,"));
	ck_assert_ptr_nonnull(strstr(host, "{\"stage\":\"host disk\",\"count\":2,\"sum_ns\":500000,\"min_ns\":200000,"));
	ck_assert_str_eq(text + strlen(text) - 6, "}]}]}\n");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("view_io");
	TCase *tc = tcase_create("pages"), *none = tcase_create("no_disks"), *json = tcase_create("json"),
	      *terminals = tcase_create("terminal");

	tcase_add_checked_fixture(tc, setup_view, teardown);
	tcase_add_test(tc, test_stages);
	tcase_add_loop_test(tc, test_not_of_this_host, 0, 3);
	tcase_add_loop_test(tc, test_lost, 0, 2);
	tcase_add_test(tc, test_two_hosts);
	suite_add_tcase(s, tc);
	tcase_add_checked_fixture(none, setup_no_disks, teardown);
	tcase_add_test(none, test_no_disks);
	suite_add_tcase(s, none);
	tcase_add_checked_fixture(json, setup_json, teardown);
	tcase_add_test(json, test_json);
	suite_add_tcase(s, json);
	tcase_add_checked_fixture(terminals, terminal_open, terminal_close);
	tcase_add_checked_fixture(terminals, setup_view, teardown);
	tcase_add_test(terminals, test_terminal);
	suite_add_tcase(s, terminals);
	return unit_run(s);
}
