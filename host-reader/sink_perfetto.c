/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A trace for ui.perfetto.dev. All machines are in one file, which can be opened at any time while
 * it grows: it consists of packets that are complete.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

#include "perfetto.h"
#include "vcpus.h"

#define WINDOW_NS 100000000ULL /* of events per second */

/* ---------------------------------------------------------------------------- events per second */

static void put_rate(struct pf *p, struct pf_machine *m, struct pf_lane *l, __u64 time, __u64 value)
{
	Pf__TrackEvent e = PF__TRACK_EVENT__INIT;

	e.has_track_uuid = true;
	e.track_uuid = pf_track(p, m, l, PF_RATE);
	e.has_type = e.has_counter_value = true;
	e.type = PF__TRACK_EVENT__TYPE__TYPE_COUNTER;
	e.counter_value = (__s64)value;
	pf_begin(p, m);
	pf_event(p, m, time < l->first ? l->first : time, &e);
}

static void end_window(struct pf *p, struct pf_machine *m, struct pf_lane *l)
{
	if (l->counted)
		put_rate(p, m, l, l->window * WINDOW_NS, l->counted * (1000000000 / WINDOW_NS));
	l->counted = 0;
}

static void count_event(struct pf *p, struct pf_machine *m, struct pf_lane *l, __u64 time)
{
	__u64 window = time / WINDOW_NS;

	if (window != l->window) {
		bool any = l->counted != 0;

		end_window(p, m, l);
		if (any && window > l->window + 1)
			put_rate(p, m, l, (l->window + 1) * WINDOW_NS, 0);
		l->window = window;
	}
	l->counted++;
}

/* ---------------------------------------------------------------------------------------- lanes */

/* Rings of one number of several sets share a lane. */
static struct pf_lane *find_lane(struct pf *p, struct pf_machine *m, const struct origin *from,
				 __u64 time)
{
	struct pf_lane **at = &m->lane[!from->per_cpu][from->ring % HTRACE_MAX_RINGS], *l = *at;

	if (l && l->resumed) {
		l->resumed = false;
		pf_ftrace_gap(p, m, l, PF_GAP_UNTRACED);
	}
	if (l)
		return l;
	l = *at = calloc(1, sizeof(*l));
	if (!l) {
		p->error = ENOMEM;
		return NULL;
	}
	l->per_cpu = from->per_cpu;
	l->ring = from->ring % HTRACE_MAX_RINGS;
	l->first = l->last = time;
	return l;
}

/* What is not written yet. @end: nothing more comes for now. */
static void flush_lanes(struct pf *p, struct pf_machine *m, bool end)
{
	for (unsigned int i = 0; i < 2 * HTRACE_MAX_RINGS && !p->error; i++) {
		struct pf_lane *l = m->lane[i / HTRACE_MAX_RINGS][i % HTRACE_MAX_RINGS];

		if (!l)
			continue;
		pf_ftrace_flush(p, m, l);
		if (!end || !l->counted)
			continue;
		end_window(p, m, l);
		put_rate(p, m, l, (l->window + 1) * WINDOW_NS, 0);
	}
	if (end) {
		pf_vcpus_end(p, m);
		pf_boot_end(p, m);
	}
}

/* ------------------------------------------------------------------------------------- machines */

static void free_machine(struct pf *p, struct pf_machine *m)
{
	struct pf_machine **at = &p->machines;

	while (*at != m)
		at = &(*at)->next;
	*at = m->next;
	for (unsigned int i = 0; i < 2 * HTRACE_MAX_RINGS; i++)
		free(m->lane[i / HTRACE_MAX_RINGS][i % HTRACE_MAX_RINGS]);
	free(m->vcpus);
	free(m);
}

/* What our user calls it, what it calls itself, and which of its boots it is. */
static void name_machine(struct pf_machine *m, const struct sink_session *s, bool ticks)
{
	const char *path = s->path ? s->path : "", *base = strrchr(path, '/');
	char file[4 * 24 + 1], host[4 * sizeof(s->hostname) + 1], boot[24] = "";

	pf_text(file, sizeof(file), base ? base + 1 : path, 24);
	pf_text(host, sizeof(host), s->hostname, sizeof(s->hostname));
	pf_text(m->release, sizeof(m->release), s->release, sizeof(s->release));
	if (m->boots)
		snprintf(boot, sizeof(boot), " boot %u", m->boots + 1);
	snprintf(m->name, sizeof(m->name), "%s%s%s%s%s%s", file, host[0] ? " " : "", host, boot,
		 host[0] || file[0] ? "" : "VM", ticks ? ", times in TSC ticks" : "");
}

/*
 * The machine of an earlier session of the same boot goes on. Of another boot nothing more comes,
 * and what was known of it is forgotten.
 */
static struct pf_machine *resume_machine(struct pf *p, const struct sink_session *s, __u32 *boots)
{
	static const __u8 none[16];
	struct pf_machine *next;

