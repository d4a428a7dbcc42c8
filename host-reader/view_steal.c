/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * --view steal: how long virtual CPUs could have run and did not, as their guests were told; and, with
 * the source kvm of their host beside them, what the host did with each in the meantime, and for whom.
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "event_fields.h"
#include "steal_takers.h"
#include "table.h"
#include "vcpus.h"
#include "view.h"

typedef unsigned long long ull;

#define SOURCES 64u
#define CPUS 1024u /* of all sources */

enum field { F_CPU, F_STOLEN, F_TOTAL, FIELDS };
enum { KIND_OTHER, KIND_STEAL };

static const char *const fields[FIELDS] = { "cpu", "stolen_ns", "total_ns" };

static const struct event_fields_spec spec = {
	.field = fields,
	.nr_fields = FIELDS,
	.kind = { [KIND_STEAL] = { "steal", 1u << F_CPU | 1u << F_STOLEN | 1u << F_TOTAL } },
};

struct steal_cpu {
	struct table_key key; /* source, number */
	struct durations d;   /* by how much the total grew, each time */
	bool begun;           /* in this session: from these on */
	__u64 begin, begin_total;
	__u64 total;                  /* the last */
	__u64 ns_before, stolen_before; /* of sessions that are over */
	/* What the host says, between two events of the guest on this CPU; and where it could not. */
	__u64 preempted, out, told, not_told;
	__u32 vm, vcpu; /* what it is there, by the last of these events; 0, 0: there was none */
};

struct view_steal {
	struct event_fields *fields;
	struct table cpus;
	struct steal_takers takers;
	char source[SOURCES][VIEW_SOURCE];
	__u8 host[SOURCES][16]; /* boot id of a host, or of a guest's host */
	__u64 first, last;      /* events */
	__u64 last_of[SOURCES]; /* of each session */
	__u64 lost, beyond;
	bool host_told;
};

static void steal_view_close(void *view)
{
	struct view_steal *v = view;

	event_fields_free(v->fields);
	table_free(&v->cpus);
	steal_takers_close(&v->takers);
	free(v);
}

static void *steal_view_open(void)
{
	struct view_steal *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	v->fields = event_fields_new(&spec);
	if (!table_init(&v->cpus, CPUS, sizeof(struct steal_cpu)) && !steal_takers_init(&v->takers) && v->fields)
		return v;
	steal_view_close(v);
	return NULL;
}

/* ------------------------------------------------------------------------------------ what happens */

static struct steal_cpu *cpu_of(struct view_steal *v, unsigned int source, __u64 cpu)
{
	struct table_key key = { source, cpu, 0 };
	struct steal_cpu *c = table_get(&v->cpus, &key);

	v->beyond += !c;
	return c;
}

/* Of the guest's time, until its last event. */
static __u64 observed(const struct view_steal *v, const struct steal_cpu *c)
{
	__u64 last = v->last_of[c->key.a];

	return c->ns_before + (c->begun && last > c->begin ? last - c->begin : 0);
}

static __u64 stolen(const struct steal_cpu *c)
{
	return c->stolen_before + (c->begun ? c->total - c->begin_total : 0);
}

static void end(const struct view_steal *v, struct steal_cpu *c)
{
	c->ns_before = observed(v, c);
	c->stolen_before = stolen(c);
	c->begun = false;
}

static void take_steal(struct view_steal *v, const struct sink_event *e, const struct event_values *f)
{
	struct steal_cpu *c = cpu_of(v, e->from->session->source_nr, f->v[F_CPU]);
	__u64 ns = f->v[F_STOLEN], total = f->v[F_TOTAL];

	if (!c)
		return;
	/* The agent's first says from where on; so does a total that went back, as that of a new guest. */
	if (c->begun && (!ns || total < c->total))
		end(v, c);
	if (!c->begun) {
		c->begun = true;
		c->begin = e->time;
		c->begin_total = total - (ns < total ? ns : total);
	}
	c->total = total;
	if (ns)
		durations_add(&c->d, ns);
}

/* What befell the virtual CPU since the guest's event before on it. */
static void take_host(struct view_steal *v, const struct sink_event *e)
{
	struct steal_cpu *c = cpu_of(v, e->from->session->source_nr, e->from->ring);

	v->host_told = true;
	if (!c)
		return;
	memcpy(v->host[e->from->session->source_nr], e->vcpu->host, sizeof(v->host[0]));
	c->vm = e->vcpu->vm;
	c->vcpu = e->vcpu->vcpu;
	if (!e->vcpu->since_known) {
		c->not_told++;
		return;
	}
	c->told++;
	c->preempted += e->vcpu->preempted_since;
	c->out += e->vcpu->out_since;
}

