/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Statistics in words: the line now and then, and the table at the end. */
#ifndef READER_SUMMARY_H
#define READER_SUMMARY_H

#include "out.h"
#include "source.h"

/* What is remembered from one line of statistics to the next, per source. */
struct statistics {
	__u64 at; /* host time */
	__u64 events;
	__u64 agent_cpu_ns, agent_mono;
};

void statistics_say(struct statistics *t, const struct source *s, __u64 now);
/* After source_finish(). @reader_cpu_ns: CPU time of this process, in @elapsed_ns. */
void summary_write(struct out *o, const struct source *s, __u64 elapsed_ns, __u64 reader_cpu_ns);

#endif
