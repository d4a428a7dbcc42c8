/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Events of SOURCE kvm: what this host's KVM tells of all VMs, or of one. For BPF; others find events and
 * fields by these names in the schema, in sessions with session_facts.host.
 *
 * A virtual CPU is out of guest mode from kvm_exit to its next kvm_entry, off its CPU between kvm_sched_out
 * and kvm_sched_in, and else runs. With `aggregate` some exits come with their entry, as one event that
 * has exit_overhead_ns: it was out for so long before the event's time.
 *
 * Requests to this host's disks are not a virtual CPU's but a VM's: of those that a thread of the VMM asked for.
 */
#ifndef KVM_EVENTS_H
#define KVM_EVENTS_H

#include "kvm_reasons.h"

/* What all begin with. */
#define KVM_VCPU                                                     \
	__u32 vm; /* id of the process */                            \
	htrace_tid_t tid; /* the virtual CPU's thread, on the host */ \
	__u16 vcpu_id

enum kvm_mmio_kind { /* as KVM's tracepoint has it */
	unsatisfied_read = 0, /* the VMM is asked; read follows */
	read = 1,
	write = 2,
};

/* A thread is a virtual CPU: before its first event. */
struct kvm_vcpu {
	KVM_VCPU;
	char comm[16];
};

struct kvm_exit {
	KVM_VCPU;
	enum kvm_exit_reason reason;
	htrace_ptr_t guest_rip;
	htrace_hex_t info1, info2;
};

struct kvm_entry {
	KVM_VCPU;
};

struct kvm_hypercall {
	KVM_VCPU;
	htrace_hex_t nr, a0, a1, a2, a3;
};

/*
 * The guest says something itself, by a hypercall of <htrace/hypercall.h>: in the place of kvm_hypercall. Whose virtual
 * CPU it is the host says, all else the guest.
 */
struct kvm_guest_event {
	KVM_VCPU;
	__u16 id;
	__u16 length; /* bytes of its payload, in all its parts */
	__u16 part;   /* this one has those from 24 * part on */
	__u32 sequence;
	htrace_hex_t a, b, c;
};

struct kvm_mmio {
	KVM_VCPU;
	enum kvm_mmio_kind kind;
	__u32 len;
	htrace_hex_t gpa, value;
};

struct kvm_pio {
	KVM_VCPU;
	htrace_hex16_t port;
	__u8 write;
	__u8 size; /* bytes, each of count times */
	__u32 count;
	htrace_hex32_t value; /* the first */
};

struct kvm_msr {
	KVM_VCPU;
	__u8 write;
	__u8 fault;
	htrace_hex32_t msr;
	htrace_hex_t value;
};

struct kvm_inj_virq {
	KVM_VCPU;
	__u8 soft;
	__u8 reinjected;
	__u32 vector;
};

struct kvm_userspace_exit {
	KVM_VCPU;
	enum kvm_userspace_reason reason; /* if error is not negative */
	__s32 error;
};

struct kvm_halt_poll_ns {
	KVM_VCPU;
	__u8 grow;
	__u32 new;
	__u32 old;
};

struct kvm_sched_out {
	KVM_VCPU;
	htrace_task_state_t prev_state; /* still runnable (R, R+): it was preempted */
	htrace_tid_t next_tid; /* 0: nobody needs the CPU */
	char next_comm[16];
};

struct kvm_sched_in {
	KVM_VCPU;
};

/* ------------------------------------------------------------------------------------ disks */

/* Given to the disk. */
struct kvm_disk_issue {
	__u32 vm;
	htrace_tid_t tid; /* who asked for it */
	__u64 sector;
	__u64 queue_ns; /* since then: in the block layer */
	__u32 dev;      /* major << 20 | minor */
	__u32 bytes;
	__u32 rwbs; /* LTTng's bits */
};

/* Also a flush: without bytes, from when it was asked for. */
struct kvm_disk_complete {
	__u32 vm;
	htrace_tid_t tid;
	__u64 sector;
	__u64 ns; /* since it was issued */
	__u64 queue_ns;
	__u32 dev;
	__u32 bytes;
	__u32 rwbs;
	__s32 error;
};

/* -------------------------------------------------------------------------------------- aggregated */

/* At the entry. exit_overhead_ns 0: the thread ended before there was one. */
#define KVM_EXITED                   \
	KVM_VCPU;                    \
	enum kvm_exit_reason reason; \
	htrace_ptr_t guest_rip;      \
	__u64 exit_overhead_ns

struct hypercall {
	KVM_EXITED;
	htrace_hex_t nr, a0, a1, a2, a3;
};

struct kvm_io {
	KVM_EXITED;
	__u32 count;
	htrace_hex32_t value;
	htrace_hex16_t port;
	__u8 write;
	__u8 size;
};

struct kvm_mmio_access {
	KVM_EXITED;
	enum kvm_mmio_kind kind;
	__u32 len;
	htrace_hex_t gpa, value;
};

/* Could have been one of these, and was not: a page that the host had to find, a doorbell of KVM's own. */
struct kvm_exited {
	KVM_EXITED;
	htrace_hex_t info1, info2;
};

#endif
