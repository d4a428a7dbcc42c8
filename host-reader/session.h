/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One session of a region while it is attached: its rings, schema and names, and the way of its
 * records from the rings through the merge to the sinks. When to read is the source's business.
 */
#ifndef READER_SESSION_H
#define READER_SESSION_H

#include <stdbool.h>

#include <htrace/consumer.h>

#include "message.h"
#include "select.h"
#include "sink.h"
#include "stats.h"

struct session;

struct session_config {
	struct htrace_view *view; /* attached, guest RAM mapped if there are rings in it ... */
	bool no_ram;              /* ... or not: then their mirrors in the region are read */
	const char *path;         /* for messages */
	const char *source;       /* for sinks; NULL: there is one source only */
	struct stats *stats;
	struct sinks *sinks; /* NULL: records are counted, and not shown */
	struct selection *selection;
	struct say_quota *quota; /* for what the guest causes to be said */
};

/* What one look at all rings gave. */
struct session_pass {
	__u64 events;
	__u64 backlog; /* bytes left */
	bool more;     /* it is worth to look again at once */
	bool lost;     /* events were lost */
	bool drained;  /* no ring has anything left that is committed */
	bool cut;      /* for want of time or memory less was read than there is a budget for */
};

/* 0, or -errno with one line in @err. */
int session_open(struct session **out, const struct session_config *config, char *err,
		 size_t errlen);
/*
 * From here on nothing is read, and no memory of the guest's is touched. Bytes that stay in the
 * rings: as of the last look, or, if @look, as of now.
 */
__u64 session_end(struct session *s, bool look);
/* Forget the session. What is held and did not go out yet is counted as unwritten. */
void session_close(struct session *s);

/*
 * Read a bounded amount of each ring. @unverified: from a guest that may be dead. -ESTALE: ring
 * memory is not the session's any more.
 */
int session_read(struct session *s, __u64 now, bool unverified, struct session_pass *pass);
/*
 * Hand what is due to the sinks, for a bounded time: a guest's few bytes can be much text. Returns
 * whether there is more.
 */
bool session_emit(struct session *s, __u64 now, bool all);
/* Read schema and names again if the guest has new ones. At most so often, whatever it does. */
void session_refresh(struct session *s, __u64 now);
/* Rings that are read from their mirrors. */
unsigned int session_relayed(const struct session *s);
/* Is there something in the rings? A load per ring. */
bool session_ready(const struct session *s);
/* When session_emit() will have something to do; UINT64_MAX: not before more was read. */
__u64 session_due(const struct session *s);
/* Bytes that were in the rings when they were last looked at. */
__u64 session_backlog(const struct session *s);

#endif
