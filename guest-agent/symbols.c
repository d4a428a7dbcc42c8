/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel's functions, from /proc/kallsyms into the region's schema area, compressed. */
#include "symbols.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <zlib.h>

#include "message.h"

#define MAX_MODULES 4096
#define MODULE_NAME 64

struct symbol {
	__u64 address;
	__u32 order; /* of aliases the first in kallsyms is the one that the kernel itself shows */
	__u32 name;  /* of its text, with the module behind a space, in symbols.text */
};

struct symbols {
	struct symbol *at;
	size_t nr, room;
	char *text;
	size_t len, text_room;
	bool hidden; /* there are addresses of 0 */
};

/* A module that is in the region, or that this look found. */
struct module {
	char name[MODULE_NAME];
	unsigned long long base;
};

static struct module known[MAX_MODULES];
static size_t nr_known, nr_kept;
static bool given_up; /* it did not fit, and that was said */

/* ----------------------------------------------------------------------------------- collecting */

static int grow(void **p, size_t *room, size_t need, size_t each)
{
	size_t more = *room ? *room : 4096;
	void *q;

	while (more < need)
		more *= 2;
	if (more == *room)
		return 0;
	q = realloc(*p, more * each);
	if (!q)
		return -1;
	*p = q;
	*room = more;
	return 0;
}

static int add_symbol(struct symbols *s, __u64 address, const char *name, const char *module)
{
	size_t need = s->len + strlen(name) + strlen(module) + 2;

	if (grow((void **)&s->at, &s->room, s->nr + 1, sizeof(*s->at)) ||
	    grow((void **)&s->text, &s->text_room, need, 1))
		return -1;
	s->at[s->nr] = (struct symbol){address, (__u32)s->nr, (__u32)s->len};
	s->nr++;
	s->len += (size_t)sprintf(s->text + s->len, "%s%s%s", name, *module ? " " : "", module) + 1;
	return 0;
}

/* @wanted: which to take; module "" is the kernel itself. */
static int collect(struct symbols *s, bool (*wanted)(const char *name, const char *module))
{
	FILE *f = fopen("/proc/kallsyms", "re");
	char line[1024], name[512], module[MODULE_NAME + 2];
	unsigned long long address;
	int err = 0;
	char type;

	if (!f)
		return -1;
	while (!err && fgets(line, sizeof(line), f)) {
		int n = sscanf(line, "%llx %c %511s [%64[^]]]", &address, &type, name, module);

		if (n < 3 || !strchr("tTwW", type))
			continue;
		if (n < 4)
			module[0] = 0;
		if (!address)
			s->hidden = true;
		else if (wanted(name, module))
			err = add_symbol(s, address, name, module);
	}
	fclose(f);
	return err;
}

static int by_address(const void *a, const void *b)
{
	const struct symbol *x = a, *y = b;

	if (x->address != y->address)
		return x->address < y->address ? -1 : 1;
	return x->order < y->order ? -1 : x->order > y->order;
}

/* "DISTANCE NAME [MODULE]" a line: the distance, in hexadecimal, is from the line before. */
static char *to_lines(struct symbols *s, size_t *len)
{
	char *lines = malloc(s->len + s->nr * 19 + 1);
	__u64 before = 0;

	*len = 0;
	if (!lines)
		return NULL;
	qsort(s->at, s->nr, sizeof(*s->at), by_address);
	for (size_t i = 0; i < s->nr; i++) {
		*len += (size_t)sprintf(lines + *len, "%llx %s\n",
					(unsigned long long)(s->at[i].address - before),
					s->text + s->at[i].name);
		before = s->at[i].address;
	}
	return lines;
}

/* ----------------------------------------------------------------------------------- publishing */

