// SPDX-License-Identifier: LGPL-2.1-or-later
/* What is known of virtual CPUs from the kvm source's events, and what is not. */
#include <stddef.h>
#include <string.h>

#include "unit.h"
#include "vcpus.h"

#define VM 100u
#define HLT (1u << 16 | 12)
#define EPT (1u << 16 | 48)
#define R 0x100u /* preempted, as the scheduler's tracepoint has it */
#define S 1u
#define X 0x10u
#define MAX_CHANGES 64

/* What all events begin with, and the only more that matters here. */
struct payload {
	__u32 vm, tid;
	__u16 vcpu;
	__u16 pad;
	__u32 reason;
	__u64 more; /* state, time out */
	__u32 next_tid; /* who comes when its thread leaves a CPU */
	char next_comm[16];
	__u32 end;
};

static const __u8 boot[16] = { 1 }, other_boot[16] = { 2 };
static struct htrace_schema *schema;
static struct vcpu_events *events;
static struct vcpu_hosts *hosts;
static struct vcpus *v;
static __u64 known;
static struct vcpu_mark mark;
static struct vcpu_view view;
static struct vcpu_change changes[MAX_CHANGES];
static char whys[MAX_CHANGES][VCPUS_REASON];
static struct vcpu_taker takers[MAX_CHANGES]; /* of changes that tell */
static const char *next_comm; /* of the events to come */
static unsigned int nr_changes;
static __u32 threads[8]; /* of vCPUs */

static void declare(struct htrace_schema_builder *b, const char *name, const char *more)
{
	static const struct htrace_schema_value reasons[] = { { HLT, "HLT" }, { EPT, "EPT_VIOLATION" } };
	struct htrace_schema_member m[] = {
		{ .name = "vm", .type = (__u32)htrace_builder_int(b, "u32", 4, false, 0) },
		{ .name = "tid", .type = (__u32)htrace_builder_int(b, "tid", 4, false, HTRACE_HINT_TID) },
		{ .name = "vcpu_id", .type = (__u32)htrace_builder_int(b, "u16", 2, false, 0) },
		{ .name = "reason", .type = (__u32)htrace_builder_enum(b, "reasons", 4, false, reasons, 2) },
		{ .type = (__u32)htrace_builder_int(b, "u64", 8, false, 0) },
		{ .name = "next_tid", .type = (__u32)htrace_builder_int(b, "tid", 4, false, HTRACE_HINT_TID) },
		{ .name = "next_comm", .type = (__u32)htrace_builder_string(b, 16) },
	};
	int type;

	m[1].bit_off = 32;
	m[2].bit_off = 64;
	m[3].bit_off = 96;
	m[4].bit_off = 128;
	m[5].bit_off = 8 * offsetof(struct payload, next_tid);
	m[6].bit_off = 8 * offsetof(struct payload, next_comm);
	strcpy(m[4].name, more);
	type = htrace_builder_struct(b, name, false, sizeof(struct payload), m, strcmp(more, "prev_state") ? 5 : 7);
	ck_assert_int_gt(type, 0);
	ck_assert_int_gt(htrace_builder_event(b, name, type), 0);
}

static void setup(void)
{
	struct htrace_schema_builder *b;
	char err[160];
	size_t len;
	const void *entries;

	ck_assert_int_eq(htrace_builder_new(&b, NULL, 0), 0);
	declare(b, "kvm_exit", "info1");
	declare(b, "kvm_entry", "none");
	declare(b, "kvm_pio", "value");
	declare(b, "kvm_sched_out", "prev_state");
	declare(b, "kvm_sched_in", "none");
	declare(b, "kvm_io", "exit_overhead_ns");
	declare(b, "sched_switch", "next");
	entries = htrace_builder_entries(b, &len);
	ck_assert_msg(!htrace_schema_parse(&schema, entries, len, err, sizeof(err)), "%s", err);
	htrace_builder_free(b);
	events = vcpu_events_new(schema);
	hosts = vcpu_hosts_new();
	known = ~0ULL;
	v = vcpus_open(hosts, boot, &known);
	ck_assert(events && hosts && v);
	memset(&mark, 0, sizeof(mark));
	nr_changes = 0;
	next_comm = "other";
	for (__u32 i = 0; i < 8; i++)
		threads[i] = 1000 + i;
}

