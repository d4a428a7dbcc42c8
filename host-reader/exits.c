/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "exits.h"

#include <stdlib.h>
#include <string.h>

/* ------------------------------------------------------------------------------------- counting */

struct exits *exits_new(void)
{
	struct exits *x = calloc(1, sizeof(*x));

	if (x && !table_init(&x->vcpus, EXITS_VCPUS, sizeof(struct exits_vcpu)) &&
	    !table_init(&x->rows, EXITS_ROWS, sizeof(struct exits_row)) &&
	    !table_init(&x->places, EXITS_PLACES, sizeof(struct exits_place)))
		return x;
	exits_free(x);
	return NULL;
}

void exits_free(struct exits *x)
{
	if (!x)
		return;
	table_free(&x->vcpus);
	table_free(&x->rows);
	table_free(&x->places);
	for (unsigned int i = 0; i < EXITS_SOURCES; i++)
		free(x->rings[i]);
	free(x);
}

static __u64 vm_key(unsigned int source, __u32 vm)
{
	return (__u64)source << 32 | vm;
}

static struct exits_row *get_row(struct exits *x, const struct exits_vcpu *v, __u32 vcpu,
				 __u32 reason, const char *name)
{
	struct table_key key = { vm_key(v->source, v->vm), vcpu, reason };
	struct exits_row *r = table_get(&x->rows, &key);

	if (!r)
		return NULL;
	if (!r->out.count) {
		r->source = v->source;
		r->vm = v->vm;
		r->vcpu = vcpu;
		r->reason = reason;
		if (*name)
			strcpy(r->name, name);
	}
	return r;
}

static struct exits_place *get_place(struct exits *x, const struct exits_vcpu *v)
{
	struct table_key key = { vm_key(v->source, v->vm), v->reason, v->rip };
	struct exits_place *p = table_get(&x->places, &key);

	if (!p)
		return NULL;
	p->source = v->source;
	p->vm = v->vm;
	p->reason = v->reason;
	p->rip = v->rip;
	return p;
}

/* The exit that @v was in took @ns. */
static void count(struct exits *x, struct exits_vcpu *v, __u64 ns, bool was_off)
{
	struct exits_off o = {
		.row = { get_row(x, v, v->vcpu, v->reason, v->name),
			 get_row(x, v, EXITS_ALL, v->reason, v->name),
			 get_row(x, v, EXITS_ALL, EXITS_ALL, "") },
		.place = get_place(x, v),
		.vcpu = v,
		.back = v->back,
		.ns = ns,
		.asleep = v->asleep,
		.preempted = v->preempted,
	};

	for (unsigned int i = 0; i < 3; i++) {
		if (!o.row[i])
			continue;
		durations_add(&o.row[i]->out, ns);
		o.row[i]->asleep += o.asleep;
		o.row[i]->preempted += o.preempted;
	}
	x->beyond += !o.row[0] || !o.row[1] || !o.row[2];
	if (o.place) {
		o.place->count++;
		o.place->ns += ns;
	}
	v->exits++;
	v->out_ns += ns;
	v->asleep_ns += o.asleep;
	v->preempted_ns += o.preempted;
	if (was_off)
		x->off[x->nr_off++ % EXITS_OFF] = o;
}

static void take_back(struct exits *x, struct exits_off *o)
{
	for (unsigned int i = 0; i < 3; i++) {
		if (!o->row[i])
			continue;
		durations_take_back(&o->row[i]->out, o->ns);
		o->row[i]->asleep -= o->asleep;
		o->row[i]->preempted -= o->preempted;
	}
	if (o->place) {
		o->place->count--;
		o->place->ns -= o->ns;
	}
	o->vcpu->exits--;
	o->vcpu->out_ns -= o->ns;
	o->vcpu->asleep_ns -= o->asleep;
	o->vcpu->preempted_ns -= o->preempted;
	o->vcpu = NULL;
	x->voided++;
}

/* -------------------------------------------------------------------------------------- pairing */

/* What it was in is not known any more, nor how long that took. */
static void make_void(struct exits *x, struct exits_vcpu *v)
{
	if (v->state == EXITS_OUT)
		x->voided++;
	v->state = v->state == EXITS_OUT || v->state == EXITS_VOID_EXIT ? EXITS_VOID_EXIT : EXITS_VOID;
	v->off = false;
	v->asleep = v->preempted = 0;
}

/* Can what @v does now follow what it did last? If not, something between was lost, and is told later. */
static bool follows(const struct exits_vcpu *v, unsigned int ring, bool comes_back)
{
	if (v->state != EXITS_GUEST && v->state != EXITS_OUT)
		return true;
	return comes_back ? v->off : !v->off && v->ring == ring;
}

