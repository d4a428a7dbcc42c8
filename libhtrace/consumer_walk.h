/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* Walking over records: of a block that is committed, and over what may be some in one that is not. */
#ifndef HTRACE_CONSUMER_WALK_H
#define HTRACE_CONSUMER_WALK_H

#include "consumer_core.h"
#include "core.h"

/* What is in the records of one look. */
struct walk {
	const char *wrong; /* or NULL */
	__u32 events, off; /* of them, as far as they were walked */
	__u32 bad_id;      /* not 0: an id was wrong */
	__u32 skipped, skip; /* events, and bytes, that were consumed before our time */
	bool unseen;         /* they were not walked */
	bool may_pack;       /* some may be packed, */
	bool packed;         /* and some are, or are the basis of such */
};

static inline __u64 word_at(const unsigned char *p, bool shared)
{
	return shared ? __atomic_load_n((const htrace_word *)p, __ATOMIC_RELAXED) :
			*(const htrace_word *)p;
}

static inline __u32 bad_id(__u64 word)
{
	return (__u16)(word - 1) >= HTRACE_MAX_EVENTS;
}

/*
 * Walk on over records that are as long as the one before (@n: its length and flags, which are right)
 * and have its form, four at a time. Where the next one lies then does not depend on reading this one:
 * the processor need not wait for the one to find the other.
 */
static inline void walk_alike(struct walk *w, const unsigned char *data, __u32 len, bool shared,
			      __u32 n)
{
	__u32 size = n & ~HTRACE_REC_FLAGS, left = (len - w->off) / (4 * size), bad = w->bad_id;
	const unsigned char *at = data + w->off;
	const __u64 form = (__u64)n << 16;

	for (; left; left--, at += 4 * size) {
		__u64 a = word_at(at, shared), b = word_at(at + size, shared);
		__u64 c = word_at(at + 2 * size, shared), d = word_at(at + 3 * size, shared);

		if (((a ^ form) | (b ^ form) | (c ^ form) | (d ^ form)) & 0xffff0000)
			break; /* they will be looked at one by one, and anew */
		bad |= bad_id(a) | bad_id(b) | bad_id(c) | bad_id(d);
	}
	w->events += (__u32)(at - data - w->off) / size;
	w->off = (__u32)(at - data);
	w->bad_id = bad;
}

#define ALIKE 6 /* records in a row, then more of them are expected */

/* Walk over records until @until or behind it, but not behind @len: forms and lengths; ids are noted. */
static inline void walk_until(struct walk *w, const unsigned char *data, __u32 until, __u32 len,
			      bool shared)
{
	__u32 last = 0, alike = 0;

	while (w->off < until) {
		__u64 word = word_at(data + w->off, shared);
		__u32 n = (__u16)(word >> 16), size = n & ~HTRACE_REC_FLAGS;

		w->wrong = "record flags";
		if (n & HTRACE_REC_FLAGS & ~HTRACE_REC_EXTENDED) {
			if (!w->may_pack)
				return;
			w->packed = true;
		}
		w->wrong = "record length";
		if (n & HTRACE_REC_PACKED) {
			size = htrace_packed_size(word);
			if (size > len - w->off)
				return;
			w->off += size;
			w->events++;
			last = 0;
			continue;
		}
		if (size < HTRACE_REC_HDR * (1 + (n & HTRACE_REC_EXTENDED)) || size > len - w->off)
			return;
		w->bad_id |= bad_id(word);
		w->off += size;
		w->events++;
		alike = n == last ? alike + 1 : 0;
		last = n;
		if (alike >= ALIKE && until == len) {
			walk_alike(w, data, len, shared, n);
			alike = 0;
		}
	}
	w->wrong = w->bad_id ? "record id" : NULL;
}

/* What looks like a record at @at, where @left bytes are: its size and time; 0: it cannot be one. */
static inline __u32 guess_record(struct walk *w, struct htrace_unpacker *basis, const unsigned char *at, __u32 left,
				 __u64 base, __u64 *time)
{
	__u64 word = *(const htrace_word *)at;
	__u32 n = (__u16)(word >> 16), size = n & ~HTRACE_REC_FLAGS, hdr = HTRACE_REC_HDR;
	struct htrace_switch e;

	if (n & HTRACE_REC_FLAGS & ~HTRACE_REC_EXTENDED) {
		if (!w->may_pack)
			return 0;
		w->packed = true;
	}
	if (n & HTRACE_REC_PACKED) {
		size = htrace_packed_size(word);
		return size <= left && htrace_unpack_switch(basis, at, &e, time) ? size : 0;
	}
	hdr += n & HTRACE_REC_EXTENDED ? HTRACE_REC_HDR : 0;
	if (size < hdr || size > left || bad_id(word) || !htrace_unpack_basis(basis, at, base))
		return 0;
	*time = hdr > HTRACE_REC_HDR ? *(const htrace_word *)(at + 8) : htrace_short_time(base, (__u32)(word >> 32));
	return size;
}

#define STEP_BACK 1000    /* of the clock, in a block; an NMI's are a few ns */
#define FAR (1LL << 44)   /* hours, in a block, whatever the clock */

/*
 * What looks like records at @data. Headers are the first that is written of a record, in the order of
 * their times; what was there in an earlier lap, or was never written, mostly is not.
 */
static inline void walk_hole(struct walk *w, struct htrace_unpacker basis, const unsigned char *data, __u32 len,
			     __u64 base)
{
	__u64 last = base, time;
	__u32 size;

	for (; w->off + HTRACE_REC_HDR <= len; w->events++, w->off += size) {
		size = guess_record(w, &basis, data + w->off, len - w->off, base, &time);
		if (!size || (__s64)(time - last) < -STEP_BACK || (__s64)(time - base) > FAR)
			break;
		last = time;
	}
}

#endif