static void teardown(void)
{
	vcpu_events_free(events);
	vcpu_hosts_free(hosts);
	htrace_schema_free(schema);
}

static void on_change(void *ctx, const struct vcpu_change *c)
{
	if (nr_changes == MAX_CHANGES)
		return;
	strcpy(whys[nr_changes], c->why ? c->why : "");
	if (c->taker)
		takers[nr_changes] = *c->taker;
	changes[nr_changes++] = *c;
}

static void happens_in(__u32 vm, __u16 vcpu, __u32 tid, __u64 time, const char *name, __u32 reason,
		       __u64 more)
{
	struct payload p = { .vm = vm, .tid = tid, .vcpu = vcpu, .reason = reason, .more = more, .next_tid = 77 };
	const struct htrace_event *e = htrace_schema_event_by_name(schema, name);
	struct htrace_record r = { .id = e->id, .len = sizeof(p), .time = time, .payload = &p };

	memcpy(p.next_comm, next_comm, strnlen(next_comm, sizeof(p.next_comm)));
	vcpus_take(v, events, &r, time, on_change, NULL);
}

static void happens(__u16 vcpu, __u64 time, const char *name, __u32 reason, __u64 more)
{
	happens_in(VM, vcpu, threads[vcpu], time, name, reason, more);
}

static enum vcpu_state near(__u32 vcpu, __u64 time, __u64 bound)
{
	vcpus_look(v, VM, vcpu, time, bound, &mark, &view);
	return view.state;
}

static enum vcpu_state at(__u32 vcpu, __u64 time)
{
	return near(vcpu, time, 0);
}

/* An exit, with its thread preempted while it is out. */
START_TEST(test_states)
{
	ck_assert_int_eq(at(0, 50), VCPU_UNKNOWN);
	happens(0, 100, "kvm_entry", 0, 0);
	ck_assert_int_eq(at(0, 99), VCPU_UNKNOWN);
	ck_assert_int_eq(at(0, 100), VCPU_RUNNING);
	ck_assert_uint_eq(view.thread, 1000);
	ck_assert(!view.why && !view.since_known);
	happens(0, 200, "kvm_exit", EPT, 0);
	ck_assert_int_eq(at(0, 199), VCPU_RUNNING);
	ck_assert_int_eq(at(0, 210), VCPU_OUT);
	ck_assert_str_eq(view.why, "EPT_VIOLATION");
	ck_assert(view.since_known);
	ck_assert_uint_eq(view.out_since, 10);
	happens(0, 220, "kvm_sched_out", 0, R);
	ck_assert_int_eq(at(0, 1000), VCPU_PREEMPTED);
	ck_assert_str_eq(view.why, "EPT_VIOLATION");
	ck_assert_uint_eq(view.out_since, 10);
	ck_assert_uint_eq(view.preempted_since, 780);
	happens(0, 1220, "kvm_sched_in", 0, 0);
	happens(0, 1225, "kvm_pio", 0, 0);
	ck_assert_int_eq(at(0, 1226), VCPU_OUT);
	ck_assert_str_eq(view.why, "EPT_VIOLATION");
	happens(0, 1230, "kvm_entry", 0, 0);
	ck_assert_int_eq(at(0, 1231), VCPU_RUNNING);
	ck_assert_uint_eq(view.out, 30);
	ck_assert_uint_eq(view.preempted, 1000);
	ck_assert_uint_eq(view.out_since, 4);
	ck_assert_uint_eq(view.preempted_since, 0);
	/* Others' know nothing of it, and it is another's to nobody. */
	ck_assert_int_eq(at(1, 1231), VCPU_UNKNOWN);
	vcpus_look(v, VM + 1, 0, 1231, 0, &mark, &view);
	ck_assert_int_eq(view.state, VCPU_UNKNOWN);
}
END_TEST

