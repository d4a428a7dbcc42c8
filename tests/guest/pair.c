// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Two captures, of the kvm source and of a guest, of events that standard input gives, a line each, in the
 * order in which they were read:
 *
 *	host RING TIME EVENT VM THREAD VCPU [VALUE]	kvm_entry, kvm_exit REASON, kvm_sched_out STATE,
 *							kvm_sched_in, kvm_io NS
 *	lose RING NUMBER				of the host's events, before that ring's next one
 *	guest RING TIME NUMBER				tick
 *
 *	pair DIR VM VCPU...	makes DIR/host and DIR/guest; VM runs the guest, with these virtual CPUs
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "session.h"

#define HLT (2u << 16 | 0x78)
#define NPF (2u << 16 | 0x400)
#define IO (2u << 16 | 0x7b)
#define HOST_RINGS 4

static const __u8 boot_id[16] = { 0xb0, 0x07 };

struct side {
	struct sinks sinks;
	struct stats stats;
	struct say_quota quota;
	struct session_facts facts;
	struct session *session;
	__u32 lost[HOST_RINGS];
};

static struct selection *selection;
static __u64 now = 1;

static void must(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "pair: %s\n", what);
	exit(1);
}

/* ------------------------------------------------------------------------------------------ schema */

static __u32 host_ids[5];
static const char *const host_events[5] = {
	"kvm_exit", "kvm_entry", "kvm_sched_out", "kvm_sched_in", "kvm_io",
};

static int declare(struct htrace_schema_builder *b, const char *name, struct htrace_schema_member *m,
		   __u32 nr, __u32 size)
{
	return htrace_builder_event(b, name, htrace_builder_struct(b, name, false, size, m, nr));
}

static void declare_host(struct htrace_schema_builder *b)
{
	static const struct htrace_schema_value reasons[] = { { HLT, "hlt" }, { IO, "io" }, { NPF, "npf" } };
	__u32 u32 = (__u32)htrace_builder_int(b, "u32", 4, false, HTRACE_HINT_NONE);
	__u32 u16 = (__u32)htrace_builder_int(b, "u16", 2, false, HTRACE_HINT_NONE);
	__u32 u64 = (__u32)htrace_builder_int(b, "u64", 8, false, HTRACE_HINT_NONE);
	__u32 ptr = (__u32)htrace_builder_int(b, "ptr", 8, false, HTRACE_HINT_POINTER);
	__u32 tid = (__u32)htrace_builder_int(b, "tid", 4, false, HTRACE_HINT_TID);
	__u32 state = (__u32)htrace_builder_int(b, "state", 4, false, HTRACE_HINT_TASK_STATE);
	__u32 reason = (__u32)htrace_builder_enum(b, "kvm_exit_reason", 4, false, reasons, 3);
	struct htrace_schema_member m[6] = {
		{ u32, 0, 0, 0, "vm" }, { tid, 32, 0, 0, "tid" }, { u16, 64, 0, 0, "vcpu_id" },
	};

	m[3] = (struct htrace_schema_member){ reason, 96, 0, 0, "reason" };
	m[4] = (struct htrace_schema_member){ ptr, 128, 0, 0, "guest_rip" };
	host_ids[0] = (__u32)declare(b, "kvm_exit", m, 5, 24);
	m[5] = (struct htrace_schema_member){ u64, 192, 0, 0, "exit_overhead_ns" };
	host_ids[4] = (__u32)declare(b, "kvm_io", m, 6, 32);
	host_ids[1] = (__u32)declare(b, "kvm_entry", m, 3, 12);
	host_ids[3] = (__u32)declare(b, "kvm_sched_in", m, 3, 12);
	m[3] = (struct htrace_schema_member){ state, 96, 0, 0, "prev_state" };
	host_ids[2] = (__u32)declare(b, "kvm_sched_out", m, 4, 16);
}

static void declare_guest(struct htrace_schema_builder *b)
{
	struct htrace_schema_member m = {
		(__u32)htrace_builder_int(b, "u32", 4, false, HTRACE_HINT_NONE), 0, 0, 0, "nr"
	};

	must(declare(b, "tick", &m, 1, 4) > 0, "schema");
}

/* ---------------------------------------------------------------------------------------- captures */

