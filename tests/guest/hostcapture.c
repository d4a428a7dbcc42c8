/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A capture of SOURCE kvm that never was, from a script:
 *
 *	hostcapture DIR RINGS < SCRIPT
 *
 * A line is RING TIME WHAT and, in hexadecimal or decimal:
 *	exit VM TID VCPU REASON RIP | entry VM TID VCPU | out VM TID VCPU STATE [NEXT] | in VM TID VCPU
 *	| whole VM TID VCPU REASON RIP NS | lost EVENTS
 * It is written by the reader's own code, as the session of a source would be. Times of a ring rise. Thread NEXT is
 * called task-NEXT.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "session.h"
#include "source.h"

#define HLT 0x1000c

enum { EXIT, ENTRY, OUT, IN, WHOLE, EVENTS };

static const struct {
	const char *word, *event;
	unsigned int fields, bytes;
} event[EVENTS] = {
	[EXIT] = { "exit", "kvm_exit", 5, 24 },
	[ENTRY] = { "entry", "kvm_entry", 3, 16 },
	[OUT] = { "out", "kvm_sched_out", 4, 40 },
	[IN] = { "in", "kvm_sched_in", 3, 16 },
	[WHOLE] = { "whole", "kvm_io", 6, 32 },
};

static __u32 id[EVENTS];
static struct sinks sinks;
static struct stats stats;
static struct say_quota quota;
static struct selection *selection;

static void die(const char *what)
{
	fprintf(stderr, "hostcapture: %s\n", what);
	exit(1);
}

/* vm, tid, vcpu, reason, rip, ns; or vm, tid, vcpu, state, next, its name. */
static void declare(struct htrace_schema_builder *b)
{
	static const struct htrace_schema_value reason[] = {
		{ 0x10001, "EXTERNAL_INTERRUPT" }, { HLT, "HLT" }, { 0x10012, "VMCALL" },
		{ 0x1001e, "IO_INSTRUCTION" }, { 0x10020, "MSR_WRITE" },
	};
	__u32 u16 = (__u32)htrace_builder_int(b, "u16", 2, false, HTRACE_HINT_NONE);
	__u32 u32 = (__u32)htrace_builder_int(b, "u32", 4, false, HTRACE_HINT_NONE);
	__u32 u64 = (__u32)htrace_builder_int(b, "u64", 8, false, HTRACE_HINT_NONE);
	__u32 why = (__u32)htrace_builder_enum(b, "why", 4, false, reason, 5);
	const struct htrace_schema_member m[] = {
		{ u32, 0, 0, 0, "vm" }, { u32, 32, 0, 0, "tid" }, { u16, 64, 0, 0, "vcpu_id" },
		{ why, 96, 0, 0, "reason" }, { u64, 128, 0, 0, "guest_rip" },
		{ u64, 192, 0, 0, "exit_overhead_ns" },
	};
	const struct htrace_schema_member out[] = {
		m[0], m[1], m[2], { u32, 96, 0, 0, "prev_state" }, { u32, 128, 0, 0, "next_tid" },
		{ (__u32)htrace_builder_string(b, 16), 160, 0, 0, "next_comm" },
	};

	for (unsigned int i = 0; i < EVENTS; i++) {
		int type, ret;

		type = htrace_builder_struct(b, event[i].event, false, event[i].bytes, i == OUT ? out : m,
					     i == OUT ? 6 : event[i].fields);
		ret = htrace_builder_event(b, event[i].event, type);
		if (ret <= 0)
			die(htrace_builder_error(b));
		id[i] = (__u32)ret;
	}
}

static struct session *begin(const char *dir, unsigned int rings, __u64 now)
{
	struct session_facts facts = {
		.session = 1, .boot_id = { 1 }, .clock_id = HTRACE_CLOCK_MONOTONIC, .nr_cpus = rings,
		.nr_sets = 1, .host = true,
		.set = { { HTRACE_OVERWRITE, HTRACE_RING_PER_CPU, rings, 20, 16 } },
	};
	struct session_config c = {
		.facts = &facts, .path = "kvm", .origin = "kvm", .stats = &stats, .sinks = &sinks,
		.selection = selection, .quota = &quota,
	};
	struct htrace_schema_builder *b = NULL;
	struct session *s;
	char spec[4096], err[256];
	const char *specs[] = { spec };
	const void *entries;
	size_t len;

	snprintf(spec, sizeof(spec), "raw:%s", dir);
	if (sinks_open(&sinks, specs, 1) || sinks_begin(&sinks) || stats_init(&stats) ||
	    htrace_builder_new(&b, NULL, 0))
		die("cannot begin");
	declare(b);
	entries = htrace_builder_entries(b, &len);
	if (session_open(&s, &c, err, sizeof(err)) ||
	    session_schema(s, 1, entries, len, now, err, sizeof(err)))
		die(err);
	htrace_builder_free(b);
	return s;
}

static void add(struct session *s, const char *line)
{
	unsigned long long v[6] = { 0 }, time;
	struct __attribute__((packed)) {
		__u64 head;
		__u32 vm, tid, vcpu, reason;
		union {
			struct {
				__u64 rip, ns;
			};
			struct {
				__u32 next;
				char comm[20];
			};
		};
	} r = { 0 };
	unsigned int ring, i = 0;
	struct htrace_batch b = { .data = (unsigned char *)&r, .schema = 1, .pos = 4096 };
	char word[16];
	int at;

	if (sscanf(line, "%u %llu %15s%n", &ring, &time, word, &at) != 3)
		die(line);
	for (char *end = (char *)line + at; i < 6 && *end && *end != '\n'; i++)
		v[i] = strtoull(end, &end, 0);
	b.base = time;
	if (!strcmp(word, "lost")) {
		b.overwritten = v[0];
	} else {
		unsigned int k = 0;

		while (k < EVENTS && strcmp(event[k].word, word) != 0)
			k++;
		if (k == EVENTS || i < event[k].fields || i > event[k].fields + (k == OUT))
			die(line);
		b.len = 8 + event[k].bytes;
		b.events = 1;
		r.head = id[k] | (__u64)b.len << 16 | (__u64)time << 32;
		r.vm = (__u32)v[0];
		r.tid = (__u32)v[1];
		r.vcpu = (__u32)v[2];
		r.reason = (__u32)v[3];
		r.rip = v[4];
		r.ns = v[5];
		if (k == OUT)
			snprintf(r.comm, 16, "task-%u", r.next);
	}
	if (session_batch(s, ring, &b, time, false, 0))
		die("out of memory");
}

int main(int argc, char **argv)
{
	struct capture_end end = { .attached_ns = 1000000000 };
	struct session *s = NULL;
	char line[256];
	__u64 now = 0;

	if (argc != 3)
		die("give DIR and RINGS");
	if (selection_new(&selection, NULL))
		die("out of memory");
	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "%*u %llu", (unsigned long long *)&now) != 1)
			die(line);
		if (!s)
			s = begin(argv[1], (unsigned int)atoi(argv[2]), now);
		add(s, line);
	}
	if (!s)
		die("the script is empty");
	session_end(s, &end, now);
	session_close(s);
	stats_free(&stats);
	selection_free(selection);
	return sinks_close(&sinks);
}