	for (struct pf_machine *m = p->machines; m; m = next) {
		next = m->next;
		if (m->session || m->source_nr != s->source_nr)
			continue;
		if (memcmp(m->boot_id, none, 16) && !memcmp(m->boot_id, s->boot_id, 16))
			return m;
		*boots = m->boots + 1;
		free_machine(p, m);
	}
	return NULL;
}

static void put_note(struct pf *p, struct pf_machine *m, const char *text, __u64 time)
{
	Pf__TrackEvent e = PF__TRACK_EVENT__INIT;
	char name[4 * PF_NOTE + 1];

	pf_text(name, sizeof(name), text, PF_NOTE);
	e.has_track_uuid = true;
	e.track_uuid = pf_uuid(m->id, PF_MACHINE, false, 0);
	e.has_type = true;
	e.type = PF__TRACK_EVENT__TYPE__TYPE_INSTANT;
	e.name = name;
	pf_begin(p, m);
	pf_event(p, m, time, &e);
}

static void keep_note(struct pf *p, const struct sink_note *n)
{
	struct pf_early *e = &p->early[p->nr_early];

	if (p->nr_early == PF_EARLY)
		return;
	p->nr_early++;
	e->source = n->source;
	snprintf(e->text, sizeof(e->text), "%s", n->text);
}

/* What was kept until there was a machine of the source. */
static void put_early(struct pf *p, struct pf_machine *m)
{
	unsigned int left = 0;

	for (unsigned int i = 0; i < p->nr_early; i++) {
		if (p->early[i].source == m->source)
			put_note(p, m, p->early[i].text, m->last);
		else
			p->early[left++] = p->early[i];
	}
	p->nr_early = left;
}

static struct pf_machine *new_machine(struct pf *p, const struct origin *from, __u64 time)
{
	const struct sink_session *s = from->session;
	__u32 boots = 0;
	struct pf_machine *m = resume_machine(p, s, &boots);

	if (m) {
		m->session = s;
		m->source = s->source;
		for (unsigned int i = 0; i < HTRACE_MAX_RINGS; i++)
			if (m->lane[0][i])
				m->lane[0][i]->resumed = true;
		return m;
	}
	m = calloc(1, sizeof(*m));
	if (!m) {
		p->error = ENOMEM;
		return NULL;
	}
	if (getrandom(&m->tasks.key, sizeof(m->tasks.key), 0) != sizeof(m->tasks.key))
		m->tasks.key = 0x9e3779b1;
	m->tasks.key |= 1;
	m->names.key = m->tasks.key;
	m->id = ++p->nr_machines;
	m->session = s;
	m->source = s->source;
	m->source_nr = s->source_nr;
	memcpy(m->boot_id, s->boot_id, sizeof(m->boot_id));
	m->nr_cpus = s->facts.nr_cpus;
	m->last = time;
	m->boots = boots;
	name_machine(m, s, from->ticks);
	m->next = p->machines;
	p->machines = m;
	pf_put_machine(p, m);
	put_early(p, m);
	return m;
}

static struct pf_machine *find_machine(struct pf *p, const struct origin *from, __u64 time)
{
	struct pf_machine *m = p->machines;

	while (m && m->session != from->session)
		m = m->next;
	return m ? m : new_machine(p, from, time);
}

/* --------------------------------------------------------------------------------------- events */

static __u64 time_of(const struct pf_lane *l, __u64 time)
{
	time = time < PF_TIME_MAX ? time : PF_TIME_MAX;
	return time > l->last ? time : l->last;
}

static void perfetto_event(struct sink *s, const struct sink_event *e)
{
	struct pf *p = s->state;
	__u64 time = e->time < PF_TIME_MAX ? e->time : PF_TIME_MAX;
	struct pf_machine *m = p->error ? NULL : find_machine(p, e->from, time);
	struct pf_lane *l = m ? find_lane(p, m, e->from, time) : NULL;

	if (!l)
		return;
	time = time_of(l, time);
	if (e->task_known) {
		pf_tell_task(p, m, e->from, e->task, e->time);
		pf_ftrace_runs(p, m, l, e, time);
	}
	l->last = time;
	m->last = time > m->last ? time : m->last;
	count_event(p, m, l, time);
	pf_boot(p, m, e, time);
	/* The format's own events have no place for stacks. */
	if (!pf_ftrace_event(p, m, l, e, time) || pf_has_stacks(e->event))
		pf_instant(p, m, l, e, time);
}

