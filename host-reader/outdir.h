/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A directory that an output fills, which has to be new or empty. */
#ifndef READER_OUTDIR_H
#define READER_OUTDIR_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <sys/uio.h>

/*
 * Who is killed in write(2) leaves the first pages of it: what lies within one page of a file is there
 * or not. No kernel has smaller ones.
 */
#define OUTDIR_PAGE 4096u

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
/* Likewise, to a place in it; @v is used up. */
int outdir_writev_at(int fd, struct iovec *v, int nr, off_t at);
int outdir_write_at(int fd, const void *p, size_t len, off_t at);
/*
 * Text to the end of a file of metadata, at *@at, which is moved behind it. Whoever looks meanwhile, or after
 * we were killed in it, sees all of it or none. After an error there may be blanks, or a comment.
 */
int outdir_append_text(int fd, const char *text, size_t len, off_t *at);

#endif
