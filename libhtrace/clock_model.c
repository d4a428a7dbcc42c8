/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * From a region's clock to nanoseconds: lines between samples (*knots*), and one behind the last.
 *
 * Numbers are the guest's, so all arithmetic is in 128 bits, on differences that were checked, and
 * saturates at 2^63 - 1.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/clock.h>

#include "core.h"

__extension__ typedef unsigned __int128 wide;

#define KNOTS 64
#define LINES 512
#define SHIFT 48 /* of a rate: ns per tick, as a fraction of 2^48 */
#define RATE_MIN ((1ULL << SHIFT) / 100)  /* 100 GHz */
#define RATE_MAX (1000ULL << SHIFT)       /* 1 MHz */
#define TIME_MAX (~0ULL >> 1)
#define NOISE_MAX 1000000ULL  /* ppb: what two samples must tell the rate to */
#define WANDER 500ULL         /* ppb: of CLOCK_MONOTONIC's own rate, at least */
#define RECENT 8000000000ULL  /* ns: samples that tell the present rate */
#define AHEAD 60000000000ULL  /* ns: times further ahead of a sample than that are made up */
#define STEP 1000000ULL       /* ns: the line jumps forward by more than that, and bends for less */
#define AGREE 4               /* refused samples that make a step of the clocks */

struct knot {
	__u64 ticks, ns;
	__u64 width; /* ticks */
};

struct line {
	__u64 ticks, ns; /* its beginning */
	__u64 rate;
	__u64 bound; /* ns, at its beginning */
	__u64 drift; /* ppb, by which that grows */
};

struct htrace_clock {
	__u32 clock_id;
	struct knot knot[KNOTS]; /* that were used; the oldest go */
	unsigned int nr_knots;
	struct knot first;      /* since the clocks' last step */
	struct line line[LINES]; /* by their beginnings; the last has no end */
	unsigned int nr_lines;
	__u64 rate;   /* at present; 0: not known */
	__u64 noise;  /* ppb: what it may be wrong by, for the samples' widths */
	__u64 wander; /* ppb: what it may change by */
	bool any_told;
	__u64 told; /* the latest time that was converted: before it nothing changes any more */
	struct knot odd, odd_first; /* the last that was refused, and the first that agrees with it */
	unsigned int nr_odd;
	__u64 real;  /* less CLOCK_MONOTONIC, modulo 2^64 */
	bool has_real;
	__u64 mono;  /* of the latest sample, where that is all */
	__u64 used, refused, worst;
};

/* ----------------------------------------------------------------------------------- arithmetic */

static __u64 cap(wide v)
{
	return v > TIME_MAX ? TIME_MAX : (__u64)v;
}

static __u64 to_ns(__u64 ticks, __u64 rate)
{
	return cap((wide)ticks * rate >> SHIFT);
}

static __u64 add(__u64 a, __u64 b)
{
	return cap((wide)a + b);
}

static __u64 distance(__u64 a, __u64 b)
{
	return a > b ? a - b : b - a;
}

static __u64 parts(__u64 ns, __u64 ppb)
{
	return cap((wide)ns * ppb / 1000000000);
}

/* Of a line through both; @b is later. */
static wide rate_of(const struct knot *a, const struct knot *b)
{
	return ((wide)(b->ns - a->ns) << SHIFT) / (b->ticks - a->ticks);
}

/* How far a rate from both may be wrong, ppb. */
static __u64 noise_of(const struct knot *a, const struct knot *b)
{
	return cap(((wide)a->width + b->width) / 2 * 1000000000 / (b->ticks - a->ticks));
}

/* Half of its width; and ticks and ns are whole ones, in samples and in what is converted. */
static __u64 error_of(const struct htrace_clock *c, const struct knot *k)
{
	return add(to_ns(k->width / 2 + 2, c->rate), 2);
}

static __u64 difference(__u64 rate, __u64 from)
{
	return cap((wide)distance(rate, from) * 1000000000 / from);
}

/* ---------------------------------------------------------------------------------------- lines */

static const struct line *line_at(const struct htrace_clock *c, __u64 time)
{
	unsigned int low = 0, high = c->nr_lines;

	while (high - low > 1) {
		unsigned int middle = low + (high - low) / 2;

		if (c->line[middle].ticks <= time)
			low = middle;
		else
			high = middle;
	}
	return &c->line[low];
}

