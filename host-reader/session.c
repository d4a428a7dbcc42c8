/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "session_internal.h"

#include <errno.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"
#include "events.h"
#include "filter.h"
#include "merge.h"
#include "message.h"
#include "names.h"
#include "order.h"
#include "recorder.h"
#include "region_clock.h"
#include "session_internal.h"
#include "stacks.h"
#include "symbols.h"
#include "vcpus.h"

#define EXPIRE_NS 200000000ULL
#define EARLY_TABLES 4   /* of names, the latest ones, until the first record goes out, */
#define EARLY_NAMES HTRACE_MAX_NAMES /* as many as one may have, all together */

/* ----------------------------------------------------------------------------- opening, closing */

void session_facts(struct session_facts *f, const struct htrace_super *super)
{
	memset(f, 0, sizeof(*f));
	f->session = super->session;
	memcpy(f->boot_id, super->boot_id, sizeof(f->boot_id));
	f->clock_id = super->clock_id;
	f->nr_cpus = super->nr_cpus;
	for (__u32 i = 0; i < super->nr_ringsets; i++) {
		const struct htrace_ringset *from = &super->ringset[i];

		if (from->relays)
			continue; /* read in the place of another */
		f->set[f->nr_sets++] = (struct session_set){
			.policy = from->policy, .kind = from->kind, .nr_rings = from->nr_rings,
			.ring_shift = from->ring_shift, .block_shift = from->block_shift,
		};
	}
}

unsigned int session_facts_rings(const struct session_facts *f)
{
	unsigned int nr = 0;

	for (__u32 set = 0; set < f->nr_sets; set++)
		nr += f->set[set].nr_rings;
	return nr;
}


static void add_ring(struct session *s, __u32 set, __u32 index)
{
	struct ring *r = &s->ring[s->nr_rings++];

	r->origin = (struct origin){
		.source = s->c.source,
		.session = &s->about,
		.names = s->names,
		.stacks = s->stacks,
		.symbols = s->symbols,
		.per_cpu = s->about.facts.set[set].kind == HTRACE_RING_PER_CPU,
		.ring = index,
	};
	r->count = (r->origin.per_cpu ? s->c.stats->cpu : s->c.stats->thread) + index;
	r->count->used = true;
}

int session_open(struct session **out, const struct session_config *config, char *err,
		 size_t errlen)
{
	const struct session_facts *facts = config->facts;
	unsigned int nr = session_facts_rings(facts);
	struct session *s;

	if (nr > HTRACE_MAX_RINGS) {
		snprintf(err, errlen, "%u rings", nr);
		return -EPROTO;
	}
	snprintf(err, errlen, "%s", strerror(ENOMEM));
	s = calloc(1, sizeof(*s) + nr * sizeof(*s->ring));
	if (!s)
		return -ENOMEM;
	s->c = *config;
	s->last_note = &s->notes;
	s->names = names_new();
	s->about = (struct sink_session){
		.path = s->c.origin,
		.source = s->c.source,
		.source_nr = s->c.source_nr,
		.names = s->names,
		.facts = *facts,
	};
	memcpy(s->about.boot_id, facts->boot_id, sizeof(s->about.boot_id));
	s->filter_said.option = s->c.filter_option ? s->c.filter_option : "--filter";
	s->captured = s->c.sinks && sinks_capture(s->c.sinks);
	s->about.lends = session_lends(s);
	if (s->c.sinks && sinks_show(s->c.sinks)) {
		s->merge = merge_new(nr, MERGE_DELAY_NS, MERGE_BYTES);
		s->stacks = stacks_new();
		s->symbols = symbols_new();
	}
	for (__u32 set = 0; set < facts->nr_sets; set++)
		for (__u32 i = 0; i < facts->set[set].nr_rings; i++)
			add_ring(s, set, i);
	if (facts->host && s->merge)
		s->vcpus = vcpus_open(s->c.hosts, facts->boot_id, &s->known);
	if (region_clock_open(&s->clock, facts->clock_id, config->host_clock) || !s->names || (s->c.sinks && sinks_show(s->c.sinks) &&
			  (!s->merge || !s->stacks || !s->symbols))) {
		session_close(s);
		return -ENOMEM;
	}
	s->order.ops = &session_order_ops;
	s->order.patient = config->patient;
	if (s->merge) /* what is held for a snapshot is of another time than what others show */
		order_join(config->snapshot ? NULL : config->order, &s->order);
	if (s->c.snapshot && s->c.sinks) {
		int ret = recorder_new(&s->recorder, s, &s->c, err, errlen);

		if (ret) {
			session_close(s);
			return ret;
		}
	}
	*out = s;
	return 0;
}

