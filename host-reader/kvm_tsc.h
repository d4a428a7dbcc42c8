/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What KVM says in debugfs of how a VM's TSC goes beside the host's. */
#ifndef READER_KVM_TSC_H
#define READER_KVM_TSC_H

#include <stdbool.h>

#include <linux/types.h>

/* guest TSC = (host TSC * ratio >> bits) + offset */
struct kvm_tsc {
	bool known;
	__u64 offset; /* modulo 2^64 */
	__u64 ratio;
	unsigned int bits;
};

/* Of the VM that process @pid runs. False: it is not told, or not the same of all its virtual CPUs. */
bool kvm_tsc_read(struct kvm_tsc *t, int pid);
/* The host's TSC when the guest's was @guest. */
__u64 kvm_tsc_host(const struct kvm_tsc *t, __u64 guest);

#endif
