/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stats.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sink.h"

#define IDS 65536

int stats_init(struct stats *s)
{
	memset(s, 0, sizeof(*s));
	s->by_id = calloc(IDS, sizeof(*s->by_id));
	s->cpu = calloc(HTRACE_MAX_RINGS, sizeof(*s->cpu));
	s->thread = calloc(HTRACE_MAX_RINGS, sizeof(*s->thread));
	s->exits = calloc(HTRACE_MAX_RINGS, sizeof(*s->exits));
	if (s->by_id && s->cpu && s->thread && s->exits)
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
	free(s->exits);
	memset(s, 0, sizeof(*s));
}

void stats_loss(struct ring_count *r, const struct htrace_batch *b)
{
	r->used = true;
	r->overwritten += b->overwritten;
	r->dropped += b->dropped;
	r->corrupt += b->corrupt;
	r->unfinished += b->unfinished;
	r->uncommitted += b->uncommitted;
	r->before += b->before;
}

void stats_lent(struct stats *s, struct ring_count *r, const struct capture_lent *lent, bool intact)
{
	if (!intact) {
		r->overwritten += lent->batch.events;
		return;
	}
	r->events += lent->batch.events;
	r->bytes += lent->batch.len;
	if (!lent->nr) {
		s->by_id[0].count += lent->batch.events;
		s->by_id[0].bytes += lent->batch.len;
	}
	for (__u32 i = 0; i < lent->nr; i++) {
		const struct capture_tally *t = &lent->tally[i];
		struct event_count *n = &s->by_id[t->key & (IDS - 1)];

		n->count += t->nr;
		n->bytes += (__u64)t->nr * (t->key >> 16 & 0xfff8);
	}
}

