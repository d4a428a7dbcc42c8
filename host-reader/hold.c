/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hold.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct row {
	struct held *first, *last;
	__u64 bytes;
};

struct hold {
	struct held *oldest, *newest;
	__u64 most;          /* bytes of a ring */
	unsigned int latest; /* row that was put to */
	unsigned int nr_rings;
	struct row row[]; /* of the rings, then that of the notes */
};

struct hold *hold_new(unsigned int nr_rings, __u64 bytes)
{
	struct hold *h = calloc(1, sizeof(*h) + (nr_rings + 1) * sizeof(*h->row));

	if (!h)
		return NULL;
	h->most = bytes;
	h->nr_rings = nr_rings;
	return h;
}

void hold_free(struct hold *h)
{
	struct held *i, *newer;

	if (!h)
		return;
	for (i = h->oldest; i; i = newer) {
		newer = i->newer;
		free(i);
	}
	free(h);
}

/* What it takes of memory: many small batches are not to take more than few large ones. */
static __u64 size_of(const struct held *i)
{
	return sizeof(*i) + i->batch.len;
}

__u64 hold_lost(const struct htrace_batch *b)
{
	return b->overwritten + b->dropped + b->corrupt + b->unfinished;
}

bool hold_has_room(const struct hold *h, unsigned int ring)
{
	const struct row *r = &h->row[ring];

	return r->bytes < 2 * h->most || !r->first->asked;
}

static int put(struct hold *h, unsigned int row, const struct held *like, const void *data)
{
	struct held *i = malloc(sizeof(*i) + like->batch.len);
	struct row *r = &h->row[row];

	if (!i)
		return -ENOMEM;
	*i = *like;
	i->batch.data = i->data;
	if (i->batch.len)
		memcpy(i->data, data, i->batch.len);
	i->older = h->newest;
	*(h->newest ? &h->newest->newer : &h->oldest) = i;
	h->newest = i;
	*(r->last ? &r->last->next : &r->first) = i;
	r->last = i;
	r->bytes += size_of(i);
	h->latest = row;
	return 0;
}

int hold_batch(struct hold *h, unsigned int ring, const struct htrace_batch *b, __u64 now,
	       bool unverified, __u32 raised)
{
	struct held like = {
		.arrival = now, .ring = ring, .unverified = unverified, .raised = raised, .batch = *b,
	};

	return put(h, ring, &like, b->data);
}

int hold_note(struct hold *h, const char *text, bool captured, __u64 now)
{
	struct held like = { .arrival = now, .is_note = true, .captured = captured };

	like.batch.len = (__u32)strlen(text) + 1;
	return put(h, h->nr_rings, &like, text);
}

static void take(struct hold *h, struct row *r, struct held *i)
{
	*(i->older ? &i->older->newer : &h->oldest) = i->newer;
	*(i->newer ? &i->newer->older : &h->newest) = i->older;
	r->first = i->next;
	if (!r->first)
		r->last = NULL;
	r->bytes -= size_of(i);
}

struct held *hold_excess(struct hold *h)
{
	struct row *r = &h->row[h->latest];
	struct held *i = r->first;

	if (!i || i->asked || r->bytes - size_of(i) < h->most)
		return NULL;
	take(h, r, i);
	return i;
}

struct hold_sum hold_ask(struct hold *h)
{
	struct hold_sum sum = { 0 };

	if (h->oldest) {
		sum.since = h->oldest->arrival;
		sum.until = h->newest->arrival;
	}

	for (struct held *i = h->oldest; i; i = i->newer) {
		i->asked = true;
		sum.events += i->batch.events;
		sum.lost += hold_lost(&i->batch);
	}
	return sum;
}

/* What was asked for is older than all else. */
struct held *hold_asked(const struct hold *h)
{
	return h->oldest && h->oldest->asked ? h->oldest : NULL;
}

void hold_take(struct hold *h, struct held *i)
{
	take(h, &h->row[i->is_note ? h->nr_rings : i->ring], i);
}