static void begin(struct side *s, const char *dir, const char *name, bool host)
{
	struct session_config c = {
		.facts = &s->facts, .path = name, .origin = name, .stats = &s->stats,
		.sinks = &s->sinks, .selection = selection, .quota = &s->quota,
	};
	const struct host_word same = { .kind = HOST_WORD_SAME };
	struct htrace_schema_builder *b;
	char spec[4096], err[256] = "";
	const char *specs[] = { spec };
	const void *entries;
	size_t len;

	snprintf(spec, sizeof(spec), "raw:%s/%s", dir, name);
	must(!sinks_open(&s->sinks, specs, 1) && !sinks_begin(&s->sinks) && !stats_init(&s->stats), dir);
	s->facts = (struct session_facts){
		.session = host ? 1 : 2, .clock_id = HTRACE_CLOCK_MONOTONIC, .nr_cpus = host ? HOST_RINGS : 2,
		.nr_sets = 1, .local = host, .host = host, .boot_id = { host ? 0xb0 : 0x6e, 0x07 },
		.set = { { HTRACE_DISCARD, HTRACE_RING_PER_CPU, host ? HOST_RINGS : 2, 20, 16 } },
	};
	must(!session_open(&s->session, &c, err, sizeof(err)), err);
	must(!htrace_builder_new(&b, NULL, 0), "schema");
	if (host)
		declare_host(b);
	else
		declare_guest(b);
	entries = htrace_builder_entries(b, &len);
	must(!session_schema(s->session, 1, entries, len, now, err, sizeof(err)), err);
	htrace_builder_free(b);
	session_host_clock(s->session, &same, 1, now);
}

static void end(struct side *s)
{
	const struct capture_end words = { .attached_ns = now };

	session_end(s->session, &words, now);
	session_close(s->session);
	must(!sinks_close(&s->sinks), "closing");
	stats_free(&s->stats);
}

static void put(struct side *s, unsigned int ring, __u32 id, __u64 time, const void *payload, __u32 len)
{
	__u64 data[16] = { id | (__u64)(16 + (len + 7) / 8 * 8 + 1) << 16 | time << 32, time };
	struct htrace_batch b = {
		.data = (const unsigned char *)data, .base = time, .schema = 1, .events = 1, .pos = 4096 + time % 4096 * 8,
		.len = 16 + (len + 7) / 8 * 8,
	};

	memcpy(&data[2], payload, len);
	if (ring < HOST_RINGS) {
		b.dropped = s->lost[ring];
		s->lost[ring] = 0;
	}
	now = time > now ? time : now;
	session_emit(s->session, now, false);
	must(!session_batch(s->session, ring, &b, now, false, 0), "a batch");
}

/* ------------------------------------------------------------------------------------------ events */

static void put_host(struct side *s, const char *line)
{
	struct {
		__u32 vm, tid;
		__u16 vcpu, pad;
		__u32 value;
		__u64 rip, overhead;
	} p = { .rip = 0xffffffff81000000 };
	unsigned long long time, value = 0;
	char event[32];
	unsigned int ring, vcpu, id = 0;
	static const __u32 sizes[5] = { 24, 12, 16, 12, 32 };

	must(sscanf(line, "%u %llu %31s %u %u %u %lli", &ring, &time, event, &p.vm, &p.tid, &vcpu,
		    (long long *)&value) >= 6, line);
	while (id < 5 && strcmp(host_events[id], event) != 0)
		id++;
	must(id < 5, line);
	p.vcpu = (__u16)vcpu;
	p.value = id == 4 ? IO : (__u32)value;
	p.overhead = id == 4 ? value : 0;
	put(s, ring, host_ids[id], time, &p, sizes[id]);
}

static void put_guest(struct side *s, const char *line)
{
	unsigned long long time;
	unsigned int ring;
	__u32 nr;

	must(sscanf(line, "%u %llu %u", &ring, &time, &nr) == 3, line);
	put(s, ring, 1, time, &nr, sizeof(nr));
}

static void lose(struct side *s, const char *line)
{
	unsigned int ring, nr;

	must(sscanf(line, "%u %u", &ring, &nr) == 2 && ring < HOST_RINGS, line);
	s->lost[ring] = nr;
}

int main(int argc, char **argv)
{
	static struct side host, guest;
	struct session_vm vm = { 0 };
	char line[256];

	must(argc > 2 && !mkdir(argv[1], 0777) && !selection_new(&selection, NULL), "pair DIR VM VCPU...");
	begin(&host, argv[1], "host", true);
	begin(&guest, argv[1], "guest", false);
	memcpy(vm.boot_id, boot_id, sizeof(boot_id));
	vm.pid = (__u32)atoi(argv[2]);
	for (int i = 3; i < argc; i++)
		vm.vcpu[vm.nr++] = (__u32)atoi(argv[i]);
	session_vm(guest.session, &vm, now);
	while (fgets(line, sizeof(line), stdin)) {
		if (!strncmp(line, "host ", 5))
			put_host(&host, line + 5);
		else if (!strncmp(line, "guest ", 6))
			put_guest(&guest, line + 6);
		else if (!strncmp(line, "lose ", 5))
			lose(&host, line + 5);
	}
	end(&host);
	end(&guest);
	selection_free(selection);
	return 0;
}
