// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * What the Perfetto sink writes, unpacked by protobuf-c: which packets events become, what is said where
 * some are missing, names and values of a guest that wants to break the file, and the bounds. The
 * system tests compare whole traces, by protoc.
 */
#define SINK sink_perfetto
#include "sink_fixture.h"

#include <errno.h>

#include "perfetto.h"

static Pf__Trace *trace;

/* Close the sink and read all of it. */
static void finish(void)
{
	static unsigned char file[64 << 20];
	FILE *f;
	size_t len;

	ck_assert_int_eq(sink.ops->close(&sink), 0);
	f = fopen(path, "r");
	ck_assert_ptr_nonnull(f);
	len = fread(file, 1, sizeof(file), f);
	fclose(f);
	unlink(path);
	ck_assert_uint_lt(len, sizeof(file));
	trace = pf__trace__unpack(NULL, len, file);
	ck_assert_ptr_nonnull(trace);
}

static void end(void)
{
	pf__trace__free_unpacked(trace, NULL);
	trace = NULL;
	teardown();
}

static int u32(enum htrace_hint hint)
{
	return htrace_builder_int(builder, "u32", 4, false, hint);
}

static int s32(void)
{
	return htrace_builder_int(builder, "s32", 4, true, HTRACE_HINT_NONE);
}

static __u32 declare_struct(const char *name, const struct htrace_schema_member *m, __u32 nr, __u32 size)
{
	int id = htrace_builder_event(builder, name,
				      htrace_builder_struct(builder, name, false, size, m, nr));

	ck_assert_msg(id > 0, "%s: %s", name, htrace_builder_error(builder));
	return (__u32)id;
}

struct on_switch {
	__u32 prev, next;
	__s32 prev_prio, next_prio;
	__u32 state, pad;
};

static __u32 declare_switch(void)
{
	const struct htrace_schema_member m[] = {
		{ .type = (__u32)u32(HTRACE_HINT_TID), .name = "prev_tid" },
		{ .type = (__u32)u32(HTRACE_HINT_TID), .bit_off = 32, .name = "next_tid" },
		{ .type = (__u32)s32(), .bit_off = 64, .name = "prev_prio" },
		{ .type = (__u32)s32(), .bit_off = 96, .name = "next_prio" },
		{ .type = (__u32)u32(HTRACE_HINT_TASK_STATE), .bit_off = 128, .name = "prev_state" },
	};

	return declare_struct("sched_switch", m, ARRAY_SIZE(m), sizeof(struct on_switch));
}

struct on_enter {
	__u32 tid;
	__s32 nr;
	__u64 args[6];
};

static __u32 declare_enter(void)
{
	int u64 = htrace_builder_int(builder, "u64", 8, false, HTRACE_HINT_HEX);
	const struct htrace_schema_member m[] = {
		{ .type = (__u32)u32(HTRACE_HINT_TID), .name = "tid" },
		{ .type = (__u32)htrace_builder_int(builder, "nr", 4, true, HTRACE_HINT_SYSCALL),
		  .bit_off = 32, .name = "nr" },
		{ .type = (__u32)htrace_builder_array(builder, u64, 6), .bit_off = 64, .name = "args" },
	};

	return declare_struct("sys_enter", m, ARRAY_SIZE(m), sizeof(struct on_enter));
}

struct on_exit {
	__u32 tid;
	__s32 nr;
	__s64 ret;
};

static __u32 declare_exit(void)
{
	const struct htrace_schema_member m[] = {
		{ .type = (__u32)u32(HTRACE_HINT_TID), .name = "tid" },
		{ .type = (__u32)htrace_builder_int(builder, "nr", 4, true, HTRACE_HINT_SYSCALL),
		  .bit_off = 32, .name = "nr" },
		{ .type = (__u32)htrace_builder_int(builder, "s64", 8, true, HTRACE_HINT_NONE),
		  .bit_off = 64, .name = "ret" },
	};

	return declare_struct("sys_exit", m, ARRAY_SIZE(m), sizeof(struct on_exit));
}

struct on_fork {
	__u32 parent_tid, child_tid, child_pid;
	char child_comm[16];
};

static __u32 declare_fork(void)
{
	const struct htrace_schema_member m[] = {
		{ .type = (__u32)u32(HTRACE_HINT_TID), .name = "parent_tid" },
		{ .type = (__u32)u32(HTRACE_HINT_TID), .bit_off = 32, .name = "child_tid" },
		{ .type = (__u32)u32(HTRACE_HINT_NONE), .bit_off = 64, .name = "child_pid" },
		{ .type = (__u32)htrace_builder_string(builder, 16), .bit_off = 96, .name = "child_comm" },
	};

	return declare_struct("sched_process_fork", m, ARRAY_SIZE(m), sizeof(struct on_fork));
}

struct on_irq {
	__s32 irq;
	char name[28];
};

static __u32 declare_irq(void)
{
	const struct htrace_schema_member m[] = {
		{ .type = (__u32)s32(), .name = "irq" },
		{ .type = (__u32)htrace_builder_string(builder, 28), .bit_off = 32, .name = "name" },
	};

	return declare_struct("irq_handler_entry", m, ARRAY_SIZE(m), sizeof(struct on_irq));
}

/* ---------------------------------------------------------------------------------------- reading */

/* The kernel's event number @nr of the file, in its order; NULL: there are not so many. */
static const Pf__FtraceEvent *ftrace(size_t nr)
{
	for (size_t i = 0; i < trace->n_packet; i++) {
		const Pf__FtraceEventBundle *b = trace->packet[i]->ftrace_events;

		if (b && nr < b->n_event)
			return b->event[nr];
		nr -= b ? b->n_event : 0;
	}
	return NULL;
}

