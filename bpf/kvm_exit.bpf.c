/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * On the host: notes when virtual CPUs leave and enter guest mode. Straight on the tracepoints
 * (tp_btf): their events' fields would be the same on older kernels too, but the kernel would have to
 * write an event down for each exit. Since 5.16 both get the virtual CPU as the first argument.
 */
#include "kvm_epoch.bpf.h"

#include <bpf/bpf_tracing.h>

struct kvm_vcpu {
	int vcpu_id;
} __attribute__((preserve_access_index));

/* Newer verifiers take any argument of a tracepoint for one that may be NULL. */
SEC("tp_btf/kvm_exit")
int BPF_PROG(kvm_exit, struct kvm_vcpu *vcpu)
{
	if (vcpu)
		vcpu_left((__u32)vcpu->vcpu_id);
	return 0;
}

SEC("tp_btf/kvm_entry")
int BPF_PROG(kvm_entry, struct kvm_vcpu *vcpu)
{
	if (vcpu)
		vcpu_entered((__u32)vcpu->vcpu_id);
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
