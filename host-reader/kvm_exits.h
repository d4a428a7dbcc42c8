/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which virtual CPUs are out of guest mode, by BPF programs on this host's kvm_exit and kvm_entry.
 *
 * All of it is a hint when to read which ring; nothing that is read depends on it.
 */
#ifndef READER_KVM_EXITS_H
#define READER_KVM_EXITS_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/region.h>

#include "kvm_programs.h"

struct kvm_exits;
struct kvm_vm;

/* What was seen of a virtual CPU, and how its ring was read: reads that gave something. */
struct exit_count {
	__u64 exits;
	__u64 out;      /* reads that ended before it was back in the guest */
	__u64 returned; /* it came back meanwhile */
	__u64 inside;   /* it had not been out for so long that its ring was read all the same */
	bool used;
};

/* Load and attach the programs. 0, or -errno with one line in @err, which says what to do. */
int kvm_exits_open(struct kvm_exits **out, char *err, size_t errlen);
/* No VM is watched any more. NULL is allowed. */
void kvm_exits_close(struct kvm_exits *e);
/* Every now and then: in the first second of the first VM the programs are measured. */
void kvm_exits_account(struct kvm_exits *e, __u64 now);
/* What was measured; ends that. All 0: nothing. */
const struct exit_cost *kvm_exits_cost(struct kvm_exits *e);
/* A ring that was not read for so long is read wherever its virtual CPU is. */
void kvm_exits_set_bound(struct kvm_exits *e, __u64 ns);
/* Likewise all rings, until it is said otherwise. */
void kvm_exits_read_all(struct kvm_exits *e, bool all);
/* Is a virtual CPU out whose ring was not read since? A load for each of them. */
bool kvm_exits_pending(const struct kvm_exits *e);
/* Changes whenever one of them comes or goes. @inside: is one in guest mode? */
__u64 kvm_exits_sum(const struct kvm_exits *e, bool *inside);

/*
 * Watch the VM of process @pid or, 0, of the only one that has virtual CPUs and maps the region's
 * file. Of its virtual CPUs the one with the lowest number writes ring 0 of @nr_rings, and so on.
 * 0, or -errno with one line in @err.
 */
int kvm_vm_watch(struct kvm_vm **out, struct kvm_exits *e, const struct htrace_view *v, int pid,
		 unsigned int nr_rings, char *err, size_t errlen);
/* NULL is allowed. @count: to which what was seen is added, for each ring; or NULL. */
void kvm_vm_unwatch(struct kvm_vm *vm, struct exit_count *count);
/* Is its process gone? From then on its rings are read as if nothing was known. */
bool kvm_vm_gone(struct kvm_vm *vm);
int kvm_vm_pid(const struct kvm_vm *vm);
/* Virtual CPUs that have a ring. */
unsigned int kvm_vm_vcpus(const struct kvm_vm *vm);

/* One look at a ring, as of before it. */
struct kvm_look {
	__u64 epoch;
	bool wanted;
};

/* May ring @ring be read now? Always, if nothing is known of it. */
bool kvm_vm_look(struct kvm_vm *vm, unsigned int ring, __u64 now, struct kvm_look *look);
/* It was; @all: up to its end. */
void kvm_vm_looked(struct kvm_vm *vm, unsigned int ring, const struct kvm_look *look, __u64 now,
		   bool events, bool all);

#endif
