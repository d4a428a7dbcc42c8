/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel's own trace events, as tracefs describes them. */
#ifndef AGENT_TRACEPOINTS_H
#define AGENT_TRACEPOINTS_H

#include <stddef.h>
#include <stdio.h>

#include <htrace/schema.h>

#include "../bpf/tracepoint.h"

struct tracepoint {
	char system[64], name[64];
	struct tracepoint_config config;
	struct tp_field *field;
	size_t nr_fields;
};

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
/*
 * Read the fields from its format file. -EINVAL: not understood; -E2BIG: does not fit a record;
 * -ENOMEM.
 */
int tracepoint_parse(struct tracepoint *tp, FILE *format);
/* Declare it in @b under @name, behind @nr members of 8 bytes each. Record id or -errno. */
int tracepoint_declare(const struct tracepoint *tp, struct htrace_schema_builder *b,
		       const char *name, const struct htrace_schema_member *front, __u32 nr_front);
void tracepoint_free(struct tracepoint *tp);

#endif
