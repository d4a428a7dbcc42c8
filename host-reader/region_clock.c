/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "region_clock.h"

#include <string.h>

int region_clock_open(struct region_clock *c, __u32 clock_id)
{
	memset(c, 0, sizeof(*c));
	return clock_id == HTRACE_CLOCK_MONOTONIC ? 0 : htrace_clock_new(&c->clock, clock_id);
}

void region_clock_close(struct region_clock *c)
{
	htrace_clock_free(c->clock);
	c->clock = NULL;
}

bool region_clock_begin(struct region_clock *c)
{
	if (!c->clock || c->shown)
		return false;
	c->shown = true;
	c->ticks = !htrace_clock_usable(c->clock);
	return c->ticks;
}

__u64 region_clock_time(struct region_clock *c, __u64 time)
{
	__u64 ns;

	return c->clock && !c->ticks && !htrace_clock_ns(c->clock, time, &ns, NULL) ? ns : time;
}
