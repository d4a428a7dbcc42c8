/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stats.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define IDS 65536

int stats_init(struct stats *s)
{
	memset(s, 0, sizeof(*s));
	s->by_id = calloc(IDS, sizeof(*s->by_id));
	s->cpu = calloc(HTRACE_MAX_RINGS, sizeof(*s->cpu));
	s->thread = calloc(HTRACE_MAX_RINGS, sizeof(*s->thread));
	if (s->by_id && s->cpu && s->thread)
		return 0;
	stats_free(s);
	return -ENOMEM;
}

void stats_free(struct stats *s)
{
	free(s->by_id);
	free(s->named);
	free(s->cpu);
	free(s->thread);
	memset(s, 0, sizeof(*s));
}

void stats_batch(struct stats *s, struct ring_count *r, const struct htrace_batch *b,
		 bool unverified, __u64 *time)
{
	struct htrace_record rec;
	struct htrace_iter it;
	__u32 at = 0;

	r->used = true;
	r->overwritten += b->overwritten;
	r->dropped += b->dropped;
	r->corrupt += b->corrupt;
	r->before += b->before;
	r->events += b->events;
	r->bytes += b->len;
	if (unverified)
		r->unverified += b->events;
	htrace_iter_init(&it, b);
	while (htrace_iter_next(&it, &rec)) {
		struct event_count *n = &s->by_id[rec.id & (IDS - 1)];

		n->count++;
		n->bytes += it.off - at;
		at = it.off;
		if (rec.time < *time)
			s->backwards++;
		else
			*time = rec.time;
	}
}

static struct named_count *find_name(struct stats *s, const char *name)
{
	struct named_count *more;

	for (unsigned int i = 0; i < s->nr_named; i++)
		if (!strcmp(s->named[i].name, name))
			return &s->named[i];
	if (s->nr_named >= MAX_EVENT_NAMES)
		return &s->named[0];
	if (!(s->nr_named & (s->nr_named - 1))) {
		more = realloc(s->named,
			       (s->nr_named ? 2 * s->nr_named : 1) * sizeof(*s->named));
		if (!more)
			return NULL;
		s->named = more;
	}
	more = &s->named[s->nr_named++];
	memset(more, 0, sizeof(*more));
	snprintf(more->name, sizeof(more->name), "%s", name);
	return more;
}

void stats_fold(struct stats *s, const struct htrace_schema *schema)
{
	for (__u32 id = 0; id < IDS; id++) {
		struct event_count *n = &s->by_id[id];
		const struct htrace_event *e;
		struct named_count *to;
		char name[HTRACE_NAME_MAX];

		if (!n->count)
			continue;
		e = schema ? htrace_schema_event(schema, id) : NULL;
		if (e)
			snprintf(name, sizeof(name), "%s", e->name);
		else
			snprintf(name, sizeof(name), "event#%u", id);
		to = find_name(s, name);
		if (to) {
			to->n.count += n->count;
			to->n.bytes += n->bytes;
		}
		memset(n, 0, sizeof(*n));
	}
}

struct ring_count stats_total(const struct stats *s)
{
	struct ring_count sum = { 0 };

	for (unsigned int i = 0; i < 2 * HTRACE_MAX_RINGS; i++) {
		const struct ring_count *r = i < HTRACE_MAX_RINGS ? &s->cpu[i] :
								     &s->thread[i - HTRACE_MAX_RINGS];

		sum.events += r->events;
		sum.bytes += r->bytes;
		sum.overwritten += r->overwritten;
		sum.dropped += r->dropped;
		sum.corrupt += r->corrupt;
		sum.before += r->before;
		sum.unverified += r->unverified;
	}
	return sum;
}
