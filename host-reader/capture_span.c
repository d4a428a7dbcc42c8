/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "capture_span.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "capture_stream.h"
#include "uring.h"

#define SPAN_PACKETS 64u       /* in one write */
#define SPAN_BYTES (4u << 20)  /* and no more of them from this on: small writes cost more */
#define SPANS 12u              /* under way; HTRACE_BORROW_MAX batches of a ring can be lent */

/* What lies behind a packet's body. */
struct behind {
	struct capture_tail tail;
	struct capture_batch how;
};

struct packet {
	__u64 at, end; /* in the file */
	__u64 lapped;  /* of the stream, as its header has it */
	bool ahead;    /* the header is in the span's write */
	struct capture_packet head;
	struct behind behind;
	struct capture_loan loan;
	struct capture_lent lent;
	struct capture_tally *kinds; /* its, if there are any */
};

struct capture_span {
	struct uring_write write; /* first: what the kernel is done with is found by it */
	struct capture_lender *lender;
	struct capture_stream *stream;
	struct capture_span *next;    /* of the stream */
	struct capture_span *growing; /* the next of those that are not begun */
	bool begun, done;
	__u64 len;
	unsigned int nr, nr_v;
	struct iovec v[3 * SPAN_PACKETS];
	struct packet packet[SPAN_PACKETS];
};

struct capture_lender {
	struct uring *q;
	struct capture_span *growing;
	int error; /* -errno: the first one */
};

int capture_lender_new(struct capture_lender **out)
{
	struct capture_lender *l = calloc(1, sizeof(*l));
	int ret = l ? uring_new(&l->q, SPANS) : -ENOMEM;

	if (ret) {
		free(l);
		return ret;
	}
	*out = l;
	return 0;
}

void capture_lender_free(struct capture_lender *l)
{
	if (!l)
		return;
	uring_free(l->q);
	free(l);
}

bool capture_lender_is_async(const struct capture_lender *l)
{
	return uring_is_async(l->q);
}

/* --------------------------------------------------------------------------- the end of a packet */

static int write_at(int fd, __u64 at, const void *p, size_t len)
{
	while (len) {
		ssize_t n = pwrite(fd, p, len, (off_t)at);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			p = (const char *)p + n;
			at += (__u64)n;
			len -= (size_t)n;
		}
	}
	return 0;
}

/* Its records are gone. What is in their place in the file is no packet's content. */
static void empty(struct packet *p)
{
	p->behind.tail.overwritten += p->lent.batch.events;
	p->behind.how.len = 0;
	p->head.content_size = 8 * sizeof(p->head);
}

/* Behind its write: give it back, and say in the file what became of it. */
static int end_packet(struct capture_stream *st, struct packet *p, bool there)
{
	bool intact = p->loan.give_back(&p->loan, &p->lent) && there;
	int ret = 0;

	if (!intact) {
		st->lapped += p->lent.batch.events;
		empty(p);
		ret = write_at(st->fd, p->at + sizeof(p->head), &p->behind, sizeof(p->behind));
	}
	if (!ret && !there) /* nothing may have been written: the file goes on behind it */
		ret = write_at(st->fd, p->end - 1, "", 1);
	if (ret || (p->ahead && intact && p->lapped == st->lapped))
		return ret;
	p->head.events_discarded += st->lapped - p->lapped;
	return write_at(st->fd, p->at, &p->head, sizeof(p->head));
}

/* ----------------------------------------------------------------------------- the end of a span */

static void end_span(struct capture_span *s)
{
	struct capture_stream *st = s->stream;
	/* Memory that is not there any more is no failure of the disk's. */
	bool fault = s->write.error == -EFAULT;

	for (unsigned int i = 0; i < s->nr; i++) {
		struct packet *p = &s->packet[i];
		bool there = p->end <= s->write.at + s->write.written;

		if (!st->error && !there && !fault)
			st->error = s->write.error;
		if (!st->error) {
			st->error = end_packet(st, p, there);
			if (!st->error)
				st->good = p->end;
		} else {
			p->loan.forfeit(&p->loan, &p->lent);
		}
	}
	if (st->error && !s->lender->error)
		s->lender->error = st->error;
	st->first = s->next;
	if (!st->first)
		st->last = NULL;
	for (unsigned int i = 0; i < s->nr; i++)
		free(s->packet[i].kinds);
	free(s);
}

