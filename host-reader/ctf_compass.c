/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ctf_compass.h"

#include <stdlib.h>
#include <string.h>

#include "event_fields.h"
#include "names.h"
#include "vcpus.h"

#define SLOTS 4096u /* virtual CPUs that are known at a time; */
#define PROBES 16u  /* one of so many gives way */
#define SYNC_NS 100000000ULL /* between two pairs of pairs of a virtual CPU */
#define PRIO 120 /* of all threads of the host: nice 0; the source kvm does not say */
#define BLOCKED 1 /* the state of a thread of which it is known only that it does not run any more */

/* A virtual CPU: of the host's events, and once it has written, of its guest's. */
struct slot {
	__u32 vm, vcpu; /* vm 0: it is free */
	__u32 told;     /* its thread, as the state dump has it */
	struct stream *guest;
};

struct ctf_compass {
	struct event_fields *fields;
	struct slot slot[SLOTS];
};

enum kind {
	OTHER, EXIT, ENTRY, OUT, IN, VCPU,
	HYPERCALL, IO, MMIO, EXITED, /* exit and entry in one */
	WITHIN, /* all from here on happen while it is out */
};

enum field { F_VM, F_TID, F_VCPU, F_REASON, F_RIP, F_INFO1, F_INFO2, F_STATE, F_NEXT, F_NS, FIELDS };

#define BIT(field) (1u << (field))
#define WHO (BIT(F_VM) | BIT(F_TID) | BIT(F_VCPU))
#define WHOLE (WHO | BIT(F_REASON) | BIT(F_NS))

static const char *const fields[FIELDS] = {
	"vm", "tid", "vcpu_id", "reason", "guest_rip", "info1", "info2", "prev_state", "next_tid", "exit_overhead_ns",
};

static const struct event_fields_spec spec = {
	.field = fields,
	.nr_fields = FIELDS,
	.kind = {
		[EXIT] = { "kvm_exit", WHO | BIT(F_REASON) },
		[ENTRY] = { "kvm_entry", WHO },
		[OUT] = { "kvm_sched_out", WHO | BIT(F_STATE) },
		[IN] = { "kvm_sched_in", WHO },
		[VCPU] = { "kvm_vcpu", WHO },
		[HYPERCALL] = { "hypercall", WHOLE },
		[IO] = { "kvm_io", WHOLE },
		[MMIO] = { "kvm_mmio_access", WHOLE },
		[EXITED] = { "kvm_exited", WHOLE },
		[WITHIN] = { "kvm_hypercall", WHO },
		[WITHIN + 1] = { "kvm_mmio", WHO },
		[WITHIN + 2] = { "kvm_pio", WHO },
		[WITHIN + 3] = { "kvm_msr", WHO },
		[WITHIN + 4] = { "kvm_inj_virq", WHO },
		[WITHIN + 5] = { "kvm_userspace_exit", WHO },
		[WITHIN + 6] = { "kvm_halt_poll_ns", WHO },
		[WITHIN + 7] = { "kvm_guest_event", WHO },
	},
};

struct ctf_compass *ctf_compass_new(void)
{
	struct ctf_compass *m = calloc(1, sizeof(*m));

	if (m)
		m->fields = event_fields_new(&spec);
	if (m && !m->fields) {
		free(m);
		m = NULL;
	}
	return m;
}

void ctf_compass_free(struct ctf_compass *m)
{
	if (m)
		event_fields_free(m->fields);
	free(m);
}

/* --------------------------------------------------------------------------------- virtual CPUs */

/* NULL: there are too many. */
static struct slot *find_slot(struct ctf_compass *m, __u32 vm, __u32 vcpu)
{
	__u32 at = (__u32)((((__u64)vm << 32 | vcpu) * 0x9e3779b97f4a7c15ULL) >> 40);
	struct slot *other = NULL;

	for (__u32 i = 0; i < PROBES; i++) {
		struct slot *s = &m->slot[(at + i) % SLOTS];

		if (s->vm == vm && s->vcpu == vcpu)
			return s;
		if (!s->guest && (!other || (other->vm && !s->vm)))
			other = s;
	}
	if (other)
		*other = (struct slot){ .vm = vm, .vcpu = vcpu };
	return other;
}

/*
 * Who maps the guest's memory is the host's word. Two regions of one VM: the first one is the machine. Only times
 * that are the host's can be put beside its own.
 */
