/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

static __u64 mix(__u64 z)
{
	z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ULL;
	z = (z ^ z >> 27) * 0x94d049bb133111ebULL;
	return z ^ z >> 31;
}

int table_init(struct table *t, size_t max, size_t size)
{
	*t = (struct table){ .max = max, .size = size, .bits = 1 };
	while (1ULL << t->bits < 2 * max)
		t->bits++;
	/* Without it it works, only that somebody may make it slow. */
	if (getrandom(&t->seed, sizeof(t->seed), GRND_NONBLOCK) < 0)
		t->seed.a = (__u64)(size_t)t;
	t->slot = calloc(1ULL << t->bits, sizeof(*t->slot));
	return t->slot ? 0 : -ENOMEM;
}

void table_free(struct table *t)
{
	for (size_t i = 0; t->slot && i < 1ULL << t->bits; i++)
		free(t->slot[i]);
	free(t->slot);
	t->slot = NULL;
}

__u64 table_hash(const struct table *t, const struct table_key *key)
{
	return mix(mix(mix(key->a ^ t->seed.a) + (key->b ^ t->seed.b)) + (key->c ^ t->seed.c));
}

static struct table_key **look(const struct table *t, const struct table_key *key)
{
	size_t at = table_hash(t, key) >> (64 - t->bits), mask = (1ULL << t->bits) - 1;

	while (t->slot[at] && memcmp(t->slot[at], key, sizeof(*key)) != 0)
		at = (at + 1) & mask;
	return &t->slot[at];
}

void *table_find(const struct table *t, const struct table_key *key)
{
	return *look(t, key);
}

void *table_get(struct table *t, const struct table_key *key)
{
	struct table_key **slot = look(t, key);

	if (*slot || t->nr == t->max)
		return *slot;
	*slot = calloc(1, t->size);
	if (!*slot)
		return NULL;
	**slot = *key;
	t->nr++;
	return *slot;
}

/* In place: who stays is put in once more behind a gap, so that no search for it ends there. */
void table_keep(struct table *t, bool (*kept)(const void *thing))
{
	size_t mask = (1ULL << t->bits) - 1, first = 0;

	while (t->slot[first]) /* at most half of them are used */
		first++;
	for (size_t i = 1; i <= mask; i++) {
		struct table_key **slot = &t->slot[(first + i) & mask], *thing = *slot;

		if (!thing)
			continue;
		*slot = NULL;
		if (kept(thing)) {
			*look(t, thing) = thing;
			continue;
		}
		free(thing);
		t->nr--;
	}
}

int table_compare(const struct table_key *a, const struct table_key *b)
{
	if (a->a != b->a)
		return a->a < b->a ? -1 : 1;
	if (a->b != b->b)
		return a->b < b->b ? -1 : 1;
	return a->c < b->c ? -1 : a->c > b->c;
}

void *table_next(const struct table *t, size_t *i)
{
	while (*i < 1ULL << t->bits) {
		void *thing = t->slot[(*i)++];

		if (thing)
			return thing;
	}
	return NULL;
}

void **table_sorted(const struct table *t, int (*compare)(const void *, const void *), size_t *nr)
{
	void **all = calloc(t->nr + 1, sizeof(*all)), *thing;

	*nr = 0;
	for (size_t i = 0; all && (thing = table_next(t, &i)) != NULL;)
		all[(*nr)++] = thing;
	if (all)
		qsort(all, *nr, sizeof(*all), compare);
	return all;
}
