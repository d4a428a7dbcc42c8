/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Events of this host about its vCPUs (SOURCE kvm, or a capture of it), taken from their records by
 * the names that the events and their fields have.
 */
#ifndef READER_HOST_EVENTS_H
#define READER_HOST_EVENTS_H

#include <stdbool.h>

#include "event_fields.h"

enum host_kind {
	HOST_OTHER,
	HOST_EXIT,
	HOST_ENTRY,
	HOST_SCHED_OUT,
	HOST_SCHED_IN,
	/* An exit, what it was for, and the entry, at the entry's time. */
	HOST_HYPERCALL,
	HOST_IO,
	HOST_MMIO,
	HOST_EXITED,
	/* Within an exit. */
	HOST_IN_PIO,
	HOST_IN_MMIO,
	HOST_INJECT,
	HOST_MSR,
	HOST_DISK, /* a request to a disk of the host's is complete: of a VM, not of a vCPU */
};

struct host_event {
	enum host_kind kind;
	__u32 vm, tid, vcpu; /* of all but HOST_OTHER, the last not of HOST_DISK */
	__u32 reason; /* of HOST_EXIT, HOST_HYPERCALL ... HOST_EXITED */
	const char *reason_name; /* likewise, or NULL */
	__u64 rip; /* likewise */
	__u64 ns;  /* that HOST_HYPERCALL ... HOST_EXITED, HOST_DISK took until now; 0: there was no entry any more */
	bool preempted; /* HOST_SCHED_OUT: it could have run on */
	bool write;     /* of HOST_IO, HOST_MMIO, HOST_IN_PIO, HOST_IN_MMIO, HOST_MSR */
	bool again;     /* HOST_INJECT: not for the first time, maybe */
	__u32 vector;   /* HOST_INJECT */
	__u32 msr;      /* HOST_MSR */
	__u64 sector;           /* HOST_DISK */
	__u32 dev, bytes, rwbs; /* likewise */
	__s32 error;            /* likewise */
	__u64 queue_ns;         /* likewise: before ns */
};

/* What is known of sessions' schemas; event_fields_session_end() and event_fields_free() are for it, too. */
struct event_fields *host_events_new(void);
void host_events_take(struct event_fields *h, const struct sink_event *e, struct host_event *out);

#endif