static void free_mark(struct mark *m)
{
	htrace_schema_free(m->schema);
	free(m);
}

static void use_early(struct session *s, bool forget);

static bool is_shown(struct session *s, __u32 id)
{
	const struct event_info *info = events_find(s->events, id);
	char name[32];

	if (info)
		return info->shown;
	snprintf(name, sizeof(name), "event#%u", id);
	return selection_matches(s->c.selection, name);
}

static void tell_end(struct session *s)
{
	if (s->ended)
		session_tell(s, CAPTURE_END, &s->end, sizeof(s->end), s->ended);
	s->ended = 0;
}

/* A capture is read to its end, and no further: what a flight recorder still lets out has to be before it. */
void session_end(struct session *s, const struct capture_end *end, __u64 now)
{
	s->end = *end;
	s->ended = now;
	if (!s->recorder)
		tell_end(s);
}

static void count_unwritten(struct session *s)
{
	struct merge_item item;

	if (s->order.have)
		s->c.stats->unwritten += !s->next.is_loss && is_shown(s, s->next.record.id);
	while (s->merge && merge_pop(s->merge, 0, true, &item)) {
		if (item.mark)
			session_use_mark(s, item.mark);
		else
			s->c.stats->unwritten += !item.is_loss && is_shown(s, item.record.id);
	}
}

static void show_last_words(struct session *s)
{
	struct sink_note note = {
		.source = s->c.source, .session = &s->about, .time = s->latest_time, .text = s->last_words,
	};

	note.from = s->latest ? &s->latest->origin : NULL;
	if (s->last_words && s->c.sinks)
		sinks_note(s->c.sinks, &note);
	free(s->last_words);
	s->last_words = NULL;
}

void session_close(struct session *s)
{
	if (!s)
		return;
	order_leave(&s->order);
	count_unwritten(s);
	recorder_free(s->recorder);
	tell_end(s);
	session_show_notes(s);
	show_last_words(s);
	if (s->nr_broken > 1)
		say_within(s->c.quota, "%s: %u rings were broken in this session", s->c.path,
			   s->nr_broken);
	if (s->stacks)
		s->c.stats->stacks_forgotten += stacks_forgotten(s->stacks);
	if (s->said_clock && s->clock.wants_host)
		session_note_clock(s, "ends");
	if (s->c.sinks)
		sinks_session_end(s->c.sinks, &s->about);
	vcpus_close(s->vcpus, &s->known);
	vcpu_events_free(s->vcpu_events);
	stats_fold(s->c.stats, s->schema);
	stats_clock(s->c.stats, &s->clock);
	use_early(s, true);
	region_clock_close(&s->clock);
	merge_free(s->merge);
	filters_free(s->filters);
	events_free(s->events);
	htrace_schema_free(s->schema);
	names_free(s->names);
	stacks_free(s->stacks);
	symbols_free(s->symbols);
	free(s->copy);
	free(s->began);
	free(s);
}

bool session_wants_names(const struct session *s)
{
	return s->merge || s->captured;
}

bool session_merge_has_room(const struct session *s, unsigned int ring)
{
	return !s->merge || merge_has_room(s->merge, ring);
}

bool session_has_room(const struct session *s, unsigned int ring)
{
	return session_merge_has_room(s, ring) &&
	       (!s->recorder || recorder_has_room(s->recorder, ring));
}

/* That looks for events that ask for a snapshot; or NULL. */
struct session *session_watch(const struct session *s)
{
	return s->recorder ? recorder_watch(s->recorder) : NULL;
}

bool session_is_behind(const struct session *s)
{
	return s->waiting != 0 || (session_watch(s) && session_watch(s)->waiting);
}

const struct htrace_schema *session_now(const struct session *s)
{
	return s->schema;
}

__u64 session_latest(const struct session *s)
{
	__u64 latest = 0;

	for (unsigned int i = 0; i < s->nr_rings; i++)
		if (s->ring[i].time > latest)
			latest = s->ring[i].time;
	return latest;
}

unsigned int session_ring_number(const struct session *s, unsigned int ring)
{
	return s->ring[ring].origin.ring;
}

/* ------------------------------------------------------------------------------------ what comes */

