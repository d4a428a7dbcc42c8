/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Things by key, at most so many. Each begins with its key, is made of zeros, and stays where it is.
 * Keys may be chosen by whoever wrote a capture: where they come to lie is not theirs to know.
 */
#ifndef READER_TABLE_H
#define READER_TABLE_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/abi.h>

struct table_key {
	__u64 a, b, c;
};

struct table {
	struct table_key **slot; /* 2^bits, at most half of them used */
	struct table_key seed;
	unsigned int bits;
	size_t nr, max, size;
};

/* For at most @max things of @size bytes. -ENOMEM. */
int table_init(struct table *t, size_t max, size_t size);
void table_free(struct table *t);
/* A number that the key's maker cannot know beforehand. */
__u64 table_hash(const struct table *t, const struct table_key *key);
void *table_find(const struct table *t, const struct table_key *key);
/* Found or new; NULL: it is full, or memory is out. */
void *table_get(struct table *t, const struct table_key *key);
/* Forget those that are not @kept; all others stay where they are. */
void table_keep(struct table *t, bool (*kept)(const void *thing));
/* Less than, equal to or greater than 0, by the numbers in their order. */
int table_compare(const struct table_key *a, const struct table_key *b);
/* All of them: for (i = 0; (thing = table_next(t, &i));) */
void *table_next(const struct table *t, size_t *i);
/* All of them, in the order that qsort() makes of pointers to them; to be freed. NULL, and then *@nr is 0: memory is out. */
void **table_sorted(const struct table *t, int (*compare)(const void *, const void *), size_t *nr);

#endif