/* The event number @nr of tracks of kind @track. */
static const Pf__TracePacket *on_track(enum pf_track track, size_t nr)
{
	for (size_t i = 0; i < trace->n_packet; i++) {
		const Pf__TrackEvent *e = trace->packet[i]->track_event;

		if (e && (e->track_uuid >> 24 & 0xff) == track && !nr--)
			return trace->packet[i];
	}
	return NULL;
}

/* Names as a reader of the file knows them, of one sequence. */
static char known[2][PF_INTERNED + 1][PF_NAME];

static void learn(const Pf__TracePacket *k)
{
	if (k->sequence_flags & 1)
		memset(known, 0, sizeof(known));
	if (!k->interned_data)
		return;
	ck_assert(k->sequence_flags & 2);
	for (size_t i = 0; i < k->interned_data->n_event_names; i++) {
		const Pf__EventName *n = k->interned_data->event_names[i];

		ck_assert_uint_le(n->iid, PF_INTERNED);
		strcpy(known[0][n->iid], n->name);
	}
	for (size_t i = 0; i < k->interned_data->n_debug_annotation_names; i++) {
		const Pf__DebugAnnotationName *n = k->interned_data->debug_annotation_names[i];

		ck_assert_uint_le(n->iid, PF_INTERNED);
		strcpy(known[1][n->iid], n->name);
	}
}

/* Until that packet. */
static void learn_until(const Pf__TracePacket *end_of)
{
	memset(known, 0, sizeof(known));
	for (size_t i = 0; i < trace->n_packet; i++) {
		learn(trace->packet[i]);
		if (trace->packet[i] == end_of)
			return;
	}
	ck_abort_msg("no such packet");
}

static const Pf__DebugAnnotation *annotation(Pf__DebugAnnotation *const *list, size_t nr, const char *name)
{
	for (size_t i = 0; i < nr; i++)
		if (!strcmp(known[1][list[i]->name_iid], name))
			return list[i];
	return NULL;
}

static const Pf__DebugAnnotation *arg(const Pf__TracePacket *k, const char *name)
{
	return annotation(k->track_event->debug_annotations, k->track_event->n_debug_annotations, name);
}

static void harmless(const char *text, size_t most)
{
	if (!text)
		return;
	ck_assert_uint_le(strlen(text), most);
	for (; *text; text++)
		ck_assert_msg(*text >= ' ' && *text <= '~', "%#x", (unsigned char)*text);
}

/* ------------------------------------------------------------------------------------------ tests */

/* Clocks, machine, sequence: what comes before all events. */
START_TEST(test_head)
{
	__u32 id = declare("own", "v", s32());
	__s32 v[4] = { -7 };
	const Pf__TracePacket *k;

	strcpy(session.hostname, "h\xffst");
	strcpy(session.release, "6.1");
	session.clock = (struct htrace_clock_sample){ .mono = 5, .real = 1000 };
	session.facts.nr_cpus = 3;
	finish_schema();
	show(id, v, 16, false);
	finish();
	k = trace->packet[0];
	ck_assert(k->clock_snapshot && !k->has_machine_id);
	ck_assert_int_eq(k->clock_snapshot->primary_trace_clock, PF__BUILTIN_CLOCK__CLOCK_REALTIME);
	k = trace->packet[1];
	ck_assert(k->has_machine_id && k->machine_id == 1 && k->first_packet_on_sequence);
	ck_assert_uint_eq(k->sequence_flags, 1);
	ck_assert_uint_eq(k->trace_packet_defaults->timestamp_clock_id, PF__BUILTIN_CLOCK__CLOCK_MONOTONIC);
	k = trace->packet[2];
	ck_assert_uint_eq(k->remote_clock_sync->n_synced_clocks, 2);
	for (int i = 0; i < 2; i++) {
		const Pf__RemoteClockSync__SyncedClocks *c = k->remote_clock_sync->synced_clocks[i];

		ck_assert_uint_eq(c->client_clocks->n_clocks, 3);
		ck_assert_uint_eq(c->client_clocks->clocks[1]->clock_id, PF__BUILTIN_CLOCK__CLOCK_MONOTONIC);
		ck_assert_uint_eq(c->client_clocks->clocks[1]->timestamp, 5);
		ck_assert_uint_eq(c->client_clocks->clocks[2]->timestamp, 1000);
		ck_assert_uint_eq(c->host_clocks->clocks[0]->timestamp, 1000);
	}
	k = trace->packet[3];
	ck_assert_str_eq(k->system_info->machine_name, "vm h\\xffst");
	ck_assert_str_eq(k->system_info->utsname->release, "6.1");
	ck_assert_uint_eq(k->system_info->num_cpus, 3);
	ck_assert_str_eq(trace->packet[4]->track_descriptor->name, "vm h\\xffst");
	for (size_t i = 1; i < trace->n_packet; i++)
		ck_assert_uint_eq(trace->packet[i]->trusted_packet_sequence_id, 2);
	k = on_track(PF_EVENTS, 0);
	learn_until(k);
	ck_assert_uint_eq(k->timestamp, 12345678901ULL);
	ck_assert_int_eq(k->track_event->type, PF__TRACK_EVENT__TYPE__TYPE_INSTANT);
	ck_assert_str_eq(known[0][k->track_event->name_iid], "own");
	ck_assert(arg(k, "v")->has_int_value && arg(k, "v")->int_value == -7);
	ck_assert_ptr_null(arg(k, "current"));
}
END_TEST

