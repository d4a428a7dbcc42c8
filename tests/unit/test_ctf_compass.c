// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * -o ctf:DIR,trace-compass, event by event: what the host's events become, what is made up beside them and when, and
 * what a guest's are called. The system test `compass` goes by the program's own rules.
 */
#define SINK sink_ctf
#define SINK_OPTIONS "trace-compass"
#include "sink_fixture.h"

#include "ctf_classes.h"
#include "vcpus.h"

#define MS 1000000ULL

enum { A = 100, B = 200 }; /* processes of VMs */

static __u32 id_exit, id_entry, id_out, id_in, id_whole, id_vcpu, id_tick;
static struct sink_session host, guest[2];
static struct origin cpu[2], ring[2][2];

/* What all of the source kvm's begin with, and what some have behind it. */
struct kvm {
	__u32 vm, tid;
	__u16 vcpu, pad;
	__u32 value, next;
	__u64 rip, ns;
};

static __u32 declare_kvm(const char *name, const char *value, const char *more)
{
	int u32 = htrace_builder_int(builder, "u32", 4, false, HTRACE_HINT_NONE);
	int u64 = htrace_builder_int(builder, "u64", 8, false, HTRACE_HINT_NONE);
	int u16 = htrace_builder_int(builder, "u16", 2, false, HTRACE_HINT_NONE);
	int tid = htrace_builder_int(builder, "tid", 4, false, HTRACE_HINT_TID);
	struct htrace_schema_member m[7] = {
		{ .type = (__u32)u32, .name = "vm" },
		{ .type = (__u32)tid, .bit_off = 32, .name = "tid" },
		{ .type = (__u32)u16, .bit_off = 64, .name = "vcpu_id" },
	};
	__u32 nr = 3;
	int id;

	if (value) {
		m[nr] = (struct htrace_schema_member){ .type = (__u32)u32, .bit_off = 96 };
		strcpy(m[nr++].name, value);
	}
	if (more && !strcmp(more, "next_tid")) {
		m[nr] = (struct htrace_schema_member){ .type = m[1].type, .bit_off = 128 };
		strcpy(m[nr++].name, more);
	} else if (more) {
		m[nr++] = (struct htrace_schema_member){ .type = (__u32)u64, .bit_off = 192, .name = "guest_rip" };
		m[nr] = (struct htrace_schema_member){ .type = (__u32)u64, .bit_off = 256 };
		strcpy(m[nr++].name, more);
	}
	id = htrace_builder_event(builder, name, htrace_builder_struct(builder, name, false, 40, m, nr));
	ck_assert_int_gt(id, 0);
	return (__u32)id;
}

static void begin(void)
{
	setup();
	id_exit = declare_kvm("kvm_exit", "reason", "info1");
	id_entry = declare_kvm("kvm_entry", NULL, NULL);
	id_out = declare_kvm("kvm_sched_out", "prev_state", "next_tid");
	id_in = declare_kvm("kvm_sched_in", NULL, NULL);
	id_whole = declare_kvm("kvm_io", "reason", "exit_overhead_ns");
	id_vcpu = declare_kvm("kvm_vcpu", NULL, NULL);
	id_tick = declare("tick", "nr", htrace_builder_int(builder, "u32", 4, false, HTRACE_HINT_NONE));
	finish_schema();
	host = session;
	host.path = "kvm";
	host.facts.host = true;
	host.boot_id[0] = 0xb0;
	for (unsigned int i = 0; i < 2; i++) {
		cpu[i] = (struct origin){ .session = &host, .names = names, .per_cpu = true, .ring = i };
		guest[i] = session;
		guest[i].path = i ? "/dev/shm/b" : "/dev/shm/a";
		guest[i].on_host = true;
		guest[i].boot_id[0] = 0xb0; /* as if it were the host */
		guest[i].host_boot_id[0] = 0xb0;
		for (unsigned int r = 0; r < 2; r++)
			ring[i][r] = (struct origin){
				.session = &guest[i], .names = names, .per_cpu = true, .ring = r
			};
	}
}

