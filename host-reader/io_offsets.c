/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "io_offsets.h"

#include <stdlib.h>

#define SECTOR 512u

/* Sectors. */
struct range {
	__u64 from, until;
};

/* A piece of a guest's disk that is in one piece on a host's, as far as that is known. */
struct place {
	__u32 dev, host_dev;
	enum io_op op;
	struct range at;  /* the guest's: where it was found, and between */
	__u64 offset;     /* the host's sector less the guest's, modulo 2^64 */
	__u64 last;       /* the first sector of the last request that it was found by */
	unsigned int row; /* requests that it was found by, one after the other, each behind the one before */
	bool believed;
	__u64 used; /* when */
};

/* The last request that was alone, and when it was on the host; until 0: none. */
struct alone {
	__u32 dev;
	struct range at;
	__u64 from, until;
};

/* Places of one operation on the same two disks do not overlap. */
struct io_offsets {
	unsigned int host;
	__u32 vm;
	unsigned int nr;
	__u64 uses;
	struct place place[IO_OFFSETS];
	struct alone last[IO_OPS]; /* by operation */
};

struct io_offsets *io_offsets_new(void)
{
	return calloc(1, sizeof(struct io_offsets));
}

void io_offsets_free(struct io_offsets *o)
{
	free(o);
}

void io_offsets_of(struct io_offsets *o, unsigned int host, __u32 vm)
{
	if (o->host == host && o->vm == vm)
		return;
	*o = (struct io_offsets){ .host = host, .vm = vm };
}

/* False: it has none, or what it has cannot be. */
static bool sectors_of(const struct io_rq *rq, struct range *at)
{
	__u64 nr = rq->bytes / SECTOR;

	if (rq->op != IO_READ && rq->op != IO_WRITE && rq->op != IO_DISCARD)
		return false;
	if (!nr || rq->bytes % SECTOR || rq->sector > ~0ULL - nr)
		return false;
	*at = (struct range){ rq->sector, rq->sector + nr };
	return true;
}

static bool overlap(const struct range *a, const struct range *b)
{
	return a->from < b->until && b->from < a->until;
}

static bool within(const struct range *inner, const struct range *outer)
{
	return inner->from >= outer->from && inner->until <= outer->until;
}

static struct range hull(const struct range *a, const struct range *b)
{
	return (struct range){ a->from < b->from ? a->from : b->from, a->until > b->until ? a->until : b->until };
}

/* Have the pieces each sector of @all once, and no others? They are put in order. */
static bool make_up(struct range *piece, unsigned int nr, const struct range *all)
{
	__u64 at = all->from;

	for (unsigned int i = 1; i < nr; i++) {
		struct range this = piece[i];
		unsigned int to = i;

		for (; to && piece[to - 1].from > this.from; to--)
			piece[to] = piece[to - 1];
		piece[to] = this;
	}
	for (unsigned int i = 0; i < nr; i++) {
		if (piece[i].from != at)
			return false;
		at = piece[i].until;
	}
	return at == all->until;
}

static bool is_for(const struct place *p, const struct io_rq *rq)
{
	return p->dev == rq->dev && p->op == rq->op;
}

static void forget(struct io_offsets *o, unsigned int i)
{
	o->place[i] = o->place[--o->nr];
}

/* ------------------------------------------------------------------------------------------ learning */

/* Is there another offset anywhere in @at? */
static bool is_divided(const struct io_offsets *o, const struct place *p, const struct range *at)
{
	for (unsigned int i = 0; i < o->nr; i++) {
		const struct place *q = &o->place[i];

		if (q->dev == p->dev && q->op == p->op && q->host_dev == p->host_dev && q->offset != p->offset &&
		    overlap(&q->at, at))
			return true;
	}
	return false;
}

static void add(struct io_offsets *o, const struct place *p)
{
	unsigned int oldest = 0;

	for (unsigned int i = 1; i < o->nr; i++)
		if (o->place[i].used < o->place[oldest].used)
			oldest = i;
	if (o->nr == IO_OFFSETS)
		forget(o, oldest);
	o->place[o->nr] = *p;
	o->place[o->nr++].used = ++o->uses;
}

