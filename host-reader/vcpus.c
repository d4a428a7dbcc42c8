/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "vcpus.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SLOTS (2 * VCPUS_MAX) /* by hash */
#define FORGET_NS 10000000000ULL /* of want of room: what had no event for so long */
#define GAPS 32
#define BACK 64u /* changes that an exit told at its entry is put before, at most */
#define AHEAD_NS 1000000000ULL /* of all events of the host: a guest may claim any time */

const char *const vcpu_state_names[] = { "unknown", "running", "out", "preempted", "asleep" };

/* It is in a state from `time` on. */
struct change {
	__u64 time;
	__u64 out, preempted; /* lost up to then */
	__u32 thread;
	__u32 breaks; /* times that it was unknown before */
	__u16 state, reason;
};

struct vcpu {
	__u32 vm, vcpu; /* vm 0: a free slot */
	__u32 nr;
	__u64 seen;   /* its last event */
	__u16 reason; /* of its exit, while it is out; 0: not known */
	bool taken;   /* when it was preempted last, by: */
	struct vcpu_taker taker;
	__u32 nr_past; /* changes so far; the last VCPUS_PAST of them are kept */
	struct change past[VCPUS_PAST];
};

/* What happened in between is not known. */
struct gap {
	__u64 from, until;
};

struct reason {
	__u32 value;
	bool halt; /* the guest wants nothing better than to wait */
	char name[VCPUS_REASON];
};

struct vcpus {
	__u8 boot_id[16];
	unsigned int open; /* sessions of kvm sources */
	const __u64 *known[VCPUS_SESSIONS]; /* theirs */
	__u64 latest;      /* event of any */
	bool ended;        /* nothing is known after `latest`, until there is another event */
	__u32 nr, next_nr;
	__u64 crowded; /* for want of room it was looked for old ones at this time */
	unsigned int nr_gaps;
	struct gap gap[GAPS];
	unsigned int nr_reasons;
	struct reason reason[VCPUS_REASONS + 1]; /* 0: not known */
	struct vcpu *slot[SLOTS];
};

struct vcpu_hosts {
	unsigned int nr;
	struct vcpus *host[VCPUS_HOSTS];
};

/* ---------------------------------------------------------------------------------------- hosts */

struct vcpu_hosts *vcpu_hosts_new(void)
{
	return calloc(1, sizeof(struct vcpu_hosts));
}

void vcpu_hosts_free(struct vcpu_hosts *h)
{
	for (unsigned int i = 0; h && i < h->nr; i++) {
		for (unsigned int s = 0; s < SLOTS; s++)
			free(h->host[i]->slot[s]);
		free(h->host[i]);
	}
	free(h);
}

struct vcpus *vcpus_find(const struct vcpu_hosts *h, const __u8 *boot_id)
{
	for (unsigned int i = 0; h && i < h->nr; i++)
		if (!memcmp(h->host[i]->boot_id, boot_id, sizeof(h->host[i]->boot_id)))
			return h->host[i];
	return NULL;
}

struct vcpus *vcpus_open(struct vcpu_hosts *h, const __u8 *boot_id, const __u64 *known)
{
	struct vcpus *v = vcpus_find(h, boot_id);

	if (!v && h && h->nr < VCPUS_HOSTS) {
		v = calloc(1, sizeof(*v));
		if (!v)
			return NULL;
		memcpy(v->boot_id, boot_id, sizeof(v->boot_id));
		h->host[h->nr++] = v;
	}
	if (!v || v->open == VCPUS_SESSIONS)
		return NULL;
	v->known[v->open++] = known;
	return v;
}

void vcpus_close(struct vcpus *v, const __u64 *known)
{
	unsigned int i = 0;

	if (!v)
		return;
	while (i < v->open - 1 && v->known[i] != known)
		i++;
	v->known[i] = v->known[--v->open];
	v->ended |= !v->open;
}

/* ----------------------------------------------------------------------------------------- gaps */

void vcpus_lose(struct vcpus *v, __u64 from, __u64 until)
{
	struct gap *last = v->nr_gaps ? &v->gap[v->nr_gaps - 1] : NULL;

	if (until <= from)
		return;
	if (last && from >= last->from && from <= last->until) {
		last->until = until > last->until ? until : last->until;
		return;
	}
	if (v->nr_gaps == GAPS) { /* what lies between the oldest is long gone, or taken for unknown */
		v->gap[1].from = v->gap[0].from < v->gap[1].from ? v->gap[0].from : v->gap[1].from;
		memmove(&v->gap[0], &v->gap[1], --v->nr_gaps * sizeof(v->gap[0]));
	}
	v->gap[v->nr_gaps++] = (struct gap){ from, until };
}