/* ------------------------------------------------------------------------------------ what happens */

static void happen(const struct origin *from, __u64 time, __u32 id, const void *payload, __u32 len,
		   const struct vcpu_view *view)
{
	struct htrace_record r = { .id = id, .len = len, .time = time, .payload = payload };
	const struct event_info *info = events_find(events, id);
	struct sink_event e = { .from = from, .time = time, .record = &r, .event = info->event, .vcpu = view };

	event_before(info, names, &e);
	sink.ops->event(&sink, &e);
}

static void on_host(unsigned int at, __u64 time, __u32 id, struct kvm k)
{
	happen(&cpu[at], time, id, &k, sizeof(k), NULL);
}

/* Its CPU @nr is KVM's 4 * @nr. */
static void tick(unsigned int of, unsigned int nr, __u64 time)
{
	const struct vcpu_view view = { .vm = of ? B : A, .vcpu = 4 * nr, .state = VCPU_RUNNING };
	__u32 value[4] = { 7 };

	happen(&ring[of][nr], time, id_tick, value, sizeof(value), &view);
}

/* -------------------------------------------------------------------------------- reading it back */

static char *slurp(const char *name, size_t *len)
{
	static char data[2 << 20];
	char file[128];
	FILE *f;

	snprintf(file, sizeof(file), "%s/%s", path, name);
	f = fopen(file, "r");
	ck_assert_msg(f != NULL, "no file %s", file);
	*len = fread(data, 1, sizeof(data) - 1, f);
	data[*len] = 0;
	fclose(f);
	return data;
}

struct __attribute__((packed)) switched {
	__s32 prev, prio;
	__s64 state;
};

struct __attribute__((packed)) exited {
	__u32 reason;
	__u64 rip;
	__u32 isa;
	__u64 info1, info2;
	__u32 vcpu;
};

/* One event's fields at @p, as text; where they end. */
static const char *one(const char *p, unsigned int id, char *out, size_t room)
{
	struct switched sw;
	struct exited x;
	__u64 sync[2];
	__s32 v[6];

	switch (id) {
	case CTF_DUMP_START:
	case CTF_DUMP_END:
		snprintf(out, room, "dump");
		return p;
	case CTF_DUMP_TASK:
		memcpy(v, p, sizeof(v));
		snprintf(out, room, "task %d of %d, parent %d", v[0], v[2], v[4]);
		p += sizeof(v);
		return p + strlen(p) + 1 + 24;
	case CTF_HOST_SWITCH:
		p += strlen(p) + 1;
		memcpy(&sw, p, sizeof(sw));
		p += sizeof(sw);
		p += strlen(p) + 1;
		memcpy(v, p, 8);
		snprintf(out, room, "switch %d(%lld) %d", sw.prev, (long long)sw.state, v[0]);
		return p + 8;
	case CTF_KVM_EXIT:
		memcpy(&x, p, sizeof(x));
		snprintf(out, room, "exit %u.%u", x.isa, x.reason);
		return p + sizeof(x);
	case CTF_KVM_ENTRY:
		memcpy(v, p, 4);
		snprintf(out, room, "entry %d", v[0]);
		return p + 4;
	case CTF_SYNC_GH_GUEST:
	case CTF_SYNC_GH_HOST:
	case CTF_SYNC_HG_GUEST:
	case CTF_SYNC_HG_HOST:
		memcpy(sync, p, sizeof(sync));
		snprintf(out, room, "%s %llu of %llu", id == CTF_SYNC_GH_GUEST || id == CTF_SYNC_GH_HOST ? "gh" : "hg",
			 (unsigned long long)sync[0], (unsigned long long)sync[1]);
		return p + sizeof(sync);
	default:
		return NULL;
	}
}