/* What the sinks get: each begins where the one before ended. */
START_TEST(test_changes)
{
	static const struct {
		__u64 time;
		enum vcpu_state before, state;
		const char *why;
		__u64 preempted;
	} want[] = {
		{ 100, VCPU_UNKNOWN, VCPU_RUNNING, "", 0 },
		{ 200, VCPU_RUNNING, VCPU_OUT, "EPT_VIOLATION", 0 },
		{ 220, VCPU_OUT, VCPU_PREEMPTED, "EPT_VIOLATION", 0 },
		{ 250, VCPU_PREEMPTED, VCPU_OUT, "EPT_VIOLATION", 30 },
		{ 260, VCPU_OUT, VCPU_RUNNING, "", 30 },
		{ 300, VCPU_RUNNING, VCPU_UNKNOWN, "", 30 }, /* lost from then on */
		{ 400, VCPU_UNKNOWN, VCPU_OUT, "", 30 },
		{ 410, VCPU_OUT, VCPU_ASLEEP, "", 30 },
		{ 420, VCPU_ASLEEP, VCPU_UNKNOWN, "", 30 }, /* its thread ended */
	};

	happens(0, 100, "kvm_entry", 0, 0);
	happens(0, 200, "kvm_exit", EPT, 0);
	happens(0, 210, "kvm_pio", 0, 0);
	happens(0, 220, "kvm_sched_out", 0, R);
	happens(0, 250, "kvm_sched_in", 0, 0);
	happens(0, 260, "kvm_entry", 0, 0);
	vcpus_lose(v, 300, 350);
	happens(0, 400, "kvm_sched_in", 0, 0);
	happens(0, 410, "kvm_sched_out", 0, S);
	happens(0, 420, "kvm_sched_out", 0, X);
	ck_assert_uint_eq(nr_changes, 9);
	for (unsigned int i = 0; i < nr_changes; i++) {
		ck_assert_uint_eq(changes[i].time, want[i].time);
		ck_assert_int_eq(changes[i].before, want[i].before);
		ck_assert_int_eq(changes[i].state, want[i].state);
		ck_assert_str_eq(whys[i], want[i].why);
		ck_assert_uint_eq(changes[i].preempted, want[i].preempted);
	}
}
END_TEST

/* Change @i ends a time in which the CPU was somebody else's; @comm NULL: whose is not told. */
static void was_taken(unsigned int i, __u64 since, __u64 until, const char *comm)
{
	ck_assert_uint_lt(i, nr_changes);
	ck_assert_int_eq(changes[i].before, VCPU_PREEMPTED);
	ck_assert_uint_eq(changes[i].since, since);
	ck_assert_uint_eq(changes[i].time, until);
	ck_assert(!changes[i].taker == !comm);
	if (!comm)
		return;
	ck_assert_uint_eq(takers[i].tid, 77);
	ck_assert(!strncmp(takers[i].comm, comm, VCPUS_COMM));
}

START_TEST(test_takers)
{
	happens(0, 100, "kvm_entry", 0, 0);
	happens(0, 200, "kvm_sched_out", 0, R);
	next_comm = "sixteen bytes...";
	happens(1, 300, "kvm_sched_out", 0, R);
	happens(0, 400, "kvm_sched_in", 0, 0);
	was_taken(3, 200, 400, "other");
	happens(1, 500, "kvm_sched_in", 0, 0);
	was_taken(4, 300, 500, "sixteen bytes...");
	/* Told at the entry when it went out: that was before. */
	next_comm = "a";
	happens(0, 510, "kvm_entry", 0, 0);
	happens(0, 600, "kvm_sched_out", 0, R);
	happens(0, 700, "kvm_sched_in", 0, 0);
	happens(0, 710, "kvm_io", EPT, 150);
	was_taken(7, 600, 700, "a");
	/* Until events are missing, and no longer. */
	happens(0, 800, "kvm_sched_out", 0, R);
	vcpus_lose(v, 850, 900);
	happens(0, 1000, "kvm_sched_in", 0, 0);
	was_taken(nr_changes - 2, 800, 850, "a");
	/* Asleep, nobody took anything; nor does who came then take what comes. */
	happens(0, 1100, "kvm_sched_out", 0, S);
	happens(0, 1200, "kvm_sched_in", 0, 0);
	ck_assert_ptr_null(changes[nr_changes - 1].taker);
	/* Out twice: it was never back, as far as was seen. */
	happens(0, 1300, "kvm_sched_out", 0, R);
	next_comm = "b";
	happens(0, 1350, "kvm_sched_out", 0, R);
	happens(0, 1400, "kvm_sched_in", 0, 0);
	was_taken(nr_changes - 1, 1300, 1400, "a");
}
END_TEST