void stats_batch(struct stats *s, struct ring_count *r, const struct htrace_batch *b,
		 bool unverified, __u64 *time)
{
	struct htrace_record rec;
	struct htrace_iter it;
	__u32 at = 0;

	stats_loss(r, b);
	r->events += b->events;
	r->bytes += b->len;
	if (b->end > b->pos && b->end - b->pos < b->len)
		r->spared += b->len - (b->end - b->pos);
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

static int by_name(const void *a, const void *b)
{
	return strcmp(((const struct named_count *)a)->name, ((const struct named_count *)b)->name);
}

static void name_id(char *name, const struct htrace_schema *schema, __u32 id)
{
	const struct htrace_event *e = schema ? htrace_schema_event(schema, id) : NULL;

	if (!id) /* no record's */
		snprintf(name, HTRACE_NAME_MAX, "(not looked at)");
	else if (e)
		snprintf(name, HTRACE_NAME_MAX, "%s", e->name);
	else
		snprintf(name, HTRACE_NAME_MAX, "event#%u", id);
}

/* Add up what has the same name. Sorted, for a guest may come with many names. */
static void coalesce(struct stats *s)
{
	struct named_count *to = s->named;

	if (!s->nr_named)
		return;
	qsort(s->named, s->nr_named, sizeof(*s->named), by_name);
	for (unsigned int i = 1; i < s->nr_named; i++) {
		const struct named_count *from = &s->named[i];

		if (!strcmp(to->name, from->name) || to - s->named == MAX_EVENT_NAMES - 1) {
			to->n.count += from->n.count;
			to->n.bytes += from->n.bytes;
		} else {
			*++to = *from;
		}
	}
	s->nr_named = (unsigned int)(to - s->named) + 1;
}

/* False: memory is out, and all is as it was. */
static bool name_ids(struct stats *s, const struct htrace_schema *schema)
{
	struct named_count *more;
	unsigned int nr = 0;

	for (__u32 id = 0; id < IDS; id++)
		nr += s->by_id[id].count != 0;
	more = realloc(s->named, (s->nr_named + nr + 1) * sizeof(*s->named));
	if (!more)
		return false;
	s->named = more;
	for (__u32 id = 0; id < IDS; id++) {
		if (!s->by_id[id].count)
			continue;
		more = &s->named[s->nr_named++];
		name_id(more->name, schema, id);
		more->n = s->by_id[id];
	}
	coalesce(s);
	return true;
}

void stats_fold(struct stats *s, const struct htrace_schema *schema)
{
	if (name_ids(s, schema))
		memset(s->by_id, 0, IDS * sizeof(*s->by_id));
}

static int by_count(const void *a, const void *b)
{
	const struct named_count *x = a, *y = b;

	if (x->n.count != y->n.count)
		return x->n.count < y->n.count ? 1 : -1;
	return strcmp(x->name, y->name);
}

struct named_count *stats_by_count(const struct stats *s, const struct htrace_schema *schema, unsigned int *nr)
{
	struct stats all = { .by_id = s->by_id, .nr_named = s->nr_named };

	*nr = 0;
	all.named = malloc((s->nr_named + 1) * sizeof(*all.named));
	if (!all.named)
		return NULL;
	if (s->nr_named)
		memcpy(all.named, s->named, s->nr_named * sizeof(*all.named));
	name_ids(&all, schema);
	qsort(all.named, all.nr_named, sizeof(*all.named), by_count);
	*nr = all.nr_named;
	return all.named;
}

void stats_names(const struct stats *s, const struct htrace_schema *schema,
		 void (*each)(void *ctx, const char *name, const struct event_count *n), void *ctx)
{
	char name[HTRACE_NAME_MAX];

	for (unsigned int i = 0; i < s->nr_named; i++)
		each(ctx, s->named[i].name, &s->named[i].n);
	for (__u32 id = 0; id < IDS; id++) {
		if (!s->by_id[id].count)
			continue;
		name_id(name, schema, id);
		each(ctx, name, &s->by_id[id]);
	}
}

static void stats_host_clock(struct host_clock_stats *s, const struct host_clock *c)
{
	struct htrace_clock_line line = { .sz = sizeof(line) };

	*s = (struct host_clock_stats){
		.same = c->same, .how = c->latest.how, .segments = c->nr, .knots = c->knots,
		.refused = c->refused, .steps = c->steps, .step = c->step, .doubts = c->doubts, .bound = HOST_CLOCK_UNKNOWN,
	};
	if (host_clock_line(c, &line))
		return;
	s->hz = line.hz;
	s->time = line.time;
	s->mono = line.mono;
}

void stats_clock_so_far(struct stats *s, const struct region_clock *c)
{
	struct htrace_clock_line line = { .sz = sizeof(line) };

	stats_host_clock(&s->host, &c->host);

	s->ticks = c->clock != NULL;
	s->on_host = c->on_host;
	if (c->on_host && c->bound > s->host_bound)
		s->host_bound = c->bound;
	s->host_times += c->times;
	for (unsigned int i = 0; i < REGION_CLOCK_LIMITS; i++)
		s->host_within[i] += c->within[i];
	if (!c->clock)
		return;
	htrace_clock_get_line(c->clock, &line);
	s->clock_hz = line.hz;
	s->clock_used += line.used;
	s->clock_refused += line.refused;
	if (line.bound > s->clock_bound)
		s->clock_bound = line.bound;
}

/* To ask for a time is to show it: what is found out later may say nothing else of it. */
void stats_clock(struct stats *s, struct region_clock *c)
{
	stats_clock_so_far(s, c);
	s->host.bound = 0;
	if (s->host.hz)
		host_clock_time(&c->host, s->host.time, NULL, &s->host.bound);
}

struct ring_count stats_total(const struct stats *s)
{
	struct ring_count sum = { 0 };

	for (unsigned int i = 0; i < 2 * HTRACE_MAX_RINGS; i++) {
		const struct ring_count *r = i < HTRACE_MAX_RINGS ?
						     &s->cpu[i] :
						     &s->thread[i - HTRACE_MAX_RINGS];

		sum.events += r->events;
		sum.bytes += r->bytes;
		sum.spared += r->spared;
		sum.overwritten += r->overwritten;
		sum.dropped += r->dropped;
		sum.corrupt += r->corrupt;
		sum.unfinished += r->unfinished;
		sum.uncommitted += r->uncommitted;
		sum.before += r->before;
		sum.unverified += r->unverified;
	}
	return sum;
}