/* A stream's events: TIME PID/TID WHAT; ... Others are of @other bytes. */
static const char *all(const char *name, size_t other)
{
	static char text[65536];
	size_t len, at = 0, n = 0;
	const char *data;

	sink.ops->flush(&sink);
	data = slurp(name, &len);
	while (at < len) {
		__u64 size[2]; /* content, packet: in bits */
		const char *p = data + at + 24 + 4 * 8 + 16 + 4, *end;

		memcpy(size, data + at + 24 + 16, sizeof(size));
		end = data + at + size[0] / 8;
		for (; p < end;) {
			struct ctf_event_header h;
			char what[128] = "other";
			const char *next;

			memcpy(&h, p, sizeof(h));
			p += sizeof(h);
			p += strlen(p) + 1;
			if (strstr(name, "-vcpu")) {
				p += 13;
				p += strlen(p) + 1 + 16;
			}
			next = one(p, h.id, what, sizeof(what));
			p = next ? next : p + other;
			n += (size_t)snprintf(text + n, sizeof(text) - n, "%llu %d/%d %s; ",
					      (unsigned long long)h.timestamp, h.pid, h.tid, what);
		}
		ck_assert_ptr_eq(p, end);
		at += size[1] / 8;
	}
	return text;
}

#define expect(name, other, want) ck_assert_str_eq(all(name, other), want)

static bool declared(const char *trace, const char *text)
{
	size_t len;
	char file[64];

	sink.ops->flush(&sink);
	snprintf(file, sizeof(file), "%s/metadata", trace);
	return strstr(slurp(file, &len), text) != NULL;
}

static bool is_event(const char *trace, const char *name)
{
	char want[160];

	snprintf(want, sizeof(want), "\tname = \"%s\";\n", name);
	return declared(trace, want);
}

/* ------------------------------------------------------------------------------------------- tests */

/*
 * A round: the thread is on its CPU before the exit, its guest's event before the host's, the host's before the
 * guest's. Virtual CPU 4 is the guest's CPU 1.
 */
START_TEST(test_round)
{
	tick(0, 1, 500);
	on_host(0, 1000, id_exit, (struct kvm){ .vm = A, .tid = 110, .vcpu = 4, .value = 2 << 16 | 0x78, .rip = 5 });
	on_host(0, 2000, id_entry, (struct kvm){ .vm = A, .tid = 110, .vcpu = 4 });
	tick(0, 1, 2500);
	expect("kvm-2/cpu0", 0,
	       "999 0/0 switch 0(0) 110; 1000 -1/-1 task 110 of 100, parent 100; 1000 100/110 exit 2.120; "
	       "1000 100/110 gh 1 of 100; 1999 100/110 hg 2 of 100; 2000 100/110 entry 1; ");
	expect("a-1/cpu1-vcpu", 4,
	       "500 -1/-1 other; 999 -1/-1 gh 1 of 100; 2000 -1/-1 hg 2 of 100; 2500 -1/-1 other; ");
	ck_assert(is_event("a-1", "vmsync_gh_guest") && !is_event("a-1", "vmsync_gh_host"));
	ck_assert(is_event("kvm-2", "vmsync_gh_host") && !is_event("kvm-2", "vmsync_gh_guest"));
	ck_assert(is_event("kvm-2", "sched_switch") && !is_event("a-1", "sched_switch"));
}
END_TEST

/* Another one after 100 ms; each guest counts for itself; who has written nothing is not told of. */
START_TEST(test_rate)
{
	tick(0, 0, 100);
	tick(1, 0, 100);
	for (unsigned int i = 0; i < 4; i++) {
		__u64 time = 1000 + i * 50 * MS;

		on_host(0, time, id_exit, (struct kvm){ .vm = A, .tid = 110 });
		on_host(1, time, id_exit, (struct kvm){ .vm = B, .tid = 210 });
		on_host(1, time + 5, id_exit, (struct kvm){ .vm = B, .tid = 211, .vcpu = 4 });
		on_host(0, time + 10, id_entry, (struct kvm){ .vm = A, .tid = 110 });
	}
	expect("a-1/cpu0-vcpu", 4,
	       "100 -1/-1 other; 999 -1/-1 gh 1 of 100; 1010 -1/-1 hg 2 of 100; "
	       "100000999 -1/-1 gh 3 of 100; 100001010 -1/-1 hg 4 of 100; ");
	expect("b-2/cpu0-vcpu", 4, "100 -1/-1 other; 999 -1/-1 gh 1 of 200; 100000999 -1/-1 gh 2 of 200; ");
}
END_TEST

