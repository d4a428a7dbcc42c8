/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "summary.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

typedef unsigned long long ull;

/* ---------------------------------------------------------------------------- now and then */

static void human_bytes(char *text, size_t len, __u64 bytes)
{
	static const char *const unit[] = { "B", "KiB", "MiB", "GiB", "TiB" };
	double v = (double)bytes;
	unsigned int u = 0;

	for (; v >= 1024 && u < 4; u++)
		v /= 1024;
	snprintf(text, len, u ? "%.1f %s" : "%.0f %s", v, unit[u]);
}

static void agent_share(char *text, size_t len, struct statistics *t, const struct htrace_guest *g)
{
	double share = -1;

	if (t->agent_mono && g->heartbeat_mono > t->agent_mono &&
	    g->agent_cpu_ns >= t->agent_cpu_ns)
		share = 100.0 * (double)(g->agent_cpu_ns - t->agent_cpu_ns) /
			(double)(g->heartbeat_mono - t->agent_mono);
	t->agent_cpu_ns = g->agent_cpu_ns;
	t->agent_mono = g->heartbeat_mono;
	if (share >= 0)
		snprintf(text, len, "%.2f %% CPU", share);
	else
		snprintf(text, len, "unknown");
}

static void skipped_so_far(char *text, size_t len, const struct source *s)
{
	__u64 misses = s->stats.misses;
	bool counted = !s->guest.nr_progs;

	for (__u32 i = 0; i < s->guest.nr_progs; i++) {
		misses += s->session ? s->guest.prog[i].misses : 0;
		counted |= s->guest.prog[i].flags & HTRACE_PROG_MISSES_COUNTED;
	}
	if (counted)
		snprintf(text, len, "%" PRIu64, (uint64_t)misses);
	else
		snprintf(text, len, "not counted");
}

void statistics_say(struct statistics *t, const struct source *s, __u64 now)
{
	struct ring_count sum = stats_total(&s->stats);
	double seconds = (double)(now - t->at) / 1e9;
	char backlog[32], agent[32], skipped[32];

	human_bytes(backlog, sizeof(backlog), s->live ? live_backlog(s->live) : 0);
	agent_share(agent, sizeof(agent), t, &s->guest);
	skipped_so_far(skipped, sizeof(skipped), s);
	say("%s%s%.0f events/s, %llu received, lost %llu, skipped %s, backlog %s, agent %s",
	    s->config->several ? s->spec->path : "", s->config->several ? ": " : "",
	    seconds > 0 ? (double)(sum.events - t->events) / seconds : 0.0, (ull)sum.events,
	    (ull)ring_lost(&sum), skipped, backlog, agent);
	t->at = now;
	t->events = sum.events;
}

/* -------------------------------------------------------------------------------- at the end */

static void row(struct out *o, const char *label, const char *text)
{
	out_printf(o, "%-12s", label);
	out_text(o, text);
	out_newline(o);
}

static double percent(__u64 part, __u64 of)
{
	return of ? 100.0 * (double)part / (double)of : 0.0;
}

static void write_cpu(struct out *o, const struct stats *st, __u64 elapsed_ns, __u64 reader_cpu_ns)
{
	char text[160];

	snprintf(text, sizeof(text),
		 "%.3f %% of a CPU while read (%.3f s, of %.3f s with its start)",
		 percent(st->agent_cpu_ns, st->agent_ns), (double)st->agent_cpu_ns / 1e9,
		 (double)st->agent_total_ns / 1e9);
	row(o, "agent", st->agent_ns ? text : "CPU time unknown");
	snprintf(text, sizeof(text), "%.3f %% of a CPU (%.3f s)",
		 percent(reader_cpu_ns, elapsed_ns), (double)reader_cpu_ns / 1e9);
	row(o, "reader", text);
}

static void write_event(struct out *o, const char *name, const struct event_count *n, __u64 total,
			double seconds)
{
	out_printf(o, "%-32s %12llu %7.2f %% %12.1f %12.2f", name, (ull)n->count,
		   percent(n->count, total),
		   seconds > 0 ? (double)n->count / seconds : 0.0,
		   n->count ? (double)n->bytes / (double)n->count : 0.0);
	out_newline(o);
}

