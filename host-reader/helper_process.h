/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the processes beside the reader have in common. */
#ifndef READER_HELPER_PROCESS_H
#define READER_HELPER_PROCESS_H

#define HELPER_FD 3 /* the first descriptor that it kept */

/*
 * In one that was forked just now: nothing stays open in it but @nr descriptors, which become HELPER_FD and so
 * on: neither outputs that somebody waits to see closed, nor a region's lock. Signals that end the reader do not
 * end it: it ends when the reader does.
 */
void helper_process_begin(const char *name, const int *keep, int nr);

#endif
