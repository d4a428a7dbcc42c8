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
#define LENT_MAX (HTRACE_BORROW_MAX - SPAN_PACKETS) /* of a stream: then one has to come back */
#define EDGE (2 * CAPTURE_PAGE) /* less than a page of the body, what is behind it, and a header */
#define SPANS 12u              /* under way */

/* What lies behind a packet's body. */
struct behind {
	struct capture_tail tail;
	struct capture_batch how;
	unsigned char padding[CAPTURE_LINE]; /* what is needed of it */
};

#define BEHIND offsetof(struct behind, padding)

struct packet {
	__u64 at, end; /* in the file */
	__u64 until;   /* the span's write is to reach there, for this one */
	__u64 lapped;  /* of the stream, as its header has it */
	bool fixed;    /* the ring's memory stays as it is */
	bool ahead;    /* the header is in the span's write, or written */
	struct capture_packet head;
	struct capture_packet early; /* in its place until it is written, if it is not ahead */
	struct behind behind;
	/* Past the page cache: what is written of our own memory, with room for the header of the next one. */
	unsigned char *edge;
	__u32 edge_len;
	unsigned char *before; /* the page in which its own header lies; NULL: that is not in this span */
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
	unsigned char *edges;         /* of its packets */
	bool begun, done; /* it does not grow any more; it is written */
	bool under_way;
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

/*
 * In pages that went past the page cache, the whole page: else it would have to be read first. The first one of a span
 * lies in a page that was written the usual way.
 */
static int write_head(struct capture_stream *st, struct packet *p)
{
	if (!p->before)
		return write_at(st->fd, p->at, &p->head, sizeof(p->head));
	memcpy(p->before + CAPTURE_PAGE - sizeof(p->head), &p->head, sizeof(p->head));
	return write_at(st->fd, p->at + sizeof(p->head) - CAPTURE_PAGE, p->before, CAPTURE_PAGE);
}

/* Right behind its header: what else is there is no content. */
static int write_behind(struct capture_stream *st, struct packet *p)
{
	__u64 at = p->at + sizeof(p->head);
	unsigned char page[CAPTURE_PAGE] = { 0 };

	if (!p->edge)
		return write_at(st->fd, at, &p->behind, BEHIND);
	memcpy(page, &p->behind, BEHIND);
	return write_at(st->fd, at, page, sizeof(page));
}

/* What is written apart from the span, before the ring's memory is given back: there may be no room for it. */
static int write_rest(struct capture_stream *st, struct packet *p)
{
	int ret = p->until == p->end ? 0 : write_at(st->fd, p->until, p->edge, p->end - p->until);

	if (!ret && p->fixed && !p->ahead) {
		ret = write_head(st, p);
		p->ahead = true;
	}
	return ret;
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
	int ret = there ? write_rest(st, p) : 0;
	bool intact;

	if (ret) {
		p->loan.forfeit(&p->loan, &p->lent);
		return ret;
	}
	st->open -= p->fixed ? 0 : p->lent.batch.events;
	intact = p->loan.give_back(&p->loan, &p->lent) && there;
	if (!intact) {
		st->lapped += p->lent.batch.events;
		empty(p);
		ret = write_behind(st, p);
	}
	if (!ret && !there) /* nothing may have been written: the file goes on behind it */
		ret = write_at(st->fd, p->end - 1, "", 1);
	if (ret || (p->ahead && intact && p->lapped == st->lapped))
		return ret;
	p->head.events_discarded += st->lapped - p->lapped;
	return write_head(st, p);
}

/* ----------------------------------------------------------------------------- the end of a span */

static void end_span(struct capture_span *s)
{
	struct capture_stream *st = s->stream;
	/* Memory that is not there any more is no failure of the disk's. */
	bool fault = s->write.error == -EFAULT;

	for (unsigned int i = 0; i < s->nr; i++) {
		struct packet *p = &s->packet[i];
		bool there = p->until <= s->write.at + s->write.written;

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
	st->lent -= s->nr;
	if (st->error && !s->lender->error)
		s->lender->error = st->error;
	st->first = s->next;
	if (!st->first)
		st->last = NULL;
	for (unsigned int i = 0; i < s->nr; i++)
		free(s->packet[i].kinds);
	free(s->edges);
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

/*
 * Past the page cache not everything goes that can be written: memory that is mapped and has no pages, a device of
 * larger sectors. Then what is left of it goes the usual way, and so does what comes.
 */
static bool try_again(struct capture_span *s)
{
	struct capture_stream *st = s->stream;

	if (s->write.fd != st->direct || (s->write.error != -EINVAL && s->write.error != -EFAULT &&
					  s->write.error != -EOPNOTSUPP))
		return false;
	st->refused = true;
	s->write.fd = st->fd;
	s->write.at += s->write.written;
	uring_write(s->lender->q, &s->write);
	return true;
}

static void submit(struct capture_span *s);

/*
 * Past the page cache, one write of a file at a time: each makes the file larger, for which the kernel locks it, and
 * those of its threads that wait for that do so busily. It takes twice the CPU, and is no quicker.
 */
static void submit_next(struct capture_stream *st)
{
	if (st->first && st->first->begun && !st->first->under_way)
		submit(st->first);
}

static void written(struct uring_write *w)
{
	struct capture_span *s = (struct capture_span *)w;
	struct capture_stream *st = s->stream;

	if (w->error && try_again(s))
		return;
	s->done = true;
	end_spans(st);
	submit_next(st);
}

static void submit(struct capture_span *s)
{
	const struct capture_stream *st = s->stream;

	s->under_way = true;
	s->write.fd = s->edges && !st->refused ? st->direct : st->fd;
	uring_write(s->lender->q, &s->write);
}

/* -------------------------------------------------------------------------------------- beginning */

/* What is behind the last body waits until it is there, as the next header may come much later. */
static void leave_edge(struct capture_span *s)
{
	struct packet *last = &s->packet[s->nr - 1];

	last->until = last->end + sizeof(last->head) - last->edge_len;
	s->len -= last->edge_len;
	s->nr_v--;
}

static void begin(struct capture_span *s)
{
	struct capture_span **at = &s->lender->growing;

	while (*at != s)
		at = &(*at)->growing;
	*at = s->growing;
	s->begun = true;
	if (s->edges)
		leave_edge(s);
	capture_stream_reserve(s->stream);
	s->write.v = s->v;
	s->write.nr = s->nr_v;
	s->write.done = written;
	if (!s->edges || s->stream->first == s)
		submit(s);
}

static struct capture_span *new_span(struct capture_lender *l, struct capture_stream *st)
{
	struct capture_span *s = malloc(sizeof(*s));

	if (!s)
		return NULL;
	s->edges = st->direct < 0 ? NULL : aligned_alloc(CAPTURE_PAGE, SPAN_PACKETS * EDGE);
	if (st->direct >= 0 && !s->edges) {
		free(s);
		return NULL;
	}
	s->write.at = st->size + (s->edges ? sizeof(struct capture_packet) : 0);
	s->lender = l;
	s->stream = st;
	s->next = NULL;
	s->begun = s->done = s->under_way = false;
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

/*
 * Until it is known that its records were there: a reader of CTF finds no events there, and as many discarded as may be
 * at most, so that the number never falls; file: stops there.
 */
static void be_open(struct capture_stream *st, struct packet *p)
{
	st->open += p->lent.batch.events;
	p->early = p->head;
	p->early.content_size = 8 * sizeof(p->head);
	if (p->early.events_discarded + st->open > st->promised)
		st->promised = p->early.events_discarded + st->open;
	p->early.events_discarded = st->promised; /* what an open one before it says may be too much already */
	p->early.unverified |= CAPTURE_PACKET_OPEN;
}

static const struct capture_packet *first_head(const struct packet *p)
{
	return p->ahead ? &p->head : &p->early;
}

/* Pages that it fills from where they are; what is behind them, and what lies around it. */
static void add_pages(struct capture_span *s, struct packet *p, const struct capture_run *run)
{
	size_t rest = run->len % CAPTURE_PAGE, whole = run->len - rest;

	p->edge = s->edges + (s->nr - 1) * EDGE;
	p->edge_len = (__u32)(p->head.packet_size / 8 - whole);
	memset(p->edge, 0, p->edge_len);
	memcpy(p->edge, run->data + whole, rest);
	memcpy(p->edge + rest, &p->behind, BEHIND);
	if (s->nr > 1) {
		p->before = p[-1].edge + p[-1].edge_len - CAPTURE_PAGE;
		memcpy(p->before + CAPTURE_PAGE - sizeof(p->head), first_head(p), sizeof(p->head));
	}
	p->ahead &= s->nr > 1;
	add_part(s, run->data, whole);
	add_part(s, p->edge, p->edge_len);
}

static void add_parts(struct capture_span *s, const struct packet *p, const struct capture_run *run)
{
	add_part(s, first_head(p), sizeof(p->head));
	add_part(s, run->data, run->len);
	add_part(s, &p->behind, p->head.packet_size / 8 - sizeof(p->head) - run->len);
}

int capture_span_add(struct capture_lender *l, struct capture_stream *st,
		     const struct capture_run *run, const struct capture_lent *lent,
		     const struct capture_loan *loan, bool ahead)
{
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
	if (!st->first) {
		st->good = st->size;
		st->promised = 0;
	}
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
	p->fixed = p->ahead = ahead;
	p->lapped = st->lapped;
	p->behind.how = run->how;
	memset(p->behind.padding, 0, sizeof(p->behind.padding));
	capture_packet_begin(st, run, 1, CAPTURE_LINE, &p->head, &p->behind.tail);
	if (!ahead)
		be_open(st, p);
	p->at = st->size;
	p->until = p->end = st->size += p->head.packet_size / 8;
	p->edge = p->before = NULL;
	if (s->edges)
		add_pages(s, p, run);
	else
		add_parts(s, p, run);
	if (s->nr == SPAN_PACKETS || s->len >= SPAN_BYTES)
		begin(s);
	st->lent++;
	while (st->lent >= LENT_MAX && st->first->begun)
		uring_reap(l->q, true);
	return 0;
}

/* Those that are to be begun: all, or the only ones of their files. The others grow until what is under way is over. */
static void begin_some(struct capture_lender *l, bool all)
{
	struct capture_span *s = l->growing, *next;

	for (; s; s = next) {
		next = s->growing;
		if (all || s->stream->first == s)
			begin(s);
	}
}

int capture_lender_take_back(struct capture_lender *l, enum take_back how)
{
	uring_reap(l->q, false);
	begin_some(l, how != TAKE_BACK_DONE);
	while (how == TAKE_BACK_ALL && uring_under_way(l->q))
		uring_reap(l->q, true);
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
