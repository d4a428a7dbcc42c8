/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The times of a session, as its outputs show them: CLOCK_MONOTONIC of its machine, whatever clock its
 * region has, or, if that is wanted, of the host. Where the region's is ticks, and there are no samples
 * to convert them by when the first of them is shown, they stay ticks to the session's end, and where
 * the host's is not known then, they stay the machine's own: times of two kinds have no order.
 */
#ifndef READER_REGION_CLOCK_H
#define READER_REGION_CLOCK_H

#include <stdbool.h>

#include <htrace/clock.h>

#include "host_clock.h"

#define REGION_CLOCK_LIMITS 5
extern const __u64 region_clock_limits[REGION_CLOCK_LIMITS]; /* ns */

struct region_clock {
	struct htrace_clock *clock; /* NULL: times are ns as they are */
	struct host_clock host;
	bool wants_host;
	bool shown; /* a time was */
	bool ticks; /* and is: as it was */
	bool on_host; /* the host's */
	__u64 bound; /* of all times so far, where on_host; ns, or HOST_CLOCK_UNKNOWN */
	__u64 known; /* but for those of which nobody knows */
	__u64 told;  /* the latest time that was shown */
	__u64 times; /* shown as the host's, of another machine, */
	__u64 within[REGION_CLOCK_LIMITS]; /* and of these by what was claimed of each then */
};

/* -ENOMEM. */
int region_clock_open(struct region_clock *c, __u32 clock_id, bool wants_host);
void region_clock_close(struct region_clock *c);
/* Before the first time: as what they go out now holds. Returns true that one time. */
bool region_clock_begin(struct region_clock *c);
/* What was found out of the host's clock: as host_clock_add(); it may say that times before were further off. */
int region_clock_learn(struct region_clock *c, const struct host_word *w);
/* After region_clock_begin(): an event's time. */
__u64 region_clock_time(struct region_clock *c, __u64 time);
/* Or since when something holds, which may be long ago; 0: from the beginning. */
__u64 region_clock_past(struct region_clock *c, __u64 time);

#endif