START_TEST(test_values)
{
	int u8 = htrace_builder_int(builder, "u8", 1, false, HTRACE_HINT_NONE);
	struct htrace_schema_value values[] = { { -1, "MINUS" } };
	struct htrace_schema_member in[] = {
		{ .type = (__u32)u8, .name = "a" },
		{ .type = (__u32)u8, .bit_off = 8, .name = "b" },
	};
	int inner = htrace_builder_struct(builder, "inner", false, 2, in, 2);
	struct htrace_schema_member m[] = {
		{ .type = (__u32)htrace_builder_array(builder, u8, 3), .name = "list" },
		{ .type = (__u32)htrace_builder_int(builder, "b", 1, false, HTRACE_HINT_BOOL),
		  .bit_off = 24, .name = "on" },
		{ .type = (__u32)htrace_builder_enum(builder, "e", 4, true, values, 1), .bit_off = 32, .name = "e" },
		{ .type = (__u32)htrace_builder_array(builder, inner, 2), .bit_off = 64, .name = "both" },
		{ .type = (__u32)u32(HTRACE_HINT_TASK_STATE), .bit_off = 96, .name = "state" },
		{ .type = (__u32)htrace_builder_int(builder, "p", 8, false, HTRACE_HINT_POINTER),
		  .bit_off = 128, .name = "p" },
		{ .type = (__u32)htrace_builder_int(builder, "u64", 8, false, HTRACE_HINT_NONE),
		  .bit_off = 192, .name = "most" },
		{ .type = (__u32)htrace_builder_int(builder, "u128", 16, false, HTRACE_HINT_NONE),
		  .bit_off = 256, .name = "wide" },
		{ .type = (__u32)htrace_builder_string(builder, 8), .bit_off = 384, .name = "text" },
		{ .type = (__u32)u32(HTRACE_HINT_TID), .bit_off = 448, .name = "who" },
	};
	__u32 id = declare_struct("kinds", m, ARRAY_SIZE(m), 64);
	unsigned char r[64] = { 1, 2, 255, 1, 255, 255, 255, 255, 5, 6, 7, 8, 2, 1, 0, 0 };
	const Pf__DebugAnnotation *a;
	const Pf__TracePacket *k;

	memset(r + 16, 0xfe, 8);
	memset(r + 24, 0xff, 8);
	r[32] = 0xef;
	r[47] = 0x12;
	memcpy(r + 48, "q\"\xc3\xa9", 5);
	r[56] = 9;
	names_set(names, 9, 9, 1, "sh", 2);
	finish_schema();
	show(id, r, 64, false);
	finish();
	k = on_track(PF_EVENTS, 0);
	learn_until(k);
	a = arg(k, "list");
	ck_assert(a->n_array_values == 3 && a->array_values[2]->uint_value == 255 && !a->array_values[0]->has_name_iid);
	ck_assert(arg(k, "on")->has_bool_value && arg(k, "on")->bool_value);
	ck_assert(arg(k, "e")->has_int_value && arg(k, "e")->int_value == -1);
	ck_assert_str_eq(arg(k, "e.name")->string_value, "MINUS");
	a = arg(k, "both");
	ck_assert_uint_eq(a->n_array_values, 2);
	ck_assert_uint_eq(a->array_values[1]->n_dict_entries, 2);
	ck_assert_uint_eq(annotation(a->array_values[1]->dict_entries, 2, "b")->uint_value, 8);
	ck_assert(arg(k, "state")->uint_value == 258);
	ck_assert_str_eq(arg(k, "state.name")->string_value, "D+");
	ck_assert(arg(k, "p")->pointer_value == 0xfefefefefefefefeULL);
	ck_assert(arg(k, "most")->uint_value == ~0ULL);
	ck_assert_str_eq(arg(k, "wide")->string_value, "0x120000000000000000000000000000ef");
	ck_assert_str_eq(arg(k, "text")->string_value, "q\\x22\\xc3\\xa9");
	ck_assert(arg(k, "who")->uint_value == 9);
	ck_assert_str_eq(arg(k, "who.name")->string_value, "sh");
	ck_assert_ptr_null(arg(k, "truncated"));
}
END_TEST

START_TEST(test_raw)
{
	__u32 id = declare("e", "v", s32());
	static unsigned char big[1000];
	const Pf__TracePacket *k;

	finish_schema();
	show(999, "\x01\xab\xff", 3, false);
	show(id, "\x01\x02", 2, true);
	show(999, big, sizeof(big), false);
	finish();
	k = on_track(PF_EVENTS, 0);
	learn_until(k);
	ck_assert_str_eq(known[0][k->track_event->name_iid], "event#999");
	ck_assert_str_eq(arg(k, "raw")->string_value, "01abff");
	k = on_track(PF_EVENTS, 1);
	learn_until(k);
	ck_assert_str_eq(known[0][k->track_event->name_iid], "e");
	ck_assert_str_eq(arg(k, "raw")->string_value, "0102");
	ck_assert(arg(k, "unverified")->bool_value);
	k = on_track(PF_EVENTS, 2);
	learn_until(k);
	ck_assert_uint_eq(strlen(arg(k, "raw")->string_value), 512);
	ck_assert_uint_eq(arg(k, "raw.bytes")->uint_value, 1000);
}
END_TEST

