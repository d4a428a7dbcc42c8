/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What live.c and live_back.c share. */
#ifndef READER_LIVE_INTERNAL_H
#define READER_LIVE_INTERNAL_H

#include "live.h"

#define NO_END (~0ULL) /* of a ring that was given up */

struct live_ring {
	struct htrace_consumer *consumer;
	const struct htrace_ring *header;
	__u64 size;
	__u32 slot; /* of its words in the host area */
	const __u64 *handover; /* of the mirror that is read, until the agent hands over; or NULL */
	__u32 set, index;
	__u64 backlog; /* as of the last look */
	/* Of a capture, under discard: what is read is told to producers once it is written. */
	__u64 *told, read, told_last;
	bool broken, went_back;
	/* Of threads. */
	struct htrace_image image;
	struct htrace_owner owner; /* as of the last look, if it died */
	bool finished; /* it died: all that there is can be read to the end */
	bool drained;  /* so it was, and it was told; or an earlier reader did, and nothing is left */
	__u64 unfinished, uncommitted; /* of earlier lives */
	__u64 empty; /* host time at which there was nothing in it; 0: there is */
};

struct live {
	struct htrace_view *view;
	bool no_ram;
	struct kvm_vm *vm;
	struct session *session;
	const char *path;
	struct say_quota *quota;
	struct source_clock *clock;
	__u64 schema_generation;
	__u64 schema_next, schema_soonest; /* when to look again: by itself, for a batch */
	unsigned int schema_refused; /* times in a row */
	bool said_refused;
	__u64 names_next, names_served, agent_starts;
	bool names_read;
	bool own_clocks; /* its machine is this one */
	bool steps_back; /* it may be set back */
	__u64 *end;      /* of each ring, while it is */
	__u64 clock_next; /* number of the next clock sample */
	unsigned int first; /* ring of the next pass */
	unsigned int next_owner; /* ring whose owner is looked at next */
	unsigned int nr_rings;
	struct live_ring ring[];
};

/* It is read no more; why, is said. */
void live_give_up_ring(struct live *s, unsigned int ring, __u64 now);

#endif