/* No cause behind its effect; no times but the host's; only what the guest verifiably wrote. */
START_TEST(test_not_told)
{
	const struct vcpu_view view = { .vm = B, .vcpu = 0, .state = VCPU_UNKNOWN };

	tick(0, 0, 1000); /* its clock is ahead */
	on_host(0, 1000, id_exit, (struct kvm){ .vm = A, .tid = 110 });
	on_host(0, 1100, id_entry, (struct kvm){ .vm = A, .tid = 110 });
	on_host(0, 1200, id_exit, (struct kvm){ .vm = A, .tid = 110 });
	guest[1].on_host = false;
	tick(1, 0, 1000);
	guest[1].on_host = true;
	ring[1][1].per_cpu = false;
	happen(&ring[1][1], 1000, id_tick, (__u32[4]){ 7 }, 16, &view);
	on_host(1, 1200, id_exit, (struct kvm){ .vm = B, .tid = 210 });
	expect("a-1/cpu0-vcpu", 4, "1000 -1/-1 other; 1199 -1/-1 gh 1 of 100; ");
	expect("b-3/cpu0-vcpu", 4, "1000 -1/-1 other; ");
}
END_TEST

/* Who runs: as seen, and where that does not fit together, as it must have been. */
START_TEST(test_switches)
{
	on_host(0, 1000, id_out, (struct kvm){ .vm = A, .tid = 110, .value = 0x100, .next = 210 });
	on_host(0, 1000, id_in, (struct kvm){ .vm = B, .tid = 210 }); /* the same switch */
	on_host(0, 2000, id_out, (struct kvm){ .vm = B, .tid = 210, .value = 1, .next = 55 });
	on_host(0, 3000, id_in, (struct kvm){ .vm = A, .tid = 110 });
	on_host(0, 4000, id_entry, (struct kvm){ .vm = B, .tid = 210 }); /* events were lost */
	expect("kvm-1/cpu0", 0,
	       "999 0/0 switch 0(0) 110; 1000 -1/-1 task 110 of 100, parent 100; 1000 100/110 switch 110(0) 210; "
	       "1000 -1/-1 task 210 of 200, parent 200; 2000 200/210 switch 210(1) 55; 3000 -1/55 switch 55(1) 110; "
	       "3999 -1/110 switch 110(1) 210; 4000 200/210 entry 0; ");
}
END_TEST

/* Exit and entry are told at the entry; what it was for stays. Without an entry the thread ended. */
START_TEST(test_aggregated)
{
	tick(0, 0, 100);
	on_host(0, 5000, id_whole, (struct kvm){ .vm = A, .tid = 110, .value = 2 << 16 | 0x7b, .ns = 1000 });
	on_host(0, 5500, id_whole, (struct kvm){ .vm = A, .tid = 110, .value = 2 << 16 | 0x7b, .ns = 2000 });
	on_host(0, 6000, id_whole, (struct kvm){ .vm = A, .tid = 110, .value = 2 << 16 | 0x7b });
	expect("kvm-2/cpu0", 30,
	       "3999 0/0 switch 0(0) 110; 4000 -1/-1 task 110 of 100, parent 100; 4000 100/110 exit 2.123; "
	       "4000 100/110 gh 1 of 100; 4999 100/110 hg 2 of 100; 5000 100/110 entry 0; 5000 100/110 other; "
	       "5000 100/110 exit 2.123; 5500 100/110 entry 0; 5500 100/110 other; 6000 100/110 exit 2.123; "
	       "6000 100/110 other; ");
}
END_TEST

