/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --view exits: why vCPUs leave guest mode, for how long, and where in the guest. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "exits.h"
#include "exits_json.h"
#include "host_events.h"
#include "names.h"
#include "symbols.h"
#include "view.h"

typedef unsigned long long ull;

#define GUESTS EXITS_SOURCES
#define PLACES_SHOWN 10
#define PLACES_IN_PLACE 3 /* on a terminal, where there is less room */
#define RARE 200 /* of places fewer than one in so many are not shown */
#define NAME_WIDTH 32

/* A source of a guest, whose kernel's symbols name addresses. */
struct guest {
	const struct sink_session *session; /* NULL: none */
	struct symbols *symbols;
};

struct view_exits {
	struct exits *exits;
	struct event_fields *host; /* events */
	struct guest guest[GUESTS];
	const struct sink_session *session[EXITS_SOURCES]; /* of the host, for names; NULL: it is over */
	bool over[EXITS_SOURCES]; /* what a session said last is still shown */
	char source[EXITS_SOURCES][VIEW_SOURCE]; /* what it is called, if there are several; harmless */
	__u64 shown; /* when there was a page before: the last event's time */
};

static void exits_view_close(void *view)
{
	struct view_exits *v = view;

	exits_free(v->exits);
	event_fields_free(v->host);
	free(v);
}

const struct exits *view_exits_numbers(const void *view)
{
	return ((const struct view_exits *)view)->exits;
}

static void *exits_view_open(void)
{
	struct view_exits *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	v->exits = exits_new();
	v->host = host_events_new();
	if (v->exits && v->host)
		return v;
	exits_view_close(v);
	return NULL;
}

/* ---------------------------------------------------------------------------------------- names */

/* What a kernel has at @rip, harmless. */
static void name_place(const struct symbols *s, __u64 rip, char *text, size_t len)
{
	struct frame f;
	size_t n;

	symbols_kernel_address(s, rip, &f);
	if (!f.symbol)
		return;
	n = htrace_escape(text, len / 2, f.symbol, strlen(f.symbol));
	n += (size_t)snprintf(text + n, len - n, "+0x%llx", (ull)f.offset);
	if (!f.module)
		return;
	n += (size_t)snprintf(text + n, len - n, " [");
	n += htrace_escape(text + n, len - n - 2, f.module, strlen(f.module));
	snprintf(text + n, len - n, "]");
}

/* As long as the guests' sessions last: pages come after their ends, too. */
static void name_places(struct view_exits *v)
{
	struct exits_place *p;

	for (size_t i = 0; (p = table_next(&v->exits->places, &i)) != NULL;)
		for (unsigned int g = 0; g < GUESTS && !*p->name; g++)
			if (v->guest[g].session && v->guest[g].session->vm == p->vm)
				name_place(v->guest[g].symbols, p->rip, p->name, sizeof(p->name));
}

/* Likewise of VMs, by their processes. */
static void name_vms(struct view_exits *v)
{
	struct exits_row **vm;
	size_t nr;

	vm = exits_rows(v->exits, NULL, EXITS_ALL, &nr);
	for (size_t i = 0; i < nr; i++) {
		const struct sink_session *session = v->session[vm[i]->source];
		size_t len;
		const char *comm = session ? names_get(session->names, vm[i]->vm, v->exits->last, &len) :
					     NULL;

		if (comm)
			vm[i]->name[htrace_escape(vm[i]->name, sizeof(vm[i]->name) - 1, comm, len)] = 0;
	}
	free(vm);
}

/* ----------------------------------------------------------------------------------- what happens */

static void remember_guest(struct view_exits *v, const struct origin *from)
{
	struct guest *g;

	if (from->session->source_nr >= GUESTS)
		return;
	g = &v->guest[from->session->source_nr];
	g->session = from->session;
	g->symbols = from->symbols;
}

static void remember_host(struct view_exits *v, const struct sink_session *session)
{
	char *name = v->source[session->source_nr];
	const size_t room = sizeof(v->source[0]) - 1;

	if (v->session[session->source_nr] == session)
		return;
	if (v->over[session->source_nr])
		exits_end(v->exits, session->source_nr);
	v->over[session->source_nr] = false;
	v->session[session->source_nr] = session;
	if (session->source)
		name[htrace_escape(name, room, session->source, strlen(session->source))] = 0;
}