/* The guest's sectors @at, of one request, were found on @host_dev. */
static void found(struct io_offsets *o, const struct io_rq *rq, const struct range *at, __u32 host_dev, __u64 offset)
{
	struct place p = {
		.dev = rq->dev, .op = rq->op, .host_dev = host_dev, .at = *at, .offset = offset, .last = at->from,
		.row = 1,
	};

	for (unsigned int i = o->nr; i-- > 0;) {
		struct place *q = &o->place[i];

		if (!is_for(q, rq) || (q->host_dev == host_dev && q->offset == offset))
			continue;
		q->row = 0;
		if (q->host_dev == host_dev && overlap(&q->at, at))
			forget(o, i);
	}
	for (unsigned int i = o->nr; i-- > 0;) {
		const struct place *q = &o->place[i];
		struct range both = hull(&q->at, &p.at);

		if (!is_for(q, rq) || q->host_dev != host_dev || q->offset != offset || is_divided(o, &p, &both))
			continue;
		p.at = both;
		p.believed |= q->believed || at->from < q->last;
		if (p.row < q->row + (at->from > q->last))
			p.row = q->row + (at->from > q->last);
		forget(o, i);
	}
	p.believed |= p.row >= IO_OFFSETS_ROW;
	add(o, &p);
}

/* Of the host's request, what lies in @at of the guest's disk. False: nothing. */
static bool piece_in(const struct place *p, const struct io_rq *of_host, const struct range *at, struct range *all,
		     struct range *piece)
{
	if (of_host->dev != p->host_dev || of_host->op != p->op || !sectors_of(of_host, all))
		return false;
	all->from -= p->offset;
	all->until -= p->offset;
	if (all->from >= all->until || !overlap(all, at)) /* the former: it began before the guest's disk does */
		return false;
	piece->from = all->from > at->from ? all->from : at->from;
	piece->until = all->until < at->until ? all->until : at->until;
	return true;
}

/* On the disk where @p says that it is something was asked for since @from, but not there. */
static bool lies_elsewhere(const struct place *p, const struct range *at, __u64 from,
			   const struct io_disk_span *const *list, int nr)
{
	bool some = false;

	for (int i = 0; i < nr; i++) {
		struct range all, piece;

		if (list[i]->asked < from)
			continue;
		if (piece_in(p, &list[i]->rq, at, &all, &piece))
			return false;
		some |= list[i]->rq.dev == p->host_dev && list[i]->rq.op == p->op;
	}
	return some;
}

/* The last request that was alone was complete before @s was, which it made the VMM ask for: not for itself. */
static void outlasted(struct io_offsets *o, const struct io_disk_span *s)
{
	const struct alone *last = &o->last[s->rq.op];

	for (unsigned int i = o->nr; i-- > 0;) {
		const struct place *p = &o->place[i];
		struct range all, piece;

		if (p->dev == last->dev && piece_in(p, &s->rq, &last->at, &all, &piece))
			forget(o, i);
	}
}

/* What is only suspected to be one could be what somebody reads ahead. */
static void forget_found(struct io_offsets *o, enum io_op op)
{
	for (unsigned int i = o->nr; i-- > 0;)
		if (o->place[i].op == op && !o->place[i].believed)
			forget(o, i);
}

void io_offsets_lost(struct io_offsets *o, unsigned int host)
{
	if (o->host != host)
		return;
	for (unsigned int op = 0; op < IO_OPS; op++) {
		o->last[op].until = 0;
		forget_found(o, op);
	}
}

/* Does the VMM ask for more than the guest does, up to the request that left the guest at @from? */
static bool asks_ahead(struct io_offsets *o, enum io_op op, __u64 from, const struct io_disk_span *const *list, int nr)
{
	const struct alone *last = &o->last[op];
	bool ahead = nr < 0;

	for (int i = 0; i < nr; i++) {
		const struct io_disk_span *s = list[i];

		if (s->rq.op != op || s->asked >= from)
			continue;
		if (last->until && s->asked >= last->from && s->asked <= last->until && s->end > last->until)
			outlasted(o, s);
		else if (s->end < from)
			continue; /* maybe of requests that were not alone */
		ahead = true;
	}
	if (ahead)
		forget_found(o, op);
	return ahead;
}

/* Where the host has @at, all of it in one piece. False: that cannot be said. */
static bool find(const struct io_rq *rq, const struct range *at, __u64 from, const struct io_disk_span *const *list,
		 int nr, __u32 *host_dev, __u64 *sector)
{
	struct range all = { ~0ULL, 0 }, piece[IO_OFFSETS_PIECES];
	unsigned int pieces = 0;

	for (int i = 0; i < nr; i++) {
		const struct io_disk_span *s = list[i];

		if (s->rq.op != rq->op || s->asked < from)
			continue;
		if (s->error || pieces == IO_OFFSETS_PIECES || (pieces && s->rq.dev != *host_dev) ||
		    !sectors_of(&s->rq, &piece[pieces]))
			return false;
		*host_dev = s->rq.dev;
		all = hull(&all, &piece[pieces++]);
	}
	*sector = all.from;
	return pieces && all.until - all.from == at->until - at->from && make_up(piece, pieces, &all);
}

