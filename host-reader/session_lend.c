/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Batches of trusted producers that stay in their rings until they are written, and what is written so far. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "session_internal.h"

#define LEND_BYTES 16384 /* of a batch: what is less is better copied, and put together with others */

bool session_lends(const struct session *s)
{
	return s->c.lend && !s->c.snapshot && s->c.sinks && sinks_lends(s->c.sinks);
}

static bool give_back(const struct capture_loan *l, const struct capture_lent *what)
{
	struct session *s = l->session;
	bool intact = !htrace_consumer_release(l->consumer, &what->batch);

	stats_lent(s->c.stats, s->ring[l->ring].count, what, intact);
	return intact;
}

static void forfeit(const struct capture_loan *l, const struct capture_lent *what)
{
	struct session *s = l->session;

	s->c.stats->unwritten += what->batch.events;
}

/* The records as they are now, in memory that nobody changes: framed as they were, or cut off. */
static bool copy_lent(struct session *s, struct htrace_batch *b)
{
	struct htrace_record r;
	struct htrace_iter it;
	__u32 good = 0, nr = 0;

	if (b->len > s->copy_room) {
		unsigned char *more = realloc(s->copy, b->len);

		if (!more)
			return false;
		s->copy = more;
		s->copy_room = b->len;
	}
	memcpy(s->copy, b->data, b->len);
	b->data = s->copy;
	for (htrace_iter_init(&it, b); htrace_iter_next(&it, &r) && r.id - 1 < HTRACE_MAX_EVENTS; nr++)
		good = it.off;
	b->corrupt += b->events - (nr < b->events ? nr : b->events);
	b->events = nr;
	b->len = good;
	return true;
}

int session_lent(struct session *s, unsigned int ring, struct htrace_consumer *c,
		 const struct htrace_batch *b, __u64 now, bool unverified)
{
	const struct capture_loan loan = {
		.give_back = give_back, .forfeit = forfeit, .session = s, .consumer = c, .ring = ring,
		.time = &s->ring[ring].time,
	};
	struct capture_item item = {
		.kind = CAPTURE_BATCH, .arrival = now, .asked = s->asked, .ring = ring, .batch = b,
		.schema = s->about.reading,
	};
	struct htrace_batch copy = *b;

	if (b->len >= LEND_BYTES && !unverified &&
	    sinks_lend(s->c.sinks, &s->about, &item, &loan)) {
		stats_loss(s->ring[ring].count, b);
		return 0;
	}
	if (b->len && !copy_lent(s, &copy)) {
		htrace_consumer_release(c, b);
		return -ENOMEM;
	}
	if (htrace_consumer_release(c, b) == -ESTALE) {
		copy.overwritten += b->events;
		copy.corrupt = b->corrupt;
		copy.len = copy.events = 0;
	}
	return session_batch(s, ring, &copy, now, unverified, 0);
}

bool session_take_back(struct session *s, enum take_back how)
{
	return !s->captured || sinks_take_back(s->c.sinks, how);
}

bool session_captures(const struct session *s)
{
	return s->captured;
}

__u64 session_unwritten(const struct session *s, unsigned int ring)
{
	return s->captured ? sinks_unwritten(s->c.sinks, &s->about, ring) : ~0ULL;
}