/* May something have happened after @from and before @to that was not seen? From when on. */
static bool find_gap(const struct vcpus *v, __u64 from, __u64 to, __u64 *begin)
{
	bool any = false;

	*begin = from;
	for (unsigned int i = 0; i < v->nr_gaps; i++) {
		const struct gap *g = &v->gap[i];

		if (g->from >= to || g->until <= from)
			continue;
		if (!any || g->from < *begin)
			*begin = g->from;
		any = true;
	}
	if (v->ended && to > v->latest + 1 && (!any || v->latest < *begin)) {
		*begin = v->latest;
		any = true;
	}
	if (any && *begin < from)
		*begin = from;
	return any;
}

/* -------------------------------------------------------------------------------------- reasons */

/* Intel's, AMD's: HLT, and the kinds of MWAIT. */
static bool is_halt(__u32 value)
{
	switch (value) {
	case 1 << 16 | 12:
	case 1 << 16 | 36:
	case 2 << 16 | 0x78:
	case 2 << 16 | 0x8b:
	case 2 << 16 | 0x8c:
		return true;
	default:
		return false;
	}
}

/* Its name may be gone with the schema before its number is. */
static __u16 find_reason(struct vcpus *v, __u32 value, const char *name)
{
	struct reason *r;
	char number[16];

	for (unsigned int i = 1; i <= v->nr_reasons; i++)
		if (v->reason[i].value == value)
			return (__u16)i;
	if (v->nr_reasons == VCPUS_REASONS)
		return 0;
	snprintf(number, sizeof(number), "0x%x", value & 0xffff);
	r = &v->reason[++v->nr_reasons];
	r->value = value;
	r->halt = is_halt(value);
	snprintf(r->name, sizeof(r->name), "%s", name ? name : number);
	return (__u16)v->nr_reasons;
}

static const char *why(const struct vcpus *v, const struct change *c)
{
	return c->state > VCPU_RUNNING && c->reason ? v->reason[c->reason].name : NULL;
}

/* --------------------------------------------------------------------------------- virtual CPUs */

static unsigned int slot_of(__u32 vm, __u32 vcpu)
{
	return (unsigned int)((((__u64)vm << 32 | vcpu) * 0x9e3779b97f4a7c15ULL) >> 40) % SLOTS;
}

static struct vcpu **find_slot(struct vcpus *v, __u32 vm, __u32 vcpu)
{
	unsigned int at = slot_of(vm, vcpu);

	while (v->slot[at] && (v->slot[at]->vm != vm || v->slot[at]->vcpu != vcpu))
		at = (at + 1) % SLOTS;
	return &v->slot[at];
}

/* VMs come and go: those that are quiet give their room. */
static void forget_old(struct vcpus *v, __u64 time)
{
	struct vcpu **all;

	if (v->crowded && time - v->crowded < FORGET_NS / 10)
		return;
	v->crowded = time;
	all = malloc(sizeof(v->slot));
	if (!all)
		return;
	memcpy(all, v->slot, sizeof(v->slot));
	memset(v->slot, 0, sizeof(v->slot));
	v->nr = 0;
	for (unsigned int i = 0; i < SLOTS; i++) {
		if (!all[i])
			continue;
		if (all[i]->seen + FORGET_NS < time) {
			free(all[i]);
			continue;
		}
		*find_slot(v, all[i]->vm, all[i]->vcpu) = all[i];
		v->nr++;
	}
	free(all);
}

static struct vcpu *get_vcpu(struct vcpus *v, __u32 vm, __u32 vcpu, __u64 time)
{
	struct vcpu **slot = find_slot(v, vm, vcpu), *c = *slot;

	if (c)
		return c;
	if (v->nr == VCPUS_MAX) {
		forget_old(v, time);
		if (v->nr == VCPUS_MAX)
			return NULL;
		slot = find_slot(v, vm, vcpu);
	}
	c = calloc(1, sizeof(*c));
	if (!c)
		return NULL;
	c->vm = vm;
	c->vcpu = vcpu;
	c->nr = ++v->next_nr;
	c->seen = time;
	v->nr++;
	return *slot = c;
}

static const struct change *newest(const struct vcpu *c)
{
	return c->nr_past ? &c->past[(c->nr_past - 1) % VCPUS_PAST] : NULL;
}

