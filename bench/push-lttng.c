// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * LTTng-UST's tracepoints, read by LTTng's own consumer daemon: bench/push runs it and its session, and
 * checks the trace. How many were pushed is said on stderr for it.
 */
#include <stdlib.h>
#include <unistd.h>

#define LTTNG_UST_TRACEPOINT_DEFINE
#define LTTNG_UST_TRACEPOINT_CREATE_PROBES
#define LTTNG_UST_TRACEPOINT_PROBE_DYNAMIC_LINKAGE_NOT
#include "push-lttng-tp.h"

#include "push.h"

static void *make(const struct push_config *c)
{
	struct push_config *copy = malloc(sizeof(*copy));

	*copy = *c;
	return copy;
}

#define BURST(size)                                                                             \
	static __attribute__((noinline)) uint64_t burst##size(unsigned producer, uint64_t first, \
							      uint64_t n)                        \
	{                                                                                       \
		uint64_t w[(size) / 8];                                                         \
		push_fill(w, (size) / 8);                                                       \
		for (uint64_t i = first; i < first + n; i++) {                                  \
			push_mark(w, (size) / 8, producer, i);                                  \
			lttng_ust_tracepoint(bench, push##size, w);                             \
		}                                                                               \
		return n;                                                                       \
	}
BURST(16)
BURST(32)
BURST(64)
BURST(256)

static uint64_t burst(void *arg, unsigned producer, uint64_t first, uint64_t n)
{
	const struct push_config *c = arg;

	return c->payload == 16 ? burst16(producer, first, n) :
	       c->payload == 32 ? burst32(producer, first, n) :
	       c->payload == 64 ? burst64(producer, first, n) :
				  burst256(producer, first, n);
}

static const char *missing(void)
{
	/* Registration with the daemon is done before main() by default; enabling comes with it. */
	return lttng_ust_tracepoint_enabled(bench, push32) ? NULL :
	       "no LTTng session traces this process (bench/push makes one)";
}

const struct push_queue push_lttng = {
	.name = "LTTng-UST",
	.multi = true,
	.single = true,
	.make = make,
	.burst = burst,
	.free = free,
	.missing = missing,
};
