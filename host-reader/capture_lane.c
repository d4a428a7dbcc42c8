/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The streams of a capture: packets, and the batches in them. */
#include "capture_lane.h"

#include <errno.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void capture_damage(struct capture_reader *r, const char *fmt, ...)
{
	va_list args;

	if (r->damaged)
		return;
	r->damaged = true;
	va_start(args, fmt);
	vsnprintf(r->damage, sizeof(r->damage), fmt, args);
	va_end(args);
}

bool capture_grow(unsigned char **p, size_t *room, size_t len)
{
	unsigned char *more;

	if (len <= *room)
		return true;
	more = realloc(*p, len);
	if (!more)
		return false;
	*p = more;
	*room = len;
	return true;
}

bool capture_read_at(struct capture_reader *r, struct lane *l, void *p, size_t len, __u64 at)
{
	char *to = p;

	if (at > l->size || len > l->size - at)
		return false;
	if (l->packed.id) {
		if (unpack_read(r->unpacker, &l->packed, l->fd, p, len, at))
			return true;
		capture_damage(r, "what is packed in it is damaged");
		return false;
	}
	while (len) {
		ssize_t n = pread(l->fd, to, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		to += n;
		at += (__u64)n;
		len -= (size_t)n;
	}
	return true;
}

bool capture_rises(struct capture_reader *r, struct lane *l, __u64 ordinal)
{
	if (l->any && ordinal <= l->ordinal) {
		capture_damage(r, "its order is not one");
		return false;
	}
	l->any = true;
	l->ordinal = ordinal;
	return true;
}

/* The packet at l->at. False: there is none, or it is not whole, or it is wrong. */
static bool begin_packet(struct capture_reader *r, struct lane *l)
{
	struct capture_packet p;
	__u64 content, size;

	if (l->at == l->size)
		return false;
	if (!capture_read_at(r, l, &p, sizeof(p), l->at)) {
		capture_damage(r, "it is cut off");
		return false;
	}
	if (!p.magic) { /* its place was taken, and it was not finished */
		capture_damage(r, "it is cut off");
		return false;
	}
	if (p.unverified & CAPTURE_PACKET_OPEN) { /* whose writer did not come back to it */
		capture_damage(r, "it is cut off");
		return false;
	}
	content = p.content_size / 64 * 8 + (p.content_size % 64 ? 8 : 0);
	size = p.packet_size / 8;
	if (p.magic != CAPTURE_PACKET_MAGIC || memcmp(p.uuid, r->uuid, sizeof(p.uuid)) != 0 ||
	    (p.stream_id & (CAPTURE_KINDS - 1)) != l->kind || p.content_size % 8 ||
	    p.packet_size % 64 || content < sizeof(p) ||
	    content - sizeof(p) > CAPTURE_BODY_MAX || size < content + sizeof(l->tail)) {
		capture_damage(r, "a packet's header is wrong");
		return false;
	}
	if (size > l->size - l->at || !capture_read_at(r, l, &l->tail, sizeof(l->tail), l->at + content)) {
		capture_damage(r, "it is cut off");
		return false;
	}
	if (!l->tail.nr_batches || l->tail.nr_batches > CAPTURE_BATCHES_MAX ||
	    size - content - sizeof(l->tail) < l->tail.nr_batches * sizeof(struct capture_batch)) {
		capture_damage(r, "a packet's end is wrong");
		return false;
	}
	l->body = l->at + sizeof(p);
	l->body_end = l->at + content;
	l->how_at = l->body_end + sizeof(l->tail);
	l->how_left = l->tail.nr_batches;
	l->how_nr = l->how_next = 0;
	l->first = true;
	l->at += size;
	return true;
}

/* What is next in the stream: l->how[l->how_next]. */
bool capture_next_batch(struct capture_reader *r, struct lane *l)
{
	const struct capture_batch *how;

	if (l->how_next == l->how_nr) {
		if (!l->how_left && !begin_packet(r, l))
			return false;
		l->how_nr = l->how_left < HOW_MANY ? l->how_left : HOW_MANY;
		l->how_next = 0;
		if (!capture_read_at(r, l, l->how, l->how_nr * sizeof(*l->how), l->how_at)) {
			capture_damage(r, "it cannot be read");
			return false;
		}
		l->how_left -= l->how_nr;
		l->how_at += l->how_nr * sizeof(*l->how);
	}
	how = &l->how[l->how_next];
	if (how->len & 7 || how->len > l->body_end - l->body ||
	    (l->how_next + 1 == l->how_nr && !l->how_left && how->len != l->body_end - l->body)) {
		capture_damage(r, "a packet's batches are not its content");
		return false;
	}
	return capture_rises(r, l, how->ordinal);
}

/* The records that @len bytes of odd ones stand for. -1: they are wrong. */
static long unpack_odd(struct capture_reader *r, size_t len)
{
	struct capture_odd odd;
	size_t at = 0, to = 0;

	if (!capture_grow(&r->records, &r->records_room, len + 8)) /* each gets shorter by 8 at least */
		return -ENOMEM;
	for (; at < len; at += sizeof(odd) + odd.len) {
		__u64 hdr = HTRACE_REC_HDR, head;

		if (len - at < sizeof(odd))
			return -EILSEQ;
		memcpy(&odd, r->buf + at, sizeof(odd));
		if (odd.flags & HTRACE_REC_EXTENDED)
			hdr += 8;
		if (odd.len & 7 || odd.len > HTRACE_REC_MAX - hdr ||
		    odd.len > len - at - sizeof(odd) || odd.flags > HTRACE_REC_EXTENDED)
			return -EILSEQ;
		head = odd.id | (hdr + odd.len + odd.flags) << 16 | odd.time << 32;
		memcpy(r->records + to, &head, 8);
		if (hdr > 8)
			memcpy(r->records + to + 8, &odd.time, 8);
		memcpy(r->records + to + hdr, r->buf + at + sizeof(odd), odd.len);
		to += hdr + odd.len;
	}
	return (long)to;
}

/* As the ring's reader found them; but who knows who wrote this file. */
static bool count_records(struct htrace_batch *b)
{
	__u32 off = 0;

	while (off < b->len) {
		__u64 head = *(const __u64 *)(b->data + off);
		__u32 id = head & 0xffff, n = (__u32)(head >> 16) & 0xffff;
		__u32 size = n & ~HTRACE_REC_FLAGS;

		if (!id || id > HTRACE_MAX_EVENTS || (n & HTRACE_REC_FLAGS) > HTRACE_REC_EXTENDED ||
		    size < HTRACE_REC_HDR * (1 + (n & HTRACE_REC_EXTENDED)) || size > b->len - off)
			return false;
		b->events++;
		off += size;
	}
	return true;
}

int capture_take_batch(struct capture_reader *r, struct lane *l, struct capture_next *n)
{
	const struct capture_batch *how = &l->how[l->how_next++];
	struct htrace_batch *b = &n->batch;
	long len = (long)how->len;

	n->item.kind = CAPTURE_BATCH;
	n->item.ring = l->ring;
	n->item.arrival = how->arrival;
	n->item.asked = how->asked;
	n->item.raised = how->raised;
	n->item.unverified = l->kind & CAPTURE_UNVERIFIED;
	n->item.batch = b;
	if (!capture_grow(&r->buf, &r->buf_room, how->len + 8))
		return -ENOMEM;
	if (!capture_read_at(r, l, r->buf, how->len, l->body)) {
		capture_damage(r, "it cannot be read");
		return -EILSEQ;
	}
	b->data = r->buf;
	if (l->kind & CAPTURE_ODD) {
		len = unpack_odd(r, how->len);
		b->data = r->records;
	}
	if (len == -ENOMEM)
		return -ENOMEM;
	b->len = len < 0 ? 0 : (__u32)len;
	b->base = l->tail.base;
	b->schema = l->tail.schema;
	if (l->first) {
		b->overwritten = l->tail.overwritten;
		b->dropped = l->tail.dropped;
		b->corrupt = l->tail.corrupt;
		b->unfinished = l->tail.unfinished;
		b->uncommitted = l->tail.uncommitted;
		b->before = l->tail.before;
	}
	b->pos = l->tail.position;
	l->tail.position += how->len;
	b->end = l->tail.position;
	l->first = false;
	l->body += how->len;
	if (len >= 0 && count_records(b))
		return 0;
	/* Who wrote the ring changed it while it was written from there. The next one may be right. */
	capture_damage(r, "records in it are wrong");
	return 1;
}
