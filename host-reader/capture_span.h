/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Packets whose bodies are written from where they are, the ring. Who owns what when:
 *
 *	ring memory	the producers' again once the batch is given back: after its write is over, and
 *			all writes before it of the same file
 *	header, tail	the span's, until it ends; then they are in the file
 *	span		the kernel's while its write is under way; else the stream's
 *	the place	in the file is the packet's from capture_span_add() on, whatever becomes of it
 *
 * Under HTRACE_DISCARD nothing can change while it is lent, and a packet is written whole. Under
 * HTRACE_OVERWRITE a header's place stays zero until the body is on its way to the disk and was
 * found intact behind that; else the packet is one without records that says how many are lost.
 * Past the page cache go, of a stream that is so written, the pages that a body fills, and, in memory of the
 * span's, what lies between two of them: the body's end, the tail, the next packet's header. The
 * first header, and what is behind the last such page, are written as usual when the rest is there.
 * A reader of the file sees headers in their order, and nothing behind the last of them.
 */
#ifndef READER_CAPTURE_SPAN_H
#define READER_CAPTURE_SPAN_H

#include "capture_write.h"

/* Of a sink, for all of its files. */
struct capture_lender;

int capture_lender_new(struct capture_lender **out);
/* Nothing may be lent any more. */
void capture_lender_free(struct capture_lender *l);
bool capture_lender_is_async(const struct capture_lender *l);
/* 0, or -errno. */
int capture_lender_take_back(struct capture_lender *l, enum take_back how);

/* A packet of @run, whose data is @lent's, at the end of the file. @ahead: it stays as it is. */
int capture_span_add(struct capture_lender *l, struct capture_stream *st,
		     const struct capture_run *run, const struct capture_lent *lent,
		     const struct capture_loan *loan, bool ahead);
/* Wait until nothing of the stream is lent. 0, or -errno: how writing it failed. */
int capture_spans_settle(struct capture_stream *st);

#endif