static void write_events(struct out *o, const struct stats *st)
{
	double seconds = (double)st->attached_ns / 1e9;
	struct event_count all = { 0 };
	unsigned int nr;
	struct named_count *named = stats_by_count(st, NULL, &nr);

	for (unsigned int i = 0; i < nr; i++) {
		all.count += named[i].n.count;
		all.bytes += named[i].n.bytes;
	}
	out_printf(o, "%-32s %12s %9s %12s %12s", "event", "count", "share", "per second",
		   "bytes/event");
	out_newline(o);
	for (unsigned int i = 0; i < nr; i++)
		write_event(o, named[i].name, &named[i].n, all.count, seconds);
	write_event(o, "total", &all, all.count, seconds);
	free(named);
}

static void write_ring(struct out *o, const char *name, const struct ring_count *r, double seconds)
{
	out_printf(o, "%-12s %12llu %12.1f %14llu %12llu %10llu %10llu %11llu", name,
		   (ull)r->events, seconds > 0 ? (double)r->events / seconds : 0.0, (ull)r->bytes,
		   (ull)r->overwritten, (ull)r->dropped, (ull)r->corrupt, (ull)r->unverified);
	out_newline(o);
}

static void write_rings(struct out *o, const char *title, const struct ring_count *rings,
			double seconds)
{
	bool any = false;
	char name[16];

	for (unsigned int i = 0; i < HTRACE_MAX_RINGS; i++) {
		if (!rings[i].used)
			continue;
		if (!any) {
			out_newline(o);
			out_printf(o, "%-12s %12s %12s %14s %12s %10s %10s %11s", title,
				   "received", "per second", "bytes", "overwritten", "dropped", "corrupt", "unverified");
			out_newline(o);
		}
		any = true;
		snprintf(name, sizeof(name), "%u", i);
		write_ring(o, name, &rings[i], seconds);
	}
}

/* Without what the kernel needs to call them. */
static void write_exit_cost(struct out *o, const struct exit_cost *c)
{
	char text[200];

	if (!c->exits || !c->entries)
		snprintf(text, sizeof(text), "not measured");
	else
		snprintf(text, sizeof(text),
			 "%.0f ns at an exit and %.0f ns at an entry (means of %llu and %llu, of all VMs)",
			 (double)c->exits_ns / (double)c->exits,
			 (double)c->entries_ns / (double)c->entries, (ull)c->exits, (ull)c->entries);
	row(o, "BPF takes", text);
}

/* How far the policy kvm-exit came with what it is for. */
static void write_exits(struct out *o, const struct exit_count *count, struct kvm_exits *exits)
{
	bool any = false;

	for (unsigned int i = 0; i < HTRACE_MAX_RINGS; i++) {
		const struct exit_count *c = &count[i];
		__u64 reads = c->out + c->returned + c->inside;

		if (!c->used)
			continue;
		if (!any) {
			out_newline(o);
			out_printf(o, "%-12s %12s %12s %14s %12s %10s", "vCPU", "exits", "reads",
				   "while out", "came back", "inside");
			out_newline(o);
		}
		any = true;
		out_printf(o, "%-12u %12llu %12llu %12.1f %% %10.1f %% %8.1f %%", i, (ull)c->exits,
			   (ull)reads, percent(c->out, reads), percent(c->returned, reads),
			   percent(c->inside, reads));
		out_newline(o);
	}
	if (any)
		write_exit_cost(o, kvm_exits_cost(exits));
}

static void write_skipped(struct out *o, const struct source *s)
{
	const struct stats *st = &s->stats;
	const char *between = " (";
	char name[4 * HTRACE_PROG_NAME + 1];

	out_printf(o, "%-12s", "skipped");
	if (!st->nr_progs) {
		out_text(o, "no programs to count for");
	} else if (st->nr_uncounted == st->nr_progs && !st->misses) {
		out_text(o, "by the kernel: not counted");
	} else {
		out_printf(o, "by the kernel: %llu", (ull)st->misses);
		if (st->nr_uncounted)
			out_printf(o, ", not counted for %u of %u programs", st->nr_uncounted,
				   st->nr_progs);
	}
	for (__u32 i = 0; i < s->guest.nr_progs; i++) {
		const struct htrace_prog *p = &s->guest.prog[i];

		if (!p->misses)
			continue;
		name[htrace_escape(name, sizeof(name) - 1, p->name,
				   strnlen(p->name, sizeof(p->name)))] = 0;
		out_printf(o, "%s%s %llu", between, name, (ull)p->misses);
		between = ", ";
	}
	if (*between == ',')
		out_char(o, ')');
	out_newline(o);
}