/* Is time lost in that state, and to what? */
static bool loses_out(const struct vcpus *v, const struct change *c)
{
	return (c->state == VCPU_OUT && !v->reason[c->reason].halt) ||
	       (c->state == VCPU_ASLEEP && c->reason && !v->reason[c->reason].halt);
}

static void lost_at(const struct vcpus *v, const struct change *c, __u64 time, __u64 *out,
		    __u64 *preempted)
{
	__u64 ns = time > c->time ? time - c->time : 0;

	*out = c->out + (loses_out(v, c) ? ns : 0);
	*preempted = c->preempted + (c->state == VCPU_PREEMPTED ? ns : 0);
}

struct listener {
	vcpu_changed *changed;
	void *ctx;
};

static void enter(struct vcpus *v, struct vcpu *c, enum vcpu_state state, __u64 time, __u32 thread,
		  const struct listener *l)
{
	const struct change *last = newest(c);
	struct change next = {
		.time = time, .thread = thread, .state = (__u16)state,
		.reason = state > VCPU_RUNNING ? c->reason : 0,
		.breaks = (last ? last->breaks : 0) + (state == VCPU_UNKNOWN),
	};
	struct vcpu_change told = {
		.nr = c->nr, .vm = c->vm, .vcpu = c->vcpu, .thread = thread, .time = time,
		.before = last ? last->state : VCPU_UNKNOWN, .state = state, .why = why(v, &next),
		.since = last ? last->time : time,
	};

	if (last && last->state == state && last->reason == next.reason && last->thread == thread)
		return;
	if (last)
		lost_at(v, last, time, &next.out, &next.preempted);
	told.preempted = next.preempted;
	if (told.before == VCPU_PREEMPTED && c->taken)
		told.taker = &c->taker;
	c->past[c->nr_past++ % VCPUS_PAST] = next;
	if (c->nr_past == 2 * VCPUS_PAST) /* it does not wrap */
		c->nr_past = VCPUS_PAST;
	if (l->changed)
		l->changed(l->ctx, &told);
}

/* ---------------------------------------------------------------------------------- their events */

enum kind {
	KIND_NONE,
	KIND_EXIT,
	KIND_ENTRY,
	KIND_OUTSIDE, /* happens while it is out */
	KIND_SCHED_OUT,
	KIND_SCHED_IN,
	KIND_WHOLE, /* at the entry, of the exit too */
};

struct vcpu_event {
	enum kind kind;
	const struct htrace_member *vm, *tid, *vcpu;
	const struct htrace_member *reason;
	const struct htrace_member *detail; /* a thread's state, or time out */
	const struct htrace_member *next_tid, *next_comm; /* or NULL */
};

/* What an event says of its virtual CPU. */
struct seen {
	__u64 time, reason, detail;
	__u32 vm, vcpu, thread;
	bool taken; /* by: */
	struct vcpu_taker taker;
};

struct vcpu_events {
	__u32 nr;
	struct vcpu_event event[];
};

static const struct known {
	const char *event;
	enum kind kind;
	const char *reason, *detail;
} known[] = {
	{ "kvm_exit", KIND_EXIT, "reason", NULL },
	{ "kvm_entry", KIND_ENTRY, NULL, NULL },
	{ "kvm_hypercall", KIND_OUTSIDE, NULL, NULL },
	{ "kvm_guest_event", KIND_OUTSIDE, NULL, NULL },
	{ "kvm_mmio", KIND_OUTSIDE, NULL, NULL },
	{ "kvm_pio", KIND_OUTSIDE, NULL, NULL },
	{ "kvm_msr", KIND_OUTSIDE, NULL, NULL },
	{ "kvm_inj_virq", KIND_OUTSIDE, NULL, NULL },
	{ "kvm_userspace_exit", KIND_OUTSIDE, NULL, NULL },
	{ "kvm_halt_poll_ns", KIND_OUTSIDE, NULL, NULL },
	{ "kvm_sched_out", KIND_SCHED_OUT, NULL, "prev_state" },
	{ "kvm_sched_in", KIND_SCHED_IN, NULL, NULL },
	{ "hypercall", KIND_WHOLE, "reason", "exit_overhead_ns" },
	{ "kvm_io", KIND_WHOLE, "reason", "exit_overhead_ns" },
	{ "kvm_mmio_access", KIND_WHOLE, "reason", "exit_overhead_ns" },
	{ "kvm_exited", KIND_WHOLE, "reason", "exit_overhead_ns" },
};

