/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Regions over a byte stream: what guest-agent and host-reader say to each other (docs/stream.md). All little-endian.
 *
 * The guest sends the stores that it would make into a shared region, in their order; the host makes them in memory of
 * its own, and sends the few words that a reader tells the guest. The host asks first, with a random number; all that
 * comes before the answer to it is left over from another connection, and thrown away.
 */
#ifndef COMMON_STREAM_WIRE_H
#define COMMON_STREAM_WIRE_H

#include <stddef.h>

#include <htrace/abi.h>

#define STREAM_VERSION 1u

#define STREAM_FRAME_MAGIC 0x46525448u /* "HTRF" */
#define STREAM_ORDER_MAGIC 0x4f525448u /* "HTRO" */
#define STREAM_FRAME_MAX 65536u        /* bytes behind a frame's header */

/* ------------------------------------------------------------------------------------ guest to host */

enum stream_frame_type {
	STREAM_HELLO = 1,    /* arg: the host's nonce; struct stream_hello. Once, first */
	STREAM_CONSUMED = 2, /* after HELLO of a session that the host does not have: __u64 for each ring, discard policy */
	STREAM_STORE = 3,    /* arg: offset in the region, a multiple of 8; words. The last one is stored first */
	STREAM_READY = 4,    /* the session may be read; arg and len are 0 */
};

struct stream_frame {
	__u32 magic; /* STREAM_FRAME_MAGIC */
	__u32 type;  /* enum stream_frame_type */
	__u64 arg;
	__u32 len; /* bytes that follow, a multiple of 8, at most STREAM_FRAME_MAX */
	__u32 reserved;
};

struct stream_hello {
	__u32 version; /* STREAM_VERSION */
	__u32 reserved;
	struct htrace_super super; /* its magic is set */
};

/* ------------------------------------------------------------------------------------ host to guest */

enum stream_order_type {
	STREAM_ASK = 1,      /* arg[0]: nonce; [1]: session that is held, or 0; [2]: STREAM_VERSION. All before is void */
	STREAM_POSITION = 2, /* of it: ring; where to go on; the mirror's head; its dropped */
	STREAM_GO = 3,       /* arg[0]: nonce. Answer now */
	STREAM_WORD = 4,     /* arg[0]: offset in the region's host area; [1]: what is there now */
};

struct stream_order {
	__u32 magic; /* STREAM_ORDER_MAGIC */
	__u32 type;  /* enum stream_order_type */
	__u64 arg[4];
	__u64 sum; /* stream_order_sum(): a piece of one, and the next one behind it, are not taken for one */
};

/* FNV-1a, of all before it. */
static inline __u64 stream_order_sum(const struct stream_order *o)
{
	const unsigned char *p = (const unsigned char *)o;
	__u64 sum = 0xcbf29ce484222325ULL;

	for (size_t i = 0; i < offsetof(struct stream_order, sum); i++)
		sum = (sum ^ p[i]) * 0x100000001b3ULL;
	return sum;
}

#endif
