/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Events of this host about its vCPUs (SOURCE kvm, or a capture of it), taken from their records by
 * the names that the events and their fields have.
 */
#ifndef READER_HOST_EVENTS_H
#define READER_HOST_EVENTS_H

#include <stdbool.h>

#include "sink.h"

enum host_kind {
	HOST_UNKNOWN, /* not looked at yet; never handed out */
	HOST_OTHER,   /* it says nothing of exits, or lacks what it should say */
	HOST_EXIT,
	HOST_ENTRY,
	HOST_SCHED_OUT,
	HOST_SCHED_IN,
	/* An exit, what it was for, and the entry, at the entry's time. */
	HOST_HYPERCALL,
	HOST_IO,
	HOST_MMIO,
	HOST_EXITED,
	HOST_KINDS,
};

struct host_event {
	enum host_kind kind;
	__u32 vm, tid, vcpu; /* of all but HOST_OTHER */
	__u32 reason; /* of HOST_EXIT, HOST_HYPERCALL and the next */
	const char *reason_name; /* likewise, or NULL */
	__u64 rip; /* likewise */
	__u64 ns;  /* that HOST_HYPERCALL and the next took until now; 0: there was no entry any more */
	bool preempted; /* HOST_SCHED_OUT: it could have run on */
};

struct host_events; /* what is known of the schemas of sessions */

struct host_events *host_events_new(void);
void host_events_free(struct host_events *h);
void host_events_take(struct host_events *h, const struct sink_event *e, struct host_event *out);
void host_events_session_end(struct host_events *h, const struct sink_session *session);

#endif