static void write_totals(struct out *o, const struct source *s)
{
	const struct stats *st = &s->stats;
	struct ring_count sum = stats_total(st);

	write_ring(o, "total", &sum, (double)st->attached_ns / 1e9);
	out_newline(o);
	out_printf(o, "%-12s%llu", "received", (ull)sum.events);
	if (sum.unverified)
		out_printf(o, ", of these %llu unverified", (ull)sum.unverified);
	out_newline(o);
	if (sum.spared) {
		out_printf(o, "%-12s%llu bytes in the rings, %.2f an event; %llu without", "compressed",
			   (ull)(sum.bytes - sum.spared), (double)(sum.bytes - sum.spared) / (double)sum.events,
			   (ull)sum.bytes);
		out_newline(o);
	}
	out_printf(o, "%-12s%llu (overwritten %llu, dropped %llu, corrupt %llu, ", "lost",
		   (ull)(ring_lost(&sum) + st->misses),
		   (ull)sum.overwritten, (ull)sum.dropped, (ull)sum.corrupt);
	if (sum.unfinished)
		out_printf(o, "unfinished %llu, ", (ull)sum.unfinished);
	out_printf(o, "skipped %llu)", (ull)st->misses);
	out_newline(o);
	write_skipped(o, s);
	out_printf(o, "%-12s%llu events were gone when the reader came: overwritten, or read by another",
		   "before", (ull)sum.before);
	out_newline(o);
	if (sum.uncommitted) {
		out_printf(o, "%-12s%llu bytes, of processes that died in the midst of records",
			   "uncommitted", (ull)sum.uncommitted);
		out_newline(o);
	}
	if (st->unread) {
		out_printf(o, "%-12s%llu bytes of rings that went away, or at the end", "unread",
			   (ull)st->unread);
		out_newline(o);
	}
	if (st->filtered) {
		out_printf(o, "%-12s%llu events received, and not shown: they do not match", "filtered",
			   (ull)st->filtered);
		out_newline(o);
	}
	if (st->unwritten) {
		out_printf(o, "%-12s%llu events received, and not shown for want of time", "unwritten",
			   (ull)st->unwritten);
		out_newline(o);
	}
	out_printf(o, "%-12s%llu late in the merge, %llu backwards in their ring", "order",
		   (ull)st->late, (ull)st->backwards);
	out_newline(o);
	if (st->stacks_forgotten) {
		out_printf(o, "%-12s%llu were forgotten for want of room; events that name them are "
			   "shown without", "stacks", (ull)st->stacks_forgotten);
		out_newline(o);
	}
	if (st->broken) {
		out_printf(o, "%-12s%u rings were given up", "broken", st->broken);
		out_newline(o);
	}
}

static void write_clock(struct out *o, const struct stats *st)
{
	char text[200], refused[48] = "", bound[48] = "";

	if (!st->ticks) {
		row(o, "clock", "CLOCK_MONOTONIC");
		return;
	}
	if (st->clock_refused)
		snprintf(refused, sizeof(refused), ", %llu refused", (ull)st->clock_refused);
	if (st->clock_bound)
		snprintf(bound, sizeof(bound), ", within %llu ns", (ull)st->clock_bound);
	if (st->clock_hz)
		snprintf(text, sizeof(text), "TSC of %.6f MHz, shown as CLOCK_MONOTONIC%s (%llu samples%s)",
			 (double)st->clock_hz / 1e6, bound, (ull)st->clock_used, refused);
	else
		snprintf(text, sizeof(text), "TSC, shown in ticks: there are no samples to convert it "
			 "by (%llu%s)", (ull)st->clock_used, refused);
	row(o, "clock", text);
}

static const char *by_what(const struct host_clock_stats *h)
{
	return h->same ? "its machine is the host" :
	       h->how == HOST_BY_KVM ? "by the offset of its TSC that KVM tells" :
				       "by ping-pong with its agent";
}

/* As what times were shown, and how far off. */
static void write_shown(struct out *o, const struct source *s)
{
	const struct stats *st = &s->stats;
	char text[200];

	if (!s->config->host_clock)
		return;
	if (st->on_host && st->host_bound == HOST_CLOCK_UNKNOWN)
		snprintf(text, sizeof(text), "the host's CLOCK_MONOTONIC; within what is not known: it did not answer "
			 "when a step was suspected (%s)", by_what(&st->host));
	else if (st->on_host)
		snprintf(text, sizeof(text), "the host's CLOCK_MONOTONIC, within %llu ns (%s)",
			 (ull)st->host_bound, by_what(&st->host));
	else
		snprintf(text, sizeof(text), "its own clock: how that goes beside the host's is not known");
	row(o, "shown as", text);
}

