/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What kvm_tell.bpf.c and who loads it share. */
#ifndef KVM_TELL_H
#define KVM_TELL_H

#define KVM_TELL_VCPUS 1024 /* of all VMs that are told */
#define KVM_TELL_VMS 64
#define KVM_TELL_EXITS 128 /* that are kept of a virtual CPU until user space looks; a power of two */

/*
 * Reasons that are counted, one entry each: VMX 0 ... 191; SVM 0 ... 191, then 0x400 ... 0x40e; the
 * last is of all others.
 */
#define KVM_TELL_HIGH 192
#define KVM_TELL_HIGH_FIRST 0x400
#define KVM_TELL_REASONS 208
#define KVM_TELL_OTHER (KVM_TELL_REASONS - 1)

/* Nanoseconds; docs/format.md ("What the host tells") says of what. */
struct kvm_tell_times {
	unsigned long long out, preempted, woken, slept;
};

struct kvm_tell_exit {
	unsigned long long at; /* CLOCK_MONOTONIC when guest mode was left */
	struct kvm_tell_times times;
	unsigned int reason;
	unsigned int isa;
};

struct kvm_tell_reason {
	unsigned long long exits;
	struct kvm_tell_times times; /* of those that are over */
};

enum kvm_tell_off {
	KVM_TELL_ON = 0, /* a CPU, as far as is known */
	KVM_TELL_PREEMPTED = 1,
	KVM_TELL_ASLEEP = 2,
	KVM_TELL_WOKEN = 3,
};

/*
 * A virtual CPU. Writers: the programs, of which one at a time runs for it: on its own thread, or,
 * while that is off its CPU, in the scheduler for it. Reader: user space, which looks at words by
 * themselves.
 */
struct kvm_tell_vcpu {
	/* for the programs */
	unsigned long long out_since; /* 0: it is in guest mode */
	unsigned long long off_since; /* of off, unless it is KVM_TELL_ON */
	struct kvm_tell_times times;  /* since out_since; out is not kept here */
	unsigned int off;             /* enum kvm_tell_off */
	unsigned int known;           /* the reason why it is out was told */
	unsigned int reason;
	/* for user space */
	unsigned int isa;
	unsigned int thread;
	unsigned int reserved;
	unsigned long long nr_exits; /* written to exit[] (a full barrier before) */
	unsigned long long pad[6];
	struct kvm_tell_exit exit[KVM_TELL_EXITS];
	struct kvm_tell_reason counted[KVM_TELL_REASONS];
	unsigned char pad2[1792]; /* to whole pages */
};

/* The virtual CPUs of a VM: n has number first + n, if n < nr. By the process' id. */
struct kvm_tell_vm {
	unsigned int first, nr;
};

#endif
