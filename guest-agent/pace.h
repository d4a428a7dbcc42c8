/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How often what looks at the rings by polling does so: it follows the events, and sleeps in silence. */
#ifndef AGENT_PACE_H
#define AGENT_PACE_H

#include <linux/types.h>

#define PACE_MS 1000000ULL
#define PACE_NS PACE_MS          /* while events flow: what polling adds to their delay */
#define PACE_TRICKLE_BYTES 512   /* a poll that finds less may have seen no more than itself traced */
#define PACE_TRICKLE_NS (4 * PACE_MS) /* then at most */
#define PACE_IDLE_NS (16 * PACE_MS)   /* at most, while there are none */

/* From a poll that found @bytes, @every after the one before, to the next: nanoseconds, up to @most. */
static inline __u64 pace_next(__u64 every, __u64 bytes, __u64 most)
{
	__u64 limit = bytes ? PACE_TRICKLE_NS : PACE_IDLE_NS, longer = 2 * every;

	if (bytes >= PACE_TRICKLE_BYTES)
		return PACE_NS;
	if (limit > most)
		limit = most;
	return longer < limit ? longer : limit;
}

#endif
