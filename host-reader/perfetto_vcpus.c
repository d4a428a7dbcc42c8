/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Virtual CPUs: below the machine that the kvm source is, a track of each VM, and below that a track
 * of slices and a counter for each of its virtual CPUs. Of what is not known there is no slice.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#include "perfetto.h"
#include "vcpus.h"

#define SLOTS 8192u /* twice what is followed at a time, so old ones give way */
#define MASK 0x7fffffu /* of what a track's number has room for */

_Static_assert(SLOTS >= 2 * VCPUS_MAX, "numbers of virtual CPUs that are there at a time do not collide");

struct pf_vcpus {
	__u32 nr_vms;
	__u32 vm[SLOTS]; /* by hash: those that have a track */
	struct {
		__u32 nr; /* the one with tracks; 0: none */
		bool open; /* a slice is */
		bool stole; /* its counter was described */
	} vcpu[SLOTS]; /* by number */
};

static void describe(struct pf *p, struct pf_machine *m, enum pf_track track, __u32 nr, __u64 parent,
		     const char *name, const char *unit)
{
	pf_describe(p, m, pf_uuid(m->id, track, false, nr & MASK), parent, name, unit);
}

/* What its own events say it is called, if there are any. */
static void name_vm(const struct pf *p, __u32 vm, char *name, size_t len)
{
	const struct pf_machine *m = p->machines;

	while (m && (!m->session || m->session->vm != vm))
		m = m->next;
	if (m)
		snprintf(name, len, "VM %u (%s)", vm, m->name);
	else
		snprintf(name, len, "VM %u", vm);
}

static __u64 vm_track(struct pf *p, struct pf_machine *m, __u32 vm)
{
	struct pf_vcpus *v = m->vcpus;
	__u32 at = vm * 0x9e3779b1u >> 19;
	char name[440];

	_Static_assert(SLOTS == 1u << 13, "the hash's upper bits are a slot");
	while (v->vm[at] && v->vm[at] != vm)
		at = (at + 1) % SLOTS;
	if (!v->vm[at] && v->nr_vms < SLOTS / 2) {
		v->vm[at] = vm;
		v->nr_vms++;
		name_vm(p, vm, name, sizeof(name));
		describe(p, m, PF_VM, vm, pf_uuid(m->id, PF_MACHINE, false, 0), name, NULL);
	}
	return pf_uuid(m->id, PF_VM, false, vm & MASK);
}

static void put(struct pf *p, struct pf_machine *m, Pf__TrackEvent *e, enum pf_track track, __u32 nr,
		__u64 time)
{
	e->has_track_uuid = e->has_type = true;
	e->track_uuid = pf_uuid(m->id, track, false, nr & MASK);
	pf_event(p, m, time, e);
}

static void end_slice(struct pf *p, struct pf_machine *m, __u32 nr, __u64 time)
{
	Pf__TrackEvent e = PF__TRACK_EVENT__INIT;

	if (!m->vcpus->vcpu[nr % SLOTS].open)
		return;
	m->vcpus->vcpu[nr % SLOTS].open = false;
	e.type = PF__TRACK_EVENT__TYPE__TYPE_SLICE_END;
	pf_begin(p, m);
	put(p, m, &e, PF_VCPU, nr, time);
}

static void begin_slice(struct pf *p, struct pf_machine *m, const struct vcpu_change *c, __u64 time)
{
	Pf__TrackEvent e = PF__TRACK_EVENT__INIT;
	char name[PF_NAME];

	if (c->state == VCPU_OUT && c->why)
		snprintf(name, sizeof(name), "out (%s)", c->why);
	else
		snprintf(name, sizeof(name), "%s", vcpu_state_names[c->state]);
	m->vcpus->vcpu[c->nr % SLOTS].open = true;
	e.type = PF__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN;
	pf_begin(p, m);
	e.has_name_iid = true;
	e.name_iid = pf_intern(p, m, PF_EVENT_NAME, name);
	pf_args_begin(p);
	pf_args_count(p, m, "thread", c->thread);
	pf_args_end(p, &e);
	put(p, m, &e, PF_VCPU, c->nr, time);
}

/* Whenever it ran again: how long it was kept from that so far. */
static void count_steal(struct pf *p, struct pf_machine *m, const struct vcpu_change *c, __u64 time)
{
	Pf__TrackEvent e = PF__TRACK_EVENT__INIT;
	char name[64];

	if (!m->vcpus->vcpu[c->nr % SLOTS].stole) {
		snprintf(name, sizeof(name), "VM %u vCPU %u steal", c->vm, c->vcpu);
		describe(p, m, PF_STEAL, c->nr, vm_track(p, m, c->vm), name, "ns");
	}
	m->vcpus->vcpu[c->nr % SLOTS].stole = true;
	e.type = PF__TRACK_EVENT__TYPE__TYPE_COUNTER;
	e.has_counter_value = true;
	e.counter_value = (__s64)c->preempted;
	pf_begin(p, m);
	put(p, m, &e, PF_STEAL, c->nr, time);
}

/* Its track, unless it has it. */
static void describe_vcpu(struct pf *p, struct pf_machine *m, const struct vcpu_change *c)
{
	struct pf_vcpus *v = m->vcpus;
	__u64 vm = vm_track(p, m, c->vm);
	char name[64];

	if (v->vcpu[c->nr % SLOTS].nr == c->nr)
		return;
	v->vcpu[c->nr % SLOTS].nr = c->nr;
	v->vcpu[c->nr % SLOTS].open = v->vcpu[c->nr % SLOTS].stole = false;
	snprintf(name, sizeof(name), "VM %u vCPU %u", c->vm, c->vcpu);
	describe(p, m, PF_VCPU, c->nr, vm, name, NULL);
}

void pf_vcpu(struct pf *p, struct pf_machine *m, const struct vcpu_change *c, __u64 time)
{
	if (!m->vcpus)
		m->vcpus = calloc(1, sizeof(*m->vcpus));
	if (!m->vcpus) {
		p->error = ENOMEM;
		return;
	}
	describe_vcpu(p, m, c);
	end_slice(p, m, c->nr, time);
	if (c->before == VCPU_PREEMPTED)
		count_steal(p, m, c, time);
	if (c->state != VCPU_UNKNOWN)
		begin_slice(p, m, c, time);
}

/* Nothing more is known. */
void pf_vcpus_end(struct pf *p, struct pf_machine *m)
{
	for (__u32 i = 0; m->vcpus && i < SLOTS && !p->error; i++)
		end_slice(p, m, m->vcpus->vcpu[i].nr, m->last);
}
