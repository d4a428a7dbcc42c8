/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A directory that an output fills, which has to be new or empty. */
#ifndef READER_OUTDIR_H
#define READER_OUTDIR_H

#include <stdbool.h>
#include <stddef.h>

struct outdir {
	int fd;
	bool created; /* by outdir_open() */
};

/* Nothing in it is touched. 0 or -errno; -ENOTEMPTY: it holds something. */
int outdir_open(struct outdir *d, const char *path);
/* Close it; if outdir_open() made it and it is empty, it goes again. */
void outdir_abandon(struct outdir *d, const char *path);
void outdir_close(struct outdir *d);

/* A directory in @dir, which must not be there yet. A descriptor or -errno. */
int outdir_make(int dir, const char *name);
/* Likewise a file, to write to. */
int outdir_create(int dir, const char *name);
/* A file a ring may be more than what a process has without asking. */
void allow_many_files(void);
/* Write all of it, whatever signals come. 0 or -errno. */
int outdir_write(int fd, const void *p, size_t len);

#endif
