/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * On the host: tells by a word for each virtual CPU of the watched VMs whether it is in guest mode.
 * The exit path gets a store; nobody is woken from here, since that would cost the guest more than
 * the exit itself.
 */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>

#include "kvm_exit.h"

/* The same on all kernels and vendors, unlike the tracepoints' arguments. In the kvm module's BTF. */
struct trace_event_raw_kvm_exit {
	unsigned int vcpu_id;
} __attribute__((preserve_access_index));

struct trace_event_raw_kvm_entry {
	unsigned int vcpu_id;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, KVM_EXIT_VCPUS);
	__type(key, __u32);
	__type(value, struct kvm_exit_epoch);
} kvm_epochs SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, KVM_EXIT_VMS);
	__type(key, __u32);
	__type(value, struct kvm_exit_vm);
} kvm_vms SEC(".maps");

static __always_inline struct kvm_exit_epoch *epoch_of(__u32 vcpu)
{
	__u32 process = (__u32)(bpf_get_current_pid_tgid() >> 32);
	struct kvm_exit_vm *vm = bpf_map_lookup_elem(&kvm_vms, &process);
	__u32 nr;

	if (!vm || vcpu >= vm->nr)
		return 0;
	nr = vm->first + vcpu;
	return bpf_map_lookup_elem(&kvm_epochs, &nr);
}

/* The next odd number. */
SEC("tp/kvm/kvm_exit")
int kvm_exit(struct trace_event_raw_kvm_exit *ctx)
{
	struct kvm_exit_epoch *e = epoch_of(ctx->vcpu_id);

	if (e)
		*(volatile unsigned long long *)&e->epoch = (e->epoch + 1) | 1;
	return 0;
}

/* The next even number, or where it is: an entry may come without an exit that is told. */
SEC("tp/kvm/kvm_entry")
int kvm_entry(struct trace_event_raw_kvm_entry *ctx)
{
	struct kvm_exit_epoch *e = epoch_of(ctx->vcpu_id);

	if (e)
		*(volatile unsigned long long *)&e->epoch = (e->epoch + 1) & ~1ULL;
	return 0;
}

char LICENSE[] SEC("license") = "Dual BSD/GPL";
