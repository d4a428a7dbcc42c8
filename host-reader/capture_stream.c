/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A ring's file of packets. It ends with a packet that is whole, whatever happens to the disk. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/statvfs.h>
#include <sys/uio.h>
#include <unistd.h>

#include "capture_span.h"
#include "capture_stream.h"
#include "outdir.h"

struct capture_stream *capture_stream_new(int dir, const char *name, __u32 id, __u32 ring,
					  const __u8 *uuid, const struct capture_way *way, int *err)
{
	struct capture_stream *st = calloc(1, sizeof(*st));

	*err = -ENOMEM;
	if (!st)
		return NULL;
	st->fd = st->direct = -1;
	st->ahead = way->direct ? 0 : way->ahead; /* past the page cache it is not quicker */
	st->id = id;
	st->ring = ring;
	memcpy(st->uuid, uuid, sizeof(st->uuid));
	st->body = malloc(HOLD_BYTES);
	if (st->body)
		*err = st->fd = outdir_create(dir, name);
	if (*err >= 0 && way->direct)
		st->direct = openat(dir, name, O_WRONLY | O_DIRECT | O_NOFOLLOW | O_CLOEXEC);
	if (*err >= 0)
		return st;
	capture_stream_free(st);
	return NULL;
}

void capture_stream_free(struct capture_stream *st)
{
	if (!st)
		return;
	capture_stream_trim(st);
	if (st->fd >= 0)
		close(st->fd);
	if (st->direct >= 0)
		close(st->direct);
	free(st->body);
	free(st);
}

#define LEAST_AHEAD (1u << 20)

/* Would the disk still be far from full? */
static bool is_plenty(int fd, __u64 bytes)
{
	struct statvfs s;

	return !fstatvfs(fd, &s) && (__u64)s.f_bavail * s.f_frsize > 16 * bytes;
}

/*
 * A file that has its blocks already takes writes quicker. From some size on it gets as many as it has; those who
 * read it see nothing of them. Whatever goes wrong with that: it grows as usual.
 */
void capture_stream_reserve(struct capture_stream *st)
{
	__u64 step = st->size < st->ahead ? st->size : st->ahead, from = st->room > st->size ? st->room : st->size;

	if (!st->ahead || st->size < LEAST_AHEAD || st->size <= st->room)
		return;
	if (is_plenty(st->fd, step) && !fallocate(st->fd, FALLOC_FL_KEEP_SIZE, (off_t)from, (off_t)step))
		st->room = from + step;
	else
		st->ahead = 0;
}

void capture_stream_trim(struct capture_stream *st)
{
	capture_spans_settle(st);
	if (st->room > st->size && !ftruncate(st->fd, (off_t)st->size))
		st->room = 0;
	st->ahead = 0;
}

/* All of it at the file's end, or nothing. */
static int write_all(struct capture_stream *st, struct iovec *v, int nr)
{
	__u64 written = 0;

	capture_stream_reserve(st);
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

/* Of a packet with @len bytes at the file's end, so that behind the header of the next one @align begins. */
static __u64 packet_size(const struct capture_stream *st, __u64 len, __u64 align)
{
	const __u64 before = st->size + sizeof(struct capture_packet);

	if (st->direct >= 0)
		align = CAPTURE_PAGE;
	return (before + len + align - 1) / align * align - before;
}

/* What goes around the body of the stream's next packet, of @nr batches; it is the next one then. */
void capture_packet_begin(struct capture_stream *st, const struct capture_run *run, __u32 nr, __u32 align,
			  struct capture_packet *head, struct capture_tail *tail)
{
	__u64 content = sizeof(*head) + run->len;
	__u64 size = content + sizeof(*tail) + nr * sizeof(struct capture_batch);

	st->discarded += run_lost(run);
	*head = (struct capture_packet){
		.magic = CAPTURE_PACKET_MAGIC,
		.stream_id = st->id,
		.timestamp_begin = run->begin,
		.timestamp_end = run->end,
		.content_size = 8 * (content - run->unused),
		.packet_size = 8 * packet_size(st, size, align),
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
	static const char padding[CAPTURE_PAGE];
	struct capture_packet head;
	struct capture_tail tail;
	struct iovec v[5] = {
		{ &head, sizeof(head) },
		{ (void *)run->data, run->len },
		{ &tail, sizeof(tail) },
		{ (void *)how, nr * sizeof(*how) },
		{ (void *)padding, 0 },
	};
	int ret = capture_spans_settle(st); /* what was lent before comes before */

	if (!ret) {
		capture_packet_begin(st, run, nr, 8, &head, &tail);
		v[4].iov_len = head.packet_size / 8 - (sizeof(head) + run->len + sizeof(tail) + nr * sizeof(*how));
		ret = write_all(st, v, 5);
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
	__u64 len = sizeof(struct capture_packet) + st->held.len + sizeof(struct capture_tail) +
		    st->nr * sizeof(*st->how);

	len = st->size + (st->nr ? packet_size(st, len, 8) : 0);
	return len > st->room ? len : st->room;
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
	       (st->id & CAPTURE_ODD || run->position == h->behind);
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
	st->held.behind = run->behind;
	st->how[st->nr++] = run->how;
	return 0;
}
