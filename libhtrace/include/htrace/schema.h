/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Schemas: what the events of a region are called and consist of. Built by the producing side from
 * BTF or C, parsed by the reading side from hostile memory, and used to decode any record.
 */
#ifndef HTRACE_SCHEMA_H
#define HTRACE_SCHEMA_H

#include <htrace/abi.h>
#include <htrace/version.h>

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* ------------------------------------------------------------------------ reading and decoding */

struct htrace_schema;

struct htrace_type {
	__u32 number;
	enum htrace_type_kind kind;
	enum htrace_hint hint;
	bool is_signed;
	__u32 size;  /* bytes; array, string: 0: to the end of the record */
	const struct htrace_type *elem; /* arrays */
	__u32 nr;    /* elements, members, values */
	const char *name;
	const struct htrace_member *members; /* struct, union */
	const struct htrace_enumerator *values; /* enum: by value */
};

struct htrace_member {
	const char *name;
	const struct htrace_type *type;
	__u32 bit_off;
	__u32 bit_size; /* 0: not a bit-field */
};

struct htrace_enumerator {
	__s64 value;
	const char *name;
};

struct htrace_event {
	__u32 id;
	const char *name;
	const struct htrace_type *type; /* a struct */
};

/*
 * Parse and validate the @len bytes of entries at @buf (private memory; they may be freed
 * afterwards). -EPROTO: refused, @err says why. -ENOMEM. Depth, number and expanded size are
 * bounded by the limits in abi.h.
 */
int htrace_schema_parse(struct htrace_schema **out, const void *buf, size_t len, char *err,
			size_t errlen);
/* NULL is allowed. Events, types and names from it are invalid afterwards. */
void htrace_schema_free(struct htrace_schema *s);
/* NULL if there is no such event. */
const struct htrace_event *htrace_schema_event(const struct htrace_schema *s, __u32 id);
const struct htrace_event *htrace_schema_event_by_name(const struct htrace_schema *s,
						       const char *name);
/* How many there are; types are numbered 1 ... nr_types. */
__u32 htrace_schema_nr_events(const struct htrace_schema *s);
__u32 htrace_schema_nr_types(const struct htrace_schema *s);
/* Events in order of declaration, index 0 ... nr - 1. */
const struct htrace_event *htrace_schema_event_at(const struct htrace_schema *s, __u32 index);
/*
 * The filter (see filter.h) that whoever records says holds, or NULL; any text, not checked. And
 * whether records of event @id are in the rings only if they match it.
 */
const char *htrace_schema_filter(const struct htrace_schema *s);
bool htrace_schema_is_filtered(const struct htrace_schema *s, __u32 id);

/*
 * Decoding: a walk over a record's fields, the members of its struct. Calls may be NULL. @name is
 * NULL for array elements. Values come as they are; the hint says how to show them.
 */
struct htrace_visitor {
	size_t sz; /* sizeof(struct htrace_visitor) */
	/* around struct, union and array, but not around the whole record */
	void (*begin)(void *ctx, const char *name, const struct htrace_type *t);
	void (*end)(void *ctx, const struct htrace_type *t);
	/* integers up to 64 bits, bit-fields and enums; negative values sign-extended */
	void (*integer)(void *ctx, const char *name, const struct htrace_type *t, __u64 value);
	/* text up to its NUL or end; any bytes may occur */
	void (*string)(void *ctx, const char *name, const struct htrace_type *t, const char *s,
		       size_t len);
	/* integers of 16 bytes */
	void (*bytes)(void *ctx, const char *name, const struct htrace_type *t, const void *p,
		      size_t len);
};

/*
 * Walk @payload of @len bytes as event @e. -EMSGSIZE: shorter than the event's fixed part (nothing
 * was visited); -EINVAL: v->sz is of no visitor that this library knows. Reads within the payload
 * only.
 */
int htrace_event_visit(const struct htrace_event *e, const void *payload, size_t len,
		       const struct htrace_visitor *v, void *ctx);
/* Top-level integer member @name, as integer() gets it; false if there is none or too short. */
bool htrace_event_get(const struct htrace_event *e, const void *payload, size_t len,
		      const char *name, __u64 *value);
/* Name of an enum's value, as integer() gets it, or NULL; of several the first declared. */
const char *htrace_enum_name(const struct htrace_type *t, __u64 value);

