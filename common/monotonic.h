/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef COMMON_MONOTONIC_H
#define COMMON_MONOTONIC_H

#include <time.h>

#include <htrace/abi.h>

/* CLOCK_MONOTONIC of this machine, ns. */
static inline __u64 monotonic_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

#endif
