/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The agent as relay: copies the rings into their mirrors in the region, by polling, and hands over
 * to the rings themselves when the host can read them.
 */
#ifndef AGENT_RELAY_H
#define AGENT_RELAY_H

#include <stdbool.h>

#include <htrace/relay.h>

#include "bell.h"
#include "pins.h"

struct relay {
	struct htrace_region *region;
	const struct rings *rings;
	struct bell *bell;
	struct htrace_relay **mirror; /* one per ring; NULL: there is no relay */
	__u64 *told; /* position for which the bell was thought of */
	bool option;      /* direct placement is possible too */
	bool active;
	bool reader; /* a host reads the session */
	bool broken;
	bool said_why;
	unsigned int unverified; /* looks in a row */
	__u64 next, every; /* CLOCK_MONOTONIC, ns */
	__u64 idle_most;
};

/* @option: of a region with direct placement too. 0, or -1 after saying why. */
int relay_init(struct relay *r, struct htrace_region *region, const struct rings *rings,
	       struct bell *bell, bool option);
void relay_free(struct relay *r);
/* Copy what is due; returns nanoseconds until more is. */
__u64 relay_work(struct relay *r);
/* Programs are detached: copy all that there is. */
void relay_finish(struct relay *r);
/* A host reads the session, and has found the rings in this machine's memory, or has not. */
void relay_host(struct relay *r, bool verified, __u32 reason);
void relay_reader(struct relay *r, bool reads);
bool relay_active(const struct relay *r);
bool relay_is_option(const struct relay *r);
/* Up to where ring @i is mirrored. */
__u64 relay_position(const struct relay *r, __u32 i);

#endif
