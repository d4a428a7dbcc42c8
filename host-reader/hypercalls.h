/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls between Xen guests' kernels and Xen: hypercalls, which are queued and flushed together, by
 * operation and by what was in a flush; upcalls, by the task that they interrupt; event channels. Numbers
 * only; view_hypercalls.c prints them.
 *
 * Memory is bounded: what is beyond the limits is counted, and in no table.
 */
#ifndef READER_HYPERCALLS_H
#define READER_HYPERCALLS_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/abi.h>

#include "durations.h"
#include "table.h"

#define HYPERCALLS_SOURCES 64u
#define HYPERCALLS_BATCH 32u /* in a flush: Linux's MC_BATCH */
#define HYPERCALLS_NAME 32u
#define HYPERCALLS_ROWS 1024u /* of each table but the next */
#define HYPERCALLS_STACKS 16384u

/* A kind of hypercall; or a task's upcalls, or an event channel. */
struct hypercalls_row {
	struct table_key key;
	unsigned int source;
	char name[HYPERCALLS_NAME];
	struct durations d; /* flushes that it was in */
	__u64 calls;  /* flushed; of upcalls: event channels that were handled */
	__u64 queued; /* recorded one by one, when they were */
	__u64 alone_calls, alone_ns; /* in flushes with nothing else */
	__u64 before; /* calls, or times, when the table was shown before: the view's */
};

/* Flushes that had the same operations in them, as often each; in whatever order. */
struct hypercalls_batch {
	struct table_key key;
	unsigned int source, nr;
	struct {
		const struct hypercalls_row *row;
		unsigned int nr;
	} op[HYPERCALLS_BATCH];
	struct durations d;
};

/* Hypercalls by the stack that led to them: text as flame graphs are made of. */
struct hypercalls_stack {
	struct table_key key;
	char *text; /* allocated; NULL: not known yet */
	__u64 calls;
};

struct hypercalls {
	struct table ops, batches, upcalls, channels, stacks;
	struct durations flush; /* not the empty ones */
	struct durations size;  /* calls of each flush, not the empty ones */
	struct durations empty; /* flushes of nothing */
	struct durations upcall;
	__u64 single; /* flushes of one call, which needs no multicall */
	__u64 calls, queued, begun, issued, extended, not_extended, channels_handled;
	__u64 unknown; /* calls of flushes whose operations were not told */
	__u64 first, last; /* times of events */
	__u64 lost, beyond;
};

/* What a record says of a flush. */
struct hypercalls_flush {
	unsigned int calls; /* as the kernel counted */
	unsigned int nr; /* operations that are named; at most HYPERCALLS_BATCH */
	struct {
		__u32 number;
		const char *name; /* NULL: it has none */
	} op[HYPERCALLS_BATCH];
	__u64 ns;
};

/* -ENOMEM; hypercalls_free() then too. */
int hypercalls_init(struct hypercalls *h);
void hypercalls_free(struct hypercalls *h);
/* Found or new, called @name; of hypercalls NULL: by its number. NULL: no room, which is counted. */
struct hypercalls_row *hypercalls_op(struct hypercalls *h, unsigned int source, __u32 number, const char *name);
void hypercalls_flushed(struct hypercalls *h, unsigned int source, const struct hypercalls_flush *f);
/* Task @comm, 16 bytes as the kernel has it, was interrupted for @ns; @name: of it, harmless. */
void hypercalls_upcall(struct hypercalls *h, unsigned int source, const char comm[16], const char *name, __u64 ns,
		       __u64 channels);
/* @what: its type and number. */
void hypercalls_channel(struct hypercalls *h, unsigned int source, __u64 what, const char *name, __u64 ns);
/* @stack: its id, in session number @session; NULL likewise. */
struct hypercalls_stack *hypercalls_stack(struct hypercalls *h, __u64 session, __u64 stack, __u32 op);
/* Those of a table, by time or, @by_calls, by calls; to be freed. NULL and *@nr 0: none, or no memory. */
struct hypercalls_row **hypercalls_rows(const struct table *t, bool by_calls, size_t *nr);
struct hypercalls_batch **hypercalls_batches(const struct hypercalls *h, size_t *nr);
/* Those that have a text, by it. */
struct hypercalls_stack **hypercalls_stacks(const struct hypercalls *h, size_t *nr);

#endif
