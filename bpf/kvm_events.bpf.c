/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * On the host: what KVM does for its VMs, as events. On the classic tracepoints, whose fields are the
 * same on all kernels and vendors, unlike their arguments.
 */
#include "htrace.bpf.h"

#include <bpf/bpf_core_read.h>

#include <htrace/hypercall.h>

#include "kvm_events.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

HTRACE_EVENT(kvm_vcpu);
HTRACE_EVENT(kvm_exit);
HTRACE_EVENT(kvm_entry);
HTRACE_EVENT(kvm_hypercall);
HTRACE_EVENT(kvm_guest_event);
HTRACE_EVENT(kvm_mmio);
HTRACE_EVENT(kvm_pio);
HTRACE_EVENT(kvm_msr);
HTRACE_EVENT(kvm_inj_virq);
HTRACE_EVENT(kvm_userspace_exit);
HTRACE_EVENT(kvm_halt_poll_ns);
HTRACE_EVENT(kvm_sched_out);
HTRACE_EVENT(kvm_sched_in);
HTRACE_EVENT(hypercall);
HTRACE_EVENT(kvm_io);
HTRACE_EVENT(kvm_mmio_access);
HTRACE_EVENT(kvm_exited);

/* Set by the reader before loading. */
const volatile __u32 only_vm;  /* process; 0: all */
const volatile __u8 aggregate;

/* ------------------------------------------------------------------- what KVM's tracepoints tell */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct trace_event_raw_kvm_exit {
	unsigned int exit_reason;
	unsigned long guest_rip;
	__u32 isa;
	__u64 info1, info2;
	unsigned int vcpu_id;
};

struct trace_event_raw_kvm_entry {
	unsigned int vcpu_id;
};

struct trace_event_raw_kvm_hypercall {
	unsigned long nr, a0, a1, a2, a3;
};

struct trace_event_raw_kvm_mmio {
	__u32 type, len;
	__u64 gpa, val;
};

struct trace_event_raw_kvm_pio {
	unsigned int rw, port, size, count, val;
};

struct trace_event_raw_kvm_msr {
	unsigned int write;
	__u32 ecx;
	__u64 data;
	__u8 exception;
};

struct trace_event_raw_kvm_inj_virq {
	unsigned int vector;
	_Bool soft, reinjected; /* since 6.0 */
};

struct trace_event_raw_kvm_userspace_exit {
	__u32 reason;
	int errno;
};

struct trace_event_raw_kvm_halt_poll_ns {
	_Bool grow;
	unsigned int new, old;
};

struct trace_event_raw_sched_switch {
	int prev_pid;
	long prev_state;
	char next_comm[16];
	int next_pid;
};

#pragma clang attribute pop

/* ---------------------------------------------------------------------------------- virtual CPUs */

enum held {
	HELD_NOTHING = 0,
	HELD_EXIT = 1, /* and not yet known what for */
	HELD_HYPERCALL = 2,
	HELD_IO = 3,
	HELD_MMIO = 4,
};

/* An exit that becomes one event with its entry, and what it was for. */
struct held_exit {
	__u64 at, rip, info1, info2;
	__u32 reason;
	__u32 what; /* enum held */
	union {
		struct {
			__u64 nr, a0, a1, a2, a3;
		} hypercall;
		struct {
			__u32 count, value;
			__u16 port;
			__u8 write, size;
		} io;
		struct {
			__u32 kind, len;
			__u64 gpa, value;
		} mmio;
	};
};

/* Writer: the thread itself. Readers: also the scheduler, of what does not change. */
struct vcpu {
	__u32 vm;
	__u32 nr;
	struct held_exit held;
};

#define MAX_THREADS 8192 /* that are virtual CPUs; what others do is not recorded */

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, MAX_THREADS);
	__type(key, __u32);
	__type(value, struct vcpu);
} kvm_threads SEC(".maps");

