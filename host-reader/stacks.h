/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The stacks of a session by their ids, as its htrace_stack events define them. Bounded: of more
 * than fit, those go that were not defined for the longest time.
 */
#ifndef READER_STACKS_H
#define READER_STACKS_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/abi.h>

struct stacks;

struct stack {
	__u64 id;
	__u32 pid; /* of user stacks */
	__u32 nr;  /* addresses, innermost first */
	__u32 nr_files; /* frames of file[], which are those of the first addresses */
	const __u64 *address;
	const struct htrace_stack_file_frame *file;
};

struct stacks *stacks_new(void);
void stacks_free(struct stacks *s);
/* Take in the record of an htrace_stack event; what is wrong with it makes it ignored. */
void stacks_add(struct stacks *s, const void *payload, size_t len);
/* False: not (or no longer) here. What @out points to holds until the next stacks_add(). */
bool stacks_find(const struct stacks *s, __u64 id, struct stack *out);
/* Stacks that had to go for want of room, so far. */
__u64 stacks_forgotten(const struct stacks *s);

#endif