__u64 io_offsets_since(const struct io_offsets *o, enum io_op op, __u64 from)
{
	__u64 last = o->last[op].until;

	return last && last < from ? last : from;
}

void io_offsets_learn(struct io_offsets *o, const struct io_rq *rq, __u64 from, __u64 until,
		      const struct io_disk_span *const *list, int nr)
{
	bool ahead = asks_ahead(o, rq->op, from, list, nr);
	__u64 sector;
	__u32 host_dev;
	struct range at;

	if (!sectors_of(rq, &at))
		return;
	o->last[rq->op] = (struct alone){ rq->dev, at, from, until };
	for (unsigned int i = o->nr; i-- > 0;)
		if (is_for(&o->place[i], rq) && overlap(&o->place[i].at, &at) &&
		    lies_elsewhere(&o->place[i], &at, from, list, nr))
			forget(o, i);
	if (!ahead && find(rq, &at, from, list, nr, &host_dev, &sector))
		found(o, rq, &at, host_dev, sector - at.from);
}

/* --------------------------------------------------------------------------------------------- using */

/* Of one of the host's disks: what is next to a request on either side. */
struct next {
	__u32 host_dev;
	bool inside; /* it is in one place */
	struct place *below, *above;
};

struct tries {
	struct place *place[IO_OFFSETS_TRIED];
	unsigned int nr;
};

/* False: there are too many. */
static bool try(struct tries *t, struct place *p)
{
	for (unsigned int i = 0; i < t->nr; i++)
		if (t->place[i]->host_dev == p->host_dev && t->place[i]->offset == p->offset)
			return true;
	if (t->nr == IO_OFFSETS_TRIED)
		return false;
	t->place[t->nr++] = p;
	return true;
}

static bool look_at(struct place *p, const struct range *at, struct next *n, struct tries *t)
{
	if (p->at.until <= at->from) {
		if (!n->below || p->at.until > n->below->at.until)
			n->below = p;
		return true;
	}
	if (p->at.from >= at->until) {
		if (!n->above || p->at.from < n->above->at.from)
			n->above = p;
		return true;
	}
	n->inside |= within(at, &p->at);
	return try(t, p);
}

/* The offsets that may be @rq's. False: there are too many. */
static bool find_tries(struct io_offsets *o, const struct io_rq *rq, const struct range *at, struct tries *t)
{
	struct next next[IO_OFFSETS_DISKS];
	unsigned int disks = 0;

	t->nr = 0;
	for (unsigned int i = 0; i < o->nr; i++) {
		struct place *p = &o->place[i];
		unsigned int d = 0;

		if (!p->believed || !is_for(p, rq))
			continue;
		while (d < disks && next[d].host_dev != p->host_dev)
			d++;
		if (d == IO_OFFSETS_DISKS)
			return false;
		if (d == disks)
			next[disks++] = (struct next){ .host_dev = p->host_dev };
		if (!look_at(p, at, &next[d], t))
			return false;
	}
	for (unsigned int d = 0; d < disks; d++) {
		if (next[d].inside)
			continue;
		if ((next[d].below && !try(t, next[d].below)) || (next[d].above && !try(t, next[d].above)))
			return false;
	}
	return true;
}

/* Was it asked for because of a request in @at that left the guest at @from? @all: its sectors. */
static bool is_since(const struct io_disk_span *s, const struct range *all, const struct range *at, __u64 from)
{
	return s->asked >= from || (s->issued >= from && !within(all, at)); /* the latter: merged */
}

unsigned int io_offsets_own(struct io_offsets *o, const struct io_rq *rq, __u64 from,
			    const struct io_disk_span **list, unsigned int nr)
{
	struct range at, all, piece[IO_OFFSETS_PIECES];
	unsigned int pieces = 0, own = 0;
	struct tries tries;

	if (!sectors_of(rq, &at) || !find_tries(o, rq, &at, &tries))
		return 0;
	for (unsigned int i = 0; i < nr; i++) {
		bool is_own = false;

		for (unsigned int t = 0; t < tries.nr; t++) {
			struct range this;

			if (!piece_in(tries.place[t], &list[i]->rq, &at, &all, &this) ||
			    !is_since(list[i], &all, &at, from))
				continue;
			if (pieces == IO_OFFSETS_PIECES)
				return 0;
			piece[pieces++] = this;
			tries.place[t]->used = ++o->uses;
			is_own = true;
		}
		if (is_own)
			list[own++] = list[i];
	}
	return make_up(piece, pieces, &at) ? own : 0;
}
