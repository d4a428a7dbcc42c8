/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef READER_CLOCK_H
#define READER_CLOCK_H

#include <time.h>

#include <htrace/abi.h>

/* Host time, ns. */
static inline __u64 clock_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

#endif
