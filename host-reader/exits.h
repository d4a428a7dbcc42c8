/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Exits of virtual CPUs, from an exit to the entry that follows it: how many of which reason, how
 * long, where in the guest, and how much of that the vCPU's thread slept or waited for a CPU. Numbers
 * only; view_exits.c prints them.
 *
 * No duration is made up. Where events were lost, what may hold a lost entry or exit is void: of
 * vCPUs that were on the CPU whose ring lost them, or that were off theirs at the time and so may have
 * run on it meanwhile. That is true of durations that had already been counted, too: they are
 * taken back. So is what cannot have been: a vCPU on another CPU than before that never left that.
 * How many are void is counted.
 *
 * Memory is bounded: vCPUs, reasons and addresses beyond the limits are counted together.
 */
#ifndef READER_EXITS_H
#define READER_EXITS_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/abi.h>

#include "durations.h"
#include "table.h"

#define EXITS_SOURCES 64
#define EXITS_VCPUS 4096u /* threads that run vCPUs */
#define EXITS_ROWS 4096u
#define EXITS_PLACES 16384u
#define EXITS_OFF 4096u /* durations with time off the CPU that may have to be taken back */

#define EXITS_ALL 0xffffffffu /* in the place of a vCPU or a reason: the sum over all of them */

/* Where and when something happened. */
struct exits_at {
	unsigned int source, ring;
	__u64 time;
	__u32 vm, tid, vcpu;
};

struct exits_why {
	__u32 reason;
	const char *name; /* or NULL: it has none */
	__u64 rip;
};

struct exits_row {
	struct table_key key;
	unsigned int source;
	__u32 vm, vcpu, reason;
	char name[HTRACE_NAME_MAX]; /* of the reason; of the sum over all the view's, of the VM */
	struct durations out;
	__u64 asleep, preempted; /* ns of them */
	__u64 before; /* their number when the table was shown before: the view's */
	__u64 before_ns; /* likewise their time */
};

struct exits_place {
	struct table_key key;
	unsigned int source;
	__u32 vm, reason;
	__u64 rip, count, ns;
	char name[128]; /* the view's; "": none */
};

enum exits_state {
	EXITS_UNKNOWN,
	EXITS_VOID,      /* likewise, for a loss */
	EXITS_VOID_EXIT, /* likewise; the exit that it was in is counted as void */
	EXITS_GUEST,
	EXITS_OUT,
};

struct exits_vcpu {
	struct table_key key;
	unsigned int source, ring; /* ring: of its last event */
	__u32 vm, tid, vcpu;
	enum exits_state state;
	bool off;    /* its thread does not run, */
	bool waits;  /* but could */
	__u64 since; /* in this state */
	__u64 last;  /* event's time */
	__u64 off_since, back; /* its thread left a CPU, came back */
	__u64 asleep, preempted; /* since the exit, or the entry */
	__u32 reason;            /* of the exit */
	__u64 rip;
	char name[HTRACE_NAME_MAX]; /* of the reason; "": none */
	/* sums of what is over */
	__u64 exits, guest_ns, out_ns, asleep_ns, preempted_ns;
	__u64 before; /* exits when the table was shown before: the view's */
};

/* A duration that was counted, during which the thread was off its CPU until @back. */
struct exits_off {
	struct exits_row *row[3]; /* NULL: none, as place */
	struct exits_place *place;
	struct exits_vcpu *vcpu;
	__u64 back, ns, asleep, preempted;
};

struct exits_ring {
	__u64 time; /* of its last event */
	bool lost;  /* events after that */
};

struct exits {
	struct table vcpus, rows, places;
	struct exits_ring *rings[EXITS_SOURCES]; /* HTRACE_MAX_RINGS each, or NULL */
	struct exits_off off[EXITS_OFF];
	__u64 nr_off; /* written so far */
	__u64 first, last; /* time */
	/* what has no duration */
	__u64 no_entry;  /* exits that another one followed, */
	__u64 no_exit;   /* entries before which there was none */
	__u64 left_out;  /* exits that were still out when their session ended */
	__u64 voided;    /* exits whose duration is not known for a loss, or for times out of order */
	__u64 lost;      /* events */
	__u64 beyond;    /* events of vCPUs, and exits of reasons, for which there was no room */
};

/* NULL: memory is out. */
struct exits *exits_new(void);
void exits_free(struct exits *x);

/* Something of any kind happened in @at's ring. First of all, for each event. */
void exits_seen(struct exits *x, const struct exits_at *at);
void exits_exit(struct exits *x, const struct exits_at *at, const struct exits_why *why);
void exits_entry(struct exits *x, const struct exits_at *at);
/* An entry, and the exit that it ends, @ns before; 0: there was none any more. */
void exits_whole(struct exits *x, const struct exits_at *at, const struct exits_why *why, __u64 ns);
/* The thread leaves its CPU; it could run if it is @preempted. And is back. */
void exits_sched_out(struct exits *x, const struct exits_at *at, bool preempted);
void exits_sched_in(struct exits *x, const struct exits_at *at);
/* @lost events of this ring, after its last one and before the next. */
void exits_loss(struct exits *x, unsigned int source, unsigned int ring, __u64 lost);
/* Nothing more comes from @source, or what comes has nothing to do with what came. */
void exits_end(struct exits *x, unsigned int source);
/* Exits that are out now. */
__u64 exits_out_now(const struct exits *x);

/*
 * The rows of @vm's (NULL: of all VMs': their sums only, a row for each) vCPU @vcpu, most time first;
 * to be freed. NULL, and then *@nr is 0: memory is out.
 */
struct exits_row **exits_rows(const struct exits *x, const struct exits_row *vm, __u32 vcpu,
				    size_t *nr);
/* The VM's vCPUs by number. Likewise. */
struct exits_vcpu **exits_vcpus(const struct exits *x, const struct exits_row *vm, size_t *nr);
/* Where @row's exits came from, most often first. Likewise. */
struct exits_place **exits_places(const struct exits *x, const struct exits_row *row, size_t *nr);

#endif
