/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * How the clock of a source's session goes beside the host's: found out while it is read, from the
 * samples that its agent takes of its TSC and its clock, and from how its TSC goes beside the host's.
 * That is told by KVM, or by ping-pong through the region.
 *
 * The guest's numbers are checked against what is possible: what was not there when we looked happened
 * later, and what we read happened before. A guest that lies gets wrong times for its own events.
 */
#ifndef READER_SOURCE_CLOCK_H
#define READER_SOURCE_CLOCK_H

#include "host_clock.h"
#include "kvm_tsc.h"

struct source;

#define SOURCE_CLOCK_KEPT 32

/* Guest TSC less host TSC, modulo 2^64. */
struct tsc_offset {
	bool any;
	bool known; /* well enough, or as well as it will be */
	bool wide;  /* known so */
	__u64 low, high;
	__u64 tsc; /* the host's when that was found out */
};

struct source_clock {
	bool used;
	bool same; /* its machine is the host */
	struct host_clock model;
	struct tsc_offset offset;
	struct kvm_tsc kvm; /* exact: instead of the offset */
	int kvm_pid;        /* who runs it */
	__u64 sample_next;
	__u64 looked; /* when there was no new sample */
	struct htrace_clock_sample own[SOURCE_CLOCK_KEPT]; /* the host's */
	unsigned int nr_own;
	struct host_word knot[SOURCE_CLOCK_KEPT];
	unsigned int nr_knots;
	__u64 first_knot; /* host time */

	/* Ping-pong. */
	bool asked;
	__u64 next_ask, next_look, look_from, asked_at; /* host time */
	__u64 last_pong;
	bool better; /* than the one by which knots were told */
	bool missed; /* the last answer: it had stopped listening, or said nothing */
	bool drifts; /* the TSCs' rates differ */
	bool moved;  /* the offset made a step: samples that came before are not read by it */

	bool begins;      /* times are not shown before they can be */
	bool suspected;   /* a step */
	bool doubted;     /* and nobody answered in time: what came then went out */
	__u64 off;        /* by which times are off then, at least */
	__u64 step_from;  /* region time: behind what was read before it; */
	__u64 step_until; /* and that was read behind it, surely */
	bool unclear;     /* something was read that may be of either side */
	__u64 from;       /* from there on the latest line holds, region time */
	__u64 by;         /* the largest of those told, ns; 0: there was none, or something of before came too late */
	__u64 strayed;    /* by how much lines were further off than they should, ns */
	__u64 owed;       /* bound of what went out, as was found out later: to be told */

	struct host_word sure; /* the latest sample, of an answer; region: when that was given */
	__u64 answered;        /* the same while it is looked at */
	__u64 latest, lag;     /* what was read, region time; by how much its line is off there, at most */
	__u64 held, hold_until; /* what arrived from held on does not go out before */

	unsigned int pongs, rounds, refused; /* bursts that were answered, and not believed */
};

/* A session begins, ends. */
void source_clock_begin(struct source *s, __u64 now);
void source_clock_end(struct source *s);
/* Look what there is, in each round. */
void source_clock_look(struct source *s, __u64 now);
/* When it is time again; UINT64_MAX: never. */
__u64 source_clock_due(const struct source *s, __u64 due);
/* What may go out now: what arrived, and was due, until then. */
__u64 source_clock_emit(const struct source *s, __u64 now);
/*
 * Records from region time @time on were found in a ring that had nothing at @empty, host time, or 0: is that
 * possible? @relayed: they may have been elsewhere before, and of any time. @latest: of the records before.
 */
void source_clock_check(struct source_clock *c, __u64 time, __u64 empty, bool relayed, __u64 latest, __u64 now);
/* What is held goes out now, for the session ends: nothing is claimed of what is suspected. */
void source_clock_settle(struct source *s, __u64 now);
#endif
