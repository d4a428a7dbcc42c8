/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Unpacking. All is private memory, whose framing was checked; what it says may be anything. A packed record
 * has no wrong values: whatever its bits are, they are a switch of some tasks at some time.
 */
#include <errno.h>
#include <string.h>

#include "core.h"
#include "unpack.h"

static __u64 word(const unsigned char *at)
{
	return *(const htrace_word *)at;
}

/* As htrace_pack_state() has them. */
static __u32 state_of(__u32 code)
{
	static const __u16 states[16] = {
		[1] = 1 << 0, [2] = 1 << 1, [4] = 1 << 2, [9] = 1 << 3, [3] = 1 << 4, [6] = 1 << 5, [13] = 1 << 6,
		[10] = 1 << 7, [5] = 1 << 8, [11] = 1 << 9, [7] = 1 << 10, [15] = 1 << 11, [14] = 1 << 12,
		[12] = 1 << 13, [8] = 1 << 14,
	};

	return states[code & 15];
}

bool htrace_unpack_switch(struct htrace_unpacker *u, const unsigned char *at, struct htrace_switch *e, __u64 *time)
{
	__u64 packed = word(at), fields = (packed & 0x3ffff) | (packed >> 19 & 0xffff) << 18, far = packed >> 35;

	if (!u->id)
		return false;
	e->prev_tid = u->tid;
	e->prev_prio = u->prio;
	e->prev_state = state_of((__u32)fields & 15);
	e->next_prio = (__s16)((__s16)(fields >> 4 & 0xff) - 1);
	e->next_tid = (__u32)(fields >> 12);
	*time = far == HTRACE_PACKED_FAR ? word(at + 8) : u->time + far;
	u->tid = e->next_tid;
	u->prio = e->next_prio;
	u->time = *time;
	return true;
}

bool htrace_unpack_basis(struct htrace_unpacker *u, const unsigned char *at, __u64 base)
{
	__u64 head = word(at);
	bool extended = head >> 16 & HTRACE_REC_EXTENDED;
	__u32 size = (__u32)(head >> 16) & 0xfff8, hdr = extended ? 16 : HTRACE_REC_HDR;
	struct htrace_switch e;

	if (!(head >> 16 & HTRACE_REC_BASIS))
		return true;
	if (size < hdr + sizeof(e))
		return false;
	memcpy(&e, at + hdr, sizeof(e));
	u->id = (__u32)(head & 0xffff);
	u->tid = e.next_tid;
	u->prio = e.next_prio;
	u->time = extended ? word(at + 8) : htrace_short_time(base, (__u32)(head >> 32));
	return true;
}

/* Short or extended, as a producer would decide. */
static __u32 put_record(unsigned char *to, __u32 id, const struct htrace_switch *e, __u64 time, __u64 base)
{
	bool extended = time - base + (1ULL << 30) >= 3ULL << 30;
	__u32 hdr = extended ? 16 : HTRACE_REC_HDR, len = hdr + (__u32)sizeof(*e);

	*(htrace_word *)to = id | (__u64)(len | (extended ? HTRACE_REC_EXTENDED : 0)) << 16 | time << 32;
	if (extended)
		*(htrace_word *)(to + 8) = time;
	memcpy(to + hdr, e, sizeof(*e));
	return len;
}

long htrace_unpack(struct htrace_unpacker *u, const unsigned char *data, __u32 len, __u32 skip, __u64 base,
		   unsigned char *out)
{
	unsigned char *to = out;
	__u32 size;

	for (__u32 off = 0; off < len; off += size) {
		__u64 head = word(data + off), time;
		struct htrace_switch e;

		if (htrace_is_packed(head)) {
			size = htrace_packed_size(head);
			if (!htrace_unpack_switch(u, data + off, &e, &time))
				return -EBADMSG;
			if (off >= skip)
				to += put_record(to, u->id, &e, time, base);
			continue;
		}
		size = (__u32)(head >> 16) & 0xfff8;
		if (!htrace_unpack_basis(u, data + off, base))
			return -EBADMSG;
		if (off < skip)
			continue;
		memcpy(to, data + off, size);
		*(htrace_word *)to = head & ~((__u64)HTRACE_REC_BASIS << 16);
		to += size;
	}
	return to - out;
}