/* The vCPU to which something happens; NULL: it cannot be used. */
static struct exits_vcpu *get_vcpu(struct exits *x, const struct exits_at *at, bool comes_back)
{
	struct table_key key = { vm_key(at->source, at->vm), at->tid, at->vcpu };
	struct exits_vcpu *v = table_get(&x->vcpus, &key);

	if (!v) {
		x->beyond++;
		return NULL;
	}
	v->source = at->source;
	v->vm = at->vm;
	v->tid = at->tid;
	v->vcpu = at->vcpu;
	if (at->time < v->last) { /* it came too late for the merge */
		make_void(x, v);
		return NULL;
	}
	if (!follows(v, at->ring, comes_back))
		make_void(x, v);
	v->ring = at->ring;
	v->last = at->time;
	return v;
}

static void enter(struct exits_vcpu *v, __u64 time)
{
	v->state = EXITS_GUEST;
	v->since = time;
	v->asleep = v->preempted = 0;
}

static void leave(struct exits_vcpu *v, __u64 time, const struct exits_why *why)
{
	size_t len = why->name ? strnlen(why->name, sizeof(v->name) - 1) : 0;

	if (v->state == EXITS_GUEST && time > v->since)
		v->guest_ns += time - v->since;
	v->state = EXITS_OUT;
	v->since = time;
	v->reason = why->reason;
	v->rip = why->rip;
	memcpy(v->name, why->name ? why->name : "", len);
	v->name[len] = 0;
}

void exits_exit(struct exits *x, const struct exits_at *at, const struct exits_why *why)
{
	struct exits_vcpu *v = get_vcpu(x, at, false);

	if (!v)
		return;
	x->no_entry += v->state == EXITS_OUT;
	leave(v, at->time, why);
	v->asleep = v->preempted = 0;
}

void exits_entry(struct exits *x, const struct exits_at *at)
{
	struct exits_vcpu *v = get_vcpu(x, at, false);

	if (!v)
		return;
	if (v->state == EXITS_OUT)
		count(x, v, at->time - v->since, v->back > v->since);
	else if (v->state == EXITS_VOID)
		x->voided++;
	else if (v->state != EXITS_VOID_EXIT)
		x->no_exit++;
	enter(v, at->time);
}

void exits_whole(struct exits *x, const struct exits_at *at, const struct exits_why *why, __u64 ns)
{
	struct exits_vcpu *v = get_vcpu(x, at, false);

	if (!v)
		return;
	x->no_entry += v->state == EXITS_OUT;
	leave(v, at->time - ns, why);
	if (ns)
		count(x, v, ns, false); /* it was measured where it happened */
	else
		x->no_entry++;
	enter(v, at->time);
	if (!ns)
		v->state = EXITS_UNKNOWN;
}

void exits_sched_out(struct exits *x, const struct exits_at *at, bool preempted)
{
	struct exits_vcpu *v = get_vcpu(x, at, false);

	if (!v)
		return;
	v->off = true;
	v->waits = preempted;
	v->off_since = at->time;
}

void exits_sched_in(struct exits *x, const struct exits_at *at)
{
	struct exits_vcpu *v = get_vcpu(x, at, true);

	if (!v)
		return;
	if (v->off)
		*(v->waits ? &v->preempted : &v->asleep) += at->time - v->off_since;
	v->off = false;
	v->back = at->time;
}

/* ----------------------------------------------------------------------------------- what is lost */

/* NULL: not followed, for a number that cannot be, or for want of memory. */
static struct exits_ring *get_ring(struct exits *x, unsigned int source, unsigned int ring)
{
	if (source >= EXITS_SOURCES || ring >= HTRACE_MAX_RINGS)
		return NULL;
	if (!x->rings[source])
		x->rings[source] = calloc(HTRACE_MAX_RINGS, sizeof(**x->rings));
	return x->rings[source] ? &x->rings[source][ring] : NULL;
}

/* All that a vCPU may have done there after @from is void. */
static void lose(struct exits *x, unsigned int source, unsigned int ring, __u64 from)
{
	__u64 nr = x->nr_off < EXITS_OFF ? x->nr_off : EXITS_OFF;
	struct exits_vcpu *v;

	for (size_t i = 0; (v = table_next(&x->vcpus, &i)) != NULL;)
		if (v->source == source && (v->ring == ring || v->off || v->back > from))
			make_void(x, v);
	for (__u64 i = 0; i < nr; i++)
		if (x->off[i].vcpu && x->off[i].vcpu->source == source && x->off[i].back > from)
			take_back(x, &x->off[i]);
}

void exits_loss(struct exits *x, unsigned int source, unsigned int ring, __u64 lost)
{
	struct exits_ring *r = get_ring(x, source, ring);

	x->lost += lost;
	lose(x, source, ring, r ? r->time : 0);
	if (r)
		r->lost = true;
}

