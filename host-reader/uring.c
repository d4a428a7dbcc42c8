/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "uring.h"

#include <errno.h>
#include <stdlib.h>

#ifdef HAVE_LIBURING
#include <liburing.h>
#endif

struct uring {
	unsigned int depth, under_way;
	bool async;
	bool refused; /* the kernel takes no more; what it took goes on */
#ifdef HAVE_LIBURING
	struct io_uring ring;
#endif
};

/* What was written is cut off the vector. False: that was all of it. */
static bool take_written(struct uring_write *w, size_t n)
{
	w->written += n;
	for (; w->nr && n >= w->v->iov_len; w->v++, w->nr--)
		n -= w->v->iov_len;
	if (!w->nr)
		return false;
	w->v->iov_base = (char *)w->v->iov_base + n;
	w->v->iov_len -= n;
	return true;
}

/*
 * What one attempt came to. True: there has to be another one. A file takes less than it should only
 * if there is no more room; the next attempt then says why.
 */
static bool take_result(struct uring_write *w, long res)
{
	if (res == -EINTR || res == -EAGAIN)
		return true;
	if (res > 0)
		return take_written(w, (size_t)res);
	w->error = res ? (int)res : -ENOSPC;
	return false;
}

static void write_now(struct uring_write *w)
{
	long n;

	do {
		n = pwritev(w->fd, w->v, (int)w->nr, (off_t)(w->at + w->written));
		if (n < 0)
			n = -errno;
	} while (take_result(w, n));
	w->done(w);
}

#ifdef HAVE_LIBURING

/* What the ring may be used for, whoever gets hold of us: seccomp does not see it. */
static int restrict_to_writes(struct io_uring *ring)
{
	struct io_uring_restriction r = {
		.opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_WRITEV,
	};
	/* The library of Debian 12 lacks the functions of these names. */
	int ret = io_uring_register((unsigned int)ring->ring_fd, IORING_REGISTER_RESTRICTIONS, &r, 1);

	return ret < 0 ? ret :
	       io_uring_register((unsigned int)ring->ring_fd, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

#ifndef IORING_SETUP_TASKRUN_FLAG /* Linux 5.19 */
#define IORING_SETUP_COOP_TASKRUN (1U << 8)
#define IORING_SETUP_TASKRUN_FLAG (1U << 9)
#endif

static void open_ring(struct uring *q)
{
	/* What is done does not interrupt us, we look for it; an older kernel does not know of that. */
	const unsigned int quiet = IORING_SETUP_COOP_TASKRUN | IORING_SETUP_TASKRUN_FLAG;

	if (io_uring_queue_init(q->depth, &q->ring, IORING_SETUP_R_DISABLED | quiet) &&
	    io_uring_queue_init(q->depth, &q->ring, IORING_SETUP_R_DISABLED))
		return;
	q->async = restrict_to_writes(&q->ring) >= 0;
	if (!q->async)
		io_uring_queue_exit(&q->ring);
}

static void close_ring(struct uring *q)
{
	if (q->async)
		io_uring_queue_exit(&q->ring);
	q->async = false;
}

/* False: the kernel does not take it. */
static bool submit(struct uring *q, struct uring_write *w)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);
	int ret;

	if (!sqe)
		return false;
	io_uring_prep_writev(sqe, w->fd, w->v, w->nr, w->at + w->written);
	io_uring_sqe_set_data(sqe, w);
	do
		ret = io_uring_submit(&q->ring);
	while (ret == -EINTR || ret == -EAGAIN || ret == -EBUSY);
	q->refused = ret != 1; /* and this is never submitted again, as nothing is */
	return !q->refused;
}

static void begin(struct uring *q, struct uring_write *w)
{
	if (q->async && !q->refused && submit(q, w)) {
		q->under_way++;
		return;
	}
	write_now(w);
}

void uring_reap(struct uring *q, bool wait)
{
	struct io_uring_cqe *cqe;
	struct uring_write *w;
	int ret, res;

	while (q->under_way) {
		ret = wait ? io_uring_wait_cqe(&q->ring, &cqe) : io_uring_peek_cqe(&q->ring, &cqe);
		if (ret == -EINTR)
			continue;
		if (ret)
			return;
		w = io_uring_cqe_get_data(cqe);
		res = cqe->res;
		io_uring_cqe_seen(&q->ring, cqe);
		q->under_way--;
		if (take_result(w, res)) {
			begin(q, w);
			continue;
		}
		w->done(w);
		wait = false;
	}
}

#else

static void open_ring(struct uring *q)
{
}

static void close_ring(struct uring *q)
{
}

static void begin(struct uring *q, struct uring_write *w)
{
	write_now(w);
}

void uring_reap(struct uring *q, bool wait)
{
}

#endif

int uring_new(struct uring **out, unsigned int depth)
{
	struct uring *q = calloc(1, sizeof(*q));

	if (!q)
		return -ENOMEM;
	q->depth = depth;
	open_ring(q);
	*out = q;
	return 0;
}

void uring_free(struct uring *q)
{
	if (!q)
		return;
	while (q->under_way)
		uring_reap(q, true);
	close_ring(q);
	free(q);
}

bool uring_is_async(const struct uring *q)
{
	return q->async && !q->refused;
}

void uring_write(struct uring *q, struct uring_write *w)
{
	w->written = 0;
	w->error = 0;
	while (q->under_way >= q->depth)
		uring_reap(q, true);
	begin(q, w);
}

unsigned int uring_under_way(const struct uring *q)
{
	return q->under_way;
}
