/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "events.h"
#include "merge.h"
#include "message.h"
#include "names.h"

#define RING_BUDGET (256u << 10) /* bytes of a ring per pass, in batches */
#define BATCH_COST 4096u         /* what a batch counts for at least */
#define SCHEMA_NS 100000000ULL   /* between two looks at a changed schema */
#define SCHEMA_TRIES 3
#define NAMES_NS 200000000ULL
#define COST_SHARE 20    /* what took so long is not done again for so many times as long */
#define READ_NS 20000000 /* of a round; other sources wait meanwhile */
#define EMIT_NS 30000000
#define EMIT_LOOK 8      /* records between two looks at the clock */

struct ring {
	struct htrace_consumer *consumer;
	const struct htrace_ring *header;
	__u64 size;
	const __u64 *handover; /* of the mirror that is read, until the agent hands over; or NULL */
	__u32 set, index;
	struct origin origin;
	struct ring_count *count;
	__u64 time;    /* of the last record read */
	__u64 backlog; /* as of the last look */
	bool broken;
	/* As far as records were emitted: who runs there. */
	bool task_known;
	__u32 task;
};

struct session {
	struct session_config c;
	struct merge *merge; /* NULL: nobody wants records */
	struct names *names;
	struct sink_session about;
	struct htrace_schema *schema;
	struct events *events; /* what the reader knows of the schema's events */
	__u64 schema_generation, schema_next;
	size_t schema_len; /* of what was parsed; entries are added only */
	unsigned int schema_refused; /* times in a row */
	bool said_refused;
	__u64 names_next, names_served, agent_starts;
	bool names_read;
	unsigned int nr_broken;
	unsigned int first; /* ring of the next pass */
	unsigned int nr_rings;
	struct ring ring[];
};

/* ----------------------------------------------------------------------------- schema and names */

static void load_schema(struct session *s)
{
	struct htrace_schema *fresh;
	__u64 generation = s->schema_generation;
	char why[160] = "";
	size_t len;
	void *buf;
	int ret;

	if (htrace_view_schema(s->c.view, &generation, &buf, &len) != 1)
		return;
	if (s->schema && len <= s->schema_len) {
		s->schema_generation = generation;
		free(buf);
		return;
	}
	ret = htrace_schema_parse(&fresh, buf, len, why, sizeof(why));
	free(buf);
	/* It may have been read while it was written: only what stays wrong is worth a word. */
	if (ret && ++s->schema_refused < SCHEMA_TRIES)
		return;
	s->schema_generation = generation;
	s->schema_refused = 0;
	if (ret) {
		if (!s->said_refused)
			say_within(s->c.quota, "%s: the schema was refused: %s; events that it "
				   "would add are shown by number", s->c.path,
				   why[0] ? why : strerror(-ret));
		s->said_refused = true; /* once: a guest does not get to fill logs */
		return;
	}
	events_free(s->events);
	htrace_schema_free(s->schema);
	s->schema = fresh;
	s->schema_len = len;
	s->about.schema++;
	s->events = events_new(fresh, s->c.selection);
}

/* When to do again what began at @start: a guest that makes it costly makes it rare. */
static __u64 again_at(__u64 start, __u64 pause)
{
	__u64 end = clock_now(), least = COST_SHARE * (end - start);

	return end + (least > pause ? least : pause);
}

static void refresh_schema(struct session *s, __u64 now)
{
	__u64 start;

	if (now < s->schema_next)
		return;
	start = clock_now();
	load_schema(s);
	s->schema_next = again_at(start, SCHEMA_NS);
}

/* What sinks say of the session. An agent that begins may not have said all of it at once. */
static void describe(struct session *s, struct htrace_guest *guest)
{
	htrace_view_guest(s->c.view, guest, false);
	memcpy(s->about.hostname, guest->hostname, sizeof(s->about.hostname));
	memcpy(s->about.release, guest->release, sizeof(s->about.release));
	if (htrace_view_clock(s->c.view, &s->about.clock))
		memset(&s->about.clock, 0, sizeof(s->about.clock));
}

static void load_names(struct session *s)
{
	struct htrace_name *table;
	__u64 generation;
	int nr = htrace_view_names(s->c.view, &generation, &table);

	if (nr < 0)
		return; /* being written: next time */
	for (int i = 0; i < nr; i++)
		names_set(s->names, table[i].tid, table[i].tgid, table[i].time, table[i].comm,
			  sizeof(table[i].comm));
	free(table);
	s->names_read = true;
}

