/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The last events of a ring, as they are: at most so many, and so many bytes of them, whatever a guest records.
 */
#ifndef READER_LAST_EVENTS_H
#define READER_LAST_EVENTS_H

#include "sink.h"
#include "vcpus.h"

#define LAST_EVENTS_MAX 1000u
#define LAST_EVENT_BYTES 512u /* of payload, on average; one record may be larger than all of that */

struct last_event {
	__u64 time;
	struct htrace_record record; /* its payload is ours */
	struct sink_loss lost; /* just before it; from NULL: nothing was */
	bool unverified, task_known, has_vcpu;
	__u32 task;
	struct vcpu_view vcpu; /* its `why` is ours, too */
	char why[VCPUS_REASON];
	void *payload;
	size_t room; /* of it, in bytes */
};

struct last_events {
	struct origin from; /* of the session that they are of */
	__u64 count;        /* all there were, kept or not, */
	__u64 lost;         /* and those that were lost, */
	struct sink_loss lost_since; /* as behind the last one; from NULL: none */
	__u64 latest;       /* the last one's time */
	unsigned int max, nr, first;
	size_t bytes;
	struct last_event event[];
};

/* Of at most @max events. NULL: memory is out. */
struct last_events *last_events_new(unsigned int max, const struct origin *from);
void last_events_free(struct last_events *l);
/* A copy. One that there is no memory for is counted only. */
void last_events_add(struct last_events *l, const struct sink_event *e);
void last_events_lose(struct last_events *l, const struct sink_loss *lost);
/* The @i-th of those that are kept (l->nr), the oldest first. */
const struct last_event *last_events_at(const struct last_events *l, unsigned int i);
/* The same as a sink gets it, by the schema that @e's session has now; it refers to @e. */
struct sink_event last_events_show(const struct last_events *l, const struct last_event *e);

#endif
