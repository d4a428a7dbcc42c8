/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * What both ends of bench/channels agree upon: messages, and the page by which the host orders them. The page is memory
 * that both have mapped, whatever the channel is; on it the clocks are compared, too.
 */
#ifndef BENCH_CHANNELS_H
#define BENCH_CHANNELS_H

#include <linux/types.h>

/* getpgid(VALUE, size, address): what the BPF program takes for a message. */
#define CHANNEL_VALUE 424243

/* BPF takes no records that long: the longest message is so many of them, the last one padded. */
#define CHANNEL_LONGEST 16384
#define CHANNEL_PARTS 5
#define CHANNEL_PART 3280

enum channel_order {
	CHANNEL_PING = 1,  /* answer so many times, looking all the time */
	CHANNEL_SEND = 2,
	CHANNEL_COUNT = 3, /* say what the kernel counted so far */
	CHANNEL_END = 4,   /* of this channel */
};

/* All that one side writes lies on lines of its own. */
struct channel_mail {
	/* by the host; `ask` last */
	__u64 ask; /* number of the order */
	__u32 order;
	__u32 size;      /* of a message */
	__u64 count;     /* at most so many */
	__u64 last_ns;   /* none is begun after that */
	__u64 period_ns; /* between two; 0: as they come */
	__u64 window;    /* messages that the host may not have yet */
	__u64 pad[2];
	__u64 received;  /* of this order */
	__u64 ping;
	__u64 pad_host[6];
	/* by the guest; `answer` last */
	__u64 channel; /* from 1 on: which one it is at */
	__u64 answer;
	__u64 sent;
	__u64 begin, end; /* ticks of its TSC, before the first and behind the last one */
	__u64 kicks;      /* of virtio devices, since it was booted */
	__u64 interrupts; /* by them */
	__u64 failed;     /* errno */
	__u64 pong;
	__u64 pong_tsc;
};

/*
 * The first word of a message: the order's number, the message's, and the guest's TSC right before it is sent. The last
 * one, if there is another, is the first one's complement, those between are the same in all messages.
 */
#define CHANNEL_TSC_BITS 36
#define CHANNEL_NUMBER_BITS 24
#define CHANNEL_MOST ((1u << CHANNEL_NUMBER_BITS) - 1)

static inline __u64 channel_word(__u64 order, __u64 number, __u64 tsc)
{
	return order << (CHANNEL_TSC_BITS + CHANNEL_NUMBER_BITS) | number << CHANNEL_TSC_BITS |
	       (tsc & ((1ULL << CHANNEL_TSC_BITS) - 1));
}

/* Without the time. */
static inline __u64 channel_key(__u64 word)
{
	return word >> CHANNEL_TSC_BITS;
}

static inline __u64 channel_filler(__u32 index)
{
	return (index + 1) * 0x9e3779b97f4a7c15ULL;
}

#endif