/* The first line reaches back, too. */
static __u64 value_at(const struct line *l, __u64 time)
{
	__u64 back;

	if (time >= l->ticks)
		return add(l->ns, to_ns(time - l->ticks, l->rate));
	back = to_ns(l->ticks - time, l->rate);
	return back < l->ns ? l->ns - back : 0;
}

static __u64 bound_at(const struct htrace_clock *c, const struct line *l, __u64 time)
{
	__u64 drift = time < l->ticks ? c->noise + c->wander : l->drift;

	return add(l->bound, parts(to_ns(distance(time, l->ticks), l->rate), drift));
}

/*
 * Lines are in order and do not step back, whatever came of a guest's numbers (a line that would begin
 * below 0, or behind the end of all times): what is said of them then is further off.
 */
static void put(struct htrace_clock *c, const struct line *new)
{
	const struct line *last = c->nr_lines ? &c->line[c->nr_lines - 1] : NULL;
	struct line line = *new, *l = &line;

	if (last && l->ticks < last->ticks)
		return;
	if (last && value_at(last, l->ticks) > l->ns) {
		l->bound = add(l->bound, value_at(last, l->ticks) - l->ns);
		l->ns = value_at(last, l->ticks);
	}
	if (c->nr_lines == LINES) {
		c->nr_lines = LINES / 2;
		memmove(c->line, c->line + LINES - c->nr_lines, c->nr_lines * sizeof(*c->line));
	}
	c->line[c->nr_lines++] = *l;
}

/* Behind its last sample, from @time on. */
static void put_open(struct htrace_clock *c, const struct knot *k, __u64 time, __u64 ns)
{
	__u64 drift = c->noise + c->wander;
	__u64 since = time > k->ticks ? to_ns(time - k->ticks, c->rate) : 0;

	put(c, &(struct line){ time, ns, c->rate, add(error_of(c, k), parts(since, drift)), drift });
}

/* The line that goes through @k at the present rate. */
static __u64 through(const struct htrace_clock *c, const struct knot *k, __u64 time)
{
	struct line l = { .ticks = k->ticks, .ns = k->ns, .rate = c->rate };

	return value_at(&l, time);
}

/* From @time on, where the line is at @ns and @wrong off: so fast or slow that it meets the true one. */
static void bend(struct htrace_clock *c, const struct knot *k, __u64 time, __u64 ns, __u64 bound)
{
	__u64 truth = through(c, k, time), wrong = distance(truth, ns);
	wide way = 2 * (((wide)wrong << SHIFT) / c->rate + 1);

	if (truth > ns && wrong > STEP) {
		put_open(c, k, time, truth);
		return;
	}
	put(c, &(struct line){ time, ns, truth > ns ? c->rate + c->rate / 2 : c->rate / 2,
			       add(bound, wrong), 0 });
	if (way <= ~0ULL - time)
		put_open(c, k, time + (__u64)way, through(c, k, time + (__u64)way));
}

/* The last line gives way to one that leads to @k, but for what was converted by it. */
static void extend(struct htrace_clock *c, const struct knot *before, const struct knot *k)
{
	struct line *last = &c->line[c->nr_lines - 1];
	__u64 from = c->any_told && c->told > last->ticks ? c->told : last->ticks;
	__u64 ns = value_at(last, from), bound = bound_at(c, last, from), truth, wrong;
	__u64 error = error_of(c, k);
	struct knot here = { .ticks = from, .ns = ns };
	wide rate;

	truth = from < k->ticks && from >= before->ticks && before->ticks < k->ticks ?
			add(before->ns, to_ns(from - before->ticks, (__u64)rate_of(before, k))) :
			through(c, k, from);
	wrong = distance(truth, ns);
	if (c->any_told && c->told >= last->ticks && wrong > c->worst)
		c->worst = wrong;
	bound = wrong > bound ? wrong : bound;
	if (from == last->ticks)
		c->nr_lines--;
	if (from >= k->ticks || ns >= k->ns) {
		bend(c, k, from, ns, bound);
		return;
	}
	rate = rate_of(&here, k);
	if (rate < c->rate / 2 || rate > 2 * (wide)c->rate) {
		bend(c, k, from, ns, bound);
		return;
	}
	bound = add(bound > error ? bound : error, parts(k->ns - ns, c->wander) / 2);
	put(c, &(struct line){ from, ns, (__u64)rate, bound, 0 });
	put_open(c, k, k->ticks, k->ns);
}

