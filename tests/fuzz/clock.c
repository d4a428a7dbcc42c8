// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * From a region's clock to nanoseconds, by samples that are a guest's words: whatever they are, between
 * two of them times in any order come out in that order.
 */
#include <errno.h>

#include <htrace/clock.h>

#include "fuzz.h"

#define MAX_TOLD 64

static struct told {
	__u64 time, ns;
} told[MAX_TOLD];
static unsigned int nr_told;

/* Near what was said before, as of a clock that ticks well; or any number. */
static struct htrace_clock_sample take_sample(struct input *in, struct htrace_clock_sample last, __u64 how)
{
	__u64 ticks = take_number(in) << (how & 15), ns = ticks / 3;

	if (how & 16)
		ns = take_number(in) << (how & 15);
	else if (how & 32)
		ns += take_number(in);
	if (how & 64)
		return (struct htrace_clock_sample){ ticks, ns, take_number(in), take_number(in) };
	return (struct htrace_clock_sample){ last.tsc + ticks, last.mono + ns, last.real + ns, take(in, 1) };
}

static void check_order(__u64 time, __u64 ns)
{
	for (unsigned int i = 0; i < nr_told; i++) {
		CHECK(told[i].time != time || told[i].ns == ns);
		CHECK(told[i].time >= time || told[i].ns <= ns);
		CHECK(told[i].time <= time || told[i].ns >= ns);
	}
	told[nr_told++ % MAX_TOLD] = (struct told){ time, ns };
	nr_told = nr_told < MAX_TOLD ? nr_told : MAX_TOLD;
}

static void convert(struct htrace_clock *c, __u64 time)
{
	__u64 ns = 1, again = 2, bound = 3;
	int ret = htrace_clock_ns(c, time, &ns, &bound);

	CHECK(!ret || (ret == -EAGAIN && ns == 1 && bound == 3 && !htrace_clock_usable(c)));
	if (ret)
		return;
	CHECK(ns <= ~0ULL >> 1 && !htrace_clock_ns(c, time, &again, NULL) && again == ns);
	check_order(time, ns);
}

static void ask(const struct htrace_clock *c)
{
	struct htrace_clock_line l = { .sz = sizeof(l) };
	int ret = htrace_clock_get_line(c, &l);

	CHECK(!ret || (ret == -EAGAIN && !htrace_clock_usable(c)));
	CHECK(ret || l.hz);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	struct htrace_clock_sample last = { 1000000000000ULL, 5000000000ULL, 1000000000000000000ULL, 90 }, s;
	__u64 how = take(&in, 1);
	struct htrace_clock *c;
	int ret;

	nr_told = 0;
	fail_allocation(how & 1);
	ret = htrace_clock_new(&c, how & 2 ? HTRACE_CLOCK_MONOTONIC : how & 4 ? 77 : HTRACE_CLOCK_TSC);
	fail_allocation(0);
	if (ret)
		return 0;
	while (in.left) {
		__u64 op = take(&in, 1);

		if (op & 128) {
			s = take_sample(&in, last, op);
			ret = htrace_clock_add(c, &s);
			CHECK(!ret || ret == -EALREADY || ret == -ERANGE);
			/* It may change what was told of times that were far ahead. */
			nr_told = 0;
			last = ret && op & 32 ? last : s;
		} else if (op & 64) {
			ask(c);
		} else {
			convert(c, op & 32 ? take_number(&in) << (op & 31) :
					     last.tsc + (take_number(&in) << (op & 31)));
		}
	}
	htrace_clock_free(c);
	return 0;
}
