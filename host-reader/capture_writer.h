/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What capture_write.c and capture_lend.c share. */
#ifndef READER_CAPTURE_WRITER_H
#define READER_CAPTURE_WRITER_H

#include "capture_write.h"

struct captured_ring {
	__u32 set, index;
	__u64 time; /* of its last record */
	__u64 taken; /* position behind it */
	struct capture_stream *stream[CAPTURE_KINDS];
};

struct capture_writer {
	const struct sink_session *session;
	int dir, journal;
	__u64 journal_size;
	__u64 ordinal; /* of what comes next */
	__u64 latest;  /* time of any record */
	struct capture_metadata metadata;
	int metadata_fd;
	size_t metadata_written; /* of its text */
	__u64 metadata_size;     /* of the file */
	bool metadata_anew, clocked;
	struct capture_way way;
	/* Is all that can come declared, of a stream class: so that records need not be looked at? */
	enum { NOT_ASKED, FORESEEN, NOT_FORESEEN } foresight[CAPTURE_STREAM_IDS];
	struct htrace_clock *clock; /* of ticks; NULL: there are none */
	__u64 next_line; /* samples at which the metadata are to say it better */
	struct htrace_guest guest; /* as last written */
	unsigned char *copy;       /* of a batch, where its bytes have to change */
	size_t copy_room;
	unsigned char *odd; /* bodies of odd records */
	size_t odd_room;
	__u32 nr_rings;
	struct captured_ring ring[];
};

/* Before any packet that needs it: write what was added to the metadata. */
int capture_writer_declare(struct capture_writer *w);
__u32 capture_writer_stream_id(const struct capture_writer *w, const struct captured_ring *r,
			       __u32 kind);
/* r->stream[kind], made if it is not there. */
int capture_writer_open_stream(struct capture_writer *w, struct captured_ring *r, __u32 kind);

#endif
