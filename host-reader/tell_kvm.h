/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a guest is told: the exits of its virtual CPUs, by BPF programs on this host's kvm_exit,
 * kvm_entry and scheduler. Programs and maps know the virtual CPUs of VMs that are told, and of no
 * other.
 */
#ifndef READER_TELL_KVM_H
#define READER_TELL_KVM_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/region.h>

#include "tell.h"

struct teller;
struct told_vm;

/* Load and attach the programs. 0, or -errno with one line in @err, which says what to do. */
int teller_open(struct teller **out, char *err, size_t errlen);
/* No VM is told any more. NULL is allowed. */
void teller_close(struct teller *t);

/*
 * Begin with the VM of process @pid or, 0, of the only one that has virtual CPUs and maps the
 * region's file. 0, or -errno with one line in @err.
 */
int told_vm_new(struct told_vm **out, struct teller *t, const struct htrace_view *v, int pid,
		char *err, size_t errlen);
/* NULL is allowed. */
void told_vm_free(struct told_vm *vm);
/* Is its process gone? */
bool told_vm_gone(struct told_vm *vm);
/* Did it get virtual CPUs, or lose some? Then it is to be begun anew. A look through /proc. */
bool told_vm_changed(const struct told_vm *vm, const struct htrace_view *v);
int told_vm_pid(const struct told_vm *vm);
unsigned int told_vm_vcpus(const struct told_vm *vm);
/*
 * Tell what is new, at most TELL_BATCH records. Of exits that come faster than that those in
 * between are left out, and counted in the totals, which come in turn, all of them within some
 * seconds. @all: those that changed, until none is left. Returns how many exits were told.
 */
unsigned int told_vm_look(struct told_vm *vm, struct tell *tell, struct htrace_host *host,
			  __u64 now, bool all);

#endif