/* A record that ends before who came. */
START_TEST(test_no_taker)
{
	struct payload p = { .vm = VM, .tid = 1000, .more = R };
	struct htrace_record r = {
		.id = htrace_schema_event_by_name(schema, "kvm_sched_out")->id, .payload = &p,
		.len = offsetof(struct payload, end) - 1,
	};

	vcpus_take(v, events, &r, 100, on_change, NULL);
	happens(0, 200, "kvm_sched_in", 0, 0);
	was_taken(1, 100, 200, NULL);
}
END_TEST

/* The guest asked to wait: nothing is lost, but for when it could have gone on and did not. */
START_TEST(test_halt)
{
	happens(0, 100, "kvm_entry", 0, 0);
	at(0, 100);
	happens(0, 200, "kvm_exit", HLT, 0);
	happens(0, 210, "kvm_sched_out", 0, S);
	ck_assert_int_eq(at(0, 300), VCPU_ASLEEP);
	ck_assert_str_eq(view.why, "HLT");
	happens(0, 5000, "kvm_sched_in", 0, 0);
	happens(0, 5010, "kvm_sched_out", 0, 0);
	happens(0, 5030, "kvm_sched_in", 0, 0);
	happens(0, 5040, "kvm_entry", 0, 0);
	at(0, 5050);
	ck_assert_uint_eq(view.out, 0);
	ck_assert_uint_eq(view.preempted, 20);
	/* One that sleeps for the VMM's sake is lost to the guest. */
	happens(0, 6000, "kvm_exit", EPT, 0);
	happens(0, 6010, "kvm_sched_out", 0, S);
	happens(0, 7000, "kvm_sched_in", 0, 0);
	happens(0, 7001, "kvm_entry", 0, 0);
	at(0, 7002);
	ck_assert_uint_eq(view.out_since, 1001);
}
END_TEST

/* Nothing is guessed: neither in the gap, nor after it before an event of the virtual CPU. */
START_TEST(test_loss)
{
	happens(0, 100, "kvm_entry", 0, 0);
	happens(1, 100, "kvm_entry", 0, 0);
	ck_assert_int_eq(at(0, 150), VCPU_RUNNING);
	vcpus_lose(v, 200, 300);
	ck_assert_int_eq(at(0, 199), VCPU_RUNNING);
	ck_assert_int_eq(at(0, 200), VCPU_UNKNOWN);
	ck_assert_uint_eq(view.thread, 0);
	ck_assert_int_eq(at(0, 350), VCPU_UNKNOWN);
	/* From another CPU's ring, of a time at which others may be missing. */
	happens(0, 250, "kvm_entry", 0, 0);
	ck_assert_int_eq(at(0, 260), VCPU_UNKNOWN);
	happens(0, 300, "kvm_entry", 0, 0);
	ck_assert_int_eq(at(0, 350), VCPU_RUNNING);
	ck_assert(!view.since_known); /* what was lost since the event before is not known */
	ck_assert_int_eq(at(1, 350), VCPU_UNKNOWN);
	ck_assert_int_eq(at(0, 150), VCPU_RUNNING); /* what was seen stays so */
	at(0, 350);
	ck_assert_int_eq(at(0, 360), VCPU_RUNNING);
	ck_assert(view.since_known);
}
END_TEST

