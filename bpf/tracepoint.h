/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What the agent tells tracepoint.bpf.c about the tracepoint that an instance of it serves.
 *
 * The payload is the kernel's own record without its first 8 bytes (the fields that all have in
 * common): what the tracepoint's `format` file describes, then each dynamic field's data, in a
 * place of fixed size, then the last text, as long as it is.
 */
#ifndef HTRACE_TRACEPOINT_H
#define HTRACE_TRACEPOINT_H

#include <linux/types.h>

#define TRACEPOINT_COMMON 8     /* bytes before the fields of the kernel's record */
#define TRACEPOINT_DYN_MAX 4    /* dynamic fields in places of fixed size */
#define TRACEPOINT_PLACE 64     /* bytes of such a place */
#define TRACEPOINT_TEXT_MAX 1024 /* the last text, with its NUL; a power of two */
#define TRACEPOINT_FIXED_MAX 1024 /* fixed part */

/* A word in the kernel's record says where the data is (low half) and how long (high half). */
struct tracepoint_dyn {
	__u16 word; /* offset of that word; 0: no such field */
	__u16 base; /* what the place counts from */
	__u16 is_text;
	__u16 reserved;
};

struct tracepoint_config {
	__u32 fixed; /* bytes after the common ones */
	__u32 size;  /* payload, but for the last text */
	__u32 places; /* where the places begin in the payload */
	__u32 reserved;
	struct tracepoint_dyn dyn[TRACEPOINT_DYN_MAX];
	struct tracepoint_dyn last; /* the text that ends the payload */
};

#endif /* HTRACE_TRACEPOINT_H */
