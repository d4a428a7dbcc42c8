/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the agent's files share. */
#ifndef AGENT_AGENT_INTERNAL_H
#define AGENT_AGENT_INTERNAL_H

#include "agent.h"

#include <signal.h>
#include <stdbool.h>
#include <stddef.h>

#include <htrace/region.h>

#include "bell.h"
#include "control.h"
#include "health.h"
#include "module.h"
#include "pins.h"
#include "relay.h"
#include "stream.h"

struct agent {
	struct htrace_bar *bar; /* NULL: the region is in a file, or */
	struct stream *stream;  /* in memory of ours, which this sends; or NULL */
	int device_fd;          /* of the device, to see that it is gone; or -1 */
	__u64 next_removal;     /* look for that */
	void *mem;
	size_t size;
	bool io_memory;
	struct htrace_beacon *beacon; /* by which a host finds the region in this machine's memory; or NULL */
	struct htrace_region *region;
	struct rings rings;
	struct htrace_geometry geometry;
	struct htrace_schema_builder *schema;
	bool adopted;
	bool ours; /* the region and its session, to be closed at the end */
	enum mode mode;
	bool packs; /* readers of the session have to know how to unpack */
	struct health health;
	struct relay relay;
	struct bell bell;
	const struct options *options;
	struct loader *loader;
	struct control *control; /* NULL: not yet */
	struct module module; /* fd -1: there is none, or it has bound another device */
	sigset_t stop;
};

/* agent_region.c: the region, and rings of a size that fits it. 0, or -1 after saying why not. */

/* Wait until there is one; 1: a signal of @stop ended that. */
int agent_await_region(const char *where, const sigset_t *stop);
/* The file or the device that @where tells of. @again: what to start when the device is removed; or NULL: nothing. */
int agent_open_region(struct agent *a, const struct options *o, const char *where, char **again);
void agent_close_region(struct agent *a);
/* Once it is published: if it is in this machine's memory, have the host find it. */
int agent_light_beacon(struct agent *a);
/* Before its memory, or that of the rings, is given back. */
void agent_put_out_beacon(struct agent *a);
/* Is the device gone? Then this is the end, or, with --wait, a new beginning. */
void agent_notice_removal(struct agent *a);
/* For messages. */
const char *agent_region_name(const struct agent *a, const struct options *o);
/* In the mode that was chosen. */
int agent_make_rings(struct agent *a, const struct options *o);
/* Begin the session. What was in the region is gone. */
int agent_format_region(struct agent *a, const struct options *o);
/* Mode module: the rings are the region's own. */
void agent_use_rings_of_region(struct agent *a);

/* agent_adopt.c */

/*
 * Go on with the session that an earlier agent left, if both its region and its rings are still
 * there; else choose the mode of a new one. @module_fits: it is there, and the programs can record
 * through it.
 */
void agent_try_adopt(struct agent *a, const struct options *o, bool module_fits);

/* agent_publish.c: what the host is told before the first event. 0, or not after saying why. */

int agent_publish_new(struct agent *a, const struct options *o, const struct loader *l);
int agent_publish_adopted(struct agent *a, const struct loader *l);

/* agent_control.c: what the host commands. 0, or -1 after saying why not. */
int agent_begin_control(struct agent *a, const struct options *o, struct loader *l);

/* Do what is due; returns nanoseconds until more is. */
__u64 agent_work(struct agent *a);

#endif
