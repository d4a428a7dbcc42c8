/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The times of a session, as its outputs show them: CLOCK_MONOTONIC of its machine, whatever clock its
 * region has. Where that is ticks, and the region has no samples to convert them by when the first of
 * them is shown, they stay ticks to the session's end: times of both kinds have no order.
 */
#ifndef READER_REGION_CLOCK_H
#define READER_REGION_CLOCK_H

#include <stdbool.h>

#include <htrace/clock.h>

struct region_clock {
	struct htrace_clock *clock; /* NULL: times are ns as they are */
	bool shown; /* a time was */
	bool ticks; /* and is: as it was */
};

/* -ENOMEM. */
int region_clock_open(struct region_clock *c, __u32 clock_id);
void region_clock_close(struct region_clock *c);
/* Returns true the one time at which it turns out that they have to stay ticks. */
bool region_clock_begin(struct region_clock *c);
/* After that. */
__u64 region_clock_time(struct region_clock *c, __u64 time);

#endif
