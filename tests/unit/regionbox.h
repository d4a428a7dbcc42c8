/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the unit tests of regions share. */
#ifndef REGIONBOX_H
#define REGIONBOX_H

#include <htrace/consumer.h>

#include "core.h"

#define SIZE (4u << 20)

__attribute__((unused)) static char err[256];

static const struct htrace_region_opts local_opts = {
	.sz = sizeof(local_opts), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_OVERWRITE,
	.kind = HTRACE_RING_PER_THREAD, .nr_rings = 4, .ring_size = 65536,
};

static inline __u32 drain(struct htrace_consumer *c)
{
	struct htrace_batch b;
	__u32 n = 0;

	while (htrace_consumer_read(c, &b) == 1)
		n += b.events;
	return n;
}

#endif
