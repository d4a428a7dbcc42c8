/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * The rules that schema entries obey, checked one entry at a time. The parser and the builder both
 * go through here, so that what one builds the other accepts.
 */
#ifndef HTRACE_SCHEMA_CHECK_H
#define HTRACE_SCHEMA_CHECK_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/abi.h>

/* What later entries need to know of a type. */
struct htrace_type_facts {
	__u32 size;
	__u32 fields;   /* leaves, arrays of structs expanded; an array of integers is one */
	__u32 expanded; /* bytes that a visit may touch, all members of unions added up */
	__u16 kind;
	__u8 depth;     /* 0: integers, enums, strings */
	bool open;      /* reaches to the end of the record */
};

struct htrace_schema_check {
	struct htrace_type_facts *types; /* of type n at [n - 1] */
	__u32 nr_types, types_room;
	__u32 nr_events, max_id;
	/* What it will take to hold all that was accepted. */
	size_t nr_members, nr_values, text;
	size_t filter; /* length of the filter's text; 0: there is none */
	bool filtered; /* since then, an event was told to be */
	void *names; /* tsearch(3) tree of events by name: no worst case for a guest to hit */
	__u64 ids[HTRACE_MAX_EVENTS / 64 + 1];
	char msg[160]; /* why the last entry was refused */
};

/* @c must be all zero at first. */
void htrace_check_done(struct htrace_schema_check *c);
/*
 * Check the entry at @at, of which @avail bytes can be read, against those before it, and take it
 * in. 0: accepted (or of a kind that is to be skipped), *@len is its length. -EPROTO: refused,
 * c->msg says why. -ENOMEM.
 */
int htrace_check_entry(struct htrace_schema_check *c, const void *at, size_t avail, size_t *len);
/* The id of event @name and its type, or 0. */
__u32 htrace_check_find(const struct htrace_schema_check *c, const char *name, __u32 *type);

#endif /* HTRACE_SCHEMA_CHECK_H */
