/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The list of events: a line each, the name and then "KEY=VALUE", separated by tabs. What reads it passes
 * over keys that it does not know.
 */
#include "control.h"

#include <stdio.h>
#include <string.h>

/* Is it the first program of its event? */
static bool is_first(const struct loader *l, size_t i)
{
	char name[64], other[64];

	loader_event_name(l, &l->program[i], name);
	for (size_t k = 0; k < i; k++) {
		loader_event_name(l, &l->program[k], other);
		if (!strcmp(name, other))
			return false;
	}
	return true;
}

/* The counts of all programs of the event that program @first is of. */
static void add_up(const struct loader *l, size_t first, const char *name, struct htrace_prog *sum)
{
	struct htrace_prog one;
	char other[64];

	memset(sum, 0, sizeof(*sum));
	sum->flags = HTRACE_PROG_MISSES_COUNTED;
	for (size_t i = first; i < l->nr_programs; i++) {
		loader_event_name(l, &l->program[i], other);
		if (strcmp(name, other))
			continue;
		loader_counters(l, i, &one);
		sum->misses += one.misses;
		sum->runs += one.runs;
		sum->flags &= one.flags;
	}
}

/* The line of the event of program @i: its length, or 0 if it does not fit. */
static size_t put_line(const struct loader *l, size_t i, __u64 allows, char *out, size_t len)
{
	const struct program *p = &l->program[i];
	struct htrace_prog sum;
	char name[64];
	int n;

	loader_event_name(l, p, name);
	add_up(l, i, name, &sum);
	n = snprintf(out, len, "%s\tstate=%s\tallowed=%d\tsample=%u", name,
		     !loader_is_on(p) ? "off" : loader_is_kept(p) ? "kept" : "on",
		     allows & HTRACE_ALLOW_EVENTS && !loader_is_kept(p), p->sample ? p->sample : 1);
	if (n >= 0 && (size_t)n < len && sum.flags & HTRACE_PROG_MISSES_COUNTED)
		n += snprintf(out + n, len - (size_t)n, "\tskipped=%llu", (unsigned long long)sum.misses);
	if (n >= 0 && (size_t)n < len && sum.runs)
		n += snprintf(out + n, len - (size_t)n, "\truns=%llu", (unsigned long long)sum.runs);
	if (n >= 0 && (size_t)n < len)
		n += snprintf(out + n, len - (size_t)n, "\tfilter=%s\n", p->filter ? p->filter : "");
	return n > 0 && (size_t)n < len ? (size_t)n : 0;
}

size_t control_list(const struct loader *l, __u64 allows, size_t from, char *out, size_t len, __u64 *next)
{
	size_t at = 0, n;

	*next = 0;
	for (size_t i = from; i < l->nr_programs; i++) {
		if (!is_first(l, i))
			continue;
		n = put_line(l, i, allows, out + at, len - at);
		if (!n && at) {
			*next = i;
			break;
		}
		at += n;
	}
	return at;
}