static void steal_view_event(void *view, const struct sink_event *e)
{
	const struct sink_session *session = e->from->session;
	struct view_steal *v = view;
	struct event_values f;

	if (session->source_nr >= SOURCES || session->facts.host)
		return;
	view_source_name(v->source[session->source_nr], session);
	if (!v->first || e->time < v->first)
		v->first = e->time;
	if (e->time > v->last)
		v->last = e->time;
	if (e->time > v->last_of[session->source_nr])
		v->last_of[session->source_nr] = e->time;
	if (e->vcpu && e->from->per_cpu)
		take_host(v, e);
	event_fields_take(v->fields, e, &f);
	if (f.kind == KIND_STEAL)
		take_steal(v, e, &f);
}

/* Of all virtual CPUs of a host, whether their guests say something or not. */
static void steal_view_vcpu(void *view, const struct sink_session *session, const struct vcpu_change *c)
{
	struct view_steal *v = view;

	if (session->source_nr >= SOURCES)
		return;
	view_source_name(v->source[session->source_nr], session);
	memcpy(v->host[session->source_nr], session->facts.boot_id, sizeof(v->host[0]));
	steal_takers_change(&v->takers, session->source_nr, c);
}

static void steal_view_loss(void *view, const struct sink_loss *l)
{
	struct view_steal *v = view;

	v->lost += sink_lost(l);
}

static void steal_view_session_end(void *view, const struct sink_session *session)
{
	struct view_steal *v = view;
	struct steal_cpu *c;

	for (size_t i = 0; (c = table_next(&v->cpus, &i)) != NULL;)
		if (c->key.a == session->source_nr && c->begun)
			end(v, c);
	if (session->source_nr < SOURCES)
		v->last_of[session->source_nr] = 0;
	event_fields_session_end(v->fields, session);
}

/* ------------------------------------------------------------------------------------------- pages */

static int by_key(const void *a, const void *b)
{
	const struct steal_cpu *const *x = a, *const *y = b;

	return table_compare(&(*x)->key, &(*y)->key);
}

/* To be freed. */
static struct steal_cpu **all_cpus(const struct view_steal *v, size_t *nr)
{
	return (struct steal_cpu **)table_sorted(&v->cpus, by_key, nr);
}

static void cpu_name(const struct view_steal *v, const struct steal_cpu *c, char *text, size_t len)
{
	const char *source = v->source[c->key.a];

	snprintf(text, len, "%s%s%llu", source, *source ? ":" : "", (ull)c->key.b);
}

/* Whose time others took, called as in their guests' lines, if there are any, or as the host does. To be freed. */
static struct taken_vcpu **all_taken(const struct view_steal *v, struct steal_cpu *const *cpu, size_t nr_cpus,
				     size_t *nr)
{
	struct taken_vcpu **t = steal_takers_vcpus(&v->takers, nr);

	for (size_t i = 0; i < *nr; i++) {
		const char *source = v->source[t[i]->key.a];

		snprintf(t[i]->name, sizeof(t[i]->name), "%s%sVM %llu vCPU %llu", source, *source ? " " : "",
			 (ull)t[i]->key.b, (ull)t[i]->key.c);
		for (size_t c = 0; c < nr_cpus; c++)
			if (cpu[c]->vm == t[i]->key.b && cpu[c]->vcpu == t[i]->key.c &&
			    !memcmp(v->host[cpu[c]->key.a], v->host[t[i]->key.a], sizeof(v->host[0])))
				cpu_name(v, cpu[c], t[i]->name, sizeof(t[i]->name));
	}
	return t;
}

/* What the host says: how long who else had it. */
static void host_columns(const struct view_steal *v, const struct steal_cpu *c, char *text, size_t len)
{
	__u64 seen = c->told + c->not_told;

	*text = 0;
	if (!v->host_told)
		return;
	if (!c->told)
		snprintf(text, len, " %12s %10s %7.2f%%", "-", "-", 0.0);
	else
		snprintf(text, len, " %12.3f %10.3f %7.2f%%", (double)c->preempted / 1e6, (double)c->out / 1e6,
			 percent(c->told, seen));
}

static void print_cpu(const struct view_steal *v, struct view_page *p, int width, const struct steal_cpu *c)
{
	char name[VIEW_SOURCE + 24], host[64], missed[40] = "";
	__u64 all = stolen(c);

	cpu_name(v, c, name, sizeof(name));
	host_columns(v, c, host, sizeof(host));
	if (all > c->d.sum)
		snprintf(missed, sizeof(missed), "  %.3f ms not one by one", (double)(all - c->d.sum) / 1e6);
	view_line(p, "%-*s %9llu %12.3f %6.2f%% %10.2f %9.2f %9.2f %9.2f %10.2f%s%s", width, name, (ull)c->d.count,
		  (double)all / 1e6, percent(all, observed(v, c)), durations_mean(&c->d) / 1e3,
		  us(durations_percentile(&c->d, 0.5)), us(durations_percentile(&c->d, 0.9)),
		  us(durations_percentile(&c->d, 0.99)), us(c->d.max), host, missed);
}

