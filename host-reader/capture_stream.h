/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A ring's file of packets, for its two sources: packets of our own memory, and lent ones. */
#ifndef READER_CAPTURE_STREAM_H
#define READER_CAPTURE_STREAM_H

#include "capture_write.h"

#define HOLD_BYTES (32u << 10) /* more at once is written as it comes */
#define HOLD_BATCHES 256u

struct capture_span;

struct capture_stream {
	int fd;
	__u32 id, ring;
	__u8 uuid[16];
	__u64 size; /* of the file, with what is under way */
	__u64 seq, discarded; /* likewise */
	/* Packets of our own: what is held back. */
	struct capture_run held; /* begins with the first run */
	bool failed; /* to write one ... */
	__u64 failed_at; /* ... which was there in the ring: the first one */
	__u32 nr;
	struct capture_batch how[HOLD_BATCHES];
	unsigned char *body;
	/* Lent ones, in the order of the file; the last span may still grow. */
	struct capture_span *first, *last;
	__u64 lapped; /* lent events that were overwritten meanwhile; counted in no packet's tail but their own */
	__u64 good;   /* where the first packet lies that could not be written */
	int error;    /* -errno: it could not */
};

void capture_packet_begin(struct capture_stream *st, const struct capture_run *run, __u32 nr,
			  struct capture_packet *head, struct capture_tail *tail);

#endif