void ctf_compass_guest(struct ctf *c, struct stream *st, const struct sink_event *e)
{
	struct slot *s;

	if (!e->vcpu || !st->from->session->on_host || st->kind & (CTF_UNVERIFIED | CTF_RING))
		return;
	s = find_slot(c->compass, e->vcpu->vm, e->vcpu->vcpu);
	if (s && !s->guest)
		s->guest = st;
}

void ctf_compass_end(struct ctf *c, const struct trace *t)
{
	for (__u32 i = 0; i < SLOTS; i++)
		if (c->compass->slot[i].guest && c->compass->slot[i].guest->trace == t)
			c->compass->slot[i].guest = NULL;
	event_fields_session_end(c->compass->fields, t->info.session);
}

/* ------------------------------------------------------------------------------ events made up */

/* One of the host's virtual CPUs, at hand. */
struct at {
	struct ctf *c;
	struct stream *st; /* of the CPU of the host */
	struct slot *slot; /* or NULL */
	const struct event_values *v;
	__u32 tid;
};

static __u64 last(const struct stream *st)
{
	return ctf_stream_time(st->out, 0);
}

/* As late as can be before @time, if that is not before what came last. */
static __u64 before(const struct stream *st, __u64 time)
{
	return ctf_stream_time(st->out, time ? time - 1 : 0);
}

static void begin(const struct at *a, struct sink_event *e, enum ctf_fixed id, __u32 task, __u64 time)
{
	*e = (struct sink_event){ .from = a->st->from, .time = time, .task_known = true, .task = task };
	ctf_begin_event(a->c, e, (__u16)id, time);
}

static void end(const struct at *a, __u64 time)
{
	ctf_end_event(a->c, a->st->trace, a->st, time);
}

static void put_switch(const struct at *a, __u32 prev, __s64 state, __u32 next, __u64 time)
{
	struct ctf_event *w = &a->c->event;
	const struct {
		__s32 tid, prio;
		__s64 state;
	} __attribute__((packed)) from = { (__s32)prev, PRIO, state };
	const __s32 to[] = { (__s32)next, PRIO };
	__u32 pid = a->c->pid;
	struct sink_event e;

	a->c->pid = prev == a->tid ? pid : 0;
	begin(a, &e, CTF_HOST_SWITCH, prev, time);
	ctf_add_comm(w, &e, prev);
	ctf_add(w, &from, sizeof(from));
	ctf_add_comm(w, &e, next);
	ctf_add(w, to, sizeof(to));
	end(a, time);
	a->c->pid = pid;
	a->st->running = next;
}

/*
 * Its thread is on this CPU: also if that is not what was seen last, as where events are missing, or begin. To the
 * program a thread is on its CPU from behind the switch's own time on. What ran meanwhile is not known.
 */
static void be_here(const struct at *a, __u64 time)
{
	if (a->st->running != a->tid)
		put_switch(a, a->st->running, a->st->running ? BLOCKED : 0, a->tid, before(a->st, time));
}

static void tell_thread(const struct at *a, __u64 time)
{
	struct sink_event nobody;

	if (!a->slot || a->slot->told == a->tid)
		return;
	nobody = (struct sink_event){ .from = a->st->from, .time = ctf_stream_time(a->st->out, time) };
	a->slot->told = a->tid;
	ctf_dump_task(a->c, a->st, &nobody, &(struct names_task){ .tid = a->tid, .pid = a->slot->vm });
}

static void put_exit(const struct at *a, __u64 time)
{
	const __u64 *v = a->v->v;
	const struct {
		__u32 reason;
		__u64 rip;
		__u32 isa;
		__u64 info1, info2;
		__u32 vcpu;
	} __attribute__((packed)) f = {
		v[F_REASON] & 0xffff, v[F_RIP], (__u32)v[F_REASON] >> 16, v[F_INFO1], v[F_INFO2],
		a->slot && a->slot->guest ? a->slot->guest->from->ring : (__u32)v[F_VCPU],
	};
	struct sink_event e;

	begin(a, &e, CTF_KVM_EXIT, a->tid, time);
	ctf_add(&a->c->event, &f, sizeof(f));
	end(a, time);
}

/* Guests have their CPUs in the order of KVM's numbers, which may have gaps. */
static void put_entry(const struct at *a, __u64 time)
{
	const __u32 vcpu = a->slot && a->slot->guest ? a->slot->guest->from->ring : (__u32)a->v->v[F_VCPU];
	struct sink_event e;

	begin(a, &e, CTF_KVM_ENTRY, a->tid, time);
	ctf_add(&a->c->event, &vcpu, sizeof(vcpu));
	end(a, time);
}

