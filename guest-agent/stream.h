/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A region that nobody shares, sent as a byte stream (common/stream_wire.h): the agent keeps it in memory of its own,
 * and what it would store into a shared one goes to the host in the same order. Rings are relayed straight into the
 * stream, as into a mirror. When the stream takes no more, relaying waits; what the rings lose then is lost as it is of
 * any mirror that the producers overtake: exactly, and told by the rings' own words. Producers never wait.
 *
 * One thread. Nothing here blocks but stream_finish().
 */
#ifndef AGENT_STREAM_H
#define AGENT_STREAM_H

#include <stdbool.h>

#include <htrace/region.h>

struct stream;

#define STREAM_PREFIX "stream:"

/* @where: FD, PATH, ADDRESS:PORT or vsock:CID:PORT. 0, or -1 after saying why. Nothing is connected yet. */
int stream_new(struct stream **out, const char *where);
/*
 * From here on, of @r, published, in memory of ours, with @nr rings that are the mirrors of @ring. Of rings of BPF
 * programs whoever calls forwards what the host consumed. 0, or -1 after saying why.
 */
int stream_start(struct stream *s, struct htrace_region *r, struct htrace_ring *const *ring, __u32 nr);
/* Do what is due: connect, hear, send. Nanoseconds until more is. */
__u64 stream_work(struct stream *s);
/* To wait for, beside that time; -1: nothing. */
int stream_poll_fd(const struct stream *s, short *events);
/* The clocks' ping-pong: was there a question since the last call? Then htrace_region_answer(). */
bool stream_asked(struct stream *s);
/*
 * Nobody produces any more: send all that there is, as long as somebody takes it. Bytes that nobody took, of rings and
 * of what is said of them.
 */
__u64 stream_finish(struct stream *s);
void stream_free(struct stream *s);

#endif