static const struct htrace_member *find_member(const struct htrace_event *e, const char *name)
{
	for (__u32 i = 0; name && i < e->type->nr; i++) {
		const struct htrace_member *m = &e->type->members[i];

		if (!strcmp(m->name, name) && !m->bit_size && m->type->size && m->type->size <= 8 &&
		    (m->type->kind == HTRACE_TYPE_INT || m->type->kind == HTRACE_TYPE_ENUM))
			return m;
	}
	return NULL;
}

static const struct htrace_member *find_text(const struct htrace_event *e, const char *name)
{
	for (__u32 i = 0; i < e->type->nr; i++) {
		const struct htrace_member *m = &e->type->members[i];

		if (!strcmp(m->name, name) && !m->bit_size && m->type->size && m->type->kind == HTRACE_TYPE_STRING)
			return m;
	}
	return NULL;
}

static void describe(struct vcpu_event *to, const struct htrace_event *e)
{
	for (__u32 i = 0; i < sizeof(known) / sizeof(*known); i++) {
		const struct known *k = &known[i];

		if (strcmp(k->event, e->name))
			continue;
		to->vm = find_member(e, "vm");
		to->tid = find_member(e, "tid");
		to->vcpu = find_member(e, "vcpu_id");
		to->reason = find_member(e, k->reason);
		to->detail = find_member(e, k->detail);
		to->next_tid = find_member(e, "next_tid");
		to->next_comm = find_text(e, "next_comm");
		if (to->vm && to->tid && to->vcpu && !k->reason == !to->reason &&
		    !k->detail == !to->detail)
			to->kind = k->kind;
		return;
	}
}

struct vcpu_events *vcpu_events_new(const struct htrace_schema *schema)
{
	__u32 nr = htrace_schema_nr_events(schema), last = 0;
	struct vcpu_events *e;

	for (__u32 i = 0; i < nr; i++)
		if (htrace_schema_event_at(schema, i)->id > last)
			last = htrace_schema_event_at(schema, i)->id;
	e = calloc(1, sizeof(*e) + (last + 1) * sizeof(*e->event));
	if (!e)
		return NULL;
	e->nr = last + 1;
	for (__u32 i = 0; i < nr; i++) {
		const struct htrace_event *event = htrace_schema_event_at(schema, i);

		describe(&e->event[event->id], event);
	}
	return e;
}

void vcpu_events_free(struct vcpu_events *e)
{
	free(e);
}

/* A capture may have any record. */
static bool get(const struct htrace_member *m, const struct htrace_record *r, __u64 *value)
{
	*value = 0;
	if (m->bit_off / 8 + m->type->size > r->len)
		return false;
	memcpy(value, (const char *)r->payload + m->bit_off / 8, m->type->size);
	return true;
}

/* ------------------------------------------------------------------------------------ following */

static void lose_track(struct vcpus *v, struct vcpu *c, __u64 since, const struct listener *l)
{
	const struct change *last = newest(c);

	c->reason = 0;
	if (last)
		enter(v, c, VCPU_UNKNOWN, since > last->time ? since : last->time, last->thread, l);
}

static void sched_out(struct vcpus *v, struct vcpu *c, const struct seen *s, const struct listener *l)
{
	enum { ENDED = 0xb0, WAITS = 0x4f };
	enum vcpu_state state = s->detail & ENDED ? VCPU_UNKNOWN :
				s->detail & WAITS ? VCPU_ASLEEP : VCPU_PREEMPTED;

	if (state == VCPU_UNKNOWN)
		c->reason = 0;
	enter(v, c, state, s->time, s->thread, l);
	if (newest(c)->time == s->time) { /* it is a change */
		c->taken = s->taken;
		c->taker = s->taker;
	}
}

/* The changes after @time, of those that are kept. */
static __u32 changes_after(const struct vcpu *c, __u64 time)
{
	__u32 nr = 0;

	while (nr < c->nr_past && nr < BACK &&
	       c->past[(c->nr_past - 1 - nr) % VCPUS_PAST].time > time)
		nr++;
	return nr;
}

/*
 * It was told at its entry that it went out at @time: since then it was not running, whatever was
 * seen. What happened to its thread meanwhile stays, and gets the reason.
 */
