// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What the kernel of a KVM guest asks of its host, and is told by it. KVM's hypercalls are single instructions
 * in the midst of functions, and have no tracepoints in the guest: so these are the functions that make them.
 * How long one of them takes is for --events function:NAME. kvmclock.c is compiled without hooks.
 */
#include "hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct flush_tlb_info {
	unsigned long start, end;
};

#pragma clang attribute pop

/* KVM_HC_KICK_CPU: the holder of a lock wakes who waits for it. */
struct kvm_kick_cpu {
	htrace_tid_t tid;
	__s32 target_cpu;
};
ON_SECTION(kvm_kick_cpu, "fentry/kvm_kick_cpu", (int cpu), {
	e->tid = CURRENT_TID();
	e->target_cpu = cpu;
})

/* And who waits halts, until it is kicked. */
struct kvm_wait {
	htrace_ptr_t lock;
	htrace_tid_t tid;
};
ON_SECTION(kvm_wait, "fentry/kvm_wait", (__u8 *ptr), {
	e->lock = (__u64)ptr;
	e->tid = CURRENT_TID();
})

/* KVM_HC_SEND_IPI, one for up to 128 CPUs. */
struct kvm_send_ipi {
	htrace_tid_t tid;
	__u32 vector;
};
HTRACE_EVENT(kvm_send_ipi);

static __always_inline int send_ipi(void *ctx, int vector)
{
	struct htrace_slot slot;
	struct kvm_send_ipi *e = htrace_begin(kvm_send_ipi, &slot);

	if (!e)
		return 0;
	e->tid = CURRENT_TID();
	e->vector = vector;
	htrace_end(&slot);
	return 0;
}

SEC("fentry/kvm_send_ipi_mask")
int BPF_PROG(kvm_send_ipi__mask, const void *mask, int vector)
{
	return send_ipi(ctx, vector);
}

SEC("fentry/kvm_send_ipi_mask_allbutself")
int BPF_PROG(kvm_send_ipi__allbutself, const void *mask, int vector)
{
	return send_ipi(ctx, vector);
}

/* Calls on other CPUs; KVM_HC_SCHED_YIELD to the first of them that is preempted. */
struct kvm_call_func_ipi {
	htrace_tid_t tid;
};
ON_SECTION(kvm_call_func_ipi, "fentry/kvm_smp_send_call_func_ipi", (const void *mask), {
	e->tid = CURRENT_TID();
})

/* Of CPUs that the host has preempted: it flushes for them, and nobody waits. */
struct kvm_flush_tlb {
	htrace_ptr_t start;
	htrace_ptr_t end;
	htrace_tid_t tid;
};
ON_SECTION(kvm_flush_tlb, "fentry/kvm_flush_tlb_multi", (const void *mask, const struct flush_tlb_info *info), {
	e->start = info->start;
	e->end = info->end;
	e->tid = CURRENT_TID();
})

/* A page that the host has to fetch first: the task sleeps until the host says that it has it. */
struct kvm_async_pf_wait {
	htrace_tid_t tid;
	htrace_hex32_t token;
};
ON_SECTION(kvm_async_pf_wait, "fentry/kvm_async_pf_task_wait_schedule", (__u32 token), {
	e->tid = CURRENT_TID();
	e->token = token;
})

struct kvm_async_pf_wake {
	htrace_hex32_t token; /* ~0: all that wait */
};
ON_SECTION(kvm_async_pf_wake, "fentry/kvm_async_pf_task_wake", (__u32 token), {
	e->token = token;
})

/* For how long an idle CPU polls before it halts. */
struct guest_halt_poll_ns {
	__u32 new_ns;
	__u32 old_ns;
	__u8 grow;
};
ON(guest_halt_poll_ns, "guest_halt_poll_ns", (bool grow, unsigned int new, unsigned int old), {
	e->new_ns = new;
	e->old_ns = old;
	e->grow = grow;
})