/* A record of event @name, of whose struct all that is not padding is to be written. */
#define begin(name, slot) \
	((struct name *)htrace_reserve_id(htrace_event__##name.config.id, sizeof(struct name), slot))

#define fill_vcpu(e, v, thread)                \
	do {                                   \
		(e)->vm = (v)->vm;             \
		(e)->tid = (thread);           \
		(e)->vcpu_id = (__u16)(v)->nr; \
	} while (0)

#include "kvm_disk.bpf.h"

static __always_inline __u32 this_thread(void)
{
	return (__u32)bpf_get_current_pid_tgid();
}

/* NULL: it was not seen to enter or leave guest mode yet. */
static __always_inline struct vcpu *this_vcpu(void)
{
	__u32 thread = this_thread();

	return bpf_map_lookup_elem(&kvm_threads, &thread);
}

/* The thread becomes virtual CPU @nr; what it was before is forgotten. */
static __noinline int new_vcpu(__u32 nr)
{
	struct vcpu v = { .vm = (__u32)(bpf_get_current_pid_tgid() >> 32), .nr = nr };
	__u32 thread = this_thread();
	struct htrace_slot slot;
	struct kvm_vcpu *e;
	__u8 yes = 1;

	if (bpf_map_update_elem(&kvm_threads, &thread, &v, BPF_ANY) ||
	    bpf_map_update_elem(&kvm_vms, &v.vm, &yes, BPF_ANY))
		return 0;
	e = begin(kvm_vcpu, &slot);
	if (!e)
		return 0;
	fill_vcpu(e, &v, thread);
	if (bpf_get_current_comm(e->comm, sizeof(e->comm)))
		e->comm[0] = 0;
	htrace_commit(&slot);
	return 0;
}

static __always_inline struct vcpu *vcpu_of(__u32 nr)
{
	struct vcpu *v = this_vcpu();

	if (v && v->nr == nr)
		return v;
	if (only_vm && bpf_get_current_pid_tgid() >> 32 != only_vm)
		return 0;
	new_vcpu(nr);
	return this_vcpu();
}

/* ------------------------------------------------------------------------------ one event of several */

#define VMX(reason) (1 << 16 | (reason))
#define SVM(reason) (2 << 16 | (reason))

/* Hypercalls, I/O and what MMIO looks like first. */
static __always_inline int may_join(__u32 reason)
{
	switch (reason) {
	case VMX(18): /* vmcall */
	case VMX(30): /* I/O */
	case VMX(48): /* EPT violation, */
	case VMX(49): /* misconfiguration */
	case SVM(0x7b): /* I/O */
	case SVM(0x81): /* vmmcall */
	case SVM(0x400): /* nested page fault */
		return 1;
	}
	return 0;
}

#define fill_exited(e, v, thread, ns)                  \
	do {                                           \
		fill_vcpu(e, v, thread);               \
		(e)->reason = (v)->held.reason;        \
		(e)->guest_rip = (v)->held.rip;        \
		(e)->exit_overhead_ns = (ns);          \
	} while (0)

static __always_inline void end_hypercall(struct vcpu *v, __u32 thread, __u64 ns)
{
	struct htrace_slot slot;
	struct hypercall *e = begin(hypercall, &slot);

	if (!e)
		return;
	fill_exited(e, v, thread, ns);
	e->nr = v->held.hypercall.nr;
	e->a0 = v->held.hypercall.a0;
	e->a1 = v->held.hypercall.a1;
	e->a2 = v->held.hypercall.a2;
	e->a3 = v->held.hypercall.a3;
	htrace_commit(&slot);
}

static __always_inline void end_io(struct vcpu *v, __u32 thread, __u64 ns)
{
	struct htrace_slot slot;
	struct kvm_io *e = begin(kvm_io, &slot);

	if (!e)
		return;
	fill_exited(e, v, thread, ns);
	e->count = v->held.io.count;
	e->value = v->held.io.value;
	e->port = v->held.io.port;
	e->write = v->held.io.write;
	e->size = v->held.io.size;
	htrace_commit(&slot);
}

static __always_inline void end_mmio(struct vcpu *v, __u32 thread, __u64 ns)
{
	struct htrace_slot slot;
	struct kvm_mmio_access *e = begin(kvm_mmio_access, &slot);

	if (!e)
		return;
	fill_exited(e, v, thread, ns);
	e->kind = v->held.mmio.kind;
	e->len = v->held.mmio.len;
	e->gpa = v->held.mmio.gpa;
	e->value = v->held.mmio.value;
	htrace_commit(&slot);
}

static __always_inline void end_other(struct vcpu *v, __u32 thread, __u64 ns)
{
	struct htrace_slot slot;
	struct kvm_exited *e = begin(kvm_exited, &slot);

	if (!e)
		return;
	fill_exited(e, v, thread, ns);
	e->info1 = v->held.info1;
	e->info2 = v->held.info2;
	htrace_commit(&slot);
}

/* The exit at hand is over, after @ns; 0: nobody knows. */
static __always_inline void end_held(struct vcpu *v, __u64 ns)
{
	__u32 thread = this_thread();

	switch (v->held.what) {
	case HELD_HYPERCALL:
		end_hypercall(v, thread, ns);
		break;
	case HELD_IO:
		end_io(v, thread, ns);
		break;
	case HELD_MMIO:
		end_mmio(v, thread, ns);
		break;
	case HELD_EXIT:
		end_other(v, thread, ns);
		break;
	}
	v->held.what = HELD_NOTHING;
}

SEC("tp/kvm/kvm_exit")
int kvm_exit(struct trace_event_raw_kvm_exit *ctx)
{
	struct vcpu *v = vcpu_of(ctx->vcpu_id);
	__u32 reason = ctx->isa << 16 | (ctx->exit_reason & 0xffff);
	struct htrace_slot slot;
	struct kvm_exit *e;

	if (!v)
		return 0;
	if (aggregate && v->held.what)
		end_held(v, 0);
	if (aggregate && may_join(reason)) {
		v->held.at = bpf_ktime_get_ns();
		v->held.rip = ctx->guest_rip;
		v->held.info1 = ctx->info1;
		v->held.info2 = ctx->info2;
		v->held.reason = reason;
		v->held.what = HELD_EXIT;
		return 0;
	}
	e = begin(kvm_exit, &slot);
	if (!e)
		return 0;
	fill_vcpu(e, v, this_thread());
	e->reason = reason;
	e->guest_rip = ctx->guest_rip;
	e->info1 = ctx->info1;
	e->info2 = ctx->info2;
	htrace_commit(&slot);
	return 0;
}

SEC("tp/kvm/kvm_entry")
int kvm_entry(struct trace_event_raw_kvm_entry *ctx)
{
	struct vcpu *v = vcpu_of(ctx->vcpu_id);
	struct htrace_slot slot;
	struct kvm_entry *e;

	if (!v)
		return 0;
	if (aggregate && v->held.what) {
		end_held(v, bpf_ktime_get_ns() - v->held.at);
		return 0;
	}
	e = begin(kvm_entry, &slot);
	if (!e)
		return 0;
	fill_vcpu(e, v, this_thread());
	htrace_commit(&slot);
	return 0;
}

/* What makes no sense as one is a hypercall like others. */
static __always_inline int is_guest_event(const struct trace_event_raw_kvm_hypercall *ctx)
{
	__u64 part = ctx->a3 >> HTRACE_HYPERCALL_PART_SHIFT & 0xffff;

	return (ctx->nr & ~0xffffUL) == HTRACE_HYPERCALL && ctx->nr & 0xffff &&
	       part * HTRACE_HYPERCALL_BYTES < ctx->a3 >> HTRACE_HYPERCALL_LENGTH_SHIFT;
}

static __always_inline void guest_event(const struct trace_event_raw_kvm_hypercall *ctx, struct vcpu *v)
{
	struct htrace_slot slot;
	struct kvm_guest_event *e = begin(kvm_guest_event, &slot);

	if (!e)
		return;
	fill_vcpu(e, v, this_thread());
	e->id = (__u16)ctx->nr;
	e->length = (__u16)(ctx->a3 >> HTRACE_HYPERCALL_LENGTH_SHIFT);
	e->part = (__u16)(ctx->a3 >> HTRACE_HYPERCALL_PART_SHIFT);
	e->sequence = (__u32)ctx->a3;
	e->a = ctx->a0;
	e->b = ctx->a1;
	e->c = ctx->a2;
	htrace_commit(&slot);
}

/* What comes with no exit at hand, or is not the first of its exit, is an event of its own. */
SEC("tp/kvm/kvm_hypercall")
int kvm_hypercall(struct trace_event_raw_kvm_hypercall *ctx)
{
	struct vcpu *v = this_vcpu();
	struct htrace_slot slot;
	struct kvm_hypercall *e;

	if (!v)
		return 0;
	if (is_guest_event(ctx)) {
		guest_event(ctx, v);
		return 0;
	}
	if (aggregate && v->held.what == HELD_EXIT) {
		v->held.hypercall.nr = ctx->nr;
		v->held.hypercall.a0 = ctx->a0;
		v->held.hypercall.a1 = ctx->a1;
		v->held.hypercall.a2 = ctx->a2;
		v->held.hypercall.a3 = ctx->a3;
		v->held.what = HELD_HYPERCALL;
		return 0;
	}
	e = begin(kvm_hypercall, &slot);
	if (!e)
		return 0;
	fill_vcpu(e, v, this_thread());
	e->nr = ctx->nr;
	e->a0 = ctx->a0;
	e->a1 = ctx->a1;
	e->a2 = ctx->a2;
	e->a3 = ctx->a3;
	htrace_commit(&slot);
	return 0;
}

SEC("tp/kvm/kvm_pio")
int kvm_pio(struct trace_event_raw_kvm_pio *ctx)
{
	struct vcpu *v = this_vcpu();
	struct htrace_slot slot;
	struct kvm_pio *e;

	if (!v)
		return 0;
	if (aggregate && v->held.what == HELD_EXIT) {
		v->held.io.count = ctx->count;
		v->held.io.value = ctx->val;
		v->held.io.port = (__u16)ctx->port;
		v->held.io.write = (__u8)ctx->rw;
		v->held.io.size = (__u8)ctx->size;
		v->held.what = HELD_IO;
		return 0;
	}
	e = begin(kvm_pio, &slot);
	if (!e)
		return 0;
	fill_vcpu(e, v, this_thread());
	e->port = (__u16)ctx->port;
	e->write = (__u8)ctx->rw;
	e->size = (__u8)ctx->size;
	e->count = ctx->count;
	e->value = ctx->val;
	htrace_commit(&slot);
	return 0;
}

/* A read that the VMM had to answer, and its answer, are one access. */
static __always_inline int joins_mmio(const struct held_exit *h, __u64 gpa)
{
	return h->what == HELD_EXIT ||
	       (h->what == HELD_MMIO && h->mmio.kind == unsatisfied_read && h->mmio.gpa == gpa);
}

SEC("tp/kvm/kvm_mmio")
int kvm_mmio(struct trace_event_raw_kvm_mmio *ctx)
{
	struct vcpu *v = this_vcpu();
	__u64 gpa = ctx->gpa;
	struct htrace_slot slot;
	struct kvm_mmio *e;

	if (!v)
		return 0;
	if (aggregate && joins_mmio(&v->held, gpa)) {
		v->held.mmio.kind = ctx->type;
		v->held.mmio.len = ctx->len;
		v->held.mmio.gpa = gpa;
		v->held.mmio.value = ctx->val;
		v->held.what = HELD_MMIO;
		return 0;
	}
	e = begin(kvm_mmio, &slot);
	if (!e)
		return 0;
	fill_vcpu(e, v, this_thread());
	e->kind = ctx->type;
	e->len = ctx->len;
	e->gpa = gpa;
	e->value = ctx->val;
	htrace_commit(&slot);
	return 0;
}

/* ----------------------------------------------------------------------------------------- others */

SEC("tp/kvm/kvm_msr")
int kvm_msr(struct trace_event_raw_kvm_msr *ctx)
{
	struct vcpu *v = this_vcpu();
	struct htrace_slot slot;
	struct kvm_msr *e = v ? begin(kvm_msr, &slot) : 0;

	if (!e)
		return 0;
	fill_vcpu(e, v, this_thread());
	e->write = (__u8)ctx->write;
	e->fault = ctx->exception;
	e->msr = ctx->ecx;
	e->value = ctx->data;
	htrace_commit(&slot);
	return 0;
}

SEC("tp/kvm/kvm_inj_virq")
int kvm_inj_virq(struct trace_event_raw_kvm_inj_virq *ctx)
{
	struct vcpu *v = this_vcpu();
	struct htrace_slot slot;
	struct kvm_inj_virq *e = v ? begin(kvm_inj_virq, &slot) : 0;

	if (!e)
		return 0;
	fill_vcpu(e, v, this_thread());
	e->soft = bpf_core_field_exists(ctx->soft) ? ctx->soft : 0;
	e->reinjected = bpf_core_field_exists(ctx->reinjected) ? ctx->reinjected : 0;
	e->vector = ctx->vector;
	htrace_commit(&slot);
	return 0;
}

SEC("tp/kvm/kvm_userspace_exit")
int kvm_userspace_exit(struct trace_event_raw_kvm_userspace_exit *ctx)
{
	struct vcpu *v = this_vcpu();
	struct htrace_slot slot;
	struct kvm_userspace_exit *e = v ? begin(kvm_userspace_exit, &slot) : 0;

	if (!e)
		return 0;
	fill_vcpu(e, v, this_thread());
	e->reason = ctx->reason;
	e->error = ctx->errno;
	htrace_commit(&slot);
	return 0;
}

SEC("tp/kvm/kvm_halt_poll_ns")
int kvm_halt_poll_ns(struct trace_event_raw_kvm_halt_poll_ns *ctx)
{
	struct vcpu *v = this_vcpu();
	struct htrace_slot slot;
	struct kvm_halt_poll_ns *e = v ? begin(kvm_halt_poll_ns, &slot) : 0;

	if (!e)
		return 0;
	fill_vcpu(e, v, this_thread());
	e->grow = ctx->grow;
	e->new = ctx->new;
	e->old = ctx->old;
	htrace_commit(&slot);
	return 0;
}

/* -------------------------------------------------------------------------------------- scheduler */

SEC("tp/sched/sched_switch")
int kvm_sched(struct trace_event_raw_sched_switch *ctx)
{
	__u32 prev = (__u32)ctx->prev_pid, next = (__u32)ctx->next_pid;
	struct kvm_sched_out *out = 0;
	struct kvm_sched_in *in = 0;
	struct htrace_slot slot;
	struct vcpu *v;

	v = bpf_map_lookup_elem(&kvm_threads, &prev);
	if (v)
		out = begin(kvm_sched_out, &slot);
	if (out) {
		fill_vcpu(out, v, prev);
		out->prev_state = (__u32)ctx->prev_state;
		out->next_tid = next;
		if (bpf_probe_read_kernel(out->next_comm, sizeof(out->next_comm), ctx->next_comm))
			out->next_comm[0] = 0;
		htrace_commit(&slot);
	}
	v = bpf_map_lookup_elem(&kvm_threads, &next);
	if (v)
		in = begin(kvm_sched_in, &slot);
	if (in) {
		fill_vcpu(in, v, next);
		htrace_commit(&slot);
	}
	return 0;
}

/* Its id may become another thread's. */
SEC("tp/sched/sched_process_exit")
int kvm_thread_exit(void *ctx)
{
	__u32 thread = this_thread();
	struct vcpu *v = this_vcpu();

	bpf_map_delete_elem(&kvm_vms, &thread); /* a process has its first thread's */
	if (!v)
		return 0;
	if (aggregate && v->held.what)
		end_held(v, 0);
	bpf_map_delete_elem(&kvm_threads, &thread);
	return 0;
}
