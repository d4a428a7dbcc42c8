/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * --view summary:json: what the summary (summary.c) says in words, as an object of JSON; also before the end. It takes
 * no events: all of it is counted when they are read.
 */
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "clock.h"
#include "show.h"
#include "source.h"
#include "view.h"

typedef unsigned long long ull;

struct view_summary {
	const struct source *source;
	unsigned int nr;
	__u64 started;
	bool ended;
};

/* Members, one behind another: numbers that are always there. */
struct member {
	const char *name;
	__u64 v;
};

#define put_all(o, ...) put_members(o, (const struct member[]){ __VA_ARGS__, { NULL } })

static void put_members(struct out *o, const struct member *m)
{
	for (; m->name; m++)
		view_json_number(o, m->name, m->v);
}

/* An object behind other members, whose first one is a text. */
static void begin_object(struct out *o, const char *name, const char *first, const char *text)
{
	out_printf(o, ",\"%s\":{\"%s\":", name, first);
	view_json_text(o, text);
}

/* Of the command line, or anybody's who wrote a capture. */
static void put_path(struct out *o, const char *name, const char *path)
{
	char text[4 * 1024 + 1];

	text[htrace_escape(text, sizeof(text) - 1, path, strnlen(path, 1024))] = 0;
	view_json_named(o, name, text);
}

/* --------------------------------------------------------------------------------------------- who it is */

static void put_agent(struct out *o, const struct source *s, const struct stats *st)
{
	static const char *const states[] = {
		[HTRACE_GUEST_NONE] = "none", [HTRACE_GUEST_RUNNING] = "running", [HTRACE_GUEST_CLOSING] = "closing",
		[HTRACE_GUEST_CLOSED] = "closed",
	};
	__u32 state = s->guest.state;

	begin_object(o, "agent", "state", state < sizeof(states) / sizeof(*states) ? states[state] : "unknown");
	put_all(o, { "cpu_ns", st->agent_cpu_ns }, { "watched_ns", st->agent_ns }, { "total_cpu_ns", st->agent_total_ns });
	out_char(o, '}');
}

static void put_buffer(struct out *o, const struct source *s)
{
	const struct session_set *set = &s->facts.set[0];

	if (!s->facts.nr_sets)
		return;
	begin_object(o, "buffer", "policy", set->policy == HTRACE_DISCARD ? "discard" : "overwrite");
	put_all(o, { "nr_rings", set->nr_rings }, { "ring_bytes", 1ULL << set->ring_shift },
		{ "block_bytes", 1ULL << set->block_shift });
	out_char(o, '}');
}

static void put_guest(struct out *o, const struct source *s, const struct stats *st)
{
	view_json_said(o, "hostname", s->guest.hostname, sizeof(s->guest.hostname));
	view_json_said(o, "kernel", s->guest.release, sizeof(s->guest.release));
	view_json_number(o, "nr_cpus", s->facts.nr_cpus);
	view_json_named(o, "placement", s->placement);
	put_buffer(o, s);
	if (s->spec->kind != SOURCE_FILE)
		view_json_named(o, "sync", s->config->sync);
	put_agent(o, s, st);
	if (s->config->bell && s->spec->kind != SOURCE_FILE)
		put_all(o, { "woken", st->rings });
}

/* ------------------------------------------------------------------------------------------- its clock */

static void put_clock(struct out *o, const struct stats *st)
{
	begin_object(o, "clock", "clock", st->ticks ? "tsc" : "monotonic");
	if (st->ticks && st->clock_hz)
		put_all(o, { "hz", st->clock_hz }, { "bound_ns", st->clock_bound });
	if (st->ticks)
		put_all(o, { "samples", st->clock_used }, { "refused", st->clock_refused });
	out_char(o, '}');
}

/* As what times are shown. */
static void put_shown(struct out *o, const struct stats *st)
{
	const struct host_clock_stats *h = &st->host;

	begin_object(o, "shown_as", "clock", st->on_host ? "host" : "own");
	if (st->on_host)
		view_json_named(o, "by", h->same ? "same" : h->how == HOST_BY_KVM ? "kvm" : "ping");
	if (st->on_host && st->host_bound != HOST_CLOCK_UNKNOWN)
		view_json_number(o, "bound_ns", st->host_bound);
	out_char(o, '}');
}

