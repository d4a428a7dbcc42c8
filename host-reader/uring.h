/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Writes that go on while we do other things: by io_uring, or, where that is missing or refused, as
 * ordinary ones, which are over when uring_write() comes back. Not for several threads.
 */
#ifndef READER_URING_H
#define READER_URING_H

#include <stdbool.h>
#include <sys/uio.h>

#include <linux/types.h>

struct uring;

/*
 * One write. It, its vector and what that points to belong to the kernel from uring_write() until
 * done() is called; then to the caller again, who may free all of it there.
 */
struct uring_write {
	int fd;
	__u64 at; /* in the file */
	struct iovec *v; /* is used up */
	unsigned int nr;
	void (*done)(struct uring_write *w);
	/* Set when done. */
	__u64 written; /* bytes, from the beginning */
	int error;     /* -errno, if that is not all of them */
};

/* At most @depth writes are under way. -ENOMEM. */
int uring_new(struct uring **out, unsigned int depth);
/* Waits for all of them. NULL is allowed. */
void uring_free(struct uring *q);
/* Is it io_uring? */
bool uring_is_async(const struct uring *q);
/* Waits for others if @depth of them are under way. */
void uring_write(struct uring *q, struct uring_write *w);
/* Call done() of those that are; with @wait, of one at least if any is under way. */
void uring_reap(struct uring *q, bool wait);
unsigned int uring_under_way(const struct uring *q);

#endif