/* Guests come and go, more than there is room for; their end leaves nothing behind. */
START_TEST(test_many)
{
	for (__u32 i = 0; i < 20000; i++)
		on_host(0, 1000 + i, id_entry, (struct kvm){ .vm = 1000 + i, .tid = 30000 + i });
	for (unsigned int i = 0; i < 3; i++) {
		tick(0, 0, 1 + i);
		sink.ops->session_end(&sink, &guest[0]);
		on_host(0, 100000000 + i, id_exit, (struct kvm){ .vm = A, .tid = 110 });
		on_host(0, 100000000 + i, id_entry, (struct kvm){ .vm = A, .tid = 110 });
	}
	expect("a-3/cpu0-vcpu", 4, "2 -1/-1 other; ");
	tick(1, 0, 4);
	on_host(0, 200000000, id_exit, (struct kvm){ .vm = B, .tid = 210 });
	expect("b-5/cpu0-vcpu", 4, "4 -1/-1 other; 199999999 -1/-1 gh 1 of 200; ");
}
END_TEST

/* The uuid of the clock of @trace. */
static void clock_of(const char *trace, char *uuid)
{
	char file[64];
	const char *at;
	size_t len;

	sink.ops->flush(&sink);
	snprintf(file, sizeof(file), "%s/metadata", trace);
	at = strstr(slurp(file, &len), "clock {");
	ck_assert_ptr_nonnull(at);
	at = strstr(at, "uuid = \"");
	ck_assert_ptr_nonnull(at);
	snprintf(uuid, 37, "%.36s", at + strlen("uuid = \""));
}

/* A machine each, whatever guests say that they are: these say that they are the host. */
START_TEST(test_machines)
{
	char id[3][37];

	tick(0, 0, 1);
	tick(1, 0, 1);
	on_host(0, 2, id_entry, (struct kvm){ .vm = A, .tid = 110 });
	clock_of("a-1", id[0]);
	clock_of("b-2", id[1]);
	clock_of("kvm-3", id[2]);
	ck_assert_str_eq(id[2], "b0000000-0000-0000-0000-000000000000");
	ck_assert_str_ne(id[0], id[1]);
	ck_assert_str_ne(id[0], id[2]);
	ck_assert_str_ne(id[1], id[2]);
}
END_TEST

/* ------------------------------------------------------------------------- names that a guest gives */

static const struct {
	const char *name, *field;
	enum { NUMBER, LONG, ENUM, TEXT } type;
	const char *called;
} made_up[] = {
	{ "vmsync_gh_host", "vm_uid", LONG, "guest_vmsync_gh_host" },
	{ "kvm_x86_entry", "vcpu_id", NUMBER, "guest_kvm_x86_entry" },
	{ "lttng_statedump_file_descriptor", "tid", NUMBER, "guest_lttng_statedump_file_descriptor" },
	{ "sched_switch", "prev_tid", NUMBER, "guest_sched_switch" },
	{ "sched_process_exit", "tid", NUMBER, "sched_process_exit" },
	{ "sched_process_exit", "tid", ENUM, "guest_sched_process_exit" },
	{ "sched_process_exit", "tid", TEXT, "guest_sched_process_exit" },
	{ "sched_process_free", "vtids", NUMBER, "guest_sched_process_free" },
	{ "irq_softirq_entry", "vec", NUMBER, "irq_softirq_entry" },
	{ "irq_softirq_entry", "vector", NUMBER, "guest_irq_softirq_entry" },
	{ "irq_handler_exit", "irq", NUMBER, "irq_handler_exit" },
	{ "irq_handler_entry", "irq", NUMBER, "guest_irq_handler_entry" },
	{ "x86_irq_vectors_ipi_entry", "vector", NUMBER, "x86_irq_vectors_ipi_entry" },
	{ "x86_irq_vectors_ipi_entry", "v", NUMBER, "guest_x86_irq_vectors_ipi_entry" },
	{ "harmless", "v", NUMBER, "harmless" },
};

