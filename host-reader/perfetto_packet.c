/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

#include <htrace/schema.h>

#include "perfetto.h"

/* Sequences: one of the host, one of each machine. */
#define HOST_SEQUENCE 1u

void pf_text(char *to, size_t size, const char *s, size_t len)
{
	to[htrace_escape(to, size - 1, s, strnlen(s, len))] = 0;
}

void pf_put(struct pf *p, const struct pf_machine *m, Pf__TracePacket *packet)
{
	Pf__Trace trace = PF__TRACE__INIT;
	size_t len;

	packet->has_trusted_packet_sequence_id = true;
	packet->trusted_packet_sequence_id = HOST_SEQUENCE + (m ? m->id : 0);
	packet->has_machine_id = m != NULL;
	packet->machine_id = m ? m->id : 0;
	trace.n_packet = 1;
	trace.packet = &packet;
	len = pf__trace__get_packed_size(&trace);
	if (len > sizeof(p->packet)) { /* no limit of ours allows it */
		p->error = p->error ? p->error : EOVERFLOW;
		return;
	}
	pf__trace__pack(&trace, p->packet);
	/* A packet is written in one piece with others: what is there can be read at any time. */
	if ((size_t)(p->out->end - p->out->at) < len)
		out_flush(p->out);
	out_mem(p->out, (const char *)p->packet, len);
}

/* --------------------------------------------------------------------------------------- clocks */