static void refresh_names(struct session *s, __u64 now)
{
	struct htrace_guest guest;
	__u64 start;

	if (now < s->names_next)
		return;
	start = clock_now();
	names_expire(s->names, now);
	describe(s, &guest);
	if (guest.names_served != s->names_served || guest.agent_starts != s->agent_starts)
		s->names_read = false;
	s->names_served = guest.names_served;
	s->agent_starts = guest.agent_starts;
	if (!s->names_read)
		load_names(s);
	s->names_next = again_at(start, NAMES_NS);
}

void session_refresh(struct session *s, __u64 now)
{
	refresh_schema(s, now);
	if (s->merge)
		refresh_names(s, now);
}

/* ----------------------------------------------------------------------------- opening, closing */

/* The set that mirrors @set in the region; nr_ringsets: none does. */
static __u32 mirror_of(const struct session *s, __u32 set)
{
	const struct htrace_super *super = htrace_view_super(s->c.view);
	__u32 i = 0;

	while (i < super->nr_ringsets && super->ringset[i].relays != set + 1)
		i++;
	return i;
}

/* Where the reader tells how far it has read; NULL: nobody wants to know. */
static __u64 *consumed_word(const struct session *s, const struct htrace_image *image)
{
	struct htrace_host_ring *words = htrace_view_host_ring(s->c.view, image->slot);

	return words && image->geometry.policy == HTRACE_DISCARD ? &words->consumed : NULL;
}

static __u64 load_handover(const __u64 *word)
{
	return __atomic_load_n(word, __ATOMIC_ACQUIRE);
}

/*
 * Of a ring and its mirror the one to begin with: the mirror until it is handed over, and if guest
 * RAM is not mapped, for then the agent takes that back.
 */
static int choose_image(struct session *s, struct ring *r, struct htrace_image *image)
{
	__u32 mirror = mirror_of(s, r->set);
	__u64 *there, read;
	int ret;

	if (mirror == htrace_view_super(s->c.view)->nr_ringsets)
		return htrace_view_ring(s->c.view, r->set, r->index, image);
	ret = htrace_view_ring(s->c.view, mirror, r->index, image);
	if (ret)
		return ret;
	if (!s->c.no_ram) {
		if (load_handover(&image->ring->handover))
			return htrace_view_ring(s->c.view, r->set, r->index, image);
		r->handover = &image->ring->handover;
	}
	/* An earlier reader may have gone over, and further. */
	there = consumed_word(s, image);
	if (there) {
		const struct htrace_ringset *of = &htrace_view_super(s->c.view)->ringset[r->set];

		read = __atomic_load_n(&htrace_view_host_ring(s->c.view, of->first_slot + r->index)
						->consumed, __ATOMIC_RELAXED);
		if (read > __atomic_load_n(there, __ATOMIC_RELAXED))
			__atomic_store_n(there, read, __ATOMIC_RELEASE);
	}
	return 0;
}

/* The mirror was read to its end, and the agent has handed over: go on in the ring itself. */
static bool go_direct(struct session *s, struct ring *r)
{
	struct htrace_image image;
	__u64 at;

	if (!r->handover)
		return false;
	at = load_handover(r->handover);
	if (!at || htrace_consumer_position(r->consumer) < at - 1)
		return false;
	if (htrace_view_ring(s->c.view, r->set, r->index, &image) ||
	    htrace_consumer_move(r->consumer, &image, consumed_word(s, &image)))
		return false;
	r->header = image.ring;
	r->handover = NULL;
	return true;
}

unsigned int session_relayed(const struct session *s)
{
	unsigned int nr = 0;

	for (unsigned int i = 0; i < s->nr_rings; i++)
		nr += s->ring[i].handover != NULL;
	return nr;
}

static int open_ring(struct session *s, struct ring *r, __u32 set, __u32 index)
{
	const struct htrace_ringset *rs = &htrace_view_super(s->c.view)->ringset[set];
	struct htrace_consumer_opts opts = { .sz = sizeof(opts) };
	struct htrace_image image;
	int ret;

	r->set = set;
	r->index = index;
	ret = choose_image(s, r, &image);
	if (ret)
		return ret;
	opts.consumed = consumed_word(s, &image);
	r->origin = (struct origin){
		.source = s->c.source,
		.session = &s->about,
		.names = s->names,
		.ticks = s->about.ticks,
		.per_cpu = rs->kind == HTRACE_RING_PER_CPU,
		.ring = index,
	};
	r->count = (r->origin.per_cpu ? s->c.stats->cpu : s->c.stats->thread) + index;
	r->count->used = true;
	r->header = image.ring;
	r->size = 1ULL << rs->ring_shift;
	ret = htrace_consumer_new(&r->consumer, &image, &opts);
	if (!ret)
		r->backlog = htrace_consumer_backlog(r->consumer);
	return ret;
}