static void put_loss(struct pf *p, struct pf_machine *m, struct pf_lane *l,
		     const struct sink_loss *loss, __u64 time)
{
	Pf__TrackEvent e = PF__TRACK_EVENT__INIT;
	__u64 lost = sink_lost(loss);
	char name[64];

	snprintf(name, sizeof(name), lost ? "%llu events lost" : "%llu bytes never committed",
		 (unsigned long long)(lost ? lost : loss->uncommitted));
	e.has_track_uuid = true;
	e.track_uuid = pf_track(p, m, l, PF_LOST);
	e.has_type = true;
	e.type = PF__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN;
	e.name = name;
	pf_begin(p, m);
	pf_args_begin(p);
	pf_args_count(p, m, "lost", lost);
	pf_args_count(p, m, "overwritten", loss->overwritten);
	pf_args_count(p, m, "dropped", loss->dropped);
	pf_args_count(p, m, "corrupt", loss->corrupt);
	pf_args_count(p, m, "unfinished", loss->unfinished);
	pf_args_count(p, m, "uncommitted_bytes", loss->uncommitted);
	pf_args_end(p, &e);
	pf_event(p, m, l->last, &e);
	e.type = PF__TRACK_EVENT__TYPE__TYPE_SLICE_END;
	e.name = NULL;
	e.n_debug_annotations = 0;
	pf_event(p, m, time, &e);
}

/* From the ring's last event until it was noticed. */
static void perfetto_loss(struct sink *s, const struct sink_loss *loss)
{
	struct pf *p = s->state;
	__u64 time = loss->time < PF_TIME_MAX ? loss->time : PF_TIME_MAX;
	struct pf_machine *m = p->error ? NULL : find_machine(p, loss->from, time);
	struct pf_lane *l = m ? find_lane(p, m, loss->from, time) : NULL;

	if (!l)
		return;
	time = time_of(l, time);
	pf_ftrace_gap(p, m, l, PF_GAP_LOST);
	put_loss(p, m, l, loss, time);
	l->last = time;
}

static void perfetto_vcpu(struct sink *s, const struct sink_session *session,
			  const struct vcpu_change *c)
{
	const struct origin from = { .session = session, .ticks = session->ticks };
	struct pf *p = s->state;
	__u64 time = c->time < PF_TIME_MAX ? c->time : PF_TIME_MAX;
	struct pf_machine *m = p->error ? NULL : find_machine(p, &from, time);

	if (!m)
		return;
	m->last = time > m->last ? time : m->last;
	pf_vcpu(p, m, c, time);
}

/* Behind what its source's machine did last, if it did anything, or is about to do. */
static void perfetto_note(struct sink *s, const struct sink_note *n)
{
	struct pf *p = s->state;
	__u64 time = n->time < PF_TIME_MAX ? n->time : PF_TIME_MAX;
	struct pf_machine *m = p->machines;

	if (n->from && !p->error)
		m = find_machine(p, n->from, time);
	while (m && !n->from && m->source != n->source)
		m = m->next;
	if (p->error)
		return;
	if (m)
		put_note(p, m, n->text, time > m->last ? time : m->last);
	else
		keep_note(p, n);
}

static void perfetto_flush(struct sink *s)
{
	struct pf *p = s->state;

	for (struct pf_machine *m = p->machines; m; m = m->next)
		flush_lanes(p, m, false);
	out_flush(s->out);
}

static void perfetto_session_end(struct sink *s, const struct sink_session *session)
{
	struct pf *p = s->state;

	for (struct pf_machine *m = p->machines; m; m = m->next)
		if (m->session == session) {
			flush_lanes(p, m, true);
			m->session = NULL;
		}
}

/* ----------------------------------------------------------------------------------------- sink */

static int perfetto_open(struct sink *s)
{
	struct pf *p = calloc(1, sizeof(*p));
	int ret = p ? out_open(&s->out, s->path) : -ENOMEM;

	if (ret) {
		free(p);
		return ret;
	}
	p->out = s->out;
	s->state = p;
	return 0;
}

static int perfetto_begin(struct sink *s)
{
	int ret = out_begin(s->out);

	if (!ret)
		pf_put_host(s->state);
	return ret;
}

static int perfetto_error(const struct sink *s)
{
	const struct pf *p = s->state;

	return p->error ? p->error : out_error(s->out);
}

static void free_all(struct pf *p)
{
	while (p->machines)
		free_machine(p, p->machines);
	free(p);
}

static int perfetto_close(struct sink *s)
{
	struct pf *p = s->state;
	int error, ret;

	for (struct pf_machine *m = p->machines; m; m = m->next)
		if (m->session)
			flush_lanes(p, m, true);
	error = p->error;
	free_all(p);
	ret = out_close(s->out);
	return error ? -error : ret;
}

static void perfetto_abandon(struct sink *s)
{
	free_all(s->state);
	out_abandon(s->out, s->path);
}

const struct sink_ops sink_perfetto = {
	.name = "perfetto",
	.file = true,
	.open = perfetto_open,
	.abandon = perfetto_abandon,
	.begin = perfetto_begin,
	.flush = perfetto_flush,
	.error = perfetto_error,
	.close = perfetto_close,
	.event = perfetto_event,
	.loss = perfetto_loss,
	.note = perfetto_note,
	.vcpu = perfetto_vcpu,
	.session_end = perfetto_session_end,
};
