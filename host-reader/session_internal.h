/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What session.c and session_lend.c share. */
#ifndef READER_SESSION_INTERNAL_H
#define READER_SESSION_INTERNAL_H

#include "region_clock.h"
#include "filter.h"
#include "session.h"

struct ring {
	struct origin origin;
	struct ring_count *count;
	__u64 time; /* of the last record read */
	bool broken;
	/* As far as records were emitted: who runs there. */
	bool switches; /* are recorded: so it is known until when a task runs */
	bool task_known;
	__u32 task;
};

struct session {
	struct session_config c;
	struct merge *merge; /* NULL: nobody wants records */
	bool captured;
	struct region_clock clock;
	__u64 asked;         /* time of the last session_emit() */
	struct names *names;
	struct stacks *stacks; /* NULL, as symbols, where there is no merge */
	struct symbols *symbols;
	bool said_symbols;
	struct sink_session about;
	struct htrace_schema *schema;
	struct events *events; /* what the reader knows of the schema's events */
	struct filters *filters;
	struct filter_said filter_said;
	bool switch_filtered; /* the guest records some switches only: who runs then is not known */
	size_t schema_len;     /* of what was parsed; entries are added only */
	__u64 next_expire;
	unsigned char *copy; /* of a batch that was lent and cannot stay where it is */
	size_t copy_room;
	unsigned int nr_broken;
	unsigned int waiting; /* schemas and tables that did not take effect yet */
	unsigned int nr_rings;
	struct ring ring[];
};

#endif
