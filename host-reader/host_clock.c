/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "host_clock.h"

#include <errno.h>
#include <string.h>

#define TIME_MAX (~0ULL >> 2)
#define ERROR_MAX 1000000000ULL
#define HZ_MAX 1e11

void host_clock_close(struct host_clock *c)
{
	for (unsigned int i = 0; i < c->nr; i++)
		htrace_clock_free(c->segment[i].line);
	memset(c, 0, sizeof(*c));
}

static int begin_segment(struct host_clock *c, __u64 from)
{
	struct htrace_clock *line;
	int ret = htrace_clock_new(&line, HTRACE_CLOCK_TSC); /* of ticks that are some ns each */

	if (ret)
		return ret;
	if (c->nr == HOST_CLOCK_SEGMENTS) {
		htrace_clock_free(c->segment[0].line);
		memmove(c->segment, c->segment + 1, --c->nr * sizeof(*c->segment));
	}
	c->segment[c->nr++] = (struct host_segment){ .from = from, .line = line };
	return 0;
}

/* Ticks of the region's in a second; 0: not known. Of the first knots no more than they tell. */
static __u64 rate_hz(const struct host_clock *c, const struct host_word *w)
{
	struct htrace_clock_line l = { .sz = sizeof(l) };
	double hz;

	if (!host_clock_line(c, &l) && l.hz)
		return l.hz;
	if (!c->first.region || w->region <= c->first.region || w->host <= c->first.host)
		return 0;
	hz = (double)(w->region - c->first.region) * 1e9 / (double)(w->host - c->first.host);
	return hz < HZ_MAX ? (__u64)(hz + hz / 8) + 1 : (__u64)HZ_MAX;
}

static int add_to_line(struct htrace_clock *line, const struct host_word *w, __u64 hz)
{
	struct htrace_clock_sample s = { .tsc = w->region, .mono = w->host };

	/* The line wants the whole width, in the region's ticks. */
	s.width = (__u64)((double)w->error * 2 * (double)hz / 1e9) + 1;
	return htrace_clock_add(line, &s);
}

static int add_knot(struct host_clock *c, const struct host_word *w)
{
	int ret = c->nr ? 0 : begin_segment(c, 0);
	__u64 hz = rate_hz(c, w);
	struct htrace_clock *line;

	if (ret)
		return ret;
	if (!hz && !c->first.region) { /* until the second one says how long a tick is */
		c->first = c->latest = *w;
		c->waits = true;
		c->knots++;
		return 0;
	}
	if (!hz) {
		c->refused++;
		return -ERANGE;
	}
	line = c->segment[c->nr - 1].line;
	if (c->waits)
		add_to_line(line, &c->first, hz);
	c->waits = false;
	ret = add_to_line(line, w, hz);
	c->knots += !ret;
	c->refused += ret == -ERANGE;
	if (ret != -ERANGE && htrace_clock_usable(line))
		c->doubted = false;
	c->latest = *w;
	return ret == -EALREADY ? 0 : ret;
}

static void take_doubt(struct host_clock *c, const struct host_word *w)
{
	if (w->host) {
		c->least = w->host > c->least ? w->host : c->least;
		return;
	}
	c->doubts += !c->doubted;
	if (!c->doubted || w->region < c->doubt_from)
		c->doubt_from = w->region;
	c->doubted = true;
}

int host_clock_add(struct host_clock *c, const struct host_word *w)
{
	if (w->kind == HOST_WORD_SAME) {
		c->same = true;
		c->latest = *w;
		return 0;
	}
	if (c->same || !w->region || w->region > TIME_MAX)
		return -ERANGE;
	if (w->kind == HOST_WORD_DOUBT) {
		if (w->host > TIME_MAX || w->error > TIME_MAX)
			return -ERANGE;
		take_doubt(c, w);
		return 0;
	}
	if (w->error > ERROR_MAX)
		return -ERANGE;
	if (w->kind == HOST_WORD_STEP || w->kind == HOST_WORD_BETTER) {
		if (!c->nr || w->region < c->segment[c->nr - 1].from)
			return -ERANGE;
		c->steps += w->kind == HOST_WORD_STEP;
		c->first.region = 0;
		c->waits = false;
		if (w->kind == HOST_WORD_STEP)
			c->step = (__s64)w->host;
		return begin_segment(c, w->region);
	}
	if (w->kind != HOST_WORD_KNOT || !w->host || w->host > TIME_MAX)
		return -ERANGE;
	return add_knot(c, w);
}

/* The latest one that holds at @time and can be used; else an earlier one. */
static struct htrace_clock *line_at(const struct host_clock *c, __u64 time)
{
	struct htrace_clock *usable = NULL;

	for (unsigned int i = c->nr; i--;) {
		if (!htrace_clock_usable(c->segment[i].line))
			continue;
		usable = c->segment[i].line;
		if (c->segment[i].from <= time)
			break;
	}
	return usable;
}

bool host_clock_usable(const struct host_clock *c)
{
	return c->same || line_at(c, TIME_MAX);
}

int host_clock_time(struct host_clock *c, __u64 time, __u64 *ns, __u64 *bound)
{
	struct htrace_clock *line = line_at(c, time);
	__u64 wrong;

	if (!line || htrace_clock_ns(line, time, ns, &wrong))
		return -EAGAIN;
	if (wrong > c->worst)
		c->worst = wrong;
	if (bound)
		*bound = wrong;
	return 0;
}

bool host_clock_doubts(const struct host_clock *c, __u64 time)
{
	return c->doubted && time >= c->doubt_from;
}

int host_clock_line(const struct host_clock *c, struct htrace_clock_line *l)
{
	struct htrace_clock *line = line_at(c, TIME_MAX);

	return line ? htrace_clock_get_line(line, l) : -EAGAIN;
}