static void exits_view_event(void *view, const struct sink_event *e)
{
	const struct sink_session *session = e->from->session;
	struct view_exits *v = view;
	struct host_event h;
	struct exits_at at = {
		.source = session->source_nr, .ring = e->from->ring, .time = e->time,
	};
	struct exits_why why;

	if (!session->facts.host) {
		remember_guest(v, e->from);
		return;
	}
	if (session->source_nr >= EXITS_SOURCES)
		return;
	remember_host(v, session);
	host_events_take(v->host, e, &h);
	at.vm = h.vm;
	at.tid = h.tid;
	at.vcpu = h.vcpu;
	why = (struct exits_why){ .reason = h.reason, .name = h.reason_name, .rip = h.rip };
	exits_seen(v->exits, &at);
	switch (h.kind) {
	case HOST_EXIT:
		exits_exit(v->exits, &at, &why);
		break;
	case HOST_ENTRY:
		exits_entry(v->exits, &at);
		break;
	case HOST_SCHED_OUT:
		exits_sched_out(v->exits, &at, h.preempted);
		break;
	case HOST_SCHED_IN:
		exits_sched_in(v->exits, &at);
		break;
	case HOST_HYPERCALL:
	case HOST_IO:
	case HOST_MMIO:
	case HOST_EXITED:
		exits_whole(v->exits, &at, &why, h.ns);
		break;
	default:
		break;
	}
}

static void exits_view_loss(void *view, const struct sink_loss *l)
{
	const struct sink_session *session = l->from->session;
	struct view_exits *v = view;

	if (session->facts.host && session->source_nr < EXITS_SOURCES)
		exits_loss(v->exits, session->source_nr, l->from->ring, sink_lost(l));
}

static void exits_view_session_end(void *view, const struct sink_session *session)
{
	struct view_exits *v = view;

	name_places(v);
	for (unsigned int i = 0; i < GUESTS; i++)
		if (v->guest[i].session == session)
			v->guest[i] = (struct guest){ 0 };
	if (session->source_nr >= EXITS_SOURCES || v->session[session->source_nr] != session)
		return;
	name_vms(v);
	v->over[session->source_nr] = true;
	event_fields_session_end(v->host, session);
	v->session[session->source_nr] = NULL;
}

/* ------------------------------------------------------------------------------------- in words */

static double per_second(const struct view_exits *v, __u64 nr)
{
	__u64 from = v->shown ? v->shown : v->exits->first;

	return v->exits->last > from ? (double)nr * 1e9 / (double)(v->exits->last - from) : 0.0;
}

static const char *reason(const char *name, __u32 number, char *text, size_t len)
{
	if (!*name)
		snprintf(text, len, "0x%x", number);
	return *name ? name : text;
}

#define REASON(thing) reason((thing)->name, (thing)->reason, (char[12]){ 0 }, 12)

static void print_row(const struct view_exits *v, struct view_page *p, const char *name, int width,
		      struct exits_row *r, const struct durations *all)
{
	const struct durations *d = &r->out;

	view_line(p, "%-*s %8llu %9.1f %7.2f%% %6.2f%% %8.2f %10.2f %9.2f %6.2f%% %9.2f %9.2f %9.2f %6.2f%% %6.2f%%",
		  width, name, (ull)d->count, per_second(v, d->count - r->before),
		  percent(d->count, all->count), percent(d->sum, all->sum), us(d->min), us(d->max),
		  durations_mean(d) / 1e3, durations_error(d), us(durations_percentile(d, 0.5)),
		  us(durations_percentile(d, 0.99)), us(durations_percentile(d, 0.999)),
		  percent(r->asleep, d->sum), percent(r->preempted, d->sum));
	r->before = d->count;
}

/* @total: a last line; NULL: none. */
static void print_rows(const struct view_exits *v, struct view_page *p, const struct exits_row *vm,
		       __u32 vcpu, struct exits_row *total)
{
	struct durations all = { 0 };
	int width = 10;
	size_t nr;
	struct exits_row **row = exits_rows(v->exits, vm, vcpu, &nr);

	for (size_t i = 0; i < nr; i++) {
		int len = (int)strlen(REASON(row[i]));

		width = len > width ? len : width;
		all.count += row[i]->out.count;
		all.sum += row[i]->out.sum;
	}
	width = width > NAME_WIDTH ? NAME_WIDTH : width;
	view_line(p, "%-*s %8s %9s %8s %7s %8s %10s %9s %7s %9s %9s %9s %7s %7s", width, "EXIT", "Samples",
		  "Samples/s", "Samples%", "Time%", "Min us", "Max us", "Mean us", "+-", "p50 us", "p99 us",
		  "p99.9 us", "Asleep", "Waiting");
	for (size_t i = 0; i < nr; i++)
		print_row(v, p, REASON(row[i]), width, row[i], &all);
	if (total)
		print_row(v, p, "total", width, total, &total->out);
	free(row);
}

