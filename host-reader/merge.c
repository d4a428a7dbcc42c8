/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "merge.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

/* A batch, in the queue of its ring and in the list of all by arrival. */
struct chunk {
	struct chunk *next;
	struct chunk *older, *newer;
	__u64 arrival;
	__u64 asked; /* what was due until then goes out before it is looked at */
	unsigned int ring;
	void *mark; /* not a batch */
	struct htrace_batch batch;
	bool unverified, quiet;
	unsigned char data[] __attribute__((aligned(8)));
};

struct queue {
	struct chunk *head, *tail;
	struct htrace_iter iter; /* over head */
	struct merge_item next;  /* taken from head, not gone out yet */
	__u64 time;              /* of the ring's last record */
	size_t bytes;
};

struct merge {
	__u64 delay_ns;
	size_t max_bytes, bytes;
	__u64 asked; /* the last time of merge_pop() */
	struct chunk *oldest, *newest;
	struct chunk *waiting; /* the oldest that was not looked at */
	unsigned int marks;
	__u64 time; /* of the last item that went out */
	bool popped; /* the first ring's item went out; its queue has yet to move on */
	unsigned int nr_rings, heap_len;
	unsigned int *heap; /* rings that have an item, the one with the smallest time first */
	struct queue queue[];
};

struct merge *merge_new(unsigned int nr_rings, __u64 delay_ns, size_t max_bytes)
{
	struct merge *m = calloc(1, sizeof(*m) + nr_rings * sizeof(*m->queue));

	if (!m)
		return NULL;
	m->heap = calloc(nr_rings ? nr_rings : 1, sizeof(*m->heap));
	if (!m->heap) {
		free(m);
		return NULL;
	}
	m->nr_rings = nr_rings;
	m->delay_ns = delay_ns;
	m->max_bytes = max_bytes;
	return m;
}

void merge_free(struct merge *m)
{
	struct chunk *c, *newer;

	if (!m)
		return;
	for (c = m->oldest; c; c = newer) {
		newer = c->newer;
		free(c);
	}
	free(m->heap);
	free(m);
}

bool merge_has_room(const struct merge *m, unsigned int ring)
{
	if (m->bytes < m->max_bytes / 2)
		return true;
	if (m->bytes >= m->max_bytes) /* exceeded by one batch at most */
		return false;
	/* Half full: whoever has more than its share waits. */
	return m->queue[ring].bytes < m->max_bytes / 2 / m->nr_rings;
}

/* ------------------------------------------------------------------------------------- the heap */

static bool before(const struct merge *m, unsigned int a, unsigned int b)
{
	__u64 x = m->queue[a].next.time, y = m->queue[b].next.time;

	return x < y || (x == y && a < b);
}

static void heap_add(struct merge *m, unsigned int ring)
{
	unsigned int at = m->heap_len++;

	while (at && before(m, ring, m->heap[(at - 1) / 2])) {
		m->heap[at] = m->heap[(at - 1) / 2];
		at = (at - 1) / 2;
	}
	m->heap[at] = ring;
}

/* The first ring's item changed: let it sink to where it belongs. */
static void heap_sink(struct merge *m)
{
	unsigned int ring = m->heap[0], at = 0, child;

	while ((child = 2 * at + 1) < m->heap_len) {
		if (child + 1 < m->heap_len && before(m, m->heap[child + 1], m->heap[child]))
			child++;
		if (!before(m, m->heap[child], ring))
			break;
		m->heap[at] = m->heap[child];
		at = child;
	}
	m->heap[at] = ring;
}

static void heap_remove_first(struct merge *m)
{
	m->heap[0] = m->heap[--m->heap_len];
	if (m->heap_len)
		heap_sink(m);
}

/* ----------------------------------------------------------------------------------- the queues */

static void drop(struct merge *m, struct chunk *c)
{
	*(c->older ? &c->older->newer : &m->oldest) = c->newer;
	*(c->newer ? &c->newer->older : &m->newest) = c->older;
	m->bytes -= sizeof(*c) + c->batch.len;
	free(c);
}

static void drop_head(struct merge *m, struct queue *q)
{
	struct chunk *c = q->head;

	q->head = c->next;
	if (!q->head)
		q->tail = NULL;
	q->bytes -= sizeof(*c) + c->batch.len;
	drop(m, c);
}

static __u64 raise_to(__u64 time, __u64 least)
{
	return time > least ? time : least;
}