static void put_line(struct out *o, const struct host_clock_stats *h)
{
	out_printf(o, ",\"line\":{\"hz\":%llu", (ull)h->hz);
	put_all(o, { "time", h->time }, { "host_ns", h->mono });
	if (h->bound != HOST_CLOCK_UNKNOWN)
		view_json_number(o, "bound_ns", h->bound);
	out_char(o, '}');
}

/* --clock. */
static void put_model(struct out *o, const struct source *s, const struct stats *st)
{
	const struct host_clock_stats *h = &st->host;
	const struct source_clock *c = &s->clock;

	out_printf(o, ",\"model\":{\"samples\":%llu", (ull)h->knots);
	put_all(o, { "refused", h->refused }, { "segments", h->segments }, { "steps", h->steps }, { "doubts", h->doubts });
	if (h->steps)
		out_printf(o, ",\"last_step_ns\":%lld", (long long)h->step);
	if (h->hz)
		put_line(o, h);
	put_all(o, { "times", st->host_times });
	out_text(o, ",\"within\":[");
	for (unsigned int i = 0; i < REGION_CLOCK_LIMITS; i++)
		out_printf(o, "%s{\"ns\":%llu,\"count\":%llu}", i ? "," : "", (ull)region_clock_limits[i],
			   (ull)st->host_within[i]);
	out_char(o, ']');
	if (c->pongs) {
		out_printf(o, ",\"asked\":{\"times\":%u", c->pongs);
		put_all(o, { "answers", c->rounds }, { "contradictory", c->refused },
			{ "offset_ticks", c->offset.high - c->offset.low });
		out_printf(o, ",\"drifts\":%s}", c->drifts ? "true" : "false");
	}
	out_char(o, '}');
}

/* --------------------------------------------------------------------------------------- what is counted */

static void put_counts(struct out *o, const struct ring_count *r)
{
	put_all(o, { "received", r->events }, { "unverified", r->unverified }, { "bytes", r->bytes },
		{ "ring_bytes", r->bytes - r->spared });
}

static void put_losses(struct out *o, const struct ring_count *r)
{
	put_all(o, { "overwritten", r->overwritten }, { "dropped", r->dropped }, { "corrupt", r->corrupt },
		{ "unfinished", r->unfinished });
}

static void put_skipped(struct out *o, const struct source *s, const struct stats *st)
{
	bool any = false;

	put_all(o, { "skipped", st->misses }, { "programs", st->nr_progs }, { "programs_not_counted", st->nr_uncounted });
	out_text(o, ",\"skipped_by\":[");
	for (__u32 i = 0; i < s->guest.nr_progs; i++) {
		const struct htrace_prog *p = &s->guest.prog[i];

		if (!p->misses)
			continue;
		out_text(o, any ? ",{\"program\":" : "{\"program\":");
		any = true;
		json_show_string(o, p->name, strnlen(p->name, sizeof(p->name)));
		view_json_number(o, "count", p->misses);
		out_char(o, '}');
	}
	out_char(o, ']');
}

static void put_totals(struct out *o, const struct source *s, const struct stats *st)
{
	struct ring_count sum = stats_total(st);

	put_counts(o, &sum);
	put_all(o, { "lost", ring_lost(&sum) + st->misses });
	put_losses(o, &sum);
	put_skipped(o, s, st);
	put_all(o, { "before", sum.before }, { "backlog_bytes", s->live ? live_backlog(s->live) : 0 },
		{ "uncommitted_bytes", sum.uncommitted }, { "unread_bytes", st->unread }, { "filtered", st->filtered },
		{ "unwritten", st->unwritten }, { "late", st->late }, { "backwards", st->backwards },
		{ "stacks_forgotten", st->stacks_forgotten }, { "broken", st->broken });
}

static void put_events(struct out *o, const struct source *s, const struct stats *st)
{
	const struct session *session = s->session ? s->session : s->ending;
	unsigned int nr;
	struct named_count *named = stats_by_count(st, session ? session_now(session) : NULL, &nr);

	out_text(o, ",\"events\":[");
	for (unsigned int i = 0; i < nr; i++) {
		out_text(o, i ? ",{\"event\":" : "{\"event\":");
		view_json_text(o, named[i].name);
		put_all(o, { "count", named[i].n.count }, { "bytes", named[i].n.bytes });
		out_char(o, '}');
	}
	out_char(o, ']');
	free(named);
}