/* A task that is in a call, and on the CPU, when events are lost. */
START_TEST(test_loss)
{
	__u32 sw = declare_switch(), enter = declare_enter(), leave = declare_exit(), irq = declare_irq();
	struct on_switch to7 = { 0, 7, 120, 110, 0, 0 }, from7 = { 7, 0, 110, 120, 1, 0 };
	struct on_enter e = { 7, 1, { 1, 2, 3, 4, 5, ~0ULL } };
	struct on_exit x = { 7, 0, -2 };
	struct on_irq i = { 11, "ata" };
	struct sink_loss l = { .from = &origin, .time = 500, .overwritten = 40, .dropped = 2 };
	const Pf__FtraceEvent *f;
	const Pf__TracePacket *k;
	size_t nr;

	names_set(names, 7, 7, 1, "seven", 5);
	finish_schema();
	show_at(&origin, 100, sw, &to7, sizeof(to7), false);
	show_at(&origin, 200, enter, &e, sizeof(e), false);
	show_at(&origin, 300, irq, &i, sizeof(i), false);
	sink.ops->loss(&sink, &l);
	show_at(&origin, 600, leave, &x, sizeof(x), false);
	show_at(&origin, 700, sw, &from7, sizeof(from7), false);
	finish();
	f = ftrace(0);
	ck_assert(f->timestamp == 100 && f->sched_switch->next_pid == 7 && f->sched_switch->next_prio == 110);
	ck_assert_str_eq(f->sched_switch->prev_comm, "swapper/2");
	ck_assert_str_eq(f->sched_switch->next_comm, "seven");
	f = ftrace(1);
	ck_assert(f->timestamp == 200 && f->pid == 7 && f->sys_enter->id == 1 && f->sys_enter->n_args == 6 &&
		  f->sys_enter->args[5] == ~0ULL);
	f = ftrace(2);
	ck_assert(f->timestamp == 300 && f->irq_handler_entry->irq == 11);
	ck_assert_str_eq(f->irq_handler_entry->name, "ata");
	f = ftrace(3); /* nobody saw it end */
	ck_assert(f->timestamp == 300 && f->irq_handler_exit->irq == 11);
	f = ftrace(4);
	ck_assert(f->timestamp == 300 && f->sched_switch->prev_pid == 7);
	ck_assert_int_eq(f->sched_switch->next_pid, 0x7fffffff - 2);
	ck_assert_str_eq(f->sched_switch->next_comm, "(events lost)");
	f = ftrace(5); /* from the first that says who runs */
	ck_assert(f->timestamp == 600 && f->sched_switch->prev_pid == 0x7fffffff - 2 &&
		  f->sched_switch->next_pid == 7);
	f = ftrace(6); /* not the call that it was in */
	ck_assert(f->timestamp == 600 && f->sys_exit->id == 1 && !f->sys_exit->has_ret);
	f = ftrace(7);
	ck_assert(f->timestamp == 600 && f->sys_exit->id == 0 && f->sys_exit->ret == -2);
	f = ftrace(8);
	ck_assert(f->timestamp == 700 && f->sched_switch->prev_pid == 7 && f->sched_switch->prev_state == 1);
	ck_assert_ptr_null(ftrace(9));
	nr = 0;
	for (size_t n = 0; n < trace->n_packet; n++)
		if (trace->packet[n]->ftrace_events) {
			ck_assert_uint_eq(trace->packet[n]->ftrace_events->cpu, 2);
			ck_assert_int_eq(trace->packet[n]->ftrace_events->lost_events, nr++ == 1);
		}
	ck_assert_uint_eq(nr, 2);
	k = on_track(PF_LOST, 0);
	learn_until(k);
	ck_assert(k->timestamp == 300 && k->track_event->type == PF__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN);
	ck_assert_str_eq(k->track_event->name, "42 events lost");
	ck_assert(arg(k, "overwritten")->uint_value == 40 && arg(k, "dropped")->uint_value == 2);
	k = on_track(PF_LOST, 1);
	ck_assert(k->timestamp == 500 && k->track_event->type == PF__TRACK_EVENT__TYPE__TYPE_SLICE_END);
	ck_assert_ptr_null(on_track(PF_LOST, 2));
}
END_TEST

/* Interrupts whose ends the kernel did not record. */
START_TEST(test_interrupts)
{
	__u32 irq = declare_irq(), vec = declare("irq_softirq_entry", "vec", u32(HTRACE_HINT_NONE));
	__u32 end_of = declare("irq_softirq_exit", "vec", u32(HTRACE_HINT_NONE));
	struct on_irq first = { 11, "ata" }, second = { 12, "eth" };
	__u32 one[4] = { 1 }, two[4] = { 2 }, none[4] = { 10 };
	const Pf__FtraceEvent *f;

	finish_schema();
	show_at(&origin, 100, irq, &first, sizeof(first), false);
	show_at(&origin, 200, irq, &second, sizeof(second), false);
	show_at(&origin, 300, vec, one, sizeof(one), false);
	show_at(&origin, 400, vec, two, sizeof(two), false);
	show_at(&origin, 500, end_of, one, sizeof(one), false);
	show_at(&origin, 600, vec, none, sizeof(none), false);
	finish();
	ck_assert_int_eq(ftrace(0)->irq_handler_entry->irq, 11);
	f = ftrace(1);
	ck_assert(f->timestamp == 200 && f->irq_handler_exit->irq == 11);
	ck_assert_int_eq(ftrace(2)->irq_handler_entry->irq, 12);
	ck_assert_uint_eq(ftrace(3)->softirq_entry->vec, 1);
	f = ftrace(4);
	ck_assert(f->timestamp == 400 && f->softirq_exit->vec == 1);
	ck_assert_uint_eq(ftrace(5)->softirq_entry->vec, 2);
	f = ftrace(6);
	ck_assert(f->timestamp == 500 && f->softirq_exit->vec == 2);
	f = ftrace(7);
	ck_assert(f->timestamp == 500 && f->softirq_exit->vec == 1);
	ck_assert_ptr_null(ftrace(8));
	ck_assert_ptr_nonnull(on_track(PF_EVENTS, 0)); /* there is no such soft interrupt */
}
END_TEST