static int publish_lines(struct htrace_region *r, const char *lines, size_t len)
{
	uLongf packed = compressBound(len);
	struct htrace_schema_symbols *e;
	size_t size;
	int err;

	if (len > HTRACE_SYMBOLS_MAX)
		return -E2BIG;
	e = calloc(1, sizeof(*e) + packed + 8);
	if (!e)
		return -ENOMEM;
	if (compress((Bytef *)(e + 1), &packed, (const Bytef *)lines, len) != Z_OK) {
		free(e);
		return -ENOMEM;
	}
	size = (sizeof(*e) + packed + 7) & ~7UL;
	e->entry.kind = HTRACE_SCHEMA_SYMBOLS;
	e->entry.len = (__u32)size;
	e->raw = (__u32)len;
	e->packed = (__u32)packed;
	err = htrace_region_add_schema(r, e, size);
	if (!err)
		detail("%zu bytes of the kernel's symbols published in %zu", len, size);
	free(e);
	return err;
}

static void publish(struct htrace_region *r, bool (*wanted)(const char *, const char *))
{
	struct symbols s = {0};
	char *lines = NULL;
	size_t len = 0;
	int err = collect(&s, wanted) ? -ENOMEM : 0;

	if (!err && s.nr) {
		lines = to_lines(&s, &len);
		err = lines ? publish_lines(r, lines, len) : -ENOMEM;
	}
	if (!s.nr && s.hidden)
		say("the kernel hides its symbols' addresses: stacks show addresses; to see names, "
		    "sysctl kernel.kptr_restrict=0 before the agent starts");
	else if (err == -ENOSPC)
		say("the region's schema area has no room for %zu KiB of symbols: what is in them is "
		    "shown as addresses; give the device more memory", len >> 10);
	else if (err)
		say("cannot publish the kernel's symbols: %s; stacks show addresses",
		    strerror(-err));
	given_up |= err != 0;
	free(lines);
	free(s.at);
	free(s.text);
}

/* ------------------------------------------------------------------------------------- modules */

static struct module fresh[MAX_MODULES];
static size_t nr_fresh;

static bool is_known(const struct module *m)
{
	for (size_t i = 0; i < nr_known; i++)
		if (known[i].base == m->base && !strcmp(known[i].name, m->name))
			return true;
	return false;
}

/* Those that are loaded and not known yet. */
static void find_fresh(void)
{
	FILE *f = fopen("/proc/modules", "re");
	char line[1024], state[16];
	struct module m;

	nr_fresh = 0;
	while (f && nr_fresh < MAX_MODULES && fgets(line, sizeof(line), f))
		if (sscanf(line, "%63s %*s %*s %*s %15s %llx", m.name, state, &m.base) == 3 &&
		    !strcmp(state, "Live") && !is_known(&m))
			fresh[nr_fresh++] = m;
	if (f)
		fclose(f);
}

static void keep_fresh(void)
{
	for (size_t i = 0; i < nr_fresh; i++) { /* of more than the table holds the oldest go */
		known[nr_kept++ % MAX_MODULES] = fresh[i];
		nr_known += nr_known < MAX_MODULES;
	}
}

static bool all(const char *name, const char *module)
{
	return true;
}

static bool any_module(const char *name, const char *module)
{
	return *module;
}

static bool fresh_module(const char *name, const char *module)
{
	for (size_t i = 0; i < nr_fresh; i++)
		if (!strcmp(fresh[i].name, module))
			return true;
	return false;
}

void symbols_publish(struct htrace_region *r, bool adopted)
{
	const char *entries;
	struct htrace_schema_entry e;
	bool have = false;
	size_t len;

	entries = adopted ? htrace_region_schema_entries(r, &len) : NULL;
	for (size_t off = 0; entries && off < len; off += e.len) {
		memcpy(&e, entries + off, sizeof(e));
		have |= e.kind == HTRACE_SCHEMA_SYMBOLS;
	}
	find_fresh();
	publish(r, have ? any_module : all);
	keep_fresh();
}

static bool trampoline(const char *name, const char *module)
{
	return !strncmp(name, "bpf_trampoline_", 15);
}

void symbols_attached(struct htrace_region *r)
{
	if (!given_up)
		publish(r, trampoline);
}

void symbols_update(struct htrace_region *r)
{
	if (given_up)
		return;
	find_fresh();
	if (!nr_fresh)
		return;
	publish(r, fresh_module);
	keep_fresh();
}

void symbols_free(void)
{
	nr_known = nr_kept = nr_fresh = 0;
	given_up = false;
}
