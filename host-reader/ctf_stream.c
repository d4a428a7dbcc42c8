/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A stream of packets in a file. A packet goes out in one piece and with its final header, so that
 * the file can be read at any time. Loss is a packet of its own without events: the counter of
 * discarded events grows between the ring's last event before the loss and the loss's time.
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
	off_t written;
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
	if (st->len + len > st->room) {
		size_t room = 2 * (st->len + len);
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

/* What is in the buffer goes out. After an error the file has no part of it. */
static int write_packet(struct ctf_stream *st, __u64 begin, __u64 end)
{
	struct packet_header h = {
		.magic = MAGIC,
		.stream_id = st->kind,
		.timestamp_begin = begin,
		.timestamp_end = end,
		.content_size = 8 * st->len,
		.packet_size = 8 * st->len,
		.packet_seq_num = st->seq++,
		.events_discarded = st->discarded,
		.cpu_id = st->ring,
		.unverified = 1,
	};
	int ret;

	memcpy(h.uuid, st->uuid, sizeof(h.uuid));
	memcpy(st->buf, &h, st->head);
	ret = outdir_write(st->fd, st->buf, st->len);
	if (!ret)
		st->written += (off_t)st->len;
	else if (ftruncate(st->fd, st->written))
		ret = -EIO; /* what is there cannot be read; nothing better can be done */
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
