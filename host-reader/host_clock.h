/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * From a region's clock to the CLOCK_MONOTONIC of the host that reads it: lines through pairs of times
 * (*knots*) of which the source's clock (source_clock.h) found out that they were one instant. After a
 * step of the region's clock against the host's, as by a pause of the VM, other lines hold, from a time
 * of the region's on.
 */
#ifndef READER_HOST_CLOCK_H
#define READER_HOST_CLOCK_H

#include <stdbool.h>

#include <htrace/clock.h>

#define HOST_CLOCK_SEGMENTS 32 /* of which times are told; what is older is told by the oldest */
#define HOST_CLOCK_UNKNOWN (~0ULL) /* a bound: nobody knows */

/* Numbers are the capture's. */
enum host_word_kind {
	HOST_WORD_SAME = 1, /* the region's machine is the host */
	HOST_WORD_KNOT = 2,
	HOST_WORD_BETTER = 4, /* from `region` on what follows is much nearer than what was before */
	HOST_WORD_STEP = 3, /* from `region` on by what follows; `host`: by how much, signed */
	/*
	 * Times from `region` on, those before this word as well, may be `host` ns further off than what the lines say;
	 * 0: nobody knows how far, until the next knot: a step is suspected, of `error` ns or more.
	 */
	HOST_WORD_DOUBT = 5,
};

enum host_word_how {
	HOST_BY_PING = 1, /* ping-pong through the region */
	HOST_BY_KVM = 2,  /* the TSC's offset, as KVM has it */
};

/* One thing found out, in the order in which they were. */
struct host_word {
	__u32 kind, how;
	__u64 region; /* the region's clock */
	__u64 host;   /* CLOCK_MONOTONIC of the host, ns */
	__u64 error;  /* by which that may be off, ns */
	__u64 real;   /* CLOCK_REALTIME of the host less CLOCK_MONOTONIC */
	__u8 boot_id[16]; /* the host's */
};

struct host_segment {
	__u64 from;
	struct htrace_clock *line;
};

/* All zero: nothing is known. */
struct host_clock {
	bool same;
	struct host_segment segment[HOST_CLOCK_SEGMENTS];
	unsigned int nr;
	struct host_word latest;
	struct host_word first; /* of the segment, while no rate is known; region 0: none */
	bool waits;             /* it is not in the line yet */
	__u64 knots, refused, steps;
	__s64 step; /* the last one, ns */
	__u64 worst; /* bound of all times told */
	bool doubted;     /* from that time on, at present */
	__u64 doubt_from;
	__u64 doubts;
	__u64 least; /* times were off by so much more than by what the lines are */
};

void host_clock_close(struct host_clock *c);
/* Words may be anybody's who wrote the capture: checked. -ENOMEM, -ERANGE: it is none. */
int host_clock_add(struct host_clock *c, const struct host_word *w);
/* Can times be told? */
bool host_clock_usable(const struct host_clock *c);
/* At @time of the region's clock; @bound, ns, may be NULL. Not if same. -EAGAIN: not usable. */
int host_clock_time(struct host_clock *c, __u64 time, __u64 *ns, __u64 *bound);
/* Is a bound of @time not to be claimed? */
bool host_clock_doubts(const struct host_clock *c, __u64 time);
/* The line that holds at present. -EAGAIN: not usable. */
int host_clock_line(const struct host_clock *c, struct htrace_clock_line *l);

#endif