static void steal_view_print(void *view, struct view_page *p)
{
	struct view_steal *v = view;
	size_t nr, nr_taken;
	struct steal_cpu **c = all_cpus(v, &nr);
	struct taken_vcpu **taken = all_taken(v, c, nr, &nr_taken);
	__u64 all = 0, times = 0, time = 0;
	int width = 6;

	for (size_t i = 0; i < nr; i++) {
		char name[VIEW_SOURCE + 24];

		cpu_name(v, c[i], name, sizeof(name));
		width = (int)strlen(name) > width ? (int)strlen(name) : width;
		all += stolen(c[i]);
		times += c[i]->d.count;
		time += observed(v, c[i]);
	}
	view_line(p, "%.3f ms stolen, %llu times, %.2f%% of %zu vCPU%s time, in %.3f s", (double)all / 1e6, (ull)times,
		  percent(all, time), nr, nr == 1 ? "'s" : "s'", (double)(v->last - v->first) / 1e9);
	if (!times)
		view_line(p, "none was recorded: start guest-agent with --events steal; its --probe says whether the "
			  "hypervisor tells");
	if (v->lost)
		view_line(p, "lost: %llu events", (ull)v->lost);
	if (v->beyond + v->takers.beyond)
		view_line(p, "for which there was no room: %llu", (ull)(v->beyond + v->takers.beyond));
	if (nr) {
		view_line(p, "%s", "");
		view_line(p, "%-*s %9s %12s %7s %10s %9s %9s %9s %10s%s", width, "vCPU", "Times", "Stolen ms", "Share",
			  "Mean us", "p50 us", "p90 us", "p99 us", "Max us",
			  v->host_told ? " Preempted ms     Out ms    Told" : "");
	}
	for (size_t i = 0; i < nr; i++)
		print_cpu(v, p, width, c[i]);
	steal_takers_print(&v->takers, p, taken, nr_taken);
	for (size_t i = 0; i < nr; i++) {
		char name[VIEW_SOURCE + 24];

		if (!c[i]->d.count)
			continue;
		cpu_name(v, c[i], name, sizeof(name));
		view_line(p, "%s", "");
		view_line(p, "vCPU %s, ns:", name);
		view_octaves(p, &c[i]->d);
	}
	free(taken);
	free(c);
}

static void json_cpu(const struct view_steal *v, struct out *o, const struct steal_cpu *c)
{
	out_printf(o, "{\"vcpu\":%llu", (ull)c->key.b);
	view_json_named(o, "source", v->source[c->key.a]);
	view_json_number(o, "count", c->d.count);
	view_json_number(o, "stolen_ns", stolen(c));
	view_json_number(o, "recorded_ns", c->d.sum);
	view_json_number(o, "observed_ns", observed(v, c));
	view_json_spread(o, &c->d);
	if (v->host_told) {
		view_json_number(o, "host_preempted_ns", c->preempted);
		view_json_number(o, "host_out_ns", c->out);
		view_json_number(o, "host_told", c->told);
		view_json_number(o, "host_not_told", c->not_told);
	}
	if (c->vm) {
		view_json_number(o, "host_vm", c->vm);
		view_json_number(o, "host_vcpu", c->vcpu);
	}
	view_json_octaves(o, &c->d, "ns");
	out_char(o, '}');
}

static void json_view_print(void *view, struct view_page *p)
{
	struct view_steal *v = view;
	struct out *o = p->out;
	size_t nr, nr_taken;
	struct steal_cpu **c = all_cpus(v, &nr);
	struct taken_vcpu **taken = steal_takers_vcpus(&v->takers, &nr_taken);

	out_printf(o, "{\"view\":\"steal\",\"first\":%llu", (ull)v->first);
	view_json_number(o, "last", v->last);
	view_json_number(o, "lost", v->lost);
	view_json_number(o, "no_room", v->beyond + v->takers.beyond);
	out_text(o, ",\"vcpus\":[");
	for (size_t i = 0; i < nr; i++) {
		if (i)
			out_char(o, ',');
		json_cpu(v, o, c[i]);
	}
	out_char(o, ']');
	if (v->host_told || nr_taken) {
		out_text(o, ",\"taken\":");
		steal_takers_json(&v->takers, o, taken, nr_taken, v->source);
	}
	out_char(o, '}');
	out_newline(o);
	free(taken);
	free(c);
}

#define STEAL_VIEW(called, how, is_lines) {          \
		.name = called,                      \
		.lines = is_lines,                   \
		.open = steal_view_open,             \
		.event = steal_view_event,           \
		.loss = steal_view_loss,             \
		.vcpu = steal_view_vcpu,             \
		.session_end = steal_view_session_end, \
		.print = how,                        \
		.close = steal_view_close,           \
	}

const struct view_ops view_steal = STEAL_VIEW("steal", steal_view_print, false);
const struct view_ops view_steal_json = STEAL_VIEW("steal:json", json_view_print, true);