static int open_rings(struct session *s, char *err, size_t errlen)
{
	const struct htrace_super *super = htrace_view_super(s->c.view);

	for (__u32 set = 0; set < super->nr_ringsets; set++) {
		if (super->ringset[set].relays)
			continue; /* in the place of another */
		for (__u32 i = 0; i < super->ringset[set].nr_rings; i++) {
			int ret = open_ring(s, &s->ring[s->nr_rings], set, i);

			if (ret) {
				snprintf(err, errlen, "ring %u of set %u: %s", i, set,
					 strerror(-ret));
				return ret;
			}
			s->nr_rings++;
		}
	}
	return 0;
}

int session_open(struct session **out, const struct session_config *config, char *err,
		 size_t errlen)
{
	const struct htrace_super *super = htrace_view_super(config->view);
	struct htrace_guest guest;
	unsigned int nr = 0;
	struct session *s;
	int ret = -ENOMEM;

	for (__u32 set = 0; set < super->nr_ringsets; set++)
		nr += super->ringset[set].nr_rings;
	if (nr > HTRACE_MAX_RINGS) {
		snprintf(err, errlen, "%u rings", nr);
		return -EPROTO;
	}
	snprintf(err, errlen, "%s", strerror(ENOMEM));
	s = calloc(1, sizeof(*s) + nr * sizeof(*s->ring));
	if (!s)
		return ret;
	s->c = *config;
	s->names = names_new();
	s->about = (struct sink_session){
		.path = s->c.path,
		.source = s->c.source,
		.ticks = super->clock_id == HTRACE_CLOCK_TSC,
		.names = s->names,
	};
	memcpy(s->about.boot_id, super->boot_id, sizeof(s->about.boot_id));
	if (s->c.sinks)
		s->merge = merge_new(nr, MERGE_DELAY_NS, MERGE_BYTES);
	if (s->names && (s->merge || !s->c.sinks))
		ret = open_rings(s, err, errlen);
	if (ret) {
		session_close(s);
		return ret;
	}
	describe(s, &guest);
	refresh_schema(s, clock_now());
	*out = s;
	return 0;
}

/* What is in a ring now. Its head is the guest's word: no more than fits. */
static __u64 unread(const struct ring *r)
{
	struct htrace_consumer_stats st = { .sz = sizeof(st) };
	__u64 head = __atomic_load_n(&r->header->head, __ATOMIC_RELAXED);

	htrace_consumer_get_stats(r->consumer, &st);
	if (r->broken || head <= st.position)
		return 0;
	return head - st.position < r->size ? head - st.position : r->size;
}

__u64 session_end(struct session *s, bool look)
{
	__u64 left = 0;

	for (unsigned int i = 0; i < s->nr_rings; i++) {
		struct ring *r = &s->ring[i];

		left += look ? unread(r) : r->backlog;
		htrace_consumer_free(r->consumer);
		r->consumer = NULL;
	}
	if (s->nr_broken > 1)
		say_within(s->c.quota, "%s: %u rings were broken in this session", s->c.path,
			   s->nr_broken);
	return left;
}

static bool is_shown(struct session *s, __u32 id)
{
	const struct event_info *info = events_find(s->events, id);
	char name[32];

	if (info)
		return info->shown;
	snprintf(name, sizeof(name), "event#%u", id);
	return selection_matches(s->c.selection, name);
}

static void count_unwritten(struct session *s)
{
	struct merge_item item;

	while (s->merge && merge_pop(s->merge, 0, true, &item))
		s->c.stats->unwritten += !item.is_loss && is_shown(s, item.record.id);
}

void session_close(struct session *s)
{
	if (!s)
		return;
	count_unwritten(s);
	if (s->c.sinks)
		sinks_session_end(s->c.sinks, &s->about);
	stats_fold(s->c.stats, s->schema);
	for (unsigned int i = 0; i < s->nr_rings; i++)
		htrace_consumer_free(s->ring[i].consumer);
	merge_free(s->merge);
	events_free(s->events);
	htrace_schema_free(s->schema);
	names_free(s->names);
	free(s);
}

/* -------------------------------------------------------------------------------------- reading */

static int take_batch(struct session *s, unsigned int ring, const struct htrace_batch *b, __u64 now,
		      bool unverified, struct session_pass *pass)
{
	struct ring *r = &s->ring[ring];

	stats_batch(s->c.stats, r->count, b, unverified, &r->time);
	pass->events += b->events;
	pass->lost |= b->overwritten || b->dropped || b->corrupt;
	/* Written under a schema that we do not have yet? */
	if (b->events && b->schema != (__u32)s->schema_generation)
		refresh_schema(s, now);
	if (!s->merge)
		return 0;
	return merge_push(s->merge, ring, b, now, unverified);
}

