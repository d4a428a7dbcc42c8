/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Calls of functions: how many of which, how long, how much of that in functions that they called, and
 * who called whom. Numbers only; view_functions.c prints them.
 *
 * A call is known when it returns, so after those that it made: these wait, by the task (or the CPU whose
 * interrupts it is) and by how deep they are, for the one that called them. Where events were lost it
 * may be among them: then they are counted as calls of a caller that was not seen. So are those that returned
 * long before the caller began: their task is gone, and another one has its number.
 *
 * Memory is bounded: what is beyond the limits is counted, and is in the table of functions or in
 * neither.
 */
#ifndef READER_CALLS_H
#define READER_CALLS_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/abi.h>

#include "durations.h"
#include "table.h"

#define CALLS_SOURCES 64
#define CALLS_FUNCTIONS 8192u
#define CALLS_STACKS 16384u /* tasks, and CPUs' interrupts */
#define CALLS_NODES 65536u  /* functions by who called them, and by who called those */
#define CALLS_DEPTH 256u

enum calls_kind { CALLS_KERNEL, CALLS_INTERRUPT, CALLS_USER, CALLS_KINDS };

struct calls_function {
	struct table_key key;
	unsigned int source;
	char name[HTRACE_NAME_MAX];
	struct durations d;
	__u64 self; /* ns of them that it called nobody else who is recorded */
	__u64 before; /* calls when the table was shown before: the view's */
};

/* A function as called by those above it. */
struct calls_node {
	const struct calls_function *function; /* NULL: of the roots */
	struct calls_node *parent, *child, *next;
	__u64 count, ns, self;
	__u64 since; /* the first of them returned, of those that wait for their caller */
};

struct calls_at {
	unsigned int source, cpu;
	__u64 time;
	enum calls_kind kind;
	__u32 level; /* of interrupts: those of each come into the lower ones of their CPU, on a stack of their own */
	__u32 tid, depth;
};

struct calls_root {
	struct calls_node seen, unseen; /* unseen: calls whose callers are not known */
};

struct calls {
	struct table functions, stacks;
	struct calls_root root[CALLS_SOURCES][CALLS_KINDS];
	size_t nodes;
	__u64 first, last;   /* time */
	__u64 outermost;     /* ns of calls that nobody called who is recorded */
	__u64 count;
	__u64 lost;          /* events */
	__u64 losses[CALLS_SOURCES]; /* times that some were */
	unsigned int unsettled; /* of these, that calls_settle() was not called for */
	unsigned int refused;   /* tasks for which there was no room, since little was found; 0: it was enough */
	__u64 beyond;        /* calls for which there was no room among the functions, */
	__u64 beyond_graph;  /* or not among the nodes */
};

/* NULL: memory is out. */
struct calls *calls_new(void);
void calls_free(struct calls *c);
/* A call of @function returned after @ns. */
void calls_returned(struct calls *c, const struct calls_at *at, const char *function, __u64 ns);
/* @lost events of @source; 0: it begins anew. What waits for its caller waits in vain. */
void calls_loss(struct calls *c, unsigned int source, __u64 lost);
/* Before the roots are looked at: so it is in them, too. */
void calls_settle(struct calls *c);
/* Calls that wait for their callers' return. */
__u64 calls_waiting(const struct calls *c);
/* Most time, or most calls, first; to be freed. NULL, and then *@nr is 0: memory is out. */
struct calls_function **calls_functions(const struct calls *c, bool by_count, size_t *nr);
/* Those that @n called, and those that they called, most time first. */
void calls_sort(struct calls_node *n);

#endif
