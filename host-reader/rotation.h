/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Captures that go on for long: a session's is ended from time to time, and goes on in another directory that
 * can be read without the ones before it; the oldest are deleted.
 */
#ifndef READER_ROTATION_H
#define READER_ROTATION_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/types.h>

#include "capture.h"

/* Text behind the first comma of @spec; is used up. 0, or after having said what is wrong, 2. */
int rotation_parse(struct rotation *r, char *text, const char *spec);
static inline bool rotates(const struct rotation *r)
{
	return r->bytes || r->ns || r->keep;
}

/* Directories that are complete, in their order. */
struct parts {
	struct part *part;
	unsigned int nr;
	__u64 bytes;
	struct packer *packer; /* of them; NULL: they stay as they are */
	bool said; /* that one could not be packed */
};

/* 0 or -ENOMEM. */
int parts_add(struct parts *p, const char *name, __u64 bytes);
/* Delete the oldest ones in @dir until what is left has at most so many bytes. 0 or -errno. */
int parts_delete(struct parts *p, int dir, __u64 most);
/* Let them be packed, the latest first, as it is kept for longest; what was packed counts as that. */
void parts_pack(struct parts *p);
/* What is being packed is left as it is then. */
void parts_free(struct parts *p);
/* A part's directory. 0 or -errno. */
int part_delete(int dir, const char *name);

#define LASTING_KINDS (CAPTURE_VM + 1)

/* What a session said last of what lasts: a part begins with it. */
struct lasting {
	struct said {
		struct capture_item item;
		unsigned char *data;
	} said[LASTING_KINDS]; /* by kind */
};

/* Keep a copy of it, if it is of that kind. 0 or -ENOMEM. */
int lasting_keep(struct lasting *l, const struct capture_item *item);
void lasting_free(struct lasting *l);

#endif
