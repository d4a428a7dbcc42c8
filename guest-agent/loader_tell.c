/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What readers have to know of programs that are switched, filtered, sampled and exchanged. They take it that
 * they see all records of an event, unless they are told: which task runs is known from switches.
 */
#include "loader_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

struct telling {
	const struct loader *l;
	const bool *program;
	struct htrace_schema *s;
	struct htrace_schema_builder *b;
	bool whole; /* of the events under way */
	int err;
};

static bool is_whole(const struct program *p)
{
	return loader_is_on(p) && !p->filter && p->sample < 2;
}

/*
 * Do @a and @b record the same events? Built-in ones those of their own name; of a tracer of the user's it is
 * not known which of its programs records what.
 */
static bool are_alike(const struct loader *l, const struct program *a, const struct program *b)
{
	char name[64], other[64];

	if (a->obj != b->obj || !loader_tracer_of(l, a)->built_in)
		return a->obj == b->obj;
	loader_event_name(l, a, name);
	loader_event_name(l, b, other);
	return !strcmp(name, other);
}

static bool are_whole(const struct loader *l, const struct program *p)
{
	for (size_t i = 0; i < l->nr_programs; i++)
		if (are_alike(l, p, &l->program[i]) && !is_whole(&l->program[i]))
			return false;
	return true;
}

static bool was_told(const struct telling *w, size_t nr)
{
	for (size_t i = 0; i < nr; i++)
		if (w->program[i] && are_alike(w->l, &w->l->program[i], &w->l->program[nr]))
			return true;
	return false;
}

/* With --filter some are left to readers to test, of which it cannot be said that they are not whole. */
static void tell_event(struct telling *w, const struct htrace_event *e)
{
	const char *filter = htrace_schema_filter(w->s);

	if (w->err || !e || !strcmp(e->name, HTRACE_STACK_EVENT) ||
	    htrace_schema_is_filtered(w->s, e->id) == !w->whole)
		return;
	if (!filter || !*filter) {
		w->err = w->whole ? htrace_builder_unfiltered(w->b, e->id) : htrace_builder_filtered(w->b, e->id);
		return;
	}
	if (w->whole || strcmp(e->name, "sched_switch"))
		return;
	say("sched_switch is filtered by the host's reader, for which it is needed, and some would be missing: "
	    "start the agent with another --filter");
	w->err = -EBUSY;
}

static void tell_by_id(void *ctx, __u32 id, __u32 number, bool stacks)
{
	struct telling *w = ctx;

	(void)number;
	(void)stacks;
	tell_event(w, id ? htrace_schema_event(w->s, id) : NULL);
}

/* 32-bit system calls are recorded by the program of the others. */
static void tell_program(struct telling *w, const struct program *p)
{
	const struct tracer *t = loader_tracer_of(w->l, p);
	char name[64 + 8] = LOADER_COMPAT;

	if (!t->built_in) {
		loader_events_of(t, tell_by_id, w);
		return;
	}
	loader_event_name(w->l, p, name + strlen(LOADER_COMPAT));
	tell_event(w, htrace_schema_event_by_name(w->s, name + strlen(LOADER_COMPAT)));
	tell_event(w, htrace_schema_event_by_name(w->s, name));
}

size_t loader_tell_room(const struct loader *l)
{
	/* Of each, and of its 32-bit kind */
	return 2 * l->nr_programs * (sizeof(struct htrace_schema_filter) + 8);
}

int loader_tell(const struct loader *l, const bool *program, const bool *whole, struct htrace_region *region)
{
	struct telling w = {.l = l, .program = program};
	size_t len, added = 0;
	const void *old = htrace_region_schema_entries(region, &len), *entries;
	char why[160] = "";

	w.err = htrace_schema_parse(&w.s, old, len, why, sizeof(why));
	if (!w.err)
		w.err = htrace_builder_new(&w.b, old, len);
	for (size_t i = 0; i < l->nr_programs && !w.err; i++) {
		if (!program[i] || was_told(&w, i))
			continue;
		w.whole = whole ? *whole : are_whole(l, &l->program[i]);
		tell_program(&w, &l->program[i]);
	}
	if (!w.err) {
		entries = htrace_builder_entries(w.b, &added);
		w.err = added ? htrace_region_add_schema(region, entries, added) : 0;
	}
	if (w.err == -ENOSPC)
		say("the region's schema area is full: stop the agent properly (SIGTERM) and start it again");
	else if (w.err && w.err != -EBUSY)
		say("readers cannot be told: %s", why[0] ? why : strerror(-w.err));
	htrace_builder_free(w.b);
	htrace_schema_free(w.s);
	return w.err ? -1 : 0;
}