/* All that was written up to the first one that was not. */
static void end_spans(struct capture_stream *st)
{
	while (st->first && st->first->done)
		end_span(st->first);
	if (!st->first && st->error && st->size != st->good && !ftruncate(st->fd, (off_t)st->good))
		st->size = st->good;
}

static void written(struct uring_write *w)
{
	struct capture_span *s = (struct capture_span *)w;

	s->done = true;
	end_spans(s->stream);
}

/* -------------------------------------------------------------------------------------- beginning */

static void begin(struct capture_span *s)
{
	struct capture_span **at = &s->lender->growing;

	while (*at != s)
		at = &(*at)->growing;
	*at = s->growing;
	s->begun = true;
	s->write.fd = s->stream->fd;
	s->write.v = s->v;
	s->write.nr = s->nr_v;
	s->write.done = written;
	uring_write(s->lender->q, &s->write);
}

static struct capture_span *new_span(struct capture_lender *l, struct capture_stream *st)
{
	struct capture_span *s = malloc(sizeof(*s));

	if (!s)
		return NULL;
	s->write.at = st->size;
	s->lender = l;
	s->stream = st;
	s->next = NULL;
	s->begun = s->done = false;
	s->len = s->nr = s->nr_v = 0;
	s->growing = l->growing;
	l->growing = s;
	if (st->last)
		st->last->next = s;
	else
		st->first = s;
	st->last = s;
	return s;
}

static void add_part(struct capture_span *s, const void *p, size_t len)
{
	s->v[s->nr_v++] = (struct iovec){ (void *)p, len };
	s->len += len;
}

int capture_span_add(struct capture_lender *l, struct capture_stream *st,
		     const struct capture_run *run, const struct capture_lent *lent,
		     const struct capture_loan *loan, bool ahead)
{
	static const struct capture_packet later;
	struct capture_span *s = st->last;
	struct capture_tally *kinds = NULL;
	struct packet *p;

	if (st->error)
		return st->error;
	if (lent->nr) {
		kinds = malloc(lent->nr * sizeof(*kinds));
		if (!kinds)
			return -ENOMEM;
		memcpy(kinds, lent->tally, lent->nr * sizeof(*kinds));
	}
	if (!st->first)
		st->good = st->size;
	if (!s || s->begun)
		s = new_span(l, st);
	if (!s) {
		free(kinds);
		return -ENOMEM;
	}
	p = &s->packet[s->nr++];
	p->lent = *lent;
	p->lent.tally = p->kinds = kinds;
	p->loan = *loan;
	p->ahead = ahead;
	p->lapped = st->lapped;
	p->behind.how = run->how;
	capture_packet_begin(st, run, 1, &p->head, &p->behind.tail);
	add_part(s, ahead ? &p->head : &later, sizeof(p->head));
	add_part(s, run->data, run->len);
	add_part(s, &p->behind, sizeof(p->behind));
	p->at = st->size;
	p->end = st->size += p->head.packet_size / 8;
	if (s->nr == SPAN_PACKETS || s->len >= SPAN_BYTES)
		begin(s);
	return 0;
}

int capture_lender_take_back(struct capture_lender *l, bool all)
{
	while (l->growing)
		begin(l->growing);
	do
		uring_reap(l->q, all);
	while (all && uring_under_way(l->q));
	return l->error;
}

int capture_spans_settle(struct capture_stream *st)
{
	if (st->last && !st->last->begun)
		begin(st->last);
	while (st->first)
		uring_reap(st->first->lender->q, true);
	return st->error;
}