static void put_rings(struct out *o, const struct ring_count *rings, const char *kind, bool *any)
{
	for (unsigned int i = 0; i < HTRACE_MAX_RINGS; i++) {
		const struct ring_count *r = &rings[i];

		if (!r->used)
			continue;
		out_printf(o, "%s{\"%s\":%u", *any ? "," : "", kind, i);
		*any = true;
		put_counts(o, r);
		put_all(o, { "lost", ring_lost(r) });
		put_losses(o, r);
		put_all(o, { "before", r->before }, { "uncommitted_bytes", r->uncommitted });
		out_char(o, '}');
	}
}

/* Of sync kvm-exit. What measures its programs would end that: @ended says that it may. */
static void put_exits(struct out *o, const struct source *s, const struct stats *st, bool ended)
{
	const struct exit_cost *cost = ended ? kvm_exits_cost(s->config->exits) : NULL;
	bool any = false;

	out_text(o, ",\"vcpus\":[");
	for (unsigned int i = 0; i < HTRACE_MAX_RINGS; i++) {
		const struct exit_count *c = &st->exits[i];

		if (!c->used)
			continue;
		out_printf(o, "%s{\"vcpu\":%u", any ? "," : "", i);
		any = true;
		put_all(o, { "exits", c->exits }, { "reads_out", c->out }, { "reads_returned", c->returned },
			{ "reads_inside", c->inside });
		out_char(o, '}');
	}
	out_char(o, ']');
	if (cost)
		put_all(o, { "bpf_exits", cost->exits }, { "bpf_exits_ns", cost->exits_ns },
			{ "bpf_entries", cost->entries }, { "bpf_entries_ns", cost->entries_ns });
}

/* ------------------------------------------------------------------------------------------------- pages */

static void put_source(struct out *o, const struct source *s, __u64 now, bool ended)
{
	static const char *const states[] = {
		[SOURCE_WAITING] = "waiting", [SOURCE_MAPPING] = "mapping", [SOURCE_LISTENING] = "listening",
		[SOURCE_READING] = "reading", [SOURCE_SILENT] = "silent", [SOURCE_BACK] = "back", [SOURCE_FAILED] = "failed",
		[SOURCE_DONE] = "done",
	};
	struct stats st = source_stats(s, now);
	bool any = false;

	out_printf(o, "{\"source_nr\":%u", s->nr);
	put_path(o, "source", s->name);
	put_path(o, "path", s->spec->path);
	view_json_named(o, "kind", source_kind_name[s->spec->kind]);
	view_json_named(o, "state", states[s->state]);
	put_all(o, { "sessions", st.sessions }, { "attached_ns", st.attached_ns });
	if (st.sessions) {
		put_guest(o, s, &st);
		put_clock(o, &st);
	}
	if (st.sessions && s->config->host_clock)
		put_shown(o, &st);
	if (s->config->clock && !st.host.same && st.host.knots)
		put_model(o, s, &st);
	put_totals(o, s, &st);
	put_events(o, s, &st);
	out_text(o, ",\"rings\":[");
	put_rings(o, st.cpu, "cpu", &any);
	put_rings(o, st.thread, "ring", &any);
	out_char(o, ']');
	if (s->config->exits)
		put_exits(o, s, &st, ended);
	out_char(o, '}');
}

static void summary_view_print(void *view, struct view_page *p)
{
	const struct view_summary *v = view;
	__u64 now = clock_now();
	struct timespec cpu;

	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &cpu);
	out_text(p->out, "{\"view\":\"summary\"");
	put_all(p->out, { "elapsed_ns", now - v->started },
		{ "reader_cpu_ns", (__u64)cpu.tv_sec * 1000000000 + (__u64)cpu.tv_nsec });
	out_text(p->out, ",\"sources\":[");
	for (unsigned int i = 0; i < v->nr; i++) {
		if (i)
			out_char(p->out, ',');
		put_source(p->out, &v->source[i], now, v->ended);
	}
	out_text(p->out, "]}");
	out_newline(p->out);
}

static void *summary_view_open(void)
{
	return calloc(1, sizeof(struct view_summary));
}

static void summary_view_configure(void *view, const struct view_config *c)
{
	struct view_summary *v = view;

	v->source = c->source;
	v->nr = c->nr;
	v->started = c->started;
}

static void summary_view_finish(void *view)
{
	struct view_summary *v = view;

	v->ended = true;
}

const struct view_ops view_summary_json = {
	.name = "summary:json",
	.lines = true,
	.open = summary_view_open,
	.configure = summary_view_configure,
	.finish = summary_view_finish,
	.print = summary_view_print,
	.close = free,
};