/* Switches that a filter took away: the task did not run until the next one that is shown. */
START_TEST(test_hidden)
{
	__u32 sw = declare_switch();
	struct on_switch to7 = { 0, 7, 120, 110, 0, 0 }, from8 = { 8, 9, 100, 120, 2, 0 };
	static const struct {
		__u64 time;
		__s32 prev, next;
	} want[] = { { 100, 0, 7 }, { 100, 7, 0x7fffffff - 2 * 1024 - 2 },
		     { 300, 0x7fffffff - 2 * 1024 - 2, 8 }, { 300, 8, 9 } };

	finish_schema();
	show_at(&origin, 100, sw, &to7, sizeof(to7), false);
	show_at(&origin, 300, sw, &from8, sizeof(from8), false);
	finish();
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		ck_assert_uint_eq(ftrace(i)->timestamp, want[i].time);
		ck_assert_int_eq(ftrace(i)->sched_switch->prev_pid, want[i].prev);
		ck_assert_int_eq(ftrace(i)->sched_switch->next_pid, want[i].next);
	}
	ck_assert_str_eq(ftrace(1)->sched_switch->next_comm, "(not shown)");
	ck_assert_ptr_null(ftrace(ARRAY_SIZE(want)));
}
END_TEST

/* Each is told once, with its process, and again when that changes. */
START_TEST(test_tasks)
{
	__u32 sw = declare_switch();
	struct on_switch to7 = { 0, 7, 120, 110, 0, 0 }, back = { 7, 0, 110, 120, 1, 0 };
	static const struct {
		int tid, pid;
		const char *name;
	} want[] = { { 7, 6, "seven" }, { 6, 6, "six" }, { 7, 6, "new" } };
	size_t nr = 0;

	names_set(names, 7, 6, 1, "seven", 5);
	names_set(names, 6, 6, 1, "six", 3);
	finish_schema();
	for (__u64 t = 10; t < 50; t += 10)
		show_at(&origin, t, sw, t / 10 % 2 ? &to7 : &back, sizeof(to7), false);
	names_set(names, 7, 6, 50, "new", 3);
	show_at(&origin, 60, sw, &to7, sizeof(to7), false);
	finish();
	for (size_t i = 0; i < trace->n_packet; i++) {
		const Pf__ProcessTree *t = trace->packet[i]->process_tree;

		if (!t)
			continue;
		ck_assert_uint_lt(nr, ARRAY_SIZE(want));
		ck_assert(t->n_threads == 1 && t->threads[0]->tid == want[nr].tid);
		ck_assert_int_eq(t->threads[0]->tgid, want[nr].pid);
		ck_assert_str_eq(t->threads[0]->name, want[nr].name);
		ck_assert_uint_eq(t->n_processes, want[nr].tid == want[nr].pid);
		nr++;
	}
	ck_assert_uint_eq(nr, ARRAY_SIZE(want));
}
END_TEST

/* A task that is made ends the call of the one that had its number, and was not seen to end. */
START_TEST(test_forked)
{
	__u32 enter = declare_enter(), fork_id = declare_fork();
	struct on_enter exits = { .tid = 7, .nr = 231 }, reads = { .tid = 7, .nr = 0 };
	struct on_fork made = { 5, 7, 7, "seven" };

	finish_schema();
	show_at(&origin, 10, enter, &exits, sizeof(exits), false);
	show_at(&origin, 20, fork_id, &made, sizeof(made), false);
	show_at(&origin, 30, enter, &reads, sizeof(reads), false);
	finish();
	ck_assert_ptr_nonnull(ftrace(0)->sys_enter);
	ck_assert(ftrace(1)->sys_exit && ftrace(1)->sys_exit->id == 231);
	ck_assert_uint_eq(ftrace(1)->timestamp, 20);
	ck_assert_ptr_nonnull(ftrace(2)->task_newtask);
	ck_assert_ptr_nonnull(ftrace(3)->sys_enter);
	ck_assert_ptr_null(ftrace(4));
}
END_TEST

/* No byte that a guest chooses gets out, and no text is longer than it may be. */
START_TEST(test_hostile_names)
{
	__u32 sw = declare_switch(), irq = declare_irq();
	__u32 text = declare("text", "v", htrace_builder_string(builder, 0));
	struct on_switch s = { 7, 8, 1, 1, 0, 0 };
	struct on_irq i = { .irq = 1 };
	static char all[8192];
	const Pf__TracePacket *k;

	memset(session.hostname, 0xff, sizeof(session.hostname));
	memset(session.release, '\n', sizeof(session.release));
	memset(i.name, 0x1b, sizeof(i.name));
	for (size_t n = 0; n < sizeof(all); n++)
		all[n] = (char)(1 + n % 255);
	finish_schema();
	for (__u32 n = 0; n < 256; n += 16) {
		names_set(names, 7, 7, 1 + n, all + n, 16);
		names_set(names, 8, 8, 1 + n, all + n + 8, 16);
		show_at(&origin, 1000 + n, sw, &s, sizeof(s), false);
	}
	show_at(&origin, 2000, irq, &i, sizeof(i), false);
	show_at(&origin, 3000, text, all, sizeof(all), false);
	finish();
	for (size_t n = 0; n < trace->n_packet; n++) {
		k = trace->packet[n];
		for (size_t b = 0; k->ftrace_events && b < k->ftrace_events->n_event; b++) {
			const Pf__FtraceEvent *f = k->ftrace_events->event[b];

			if (f->irq_handler_entry) {
				ck_assert_uint_eq(strlen(f->irq_handler_entry->name), 4 * 28);
				harmless(f->irq_handler_entry->name, 4 * 28);
				continue;
			}
			harmless(f->sched_switch->prev_comm, 64);
			harmless(f->sched_switch->next_comm, 64);
		}
		if (k->process_tree)
			harmless(k->process_tree->threads[0]->name, 64);
		if (k->system_info) {
			harmless(k->system_info->machine_name, 400);
			harmless(k->system_info->utsname->release, 256);
		}
		if (k->track_descriptor)
			harmless(k->track_descriptor->name, 400);
	}
	k = on_track(PF_EVENTS, 0);
	learn_until(k);
	harmless(arg(k, "v")->string_value, 4 * PF_STRING + 3);
	ck_assert_uint_gt(strlen(arg(k, "v")->string_value), PF_STRING);
	ck_assert_str_eq(arg(k, "v")->string_value + strlen(arg(k, "v")->string_value) - 3, "...");
}
END_TEST