/* -------------------------------------------------------------------------------------- samples */

static void keep(struct htrace_clock *c, const struct knot *k)
{
	if (c->nr_knots == KNOTS)
		memmove(c->knot, c->knot + 1, --c->nr_knots * sizeof(*c->knot));
	c->knot[c->nr_knots++] = *k;
	c->used++;
}

/* The present rate, from the samples of the last seconds, and how much of it to believe. */
static void measure(struct htrace_clock *c)
{
	const struct knot *k = &c->knot[c->nr_knots - 1], *a = k - 1;
	__u64 pair = (__u64)rate_of(a, k), noise = noise_of(a, k), old = c->rate, seen = 0;

	if (old) {
		__u64 sure = add(noise, c->noise);

		seen = difference(pair, old);
		seen = seen > sure ? seen - sure : 0;
	}
	while (a > c->knot && k->ns - a[-1].ns <= RECENT)
		a--;
	c->rate = (__u64)rate_of(a, k);
	c->noise = noise_of(a, k);
	c->wander = seen > WANDER ? seen : WANDER;
}

static bool rises(const struct knot *a, const struct knot *b)
{
	return b->ticks > a->ticks && b->ns > a->ns;
}

static bool possible(wide rate, __u64 known)
{
	return rate >= RATE_MIN && rate <= RATE_MAX &&
	       (!known || (rate <= (wide)known + known / 10 && rate >= known - known / 10));
}

static bool agrees(const struct htrace_clock *c, const struct knot *a, const struct knot *b)
{
	return rises(a, b) && possible(rate_of(a, b), c->rate);
}

/* After a step: the line goes on from where it is, by the new samples. */
static void start_over(struct htrace_clock *c, const struct knot *k)
{
	struct line *last = &c->line[c->nr_lines - 1];
	__u64 from = c->any_told && c->told > last->ticks ? c->told : last->ticks;
	__u64 ns = value_at(last, from), bound = bound_at(c, last, from);

	struct knot here = { .ticks = from, .ns = ns };
	wide rate = 0;

	c->first = c->odd_first;
	c->nr_knots = c->nr_odd = 0;
	keep(c, &c->first);
	keep(c, k);
	measure(c);
	if (from == last->ticks)
		c->nr_lines--;
	if (rises(&here, &c->first))
		rate = rate_of(&here, &c->first);
	if (!rate || rate > 16 * (wide)RATE_MAX) {
		bend(c, k, from, ns, bound);
		return;
	}
	/* When it stepped, nobody knows. */
	put(c, &(struct line){ from, ns, (__u64)rate, c->first.ns - ns, 0 });
	put(c, &(struct line){ c->first.ticks, c->first.ns, c->rate, error_of(c, &c->first),
			       c->noise + c->wander });
	extend(c, &c->first, k);
}

static int refuse(struct htrace_clock *c, const struct knot *k)
{
	c->refused++;
	if (c->nr_odd && agrees(c, &c->odd, k)) {
		c->nr_odd++;
	} else {
		c->nr_odd = 1;
		c->odd_first = *k;
	}
	c->odd = *k;
	if (c->nr_odd < AGREE || !c->nr_lines || k->ticks <= c->knot[c->nr_knots - 1].ticks ||
	    noise_of(&c->odd_first, k) > NOISE_MAX)
		return -ERANGE;
	start_over(c, k);
	return 0;
}

/* The first two that tell a rate. */
static void begin(struct htrace_clock *c)
{
	const struct knot *a = &c->knot[0], *b = &c->knot[1];
	__u64 error, more;

	measure(c);
	error = error_of(c, a);
	more = error_of(c, b);
	put(c, &(struct line){ a->ticks, a->ns, c->rate,
			       add(error > more ? error : more, parts(b->ns - a->ns, WANDER) / 2), 0 });
	put_open(c, b, b->ticks, b->ns);
}

