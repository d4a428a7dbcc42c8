/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "region_clock.h"

#include <string.h>

const __u64 region_clock_limits[REGION_CLOCK_LIMITS] = { 100, 200, 500, 1000, 10000 };

int region_clock_open(struct region_clock *c, __u32 clock_id, bool wants_host)
{
	memset(c, 0, sizeof(*c));
	c->wants_host = wants_host;
	return clock_id == HTRACE_CLOCK_MONOTONIC ? 0 : htrace_clock_new(&c->clock, clock_id);
}

void region_clock_close(struct region_clock *c)
{
	host_clock_close(&c->host);
	htrace_clock_free(c->clock);
	c->clock = NULL;
}

bool region_clock_begin(struct region_clock *c)
{
	if (c->shown)
		return false;
	c->shown = true;
	c->on_host = c->wants_host && host_clock_usable(&c->host);
	c->ticks = c->clock && !htrace_clock_usable(c->clock) && !(c->on_host && !c->host.same);
	c->on_host &= !c->ticks;
	return true;
}

static __u64 convert(struct region_clock *c, __u64 time, __u64 *bound)
{
	__u64 ns = time;
	int ret = 0;

	*bound = 0;
	if (c->on_host && !c->host.same)
		ret = host_clock_time(&c->host, time, &ns, bound);
	else if (c->clock && !c->ticks)
		ret = htrace_clock_ns(c->clock, time, &ns, bound);
	return ret ? time : ns;
}

static __u64 bound_of(const struct region_clock *c, bool doubted)
{
	if (doubted)
		return HOST_CLOCK_UNKNOWN;
	return c->known + (c->on_host ? c->host.least : 0);
}

int region_clock_learn(struct region_clock *c, const struct host_word *w)
{
	int ret = host_clock_add(&c->host, w);

	if (!ret && c->on_host && c->told)
		c->bound = bound_of(c, host_clock_doubts(&c->host, c->told));
	return ret;
}

static void count(struct region_clock *c, __u64 bound)
{
	c->times++;
	for (unsigned int i = 0; i < REGION_CLOCK_LIMITS; i++)
		c->within[i] += bound <= region_clock_limits[i];
}

__u64 region_clock_time(struct region_clock *c, __u64 time)
{
	__u64 bound, ns = convert(c, time, &bound);
	bool doubted = c->on_host && host_clock_doubts(&c->host, time);

	if (c->on_host && !c->host.same)
		count(c, doubted ? HOST_CLOCK_UNKNOWN : bound);
	if (bound > c->known)
		c->known = bound;
	if (time > c->told)
		c->told = time;
	if (c->bound != HOST_CLOCK_UNKNOWN || !c->host.doubted)
		c->bound = bound_of(c, doubted);
	return ns;
}

__u64 region_clock_past(struct region_clock *c, __u64 time)
{
	__u64 bound;

	return time ? convert(c, time, &bound) : 0;
}