/* More gaps than are kept apart. */
START_TEST(test_many_losses)
{
	happens(0, 100, "kvm_entry", 0, 0);
	for (__u64 i = 0; i < 1000; i++)
		vcpus_lose(v, 200 + 20 * i, 210 + 20 * i);
	ck_assert_int_eq(at(0, 190), VCPU_RUNNING);
	ck_assert_int_eq(at(0, 205), VCPU_UNKNOWN);
	happens(0, 30000, "kvm_entry", 0, 0);
	ck_assert_int_eq(at(0, 30001), VCPU_RUNNING);
	ck_assert_int_eq(at(0, 190), VCPU_RUNNING);
	ck_assert_int_eq(at(0, 20000), VCPU_UNKNOWN);
}
END_TEST

/* A VM that was killed, and another in a process of the same number; or another thread goes on. */
START_TEST(test_reused)
{
	happens(0, 100, "kvm_entry", 0, 0);
	happens(0, 110, "kvm_exit", EPT, 0);
	happens_in(VM, 0, 77, 500, "kvm_exit", EPT, 0);
	ck_assert_int_eq(at(0, 100), VCPU_RUNNING);
	ck_assert_int_eq(at(0, 300), VCPU_UNKNOWN);
	ck_assert_int_eq(at(0, 501), VCPU_OUT);
	ck_assert_uint_eq(view.thread, 77);
	ck_assert_uint_eq(view.out, 1); /* nothing of what was not seen */
	/* Unplugged: its thread ends, and what follows is not said of it. */
	happens_in(VM, 0, 77, 600, "kvm_sched_out", 0, X);
	ck_assert_int_eq(at(0, 601), VCPU_UNKNOWN);
	happens_in(VM, 0, 78, 700, "kvm_entry", 0, 0);
	ck_assert_int_eq(at(0, 650), VCPU_UNKNOWN);
	ck_assert_int_eq(at(0, 701), VCPU_RUNNING);
	ck_assert_uint_eq(view.thread, 78);
}
END_TEST

/* So much of the past is kept, and no guess is made of the future. */
START_TEST(test_window)
{
	for (__u64 i = 0; i < 4 * VCPUS_PAST; i++)
		happens(0, 1000 + 10 * i, i % 2 ? "kvm_exit" : "kvm_entry", EPT, 0);
	ck_assert_int_eq(at(0, 1005), VCPU_UNKNOWN);
	ck_assert_int_eq(at(0, 1000 + 10 * (3 * VCPUS_PAST) - 1), VCPU_UNKNOWN);
	for (__u64 i = 3 * VCPUS_PAST; i < 4 * VCPUS_PAST; i++)
		ck_assert_int_eq(at(0, 1005 + 10 * i), i % 2 ? VCPU_OUT : VCPU_RUNNING);
	ck_assert_uint_eq(view.out, 10 * (2 * VCPUS_PAST - 1) + 5);
	ck_assert_int_eq(at(0, 1000000000ULL), VCPU_OUT);
	ck_assert_int_eq(at(0, 1100000000ULL), VCPU_UNKNOWN);
	ck_assert_int_eq(at(0, ~0ULL), VCPU_UNKNOWN);
}
END_TEST

/* A step back: which of both comes first is not known. */
START_TEST(test_late)
{
	happens(0, 1000, "kvm_entry", 0, 0);
	happens(0, 900, "kvm_exit", EPT, 0);
	ck_assert_int_eq(at(0, 1000), VCPU_UNKNOWN);
	ck_assert_int_eq(at(0, 1100), VCPU_UNKNOWN);
	happens(0, 1200, "kvm_exit", EPT, 0);
	ck_assert_int_eq(at(0, 1100), VCPU_UNKNOWN);
	ck_assert_int_eq(at(0, 1201), VCPU_OUT);
}
END_TEST