/* ----------------------------------------------------------------------- who is whose virtual CPU */

struct sync {
	__u64 cnt, vm_uid;
} __attribute__((packed));

static void put_sync_host(const struct at *a, enum ctf_fixed id, const struct sync *f, __u64 time)
{
	struct sink_event e;

	begin(a, &e, id, a->tid, time);
	ctf_add(&a->c->event, f, sizeof(*f));
	end(a, time);
}

static void put_sync_guest(const struct at *a, enum ctf_fixed id, const struct sync *f, __u64 time)
{
	struct stream *g = a->slot->guest;
	const struct vcpu_view view = {
		.vm = a->slot->vm, .vcpu = a->slot->vcpu, .thread = a->tid, .state = VCPU_RUNNING,
	};
	const struct sink_event e = { .from = g->from, .time = time, .vcpu = &view };

	ctf_begin_event(a->c, &e, (__u16)id, time);
	ctf_add(&a->c->event, f, sizeof(*f));
	ctf_end_event(a->c, g->trace, g, time);
}

static struct sync next_sync(const struct slot *s)
{
	return (struct sync){ ++s->guest->trace->syncs, s->vm };
}

/* A cause on one side is before its effect on the other. A guest that is ahead of an exit has one at another. */
static void sync_exit(const struct at *a, __u64 time)
{
	struct stream *g = a->slot ? a->slot->guest : NULL;
	struct sync f;

	if (!g || time < g->next_sync || last(g) >= time)
		return;
	f = next_sync(a->slot);
	put_sync_guest(a, CTF_SYNC_GH_GUEST, &f, time - 1);
	put_sync_host(a, CTF_SYNC_GH_HOST, &f, time);
	g->next_sync = time + SYNC_NS;
	g->awaits_sync = true;
}

static void sync_entry(const struct at *a, __u64 time)
{
	struct stream *g = a->slot ? a->slot->guest : NULL;
	__u64 then = before(a->st, time);
	struct sync f;

	if (!g || !g->awaits_sync)
		return;
	f = next_sync(a->slot);
	put_sync_host(a, CTF_SYNC_HG_HOST, &f, then);
	put_sync_guest(a, CTF_SYNC_HG_GUEST, &f, ctf_stream_time(g->out, then + 1));
	g->awaits_sync = false;
}

/* ---------------------------------------------------------------------------------- host's events */

static void on_exit_at(const struct at *a, __u64 time)
{
	be_here(a, time);
	tell_thread(a, time);
	put_exit(a, time);
	sync_exit(a, time);
}

static void on_entry_at(const struct at *a, __u64 time)
{
	be_here(a, time);
	tell_thread(a, time);
	sync_entry(a, time);
	put_entry(a, time);
}

bool ctf_compass_host(struct ctf *c, struct stream *st, const struct sink_event *e, __u64 time)
{
	struct event_values v;
	struct at a = { .c = c, .st = st, .v = &v };

	event_fields_take(c->compass->fields, e, &v);
	if (v.kind == OTHER || !v.v[F_VM])
		return false;
	a.tid = (__u32)v.v[F_TID];
	a.slot = find_slot(c->compass, (__u32)v.v[F_VM], (__u32)v.v[F_VCPU]);
	c->pid = (__u32)v.v[F_VM];
	switch (v.kind) {
	case EXIT:
		on_exit_at(&a, time);
		return true;
	case ENTRY:
		on_entry_at(&a, time);
		return true;
	case OUT:
		be_here(&a, time);
		tell_thread(&a, time);
		put_switch(&a, a.tid, (__s64)(v.v[F_STATE] & 0xff), (__u32)v.v[F_NEXT], time);
		return true;
	case IN: /* nothing, where that one's going was its coming */
		tell_thread(&a, time);
		if (st->running != a.tid)
			put_switch(&a, st->running, st->running ? BLOCKED : 0, a.tid, time);
		return true;
	case HYPERCALL:
	case IO:
	case MMIO:
	case EXITED:
		on_exit_at(&a, ctf_stream_time(st->out, v.v[F_NS] < time ? time - v.v[F_NS] : 0));
		if (v.v[F_NS]) /* else its thread ended */
			on_entry_at(&a, time);
		return false;
	case VCPU: /* its name is known behind it */
		return false;
	default:
		tell_thread(&a, time);
		return false;
	}
}
