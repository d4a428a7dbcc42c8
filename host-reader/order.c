/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "order.h"

#include <stdint.h>
#include <stdlib.h>

#include "clock.h"
#include "merge.h"

#define LOOK 8 /* records between two looks at the clock */

struct order {
	struct order_entry *first;
	unsigned int nr;
	__u64 last; /* key that went out */
	unsigned int awaited; /* captures that are between two sessions */
};

struct order *order_new(void)
{
	return calloc(1, sizeof(struct order));
}

void order_free(struct order *o)
{
	free(o);
}

void order_join(struct order *o, struct order_entry *e)
{
	e->order = o;
	if (!o)
		return;
	e->next = o->first;
	o->first = e;
	o->nr++;
}

void order_leave(struct order_entry *e)
{
	if (!e->order)
		return;
	for (struct order_entry **at = &e->order->first; *at; at = &(*at)->next)
		if (*at == e) {
			*at = e->next;
			e->order->nr--;
			break;
		}
	e->order = NULL;
}

unsigned int order_sharers(const struct order_entry *e)
{
	return e->order ? e->order->nr : 1;
}

void order_await(struct order *o, bool await)
{
	if (o)
		o->awaited += await ? 1 : -1u;
}

__u64 order_due(const struct order_entry *e)
{
	__u64 due = e->arrival + 2 * MERGE_DELAY_NS;

	if (e->patient)
		return UINT64_MAX;
	for (const struct order_entry *o = e->order ? e->order->first : NULL; o; o = o->next)
		if (!o->have && o->until > due)
			due = o->until;
	return due;
}

/* Has @best to wait for what @e may still come with? */
static bool blocks(const struct order_entry *e, const struct order_entry *best)
{
	if (e == best || e->have)
		return false;
	if (best->patient)
		return e->patient;
	if (e->patient)
		return false;
	return best->now < e->until ||
	       (best->now < best->arrival + 2 * MERGE_DELAY_NS && e->ops->holds(e));
}

static struct order_entry *smallest(struct order_entry *first)
{
	struct order_entry *best = NULL;

	for (struct order_entry *e = first; e; e = e->next)
		if (e->have && (!best || e->key < best->key))
			best = e;
	if (best && best->patient && best->order && best->order->awaited)
		return NULL;
	for (struct order_entry *e = first; e && best; e = e->next)
		if (blocks(e, best))
			return NULL;
	return best;
}

static void fill(struct order_entry *e)
{
	if (!e->have)
		e->have = e->ops->fill(e);
}

static void note_order(struct order_entry *e)
{
	struct order *o = e->order;

	if (!o)
		return;
	e->late = e->key < o->last;
	if (!e->late)
		o->last = e->key;
}

bool order_emit(struct order_entry *asked, __u64 until)
{
	struct order_entry *first = asked->order ? asked->order->first : asked, *e;

	for (e = first; e; e = e->next)
		fill(e);
	for (unsigned int nr = 1; (e = smallest(first)) != NULL; nr++) {
		note_order(e);
		e->ops->emit(e);
		fill(e);
		if (nr % LOOK == 0 && clock_now() >= until)
			return true;
	}
	return false;
}