/* Not all has come that happened before: what is told of earlier times may be wrong. */
START_TEST(test_behind)
{
	__u64 also = 2000;

	happens(0, 1000, "kvm_entry", 0, 0);
	known = 1500;
	ck_assert_int_eq(at(0, 1500), VCPU_RUNNING);
	ck_assert_int_eq(at(0, 1501), VCPU_UNKNOWN);
	known = 3000;
	ck_assert_int_eq(at(0, 2500), VCPU_RUNNING);
	ck_assert_ptr_eq(vcpus_open(hosts, boot, &also), v);
	ck_assert_int_eq(at(0, 2500), VCPU_UNKNOWN);
	ck_assert_int_eq(at(0, 2000), VCPU_RUNNING);
	vcpus_close(v, &also);
	ck_assert_int_eq(at(0, 2500), VCPU_RUNNING);
	for (unsigned int i = 1; i < VCPUS_SESSIONS; i++)
		ck_assert_ptr_eq(vcpus_open(hosts, boot, &also), v);
	ck_assert_ptr_null(vcpus_open(hosts, boot, &also));
}
END_TEST

/* The source ends: what comes is not known until there is another one. */
START_TEST(test_end)
{
	happens(0, 1000, "kvm_entry", 0, 0);
	ck_assert_ptr_eq(vcpus_find(hosts, boot), v);
	ck_assert_ptr_null(vcpus_find(hosts, other_boot));
	vcpus_close(v, &known);
	ck_assert_int_eq(at(0, 1000), VCPU_RUNNING);
	ck_assert_int_eq(at(0, 1001), VCPU_UNKNOWN);
	ck_assert_ptr_eq(vcpus_open(hosts, boot, &known), v);
	ck_assert_int_eq(at(0, 1500), VCPU_UNKNOWN);
	happens(1, 2000, "kvm_entry", 0, 0);
	ck_assert_int_eq(at(0, 2500), VCPU_UNKNOWN);
	ck_assert_int_eq(at(1, 2500), VCPU_RUNNING);
	for (__u8 i = 10; i < 10 + VCPUS_HOSTS - 1; i++)
		ck_assert_ptr_nonnull(vcpus_open(hosts, (__u8[16]){ i }, &known));
	ck_assert_ptr_null(vcpus_open(hosts, other_boot, &known));
}
END_TEST

/* Told at the entry of the exit too: what was lost is counted then, and preemption stays one. */
START_TEST(test_whole)
{
	happens(0, 1000, "kvm_io", EPT, 40); /* not seen before: it runs now */
	ck_assert_int_eq(at(0, 970), VCPU_UNKNOWN);
	ck_assert_int_eq(at(0, 1001), VCPU_RUNNING);
	happens(0, 2000, "kvm_io", EPT, 100);
	ck_assert_int_eq(at(0, 1899), VCPU_RUNNING);
	ck_assert_int_eq(at(0, 1950), VCPU_OUT);
	ck_assert_str_eq(view.why, "EPT_VIOLATION");
	at(0, 2000);
	ck_assert_uint_eq(view.out, 100);
	happens(0, 3000, "kvm_sched_out", 0, R);
	ck_assert_int_eq(at(0, 3001), VCPU_PREEMPTED);
	ck_assert_ptr_null(view.why);
	happens(0, 3050, "kvm_sched_in", 0, 0);
	happens(0, 3100, "kvm_io", EPT, 150);
	ck_assert_int_eq(at(0, 2949), VCPU_RUNNING);
	ck_assert_int_eq(at(0, 2951), VCPU_OUT);
	ck_assert_int_eq(at(0, 3001), VCPU_PREEMPTED);
	ck_assert_str_eq(view.why, "EPT_VIOLATION");
	ck_assert_int_eq(at(0, 3051), VCPU_OUT);
	at(0, 3100);
	ck_assert_uint_eq(view.out, 200);
	ck_assert_uint_eq(view.preempted, 50);
	happens(0, 4000, "kvm_io", EPT, 0);
	ck_assert_int_eq(at(0, 4001), VCPU_UNKNOWN);
	happens(0, 5000, "kvm_io", EPT, ~0ULL); /* a capture says anything */
	ck_assert_int_eq(at(0, 5001), VCPU_RUNNING);
}
END_TEST

