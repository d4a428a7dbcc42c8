/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Parts of a capture that are complete are compressed, file by file, by a thread of low priority: NAME becomes
 * NAME.zst, which capture.h describes, all at once; metadata stay. What does not get smaller, or cannot be
 * written, stays as it is. Nobody ever waits for that thread but packer_free().
 */
#ifndef READER_CAPTURE_PACK_H
#define READER_CAPTURE_PACK_H

#include <stdbool.h>

#include "capture.h"

struct packer;

/* What became of a part. */
struct packed_part {
	char name[CAPTURE_NAME];
	__u64 bytes; /* of its files now */
	int error;   /* -errno: not all of it is packed */
};

/* Of parts in @dir, which stays open. Its thread begins with the first one: in the sandbox. 0, -ENOMEM or -ENOTSUP. */
int packer_new(struct packer **out, int dir);
/* What it works on stays as far as it is. NULL is allowed. */
void packer_free(struct packer *p);
/* False: it is at work, or its thread could not be begun. */
bool packer_begin(struct packer *p, const char *name);
/* Is it done with a part? Then it takes another one. */
bool packer_take(struct packer *p, struct packed_part *done);
/* @name is being deleted. True: it works on that; it stops soon, and deletes what it made of it meanwhile. */
bool packer_give_up(struct packer *p, const char *name);

#endif
