/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What a guest sends (common/stream_wire.h) becomes a region in memory of ours, which is then read as any region of a
 * guest's is: with nothing in it believed. Here only sizes and places are checked: nothing is written but between the
 * areas that hosts write and the end of the region, which is within the memory that there is.
 */
#ifndef READER_STREAM_APPLY_H
#define READER_STREAM_APPLY_H

#include <stdbool.h>

#include <htrace/region.h>

#include "stream_wire.h"

struct stream_apply {
	char *mem;   /* shared with the reader */
	__u64 size;  /* of it */
	__u64 nonce; /* that the answer has to have */
	bool waits;  /* for that answer: all before it is thrown away */
	bool ready;  /* the session may be read */
	struct htrace_super super; /* of the session that is held; its session is 0: none */
	__u64 frames, skipped; /* of this connection; bytes before the answer */
	unsigned char in[sizeof(struct stream_frame) + STREAM_FRAME_MAX];
	__u32 in_len;
};

void stream_apply_init(struct stream_apply *a, void *mem, __u64 size);
/* A question was sent: what comes is to begin with the answer. */
void stream_apply_expect(struct stream_apply *a, __u64 nonce);
/* Of what came. 0, or -EPROTO with one line in @err: the connection is of no use. */
int stream_apply_feed(struct stream_apply *a, const void *data, size_t len, char *err, size_t errlen);

#endif