/* More values, more text than an event may have. */
START_TEST(test_large)
{
	int u8 = htrace_builder_int(builder, "u8", 1, false, HTRACE_HINT_NONE);
	__u32 list = declare("list", "v", htrace_builder_array(builder, u8, 0));
	int text = htrace_builder_string(builder, 1000);
	struct htrace_schema_member m[60];
	static char bytes[60000];
	const Pf__TracePacket *k;
	__u32 texts;

	for (__u32 i = 0; i < ARRAY_SIZE(m); i++) {
		m[i] = (struct htrace_schema_member){ .type = (__u32)text, .bit_off = i * 8000 };
		snprintf(m[i].name, sizeof(m[i].name), "member_%u", i);
	}
	texts = declare_struct("texts", m, ARRAY_SIZE(m), sizeof(bytes));
	memset(bytes, 1, sizeof(bytes));
	finish_schema();
	show_at(&origin, 1, list, bytes, 5000, false);
	show_at(&origin, 2, texts, bytes, sizeof(bytes), false);
	show_at(&origin, 3, list, bytes, 10, false);
	finish();
	k = on_track(PF_EVENTS, 0);
	learn_until(k);
	ck_assert_uint_gt(arg(k, "v")->n_array_values, 1000);
	ck_assert_uint_lt(arg(k, "v")->n_array_values, PF_NODES);
	ck_assert(arg(k, "truncated")->bool_value);
	k = on_track(PF_EVENTS, 1);
	learn_until(k);
	ck_assert_uint_ge(strlen(arg(k, "member_0")->string_value), 4 * 999);
	ck_assert(arg(k, "truncated")->bool_value);
	k = on_track(PF_EVENTS, 2);
	learn_until(k);
	ck_assert(arg(k, "v")->n_array_values == 10 && !arg(k, "truncated"));
}
END_TEST

/* More names than a sequence may have: it begins anew, and each number means what it should. */
START_TEST(test_many_names)
{
	enum { EVENTS = 40, MEMBERS = 250 };
	__u32 id[EVENTS], clears = 0, seen = 0;
	int u32_type = u32(HTRACE_HINT_NONE);
	static struct htrace_schema_member m[MEMBERS];
	static __u32 payload[MEMBERS];

	for (__u32 e = 0; e < EVENTS; e++) {
		char name[16];

		for (__u32 i = 0; i < MEMBERS; i++) {
			m[i] = (struct htrace_schema_member){ .type = (__u32)u32_type, .bit_off = 32 * i };
			snprintf(m[i].name, sizeof(m[i].name), "e%u_m%u", e, i);
		}
		snprintf(name, sizeof(name), "event_%u", e);
		id[e] = declare_struct(name, m, MEMBERS, sizeof(payload));
	}
	finish_schema();
	for (__u32 round = 0; round < 3; round++)
		for (__u32 e = 0; e < EVENTS; e++) {
			for (__u32 i = 0; i < MEMBERS; i++)
				payload[i] = e * 1000 + i;
			show_at(&origin, 1 + round * EVENTS + e, id[e], payload, sizeof(payload), false);
		}
	finish();
	memset(known, 0, sizeof(known));
	for (size_t n = 1; n < trace->n_packet; n++) {
		const Pf__TracePacket *k = trace->packet[n];
		unsigned int e, i;

		learn(k);
		clears += k->sequence_flags & 1;
		if (!k->track_event || k->track_event->type != PF__TRACK_EVENT__TYPE__TYPE_INSTANT)
			continue;
		ck_assert_int_eq(sscanf(known[0][k->track_event->name_iid], "event_%u", &e), 1);
		ck_assert_uint_eq(e, seen++ % EVENTS);
		ck_assert_uint_eq(k->track_event->n_debug_annotations, MEMBERS);
		for (__u32 a = 0; a < MEMBERS; a++) {
			const Pf__DebugAnnotation *d = k->track_event->debug_annotations[a];
			unsigned int of;

			ck_assert_int_eq(sscanf(known[1][d->name_iid], "e%u_m%u", &of, &i), 2);
			ck_assert(of == e && i == a && d->uint_value == e * 1000 + i);
		}
	}
	ck_assert_uint_eq(seen, 3 * EVENTS);
	ck_assert_uint_gt(clears, 5);
}
END_TEST

/* More tasks than are remembered. */
START_TEST(test_many_tasks)
{
	__u32 enter = declare_enter(), nr = 0;

	finish_schema();
	for (__u32 tid = 1; tid <= 3 * PF_TASKS; tid++) {
		struct on_enter e = { .tid = tid, .nr = 2 };

		show_at(&origin, tid, enter, &e, sizeof(e), false);
	}
	finish();
	while (ftrace(nr) && nr < 100)
		nr++;
	ck_assert_uint_eq(nr, 100);
	nr = 0;
	for (size_t i = 0; i < trace->n_packet; i++)
		nr += trace->packet[i]->ftrace_events ? (__u32)trace->packet[i]->ftrace_events->n_event : 0;
	ck_assert_uint_eq(nr, 3 * PF_TASKS);
}
END_TEST

