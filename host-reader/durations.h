/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Durations of one kind: how many, how long, how they spread. Counts and sums are exact; each power
 * of two is divided into 16 parts, so that a percentile is at most 1/32 off.
 */
#ifndef READER_DURATIONS_H
#define READER_DURATIONS_H

#include <htrace/abi.h>

#define DURATIONS_OCTAVES 53 /* what is longer, 104 days, shares the last part */
#define DURATIONS_PARTS ((DURATIONS_OCTAVES - 3) * 16)

__extension__ typedef unsigned __int128 durations_square;

struct durations {
	__u64 count, sum; /* ns */
	__u64 min, max;
	durations_square squares;
	__u64 part[DURATIONS_PARTS];
};

void durations_add(struct durations *d, __u64 ns);
/* As if @ns, which was added, had not been; what min or max then are is known to 1/16 only. */
void durations_take_back(struct durations *d, __u64 ns);
double durations_mean(const struct durations *d);
/* The standard error of the mean, in per cent of it, as perf stat has it. */
double durations_error(const struct durations *d);
/* The duration that @share, 0 to 1, of them do not exceed. */
__u64 durations_percentile(const struct durations *d, double share);
/* How many are from 2^@octave (the first: from 0) to below twice that. */
__u64 durations_octave(const struct durations *d, unsigned int octave);

#endif
