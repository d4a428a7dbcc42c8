/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A ring's file of packets, for its two sources: packets of our own memory, and lent ones. */
#ifndef READER_CAPTURE_STREAM_H
#define READER_CAPTURE_STREAM_H

#include "capture_write.h"

#define HOLD_BYTES (32u << 10) /* more at once is written as it comes */
#define HOLD_BATCHES 256u
#define CAPTURE_LINE 64u   /* bodies of lent packets begin at multiples of it: so they are copied by whole lines */
#define CAPTURE_PAGE 4096u /* what is written past the page cache, from there and to there: multiples of it */


struct capture_span;

struct capture_stream {
	int fd;
	/*
	 * The same file, past the page cache; -1: it is not. Then each packet's body begins with a page: its header
	 * lies before that, at the end of the page in which the packet before it ends.
	 */
	int direct;
	__u64 ahead; /* as of struct capture_way; 0: no more */
	__u64 room;  /* of the file on disk: it has at least so many bytes */
	bool refused; /* to write past the page cache */
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
	unsigned int lent; /* batches */
	__u64 lapped; /* lent events that were overwritten meanwhile; counted in no packet's tail but their own */
	__u64 open;   /* lent events that may be, as their packets' headers are not the last word */
	__u64 promised; /* the most that such a header says was discarded */
	__u64 good;   /* where the first packet lies that could not be written */
	int error;    /* -errno: it could not */
};

/* Before it grows to its new size. */
void capture_stream_reserve(struct capture_stream *st);
/* @align: of what follows the next one's header. */
void capture_packet_begin(struct capture_stream *st, const struct capture_run *run, __u32 nr, __u32 align,
			  struct capture_packet *head, struct capture_tail *tail);

#endif
