/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* What the built-in policies share. */
#ifndef HTRACE_SYNC_INTERNAL_H
#define HTRACE_SYNC_INTERNAL_H

#include <stdint.h>
#include <time.h>

#include <htrace/sync.h>

static inline __u64 htrace_sync_now(void)
{
	struct timespec ts;

	clock_gettime(CLOCK_MONOTONIC, &ts);
	return (__u64)ts.tv_sec * 1000000000 + (__u64)ts.tv_nsec;
}

static inline __u64 htrace_sync_add(__u64 time, __u64 ns)
{
	return ns > UINT64_MAX - time ? UINT64_MAX : time + ns;
}

extern const struct htrace_sync_ops htrace_sync_futex, htrace_sync_doorbell;

#endif