static void capture(struct session *s, const struct capture_item *item, __u64 now)
{
	struct capture_item i = *item;

	if (!s->captured)
		return;
	i.arrival = now;
	i.asked = s->asked;
	sinks_captured(s->c.sinks, &s->about, &i);
}

void session_tell(struct session *s, enum capture_kind kind, const void *data, size_t len,
		  __u64 now)
{
	capture(s, &(struct capture_item){ .kind = kind, .data = data, .len = len }, now);
}

/*
 * Told when it is read, not when it goes out: what happened meanwhile, and goes out before, is not
 * known either. Without a record behind the loss it lies before now.
 */
static void lose_vcpus(struct session *s, const struct ring *r, const struct htrace_batch *b,
		       __u64 now)
{
	struct htrace_record first = { .time = now };
	struct htrace_iter it;

	if (!s->vcpus || !(b->overwritten || b->dropped || b->corrupt || b->unfinished))
		return;
	htrace_iter_init(&it, b);
	htrace_iter_next(&it, &first);
	vcpus_lose(s->vcpus, r->time, first.time);
}

int session_let_in(struct session *s, unsigned int ring, const struct htrace_batch *b, __u64 now,
		   bool unverified, __u32 raised, bool quiet)
{
	struct capture_item item = {
		.kind = CAPTURE_BATCH,
		.ring = ring,
		.batch = b,
		.unverified = unverified,
		.raised = raised,
		.schema = s->about.reading,
	};

	if (!quiet)
		capture(s, &item, now);
	return s->merge ? merge_push(s->merge, ring, b, now, unverified, quiet) : 0;
}

int session_batch(struct session *s, unsigned int ring, const struct htrace_batch *b, __u64 now,
		  bool unverified, __u32 raised)
{
	struct ring *r = &s->ring[ring];

	lose_vcpus(s, r, b, now);
	stats_batch(s->c.stats, r->count, b, unverified, &r->time);
	s->c.stats->backwards += raised;
	if (s->recorder)
		return recorder_batch(s->recorder, ring, b, now, unverified, raised);
	return session_let_in(s, ring, b, now, unverified, raised, false);
}

/* ---------------------------------------------------------------------------------------- marks */

/* Costly ones: there is one of them at a time. */
static bool has_to_wait(const struct mark *m)
{
	return m->kind == MARK_SCHEMA || m->kind == MARK_NAMES;
}

/* Let @m take effect when everything before it has gone out. */
void session_put_mark(struct session *s, struct mark *m, __u64 now)
{
	if (!s->merge || merge_mark(s->merge, m, now)) {
		session_use_mark(s, m);
		return;
	}
	s->waiting += has_to_wait(m);
}

struct mark *session_new_mark(int kind, size_t len)
{
	struct mark *m = calloc(1, sizeof(*m) + len);

	if (m)
		m->kind = kind;
	return m;
}

/* Was it said meanwhile that switches are missing? It may have ended before anybody looked. */
static bool had_gap(const struct htrace_schema *schema, const char *fresh, size_t len)
{
	const struct htrace_event *e = htrace_schema_event_by_name(schema, "sched_switch");
	struct htrace_schema_filter f;

	for (size_t at = 0; e && at + sizeof(f) <= len; at += f.entry.len) {
		memcpy(&f, fresh + at, sizeof(f));
		if (f.entry.kind == HTRACE_SCHEMA_FILTER && f.id == e->id && f.flags & HTRACE_FILTER_IN_GUEST)
			return true;
	}
	return false;
}

int session_schema(struct session *s, __u64 generation, const void *entries, size_t len, __u64 now,
		   char *err, size_t errlen)
{
	struct capture_item item = {
		.kind = CAPTURE_SCHEMA, .generation = generation, .data = entries, .len = len,
	};
	size_t fresh = s->symbols && len > s->schema_len ? len - s->schema_len : 0;
	struct mark *m;
	int ret;

	if (s->about.reading && len <= s->schema_len)
		return 0;
	m = session_new_mark(MARK_SCHEMA, fresh);
	ret = m ? htrace_schema_parse(&m->schema, entries, len, err, errlen) : -ENOMEM;
	if (ret) {
		free(m);
		return ret;
	}
	m->had_gap = had_gap(m->schema, (const char *)entries + s->schema_len, len - s->schema_len);
	m->nr = (__u32)fresh;
	if (fresh)
		memcpy(m->text, (const char *)entries + s->schema_len, fresh);
	s->schema_len = len;
	s->about.reading = m->schema;
	capture(s, &item, now);
	session_put_mark(s, m, now);
	if (session_watch(s))
		session_schema(session_watch(s), generation, entries, len, now, err, errlen);
	return 0;
}

