/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "boot.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define INIT 1 /* the first task's id */

/* An initcall, by its address: the one under way, or the last that was. */
struct open {
	struct table_key key;
	size_t index; /* in boot->initcall, + 1 */
};

struct boot *boot_new(void)
{
	struct boot *b = calloc(1, sizeof(*b));

	if (!b)
		return NULL;
	b->initcall = calloc(BOOT_INITCALLS, sizeof(*b->initcall));
	b->modules.at = calloc(BOOT_STEPS, sizeof(*b->modules.at));
	b->programs.at = calloc(BOOT_STEPS, sizeof(*b->programs.at));
	if (b->initcall && b->modules.at && b->programs.at && !table_init(&b->open, BOOT_INITCALLS, sizeof(struct open)))
		return b;
	boot_free(b);
	return NULL;
}

void boot_free(struct boot *b)
{
	if (!b)
		return;
	table_free(&b->open);
	free(b->initcall);
	free(b->modules.at);
	free(b->programs.at);
	free(b);
}

void boot_event(struct boot *b, __u64 time)
{
	if (!b->events++ || time < b->first)
		b->first = time;
	if (time > b->last)
		b->last = time;
}

void boot_level(struct boot *b, __u64 time, const char *name)
{
	struct boot_level *l = &b->level[b->nr_levels];

	if (b->nr_levels == BOOT_LEVELS) {
		b->no_room++;
		return;
	}
	b->nr_levels++;
	snprintf(l->name, sizeof(l->name), "%s", name);
	l->begin = time;
	b->unordered = true;
}

static struct boot_initcall *new_initcall(struct boot *b, struct open *o, const char *name)
{
	struct boot_initcall *i = &b->initcall[b->nr_initcalls];

	if (b->nr_initcalls == BOOT_INITCALLS) {
		b->no_room++;
		return NULL;
	}
	o->index = ++b->nr_initcalls;
	snprintf(i->name, sizeof(i->name), "%s", name);
	return i;
}

void boot_initcall(struct boot *b, __u64 time, __u64 address, const char *name, unsigned int cpu, bool finish,
		   __s32 ret)
{
	const struct table_key key = { .a = address };
	struct open *o = table_get(&b->open, &key);
	struct boot_initcall *i = o && o->index ? &b->initcall[o->index - 1] : NULL;

	if (!o) {
		b->no_room++;
		return;
	}
	/* Of one that was called before, and is over, this is another call. */
	if (!i || (finish ? i->ended : i->began) || (finish && i->began && time < i->begin) ||
	    (!finish && i->ended && time > i->end))
		i = new_initcall(b, o, name);
	if (!i)
		return;
	i->cpu = cpu;
	if (finish) {
		i->ended = true;
		i->end = time;
		i->ret = ret;
	} else {
		i->began = true;
		i->begin = time;
	}
	b->unordered = true;
}

static void step(struct boot *b, struct boot_steps *s, __u64 time, __u32 tid, const char *text)
{
	struct boot_step *at = &s->at[s->nr];

	s->count++;
	if (s->nr == BOOT_STEPS)
		return;
	s->nr++;
	at->time = time;
	at->tid = tid;
	snprintf(at->text, sizeof(at->text), "%s", text);
	b->unordered = true;
}

void boot_module(struct boot *b, __u64 time, __u32 tid, const char *name)
{
	step(b, &b->modules, time, tid, name);
}

void boot_program(struct boot *b, __u64 time, __u32 tid, const char *path)
{
	step(b, &b->programs, time, tid, path);
	if (tid == INIT && (!b->user || time < b->user))
		b->user = time;
}

/* ----------------------------------------------------------------------------------------- in order */

static int by_begin(const void *a, const void *b)
{
	const struct boot_level *x = a, *y = b;

	return x->begin < y->begin ? -1 : x->begin > y->begin;
}

static int by_time(const void *a, const void *b)
{
	const struct boot_step *x = a, *y = b;

	return x->time < y->time ? -1 : x->time > y->time;
}

static unsigned int level_of(const struct boot *b, const struct boot_initcall *i)
{
	__u64 time = i->began ? i->begin : i->end;
	unsigned int l = b->nr_levels;

	if (b->user && time >= b->user) /* the kernel's own are all over then: a module's */
		return b->nr_levels;
	while (l && b->level[l - 1].begin > time)
		l--;
	return l ? l - 1 : b->nr_levels;
}

void boot_settle(struct boot *b)
{
	struct boot_level *last = b->nr_levels ? &b->level[b->nr_levels - 1] : NULL;

	if (!b->unordered)
		return;
	b->unordered = false;
	b->before = 0;
	qsort(b->level, b->nr_levels, sizeof(*b->level), by_begin);
	qsort(b->modules.at, b->modules.nr, sizeof(*b->modules.at), by_time);
	qsort(b->programs.at, b->programs.nr, sizeof(*b->programs.at), by_time);
	for (unsigned int l = 0; l < b->nr_levels; l++) {
		b->level[l].end = l + 1 < b->nr_levels ? b->level[l + 1].begin : b->level[l].begin;
		b->level[l].nr = 0;
		b->level[l].ns = 0;
	}
	for (size_t n = 0; n < b->nr_initcalls; n++) {
		struct boot_initcall *i = &b->initcall[n];

		i->level = level_of(b, i);
		if (i->level == b->nr_levels) {
			b->before += !b->user || (i->began ? i->begin : i->end) < b->user;
			continue;
		}
		b->level[i->level].nr++;
		b->level[i->level].ns += boot_took(i);
		if (&b->level[i->level] == last && i->end > last->end)
			last->end = i->end;
	}
	if (last && b->user > last->begin)
		last->end = b->user;
}

static int by_duration(const void *a, const void *b)
{
	const struct boot_initcall *x = *(const struct boot_initcall *const *)a, *y = *(const struct boot_initcall *const *)b;

	if (boot_took(x) != boot_took(y))
		return boot_took(x) > boot_took(y) ? -1 : 1;
	return x->begin < y->begin ? -1 : x->begin > y->begin;
}

const struct boot_initcall **boot_slowest(const struct boot *b, unsigned int level, size_t *nr)
{
	const struct boot_initcall **of;

	*nr = 0;
	for (size_t n = 0; n < b->nr_initcalls; n++)
		*nr += b->initcall[n].level == level;
	of = *nr ? calloc(*nr, sizeof(struct boot_initcall *)) : NULL;
	*nr = 0;
	for (size_t n = 0; of && n < b->nr_initcalls; n++)
		if (b->initcall[n].level == level)
			of[(*nr)++] = &b->initcall[n];
	if (of)
		qsort(of, *nr, sizeof(struct boot_initcall *), by_duration);
	return of;
}
