/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A reader's session with one output, and what its records are made of. */
#ifndef FUZZ_SESSION_H
#define FUZZ_SESSION_H

#include "fuzz.h"
#include "message.h"
#include "select.h"
#include "session.h"
#include "sink.h"
#include "stats.h"

struct reader {
	struct sinks sinks;
	struct stats *stats;
	struct say_quota quota;
	struct selection *selection;
	struct session_facts facts;
	struct session_config config;
	struct htrace_filter *filter;
	struct session *session;
	__u64 now;
};

/* It is large: one for all inputs, emptied behind each. */
static inline struct stats *reader_stats(void)
{
	static struct stats stats;

	if (!stats.by_id)
		CHECK(!stats_init(&stats));
	return &stats;
}

/*
 * The output @spec; facts are filled in, or come from @super. @how: bit 0: times are ticks, 1: it has
 * a name, 2: the reader has a filter, 4: it holds all until a snapshot is taken, 5: it
 * takes records where they are. False: memory was out.
 */
static inline bool reader_open(struct reader *r, const char *spec, const struct htrace_super *super,
			       __u64 how)
{
	static const struct snapshot_config recorder = { .bytes = 1 << 16 };
	char err[160];

	memset(r, 0, sizeof(*r));
	r->now = 1000000000;
	CHECK(!sinks_open(&r->sinks, &spec, 1));
	CHECK(!sinks_begin(&r->sinks));
	r->stats = reader_stats();
	CHECK(!selection_new(&r->selection, NULL));
	if (super)
		session_facts(&r->facts, super);
	else
		r->facts = (struct session_facts){
			.session = 1, .clock_id = HTRACE_CLOCK_MONOTONIC, .nr_cpus = 2, .nr_sets = 2,
			.set = { { HTRACE_OVERWRITE, HTRACE_RING_PER_CPU, 2, 20, 16 },
				 { HTRACE_DISCARD, HTRACE_RING_PER_THREAD, 1, 20, 16 } },
		};
	r->config = (struct session_config){
		.facts = &r->facts, .path = "here", .origin = "here", .stats = r->stats,
		.sinks = &r->sinks, .selection = r->selection, .quota = &r->quota,
	};
	if (how & 1)
		r->facts.clock_id = HTRACE_CLOCK_TSC;
	if (how & 2)
		r->config.source = "source";
	if (how & 4)
		CHECK(!htrace_filter_parse(&r->filter, how & 8 ? "tid == 7 || cpu < 2" : "nothing > 1", NULL));
	r->config.filter = r->filter;
	if (how & 16)
		r->config.snapshot = &recorder;
	r->config.lend = how & 32;
	return !session_open(&r->session, &r->config, err, sizeof(err));
}

static inline void reader_emit(struct reader *r, bool all)
{
	while (session_emit(r->session, r->now, all))
		;
}

static inline void reader_close(struct reader *r)
{
	session_close(r->session);
	sinks_close(&r->sinks);
	htrace_filter_free(r->filter);
	selection_free(r->selection);
	free(r->stats->named);
	r->stats->named = NULL;
	r->stats->nr_named = 0;
	memset(r->stats->cpu, 0, HTRACE_MAX_RINGS * sizeof(*r->stats->cpu));
	memset(r->stats->thread, 0, HTRACE_MAX_RINGS * sizeof(*r->stats->thread));
}

#endif