void session_names(struct session *s, const struct htrace_name *table, __u32 nr, __u64 now)
{
	size_t len = nr * sizeof(*table);
	struct mark *m;

	session_tell(s, CAPTURE_NAMES, table, len, now);
	if (session_watch(s))
		session_names(session_watch(s), table, nr, now);
	m = s->merge ? session_new_mark(MARK_NAMES, len) : NULL;
	if (!m)
		return;
	m->nr = nr;
	memcpy(m->name, table, len);
	session_put_mark(s, m, now);
}

void session_guest(struct session *s, const struct htrace_guest *fresh,
		   const struct htrace_clock_sample *clock, __u64 now)
{
	/* An agent that begins may not have said all of it at once. */
	memcpy(s->about.hostname, fresh->hostname, sizeof(s->about.hostname));
	memcpy(s->about.release, fresh->release, sizeof(s->about.release));
	s->about.state = fresh->state;
	if (clock->mono)
		s->about.clock = *clock;
	session_tell(s, CAPTURE_GUEST, fresh, sizeof(*fresh), now);
}

void session_read_until(struct session *s, __u64 time)
{
	s->read_until = time;
}

void session_vm(struct session *s, const struct session_vm *vm, __u64 now)
{
	size_t len = offsetof(struct session_vm, vcpu) + vm->nr * sizeof(vm->vcpu[0]);

	if (!memcmp(&s->vm, vm, len))
		return;
	memset(&s->vm, 0, sizeof(s->vm));
	memcpy(&s->vm, vm, len);
	s->about.vm = vm->pid;
	session_tell(s, CAPTURE_VM, vm, len, now);
}

void session_snapshot(struct session *s, const char *why, __u64 now)
{
	if (s->recorder)
		recorder_ask(s->recorder, why, now);
}

void session_show_note(struct session *s, const char *text, bool captured, __u64 now)
{
	size_t len = strlen(text) + 1;
	struct mark *m = s->merge ? session_new_mark(MARK_NOTE, len) : NULL;

	if (captured)
		session_tell(s, CAPTURE_NOTE, text, strlen(text), now);
	if (!m)
		return;
	memcpy(m->text, text, len);
	session_put_mark(s, m, now);
}

void session_note(struct session *s, const char *text, __u64 now)
{
	if (s->recorder)
		recorder_note(s->recorder, text, false, now);
	else
		session_show_note(s, text, false, now);
}

void session_mark(struct session *s, const char *text, __u64 now)
{
	if (s->recorder)
		recorder_note(s->recorder, text, true, now);
	else
		session_show_note(s, text, true, now);
}

void session_mark_end(struct session *s, const char *text, __u64 now)
{
	if (s->recorder) {
		session_mark(s, text, now);
		return;
	}
	session_tell(s, CAPTURE_NOTE, text, strlen(text), now);
	free(s->last_words);
	s->last_words = strdup(text);
}

/* It goes out at once; a sink that keeps sessions apart puts it to the first event of this one. */
void session_began(struct session *s, const char *text, __u64 now)
{
	struct sink_note note = { .source = s->c.source, .text = text };

	if (!s->c.sinks)
		return;
	session_tell(s, CAPTURE_BEGAN, text, strlen(text), now);
	free(s->began);
	s->about.began = s->began = strdup(text);
	sinks_note(s->c.sinks, &note);
}

void session_count_unwritten(struct session *s, __u64 events)
{
	s->c.stats->unwritten += events;
}

void session_broken(struct session *s, unsigned int ring, const char *why, __u64 now)
{
	struct capture_item item = {
		.kind = CAPTURE_BROKEN, .ring = ring, .data = why, .len = strlen(why),
	};

	if (s->ring[ring].broken)
		return;
	s->ring[ring].broken = true;
	if (s->vcpus) /* its records would be missing for ever */
		vcpus_lose(s->vcpus, s->ring[ring].time, UINT64_MAX);
	s->c.stats->broken++;
	capture(s, &item, now);
	if (s->nr_broken++) /* how many is said at the end */
		return;
	say_within(s->c.quota, "%s: ring %u is broken and not read any more: %s; the others go on",
		   s->c.path, s->ring[ring].origin.ring, why);
}