/* More than can be followed: those that were quiet give their room, and no others. */
START_TEST(test_many)
{
	for (__u32 i = 0; i < VCPUS_MAX; i++)
		happens_in(i / 4 + 1, i % 4, 5000 + i, 1000, "kvm_entry", 0, 0);
	happens_in(100000, 0, 7, 2000, "kvm_entry", 0, 0);
	vcpus_look(v, 100000, 0, 2000, 0, &mark, &view);
	ck_assert_int_eq(view.state, VCPU_UNKNOWN);
	vcpus_look(v, 7, 3, 2000, 0, &mark, &view);
	ck_assert_int_eq(view.state, VCPU_RUNNING);
	happens_in(7, 3, 5000 + 27, 11000000000ULL, "kvm_entry", 0, 0);
	happens_in(100000, 0, 7, 11000000001ULL, "kvm_entry", 0, 0);
	vcpus_look(v, 100000, 0, 11000000002ULL, 0, &mark, &view);
	ck_assert_int_eq(view.state, VCPU_RUNNING);
	vcpus_look(v, 7, 3, 11000000002ULL, 0, &mark, &view);
	ck_assert_int_eq(view.state, VCPU_RUNNING);
	vcpus_look(v, 8, 3, 11000000002ULL, 0, &mark, &view);
	ck_assert_int_eq(view.state, VCPU_UNKNOWN);
}
END_TEST

/* A clock that is right to some bound: who wrote an event ran, if it can have been running. */
START_TEST(test_bound)
{
	happens(0, 1000, "kvm_entry", 0, 0);
	happens(0, 2000, "kvm_exit", EPT, 0);
	happens(0, 2100, "kvm_sched_out", 0, R);
	happens(0, 3000, "kvm_sched_in", 0, 0);
	known = 3050; /* of an event that was not taken yet */
	ck_assert_int_eq(near(0, 2000, 0), VCPU_OUT);
	ck_assert_int_eq(near(0, 2050, 50), VCPU_RUNNING);
	ck_assert_ptr_null(view.why);
	ck_assert_uint_eq(view.out, 0);
	ck_assert_int_eq(near(0, 2051, 50), VCPU_OUT);
	ck_assert_uint_eq(view.out_since, 51);
	ck_assert_int_eq(near(0, 2150, 150), VCPU_RUNNING); /* over two changes */
	ck_assert_int_eq(near(0, 2500, 100), VCPU_PREEMPTED);
	ck_assert_uint_eq(view.preempted, 400);
	/* It may be back by then, which the next event would say. */
	ck_assert_int_eq(near(0, 2960, 89), VCPU_PREEMPTED);
	ck_assert_int_eq(near(0, 2960, 90), VCPU_UNKNOWN);
	ck_assert_int_eq(near(0, 3010, 39), VCPU_OUT);
	ck_assert_int_eq(near(0, 3010, 40), VCPU_UNKNOWN);
	happens(0, 3050, "kvm_entry", 0, 0);
	known = ~0ULL;
	ck_assert_int_eq(near(0, 3010, 39), VCPU_OUT);
	ck_assert_int_eq(near(0, 3010, 40), VCPU_RUNNING);
	ck_assert_uint_eq(view.out, 150);
	ck_assert_uint_eq(view.preempted, 900);
	ck_assert_uint_eq(view.out_since, 40); /* up to the entry */
	ck_assert_int_eq(near(0, 2960, 90), VCPU_RUNNING);
	ck_assert_int_eq(near(0, 2500, 1000), VCPU_RUNNING); /* both: the nearer one */
	ck_assert_uint_eq(view.preempted, 0);
	ck_assert_int_eq(near(0, 2600, 1000), VCPU_RUNNING);
	ck_assert_uint_eq(view.preempted, 900);
	ck_assert_int_eq(near(0, 1000, 500), VCPU_RUNNING);
	ck_assert_int_eq(near(0, 999, 500), VCPU_UNKNOWN); /* before what was seen of it */
	/* Any bound may stand in a capture. */
	ck_assert_int_eq(near(0, 2600, ~0ULL), VCPU_UNKNOWN);
	ck_assert_int_eq(near(0, ~0ULL, 500), VCPU_UNKNOWN);
}
END_TEST

