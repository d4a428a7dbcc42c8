/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* The events of bench/channels: what channel-send gives to a system call, as a record, or the longest in parts. */
#include <linux/bpf.h>

#include "htrace.bpf.h"

#include <bpf/bpf_tracing.h>

#include "channels.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define GETPGID 121

struct pt_regs {
	unsigned long di, si, dx;
} __attribute__((preserve_access_index));

struct message8 {
	__u64 word[1];
};
struct message64 {
	__u64 word[8];
};
struct message1024 {
	__u64 word[128];
};
struct message_part {
	__u64 word[CHANNEL_PART / 8];
};
HTRACE_EVENT(message8);
HTRACE_EVENT(message64);
HTRACE_EVENT(message1024);
HTRACE_EVENT(message_part);

#define TAKE(name, from)                                                       \
	({                                                                     \
		struct htrace_slot slot;                                       \
		struct name *e = htrace_begin(name, &slot);                    \
		if (e) {                                                       \
			bpf_probe_read_user(e->word, sizeof(e->word), (from)); \
			htrace_end(&slot);                                     \
		}                                                              \
	})

SEC("tp_btf/sys_enter")
int BPF_PROG(message, struct pt_regs *regs, long nr)
{
	const char *from;

	if (nr != GETPGID || regs->di != CHANNEL_VALUE)
		return 0;
	from = (const char *)regs->dx;
	switch (regs->si) {
	case 8:
		TAKE(message8, from);
		break;
	case 64:
		TAKE(message64, from);
		break;
	case 1024:
		TAKE(message1024, from);
		break;
	case CHANNEL_LONGEST:
		for (int i = 0; i < CHANNEL_PARTS; i++)
			TAKE(message_part, from + i * CHANNEL_PART);
		break;
	}
	return 0;
}