static __u64 clock_of(clockid_t id)
{
	struct timespec t;

	clock_gettime(id, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

static void set_clock(Pf__ClockSnapshot__Clock *c, Pf__BuiltinClock id, __u64 time)
{
	pf__clock_snapshot__clock__init(c);
	c->has_clock_id = c->has_timestamp = true;
	c->clock_id = id;
	c->timestamp = time;
}

/* Real time is the trace's: it is what the machines' clocks have in common. */
void pf_put_host(struct pf *p)
{
	Pf__TracePacket packet = PF__TRACE_PACKET__INIT;
	Pf__ClockSnapshot snapshot = PF__CLOCK_SNAPSHOT__INIT;
	Pf__ClockSnapshot__Clock clock[3], *clocks[] = { &clock[0], &clock[1], &clock[2] };

	set_clock(&clock[0], PF__BUILTIN_CLOCK__CLOCK_BOOTTIME, clock_of(CLOCK_BOOTTIME));
	set_clock(&clock[1], PF__BUILTIN_CLOCK__CLOCK_MONOTONIC, clock_of(CLOCK_MONOTONIC));
	set_clock(&clock[2], PF__BUILTIN_CLOCK__CLOCK_REALTIME, clock_of(CLOCK_REALTIME));
	snapshot.n_clocks = 3;
	snapshot.clocks = clocks;
	snapshot.has_primary_trace_clock = true;
	snapshot.primary_trace_clock = PF__BUILTIN_CLOCK__CLOCK_REALTIME;
	packet.clock_snapshot = &snapshot;
	pf_put(p, NULL, &packet);
}

/* Of all machines whose times are that host's. */
static __u64 ahead_of(struct pf *p, const struct pf_machine *m)
{
	__u64 ahead = m->session->host_real, now = clock_of(CLOCK_REALTIME);
	const __u8 *host = m->session->host_boot_id;

	for (unsigned int i = 0; i < p->nr_hosts; i++)
		if (!memcmp(p->host[i].boot_id, host, sizeof(p->host[i].boot_id)))
			return p->host[i].ahead;
	if (!ahead || ahead >= PF_TIME_MAX)
		ahead = now > m->last ? now - m->last : 1;
	if (p->nr_hosts < PF_HOSTS) {
		memcpy(p->host[p->nr_hosts].boot_id, host, sizeof(p->host[0].boot_id));
		p->host[p->nr_hosts++].ahead = ahead;
	}
	return ahead;
}

/* When it was what time there. Without a sample: now, when its first event is written. */
static void sample_of(struct pf *p, const struct pf_machine *m, __u64 *mono, __u64 *real)
{
	const struct htrace_clock_sample *c = &m->session->clock;

	if (m->session->on_host) {
		__u64 ahead = ahead_of(p, m);

		*mono = m->last && m->last < PF_TIME_MAX - ahead ? m->last : 1;
		*real = *mono + ahead;
		return;
	}
	*mono = c->mono;
	*real = c->real;
	if (c->mono && c->real && c->mono < PF_TIME_MAX && c->real < PF_TIME_MAX)
		return;
	*mono = m->last ? m->last : 1;
	*real = clock_of(CLOCK_REALTIME);
}

/*
 * A reader of the trace takes boot time for the clock of the kernel's events. What we have is the
 * monotonic clock, which is the same but for the time that the machine was suspended. It wants two
 * rounds, and takes their mean.
 */
static void put_clocks(struct pf *p, const struct pf_machine *m)
{
	Pf__TracePacket packet = PF__TRACE_PACKET__INIT;
	Pf__RemoteClockSync sync = PF__REMOTE_CLOCK_SYNC__INIT;
	Pf__RemoteClockSync__SyncedClocks round = PF__REMOTE_CLOCK_SYNC__SYNCED_CLOCKS__INIT;
	Pf__RemoteClockSync__SyncedClocks *rounds[] = { &round, &round };
	Pf__ClockSnapshot host = PF__CLOCK_SNAPSHOT__INIT, client = PF__CLOCK_SNAPSHOT__INIT;
	Pf__ClockSnapshot__Clock clock[3], *clocks[] = { &clock[0], &clock[1], &clock[2] };
	__u64 mono, real;

	sample_of(p, m, &mono, &real);
	set_clock(&clock[0], PF__BUILTIN_CLOCK__CLOCK_BOOTTIME, mono);
	set_clock(&clock[1], PF__BUILTIN_CLOCK__CLOCK_MONOTONIC, mono);
	set_clock(&clock[2], PF__BUILTIN_CLOCK__CLOCK_REALTIME, real);
	client.n_clocks = 3;
	client.clocks = clocks;
	host.n_clocks = 1;
	host.clocks = &clocks[2];
	round.client_clocks = &client;
	round.host_clocks = &host;
	sync.n_synced_clocks = 2;
	sync.synced_clocks = rounds;
	packet.remote_clock_sync = &sync;
	pf_put(p, m, &packet);
}

/* ------------------------------------------------------------------------------------- machines */

/* Of time 0 of its clock: it holds for all events, those before it in the file as well. */
void pf_put_system(struct pf *p, const struct pf_machine *m)
{
	Pf__TracePacket packet = PF__TRACE_PACKET__INIT;
	Pf__SystemInfo info = PF__SYSTEM_INFO__INIT;
	Pf__Utsname uts = PF__UTSNAME__INIT;

	uts.sysname = (char *)"Linux";
	uts.release = (char *)m->release;
	uts.machine = m->x86 ? (char *)"x86_64" : NULL;
	info.utsname = &uts;
	info.has_num_cpus = true;
	info.num_cpus = m->nr_cpus;
	info.machine_name = (char *)m->name;
	packet.has_timestamp = packet.has_timestamp_clock_id = true;
	packet.timestamp_clock_id = PF__BUILTIN_CLOCK__CLOCK_BOOTTIME;
	packet.system_info = &info;
	pf_put(p, m, &packet);
}

/* From here on nothing that was said in the sequence counts. */
static void clear_state(struct pf *p, struct pf_machine *m, bool first)
{
	Pf__TracePacket packet = PF__TRACE_PACKET__INIT;
	Pf__TracePacketDefaults defaults = PF__TRACE_PACKET_DEFAULTS__INIT;

	m->names.nr = 0;
	memset(m->names.slot, 0, sizeof(m->names.slot));
	defaults.has_timestamp_clock_id = true;
	defaults.timestamp_clock_id = PF__BUILTIN_CLOCK__CLOCK_MONOTONIC;
	packet.has_sequence_flags = true;
	packet.sequence_flags = PF__SEQUENCE_FLAGS__SEQ_INCREMENTAL_STATE_CLEARED;
	packet.has_first_packet_on_sequence = packet.first_packet_on_sequence = first;
	packet.trace_packet_defaults = &defaults;
	pf_put(p, m, &packet);
}

void pf_describe(struct pf *p, struct pf_machine *m, __u64 uuid, __u64 parent, const char *name,
		 const char *unit)
{
	Pf__TracePacket packet = PF__TRACE_PACKET__INIT;
	Pf__TrackDescriptor track = PF__TRACK_DESCRIPTOR__INIT;
	Pf__CounterDescriptor counter = PF__COUNTER_DESCRIPTOR__INIT;

	track.has_uuid = true;
	track.uuid = uuid;
	track.has_parent_uuid = parent != 0;
	track.parent_uuid = parent;
	track.name = (char *)name;
	counter.unit_name = (char *)unit;
	track.counter = unit ? &counter : NULL;
	packet.track_descriptor = &track;
	pf_put(p, m, &packet);
}

void pf_put_machine(struct pf *p, struct pf_machine *m)
{
	clear_state(p, m, true);
	put_clocks(p, m);
	pf_put_system(p, m);
	pf_describe(p, m, pf_uuid(m->id, PF_MACHINE, false, 0), 0, m->name, NULL);
}

__u64 pf_track(struct pf *p, struct pf_machine *m, struct pf_lane *l, enum pf_track track)
{
	static const char *const names[] = { "", "events", "lost events", "events per second" };
	__u64 uuid = pf_uuid(m->id, track, l->per_cpu, l->ring);
	char name[64];

	if (l->described[track])
		return uuid;
	l->described[track] = true;
	snprintf(name, sizeof(name), "%s %u %s", l->per_cpu ? "CPU" : "ring", l->ring,
		 names[track]);
	pf_describe(p, m, uuid, pf_uuid(m->id, PF_MACHINE, false, 0), name,
		 track == PF_RATE ? "events/s" : NULL);
	return uuid;
}

/* --------------------------------------------------------------------------------------- events */

void pf_begin(struct pf *p, struct pf_machine *m)
{
	p->nr_fresh = 0;
	p->fresh_event = false;
	if (m->names.nr + PF_NODES + 1 > PF_INTERNED)
		clear_state(p, m, false);
}

static __u32 hash_name(const struct pf_names *n, enum pf_name_kind kind, const char *name)
{
	__u32 h = n->key + (__u32)kind;

	for (; *name; name++)
		h = (h ^ (unsigned char)*name) * 16777619u;
	return h;
}

static void tell_name(struct pf *p, enum pf_name_kind kind, __u64 iid, char *text)
{
	Pf__DebugAnnotationName *n = &p->field_name[p->nr_fresh];

	if (kind == PF_EVENT_NAME) {
		pf__event_name__init(&p->event_name);
		p->event_name.has_iid = true;
		p->event_name.iid = iid;
		p->event_name.name = text;
		p->fresh_event = true;
		return;
	}
	pf__debug_annotation_name__init(n);
	n->has_iid = true;
	n->iid = iid;
	n->name = text;
	p->fresh[p->nr_fresh++] = n;
}

__u64 pf_intern(struct pf *p, struct pf_machine *m, enum pf_name_kind kind, const char *name)
{
	struct pf_names *n = &m->names;
	__u32 at = hash_name(n, kind, name) % (2 * PF_INTERNED);

	/* Names are the schema's, or our own; at most half of the slots are taken. */
	for (; n->slot[at]; at = (at + 1) % (2 * PF_INTERNED))
		if (n->name[n->slot[at] - 1].kind == kind &&
		    !strcmp(n->name[n->slot[at] - 1].text, name))
			return n->slot[at];
	n->name[n->nr].kind = (__u8)kind;
	snprintf(n->name[n->nr].text, PF_NAME, "%s", name);
	n->slot[at] = (__u16)++n->nr;
	tell_name(p, kind, n->nr, n->name[n->nr - 1].text);
	return n->nr;
}

void pf_event(struct pf *p, struct pf_machine *m, __u64 time, Pf__TrackEvent *e)
{
	Pf__TracePacket packet = PF__TRACE_PACKET__INIT;
	Pf__InternedData data = PF__INTERNED_DATA__INIT;
	Pf__EventName *name = &p->event_name;

	data.n_event_names = p->fresh_event;
	data.event_names = &name;
	data.n_debug_annotation_names = p->nr_fresh;
	data.debug_annotation_names = p->fresh;
	packet.has_timestamp = packet.has_sequence_flags = true;
	packet.timestamp = time;
	packet.sequence_flags = PF__SEQUENCE_FLAGS__SEQ_NEEDS_INCREMENTAL_STATE;
	packet.interned_data = p->fresh_event || p->nr_fresh ? &data : NULL;
	packet.track_event = e;
	pf_put(p, m, &packet);
	p->nr_fresh = 0;
	p->fresh_event = false;
}
