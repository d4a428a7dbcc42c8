/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The file that a region lies in, looked at before anything is written to it. */
#ifndef READER_REGION_FILE_H
#define READER_REGION_FILE_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/region.h>

enum region_content {
	CONTENT_EMPTY,   /* all zero, or nothing but what a reader wrote */
	CONTENT_REGION,  /* a region, or one that is just being made */
	CONTENT_UNKNOWN, /* no superblock, but other data: not a region, or on its way to be one */
	CONTENT_FOREIGN, /* something else */
};

/*
 * Open the file and keep other readers away. The descriptor, or -errno with one line in @err.
 * @follow: the path may be a symbolic link. *@writable: whether the host area can be written.
 */
int region_file_open(const char *path, bool follow, bool *writable, char *err, size_t errlen);
/* Likewise, but never by way of the finder. */
int region_file_open_here(const char *path, bool follow, bool *writable, char *err, size_t errlen);
/* What is in it? Reads holes as such and stops at the first byte that tells. */
enum region_content region_file_inspect(int fd);
/*
 * May it be written to, as the next word of one that reads it? Likewise, but without a look at all
 * of it: CONTENT_UNKNOWN if only that could tell.
 */
enum region_content region_file_glance(int fd);
/* Remove the file at @path, if it is the one with that inode. 0, or -errno. */
int region_file_remove(const char *path, __u64 dev, __u64 ino);
/* Is the file that @v maps not the one at @path any more, but another one? */
bool region_file_replaced(const struct htrace_view *v, const char *path);

#endif
