/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A trace event of the kernel's, as its `format` file describes it: fields, schema, payload. */
#ifndef COMMON_TRACEPOINT_FORMAT_H
#define COMMON_TRACEPOINT_FORMAT_H

#include <stddef.h>
#include <stdio.h>

#include <htrace/schema.h>

#include "../bpf/tracepoint.h"

struct tracepoint {
	char system[64], name[64];
	struct tracepoint_config config;
	struct tp_field *field;
	size_t nr_fields;
	int functions; /* type of a field that holds a function's address, of names of functions; 0: a number */
};

/*
 * Read the fields from its format file. -EINVAL: not understood; -E2BIG: does not fit a record;
 * -ENOMEM.
 */
int tracepoint_parse(struct tracepoint *tp, FILE *format);
/* Declare it in @b under @name, behind @nr members of 8 bytes each. Record id or -errno. */
int tracepoint_declare(const struct tracepoint *tp, struct htrace_schema_builder *b,
		       const char *name, const struct htrace_schema_member *front, __u32 nr_front);
void tracepoint_free(struct tracepoint *tp);

/* The most that tracepoint_payload() makes. */
#define TRACEPOINT_PAYLOAD_MAX \
	(TRACEPOINT_FIXED_MAX + 8 + TRACEPOINT_DYN_MAX * TRACEPOINT_PLACE + TRACEPOINT_TEXT_MAX)

/*
 * What tracepoint.bpf.c would have recorded, from the kernel's own record of @len bytes (common fields
 * first), which nobody has checked: bytes in @out, or 0: it is too short for its event.
 */
size_t tracepoint_payload(const struct tracepoint *tp, const void *record, size_t len,
			  unsigned char out[TRACEPOINT_PAYLOAD_MAX]);

/* A field of the kernel's record, as it is. */
struct tracepoint_value {
	const unsigned char *at; /* little-endian, or text, with or without a NUL */
	size_t len;
	bool is_text, is_signed;
};

/* Field @name, also common_pid, of a record as above. False: there is none, or it is not all there. */
bool tracepoint_field(const struct tracepoint *tp, const void *record, size_t len, const char *name,
		      struct tracepoint_value *v);

#endif