static void went_out(struct vcpus *v, struct vcpu *c, __u64 time, __u32 thread,
		     const struct listener *l)
{
	__u32 after = changes_after(c, time), end = c->nr_past;
	struct change kept[BACK];

	for (__u32 i = 0; i < after; i++)
		kept[i] = c->past[(end - after + i) % VCPUS_PAST];
	c->nr_past = end - after;
	if (!c->nr_past || newest(c)->state != VCPU_RUNNING) {
		c->nr_past = end; /* it was not seen until then */
		return;
	}
	enter(v, c, VCPU_OUT, time, thread, l);
	for (__u32 i = 0; i < after; i++)
		enter(v, c, kept[i].state, kept[i].time, kept[i].thread, &(struct listener){ NULL, NULL });
}

static void take_reason(struct vcpus *v, struct vcpu *c, const struct htrace_member *m, __u64 value)
{
	bool named = m->type->kind == HTRACE_TYPE_ENUM;

	c->reason = find_reason(v, (__u32)value, named ? htrace_enum_name(m->type, value) : NULL);
}

static void follow(struct vcpus *v, struct vcpu *c, const struct vcpu_event *e,
		   const struct seen *s, const struct listener *l)
{
	__u64 time = s->time;
	__u32 thread = s->thread;

	switch (e->kind) {
	case KIND_EXIT:
		take_reason(v, c, e->reason, s->reason);
		enter(v, c, VCPU_OUT, time, thread, l);
		break;
	case KIND_ENTRY:
		c->reason = 0;
		enter(v, c, VCPU_RUNNING, time, thread, l);
		break;
	case KIND_OUTSIDE:
	case KIND_SCHED_IN:
		enter(v, c, VCPU_OUT, time, thread, l);
		break;
	case KIND_SCHED_OUT:
		sched_out(v, c, s, l);
		break;
	case KIND_WHOLE:
		take_reason(v, c, e->reason, s->reason);
		went_out(v, c, s->detail < time ? time - s->detail : 0, thread, l);
		c->reason = 0;
		/* Of 0 ns: its thread ended. */
		enter(v, c, s->detail ? VCPU_RUNNING : VCPU_UNKNOWN, time, thread, l);
		break;
	case KIND_NONE:
		break;
	}
}

/* What is known of it when its next event comes, of @thread. False: nothing is, after it either. */
static bool catch_up(struct vcpus *v, struct vcpu *c, __u64 time, __u32 thread,
		     const struct listener *l)
{
	__u64 since = 0;

	if (time < c->seen) { /* it came too late for what was said since */
		lose_track(v, c, c->seen, l);
		return false;
	}
	if (newest(c) && newest(c)->thread != thread)
		lose_track(v, c, c->seen, l);
	if (find_gap(v, c->seen, time, &since))
		lose_track(v, c, since, l);
	c->seen = time;
	/* Others of its events may be missing right here. */
	return !find_gap(v, time, time + 1, &since);
}

static void take_taker(const struct vcpu_event *e, const struct htrace_record *r, struct seen *s)
{
	__u64 tid;
	__u32 at, len;

	if (!e->next_tid || !e->next_comm || !get(e->next_tid, r, &tid))
		return;
	at = e->next_comm->bit_off / 8;
	len = e->next_comm->type->size < VCPUS_COMM ? e->next_comm->type->size : VCPUS_COMM;
	if (at + len > r->len)
		return;
	memcpy(s->taker.comm, (const char *)r->payload + at, len);
	s->taker.tid = (__u32)tid;
	s->taken = true;
}

static bool take_fields(const struct vcpu_event *e, const struct htrace_record *r, struct seen *s)
{
	__u64 vm, tid, vcpu;

	if (!get(e->vm, r, &vm) || !get(e->tid, r, &tid) || !get(e->vcpu, r, &vcpu) ||
	    (e->reason && !get(e->reason, r, &s->reason)) ||
	    (e->detail && !get(e->detail, r, &s->detail)))
		return false;
	s->vm = (__u32)vm;
	s->vcpu = (__u32)vcpu;
	s->thread = (__u32)tid;
	take_taker(e, r, s);
	return s->vm != 0;
}

void vcpus_take(struct vcpus *v, const struct vcpu_events *events, const struct htrace_record *r,
		__u64 time, vcpu_changed *changed, void *ctx)
{
	const struct listener l = { changed, ctx };
	const struct vcpu_event *e;
	struct seen s = { .time = time };
	struct vcpu *c;

	if (!events || r->id >= events->nr)
		return;
	e = &events->event[r->id];
	if (e->kind == KIND_NONE || !take_fields(e, r, &s))
		return;
	if (v->ended) {
		vcpus_lose(v, v->latest, time);
		v->ended = false;
	}
	c = get_vcpu(v, s.vm, s.vcpu, time);
	if (c && catch_up(v, c, time, s.thread, &l))
		follow(v, c, e, &s, &l);
	v->latest = time > v->latest ? time : v->latest;
}