/* ------------------------------------------------------------------------------------- emitting */

/* What stacks are shown with lies between the schema's other entries. */
static void use_symbols(struct session *s, const struct mark *m)
{
	const char *wrong = s->symbols ? symbols_load(s->symbols, m->text, m->nr) : NULL;

	if (!wrong || s->said_symbols)
		return;
	s->said_symbols = true;
	say_within(s->c.quota, "%s: stacks may lack names: %s", s->c.path, wrong);
}

static void use_schema(struct session *s, struct mark *m)
{
	const struct htrace_event *e;

	filters_free(s->filters);
	events_free(s->events);
	vcpu_events_free(s->vcpu_events);
	htrace_schema_free(s->schema);
	s->schema = m->schema;
	m->schema = NULL;
	s->about.schema++;
	s->events = events_new(s->schema, s->c.selection);
	s->vcpu_events = s->vcpus ? vcpu_events_new(s->schema) : NULL;
	s->filters = filters_new(s->c.filter, s->schema, &s->filter_said, s->c.path, s->c.quota);
	e = htrace_schema_event_by_name(s->schema, "sched_switch");
	s->switch_filtered = e && htrace_schema_is_filtered(s->schema, e->id);
	for (unsigned int i = 0; i < s->nr_rings && (s->switch_filtered || m->had_gap); i++)
		s->ring[i].task_known = false; /* there may be switches that are not recorded, from here on */
	use_symbols(s, m);
}

/* Notes have the time of the event behind them, for outputs that need one. */
void session_show_notes(struct session *s)
{
	struct sink_note note = { .source = s->c.source, .session = &s->about, .time = s->latest_time };
	struct mark *m;

	note.from = s->latest ? &s->latest->origin : NULL;
	while ((m = s->notes)) {
		note.text = m->text;
		note.clock = m->tells_bound ? "host" : NULL;
		note.bound = m->bound;
		sinks_note(s->c.sinks, &note);
		s->notes = m->next;
		free_mark(m);
	}
	s->last_note = &s->notes;
}

void session_queue_note(struct session *s, struct mark *m)
{
	*s->last_note = m;
	s->last_note = &m->next;
}

/* What goes out next is of @r and @time. */
static void go_on(struct session *s, struct ring *r, __u64 time)
{
	s->latest = r;
	s->latest_time = time;
	if (s->notes)
		session_show_notes(s);
}

/*
 * When names hold from has to be known as times are shown: as what, is settled with the first record. Until
 * then they delay neither schemas nor other tables.
 */
static bool keep_early(struct session *s, struct mark *m)
{
	struct mark **at = &s->early;
	__u64 tables = 1, names = m->nr;

	if (!s->merge || s->clock.shown || !(s->clock.wants_host || s->clock.clock))
		return false;
	for (; *at; at = &(*at)->next) {
		tables++;
		names += (*at)->nr;
	}
	*at = m;
	while (tables > EARLY_TABLES || names > EARLY_NAMES) {
		struct mark *first = s->early;

		if (first == m)
			break;
		tables--;
		names -= first->nr;
		s->early = first->next;
		free_mark(first);
	}
	return true;
}

static void use_names(struct session *s, const struct mark *m)
{
	for (__u32 i = 0; i < m->nr; i++)
		names_set(s->names, m->name[i].tid, m->name[i].tgid,
			  region_clock_past(&s->clock, m->name[i].time), m->name[i].comm,
			  sizeof(m->name[i].comm));
	s->about.tables++;
}

static void use_early(struct session *s, bool forget)
{
	struct mark *m;

	while ((m = s->early)) {
		s->early = m->next;
		if (!forget)
			use_names(s, m);
		free_mark(m);
	}
}

void session_use_mark(struct session *s, struct mark *m)
{
	if (s->merge && has_to_wait(m) && s->waiting)
		s->waiting--;
	switch (m->kind) {
	case MARK_SCHEMA:
		use_schema(s, m);
		break;
	case MARK_NAMES:
		if (keep_early(s, m))
			return;
		use_names(s, m);
		break;
	case MARK_NOTE:
		session_queue_note(s, m);
		return;
	case MARK_CLOCK:
		for (__u32 i = 0; i < m->nr; i++)
			htrace_clock_add(s->clock.clock, &m->sample[i]);
		break;
	case MARK_HOST:
		for (__u32 i = 0; i < m->nr; i++)
			session_use_host_word(s, &m->word[i]);
		break;
	}
	free_mark(m);
}