static int add_knot(struct htrace_clock *c, const struct knot *k)
{
	struct knot *last, before;

	if (!c->nr_knots) {
		c->first = *k;
		keep(c, k);
		return 0;
	}
	last = &c->knot[c->nr_knots - 1];
	if (k->ticks <= last->ticks && k->ns <= last->ns)
		return -EALREADY;
	if (!rises(last, k))
		return refuse(c, k);
	if (noise_of(last, k) > NOISE_MAX) {
		if (c->nr_knots > 1 || k->width >= last->width / 2)
			return -EALREADY;
		c->first = *last = *k; /* a better one to begin with */
		return 0;
	}
	if (!possible(rate_of(last, k), c->rate))
		return refuse(c, k);
	if (c->nr_lines &&
	    error_of(c, k) > bound_at(c, line_at(c, k->ticks), k->ticks))
		return -EALREADY;
	c->nr_odd = 0;
	before = *last;
	keep(c, k);
	if (!c->nr_lines) {
		begin(c);
		return 0;
	}
	measure(c);
	/* Nobody has read the clock yet when it had times so far ahead. */
	if (c->any_told && c->told > k->ticks && to_ns(c->told - k->ticks, c->rate) > AHEAD)
		c->told = k->ticks;
	extend(c, &before, k);
	return 0;
}

int htrace_clock_add(struct htrace_clock *c, const struct htrace_clock_sample *s)
{
	struct knot k = { .ticks = s->tsc, .ns = s->mono, .width = s->width };
	int ret;

	if (!k.ns || k.ns > TIME_MAX / 2 || (c->clock_id == HTRACE_CLOCK_TSC && !k.ticks)) {
		c->refused++;
		return -ERANGE;
	}
	if (c->clock_id == HTRACE_CLOCK_TSC) {
		ret = add_knot(c, &k);
		if (ret)
			return ret;
	} else {
		if (k.ns <= c->mono)
			return -EALREADY;
		c->mono = k.ns;
		c->used++;
	}
	if (s->real) {
		c->real = s->real - s->mono;
		c->has_real = true;
	}
	return 0;
}

/* -------------------------------------------------------------------------------------- the rest */

int htrace_clock_new(struct htrace_clock **out, __u32 clock_id)
{
	struct htrace_clock *c;

	if (clock_id != HTRACE_CLOCK_MONOTONIC && clock_id != HTRACE_CLOCK_TSC)
		return -EINVAL;
	c = calloc(1, sizeof(*c));
	if (!c)
		return -ENOMEM;
	c->clock_id = clock_id;
	*out = c;
	return 0;
}

void htrace_clock_free(struct htrace_clock *c)
{
	free(c);
}

bool htrace_clock_usable(const struct htrace_clock *c)
{
	return c->clock_id == HTRACE_CLOCK_MONOTONIC || c->nr_lines;
}

int htrace_clock_ns(struct htrace_clock *c, __u64 time, __u64 *ns, __u64 *bound)
{
	__u64 value = cap(time), wrong = 0;
	const struct line *l;

	if (!htrace_clock_usable(c))
		return -EAGAIN;
	if (c->clock_id == HTRACE_CLOCK_TSC) {
		l = line_at(c, time);
		value = value_at(l, time);
		wrong = bound_at(c, l, time);
		if (!c->any_told || time > c->told)
			c->told = time;
		c->any_told = true;
	}
	if (wrong > c->worst)
		c->worst = wrong;
	if (ns)
		*ns = value;
	if (bound)
		*bound = wrong;
	return 0;
}

int htrace_clock_get_line(const struct htrace_clock *c, struct htrace_clock_line *l)
{
	struct htrace_clock_line line = {
		.sz = l->sz < sizeof(line) ? l->sz : sizeof(line),
		.hz = 1000000000, .time = c->mono, .mono = c->mono,
		.used = c->used, .refused = c->refused, .bound = c->worst,
	};
	int ret = htrace_clock_usable(c) ? 0 : -EAGAIN;

	if (line.sz < sizeof(line.sz))
		return -EINVAL;
	if (c->clock_id == HTRACE_CLOCK_TSC) {
		const struct knot *k = c->nr_knots ? &c->knot[c->nr_knots - 1] : &c->first;

		line.hz = 0;
		if (!ret)
			line.hz = (__u64)(((wide)(k->ticks - c->first.ticks) * 1000000000 +
					   (k->ns - c->first.ns) / 2) / (k->ns - c->first.ns));
		line.time = k->ticks;
		line.mono = k->ns;
	}
	if (c->has_real)
		line.real = line.mono + c->real;
	memcpy(l, &line, line.sz);
	return ret;
}
