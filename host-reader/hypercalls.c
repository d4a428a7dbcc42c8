/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "hypercalls.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

int hypercalls_init(struct hypercalls *h)
{
	memset(h, 0, sizeof(*h));
	if (table_init(&h->ops, HYPERCALLS_ROWS, sizeof(struct hypercalls_row)) ||
	    table_init(&h->batches, HYPERCALLS_ROWS, sizeof(struct hypercalls_batch)) ||
	    table_init(&h->upcalls, HYPERCALLS_ROWS, sizeof(struct hypercalls_row)) ||
	    table_init(&h->channels, HYPERCALLS_ROWS, sizeof(struct hypercalls_row)) ||
	    table_init(&h->stacks, HYPERCALLS_STACKS, sizeof(struct hypercalls_stack)))
		return -ENOMEM;
	return 0;
}

void hypercalls_free(struct hypercalls *h)
{
	struct hypercalls_stack *s;

	for (size_t i = 0; h->stacks.slot && (s = table_next(&h->stacks, &i)) != NULL;)
		free(s->text);
	table_free(&h->ops);
	table_free(&h->batches);
	table_free(&h->upcalls);
	table_free(&h->channels);
	table_free(&h->stacks);
}

static struct hypercalls_row *row_of(struct hypercalls *h, struct table *t, const struct table_key *key,
				     unsigned int source, const char *name)
{
	struct hypercalls_row *row = table_get(t, key);

	if (!row) {
		h->beyond++;
		return NULL;
	}
	row->source = source;
	if (!*row->name)
		snprintf(row->name, sizeof(row->name), "%s", name);
	return row;
}

struct hypercalls_row *hypercalls_op(struct hypercalls *h, unsigned int source, __u32 number, const char *name)
{
	struct table_key key = { source, number, 0 };
	char text[HYPERCALLS_NAME];

	snprintf(text, sizeof(text), "hypercall_%u", number);
	return row_of(h, &h->ops, &key, source, name ? name : text);
}

static int compare_numbers(const void *a, const void *b)
{
	const struct hypercalls_row *const *x = a, *const *y = b;

	return table_compare(&(*x)->key, &(*y)->key);
}

/* @row: of each of its calls, in order of their numbers. False: it is another one of the same key. */
static bool is_batch_of(const struct hypercalls_batch *b, const struct hypercalls_row *const *row, unsigned int nr)
{
	unsigned int at = 0;

	for (unsigned int i = 0; i < b->nr; i++)
		for (unsigned int k = 0; k < b->op[i].nr; k++)
			if (at == nr || row[at++] != b->op[i].row)
				return false;
	return at == nr;
}

/* In order of their numbers each is beside its like. */
static void count_in(struct hypercalls *h, unsigned int source, struct hypercalls_row **row, unsigned int nr, __u64 ns)
{
	struct table_key key = { source, nr, 0 };
	struct hypercalls_batch *b;

	for (unsigned int i = 0; i < nr; i++) {
		bool last = i + 1 == nr || row[i + 1] != row[i];

		key.c = table_hash(&h->batches, &key);
		key.b = row[i]->key.b;
		row[i]->calls++;
		if (last)
			durations_add(&row[i]->d, ns);
	}
	if (row[0] == row[nr - 1]) {
		row[0]->alone_calls += nr;
		row[0]->alone_ns += ns;
	}
	b = table_get(&h->batches, &key);
	if (b && !b->nr) {
		b->source = source;
		for (unsigned int i = 0; i < nr; i++) {
			b->nr += !i || row[i] != row[i - 1];
			b->op[b->nr - 1].row = row[i];
			b->op[b->nr - 1].nr++;
		}
	}
	if (b && is_batch_of(b, (const struct hypercalls_row *const *)row, nr))
		durations_add(&b->d, ns);
	else
		h->beyond++;
}

