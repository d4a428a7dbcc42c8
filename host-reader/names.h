/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What tasks are called, and since when. Times are the region's clock. Everything comes from a
 * guest, so tasks and names per task are bounded; who exceeds that loses the oldest.
 */
#ifndef READER_NAMES_H
#define READER_NAMES_H

#include <stddef.h>

#include <htrace/abi.h>

#define NAMES_COMM 16 /* as the kernel has it */

struct names;

struct names *names_new(void);
void names_free(struct names *n);
/* From @time on @tid is called @comm, which has at most @len bytes and ends before at its NUL. */
void names_set(struct names *n, __u32 tid, __u64 time, const char *comm, size_t len);
/* The task ended at @time. It is forgotten some time after @now (host, ns). */
void names_exit(struct names *n, __u32 tid, __u64 time, __u64 now);
/* Forget tasks that ended long before @now. */
void names_expire(struct names *n, __u64 now);
/* What @tid was called at @time; NULL: not known. *@len: without a NUL. */
const char *names_get(const struct names *n, __u32 tid, __u64 time, size_t *len);

#endif
