/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* A relay whose mirror is not in memory of ours: stores go, in their order, to whoever carries them there. */
#ifndef HTRACE_RELAY_SINK_H
#define HTRACE_RELAY_SINK_H

#include <htrace/relay.h>

struct htrace_relay_sink {
	/* @len bytes, a multiple of 8, at @off of the mirror's image. @data is valid until it returns. */
	void (*store)(void *ctx, __u64 off, const void *data, __u64 len);
	void *ctx;
};

/* What a mirror holds, for who goes on with it. */
struct htrace_relay_point {
	__u64 pos; /* start of the first block that is not there as a whole, or of the last one */
	__u64 head, dropped; /* its words */
};

/* Of a mirror in memory, which may hold anything: bounded by its number of blocks. */
void htrace_relay_point(struct htrace_ring *mirror, const struct htrace_geometry *g, struct htrace_relay_point *p);
/* Go on at @at, which whoever has the mirror says, and need not be true. -ENOMEM. */
int htrace_relay_new_to(struct htrace_relay **out, const struct htrace_ring *from, const struct htrace_geometry *g,
			const struct htrace_relay_sink *sink, const struct htrace_relay_point *at);

#endif