static void emit_loss(struct session *s, struct ring *r, const struct merge_item *item)
{
	struct sink_loss l = {
		.from = &r->origin,
		.time = item->time,
		.overwritten = item->overwritten,
		.dropped = item->dropped,
		.corrupt = item->corrupt,
		.unfinished = item->unfinished,
		.uncommitted = item->uncommitted,
	};

	r->task_known = false; /* who knows who ran meanwhile */
	if (item->quiet)
		return;
	go_on(s, r, item->time);
	sinks_loss(s->c.sinks, &l);
}

static void on_vcpu(void *ctx, const struct vcpu_change *c)
{
	struct session *s = ctx;

	sinks_vcpu(s->c.sinks, &s->about, c);
}

/* Did the guest's virtual CPU run? Its CPUs are KVM's in the order of their numbers. */
static void look_at_vcpu(struct session *s, struct ring *r, struct sink_event *e,
			 struct vcpu_view *view)
{
	struct vcpus *v;

	/* A host is no guest, whatever its capture says. */
	if (s->about.facts.host || !s->vm.pid || !r->origin.per_cpu || r->origin.ring >= s->vm.nr)
		return;
	v = vcpus_find(s->c.hosts, s->vm.boot_id);
	if (!v)
		return;
	e->vcpu = view;
	if (s->about.on_host && s->clock.bound != HOST_CLOCK_UNKNOWN)
		vcpus_look(v, s->vm.pid, s->vm.vcpu[r->origin.ring], e->time, s->clock.bound, &r->mark,
			   view);
	else /* when it happened by the host's clock is not known */
		*view = (struct vcpu_view){ .vm = s->vm.pid, .vcpu = s->vm.vcpu[r->origin.ring] };
	view->host = s->vm.boot_id;
}

static void show(struct session *s, const struct merge_item *item, struct sink_event *e)
{
	struct ring *r = &s->ring[item->ring];
	struct vcpu_view view;

	if (item->quiet)
		return;
	if (!filters_pass(s->filters, e)) {
		s->c.stats->filtered++;
		return;
	}
	look_at_vcpu(s, r, e, &view);
	go_on(s, r, e->time);
	sinks_event(s->c.sinks, e);
	e->vcpu = NULL;
}

static void emit_record(struct session *s, struct ring *r, const struct merge_item *item)
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

	if (s->vcpus)
		vcpus_take(s->vcpus, s->vcpu_events, &item->record, item->time, on_vcpu, s);
	if (!info) {
		char name[32];

		snprintf(name, sizeof(name), "event#%u", item->record.id);
		if (selection_matches(s->c.selection, name))
			show(s, item, &e);
		return;
	}
	if (info->role == ROLE_STACK) {
		stacks_add(s->stacks, item->record.payload, item->record.len);
		return;
	}
	e.event = info->event;
	event_before(info, s->names, &e);
	if (info->shown)
		show(s, item, &e);
	event_after(info, s->names, &e, item->arrival);
	r->switches |= info->role == ROLE_SWITCH;
	r->task_known = e.task_known && r->switches && !s->switch_filtered;
	r->task = e.task;
}

/* The first time of all goes out: as what, now holds. */
void session_begin_clock(struct session *s)
{
	if (!region_clock_begin(&s->clock))
		return;
	s->about.ticks = s->clock.ticks;
	s->about.on_host = s->clock.on_host;
	s->about.bound = &s->clock.bound;
	for (unsigned int i = 0; i < s->nr_rings; i++)
		s->ring[i].origin.ticks = s->clock.ticks;
	use_early(s, false);
	if (s->clock.ticks)
		say_within(s->c.quota, "%s: times are shown in ticks of the TSC: the region has no clock "
			   "samples to convert them by", s->c.path);
	else if (s->clock.wants_host && !s->clock.on_host)
		say_within(s->c.quota, "%s: times are shown by its own clock: how it goes beside the host's "
			   "is not known", s->c.path);
}

void session_show_item(struct session *s, struct merge_item *item)
{
	struct ring *r = &s->ring[item->ring];

	s->c.stats->late += item->late;
	/* By when it arrived, not by the clock: what is known of a task does not depend on haste. */
	if (item->arrival >= s->next_expire) {
		names_expire(s->names, item->arrival);
		s->next_expire = item->arrival + EXPIRE_NS;
	}
	if (item->is_loss)
		emit_loss(s, r, item);
	else
		emit_record(s, r, item);
}