void exits_seen(struct exits *x, const struct exits_at *at)
{
	struct exits_ring *r = get_ring(x, at->source, at->ring);

	if (!x->first)
		x->first = at->time;
	if (at->time > x->last)
		x->last = at->time;
	if (!r)
		return;
	if (r->lost) /* until now */
		lose(x, at->source, at->ring, r->time);
	r->lost = false;
	r->time = at->time;
}

void exits_end(struct exits *x, unsigned int source)
{
	struct exits_vcpu *v;

	for (size_t i = 0; (v = table_next(&x->vcpus, &i)) != NULL;) {
		if (v->source != source)
			continue;
		x->left_out += v->state == EXITS_OUT;
		v->state = EXITS_UNKNOWN;
		v->off = false;
		v->last = v->back = v->asleep = v->preempted = 0;
	}
	for (unsigned int i = 0; i < EXITS_OFF; i++)
		if (x->off[i].vcpu && x->off[i].vcpu->source == source)
			x->off[i].vcpu = NULL; /* it stays counted */
	if (source < EXITS_SOURCES && x->rings[source])
		memset(x->rings[source], 0, HTRACE_MAX_RINGS * sizeof(**x->rings));
}

__u64 exits_out_now(const struct exits *x)
{
	const struct exits_vcpu *v;
	__u64 nr = 0;

	for (size_t i = 0; (v = table_next(&x->vcpus, &i)) != NULL;)
		nr += v->state == EXITS_OUT;
	return nr;
}

/* ------------------------------------------------------------------------------------ in an order */

static int compare_numbers(__u64 a, __u64 b)
{
	return a < b ? -1 : a > b;
}

static int rows_by_time(const void *a, const void *b)
{
	const struct exits_row *x = *(struct exits_row *const *)a, *y = *(struct exits_row *const *)b;
	int c = compare_numbers(y->out.sum, x->out.sum);

	return c ? c : compare_numbers(x->reason, y->reason);
}

static int rows_by_vm(const void *a, const void *b)
{
	const struct exits_row *x = *(struct exits_row *const *)a, *y = *(struct exits_row *const *)b;

	return compare_numbers(x->key.a, y->key.a);
}

static int vcpus_by_number(const void *a, const void *b)
{
	const struct exits_vcpu *x = *(struct exits_vcpu *const *)a,
				*y = *(struct exits_vcpu *const *)b;
	int c = compare_numbers(x->vcpu, y->vcpu);

	return c ? c : compare_numbers(x->tid, y->tid);
}

static int places_by_count(const void *a, const void *b)
{
	const struct exits_place *x = *(struct exits_place *const *)a,
				 *y = *(struct exits_place *const *)b;
	int c = compare_numbers(y->count, x->count);

	return c ? c : compare_numbers(x->rip, y->rip);
}

struct choice {
	const struct exits_row *vm, *row;
	__u32 vcpu;
};

static bool is_row(const void *thing, const struct choice *c)
{
	const struct exits_row *r = thing;

	if (!r->out.count)
		return false;
	if (!c->vm)
		return r->vcpu == EXITS_ALL && r->reason == EXITS_ALL;
	return r->key.a == c->vm->key.a && r->vcpu == c->vcpu && r->reason != EXITS_ALL;
}

static bool is_vcpu(const void *thing, const struct choice *c)
{
	return ((const struct exits_vcpu *)thing)->key.a == c->vm->key.a;
}

static bool is_place(const void *thing, const struct choice *c)
{
	const struct exits_place *p = thing;

	return p->count && p->key.a == c->row->key.a && p->reason == c->row->reason;
}

static void *choose(const struct table *t, bool (*is)(const void *, const struct choice *),
		    const struct choice *c, int (*compare)(const void *, const void *), size_t *nr)
{
	const void **list = calloc(t->nr + 1, sizeof(*list)), *thing;

	*nr = 0;
	if (!list)
		return NULL;
	for (size_t i = 0; (thing = table_next(t, &i)) != NULL;)
		if (is(thing, c))
			list[(*nr)++] = thing;
	qsort(list, *nr, sizeof(*list), compare);
	return list;
}

struct exits_row **exits_rows(const struct exits *x, const struct exits_row *vm, __u32 vcpu,
				    size_t *nr)
{
	struct choice c = { .vm = vm, .vcpu = vcpu };

	return choose(&x->rows, is_row, &c, vm ? rows_by_time : rows_by_vm, nr);
}

struct exits_vcpu **exits_vcpus(const struct exits *x, const struct exits_row *vm, size_t *nr)
{
	struct choice c = { .vm = vm };

	return choose(&x->vcpus, is_vcpu, &c, vcpus_by_number, nr);
}

struct exits_place **exits_places(const struct exits *x, const struct exits_row *row, size_t *nr)
{
	struct choice c = { .row = row };

	return choose(&x->places, is_place, &c, places_by_count, nr);
}
