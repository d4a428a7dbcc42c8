/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What the reader itself takes from events, beside showing them: which task runs on a CPU, and what
 * tasks are called. By the names that the events and their fields have in bpf/sched.bpf.c.
 */
#ifndef READER_EVENTS_H
#define READER_EVENTS_H

#include <stdbool.h>

#include "names.h"
#include "select.h"
#include "sink.h"

enum event_role {
	ROLE_NONE,
	ROLE_TASK,   /* happened in the task that field tid names */
	ROLE_SWITCH, /* prev_tid, next_tid, perhaps next_comm */
	ROLE_FORK,   /* parent_tid, child_tid, child_comm, perhaps child_pid */
	ROLE_EXEC,   /* tid, comm; who calls exec leads its process from then on */
	ROLE_RENAME, /* tid, comm, perhaps pid; not necessarily its own */
	ROLE_EXIT,   /* tid */
	ROLE_STACK,  /* says what a stack's id stands for; never shown */
};

struct event_info {
	const struct htrace_event *event; /* NULL: no event has this id */
	enum event_role role;
	bool shown;
	const struct htrace_member *tid;   /* the task in which it happened, or which it is about */
	const struct htrace_member *other; /* the next, or new, task */
	const struct htrace_member *pid;   /* the process of the task that gets a name; or NULL */
	const struct htrace_member *comm;
};

struct events;

struct events *events_new(const struct htrace_schema *schema, struct selection *selection);
void events_free(struct events *e);
/* NULL: none. @e may be NULL. */
const struct event_info *events_find(const struct events *e, __u32 id);

/*
 * Before a record is shown: @e gets the task in which it happened, if that can be told, and names
 * that it brings for others are noted.
 */
void event_before(const struct event_info *info, struct names *names, struct sink_event *e);
/* Afterwards: what holds from it on; @e's task becomes that of what follows on its CPU. */
void event_after(const struct event_info *info, struct names *names, struct sink_event *e,
		 __u64 now);

#endif