/* ---------------------------------------------------------------------------------------- asking */

/* How many changes there were up to @time: `from` if that is too long ago. */
static __u32 changes_until(const struct vcpu *c, __u32 from, __u64 time)
{
	__u32 to = c->nr_past;

	while (from < to) {
		__u32 middle = from + (to - from) / 2;

		if (c->past[middle % VCPUS_PAST].time <= time)
			from = middle + 1;
		else
			to = middle;
	}
	return from;
}

/* Did everything come that happened until then? */
static bool is_known(const struct vcpus *v, __u64 time)
{
	for (unsigned int i = 0; i < v->open; i++)
		if (time > *v->known[i])
			return false;
	return time <= v->latest || time - v->latest <= AHEAD_NS;
}

static const struct change *change_of(const struct vcpu *c, __u32 nr)
{
	return &c->past[nr % VCPUS_PAST];
}

/* When it ran last before change @nr, at most @bound before @time, or may have; NULL: it did not. */
static const struct change *ran_before(const struct vcpu *c, __u32 oldest, __u32 nr, __u64 time,
				       __u64 bound, __u64 *when)
{
	for (; nr > oldest && time - change_of(c, nr)->time <= bound; nr--)
		if (change_of(c, nr - 1)->state <= VCPU_RUNNING) {
			*when = change_of(c, nr)->time;
			return change_of(c, nr - 1);
		}
	return NULL;
}

/* Likewise when it ran first from change @nr on. */
static const struct change *ran_after(const struct vcpu *c, __u32 nr, __u64 time, __u64 bound,
				      __u64 *when)
{
	for (; nr < c->nr_past && change_of(c, nr)->time - time <= bound; nr++)
		if (change_of(c, nr)->state <= VCPU_RUNNING) {
			*when = change_of(c, nr)->time;
			return change_of(c, nr);
		}
	return NULL;
}

/*
 * What it was in at a guest's @time, which is right to @bound. Whose event it is was running then: so if it
 * can have been running, it was, at *@when, which is the nearest such time. NULL: it is not known.
 */
static const struct change *state_at(const struct vcpus *v, const struct vcpu *c, __u64 time,
				     __u64 bound, __u64 *when)
{
	__u32 oldest = c->nr_past > VCPUS_PAST ? c->nr_past - VCPUS_PAST : 0;
	__u32 nr = changes_until(c, oldest, time);
	__u64 since, before = 0, after = 0, reach;
	const struct change *at, *ran, *runs;

	*when = time;
	if (nr == oldest || bound > AHEAD_NS || !is_known(v, time))
		return NULL;
	at = change_of(c, nr - 1);
	reach = at->state > VCPU_RUNNING ? bound : 0;
	if (reach) {
		ran = ran_before(c, oldest, nr - 1, time, bound, &before);
		runs = ran_after(c, nr, time, bound, &after);
		if (ran && (!runs || time - before <= after - time)) {
			*when = before;
			return ran;
		}
		if (runs) {
			*when = after;
			return runs;
		}
	}
	/* It may run next, or what was seen of it is over. */
	if ((reach && !is_known(v, time + reach + 1)) ||
	    (nr == c->nr_past && find_gap(v, c->seen, time + reach + 1, &since)))
		return NULL;
	return at;
}

void vcpus_look(struct vcpus *v, __u32 vm, __u32 vcpu, __u64 time, __u64 bound,
		struct vcpu_mark *mark, struct vcpu_view *view)
{
	const struct vcpu *c = *find_slot(v, vm, vcpu);
	const struct change *at;
	__u64 when;

	*view = (struct vcpu_view){ .vm = vm, .vcpu = vcpu };
	at = c ? state_at(v, c, time, bound, &when) : NULL;
	if (!at || at->state == VCPU_UNKNOWN) {
		mark->known = false;
		return;
	}
	view->thread = at->thread;
	view->state = at->state;
	view->why = why(v, at);
	lost_at(v, at, when, &view->out, &view->preempted);
	if (mark->known && mark->nr == c->nr && mark->breaks == at->breaks && mark->time <= when) {
		view->since_known = true;
		view->out_since = view->out - mark->out;
		view->preempted_since = view->preempted - mark->preempted;
	}
	*mark = (struct vcpu_mark){
		.known = true, .nr = c->nr, .breaks = at->breaks, .time = when, .out = view->out,
		.preempted = view->preempted,
	};
}
