/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What tasks are called, to which processes they belong, and since when. Times are the region's
 * clock. Everything comes from a guest, so tasks and names per task are bounded; who exceeds that
 * loses the oldest.
 */
#ifndef READER_NAMES_H
#define READER_NAMES_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/abi.h>

#define NAMES_COMM 16 /* as the kernel has it */

struct names;

struct names *names_new(void);
void names_free(struct names *n);
/*
 * From @time on @tid is called @comm, which has at most @len bytes and ends before at its NUL, and
 * belongs to the process @pid. 0: that is not known; what was said before stays.
 */
void names_set(struct names *n, __u32 tid, __u32 pid, __u64 time, const char *comm, size_t len);
/* The task ended at @time. It is forgotten some time after @now (host, ns). */
void names_exit(struct names *n, __u32 tid, __u64 time, __u64 now);
/* Forget tasks that ended long before @now. */
void names_expire(struct names *n, __u64 now);
/* What @tid was called at @time; NULL: not known. *@len: without a NUL. */
const char *names_get(const struct names *n, __u32 tid, __u64 time, size_t *len);
/* To which process @tid belonged at @time; 0: not known, or it is an idle task. */
__u32 names_pid(const struct names *n, __u32 tid, __u64 time);

/* A task, as at the time that was asked for. */
struct names_task {
	__u32 tid, pid; /* pid 0: not known */
	const char *comm;
	size_t len;
};

/* Call @fn for each task that lived at @time, until it returns false. */
void names_each(const struct names *n, __u64 time,
		bool (*fn)(void *ctx, const struct names_task *task), void *ctx);

#endif
