/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "recorder.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "hold.h"
#include "session_internal.h"

struct recorder {
	struct session *session; /* shows snapshots */
	struct session *watch;   /* or NULL */
	struct sinks watch_sinks;
	struct stats watch_stats;
	const char *path;
	struct say_quota *quota;
	struct hold *hold;
	bool going_out;
	unsigned int nr;       /* of the snapshot that goes out, or went */
	char why[256];         /* it was asked for; with what is in it */
	char again[160];       /* another one was, while it goes out: why, or "" */
	__u64 passed, lost;    /* events since it, which are not held any more */
};

/* ---------------------------------------------------------------------------------- opening, closing */

/* An event that the watch shows is one that asks. */
static void watch_event(struct sink *s, const struct sink_event *e)
{
	struct recorder *r = s->state;
	char why[160], name[HTRACE_NAME_MAX];

	if (e->event)
		snprintf(name, sizeof(name), "%s", e->event->name);
	else
		snprintf(name, sizeof(name), "event#%u", e->record->id);
	snprintf(why, sizeof(why), "%s on %s %u at %llu.%09llu", name,
		 e->from->per_cpu ? "CPU" : "ring", e->from->ring,
		 (unsigned long long)e->time / 1000000000, (unsigned long long)e->time % 1000000000);
	recorder_ask(r, why, clock_now());
}

static const struct sink_ops watch_ops = { .name = "watch", .event = watch_event };

/* It says nothing: all there is to say is said by the session that shows. */
static int open_watch(struct recorder *r, const struct session_config *c, char *err, size_t errlen)
{
	struct session_config w = *c;

	if (stats_init(&r->watch_stats))
		return -ENOMEM;
	r->watch_sinks.nr = 1;
	r->watch_sinks.sink[0] = (struct sink){ .ops = &watch_ops, .state = r };
	w.sinks = &r->watch_sinks;
	w.stats = &r->watch_stats;
	w.selection = c->snapshot->events;
	w.filter = c->snapshot->filter;
	w.filter_option = "--snapshot";
	w.quota = NULL;
	w.snapshot = NULL;
	w.order = NULL;
	w.hosts = NULL;
	return session_open(&r->watch, &w, err, errlen);
}

int recorder_new(struct recorder **out, struct session *s, const struct session_config *c, char *err,
		 size_t errlen)
{
	struct recorder *r = calloc(1, sizeof(*r));
	int ret = -ENOMEM;

	if (!r)
		return ret;
	r->session = s;
	r->path = c->path;
	r->quota = c->quota;
	r->hold = hold_new(session_facts_rings(c->facts), c->snapshot->bytes);
	if (r->hold)
		ret = c->snapshot->events ? open_watch(r, c, err, errlen) : 0;
	if (ret) {
		recorder_free(r);
		return ret;
	}
	*out = r;
	return 0;
}

void recorder_free(struct recorder *r)
{
	if (!r)
		return;
	session_close(r->watch);
	stats_free(&r->watch_stats);
	hold_free(r->hold);
	free(r);
}

struct session *recorder_watch(struct recorder *r)
{
	return r->watch;
}

/* ------------------------------------------------------------------------------------ what comes */

bool recorder_has_room(const struct recorder *r, unsigned int ring)
{
	return hold_has_room(r->hold, ring) && (!r->watch || session_has_room(r->watch, ring));
}

static int let_in(struct recorder *r, const struct held *i, bool quiet)
{
	if (i->is_note && !quiet)
		session_show_note(r->session, (const char *)i->data, i->captured, i->arrival);
	if (i->is_note)
		return 0;
	return session_let_in(r->session, i->ring, &i->batch, i->arrival, i->unverified, i->raised,
			      quiet);
}

/* What is held in excess passes unseen. */
static int pass(struct recorder *r)
{
	struct held *i;
	int ret = 0;

	while (!ret && (i = hold_excess(r->hold))) {
		r->passed += i->batch.events;
		r->lost += hold_lost(&i->batch);
		ret = let_in(r, i, true);
		free(i);
	}
	return ret;
}

int recorder_batch(struct recorder *r, unsigned int ring, const struct htrace_batch *b, __u64 now,
		   bool unverified, __u32 raised)
{
	int ret = hold_batch(r->hold, ring, b, now, unverified, raised);

	if (!ret && r->watch)
		ret = session_batch(r->watch, ring, b, now, unverified, raised);
	return ret ? ret : pass(r);
}

void recorder_note(struct recorder *r, const char *text, bool captured, __u64 now)
{
	if (!hold_note(r->hold, text, captured, now))
		pass(r);
}

/* ------------------------------------------------------------------------------------ snapshots */

static void begin(struct recorder *r, const char *why, __u64 now)
{
	struct hold_sum sum = hold_ask(r->hold);
	char text[512], when[32];
	struct timespec t;
	struct tm tm;

	clock_gettime(CLOCK_REALTIME, &t);
	gmtime_r(&t.tv_sec, &tm);
	strftime(when, sizeof(when), "%Y-%m-%dT%H:%M:%S", &tm);
	r->going_out = true;
	r->nr++;
	snprintf(r->why, sizeof(r->why), "snapshot %u, asked for by %s: %llu events", r->nr, why,
		 (unsigned long long)sum.events);
	snprintf(text, sizeof(text),
		 "%s that came within %.3f s, %llu lost among them; before them %llu were not kept, "
		 "and %llu lost; taken at %s.%03ldZ", r->why, (double)(sum.until - sum.since) / 1e9,
		 (unsigned long long)sum.lost, (unsigned long long)r->passed,
		 (unsigned long long)r->lost, when, t.tv_nsec / 1000000);
	r->passed = r->lost = 0;
	session_show_note(r->session, text, true, now);
}

void recorder_ask(struct recorder *r, const char *why, __u64 now)
{
	if (!r->going_out)
		begin(r, why, now);
	else if (!r->again[0])
		snprintf(r->again, sizeof(r->again), "%s", why);
}

/* It is all with the outputs. */
static void end(struct recorder *r, __u64 now)
{
	char why[sizeof(r->again)];

	r->going_out = false;
	say_within(r->quota, "%s: %s, written", r->path, r->why);
	if (!r->again[0])
		return;
	memcpy(why, r->again, sizeof(why));
	r->again[0] = 0;
	begin(r, why, now);
}

/*
 * As it came it goes on into the session: in that order, and behind what was due when it came. Returns
 * whether there is more.
 */
static bool let_out(struct recorder *r, __u64 until)
{
	struct held *i;

	while ((i = hold_asked(r->hold))) {
		bool full = !i->is_note && !session_merge_has_room(r->session, i->ring);

		if (session_emit_due(r->session, i->arrival, full, until))
			return true;
		hold_take(r->hold, i);
		if (let_in(r, i, false))
			session_count_unwritten(r->session, i->batch.events);
		free(i);
		if (clock_now() >= until)
			return true;
	}
	return session_emit_due(r->session, 0, true, until);
}

bool recorder_emit(struct recorder *r, __u64 now, bool all, __u64 until)
{
	/* The events that ask come out here. */
	if (r->watch && session_emit(r->watch, now, all))
		return true;
	while (r->going_out) {
		if (let_out(r, until))
			return true;
		end(r, now);
	}
	return session_emit_due(r->session, now, all, until);
}
