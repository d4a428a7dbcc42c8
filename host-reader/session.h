/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One session: its schema and names, and the way of its records through the merge to the sinks.
 * Where they come from, a region (live.h) or a capture (source_file.c), is not known here: whoever
 * reads hands over batches, schemas, tables of names and notes in the order in which they came.
 * Their effect on each other, and so the output, depends on that order, on when each arrived, and
 * on the times given to session_emit() between them. Sinks that capture get all of it as it is.
 */
#ifndef READER_SESSION_H
#define READER_SESSION_H

#include <stdbool.h>

#include <htrace/consumer.h>
#include <htrace/filter.h>

#include "host_clock.h"
#include "message.h"
#include "order.h"
#include "select.h"
#include "sink.h"
#include "stats.h"

struct session;
struct vcpu_hosts;

/* --snapshot. */
struct snapshot_config {
	__u64 bytes;              /* that are held of each ring */
	struct selection *events; /* that ask for one; or NULL */
	const struct htrace_filter *filter; /* if they match this; or NULL */
};

struct session_config {
	const struct session_facts *facts;
	const char *path;         /* for messages */
	const char *origin;       /* where it comes from, or came from when it was captured */
	const char *source;       /* for sinks; NULL: there is one source only */
	unsigned int source_nr;   /* among those of the command line, from 0 on */
	struct stats *stats;
	struct sinks *sinks; /* NULL: records are counted, and not shown */
	struct selection *selection;
	const struct htrace_filter *filter; /* or NULL */
	const char *filter_option; /* that it comes from; NULL: --filter */
	struct vcpu_hosts *hosts; /* whose virtual CPUs are followed; or NULL */
	struct say_quota *quota; /* for what the guest causes to be said; NULL: nothing is */
	const struct snapshot_config *snapshot; /* only these go out; or NULL: all does */
	struct order *order; /* with other sessions; or NULL */
	bool patient;        /* it is a capture's */
	bool host_clock;     /* show the host's times, if they are known when the first one goes out */
	bool lend; /* batches may be handed over in their rings: its producers are trusted */
};

/* What there is to know of a session from its superblock @super. */
void session_facts(struct session_facts *f, const struct htrace_super *super);
/* Rings are numbered through all sets. */
unsigned int session_facts_rings(const struct session_facts *f);

/* 0, or -errno with one line in @err. */
int session_open(struct session **out, const struct session_config *config, char *err,
		 size_t errlen);
/* Forget the session. What is held and did not go out yet is counted as unwritten. */
void session_close(struct session *s);

/* Does anybody want to know what tasks are called? */
bool session_wants_names(const struct session *s);
/* May more of this ring be handed over, or is too much of it held? */
bool session_has_room(const struct session *s, unsigned int ring);
/* Did an earlier schema, or table of names, not take effect yet? Then another one has to wait. */
bool session_is_behind(const struct session *s);
/* The schema that holds; or NULL: there is none yet. */
const struct htrace_schema *session_now(const struct session *s);
/* Are times shown as the host's? By how much they may be off so far, ns, or HOST_CLOCK_UNKNOWN. */
bool session_bound(const struct session *s, __u64 *bound);
/* How its clock was converted so far: to @stats, as its end adds that to its source's. */
void session_clock_so_far(const struct session *s, struct stats *stats);
/* The latest time that was read, region clock. */
__u64 session_latest(const struct session *s);
/* The number of ring @ring among those of its kind. */
unsigned int session_ring_number(const struct session *s, unsigned int ring);

/* What was read. @raised: times of the batch that were raised in an earlier capture. -ENOMEM. */
int session_batch(struct session *s, unsigned int ring, const struct htrace_batch *b, __u64 now,
		  bool unverified, __u32 raised);
/*
 * Without a copy, where session_lends(): @b was borrowed from @c, which gets it back, at once or when
 * it is written. What was overwritten meanwhile is counted, and captured, as that.
 */
bool session_lends(const struct session *s);
int session_lent(struct session *s, unsigned int ring, struct htrace_consumer *c,
		 const struct htrace_batch *b, __u64 now, bool unverified);
/*
 * Let what was lent go back, without waiting, or all of it, and what a capture held back is written. False: some
 * was not written: it is unread.
 */
bool session_take_back(struct session *s, enum take_back how);
/* Is it captured? Then what is before session_unwritten(), but for what is lent, is in the capture's files. */
bool session_captures(const struct session *s);
__u64 session_unwritten(const struct session *s, unsigned int ring);
/* The schema's entries, all of them. 0, or -errno with one line in @err; what holds stays then. */
int session_schema(struct session *s, __u64 generation, const void *entries, size_t len, __u64 now,
		   char *err, size_t errlen);
void session_names(struct session *s, const struct htrace_name *table, __u32 nr, __u64 now);
/* What the guest, @fresh, says of itself. @clock may be all zero. */
void session_guest(struct session *s, const struct htrace_guest *fresh,
		   const struct htrace_clock_sample *clock, __u64 now);
/* Samples of its clock, at most HTRACE_CLOCK_SAMPLES + 1, where its times are ticks. */
void session_clock(struct session *s, const struct htrace_clock_sample *samples, __u32 nr,
		   __u64 now);
/* How the region's clock goes beside the host's. */
void session_host_clock(struct session *s, const struct host_word *words, __u32 nr, __u64 now);
/* All was handed over that happened before @time of the host's clock. */
void session_read_until(struct session *s, __u64 time);
/* By whom it is run, as the host has it. */
void session_vm(struct session *s, const struct session_vm *vm, __u64 now);
/* Of one with c->snapshot: let what is held go out. @why: in a few words. */
void session_snapshot(struct session *s, const char *why, __u64 now);
/* Records of other sessions wait for its first ones until then; 0: no more. */
void session_awaited(struct session *s, __u64 until);
/* A line between the events; harmless text. It follows from what the guest said: not captured. */
void session_note(struct session *s, const char *text, __u64 now);
/* Likewise, of what befell the source: captured. */
void session_mark(struct session *s, const char *text, __u64 now);
/* Likewise, behind all that the session has, also what is held back: it ends with that. */
void session_mark_end(struct session *s, const char *text, __u64 now);
/* Likewise, before all that the session has, which is not its source's first: how it began. */
void session_began(struct session *s, const char *text, __u64 now);
/* For captures only: see enum capture_kind. */
void session_tell(struct session *s, enum capture_kind kind, const void *data, size_t len,
		  __u64 now);
/* Nothing more is handed over. What is held and was asked for goes out by session_emit(), before the capture's end. */
void session_end(struct session *s, const struct capture_end *end, __u64 now);
/* A ring is not read any more. */
void session_broken(struct session *s, unsigned int ring, const char *why, __u64 now);

/*
 * Hand what is due to the sinks, of all sessions in the order, for a bounded time: a guest's few bytes
 * can be much text. Returns whether there is more.
 */
bool session_emit(struct session *s, __u64 now, bool all);
/* Or does a record that is due still wait for those of other sessions? */
bool session_is_out(const struct session *s);
/* When session_emit() will have something to do; UINT64_MAX: not before more was read. */
__u64 session_due(const struct session *s);

#endif