/* Events per second, in windows of 100 ms; none where nothing happened. */
START_TEST(test_rate)
{
	static const struct {
		__u64 time;
		__s64 value;
	} want[] = { { 1010000000, 30 }, { 1100000000, 10 }, { 1200000000, 0 }, { 2000000000, 20 }, { 2100000000, 0 } };
	static const __u64 times[] = { 1010000000, 1020000000, 1099999999, 1100000000, 2050000000, 2050000001 };
	__u32 id = declare("own", "v", s32());
	__s32 v[4] = { 1 };

	finish_schema();
	for (size_t i = 0; i < ARRAY_SIZE(times); i++)
		show_at(&origin, times[i], id, v, 16, false);
	finish();
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		const Pf__TracePacket *k = on_track(PF_RATE, i);

		ck_assert_ptr_nonnull(k);
		ck_assert_uint_eq(k->timestamp, want[i].time);
		ck_assert_int_eq(k->track_event->counter_value, want[i].value);
		ck_assert_int_eq(k->track_event->type, PF__TRACK_EVENT__TYPE__TYPE_COUNTER);
	}
	ck_assert_ptr_null(on_track(PF_RATE, ARRAY_SIZE(want)));
}
END_TEST

/* Sessions of one boot are one machine; another boot, another source are others. */
START_TEST(test_machines)
{
	static const struct {
		unsigned int source;
		char boot;
		__u32 machine;
	} sessions[] = { { 0, 1, 1 }, { 0, 1, 1 }, { 1, 1, 2 }, { 0, 2, 3 }, { 0, 0, 4 }, { 0, 0, 5 } };
	struct sink_note note = { .text = "new session: \x1b" };
	__u32 id = declare("own", "v", s32()), nr = 0;
	__s32 v[4] = { 1 };

	finish_schema();
	sink.ops->note(&sink, &(struct sink_note){ .text = "early" }); /* there is no machine yet */
	for (size_t i = 0; i < ARRAY_SIZE(sessions); i++) {
		session.source_nr = sessions[i].source;
		session.boot_id[3] = (__u8)sessions[i].boot;
		show_at(&origin, 100 + i, id, v, 16, false);
		sink.ops->session_end(&sink, &session);
	}
	sink.ops->note(&sink, &note);
	finish();
	for (size_t i = 0; i < ARRAY_SIZE(sessions); i++) {
		const Pf__TracePacket *k = on_track(PF_EVENTS, i);

		ck_assert_uint_eq(k->machine_id, sessions[i].machine);
		ck_assert_uint_eq(k->trusted_packet_sequence_id, 1 + sessions[i].machine);
		ck_assert_uint_eq(k->track_event->track_uuid >> 32, sessions[i].machine);
	}
	for (size_t i = 0; i < trace->n_packet; i++)
		if (trace->packet[i]->system_info && ++nr == 3)
			ck_assert_str_eq(trace->packet[i]->system_info->machine_name, "vm boot 2");
	ck_assert_uint_eq(nr, 5);
	ck_assert_str_eq(on_track(PF_MACHINE, 0)->track_event->name, "early");
	ck_assert_uint_eq(on_track(PF_MACHINE, 0)->machine_id, 1);
	ck_assert_str_eq(on_track(PF_MACHINE, 1)->track_event->name, "new session: \\x1b");
	ck_assert_ptr_null(on_track(PF_MACHINE, 2));
}
END_TEST

/* Machines with the times of one host have one offset, whatever each knows of it; those of another host, or boot, have theirs. */
START_TEST(test_hosts)
{
	static const struct {
		__u8 host;
		__u64 real, ahead;
	} want[] = { { 1, 1000, 1000 }, { 2, 7000000, 7000000 }, { 1, 1001, 1000 }, { 2, 0, 7000000 }, { 3, ~0ULL, 0 } };
	__u32 id = declare("own", "v", s32());
	__s32 v[4] = { 1 };
	size_t nr = 0;

	finish_schema();
	session.on_host = true;
	for (size_t i = 0; i < ARRAY_SIZE(want) + 2 * PF_HOSTS; i++) {
		bool more = i >= ARRAY_SIZE(want); /* hosts without end */

		session.host_boot_id[9] = more ? (__u8)i : want[i].host;
		session.host_real = more ? 100 + i : want[i].real;
		show_at(&origin, 500 + i, id, v, 16, false);
		sink.ops->session_end(&sink, &session);
	}
	finish();
	for (size_t i = 0; i < trace->n_packet; i++) {
		const Pf__RemoteClockSync *sync = trace->packet[i]->remote_clock_sync;
		const Pf__ClockSnapshot *at;
		__u64 ahead;

		if (!sync)
			continue;
		at = sync->synced_clocks[0]->client_clocks;
		ahead = at->clocks[2]->timestamp - at->clocks[1]->timestamp;
		if (nr >= ARRAY_SIZE(want))
			ck_assert_uint_eq(ahead, 100 + nr);
		else if (want[nr].ahead)
			ck_assert_uint_eq(ahead, want[nr].ahead);
		else
			ck_assert_uint_lt(ahead, PF_TIME_MAX);
		nr++;
	}
	ck_assert_uint_eq(nr, ARRAY_SIZE(want) + 2 * PF_HOSTS);
}
END_TEST

/* What is said before anything happened stands at the beginning of its source's machine; so much of it. */
START_TEST(test_early_notes)
{
	static const char mine[] = "local:mine", others[] = "local:others";
	__u32 id = declare("own", "v", s32());
	__s32 v[4] = { 1 };
	char text[8];

	finish_schema();
	session.source = mine;
	for (unsigned int i = 0; i < 3; i++) {
		struct sink_note note = { .source = i == 1 ? others : mine, .text = text };

		snprintf(text, sizeof(text), "%u", i);
		sink.ops->note(&sink, &note);
	}
	show_at(&origin, 100, id, v, 16, false);
	for (unsigned int i = 3; i < 100; i++) { /* of one that never begins, without end */
		struct sink_note note = { .source = others, .text = text };

		sink.ops->note(&sink, &note);
	}
	sink.ops->note(&sink, &(struct sink_note){ .source = mine, .text = "late", .time = 200 });
	finish();
	ck_assert_str_eq(on_track(PF_MACHINE, 0)->track_event->name, "0");
	ck_assert_uint_eq(on_track(PF_MACHINE, 0)->timestamp, 100);
	ck_assert_str_eq(on_track(PF_MACHINE, 1)->track_event->name, "2");
	ck_assert_str_eq(on_track(PF_MACHINE, 2)->track_event->name, "late");
	ck_assert_ptr_null(on_track(PF_MACHINE, 3));
}
END_TEST

