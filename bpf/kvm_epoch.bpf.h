/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * A word for each virtual CPU of the watched VMs, which tells whether it is in guest mode. The exit
 * path gets a look-up and a store; nobody is woken from there, since that would cost the guest more
 * than the exit itself.
 */
#ifndef KVM_EPOCH_BPF_H
#define KVM_EPOCH_BPF_H

#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "kvm_exit.h"

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, KVM_EXIT_VCPUS);
	__type(key, __u32);
	__type(value, struct kvm_exit_epoch);
} kvm_epochs SEC(".maps");

/* One element, and slots in it: looking into a hash map takes longer than all the rest. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct kvm_exit_vms);
} kvm_vms SEC(".maps");

static __always_inline struct kvm_exit_epoch *epoch_of(__u32 vcpu)
{
	__u32 process = (__u32)(bpf_get_current_pid_tgid() >> 32), zero = 0;
	struct kvm_exit_vms *vms = bpf_map_lookup_elem(&kvm_vms, &zero);

	if (!vms)
		return 0;
#pragma unroll
	for (__u32 i = 0; i < KVM_EXIT_PROBES; i++) {
		const struct kvm_exit_vm *vm = &vms->vm[(process + i) & (KVM_EXIT_SLOTS - 1)];
		__u32 nr = vm->first + vcpu;

		if (vm->pid == process)
			return vcpu < vm->nr ? bpf_map_lookup_elem(&kvm_epochs, &nr) : 0;
	}
	return 0;
}

/* Virtual CPU @vcpu of this process left guest mode: the next odd number. */
static __always_inline void vcpu_left(__u32 vcpu)
{
	struct kvm_exit_epoch *e = epoch_of(vcpu);

	if (e)
		*(volatile unsigned long long *)&e->epoch = (e->epoch + 1) | 1;
}

/* The next even number, or where it is: an entry may come without an exit that is told. */
static __always_inline void vcpu_entered(__u32 vcpu)
{
	struct kvm_exit_epoch *e = epoch_of(vcpu);

	if (e)
		*(volatile unsigned long long *)&e->epoch = (e->epoch + 1) & ~1ULL;
}

#endif
