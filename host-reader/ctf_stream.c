/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A stream of packets in a file. Loss is a packet of its own without events: the counter of
 * discarded events grows between the ring's last event before the loss and the loss's time.
 *
 * The file can be read at any time, also after we were killed in a write, which leaves any number of pages
 * of it: the file holds whole packets always. One that crosses a page takes four steps: its room is
 * written, as empty packets of up to a page; the first of these is made one of the whole room, still empty,
 * by its header, which lies within a page; the events go behind that; it is told of them. So no packet ends
 * where a header would not fit into its page, before or behind: a few bytes of padding are added there.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "ctf.h"
#include "outdir.h"

#define MAGIC 0xc1fc1fc1u
#define PACKET (64u << 10) /* bytes after which one goes out; the last event may exceed it */
#define PACKET_BEGIN (8u << 10)
#define PACKETS 16 /* empty ones that are written at once */
#define DISCARDED_MAX ((1ULL << 63) - 1) /* a guest may claim anything */

struct packet_header {
	__u32 magic;
	__u8 uuid[16];
	__u32 stream_id;
	/* the packet's context */
	__u64 timestamp_begin, timestamp_end;
	__u64 content_size, packet_size; /* in bits */
	__u64 packet_seq_num;
	__u64 events_discarded; /* so far */
	__u32 cpu_id;
	__u8 unverified; /* only in streams of that kind */
} __attribute__((packed));

#define PADDING sizeof(struct packet_header) /* at most so much, behind a packet */

struct ctf_stream {
	int fd;
	int error;
	unsigned int kind;
	__u32 ring;
	__u8 uuid[16];
	unsigned char *buf; /* the packet in the making: its header, and events */
	size_t len, room, head;
	bool any; /* events in it */
	__u64 begin, last; /* times: of the packet's first event, and of what came last */
	__u64 seq, discarded;
	off_t written; /* the packets that are whole end there: the file does */
};

int ctf_stream_new(struct ctf_stream **out, int dir, const char *name, unsigned int kind,
		   __u32 ring, const __u8 *uuid)
{
	struct ctf_stream *st = calloc(1, sizeof(*st));

	if (!st)
		return -ENOMEM;
	st->head = sizeof(struct packet_header) - !(kind & CTF_UNVERIFIED);
	st->len = st->head;
	st->room = PACKET_BEGIN;
	st->buf = malloc(st->room);
	st->fd = st->buf ? outdir_create(dir, name) : -ENOMEM;
	if (st->fd < 0) {
		int ret = st->fd;

		free(st->buf);
		free(st);
		return ret;
	}
	st->kind = kind;
	st->ring = ring;
	memcpy(st->uuid, uuid, sizeof(st->uuid));
	*out = st;
	return 0;
}

int ctf_stream_free(struct ctf_stream *st)
{
	int error;

	if (!st)
		return 0;
	if (close(st->fd) && !st->error)
		st->error = errno;
	error = st->error;
	free(st->buf);
	free(st);
	return error;
}

__u64 ctf_stream_time(const struct ctf_stream *st, __u64 time)
{
	if (time > CTF_TIME_MAX)
		time = CTF_TIME_MAX;
	return time > st->last ? time : st->last;
}

static int fail(struct ctf_stream *st, int ret)
{
	if (ret && !st->error)
		st->error = -ret;
	return ret;
}

int ctf_stream_add(struct ctf_stream *st, __u64 time, const void *event, size_t len)
{
	if (st->error)
		return -st->error;
	if (st->len + len + PADDING > st->room) {
		size_t room = 2 * (st->len + len + PADDING);
		unsigned char *buf = realloc(st->buf, room);

		if (!buf)
			return fail(st, -ENOMEM);
		st->buf = buf;
		st->room = room;
	}
	memcpy(st->buf + st->len, event, len);
	st->len += len;
	if (!st->any)
		st->begin = time;
	st->any = true;
	st->last = time;
	return 0;
}

bool ctf_stream_full(const struct ctf_stream *st)
{
	return st->len >= PACKET;
}

/* -------------------------------------------------------------------------------- into the file */

static size_t room_in_page(off_t at)
{
	return OUTDIR_PAGE - (size_t)at % OUTDIR_PAGE;
}