static void report_broken(struct session *s, struct ring *r)
{
	if (r->broken)
		return;
	r->broken = true;
	r->backlog = 0;
	s->c.stats->broken++;
	if (s->nr_broken++) /* how many is said at the end */
		return;
	say_within(s->c.quota, "%s: ring %u is broken and not read any more: %s; the others go on",
		   s->c.path, r->origin.ring, htrace_consumer_error(r->consumer));
}

/* 0: nothing more; 1: stopped before that, to be fair; 2: or for want of memory. */
static int read_ring(struct session *s, unsigned int ring, __u64 now, __u64 until, bool unverified,
		     struct session_pass *pass)
{
	struct ring *r = &s->ring[ring];
	__u32 used = 0;
	int ret = 0;

	while (used < RING_BUDGET) {
		struct htrace_batch b;

		if (s->merge && !merge_has_room(s->merge, ring))
			return 2;
		ret = htrace_consumer_read(r->consumer, &b);
		if (!ret && go_direct(s, r))
			continue;
		if (ret != 1)
			break;
		used += b.len > BATCH_COST ? b.len : BATCH_COST;
		ret = take_batch(s, ring, &b, now, unverified, pass);
		if (ret)
			break;
		ret = 1;
		if (clock_now() >= until)
			break;
	}
	r->backlog = htrace_consumer_backlog(r->consumer);
	if (ret == -EILSEQ) {
		report_broken(s, r);
		return 0;
	}
	return ret;
}

int session_read(struct session *s, __u64 now, bool unverified, struct session_pass *pass)
{
	__u64 until = clock_now() + READ_NS;

	memset(pass, 0, sizeof(*pass));
	pass->drained = true;
	for (unsigned int i = 0; i < s->nr_rings; i++) {
		unsigned int ring = (s->first + i) % s->nr_rings;
		int ret;

		if (i && clock_now() >= until) { /* the others come first the next time */
			s->first = ring;
			pass->more = pass->cut = true;
			pass->drained = false;
			break;
		}
		ret = read_ring(s, ring, now, until, unverified, pass);
		if (ret < 0)
			return ret;
		pass->more |= ret == 1;
		pass->cut |= ret == 2;
		pass->drained &= ret == 0;
	}
	pass->backlog = session_backlog(s);
	return 0;
}

bool session_ready(const struct session *s)
{
	for (unsigned int i = 0; i < s->nr_rings; i++)
		if (htrace_consumer_ready(s->ring[i].consumer) ||
		    (s->ring[i].handover && load_handover(s->ring[i].handover)))
			return true;
	return false;
}

__u64 session_backlog(const struct session *s)
{
	__u64 sum = 0;

	for (unsigned int i = 0; i < s->nr_rings; i++)
		sum += s->ring[i].backlog;
	return sum;
}

/* ------------------------------------------------------------------------------------- emitting */

static void emit_loss(struct session *s, struct ring *r, const struct merge_item *item)
{
	struct sink_loss l = {
		.from = &r->origin,
		.time = item->time,
		.overwritten = item->overwritten,
		.dropped = item->dropped,
		.corrupt = item->corrupt,
	};

	r->task_known = false; /* who knows who ran meanwhile */
	sinks_loss(s->c.sinks, &l);
}

static void emit_record(struct session *s, struct ring *r, const struct merge_item *item, __u64 now)
{
	struct sink_event e = {
		.from = &r->origin,
		.time = item->time,
		.unverified = item->unverified,
		.task_known = r->task_known,
		.task = r->task,
		.record = &item->record,
	};
	const struct event_info *info = events_find(s->events, item->record.id);

	if (!info) {
		char name[32];

		snprintf(name, sizeof(name), "event#%u", item->record.id);
		if (selection_matches(s->c.selection, name))
			sinks_event(s->c.sinks, &e);
		return;
	}
	e.event = info->event;
	event_before(info, s->names, &e);
	if (info->shown)
		sinks_event(s->c.sinks, &e);
	event_after(info, s->names, &e, now);
	r->task_known = e.task_known;
	r->task = e.task;
}

bool session_emit(struct session *s, __u64 now, bool all)
{
	__u64 until = clock_now() + EMIT_NS;
	struct merge_item item;

	for (unsigned int nr = 1; s->merge; nr++) {
		struct ring *r;

		if (nr % EMIT_LOOK == 0 && clock_now() >= until)
			return true;
		if (!merge_pop(s->merge, now, all, &item))
			break;
		r = &s->ring[item.ring];
		s->c.stats->late += item.late;
		if (item.is_loss)
			emit_loss(s, r, &item);
		else
			emit_record(s, r, &item, now);
	}
	return false;
}

__u64 session_due(const struct session *s)
{
	return s->merge ? merge_due(s->merge) : UINT64_MAX;
}
