// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Stolen time: how long a virtual CPU could have run and did not, because its host ran something else.
 * The kernel asks the hypervisor at each tick and wherever tasks are switched; what it is told is a total since
 * the virtual CPU was made. A record says by how much that grew since it was asked before. On each virtual
 * CPU the first says from where.
 */
#include "hook.h"

#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define CPUS 4096 /* more have no records */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct rq {
	__u64 prev_steal_time;
};

#pragma clang attribute pop

extern const struct rq runqueues __ksym __weak;

struct steal {
	__u64 stolen_ns; /* since the record before of the same CPU; its first: 0 */
	__u64 total_ns;  /* since the CPU was there */
	__u32 cpu;       /* another one may ask for it */
};
HTRACE_EVENT(steal);

/* What the hypervisor said last, + 1; 0: nothing yet. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, CPUS);
	__type(key, __u32);
	__type(value, __u64);
} steal_said SEC(".maps");

/* Of two CPUs that ask for the same time, one records it: records add up to the total. */
static __always_inline int said(void *ctx, __u32 cpu, __u64 total)
{
	__u64 *at = bpf_map_lookup_elem(&steal_said, &cpu), before;
	struct htrace_slot slot;
	struct steal *e;

	if (!at)
		return 0;
	before = *(volatile __u64 *)at;
	if (before && total + 1 <= before)
		return 0;
	if (__sync_val_compare_and_swap(at, before, total + 1) != before)
		return 0;
	e = htrace_begin(steal, &slot);
	if (!e)
		return 0;
	e->stolen_ns = before ? total + 1 - before : 0;
	e->total_ns = total;
	e->cpu = cpu;
	htrace_end(&slot);
	return 0;
}

SEC("fexit/xen_steal_clock")
int BPF_PROG(steal__xen, int cpu, __u64 total)
{
	return said(ctx, cpu, total);
}

SEC("fexit/kvm_steal_clock")
int BPF_PROG(steal__kvm, int cpu, __u64 total)
{
	return said(ctx, cpu, total);
}

/*
 * Where neither can be hooked: what the scheduler has accounted for, later than the others, at the next
 * switch of tasks. The agent takes it (`?`) where the kernel has none of them.
 */
SEC("?tp_btf/sched_switch")
int BPF_PROG(steal__rq)
{
	const struct rq *rq;

	if (!&runqueues)
		return 0;
	rq = bpf_this_cpu_ptr(&runqueues);
	return said(ctx, bpf_get_smp_processor_id(), rq->prev_steal_time);
}
