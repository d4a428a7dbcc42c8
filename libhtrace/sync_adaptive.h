/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* The rule of the adaptive policy, apart from clocks and sleep. */
#ifndef HTRACE_SYNC_ADAPTIVE_H
#define HTRACE_SYNC_ADAPTIVE_H

#include <stdbool.h>

#include <htrace/abi.h>

#define HTRACE_ADAPTIVE_MIN_NS 50000ULL
#define HTRACE_ADAPTIVE_BATCH 64   /* events that a poll should find */
#define HTRACE_ADAPTIVE_WEIGHT 8.0 /* one of so many: what a poll counts for in the rate */

struct htrace_adaptive {
	__u64 max_ns;
	__u64 interval_ns; /* until the next poll */
	double rate;       /* events per nanosecond */
};

static inline void htrace_adaptive_init(struct htrace_adaptive *a, __u64 max_ns)
{
	a->max_ns = max_ns;
	a->interval_ns = HTRACE_ADAPTIVE_MIN_NS;
	a->rate = 0;
}

/*
 * @events were found by the poll, @elapsed_ns after the one before; @backlog: more is there. A backlog
 * of which nothing could be read is a record that was not committed, perhaps never will be: silence.
 */
static inline void htrace_adaptive_polled(struct htrace_adaptive *a, __u64 events,
					  __u64 elapsed_ns, bool backlog)
{
	double want;

	if (!elapsed_ns)
		elapsed_ns = 1;
	a->rate += ((double)events / (double)elapsed_ns - a->rate) / HTRACE_ADAPTIVE_WEIGHT;
	if (backlog && events)
		want = 0;
	else if (!events)
		want = 2.0 * (double)a->interval_ns;
	else
		want = HTRACE_ADAPTIVE_BATCH / a->rate;
	if (want > (double)a->max_ns)
		want = (double)a->max_ns;
	if (want < (double)HTRACE_ADAPTIVE_MIN_NS)
		want = (double)HTRACE_ADAPTIVE_MIN_NS;
	a->interval_ns = (__u64)want;
}

#endif /* HTRACE_SYNC_ADAPTIVE_H */
