/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The process that runs a VM on KVM, as /proc shows it. */
#ifndef READER_KVM_PROCESS_H
#define READER_KVM_PROCESS_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/region.h>

#define KVM_PROCESS_VCPUS 1024

struct kvm_process {
	int pid;
	int pidfd; /* the caller's to close */
	unsigned int nr_vcpus; /* at least 1 */
	unsigned int vcpu[KVM_PROCESS_VCPUS]; /* their numbers (x86: APIC ids), rising */
};

/*
 * Process @pid or, 0, the only one that has virtual CPUs and maps the file of @v. 0, or -errno with
 * one line in @err: -ENOENT there is none, -ENOTUNIQ there are several.
 */
int kvm_process_find(struct kvm_process *p, const struct htrace_view *v, int pid, char *err,
		     size_t errlen);

/* The first of @nr neighbours that are free, of @all numbers of virtual CPUs; @all: there are none. */
unsigned int kvm_process_place(const bool *taken, unsigned int all, unsigned int nr);

#endif
