/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Commands of the host (host-reader ctl), while all goes on:
 *
 *	list [FROM]		events, from the number FROM on
 *	enable EVENTS		names, globs and groups as of --events, separated by commas
 *	disable EVENTS
 *	filter EVENTS: EXPR	in addition to --filter; without EXPR: no more
 *	sample EVENTS: 1/N	record one in N, at random
 *	flush			what was recorded until now can be read, and the counters and names are fresh
 *
 * What is not done is refused as a whole, and leaves everything as it was, or the answer says what it did not.
 */
#ifndef AGENT_CONTROL_H
#define AGENT_CONTROL_H

#include <htrace/region.h>

#include "loader.h"

struct control;

/* What control needs of the agent. */
struct control_agent {
	struct htrace_region *region;
	struct loader *loader;
	/* Relay and counters up to now; whether that was all within a second. */
	bool (*flush)(void *ctx);
	/* Programs are loaded anew, with what struct program says of them: 0, or -1 after saying why not. */
	int (*renew)(void *ctx, const bool *program, const char *more);
	/* Called in the midst of what takes long. */
	void (*keep_up)(void *ctx);
	void *ctx;
};

/* The LIST of --allow. 0, or -1 after saying what is wrong with it. */
int control_parse(const char *list, __u64 *allows);
/* Commands from now on; NULL: out of memory. Not before the first heartbeat. */
struct control *control_new(const struct control_agent *a, __u64 allows);
/* Carry out what the host wants, if there is something. */
void control_work(struct control *c);
/* No more commands. NULL is allowed. */
void control_free(struct control *c);

/* control_list.c: as much of the list as fits, from event @from on; *@next as in struct htrace_reply. */
size_t control_list(const struct loader *l, __u64 allows, size_t from, char *out, size_t len, __u64 *next);

#endif
