/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A ring's file of packets. It ends with a packet that is whole, whatever happens to the disk. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>
#include <unistd.h>

#include "capture_span.h"
#include "capture_stream.h"
#include "outdir.h"

struct capture_stream *capture_stream_new(int dir, const char *name, __u32 id, __u32 ring,
					  const __u8 *uuid, int *err)
{
	struct capture_stream *st = calloc(1, sizeof(*st));

	*err = -ENOMEM;
	if (!st)
		return NULL;
	st->fd = -1;
	st->id = id;
	st->ring = ring;
	memcpy(st->uuid, uuid, sizeof(st->uuid));
	st->body = malloc(HOLD_BYTES);
	if (st->body)
		*err = st->fd = outdir_create(dir, name);
	if (*err >= 0)
		return st;
	capture_stream_free(st);
	return NULL;
}

void capture_stream_free(struct capture_stream *st)
{
	if (!st)
		return;
	capture_spans_settle(st);
	if (st->fd >= 0)
		close(st->fd);
	free(st->body);
	free(st);
}

/* All of it at the file's end, or nothing. */
static int write_all(struct capture_stream *st, struct iovec *v, int nr)
{
	__u64 written = 0;

	while (nr) {
		ssize_t n = pwritev(st->fd, v, nr, (off_t)(st->size + written));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			int ret = -errno;

			if (ftruncate(st->fd, (off_t)st->size))
				return -errno;
			return ret;
		}
		written += (__u64)n;
		for (; nr && (size_t)n >= v->iov_len; v++, nr--)
			n -= (ssize_t)v->iov_len;
		if (nr) {
			v->iov_base = (char *)v->iov_base + n;
			v->iov_len -= (size_t)n;
		}
	}
	st->size += written;
	return 0;
}

static __u64 run_lost(const struct capture_run *run)
{
	return run->overwritten + run->dropped + run->corrupt + run->unfinished;
}

/* What goes around the body of the stream's next packet, of @nr batches; it is the next one then. */
void capture_packet_begin(struct capture_stream *st, const struct capture_run *run, __u32 nr,
			  struct capture_packet *head, struct capture_tail *tail)
{
	__u64 content = sizeof(*head) + run->len;

	st->discarded += run_lost(run);
	*head = (struct capture_packet){
		.magic = CAPTURE_PACKET_MAGIC,
		.stream_id = st->id,
		.timestamp_begin = run->begin,
		.timestamp_end = run->end,
		.content_size = 8 * (content - run->unused),
		.packet_size = 8 * (content + sizeof(*tail) + nr * sizeof(struct capture_batch)),
		.packet_seq_num = st->seq++,
		.events_discarded = st->discarded + st->lapped,
		.cpu_id = st->ring,
		.unverified = st->id & CAPTURE_UNVERIFIED ? 1 : 0,
	};
	memcpy(head->uuid, st->uuid, sizeof(head->uuid));
	*tail = (struct capture_tail){
		.position = run->position,
		.base = run->base,
		.overwritten = run->overwritten,
		.dropped = run->dropped,
		.corrupt = run->corrupt,
		.unfinished = run->unfinished,
		.uncommitted = run->uncommitted,
		.before = run->before,
		.schema = run->schema,
		.nr_batches = nr,
	};
}

static int write_packet(struct capture_stream *st, const struct capture_run *run,
			const struct capture_batch *how, __u32 nr)
{
	struct capture_packet head;
	struct capture_tail tail;
	struct iovec v[4] = {
		{ &head, sizeof(head) },
		{ (void *)run->data, run->len },
		{ &tail, sizeof(tail) },
		{ (void *)how, nr * sizeof(*how) },
	};
	int ret = capture_spans_settle(st); /* what was lent before comes before */

	if (!ret) {
		capture_packet_begin(st, run, nr, &head, &tail);
		ret = write_all(st, v, 4);
	}
	if (ret && !st->failed) {
		st->failed = true;
		st->failed_at = run->position;
	}
	return ret;
}

int capture_stream_flush(struct capture_stream *st)
{
	__u32 nr = st->nr;

	if (!nr)
		return st->error;
	st->nr = 0;
	st->held.data = st->body;
	return write_packet(st, &st->held, st->how, nr);
}

__u64 capture_stream_size(const struct capture_stream *st)
{
	return st->size + (st->nr ? sizeof(struct capture_packet) + st->held.len + sizeof(struct capture_tail) +
				    st->nr * sizeof(*st->how) : 0);
}

__u64 capture_stream_unwritten(const struct capture_stream *st)
{
	return st->failed ? st->failed_at : st->nr ? st->held.position : ~0ULL;
}

/* Can it be told from one header and base what both are? */
static bool continues(const struct capture_stream *st, const struct capture_run *run)
{
	const struct capture_run *h = &st->held;

	return st->nr < HOLD_BATCHES && h->len + run->len <= HOLD_BYTES &&
	       !run->overwritten && !run->dropped && !run->corrupt && !run->unfinished &&
	       !run->uncommitted && !run->before &&
	       run->base == h->base && run->schema == h->schema &&
	       run->begin - h->end < 1ULL << 32 &&
	       (st->id & CAPTURE_ODD || run->position == h->position + h->len);
}

int capture_stream_add(struct capture_stream *st, const struct capture_run *run)
{
	int ret = 0;

	if (st->nr && !continues(st, run))
		ret = capture_stream_flush(st);
	if (ret)
		return ret;
	if (!st->nr && run->len >= HOLD_BYTES / 2)
		return write_packet(st, run, &run->how, 1);
	if (!st->nr) {
		st->held = *run;
		st->held.len = 0;
	}
	if (run->len)
		memcpy(st->body + st->held.len, run->data, run->len);
	st->held.len += run->len;
	st->held.unused = run->unused;
	st->held.end = run->end;
	st->how[st->nr++] = run->how;
	return 0;
}
