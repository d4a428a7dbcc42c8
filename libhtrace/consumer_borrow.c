/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Records where they are: no copy. Several may be out; under HTRACE_DISCARD `consumed` stays below
 * the oldest, whatever the order in which they come back.
 */
#include <errno.h>
#include <stdlib.h>

#include "consumer_core.h"

static void lend(struct htrace_loans *out, const struct htrace_batch *b)
{
	out->loan[(out->first + out->nr++) % HTRACE_BORROW_MAX] = (struct htrace_loan){
		.pos = b->pos,
		.len = b->len,
		.events = b->events,
	};
}

static int take_out(struct htrace_consumer *c, struct htrace_batch *b, enum htrace_take how)
{
	int ret;

	if (c->rest.len)
		return -EBUSY;
	if (c->unpacked)
		return -EOPNOTSUPP;
	if (!c->loans)
		c->loans = calloc(1, sizeof(*c->loans));
	if (!c->loans)
		return -ENOMEM;
	if (c->loans->nr == HTRACE_BORROW_MAX)
		return -ENOBUFS;
	htrace_consumer_hold(c);
	ret = htrace_consumer_next(c, b, how);
	if (ret == 1 && b->len)
		lend(c->loans, b);
	htrace_consumer_let_go(c);
	return ret;
}

int htrace_consumer_borrow(struct htrace_consumer *c, struct htrace_batch *b)
{
	return take_out(c, b, TAKE_IN_PLACE);
}

int htrace_consumer_borrow_unseen(struct htrace_consumer *c, struct htrace_batch *b)
{
	return take_out(c, b, TAKE_UNSEEN);
}

static struct htrace_loan *find(struct htrace_loans *out, __u64 pos)
{
	for (__u32 i = 0; i < out->nr; i++) {
		struct htrace_loan *l = &out->loan[(out->first + i) % HTRACE_BORROW_MAX];

		if (l->pos == pos)
			return l->released ? NULL : l;
	}
	return NULL;
}

int htrace_consumer_release(struct htrace_consumer *c, const struct htrace_batch *b)
{
	struct htrace_loans *out = c->loans;
	struct htrace_loan *l;
	bool intact;

	if (!b->len)
		return 0;
	l = out ? find(out, b->pos) : NULL;
	if (!l)
		return -EINVAL;
	intact = htrace_consumer_intact(c, l->pos);
	if (!intact) { /* told by our result, at its place: no later batch tells it again */
		c->stats.events -= l->events;
		c->stats.bytes -= l->len;
		c->stats.overwritten += l->events;
	}
	l->released = true;
	while (out->nr && out->loan[out->first].released) {
		out->first = (out->first + 1) % HTRACE_BORROW_MAX;
		out->nr--;
	}
	htrace_consumer_let_go(c);
	/* Also behind its owner's end: it begins no other life before all of this one is back. */
	if (intact)
		htrace_consumer_publish(c);
	return intact ? 0 : -ESTALE;
}
