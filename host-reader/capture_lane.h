/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What capture_read.c and capture_lane.c share: one file of a capture each, and what they came to. */
#ifndef READER_CAPTURE_LANE_H
#define READER_CAPTURE_LANE_H

#include "capture_read.h"
#include "capture_unpack.h"

#define PATH_BYTES 4096
#define HOW_MANY 32u /* descriptions of batches that are read at once */

/* One of the files, and what is next in it. */
struct lane {
	int fd;
	__u64 size; /* when it was opened: it may grow; of one that is packed, what it unpacks to */
	struct packed packed;
	__u64 at;   /* of the next packet or entry */
	bool any;
	__u64 ordinal; /* of what is next; rises */
	/* the journal */
	struct capture_entry entry;
	/* a stream */
	bool stream;
	__u32 ring, kind;
	__u64 body, body_end; /* what is left of the packet's content */
	struct capture_tail tail;
	__u64 how_at; /* of those that were not read yet */
	__u32 how_left;
	bool first; /* batch of the packet */
	__u32 how_nr, how_next;
	struct capture_batch how[HOW_MANY];
};

struct capture_reader {
	int dir;
	struct session_facts facts;
	__u8 uuid[16];
	char path[4 * PATH_BYTES + 1];
	char damage[256];
	bool damaged;
	__u64 expected, missing;
	struct htrace_prog prog[HTRACE_MAX_PROGS]; /* as last said */
	__u32 nr_progs;
	unsigned char *buf, *records;
	size_t buf_room, records_room;
	struct unpacker *unpacker; /* NULL: nothing is packed */
	struct lane journal;
	struct lane **heap; /* what has something, the one with the lowest ordinal first */
	unsigned int heap_len, heap_room;
};

/* The first thing that is wrong is the one to know. */
__attribute__((format(printf, 2, 3))) void capture_damage(struct capture_reader *r, const char *fmt,
							  ...);
bool capture_grow(unsigned char **p, size_t *room, size_t len);
/* All of it, within what the file had when it was opened. */
bool capture_read_at(struct capture_reader *r, struct lane *l, void *p, size_t len, __u64 at);
/* The next ordinal of the lane. False: it is not above the one before. */
bool capture_rises(struct capture_reader *r, struct lane *l, __u64 ordinal);

/* Look for the next batch of a stream. False: there is none. */
bool capture_next_batch(struct capture_reader *r, struct lane *l);
/* Take it. 0; 1: its records are wrong; or -errno. */
int capture_take_batch(struct capture_reader *r, struct lane *l, struct capture_next *n);

#endif