/* Begin with the chunk at the queue's head: its loss comes first, at its first record's time. */
static bool begin_chunk(struct merge *m, struct queue *q)
{
	const struct htrace_batch *b = &q->head->batch;
	struct htrace_record first;
	bool any;

	htrace_iter_init(&q->iter, b);
	if (!b->overwritten && !b->dropped && !b->corrupt && !b->unfinished && !b->uncommitted)
		return false;
	any = htrace_iter_next(&q->iter, &first);
	htrace_iter_init(&q->iter, b);
	q->next.is_loss = true;
	/* With no record behind it, all that is known is that it was lost after what went out. */
	q->next.time = raise_to(any ? first.time : m->time, q->time);
	q->next.overwritten = b->overwritten;
	q->next.dropped = b->dropped;
	q->next.corrupt = b->corrupt;
	q->next.unfinished = b->unfinished;
	q->next.uncommitted = b->uncommitted;
	return true;
}

/* Take the ring's next item; false: it has none. */
static bool advance(struct merge *m, struct queue *q, bool begin)
{
	while (q->head) {
		q->next.is_loss = false;
		q->next.unverified = q->head->unverified;
		q->next.quiet = q->head->quiet;
		q->next.arrival = q->head->arrival;
		if (begin && begin_chunk(m, q))
			return true;
		if (htrace_iter_next(&q->iter, &q->next.record)) {
			q->next.time = raise_to(q->next.record.time, q->time);
			return true;
		}
		drop_head(m, q);
		begin = true;
	}
	return false;
}

/* Its ring moves on from the item that went out; that lay in the chunk at the queue's head. */
static void settle(struct merge *m)
{
	if (!m->popped)
		return;
	m->popped = false;
	if (advance(m, &m->queue[m->heap[0]], false))
		heap_sink(m);
	else
		heap_remove_first(m);
}

static void append(struct merge *m, struct chunk *c, __u64 now)
{
	c->next = NULL;
	c->arrival = now;
	c->asked = m->asked;
	c->newer = NULL;
	c->older = m->newest;
	*(m->newest ? &m->newest->newer : &m->oldest) = c;
	m->newest = c;
	m->bytes += sizeof(*c) + c->batch.len;
	if (!m->waiting)
		m->waiting = c;
}

int merge_push(struct merge *m, unsigned int ring, const struct htrace_batch *b, __u64 now,
	       bool unverified, bool quiet)
{
	struct chunk *c = malloc(sizeof(*c) + b->len);

	if (!c)
		return -ENOMEM;
	c->ring = ring;
	c->mark = NULL;
	c->batch = *b;
	c->batch.data = c->data;
	c->unverified = unverified;
	c->quiet = quiet;
	if (b->len)
		memcpy(c->data, b->data, b->len);
	append(m, c, now);
	m->queue[ring].bytes += sizeof(*c) + b->len;
	return 0;
}

int merge_mark(struct merge *m, void *mark, __u64 now)
{
	struct chunk *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	c->mark = mark;
	append(m, c, now);
	m->marks++;
	return 0;
}

unsigned int merge_marks(const struct merge *m)
{
	return m->marks;
}

/* What waited longest takes its place in its ring's queue; a mark goes out. */
static void *look_at_waiting(struct merge *m)
{
	struct chunk *c = m->waiting;
	struct queue *q = &m->queue[c->ring];
	void *mark = c->mark;

	m->waiting = c->newer;
	if (mark) {
		drop(m, c);
		m->marks--;
		return mark;
	}
	if (q->tail) {
		q->tail->next = c;
		q->tail = c;
		return NULL; /* its head waits in the heap */
	}
	q->head = q->tail = c;
	q->next.ring = c->ring;
	if (advance(m, q, true)) /* it may be gone if not */
		heap_add(m, q->next.ring);
	return NULL;
}

__u64 merge_due(const struct merge *m)
{
	return m->oldest ? m->oldest->arrival + m->delay_ns : UINT64_MAX;
}

static void pop_first(struct merge *m, struct merge_item *item)
{
	struct queue *q = &m->queue[m->heap[0]];

	if (!q->next.is_loss)
		q->time = q->next.time;
	*item = q->next;
	item->mark = NULL;
	item->late = item->time < m->time;
	m->time = item->time;
	m->popped = true;
}

void merge_ask(struct merge *m, __u64 now, bool all)
{
	m->asked = all ? UINT64_MAX : now;
}

bool merge_pop(struct merge *m, __u64 now, bool all, struct merge_item *item)
{
	merge_ask(m, now, all);
	for (;;) {
		__u64 until = m->waiting ? m->waiting->asked : m->asked;

		settle(m);
		if (m->heap_len && merge_due(m) <= until) {
			pop_first(m, item);
			return true;
		}
		if (!m->waiting)
			return false;
		memset(item, 0, sizeof(*item));
		item->mark = look_at_waiting(m);
		if (item->mark)
			return true;
	}
}
