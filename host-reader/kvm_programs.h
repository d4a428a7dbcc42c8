/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The BPF programs on this host's kvm_exit and kvm_entry: loaded, told of VMs, asked what they cost. */
#ifndef READER_KVM_PROGRAMS_H
#define READER_KVM_PROGRAMS_H

#include <stddef.h>

#include <htrace/abi.h>

#include "../bpf/kvm_exit.h"

struct kvm_programs;

/* What the kernel says that they took, while it was asked to look. */
struct exit_cost {
	__u64 exits, exits_ns;
	__u64 entries, entries_ns;
};

/* Load and attach them. 0, or -errno with one line in @err, which says what to do. */
int kvm_programs_open(struct kvm_programs **out, char *err, size_t errlen);
/* NULL is allowed. */
void kvm_programs_close(struct kvm_programs *p);
/* KVM_EXIT_VCPUS of them, which the programs write. */
const struct kvm_exit_epoch *kvm_programs_epochs(const struct kvm_programs *p);
/* From now on they note where the virtual CPUs of a process are, in @vm's epochs, from 0 on. */
int kvm_programs_tell(struct kvm_programs *p, const struct kvm_exit_vm *vm);
void kvm_programs_untell(struct kvm_programs *p, int pid);
/*
 * Have the kernel measure its BPF programs, all of them: that costs each run two readings of a clock.
 * Ends it, and gives what was measured; all 0 if it could not be.
 */
void kvm_programs_measure(struct kvm_programs *p);
struct exit_cost kvm_programs_measured(struct kvm_programs *p);

#endif