START_TEST(test_made_up)
{
	const struct htrace_schema_value v[] = { { 0, "ZERO" } };
	int type[] = {
		[NUMBER] = htrace_builder_int(builder, "n", 4, false, HTRACE_HINT_NONE),
		[LONG] = htrace_builder_int(builder, "l", 8, false, HTRACE_HINT_NONE),
		[ENUM] = htrace_builder_enum(builder, "e", 4, false, v, 1),
		[TEXT] = htrace_builder_string(builder, 4),
	};
	__u32 id = declare(made_up[_i].name, made_up[_i].field, type[made_up[_i].type]);
	const __u64 payload[2] = { 0 };

	htrace_schema_free(schema);
	events_free(events);
	finish_schema();
	happen(&ring[0][0], 1, id, payload, 16, NULL);
	ck_assert(is_event("a-1", made_up[_i].called));
	ck_assert(!strcmp(made_up[_i].called, made_up[_i].name) || !is_event("a-1", made_up[_i].name));
}
END_TEST

/* One that is as it should be, and a record of it that is too short: that has no fields. */
START_TEST(test_raw)
{
	__u32 id = declare("irq_softirq_exit", "vec", htrace_builder_int(builder, "n", 4, false, HTRACE_HINT_NONE));

	htrace_schema_free(schema);
	events_free(events);
	finish_schema();
	happen(&ring[0][0], 1, id, (__u32[4]){ 7 }, 16, NULL);
	happen(&ring[0][0], 2, id, "\1", 1, NULL);
	ck_assert(is_event("a-1", "irq_softirq_exit"));
	ck_assert(is_event("a-1", "guest_irq_softirq_exit"));
}
END_TEST

/* Ready, waiting or dead: the program knows no other states, and the last by another bit. */
START_TEST(test_states)
{
	__u32 id = declare("left", "state", htrace_builder_int(builder, "s", 4, false, HTRACE_HINT_TASK_STATE));
	static const __u32 given[] = { 0x100, 1, 0x80, 0x40, 0x10, 0x20 }, want[] = { 0, 1, 2, 2, 0x40, 0x40 };
	const size_t head = 24 + 4 * 8 + 16 + 4, event = sizeof(struct ctf_event_header) + 6;
	const char *data;
	size_t len;

	htrace_schema_free(schema);
	events_free(events);
	finish_schema();
	for (size_t i = 0; i < ARRAY_SIZE(given); i++)
		happen(&ring[0][0], 1, id, (__u32[4]){ given[i] }, 16, NULL);
	sink.ops->flush(&sink);
	data = slurp("a-1/cpu0", &len);
	for (size_t i = 0; i < ARRAY_SIZE(given); i++)
		ck_assert_mem_eq(data + head + i * (event + 4) + event, &want[i], 4);
}
END_TEST

START_TEST(test_options)
{
	struct sink s = { .ops = &sink_ctf };
	char right[] = "trace-compass", wrong[] = "trace-compass,tmf";

	ck_assert_int_eq(sink_ctf.options(&s, right, "ctf:x,trace-compass"), 0);
	ck_assert_ptr_nonnull(s.state);
	ck_assert_int_ne(sink_ctf.options(&s, wrong, "ctf:x,trace-compass,tmf"), 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("ctf_compass");
	TCase *c = tcase_create("ctf_compass");

	tcase_add_checked_fixture(c, begin, finish_directory);
	tcase_set_timeout(c, 60);
	tcase_add_test(c, test_round);
	tcase_add_test(c, test_rate);
	tcase_add_test(c, test_not_told);
	tcase_add_test(c, test_switches);
	tcase_add_test(c, test_aggregated);
	tcase_add_test(c, test_many);
	tcase_add_test(c, test_machines);
	tcase_add_loop_test(c, test_made_up, 0, ARRAY_SIZE(made_up));
	tcase_add_test(c, test_raw);
	tcase_add_test(c, test_states);
	tcase_add_test(c, test_options);
	suite_add_tcase(s, c);
	return unit_run(s);
}
