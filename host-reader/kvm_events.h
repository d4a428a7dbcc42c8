/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SOURCE kvm: BPF programs on this host's KVM write events into rings, one for each of its CPUs. All of
 * it looks like a local region, so whoever reads that reads this.
 */
#ifndef READER_KVM_EVENTS_H
#define READER_KVM_EVENTS_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/region.h>

struct kvm_events;

struct kvm_events_config {
	int pid; /* of the VM's process; 0: all VMs */
	bool aggregate; /* some exits and what they were for are one event */
};

/* Make the region. 0, or -errno with one line in @err, which says what to do. */
int kvm_events_open(struct kvm_events **out, const struct kvm_events_config *config, char *err, size_t errlen);
/* A descriptor of it, the caller's to close; or -errno. */
int kvm_events_file(const struct kvm_events *k);
/* The tracepoints that this kernel lacks, "a, b"; or "". */
const char *kvm_events_missing(const struct kvm_events *k);
/* @v is attached to the region: put the rings there, and begin. As kvm_events_open(). */
int kvm_events_begin(struct kvm_events *k, struct htrace_view *v, char *err, size_t errlen);
/* Every now and then: names of tasks, and what the kernel counted. */
void kvm_events_account(struct kvm_events *k);
/* No more events come. */
void kvm_events_end(struct kvm_events *k);
/* NULL is allowed. After all views of the region. */
void kvm_events_close(struct kvm_events *k);

#endif