/* Where the packet in the making is to end. */
static off_t end_of(const struct ctf_stream *st)
{
	off_t end = st->written + (off_t)st->len;
	size_t in_page = (size_t)end % OUTDIR_PAGE;

	if (in_page && in_page < st->head)
		end += (off_t)(st->head - in_page);
	else if (room_in_page(end) < st->head)
		end += (off_t)room_in_page(end);
	return end;
}

/* From @at to @end, where there is nothing yet: packets like @h, but of a page each. */
static int write_empty(const struct ctf_stream *st, const struct packet_header *like, off_t at, off_t end)
{
	static const unsigned char nothing[OUTDIR_PAGE];
	struct packet_header h[PACKETS];
	struct iovec v[2 * PACKETS];
	int ret = 0;

	for (unsigned int nr = 0; at < end && !ret; nr += PACKETS) {
		off_t from = at;
		int n = 0;

		for (; at < end && n < PACKETS; n++) {
			size_t size = room_in_page(at);

			if ((off_t)size > end - at)
				size = (size_t)(end - at);
			h[n] = *like;
			h[n].packet_size = 8 * size;
			h[n].packet_seq_num += nr + (unsigned int)n;
			v[2 * n] = (struct iovec){ &h[n], st->head };
			v[2 * n + 1] = (struct iovec){ (void *)nothing, size - st->head };
			at += (off_t)size;
		}
		ret = outdir_writev_at(st->fd, v, 2 * n, from);
	}
	return ret;
}

/* What crosses a page, see above. */
static int write_steps(const struct ctf_stream *st, const struct packet_header *h, off_t end)
{
	struct packet_header empty = *h;
	int ret;

	empty.timestamp_end = h->timestamp_begin;
	empty.content_size = 8 * st->head;
	ret = write_empty(st, &empty, st->written, end);
	if (!ret)
		ret = outdir_write_at(st->fd, &empty, st->head, st->written);
	if (!ret)
		ret = outdir_write_at(st->fd, st->buf + st->head, st->len - st->head, st->written + (off_t)st->head);
	return ret ? ret : outdir_write_at(st->fd, h, st->head, st->written);
}

/* What is in the buffer goes out. After an error the file has no part of it. */
static int write_packet(struct ctf_stream *st, __u64 begin, __u64 end)
{
	off_t to = end_of(st);
	size_t size = (size_t)(to - st->written);
	struct packet_header h = {
		.magic = MAGIC,
		.stream_id = st->kind,
		.timestamp_begin = begin,
		.timestamp_end = end,
		.content_size = 8 * st->len,
		.packet_size = 8 * size,
		.packet_seq_num = st->seq++,
		.events_discarded = st->discarded,
		.cpu_id = st->ring,
		.unverified = 1,
	};
	int ret;

	memcpy(h.uuid, st->uuid, sizeof(h.uuid));
	if (size > room_in_page(st->written)) {
		ret = write_steps(st, &h, to);
	} else {
		memcpy(st->buf, &h, st->head);
		memset(st->buf + st->len, 0, size - st->len);
		ret = outdir_write_at(st->fd, st->buf, size, st->written);
	}
	if (!ret)
		st->written = to;
	else if (ftruncate(st->fd, st->written))
		ret = -EIO; /* it may end with empty packets */
	st->len = st->head;
	st->any = false;
	return fail(st, ret);
}

int ctf_stream_flush(struct ctf_stream *st)
{
	if (st->error)
		return -st->error;
	return st->any ? write_packet(st, st->begin, st->last) : 0;
}

int ctf_stream_lose(struct ctf_stream *st, __u64 since, __u64 time, __u64 nr)
{
	int ret = ctf_stream_flush(st);

	time = ctf_stream_time(st, time);
	/* Readers tell how many from two packets: there has to be one before. */
	if (!ret && !st->seq) {
		st->last = since < time ? since : time;
		ret = write_packet(st, st->last, st->last);
	}
	if (ret)
		return ret;
	st->discarded = nr < DISCARDED_MAX - st->discarded ? st->discarded + nr : DISCARDED_MAX;
	ret = write_packet(st, st->last, time);
	st->last = time;
	return ret;
}