/* What a vCPU does, as far as the last event of its source says. */
static const char *doing(const struct view_exits *v, const struct exits_vcpu *c, char *text, size_t len)
{
	double s = v->exits->last > c->since ? (double)(v->exits->last - c->since) / 1e9 : 0;

	if (c->state == EXITS_GUEST)
		return "in the guest";
	if (c->state != EXITS_OUT)
		return "not known";
	snprintf(text, len, "%s, %s %.1f s", REASON(c), !c->off ? "out" : c->waits ? "waits" : "sleeps", s);
	return text;
}

static void print_vcpus(const struct view_exits *v, struct view_page *p, const struct exits_row *vm)
{
	size_t nr;
	struct exits_vcpu **vcpu = exits_vcpus(v->exits, vm, &nr);

	view_line(p, "%4s %8s %9s %9s %8s %8s %8s %8s  %s", "vCPU", "Thread", "Samples", "Samples/s",
		  "Guest", "Host", "Asleep", "Waiting", "At last");
	for (size_t i = 0; i < nr; i++) {
		struct exits_vcpu *c = vcpu[i];
		__u64 all = c->guest_ns + c->out_ns, off = c->asleep_ns + c->preempted_ns;
		char text[HTRACE_NAME_MAX + 32];

		view_line(p, "%4u %8u %9llu %9.1f %7.2f%% %7.2f%% %7.2f%% %7.2f%%  %s", c->vcpu, c->tid,
			  (ull)c->exits, per_second(v, c->exits - c->before), percent(c->guest_ns, all),
			  percent(c->out_ns > off ? c->out_ns - off : 0, all), percent(c->asleep_ns, all),
			  percent(c->preempted_ns, all), doing(v, c, text, sizeof(text)));
		c->before = c->exits;
	}
	free(vcpu);
}

static void print_places_of(const struct view_exits *v, struct view_page *p, const struct exits_row *r)
{
	__u64 others = r->out.count;
	char address[20];
	size_t nr, most = p->rows ? PLACES_IN_PLACE : PLACES_SHOWN;
	struct exits_place **place = exits_places(v->exits, r, &nr);

	for (size_t i = 0; i < nr && i < most && (!i || place[i]->count * RARE >= r->out.count); i++) {
		snprintf(address, sizeof(address), "0x%016llx", (ull)place[i]->rip);
		view_line(p, "%-*.*s %9llu %7.2f%% %13.2f  %s", NAME_WIDTH, NAME_WIDTH, i ? "" : REASON(r),
			  (ull)place[i]->count, percent(place[i]->count, r->out.count), us(place[i]->ns),
			  *place[i]->name ? place[i]->name : address);
		others -= place[i]->count;
	}
	if (others && nr)
		view_line(p, "%-*s %9llu %7.2f%% %13s  (others)", NAME_WIDTH, "", (ull)others,
			  percent(others, r->out.count), "");
	free(place);
}

static void print_reasons(const struct view_exits *v, struct view_page *p, const struct exits_row *vm)
{
	size_t nr;
	struct exits_row **row = exits_rows(v->exits, vm, EXITS_ALL, &nr);

	view_line(p, "%s", "");
	view_line(p, "%-*s %9s %8s %13s  %s", NAME_WIDTH, "EXIT", "Samples", "Of these", "Time us",
		  "Where in the guest");
	for (size_t i = 0; i < nr; i++)
		print_places_of(v, p, row[i]);
	for (size_t i = 0; i < nr; i++) {
		view_line(p, "%s", "");
		view_line(p, "%s, ns:", REASON(row[i]));
		view_octaves(p, &row[i]->out);
	}
	free(row);
}

