/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "host_events.h"

#include <stdlib.h>
#include <string.h>

enum field { F_VM, F_TID, F_VCPU, F_REASON, F_RIP, F_STATE, F_NS, FIELDS };

static const char *const field_name[FIELDS] = {
	"vm", "tid", "vcpu", "reason", "guest_rip", "prev_state", "exit_overhead_ns",
};

#define WHO (1u << F_VM | 1u << F_TID | 1u << F_VCPU)
#define WHY (1u << F_REASON | 1u << F_RIP)

static const struct {
	const char *name;
	unsigned int needs; /* bits of fields */
} kind[HOST_KINDS] = {
	[HOST_EXIT] = { "kvm_exit", WHO | WHY },
	[HOST_ENTRY] = { "kvm_entry", WHO },
	[HOST_SCHED_OUT] = { "kvm_sched_out", WHO | 1u << F_STATE },
	[HOST_SCHED_IN] = { "kvm_sched_in", WHO },
	[HOST_HYPERCALL] = { "hypercall", WHO | WHY | 1u << F_NS },
	[HOST_IO] = { "kvm_io", WHO | WHY | 1u << F_NS },
	[HOST_MMIO] = { "kvm_mmio_access", WHO | WHY | 1u << F_NS },
	[HOST_EXITED] = { "kvm_exited", WHO | WHY | 1u << F_NS },
};

/* One session's schema, as far as it was needed. */
struct known {
	struct known *next;
	const struct sink_session *session;
	__u64 schema;
	struct {
		const struct htrace_member *field[FIELDS];
	} of[HOST_KINDS];
	__u8 kind[65536]; /* by id */
};

struct host_events {
	struct known *known;
};

struct host_events *host_events_new(void)
{
	return calloc(1, sizeof(struct host_events));
}

void host_events_free(struct host_events *h)
{
	while (h && h->known)
		host_events_session_end(h, h->known->session);
	free(h);
}

void host_events_session_end(struct host_events *h, const struct sink_session *session)
{
	for (struct known **at = &h->known; *at; at = &(*at)->next) {
		struct known *k = *at;

		if (k->session != session)
			continue;
		*at = k->next;
		free(k);
		return;
	}
}

static struct known *find_known(struct host_events *h, const struct sink_session *session)
{
	struct known *k = h->known;

	while (k && k->session != session)
		k = k->next;
	if (!k) {
		k = calloc(1, sizeof(*k));
		if (!k)
			return NULL;
		k->next = h->known;
		k->session = session;
		h->known = k;
	} else if (k->schema != session->schema) {
		memset(k->of, 0, sizeof(k->of));
		memset(k->kind, 0, sizeof(k->kind));
	}
	k->schema = session->schema;
	return k;
}

static bool is_number(const struct htrace_member *m)
{
	const struct htrace_type *t = m->type;

	return (t->kind == HTRACE_TYPE_INT || t->kind == HTRACE_TYPE_ENUM) && !m->bit_size &&
	       !(m->bit_off % 8) && t->size <= 8;
}

static enum host_kind look_at(struct known *k, const struct htrace_event *e)
{
	unsigned int has = 0, i = HOST_EXIT;

	while (i < HOST_KINDS && strcmp(kind[i].name, e->name) != 0)
		i++;
	if (i == HOST_KINDS)
		return HOST_OTHER;
	for (__u32 m = 0; m < e->type->nr; m++)
		for (unsigned int f = 0; f < FIELDS; f++)
			if (!strcmp(e->type->members[m].name, field_name[f]) &&
			    is_number(&e->type->members[m])) {
				k->of[i].field[f] = &e->type->members[m];
				has |= 1u << f;
			}
	return (has & kind[i].needs) == kind[i].needs ? i : HOST_OTHER;
}

/* False: there is no such field, or the record ends before it. */
static bool get(const struct htrace_record *r, const struct htrace_member *m, __u64 *v)
{
	const unsigned char *at;

	*v = 0;
	if (!m || m->bit_off / 8 + m->type->size > r->len)
		return false;
	at = (const unsigned char *)r->payload + m->bit_off / 8;
	memcpy(v, at, m->type->size); /* little-endian, as all of the format is */
	return true;
}

void host_events_take(struct host_events *h, const struct sink_event *e, struct host_event *out)
{
	struct known *k = e->event ? find_known(h, e->from->session) : NULL;
	const struct htrace_member *const *field;
	__u64 v[FIELDS];
	unsigned int has = 0;

	*out = (struct host_event){ .kind = HOST_OTHER };
	if (!k)
		return;
	if (k->kind[e->event->id & 0xffff] == HOST_UNKNOWN)
		k->kind[e->event->id & 0xffff] = look_at(k, e->event);
	out->kind = k->kind[e->event->id & 0xffff];
	if (out->kind == HOST_OTHER)
		return;
	field = k->of[out->kind].field;
	for (unsigned int f = 0; f < FIELDS; f++)
		has |= (unsigned int)get(e->record, field[f], &v[f]) << f;
	if ((has & kind[out->kind].needs) != kind[out->kind].needs) {
		out->kind = HOST_OTHER;
		return;
	}
	out->vm = (__u32)v[F_VM];
	out->tid = (__u32)v[F_TID];
	out->vcpu = (__u32)v[F_VCPU];
	out->reason = (__u32)v[F_REASON];
	if (field[F_REASON] && field[F_REASON]->type->kind == HTRACE_TYPE_ENUM)
		out->reason_name = htrace_enum_name(field[F_REASON]->type, v[F_REASON]);
	out->rip = v[F_RIP];
	out->ns = v[F_NS];
	out->preempted = !(v[F_STATE] & 0xff); /* bit 8 says how it came to it */
}