/* Whatever is the worst of all: how many times are how near. */
static void write_bounds(struct out *o, const struct stats *st)
{
	char text[300];
	int len = snprintf(text, sizeof(text), "of %llu times", (ull)st->host_times);

	for (unsigned int i = 0; i < REGION_CLOCK_LIMITS && st->host_times; i++)
		len += snprintf(text + len, sizeof(text) - (size_t)len, "%s %.2f %% within %llu ns", i ? "," : ":",
				100.0 * (double)st->host_within[i] / (double)st->host_times, (ull)region_clock_limits[i]);
	if (st->host_times)
		row(o, "bounds", text);
}

/* The model: --clock. */
static void write_model(struct out *o, const struct source *s)
{
	const struct host_clock_stats *h = &s->stats.host;
	const struct source_clock *c = &s->clock;
	char text[300];

	if (!s->config->clock || h->same || !h->knots)
		return;
	snprintf(text, sizeof(text), "%llu used, %llu refused; %u segment%s, %llu step%s", (ull)h->knots,
		 (ull)h->refused, h->segments, h->segments == 1 ? "" : "s", (ull)h->steps,
		 h->steps == 1 ? "" : "s");
	if (h->steps)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), ", the last of %+.6f s",
			 (double)h->step / 1e9);
	if (h->doubts)
		snprintf(text + strlen(text), sizeof(text) - strlen(text), "; %llu time%s in doubt",
			 (ull)h->doubts, h->doubts == 1 ? "" : "s");
	row(o, "samples", text);
	if (h->hz && s->facts.clock_id == HTRACE_CLOCK_MONOTONIC)
		snprintf(text, sizeof(text), "it was %.9f s when the host's was %.9f s, %+.3f ppm fast; "
			 "within %llu ns then", (double)h->time / 1e9, (double)h->mono / 1e9,
			 ((double)h->hz - 1e9) / 1e3, (ull)h->bound);
	else if (h->hz)
		snprintf(text, sizeof(text), "it was %llu when the host's was %.9f s, of %.6f MHz; within "
			 "%llu ns then", (ull)h->time, (double)h->mono / 1e9, (double)h->hz / 1e6, (ull)h->bound);
	if (h->hz)
		row(o, "line", text);
	write_bounds(o, &s->stats);
	if (!c->pongs)
		return;
	snprintf(text, sizeof(text), "%u times, %u answers, %u times contradictory; TSC offset known to %llu "
		 "ticks%s", c->pongs, c->rounds, c->refused, (ull)(c->offset.high - c->offset.low),
		 c->drifts ? ", and it drifts" : "");
	row(o, "asked", text);
}

void summary_write(struct out *o, const struct source *s, __u64 elapsed_ns, __u64 reader_cpu_ns)
{
	const struct stats *st = &s->stats;
	char text[800];

	out_text(o, "--- summary of ");
	out_escaped(o, s->spec->path, strlen(s->spec->path)); /* of a capture, whoever made it chose its directory's name */
	out_text(o, " ---");
	out_newline(o);
	if (!st->sessions) {
		row(o, "guest", "none came");
		return;
	}
	row(o, "guest", s->who);
	row(o, "placement", s->placement);
	if (s->spec->kind == SOURCE_FILE)
		snprintf(text, sizeof(text), "%s; from a capture", s->buffer);
	else
		snprintf(text, sizeof(text), "%s; sync %s", s->buffer, s->config->sync);
	row(o, "buffer", text);
	write_clock(o, st);
	write_shown(o, s);
	write_model(o, s);
	/* The time that it took to read a capture has nothing to do with the capture's. */
	snprintf(text, sizeof(text), "%.3f s attached%s%.3f s, %u session%s",
		 (double)st->attached_ns / 1e9,
		 s->spec->kind == SOURCE_FILE ? ", read in " : " of ", (double)elapsed_ns / 1e9,
		 st->sessions, st->sessions == 1 ? "" : "s");
	row(o, "duration", text);
	write_cpu(o, st, elapsed_ns, reader_cpu_ns);
	if (s->config->bell && s->spec->kind != SOURCE_FILE) {
		snprintf(text, sizeof(text), "%llu times by producers%s", (ull)st->rings,
			 s->has_bell ? "" : ", which do not ring");
		row(o, "woken", text);
	}
	out_newline(o);
	write_events(o, st);
	write_rings(o, s->local ? "CPU" : "vCPU", st->cpu,
		    (double)st->attached_ns / 1e9);
	write_rings(o, "ring", st->thread, (double)st->attached_ns / 1e9);
	write_totals(o, s);
	write_exits(o, st->exits, s->config->exits);
}