/* A table's title. */
static void print_title(const struct view_exits *v, struct view_page *p, const struct exits_row *vm,
			const char *what)
{
	const char *source = v->source[vm->source];

	view_line(p, "%s", "");
	view_line(p, "VM %u%s%s%s%s%s, %s", vm->vm, *vm->name ? " (" : "", vm->name, *vm->name ? ")" : "",
		  *source ? " of " : "", source, what);
}

/* In the words of perf-kvm(1), and how much that was of all time, in the guest and out of it. */
static void print_total(const struct view_exits *v, struct view_page *p, const struct exits_row *vm)
{
	__u64 all = 0;
	size_t nr;
	struct exits_vcpu **vcpu = exits_vcpus(v->exits, vm, &nr);

	for (size_t i = 0; i < nr; i++)
		all += vcpu[i]->guest_ns + vcpu[i]->out_ns;
	view_line(p, "Total Samples:%llu, Total events handled time:%.2fus, %.2f%% of the vCPUs' time.",
		  (ull)vm->out.count, us(vm->out.sum), percent(vm->out.sum, all));
	free(vcpu);
}

static void print_vm(const struct view_exits *v, struct view_page *p, struct exits_row *vm)
{
	struct exits_vcpu **vcpu;
	char what[24];
	size_t nr;

	print_title(v, p, vm, "all vCPUs");
	print_rows(v, p, vm, EXITS_ALL, vm);
	print_total(v, p, vm);
	view_line(p, "%s", "");
	print_vcpus(v, p, vm);
	print_reasons(v, p, vm);
	vcpu = exits_vcpus(v->exits, vm, &nr);
	for (size_t i = 0; nr > 1 && i < nr; i++) {
		if (i && vcpu[i]->vcpu == vcpu[i - 1]->vcpu) /* another thread of it */
			continue;
		snprintf(what, sizeof(what), "vCPU %u", vcpu[i]->vcpu);
		print_title(v, p, vm, what);
		print_rows(v, p, vm, vcpu[i]->vcpu, NULL);
	}
	free(vcpu);
}

static void add_count(char *text, size_t len, __u64 nr, const char *what)
{
	size_t at = strlen(text);

	if (nr)
		snprintf(text + at, len - at, "%s %llu %s", at ? "," : "", (ull)nr, what);
}

static void print_uncounted(const struct exits *x, struct view_page *p)
{
	char text[400] = "";

	add_count(text, sizeof(text), exits_out_now(x) + x->left_out, "out without end");
	add_count(text, sizeof(text), x->no_exit, "entries without an exit");
	add_count(text, sizeof(text), x->no_entry, "exits without an entry");
	add_count(text, sizeof(text), x->voided, "void for lost or late events");
	add_count(text, sizeof(text), x->beyond, "for which there was no room");
	if (*text)
		view_line(p, "not counted:%s", text);
	if (x->lost)
		view_line(p, "lost: %llu events of the host", (ull)x->lost);
}

static void exits_view_print(void *view, struct view_page *p)
{
	struct view_exits *v = view;
	struct exits *x = v->exits;
	size_t nr;
	struct exits_row **vm = exits_rows(x, NULL, EXITS_ALL, &nr);
	__u64 exits = 0;

	name_places(v);
	name_vms(v);
	for (size_t i = 0; i < nr; i++)
		exits += vm[i]->out.count;
	view_line(p, "exits of %zu VM%s in %.3f s: %llu", nr, nr == 1 ? "" : "s",
		  (double)(x->last - x->first) / 1e9, (ull)exits);
	print_uncounted(x, p);
	for (size_t i = 0; i < nr; i++)
		print_vm(v, p, vm[i]);
	free(vm);
	v->shown = x->last;
}

static void json_view_print(void *view, struct view_page *p)
{
	struct view_exits *v = view;

	name_places(v);
	name_vms(v);
	exits_json(p->out, v->exits, v->source);
}

#define EXITS_VIEW(called, how, is_lines) {              \
		.name = called,                          \
		.needs_host = true,                      \
		.lines = is_lines,                       \
		.open = exits_view_open,                 \
		.event = exits_view_event,               \
		.loss = exits_view_loss,                 \
		.session_end = exits_view_session_end,   \
		.print = how,                            \
		.close = exits_view_close,               \
	}

const struct view_ops view_exits = EXITS_VIEW("exits", exits_view_print, false);
const struct view_ops view_exits_json = EXITS_VIEW("exits:json", json_view_print, true);
