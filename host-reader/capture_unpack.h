/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Reading files of a capture that were packed (pack.h), from any place, without unpacking them to disk. They are
 * believed as little as the rest of it: what a file unpacks to is held by chunks, a few for each file that is read,
 * UNPACK_CHUNKS at most, whatever it claims to be.
 */
#ifndef READER_CAPTURE_UNPACK_H
#define READER_CAPTURE_UNPACK_H

#include <stdbool.h>
#include <stddef.h>

#include "capture.h"

#define UNPACK_CHUNKS 256u /* 32 MiB, for all files of a capture */

/* Of all files of a capture. */
struct unpacker;

/* One of them. */
struct packed {
	__u64 id;    /* 0: it is none */
	__u64 table; /* where in the file it is */
	__u64 raw;   /* bytes that it unpacks to */
	__u32 nr;    /* chunks */
	unsigned int latest; /* where its chunk is that was used last */
};

/* NULL is allowed. */
void unpacker_free(struct unpacker *u);
/* @fd: @size bytes. *@u is made if it is NULL. 0; -EILSEQ: it is no packed file; -ENOTSUP: we cannot; -ENOMEM. */
int unpack_open(struct unpacker **u, struct packed *p, int fd, __u64 size);
/* @at, @len: within p->raw. False: what is there is damaged, or there is no memory. */
bool unpack_read(struct unpacker *u, struct packed *p, int fd, void *to, size_t len, __u64 at);

#endif
