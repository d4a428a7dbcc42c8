/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Writing a session's capture; capture.h has the format. Functions return 0 or -errno. */
#ifndef READER_CAPTURE_WRITE_H
#define READER_CAPTURE_WRITE_H

#include <htrace/clock.h>

#include "capture.h"
#include "tsdl.h"

/* ------------------------------------------------------------------------------------- metadata */

struct capture_metadata {
	struct tsdl text;
	__u8 uuid[16];
	__u32 streams; /* stream classes that are declared, a bit each */
	struct capture_class *class; /* event classes that are */
	const struct capture_class *last;
	__u32 room, nr;
	struct htrace_clock_line line; /* of ticks; hz 0: not known */
};

struct capture_class {
	__u64 key;    /* stream class << 32, and the first four bytes of its records; 0: none */
	__u8 unused;  /* bytes at the records' ends that are not described */
	bool filled;  /* but these have to be: they were when it was first declared */
};

/* The whole text anew, for what is known of @s now. */
void capture_metadata_begin(struct capture_metadata *m, const struct sink_session *s);
/* In the texts from now on: what the ticks of the session's clock are. */
void capture_metadata_clock(struct capture_metadata *m, const struct htrace_clock_line *line);
/* Add to it, if it is new. */
void capture_metadata_add_stream(struct capture_metadata *m, __u32 stream);
/* NULL: there is no room for more of them. Valid until the next call. */
const struct capture_class *capture_metadata_class(struct capture_metadata *m,
						   const struct sink_session *s, __u32 stream,
						   __u32 key);
/*
 * Add all that the schema says of what can occur in @stream. False: that is not known, as some events
 * have records of any length.
 */
bool capture_metadata_declare_all(struct capture_metadata *m, const struct sink_session *s, __u32 stream);
void capture_metadata_free(struct capture_metadata *m);

/* -------------------------------------------------------------------------------------- streams */

struct capture_stream;

/* A run of a batch: records of one kind, one after the other, and how it came. */
struct capture_run {
	const unsigned char *data; /* as it goes into the file */
	__u32 len;
	__u32 unused; /* bytes at its end that the metadata do not describe */
	__u64 position, base;
	__u64 behind;     /* ring position of what comes next, if that is of the same batch or the next one */
	__u64 begin, end; /* CTF's times */
	__u64 overwritten, dropped, corrupt, unfinished, uncommitted, before;
	__u32 schema;
	struct capture_batch how;
};

/* How a capture's files are written. */
struct capture_way {
	bool direct; /* what is lent goes past the page cache, if the file system does that */
	__u64 ahead; /* room on the disk that a stream may have ahead, at most; 0: none */
};

struct capture_stream *capture_stream_new(int dir, const char *name, __u32 id, __u32 ring,
					  const __u8 *uuid, const struct capture_way *way, int *err);
/* Small runs are held back, and go out as one packet. */
int capture_stream_add(struct capture_stream *st, const struct capture_run *run);
int capture_stream_flush(struct capture_stream *st);
/* Of its file, once all that was added is written. */
__u64 capture_stream_size(const struct capture_stream *st);
/* When nothing is under way: what it has ahead goes back to the disk. */
void capture_stream_trim(struct capture_stream *st);
/* Where in the ring the first record lies that was added and is not written; ~0: there is none. */
__u64 capture_stream_unwritten(const struct capture_stream *st);
void capture_stream_free(struct capture_stream *st);

/* -------------------------------------------------------------------------------------- session */

struct capture_writer;

/* A directory in @dir, of this name, for the session @s. */
int capture_writer_new(struct capture_writer **out, int dir, const char *name, const struct capture_way *way,
		       const struct sink_session *s);
/* Bytes in its files, with what is held back and under way, and room that they have ahead. */
__u64 capture_writer_size(const struct capture_writer *w);
/* Nothing more comes: what its files have ahead goes back to the disk. */
void capture_writer_trim(struct capture_writer *w);
/* Everything in the order in which it comes. After an error nothing more is to be written. */
int capture_writer_take(struct capture_writer *w, const struct capture_item *item);
/*
 * A batch that is still in its ring, verified and not small: as one packet, without a copy. 1: it is
 * taken; 0: it cannot be, and has to be taken as others are; -errno.
 */
struct capture_lender;
int capture_writer_lend(struct capture_writer *w, struct capture_lender *l,
			const struct capture_item *item, const struct capture_loan *loan);
int capture_writer_flush(struct capture_writer *w);
/*
 * All records of the ring before this are written, but for those that are lent; ~0: all that were taken.
 * @failed: an error has been told, and not all may have been taken.
 */
__u64 capture_writer_unwritten(const struct capture_writer *w, __u32 ring, bool failed);
/* Nothing is written. */
void capture_writer_free(struct capture_writer *w);

#endif