void hypercalls_flushed(struct hypercalls *h, unsigned int source, const struct hypercalls_flush *f)
{
	struct hypercalls_row *row[HYPERCALLS_BATCH];
	unsigned int nr = 0;

	if (!f->calls) {
		durations_add(&h->empty, f->ns);
		return;
	}
	h->calls += f->calls;
	h->single += f->calls == 1;
	durations_add(&h->size, f->calls);
	durations_add(&h->flush, f->ns);
	for (unsigned int i = 0; i < f->nr && i < HYPERCALLS_BATCH; i++) {
		row[nr] = hypercalls_op(h, source, f->op[i].number, f->op[i].name);
		nr += row[nr] != NULL;
	}
	if (nr < f->calls)
		h->unknown += f->calls - nr;
	if (!nr)
		return;
	qsort(row, nr, sizeof(row[0]), compare_numbers);
	count_in(h, source, row, nr, f->ns);
}

void hypercalls_upcall(struct hypercalls *h, unsigned int source, const char comm[16], const char *name, __u64 ns,
		       __u64 channels)
{
	struct table_key key = { source, 0, 0 };
	struct hypercalls_row *row;

	durations_add(&h->upcall, ns);
	memcpy(&key.b, comm, sizeof(key.b));
	memcpy(&key.c, comm + sizeof(key.b), sizeof(key.c));
	row = row_of(h, &h->upcalls, &key, source, name);
	if (!row)
		return;
	durations_add(&row->d, ns);
	row->calls += channels;
}

void hypercalls_channel(struct hypercalls *h, unsigned int source, __u64 what, const char *name, __u64 ns)
{
	struct table_key key = { source, what, 0 };
	struct hypercalls_row *row = row_of(h, &h->channels, &key, source, name);

	h->channels_handled++;
	if (!row)
		return;
	durations_add(&row->d, ns);
	row->calls++;
}

struct hypercalls_stack *hypercalls_stack(struct hypercalls *h, __u64 session, __u64 stack, __u32 op)
{
	struct table_key key = { session, stack, op };
	struct hypercalls_stack *s = table_get(&h->stacks, &key);

	h->beyond += !s;
	return s;
}

/* ---------------------------------------------------------------------------------------- in order */

static int compare(__u64 a, __u64 b, const struct table_key *ka, const struct table_key *kb)
{
	return a != b ? (a < b) - (a > b) : table_compare(ka, kb);
}

static int by_time(const void *a, const void *b)
{
	const struct hypercalls_row *x = *(void *const *)a, *y = *(void *const *)b;

	return compare(x->d.sum, y->d.sum, &x->key, &y->key);
}

static int by_calls_made(const void *a, const void *b)
{
	const struct hypercalls_row *x = *(void *const *)a, *y = *(void *const *)b;

	return compare(x->calls + (x->calls ? 0 : x->queued), y->calls + (y->calls ? 0 : y->queued), &x->key, &y->key);
}

static int by_batch_time(const void *a, const void *b)
{
	const struct hypercalls_batch *x = *(void *const *)a, *y = *(void *const *)b;

	return compare(x->d.sum, y->d.sum, &x->key, &y->key);
}

static int by_text(const void *a, const void *b)
{
	const struct hypercalls_stack *x = *(void *const *)a, *y = *(void *const *)b;
	int order = strcmp(x->text, y->text);

	return order ? order : table_compare(&x->key, &y->key);
}

static void *all_of(const struct table *t, size_t *nr, int (*order)(const void *, const void *))
{
	void **all = calloc(t->nr ? t->nr : 1, sizeof(*all)), *thing;

	*nr = 0;
	for (size_t i = 0; all && (thing = table_next(t, &i)) != NULL;)
		all[(*nr)++] = thing;
	if (all && order)
		qsort(all, *nr, sizeof(*all), order);
	return all;
}

struct hypercalls_row **hypercalls_rows(const struct table *t, bool by_calls, size_t *nr)
{
	return all_of(t, nr, by_calls ? by_calls_made : by_time);
}

struct hypercalls_batch **hypercalls_batches(const struct hypercalls *h, size_t *nr)
{
	return all_of(&h->batches, nr, by_batch_time);
}

struct hypercalls_stack **hypercalls_stacks(const struct hypercalls *h, size_t *nr)
{
	struct hypercalls_stack **all = all_of(&h->stacks, nr, NULL);
	size_t kept = 0;

	for (size_t i = 0; i < *nr; i++)
		if (all[i]->text)
			all[kept++] = all[i];
	*nr = kept;
	if (kept)
		qsort(all, kept, sizeof(*all), by_text);
	return all;
}
