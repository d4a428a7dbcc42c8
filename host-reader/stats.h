/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a source delivered and lost, over all its sessions. Counted when read, before merging. */
#ifndef READER_STATS_H
#define READER_STATS_H

#include <stdbool.h>

#include <htrace/consumer.h>
#include <htrace/schema.h>

#include "kvm_exits.h"
#include "region_clock.h"

struct capture_lent;

#define MAX_EVENT_NAMES 65536 /* more, from a guest that comes with ever new ones, share one line */

struct event_count {
	__u64 count, bytes; /* bytes of whole records */
};

struct named_count {
	char name[HTRACE_NAME_MAX];
	struct event_count n;
};

struct ring_count {
	__u64 events, bytes; /* without packing */
	__u64 spared; /* bytes that were not in the ring, thanks to packing */
	__u64 overwritten, dropped, corrupt, unfinished; /* lost */
	__u64 uncommitted; /* bytes of producers that died */
	__u64 before;     /* overwritten before we came: not lost by us */
	__u64 unverified; /* of events */
	bool used;
};

static inline __u64 ring_lost(const struct ring_count *r)
{
	return r->overwritten + r->dropped + r->corrupt + r->unfinished;
}

/* How a region's clock goes beside the host's. */
struct host_clock_stats {
	bool same;
	__u32 how; /* enum host_word_how */
	unsigned int segments;
	__u64 knots, refused, steps, doubts;
	__s64 step; /* the last one */
	__u64 hz;   /* of its clock, by the host's; 0: not known */
	__u64 time, mono; /* at the last knot: its clock, the host's */
	__u64 bound; /* then; HOST_CLOCK_UNKNOWN while its session goes on */
};

struct stats {
	struct event_count *by_id; /* of the current session, 65536 of them */
	struct named_count *named; /* of the sessions before */
	unsigned int nr_named;
	struct ring_count *cpu, *thread; /* HTRACE_MAX_RINGS of each kind */
	struct exit_count *exits;         /* of virtual CPUs, by ring; likewise */
	__u64 backwards; /* times that went backwards within a ring */
	__u64 late;      /* records that the merge's delay did not suffice for */
	__u64 unread;    /* bytes that stayed in rings */
	__u64 filtered;  /* events that were not shown: they do not match a filter */
	__u64 unwritten; /* events that were read, and that there was no time to show */
	__u64 stacks_forgotten; /* for want of room, while they might have been named again */
	bool ticks; /* the latest session's clock is the TSC; how that was converted: */
	__u64 clock_hz; /* 0: not at all */
	__u64 clock_bound, clock_used, clock_refused;
	bool on_host; /* the latest session's times are shown as the host's; how far they may be off: */
	__u64 host_bound;
	__u64 host_times, host_within[REGION_CLOCK_LIMITS]; /* likewise of all sessions: region_clock.h */
	struct host_clock_stats host; /* of the latest session, as far as they went out */
	unsigned int broken; /* rings that were quarantined */
	unsigned int sessions;
	__u64 rings; /* times that producers rang to wake us */
	__u64 attached_ns; /* host time during which a session was attached */

	/* Of BPF programs. */
	__u64 misses;
	unsigned int nr_progs, nr_uncounted;

	__u64 agent_total_ns;         /* CPU time of all agents since they started */
	__u64 agent_cpu_ns, agent_ns; /* of that while they were watched, and how long that was */
};

int stats_init(struct stats *s);
void stats_free(struct stats *s);
/* @time: of the ring's last record, or 0; moves on. */
void stats_batch(struct stats *s, struct ring_count *r, const struct htrace_batch *b,
		 bool unverified, __u64 *time);
/* The same of a batch that stayed in its ring: first what was lost before it, then itself. */
void stats_loss(struct ring_count *r, const struct htrace_batch *b);
void stats_lent(struct stats *s, struct ring_count *r, const struct capture_lent *lent, bool intact);
/* The session ends: what was counted by number is kept by name. */
void stats_fold(struct stats *s, const struct htrace_schema *schema);
/* All that was counted by name, also in the current session, whose schema this is; a name may come several times. */
void stats_names(const struct stats *s, const struct htrace_schema *schema,
		 void (*each)(void *ctx, const char *name, const struct event_count *n), void *ctx);
/* Likewise, each once, the most frequent first, and how many there are; to be freed. NULL: memory is out. */
struct named_count *stats_by_count(const struct stats *s, const struct htrace_schema *schema, unsigned int *nr);
/* The session goes on: how its clock was converted so far. */
void stats_clock_so_far(struct stats *s, const struct region_clock *clock);
/* It ends. */
void stats_clock(struct stats *s, struct region_clock *clock);
/* Sum over all rings. */
struct ring_count stats_total(const struct stats *s);

#endif
