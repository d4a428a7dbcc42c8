/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Names for addresses of a guest: its kernel's functions, which it publishes, and those of its
 * programs, from files of the host that have the same build-id. All that comes from the guest is
 * checked and bounded, and no text of it becomes a path.
 */
#ifndef READER_SYMBOLS_H
#define READER_SYMBOLS_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/abi.h>

#include "stacks.h"

struct symbols;

/* One frame, as far as it is known. Texts are to be escaped; they hold until symbols_load(). */
struct frame {
	__u64 address;
	bool has_address;
	const char *symbol; /* function, or NULL */
	__u64 offset;       /* in the function */
	const char *module; /* the kernel's; NULL: none */
	const char *file;   /* user: what is mapped there, the last component of its path; or NULL */
	bool in_file;       /* user: build_id and file_offset hold */
	__u8 build_id[20];
	__u64 file_offset;
};

struct symbols *symbols_new(void);
void symbols_free(struct symbols *s);
/*
 * Take in what of the session's schema entries is new; private memory. NULL, or what of it was
 * refused, as a text to be said.
 */
const char *symbols_load(struct symbols *s, const void *entries, size_t len);
/* How many of @st's first frames are the tracer's own, from the event up. */
__u32 symbols_own_frames(const struct symbols *s, const struct stack *st);
/* What of the kernel is at @address. @s may be NULL. */
void symbols_kernel_address(const struct symbols *s, __u64 address, struct frame *f);
/* Frame @i of a kernel stack, of a user stack. @s may be NULL. */
void symbols_kernel_frame(const struct symbols *s, const struct stack *st, __u32 i,
			  struct frame *f);
void symbols_user_frame(struct symbols *s, const struct stack *st, __u32 i, struct frame *f);

#endif
