/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef AGENT_STREAM_INTERNAL_H
#define AGENT_STREAM_INTERNAL_H

#include "stream.h"

#include "relay_sink.h"
#include "stream_place.h"
#include "stream_wire.h"

enum stream_state {
	STREAM_CLOSED,     /* until `next` */
	STREAM_CONNECTING,
	STREAM_SILENT,     /* connected, and the host did not ask yet */
	STREAM_ASKED,      /* it says where to go on */
	STREAM_RUNNING,
};

/* One ring, and where its stores go. */
struct stream_ring {
	struct stream *stream;
	const struct htrace_ring *ring;
	struct htrace_relay *relay; /* NULL: while nobody has asked */
	struct htrace_relay_point point;
	__u64 off; /* of its mirror in the region */
};

struct stream {
	char *where;
	struct stream_place place;
	enum stream_state state;
	int fd;
	bool said_waiting, hung_up, asked;
	int said_err;
	__u64 next, pause; /* try again; CLOCK_MONOTONIC, ns */

	struct htrace_region *region;
	struct htrace_geometry geometry;
	struct stream_ring *ring;
	__u32 nr;
	__u64 every, next_copy;

	/* what is to go out: bytes of buf from beg to end */
	char *buf;
	size_t size, beg, end;
	bool failed; /* it has not got all: the connection is of no use */

	/* what came in, less than an order */
	unsigned char in[sizeof(struct stream_order)];
	size_t in_len;
	__u64 nonce, held; /* of the host's question: and the session that it has */

	/* what was sent */
	struct htrace_guest guest;
	bool guest_sent;
	__u64 schema_generation, names_generation;
	__u32 schema_bytes;
};

/* stream_send.c */

/* The connection is new: all that is there is to be sent. */
void stream_forget_sent(struct stream *s);
/* Answer the host's question. 0 or -ENOMEM. */
int stream_begin(struct stream *s);
/* What changed beside the rings. */
void stream_send_words(struct stream *s);
/* As much of the rings as the queue takes. Bytes; *@more: there is more at once. */
__u64 stream_send_rings(struct stream *s, bool *more);
size_t stream_queued(const struct stream *s);

#endif
