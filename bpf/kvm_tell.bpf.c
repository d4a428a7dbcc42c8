/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * On the host: what the virtual CPUs of some VMs leave guest mode for, how long, and how much of
 * that time they could have run but did not. Who ran instead is not looked at, so nobody can be
 * told.
 *
 * A virtual CPU's thread loses its CPU only while it is out of guest mode, so whatever the
 * scheduler does to it belongs to an exit: also what it does before the exit is told of (some
 * kernels tell of it late).
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "kvm_tell.h"

#define ISA_VMX 1

/* The same on all kernels and vendors, unlike the tracepoints' arguments. */
struct trace_event_raw_kvm_exit {
	unsigned int exit_reason;
	unsigned int isa;
	unsigned int vcpu_id;
} __attribute__((preserve_access_index));

struct trace_event_raw_kvm_entry {
	unsigned int vcpu_id;
} __attribute__((preserve_access_index));

struct trace_event_raw_sched_switch {
	int prev_pid;
	long prev_state;
	int next_pid;
} __attribute__((preserve_access_index));

struct trace_event_raw_sched_wakeup_template {
	int pid;
} __attribute__((preserve_access_index));

#define STATE_PREEMPTED 0x100 /* in prev_state, beside the states that wait for something */

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, KVM_TELL_VCPUS);
	__type(key, __u32);
	__type(value, struct kvm_tell_vcpu);
} tell_vcpus SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, KVM_TELL_VMS);
	__type(key, __u32);
	__type(value, struct kvm_tell_vm);
} tell_vms SEC(".maps");

/* Numbers of virtual CPUs by their threads, for the scheduler. */
struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 2 * KVM_TELL_VCPUS);
	__type(key, __u32);
	__type(value, __u32);
} tell_threads SEC(".maps");

static __always_inline struct kvm_tell_vcpu *vcpu_of(__u32 vcpu, __u32 *nr)
{
	__u32 process = (__u32)(bpf_get_current_pid_tgid() >> 32);
	struct kvm_tell_vm *vm = bpf_map_lookup_elem(&tell_vms, &process);

	if (!vm || vcpu >= vm->nr)
		return 0;
	*nr = vm->first + vcpu;
	return bpf_map_lookup_elem(&tell_vcpus, nr);
}

static __always_inline struct kvm_tell_vcpu *vcpu_of_thread(__u32 thread)
{
	__u32 *nr = bpf_map_lookup_elem(&tell_threads, &thread);

	return nr ? bpf_map_lookup_elem(&tell_vcpus, nr) : 0;
}

/* ---------------------------------------------------------------------------------- exits, entries */

static __always_inline __u32 entry_for(__u32 reason, __u32 isa)
{
	if (reason < KVM_TELL_HIGH)
		return reason;
	if (isa != ISA_VMX && reason - KVM_TELL_HIGH_FIRST < KVM_TELL_OTHER - KVM_TELL_HIGH)
		return KVM_TELL_HIGH + reason - KVM_TELL_HIGH_FIRST;
	return KVM_TELL_OTHER;
}

/* Where exits for the reason at hand are counted. */
static __always_inline struct kvm_tell_reason *counter(struct kvm_tell_vcpu *v)
{
	__u64 entry = entry_for(v->reason, v->isa);

	__asm__ volatile("" : "+r"(entry)); /* 6.1's verifier does not follow how it came about */
	return entry < KVM_TELL_REASONS ? &v->counted[entry] : 0;
}

static __always_inline void add(struct kvm_tell_times *to, const struct kvm_tell_times *times)
{
	to->out += times->out;
	to->preempted += times->preempted;
	to->woken += times->woken;
	to->slept += times->slept;
}

/* The exit is over. */
static __always_inline void finish(struct kvm_tell_vcpu *v, __u64 now)
{
	struct kvm_tell_exit *e = &v->exit[v->nr_exits & (KVM_TELL_EXITS - 1)];
	struct kvm_tell_reason *c = counter(v);

	v->times.out = now - v->out_since;
	e->at = v->out_since;
	e->times = v->times;
	e->reason = v->reason;
	e->isa = v->isa;
	if (c)
		add(&c->times, &v->times);
	/*
	 * What comes before is there when this is; its result is used so that it stays a barrier.
	 */
	if (__sync_fetch_and_add(&v->nr_exits, 1) == ~0ULL)
		v->nr_exits = 0;
}

