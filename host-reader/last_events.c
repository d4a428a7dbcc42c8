/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "last_events.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/schema.h>

#define ROUNDED 64u /* bytes: so that most payloads fit where another one was */

struct last_events *last_events_new(unsigned int max, const struct origin *from)
{
	struct last_events *l = calloc(1, sizeof(*l) + max * sizeof(l->event[0]));

	if (l) {
		l->max = max;
		l->from = *from;
	}
	return l;
}

void last_events_free(struct last_events *l)
{
	for (unsigned int i = 0; l && i < l->max; i++)
		free(l->event[i].payload);
	free(l);
}

static void let_go(struct last_events *l, struct last_event *e)
{
	l->bytes -= e->room;
	free(e->payload);
	e->payload = NULL;
	e->room = 0;
}

static void forget_first(struct last_events *l)
{
	let_go(l, &l->event[l->first]);
	l->first = (l->first + 1) % l->max;
	l->nr--;
}

/* A slot that has room for @len bytes, within what all may have; the oldest ones go for that. NULL: memory is out. */
static struct last_event *slot_for(struct last_events *l, size_t len)
{
	size_t room = (len + ROUNDED) / ROUNDED * ROUNDED;
	struct last_event *e;

	if (l->nr == l->max) {
		e = &l->event[l->first];
		l->first = (l->first + 1) % l->max;
		l->nr--;
	} else {
		e = &l->event[(l->first + l->nr) % l->max];
	}
	if (e->room >= len && e->room <= room + LAST_EVENT_BYTES)
		return e;
	let_go(l, e);
	while (l->nr && l->bytes + room > (size_t)l->max * LAST_EVENT_BYTES)
		forget_first(l);
	e->payload = malloc(room);
	if (!e->payload)
		return NULL;
	e->room = room;
	l->bytes += room;
	return e;
}

static void keep_vcpu(struct last_event *e, const struct vcpu_view *v)
{
	e->has_vcpu = v != NULL;
	if (!v)
		return;
	e->vcpu = *v;
	if (!v->why)
		return;
	snprintf(e->why, sizeof(e->why), "%s", v->why);
	e->vcpu.why = e->why;
}

void last_events_add(struct last_events *l, const struct sink_event *e)
{
	struct last_event *k = slot_for(l, e->record->len);

	l->count++;
	l->latest = e->time;
	if (!k)
		return;
	k->time = e->time;
	k->record = *e->record;
	k->record.payload = k->payload;
	memcpy(k->payload, e->record->payload, e->record->len);
	k->lost = l->lost_since;
	memset(&l->lost_since, 0, sizeof(l->lost_since));
	k->unverified = e->unverified;
	k->task_known = e->task_known;
	k->task = e->task;
	keep_vcpu(k, e->vcpu);
	l->nr++;
}

void last_events_lose(struct last_events *l, const struct sink_loss *lost)
{
	struct sink_loss *since = &l->lost_since;

	l->lost += sink_lost(lost);
	since->from = &l->from;
	since->time = lost->time;
	since->overwritten += lost->overwritten;
	since->dropped += lost->dropped;
	since->corrupt += lost->corrupt;
	since->unfinished += lost->unfinished;
	since->uncommitted += lost->uncommitted;
}

const struct last_event *last_events_at(const struct last_events *l, unsigned int i)
{
	return &l->event[(l->first + i) % l->max];
}

struct sink_event last_events_show(const struct last_events *l, const struct last_event *e)
{
	const struct htrace_schema *schema = l->from.session->reading;

	return (struct sink_event){
		.from = &l->from, .time = e->time, .unverified = e->unverified, .task_known = e->task_known,
		.task = e->task, .event = schema ? htrace_schema_event(schema, e->record.id) : NULL,
		.record = &e->record, .vcpu = e->has_vcpu ? &e->vcpu : NULL,
	};
}