/*
 * Write @len bytes so that no terminal, log or parser is steered: \xNN for all but printable ASCII,
 * and for backslash and double quote. Returns the bytes written, at most 4 * len: no NUL, and
 * nothing by halves where @outlen does not suffice. @out NULL: the bytes that it would take.
 */
size_t htrace_escape(char *out, size_t outlen, const char *s, size_t len);

/* ------------------------------------------------------------------------------------ building */

/* Collects entries; types are declared once, by content. */
struct htrace_schema_builder;

/*
 * @old, @oldlen: entries of the same session that exist already (an adopted region), or NULL;
 * numbers and ids continue after them, and equal events get their old id. -EINVAL: refused.
 */
int htrace_builder_new(struct htrace_schema_builder **out, const void *old, size_t oldlen);
/* NULL is allowed. Its entries go with it. */
void htrace_builder_free(struct htrace_schema_builder *b);
/*
 * Each returns a type number > 0, or -errno: -EINVAL: name or numbers not allowed; -ENOSPC: a limit
 * of the schema is reached; -ENOMEM. Names of types may be NULL. What @values and @members point to
 * is copied; members come in order of their offsets and do not overlap (but in a union).
 */
int htrace_builder_int(struct htrace_schema_builder *b, const char *name, __u32 size,
		       bool is_signed, enum htrace_hint hint);
int htrace_builder_enum(struct htrace_schema_builder *b, const char *name, __u32 size,
			bool is_signed, const struct htrace_schema_value *values, __u32 nr);
int htrace_builder_array(struct htrace_schema_builder *b, int elem, __u32 nr);
int htrace_builder_string(struct htrace_schema_builder *b, __u32 size);
int htrace_builder_struct(struct htrace_schema_builder *b, const char *name, bool is_union,
			  __u32 size, const struct htrace_schema_member *members, __u32 nr);
/* The event's record id, new or that of an equal event. -EEXIST: an unequal one has the name. */
int htrace_builder_event(struct htrace_schema_builder *b, const char *name, int type);
/*
 * @text: the filter of all events from here on, in the place of an earlier one; "": none. Then, by
 * htrace_builder_filtered(), each event that is recorded only if it matches. 0 or -errno.
 */
int htrace_builder_filter(struct htrace_schema_builder *b, const char *text);
int htrace_builder_filtered(struct htrace_schema_builder *b, __u32 id);
/* From here on all records of an event are in the rings again. 0 or -errno. */
int htrace_builder_unfiltered(struct htrace_schema_builder *b, __u32 id);
/* Do the entries so far, old ones too, hold a filter, or was an event told to be filtered since? */
bool htrace_builder_has_filter(const struct htrace_schema_builder *b);
/* New entries since creation, in the builder's memory, valid until its next call. */
const void *htrace_builder_entries(const struct htrace_schema_builder *b, size_t *len);
/* Why the last call that failed did, in one line. */
const char *htrace_builder_error(const struct htrace_schema_builder *b);

/*
 * Declare event @name whose payload is BTF struct @type_id; returns the record id or -errno, with
 * one line in @err. Typedef names choose how an integer is shown: htrace_tid_t, htrace_hex_t,
 * htrace_hex32_t, htrace_hex16_t, htrace_ptr_t, htrace_syscall_t, htrace_task_state_t (see htrace.bpf.h);
 * the outermost one counts.
 *
 * char[] is text, pointers are addresses. Members of anonymous structs become members of the struct
 * around them, likewise of unions in unions; an anonymous union in a struct is a member anon_N. A
 * flexible array at the end of the struct reaches to the end of the record. Unnamed bit-fields and
 * members without a size are left out. -EINVAL: there is no such struct, or a member cannot be
 * recorded: floating point, integers that are none of 1, 2, 4, 8, 16 bytes, limits of abi.h.
 */
/* In libhtrace-btf (pkg-config libhtrace-btf), which needs libbpf; the library itself does not. */
struct btf;
int htrace_builder_btf_event(struct htrace_schema_builder *b, const struct btf *btf,
			     const char *name, __u32 type_id, char *err, size_t errlen);
/*
 * Likewise of records that begin with @nr_front members of 8 bytes each, as @front describes them,
 * before the struct.
 */
int htrace_builder_btf_event_behind(struct htrace_schema_builder *b, const struct btf *btf,
				    const char *name, __u32 type_id,
				    const struct htrace_schema_member *front, __u32 nr_front,
				    char *err, size_t errlen);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
