/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* Reading by callback. A batch that was not handed over to its end is kept for the next call. */
#include <errno.h>
#include <limits.h>
#include <string.h>

#include "consumer_core.h"

#define DEFAULT_BATCHES 64

static bool tells_loss(const struct htrace_batch *b)
{
	return b->overwritten || b->dropped || b->corrupt || b->before || b->unfinished ||
	       b->uncommitted;
}

/* Keep what lies from @off on, @events of them. What was lost before it is told. */
static void keep(struct htrace_consumer *c, const struct htrace_batch *b, __u32 off, __u32 events)
{
	c->rest = *b;
	c->rest.pos = htrace_consumer_behind(c, b, off, b->events - events);
	c->rest.data += off;
	c->rest.len -= off;
	c->rest.events = events;
	c->rest.overwritten = c->rest.dropped = c->rest.corrupt = c->rest.before = 0;
	c->rest.unfinished = c->rest.uncommitted = 0;
}

/* Records handed over; *@stop: a function said so. */
static __u32 hand_over(struct htrace_consumer *c, const struct htrace_each_opts *o,
		       const struct htrace_batch *b, bool *stop)
{
	struct htrace_record r;
	struct htrace_iter it;
	__u32 nr = 0;

	htrace_iter_init(&it, b);
	*stop = o->loss && tells_loss(b) && o->loss(o->ctx, b);
	while (!*stop && htrace_iter_next(&it, &r)) {
		nr++;
		*stop = o->record(o->ctx, &r, b);
	}
	if (it.off < b->len)
		keep(c, b, it.off, b->events - nr);
	return nr;
}

long htrace_consumer_each(struct htrace_consumer *c, const struct htrace_each_opts *opts)
{
	struct htrace_each_opts o = { 0 };
	struct htrace_batch b;
	bool stop = false;
	long nr = 0;
	int ret;

	if (!opts || opts->sz < sizeof(opts->sz) || opts->sz > sizeof(o))
		return -EINVAL;
	memcpy(&o, opts, opts->sz);
	if (!o.record)
		return -EINVAL;
	for (__u32 i = o.max_batches ? o.max_batches : DEFAULT_BATCHES; i && !stop; i--) {
		htrace_consumer_hold(c);
		b = c->rest;
		c->rest.len = 0;
		ret = b.len ? 1 : htrace_consumer_next(c, &b, TAKE_COPY);
		if (ret == 1)
			nr += hand_over(c, &o, &b, &stop);
		htrace_consumer_let_go(c);
		if (ret != 1)
			return ret < 0 && !nr ? ret : nr;
	}
	return nr;
}
