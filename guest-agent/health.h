/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a running agent tells the host and hears from it. */
#ifndef AGENT_HEALTH_H
#define AGENT_HEALTH_H

#include <htrace/region.h>

#include "loader.h"
#include "monotonic.h"
#include "pins.h"
#include "relay.h"

#define HEARTBEAT_MS 250

struct health {
	struct htrace_region *region;
	const struct loader *loader;
	const struct rings *rings;
	struct relay *relay; /* or NULL */
	struct htrace_geometry geometry;

	__u64 next_beat, next_counters, next_names, next_mappings; /* CLOCK_MONOTONIC, ns */

	/* Programs that only earlier agents of the session had; and what ours missed before they were loaded. */
	struct htrace_prog earlier[HTRACE_MAX_PROGS];
	size_t nr_earlier, nr_known; /* of the loader's programs, those that were looked for among them */
	__u64 misses_before[HTRACE_MAX_PROGS];

	__u64 host_beat, host_beat_time, listened;
	__u64 listen_until; /* for the host's questions about our TSC; 0: not any more */
	unsigned int answered;
	__u32 host_state;

	/* discard policy */
	bool forwards;
	__u64 next_forward, forward_every;
	__u64 head_sum, head_time;
};

/*
 * Begins with the first heartbeat. @forwards: under discard, producers read positions of the host
 * only where they are forwarded to.
 */
void health_init(struct health *h, struct htrace_region *region, const struct loader *loader,
		 const struct rings *rings, const struct htrace_geometry *geometry,
		 struct relay *relay, bool forwards);
/* Do what is due; returns nanoseconds until more is. */
__u64 health_work(struct health *h);
/* The host says that it has written something: look now, not with the next heartbeat. */
void health_listen(struct health *h);
/* What was counted and found until now is to be seen: counters, names of functions and mappings. */
void health_publish(struct health *h);
/* Counters one last time. */
void health_final(struct health *h);
/* Is there a reader that serves our session and lives? */
bool health_reader_attached(const struct health *h);

/* CPU time that this process used. */
__u64 cpu_time_ns(void);

#endif
