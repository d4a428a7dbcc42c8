/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* Packed records (docs/format.md) to what they would be without. */
#ifndef HTRACE_UNPACK_H
#define HTRACE_UNPACK_H

#include <stdbool.h>

#include <htrace/pack.h>

#define HTRACE_UNPACKED_MAX 4u /* times as long as what is packed: 32 bytes of 8 */

/* The basis of the next packed record; all 0 where a block begins. */
struct htrace_unpacker {
	__u32 id; /* 0: there is none */
	__u32 tid;
	__s16 prio;
	__u64 time;
};

static inline bool htrace_is_packed(__u64 word)
{
	return word >> 16 & HTRACE_REC_PACKED;
}

/* Bytes of the packed record that begins with @word. */
static inline __u32 htrace_packed_size(__u64 word)
{
	return word >> 35 == HTRACE_PACKED_FAR ? 16 : 8;
}

/* The full time of a short form's low half @low. */
static inline __u64 htrace_short_time(__u64 base, __u32 low)
{
	return base + (__u64)(__s64)(__s32)(low - (__u32)base);
}

/*
 * The packed record at @at, all of which is there: *@e and its time. It is the basis then. False: there is
 * none before it, or it is none that a producer writes.
 */
bool htrace_unpack_switch(struct htrace_unpacker *u, const unsigned char *at, struct htrace_switch *e, __u64 *time);
/* The record at @at, which is not packed, is the basis if it says so. False: it is too short to be one. */
bool htrace_unpack_basis(struct htrace_unpacker *u, const unsigned char *at, __u64 base);
/*
 * Write the @len bytes of records at @data to @out, as they would be without packing, but for the first @skip bytes of
 * them. Their lengths and flags were found to be right; @base is their block's. Returns the bytes written, at most
 * HTRACE_UNPACKED_MAX times as many, or -EBADMSG.
 */
long htrace_unpack(struct htrace_unpacker *u, const unsigned char *data, __u32 len, __u32 skip, __u64 base,
		   unsigned char *out);

#endif
