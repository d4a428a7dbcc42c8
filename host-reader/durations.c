/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "durations.h"

#include <math.h>

#define LONGEST ((1ULL << DURATIONS_OCTAVES) - 1)

/* Below 16 each has a part of its own; then the four bits behind the highest one count. */
static unsigned int part_of(__u64 ns)
{
	unsigned int octave;

	if (ns > LONGEST)
		ns = LONGEST;
	if (ns < 16)
		return (unsigned int)ns;
	octave = 63 - (unsigned int)__builtin_clzll(ns);
	return (octave - 3) * 16 + (unsigned int)(ns >> (octave - 4) & 15);
}

static __u64 part_begin(unsigned int part)
{
	return part < 16 ? part : (16ULL + part % 16) << (part / 16 - 1);
}

static __u64 part_last(unsigned int part)
{
	return part_begin(part + 1) - 1;
}

void durations_add(struct durations *d, __u64 ns)
{
	if (!d->count || ns < d->min)
		d->min = ns;
	if (ns > d->max)
		d->max = ns;
	d->count++;
	d->sum += ns;
	d->squares += (durations_square)ns * ns;
	d->part[part_of(ns)]++;
}

static void narrow(struct durations *d)
{
	unsigned int first = 0, last = DURATIONS_PARTS - 1;

	while (!d->part[first])
		first++;
	while (!d->part[last])
		last--;
	if (d->min < part_begin(first))
		d->min = part_begin(first);
	if (d->max > part_last(last))
		d->max = part_last(last);
}

void durations_take_back(struct durations *d, __u64 ns)
{
	d->count--;
	d->sum -= ns;
	d->squares -= (durations_square)ns * ns;
	d->part[part_of(ns)]--;
	if (d->count)
		narrow(d);
	else
		d->min = d->max = 0;
}

double durations_mean(const struct durations *d)
{
	return d->count ? (double)d->sum / (double)d->count : 0;
}

double durations_error(const struct durations *d)
{
	long double n = (long double)d->count, mean, variance;

	if (d->count < 2 || !d->sum)
		return 0;
	mean = (long double)d->sum / n;
	variance = ((long double)d->squares - mean * (long double)d->sum) / (n - 1);
	return variance > 0 ? (double)(100 * sqrtl(variance / n) / mean) : 0;
}

__u64 durations_percentile(const struct durations *d, double share)
{
	__u64 rank = (__u64)ceil(share * (double)d->count), seen = 0, middle;
	unsigned int part = 0;

	if (!d->count)
		return 0;
	if (rank < 1)
		rank = 1;
	if (rank > d->count)
		rank = d->count;
	for (; part < DURATIONS_PARTS; part++) {
		seen += d->part[part];
		if (seen >= rank)
			break;
	}
	middle = part_begin(part) + (part_last(part) - part_begin(part)) / 2;
	return middle < d->min ? d->min : middle > d->max ? d->max : middle;
}

__u64 durations_octave(const struct durations *d, unsigned int octave)
{
	unsigned int from = octave < 4 ? 1u << octave : (octave - 3) * 16;
	unsigned int to = octave < 4 ? 2u << octave : from + 16;
	__u64 nr = 0;

	for (unsigned int i = octave ? from : 0; i < to && i < DURATIONS_PARTS; i++)
		nr += d->part[i];
	return nr;
}