/* Near a loss it may have run unseen. */
START_TEST(test_bound_of_loss)
{
	happens(0, 1000, "kvm_entry", 0, 0);
	happens(0, 2000, "kvm_exit", EPT, 0);
	vcpus_lose(v, 2200, 2300);
	ck_assert_int_eq(near(0, 2150, 49), VCPU_OUT);
	ck_assert_int_eq(near(0, 2150, 50), VCPU_UNKNOWN);
	happens(0, 2400, "kvm_sched_out", 0, R);
	known = 3000;
	ck_assert_int_eq(near(0, 2150, 49), VCPU_OUT);
	ck_assert_int_eq(near(0, 2150, 50), VCPU_UNKNOWN);
	ck_assert_int_eq(near(0, 2410, 10), VCPU_UNKNOWN);
	ck_assert_int_eq(near(0, 2411, 10), VCPU_PREEMPTED);
	/* And after its source's end. */
	happens(1, 2500, "kvm_entry", 0, 0);
	vcpus_close(v, &known);
	ck_assert_int_eq(near(0, 2450, 49), VCPU_PREEMPTED);
	ck_assert_int_eq(near(0, 2450, 51), VCPU_UNKNOWN);
}
END_TEST

/* Records that are too short, events of other names, no process, and reasons without end. */
START_TEST(test_hostile)
{
	struct payload p = { .vm = VM, .tid = 1, .reason = EPT };
	const struct htrace_event *e = htrace_schema_event_by_name(schema, "kvm_exit");
	struct htrace_record r = { .id = e->id, .time = 100, .payload = &p };

	for (r.len = 0; r.len < 16; r.len += 8)
		vcpus_take(v, events, &r, 100, on_change, NULL);
	r.len = 16;
	r.id = 60000;
	vcpus_take(v, events, &r, 100, on_change, NULL);
	happens(0, 100, "sched_switch", 0, 0);
	happens_in(0, 0, 1, 100, "kvm_entry", 0, 0);
	ck_assert_uint_eq(nr_changes, 0);
	for (__u32 i = 0; i < 2 * VCPUS_REASONS; i++)
		happens(0, 1000 + i, "kvm_exit", 3u << 16 | i, 0);
	ck_assert_int_eq(at(0, 1000 + 2 * VCPUS_REASONS), VCPU_OUT);
	ck_assert_ptr_null(view.why);
	happens(1, 5000, "kvm_exit", 3u << 16 | 5, 0);
	ck_assert_int_eq(at(1, 5000), VCPU_OUT);
	ck_assert_str_eq(view.why, "0x5");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("vcpus");
	TCase *tc = tcase_create("vcpus");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_states);
	tcase_add_test(tc, test_changes);
	tcase_add_test(tc, test_takers);
	tcase_add_test(tc, test_no_taker);
	tcase_add_test(tc, test_halt);
	tcase_add_test(tc, test_loss);
	tcase_add_test(tc, test_many_losses);
	tcase_add_test(tc, test_reused);
	tcase_add_test(tc, test_window);
	tcase_add_test(tc, test_late);
	tcase_add_test(tc, test_behind);
	tcase_add_test(tc, test_end);
	tcase_add_test(tc, test_bound);
	tcase_add_test(tc, test_bound_of_loss);
	tcase_add_test(tc, test_whole);
	tcase_add_test(tc, test_many);
	tcase_add_test(tc, test_hostile);
	suite_add_tcase(s, tc);
	return unit_run(s);
}
