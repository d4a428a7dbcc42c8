/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What bench/bpf-push.bpf.c and bench/bpf-push.c agree upon. */
#ifndef BPF_PUSH_H
#define BPF_PUSH_H

#include <linux/types.h>

#define PUSH_MAGIC 0x68747261636500ULL /* first argument of the calls that are recorded */
#define PUSH_RING (4u << 20)           /* bytes of data that each kind of ring has room for */
#define PUSH_PRIO 120                  /* of the tasks that are switched */

/* What the peers' records hold; ours has the time in its header. */
struct push_record {
	__u64 time;
	__u64 number;
	__u64 nr;
};

#endif
