/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading a session's capture; capture.h has the format. What is in the files is believed as little
 * as a guest's memory: all is checked, work is bounded by the files' sizes, memory by what a packet
 * and a schema can be. A stream that is wrong, or cut off, is read up to there, and that is told.
 */
#ifndef READER_CAPTURE_READ_H
#define READER_CAPTURE_READ_H

#include "capture.h"

struct capture_reader;

/* As it came, and was written down. Valid until the next call. */
struct capture_next {
	struct capture_item item; /* item.batch points here: */
	struct htrace_batch batch;
	/* CAPTURE_GUEST */
	struct htrace_guest guest;
	struct htrace_clock_sample clock;
};

/* The session in the directory @name of @dir. 0, or -errno with one line in @err. */
int capture_reader_open(struct capture_reader **out, int dir, const char *name, char *err,
			size_t errlen);
void capture_reader_close(struct capture_reader *r);
const struct session_facts *capture_reader_facts(const struct capture_reader *r);
/* Path of the source that it was captured from; harmless text. */
const char *capture_reader_path(const struct capture_reader *r);

/*
 * The next one in order. 1; 2: it is damaged, there may be more; 0: there are no more; -ENOMEM. Work
 * is that of one entry or batch, so that whoever asks can stop.
 */
int capture_reader_next(struct capture_reader *r, struct capture_next *n);
/* What is wrong with what was read so far, in words, or NULL. */
const char *capture_reader_damage(const struct capture_reader *r);
/* Entries and batches that were missed among those read. */
__u64 capture_reader_missing(const struct capture_reader *r);

#endif