/* Times that are none. */
START_TEST(test_times)
{
	__u32 id = declare("own", "v", s32()), sw = declare_switch();
	struct on_switch to7 = { 0, 7, 120, 110, 0, 0 };
	struct sink_loss l = { .from = &origin, .time = ~0ULL, .dropped = 1 };
	__s32 v[4] = { 1 };

	session.clock = (struct htrace_clock_sample){ .mono = ~0ULL, .real = ~0ULL };
	names_set(names, 7, 7, 1, "seven", 5); /* which is told with the first event of it */
	finish_schema();
	show_at(&origin, ~0ULL, id, v, 16, false);
	show_at(&origin, ~0ULL, sw, &to7, sizeof(to7), false);
	show_at(&origin, 5, id, v, 16, false);
	sink.ops->loss(&sink, &l);
	finish();
	for (size_t i = 0; i < trace->n_packet; i++)
		ck_assert_uint_le(trace->packet[i]->timestamp, PF_TIME_MAX + 100000000); /* a window ends */
	ck_assert_uint_eq(on_track(PF_EVENTS, 1)->timestamp, PF_TIME_MAX);
	ck_assert_uint_lt(trace->packet[2]->remote_clock_sync->synced_clocks[0]->host_clocks->clocks[0]->timestamp,
			  PF_TIME_MAX);
}
END_TEST

/* Levels, initcalls in them, then user space, in which a module's initcall is none of the kernel's. */
START_TEST(test_boot)
{
	static const struct {
		__u64 time;
		const char *begins; /* NULL: something ends */
	} want[] = {
		{ 100, "early" }, { 110, "a_init" }, { 120, NULL }, { 200, NULL }, { 200, "late\\x0a" }, { 210, "0x22" },
		{ 300, NULL }, { 300, NULL }, { 300, "user space" }, { 400, NULL },
	};
	static const struct htrace_schema_value known_as[] = { { 0x11, "a_init" } };
	__u32 level = declare("initcall_level", "level", htrace_builder_string(builder, 0));
	int function = htrace_builder_enum(builder, "function", 8, false, known_as, 1);
	__u32 start = declare("initcall_start", "func", function), finish_ = declare("initcall_finish", "func", function);
	__u32 exec = declare("sched_process_exec", "tid", u32(HTRACE_HINT_TID));
	__u64 a[2] = { 0x11 }, b[2] = { 0x22 };
	__u32 other[4] = { 7 }, init[4] = { 1 };

	finish_schema();
	show_at(&origin, 50, exec, init, 16, false); /* no boot began yet */
	show_at(&origin, 60, start, b, 16, false);
	show_at(&origin, 100, level, "early", 6, false);
	show_at(&origin, 110, start, a, 16, false);
	show_at(&origin, 120, finish_, a, 16, false);
	show_at(&origin, 200, level, "late\n", 6, false);
	show_at(&origin, 210, start, b, 16, false);
	show_at(&origin, 250, exec, other, 16, false);
	show_at(&origin, 300, exec, init, 16, false);
	show_at(&origin, 400, start, a, 16, false);
	finish();
	for (size_t i = 0; i < ARRAY_SIZE(want); i++) {
		const Pf__TracePacket *k = on_track(PF_BOOT, i);

		ck_assert_msg(k && k->timestamp == want[i].time, "%zu", i);
		ck_assert_int_eq(k->track_event->type, want[i].begins ? PF__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN :
					 PF__TRACK_EVENT__TYPE__TYPE_SLICE_END);
		learn_until(k);
		if (want[i].begins)
			ck_assert_str_eq(known[0][k->track_event->name_iid], want[i].begins);
	}
	ck_assert_ptr_null(on_track(PF_BOOT, ARRAY_SIZE(want)));
}
END_TEST

START_TEST(test_full_disk)
{
	__u32 id = declare("own", "v", s32());
	__s32 v[4] = { 1 };
	struct sink full = { .ops = &sink_perfetto, .path = "/dev/full" };

	finish_schema();
	ck_assert_int_eq(full.ops->open(&full), 0);
	ck_assert_int_eq(full.ops->begin(&full), 0);
	finish();
	sink = full;
	show(id, v, 16, false);
	ck_assert_int_eq(full.ops->error(&full), 0);
	full.ops->flush(&full);
	ck_assert_int_eq(full.ops->error(&full), ENOSPC);
	show(id, v, 16, false);
	ck_assert_int_eq(full.ops->close(&full), -ENOSPC);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("sink_perfetto");
	TCase *c = tcase_create("sink_perfetto");

	tcase_add_checked_fixture(c, setup, end);
	tcase_add_test(c, test_head);
	tcase_add_test(c, test_values);
	tcase_add_test(c, test_raw);
	tcase_add_test(c, test_loss);
	tcase_add_test(c, test_interrupts);
	tcase_add_test(c, test_hidden);
	tcase_add_test(c, test_tasks);
	tcase_add_test(c, test_forked);
	tcase_add_test(c, test_hostile_names);
	tcase_add_test(c, test_large);
	tcase_add_test(c, test_many_names);
	tcase_add_test(c, test_many_tasks);
	tcase_add_test(c, test_rate);
	tcase_add_test(c, test_machines);
	tcase_add_test(c, test_hosts);
	tcase_add_test(c, test_early_notes);
	tcase_add_test(c, test_times);
	tcase_add_test(c, test_boot);
	tcase_add_test(c, test_full_disk);
	suite_add_tcase(s, c);
	return unit_run(s);
}
