/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the reader writes into a region: its own header, which the guest's agent looks at. */
#ifndef READER_HOST_H
#define READER_HOST_H

#include <htrace/region.h>

/* All of them do nothing where the region is mapped read-only. */

/* A reader is there; the guest, if one comes, may begin. */
void host_waiting(struct htrace_view *v);
/* It reads the session; @verified: and has found its rings in guest RAM. */
void host_attached(struct htrace_view *v, __u64 session, bool verified,
		   enum htrace_host_reason reason);
void host_refused(struct htrace_view *v, __u64 session, enum htrace_host_reason reason);
void host_drained(struct htrace_view *v, __u64 session);
void host_gone(struct htrace_view *v);
void host_beat(struct htrace_view *v);
/* Ask for the names table to be written anew. @served: what the guest has answered so far. */
void host_want_names(struct htrace_view *v, __u64 served);
/*
 * Before a session's rings are opened: what an earlier reader consumed of another session says
 * nothing about this one.
 */
void host_forget_other(struct htrace_view *v, __u64 session);

#endif
