/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What kvm_exit.bpf.c and who loads it share. */
#ifndef KVM_EXIT_H
#define KVM_EXIT_H

#define KVM_EXIT_VCPUS 4096 /* of all VMs that are watched */
#define KVM_EXIT_SLOTS 1024 /* for VMs, a power of two: process p has one of PROBES from p % SLOTS on */
#define KVM_EXIT_PROBES 4

/*
 * Odd while the virtual CPU is out of guest mode; (epoch + 1) / 2 exits were seen. Writer: the
 * program, on the thread of the virtual CPU, so there is one. Reader: user space. A line each.
 */
struct kvm_exit_epoch {
	unsigned long long epoch;
	unsigned long long pad[7];
};

/* The epochs of a VM: virtual CPU n has number first + n, if n < nr. pid 0: none. */
struct kvm_exit_vm {
	unsigned int pid, first, nr;
};

struct kvm_exit_vms {
	struct kvm_exit_vm vm[KVM_EXIT_SLOTS];
};

#endif
