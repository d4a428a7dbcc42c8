/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel's own trace events, as tracefs describes them. */
#ifndef AGENT_TRACEPOINTS_H
#define AGENT_TRACEPOINTS_H

#include "../common/tracepoint_format.h"

/* 0, or -1 after saying why they cannot be read. */
int tracepoints_check(void);
/*
 * Call @found for each that matches @pattern (SYSTEM:NAME, globs allowed), in order of names, until
 * it gives non-zero. Returns the number of calls, or what @found gave.
 */
int tracepoints_find(const char *pattern, int (*found)(void *, const char *, const char *),
		     void *ctx);
/* Write to @out, of @len bytes, those like @pattern: "a:b, c:d", or "". */
void tracepoints_like(const char *pattern, char *out, size_t len);
/* The systems with their numbers of events. */
void tracepoints_list(FILE *out);

/* Read the format of one. 0, or -1 after saying why. */
int tracepoint_open(struct tracepoint **out, const char *system, const char *name);

#endif