static __always_inline void begin_anew(struct kvm_tell_vcpu *v)
{
	v->out_since = 0;
	v->known = 0;
	v->off = KVM_TELL_ON;
	v->times.preempted = v->times.woken = v->times.slept = 0;
}

/*
 * Another thread's: what was noted until now was of one that may be no more, and its id somebody
 * else's.
 */
static __always_inline void remember_thread(struct kvm_tell_vcpu *v, __u32 nr)
{
	__u32 thread = (__u32)bpf_get_current_pid_tgid(), old = v->thread;

	if (old == thread)
		return;
	if (old)
		bpf_map_delete_elem(&tell_threads, &old);
	begin_anew(v);
	v->thread = thread;
	bpf_map_update_elem(&tell_threads, &thread, &nr, BPF_ANY);
}

SEC("tp/kvm/kvm_exit")
int tell_exit(struct trace_event_raw_kvm_exit *ctx)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 nr, reason = ctx->exit_reason;
	struct kvm_tell_vcpu *v = vcpu_of(ctx->vcpu_id, &nr);
	struct kvm_tell_reason *c;

	if (!v)
		return 0;
	remember_thread(v, nr);
	if (v->known) { /* an entry that was not told of lies between */
		finish(v, now);
		begin_anew(v);
	}
	v->isa = ctx->isa;
	v->reason = v->isa == ISA_VMX ? reason & 0xffff : reason;
	v->known = 1;
	if (!v->out_since)
		v->out_since = now;
	c = counter(v);
	if (c)
		c->exits++;
	return 0;
}

SEC("tp/kvm/kvm_entry")
int tell_entry(struct trace_event_raw_kvm_entry *ctx)
{
	__u64 now = bpf_ktime_get_ns();
	__u32 nr;
	struct kvm_tell_vcpu *v = vcpu_of(ctx->vcpu_id, &nr);

	if (!v)
		return 0;
	if (v->known)
		finish(v, now);
	begin_anew(v);
	return 0;
}

/* -------------------------------------------------------------------------------------- scheduler */

static __always_inline void leaves_cpu(struct kvm_tell_vcpu *v, __u64 now, int runnable)
{
	if (!v->out_since)
		v->out_since = now;
	v->off = runnable ? KVM_TELL_PREEMPTED : KVM_TELL_ASLEEP;
	v->off_since = now;
}

/* What it was off its CPU for so far is over: it is @off now. */
static __always_inline void off_ends(struct kvm_tell_vcpu *v, __u64 now, __u32 off)
{
	__u64 ns = now - v->off_since;

	if (v->off == KVM_TELL_PREEMPTED)
		v->times.preempted += ns;
	else if (v->off == KVM_TELL_WOKEN)
		v->times.woken += ns;
	else if (v->off == KVM_TELL_ASLEEP)
		v->times.slept += ns;
	v->off = off;
	v->off_since = now;
}

SEC("tp/sched/sched_switch")
int tell_switch(struct trace_event_raw_sched_switch *ctx)
{
	__u64 now = bpf_ktime_get_ns();
	struct kvm_tell_vcpu *v = vcpu_of_thread((__u32)ctx->prev_pid);
	__u64 state = (__u64)ctx->prev_state;

	if (v)
		leaves_cpu(v, now, !state || state & STATE_PREEMPTED);
	v = vcpu_of_thread((__u32)ctx->next_pid);
	if (v)
		off_ends(v, now, KVM_TELL_ON);
	return 0;
}

SEC("tp/sched/sched_wakeup")
int tell_wakeup(struct trace_event_raw_sched_wakeup_template *ctx)
{
	struct kvm_tell_vcpu *v = vcpu_of_thread((__u32)ctx->pid);

	if (v && v->off == KVM_TELL_ASLEEP)
		off_ends(v, bpf_ktime_get_ns(), KVM_TELL_WOKEN);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
