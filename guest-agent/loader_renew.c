/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Programs that are loaded while others record: events that were not chosen at the start, and events whose
 * filter or sampling is another now. Of a built-in tracer all programs are loaded together, as they may
 * share maps; each takes the place of the one before it when all of them are loaded, so that what is
 * refused changes nothing.
 */
#include "loader_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"

/* Where they are built up, and what they come to. */
struct work {
	const struct loader_renewal *r;
	struct loader *now, *fresh;
	struct htrace_schema_builder *b;
};

/* ------------------------------------------------------------------------------------------- choosing */

static struct program *find_program(struct loader *l, const struct tracer *t, const char *name)
{
	for (size_t i = 0; i < l->nr_programs; i++)
		if (l->program[i].obj == t->obj && !strcmp(bpf_program__name(l->program[i].prog), name))
			return &l->program[i];
	return NULL;
}

static struct tracer *find_tracer(struct loader *l, const char *name)
{
	for (size_t i = 0; i < l->nr_tracers; i++)
		if (!strcmp(l->tracer[i].name, name))
			return &l->tracer[i];
	return NULL;
}

static void choose_none(struct tracer *t)
{
	struct bpf_program *p;

	bpf_object__for_each_program(p, t->obj)
		bpf_program__set_autoload(p, false);
}

/* Was a program of the tracer @t picked? */
static bool is_picked(const struct work *w, const struct tracer *t)
{
	for (size_t i = 0; i < w->now->nr_programs; i++)
		if (w->r->program[i] && w->now->program[i].obj == t->obj)
			return true;
	return false;
}

/* Words that choose what can come later. */
static int check_words(const char *words)
{
	char list[HTRACE_CONTROL_MAX + 1], *save;

	snprintf(list, sizeof(list), "%s", words);
	for (char *at = strtok_r(list, ",", &save); at; at = strtok_r(NULL, ",", &save)) {
		if (strncmp(at, "profile", 7) && strncmp(at, "function:", 9) && strncmp(at, "boot", 4) &&
		    strcmp(at, "none"))
			continue;
		say("%s cannot be added while the agent runs: start it with --events %s", at, at);
		return -1;
	}
	return 0;
}

static int open_tracers(struct work *w)
{
	if (loader_open_built_in(w->fresh))
		return -1;
	w->r->keep_up(w->r->ctx);
	if (w->r->more) {
		if (check_words(w->r->more) || loader_select(w->fresh, w->r->more))
			return -1;
	} else {
		for (size_t i = 0; i < w->fresh->nr_tracers; i++)
			choose_none(&w->fresh->tracer[i]);
	}
	for (size_t i = 0; i < w->now->nr_tracers; i++) {
		const struct tracer *t = &w->now->tracer[i];

		if (!is_picked(w, t) || t->built_in)
			continue;
		if (!t->tp) {
			say("programs of %s cannot be loaded anew: start the agent with another filter", t->name);
			return -1;
		}
		if (loader_open_tracepoint(w->fresh, t->tp->system, t->tp->name))
			return -1;
	}
	return 0;
}

/* Has it what is neither there already nor chosen only because of the names of tasks? */
static bool is_wanted(struct work *w, const struct tracer *fresh, const struct tracer *now)
{
	struct bpf_program *p;

	bpf_object__for_each_program(p, fresh->obj) {
		if (bpf_program__autoload(p) && !find_program(w->now, now, bpf_program__name(p)))
			return true;
	}
	return is_picked(w, now);
}

/* The object of those that are there is closed: each needs another one. A module with its hook may be gone. */
static int check_all_there(struct work *w)
{
	for (size_t i = 0; i < w->now->nr_programs; i++) {
		const struct program *p = &w->now->program[i];
		const struct tracer *now = loader_tracer_of(w->now, p), *t = find_tracer(w->fresh, now->name);

		if (!t || (!is_picked(w, now) && !loader_is_used(t)) ||
		    find_program(w->fresh, t, bpf_program__name(p->prog)))
			continue;
		message_forget(); /* not that it is left out: it goes on as it was */
		say("%s cannot be loaded anew: this kernel has its hook no more", p->name);
		return -1;
	}
	return 0;
}

/* All that the tracers have that are loaded anew, old and new. */
static int choose_programs(struct work *w)
{
	struct loader *fresh = w->fresh;

	fresh->nr_programs = 0;
	for (size_t i = 0; i < fresh->nr_tracers; i++) {
		struct tracer *t = &fresh->tracer[i], *now = find_tracer(w->now, t->name);
		struct bpf_program *p;

		if (now && !is_wanted(w, t, now)) {
			choose_none(t);
			continue;
		}
		t->substitute_chosen |= now && now->substitute_chosen;
		bpf_object__for_each_program(p, t->obj) {
			const struct program *old = now ? find_program(w->now, now, bpf_program__name(p)) : NULL;
			struct program *added = &fresh->program[fresh->nr_programs];

			if (old)
				bpf_program__set_autoload(p, true);
			if (!bpf_program__autoload(p))
				continue;
			if (loader_add_program(fresh, t, p))
				return -1;
			added->filter = old ? old->filter : NULL;
			added->sample = old ? old->sample : 0;
		}
	}
	fresh->kernel = w->now->kernel;
	return loader_check_hooks(fresh) || check_all_there(w) ? -1 : 0;
}

/* -------------------------------------------------------------------------------------------- loading */

/* The one that @p takes the place of; NULL: it was not there before. */
static struct program *old_of(struct work *w, const struct program *p)
{
	const struct tracer *now = find_tracer(w->now, loader_tracer_of(w->fresh, p)->name);

	return now ? find_program(w->now, now, bpf_program__name(p->prog)) : NULL;
}

static size_t nr_added(struct work *w)
{
	size_t nr = 0;

	for (size_t i = 0; i < w->fresh->nr_programs; i++)
		nr += !old_of(w, &w->fresh->program[i]);
	return nr;
}

static size_t nr_tracers_added(struct work *w)
{
	size_t nr = 0;

	for (size_t i = 0; i < w->fresh->nr_tracers; i++)
		nr += !find_tracer(w->now, w->fresh->tracer[i].name);
	return nr;
}

/* Each takes its time, and the heart has to beat. */
static int load_tracers(struct work *w, __u32 schema)
{
	int err = 0;

	for (size_t i = 0; i < w->fresh->nr_tracers && !err; i++) {
		struct tracer *t = &w->fresh->tracer[i];

		if (!loader_is_used(t))
			continue;
		err = loader_load_tracer(w->fresh, t, w->r->rings_fd, w->r->geometry, schema);
		w->r->keep_up(w->r->ctx);
	}
	return err;
}

/*
 * The kernel may take its time from when one is detached until another records: of all that are exchanged some
 * records will be missing.
 */
static int tell_readers(struct work *w)
{
	bool exchanged[HTRACE_MAX_PROGS] = {false};
	static const bool whole = false;

	for (size_t i = 0; i < w->fresh->nr_programs; i++) {
		const struct program *old = old_of(w, &w->fresh->program[i]);

		if (old)
			exchanged[old - w->now->program] = true;
	}
	return loader_tell(w->now, exchanged, &whole, w->r->region);
}

/* Room for @more, and to tell readers of what is exchanged, before and behind. */
static int check_room(const struct work *w, size_t more)
{
	struct htrace_region *region = w->r->region;
	size_t used, size = htrace_region_super(region)->schema.len - sizeof(struct htrace_schema_area);

	htrace_region_schema_entries(region, &used);
	if (used + more + 2 * loader_tell_room(w->fresh) <= size)
		return 0;
	say("the region's schema area is full: stop the agent properly (SIGTERM) and start it again");
	return -1;
}

static int load(struct work *w)
{
	const struct loader_renewal *r = w->r;
	struct loader *fresh = w->fresh;
	const void *old, *entries;
	char why[256] = "";
	size_t len, added;

	if (w->now->nr_programs + nr_added(w) > HTRACE_MAX_PROGS) {
		say("these would be more than %d programs", HTRACE_MAX_PROGS);
		return -1;
	}
	if (w->now->nr_tracers + nr_tracers_added(w) > MAX_TRACERS) {
		say("these would be more than %d tracers", MAX_TRACERS);
		return -1;
	}
	if (r->more && !nr_added(w)) {
		say("nothing of '%s' is there to be recorded", r->more);
		return -1;
	}
	fresh->stacks = w->now->stacks;
	fresh->packs = w->now->packs;
	if (w->now->by_module && loader_check_module(fresh, why, sizeof(why))) {
		say("%s", why);
		return -1;
	}
	old = htrace_region_schema_entries(r->region, &len);
	if (htrace_builder_new(&w->b, old, len) || loader_declare(fresh, w->b) ||
	    loader_filter_more(fresh, r->filter, w->b, old, len) ||
	    (w->now->by_module && loader_use_module(fresh)))
		return -1;
	entries = htrace_builder_entries(w->b, &added);
	if (check_room(w, added) || tell_readers(w))
		return -1;
	r->keep_up(r->ctx);
	if (load_tracers(w, (__u32)(htrace_region_schema(r->region)->generation + (added ? 1 : 0))))
		return -1;
	if (!added || !htrace_region_add_schema(r->region, entries, added))
		return 0;
	say("readers cannot be told of the new events");
	return -1;
}

/* -------------------------------------------------------------------------------------- taking over */

/* What replaces what, by index; those without another are new. */
struct exchange {
	struct program *old, *fresh;
	bool was_on;
};

/* At the point of changing all is made, but a hook may still refuse: then the one before goes on. */
static int change_one(struct exchange *e)
{
	e->was_on = e->old && loader_is_on(e->old);
	if (e->was_on)
		loader_detach_one(e->old);
	if (e->old && !e->was_on)
		return 0;
	return loader_attach_one(e->fresh);
}

/* What program @from of @l, which runs no more, counted is @to's, too. */
static void hand_over(const struct loader *l, const struct program *from, struct program *to)
{
	struct htrace_prog ended;

	loader_counters(l, (size_t)(from - l->program), &ended);
	to->misses_before += ended.misses;
	to->runs_before += ended.runs;
}

/* New ones are gone again: some of their records are there, and no more will be. */
static void tell_gone(struct work *w, const struct exchange *e, size_t nr)
{
	bool gone[HTRACE_MAX_PROGS] = {false};
	static const bool whole = false;

	for (size_t i = 0; i < nr; i++)
		gone[i] = !e[i].old && loader_is_on(e[i].fresh);
	loader_tell(w->fresh, gone, &whole, w->r->region);
}

static void change_back(struct work *w, struct exchange *e, size_t nr)
{
	tell_gone(w, e, nr);
	for (size_t i = nr; i-- > 0;) {
		loader_detach_one(e[i].fresh);
		if (e[i].was_on)
			loader_attach_one(e[i].old);
		w->r->keep_up(w->r->ctx);
	}
	loader_let_end();
	for (size_t i = 0; i < nr; i++)
		if (e[i].was_on)
			hand_over(w->fresh, e[i].fresh, e[i].old);
}

/* The new one stands in the place of the old one, which is closed with what is left. */
static void keep(struct work *w, const struct exchange *e)
{
	struct program *to = e->old ? e->old : &w->now->program[w->now->nr_programs];

	if (e->old)
		hand_over(w->now, e->old, e->fresh);
	else
		w->now->nr_programs++;
	*to = *e->fresh;
}

static void keep_tracers(struct work *w)
{
	for (size_t i = 0; i < w->fresh->nr_tracers; i++) {
		struct tracer *t = &w->fresh->tracer[i], *now = find_tracer(w->now, t->name), old;

		if (!loader_is_used(t))
			continue;
		if (!now) {
			now = &w->now->tracer[w->now->nr_tracers++];
			memset(now, 0, sizeof(*now));
		}
		old = *now;
		*now = *t;
		*t = old;
	}
}

static int take_over(struct work *w)
{
	struct loader *fresh = w->fresh;
	struct exchange *e = calloc(fresh->nr_programs, sizeof(*e));
	size_t done = 0;
	int err = e ? 0 : -1;

	for (size_t i = 0; i < fresh->nr_programs && !err; i++, done++) {
		e[i].fresh = &fresh->program[i];
		e[i].old = old_of(w, e[i].fresh);
		err = change_one(&e[i]);
		w->r->keep_up(w->r->ctx);
	}
	if (err)
		change_back(w, e, done);
	else
		loader_let_end();
	for (size_t i = 0; i < fresh->nr_programs && !err; i++)
		keep(w, &e[i]);
	free(e);
	if (!err)
		keep_tracers(w);
	return err;
}

int loader_renew(struct loader *l, const struct loader_renewal *r)
{
	struct work w = {.r = r, .now = l, .fresh = calloc(1, sizeof(*w.fresh))};
	int err;

	if (!w.fresh)
		return -1;
	err = open_tracers(&w) || choose_programs(&w);
	r->keep_up(r->ctx);
	err = err || load(&w) || take_over(&w);
	/* What is kept is not its own. */
	w.fresh->nr_programs = 0;
	w.fresh->kernel = NULL;
	memset(&w.fresh->stacks, 0, sizeof(w.fresh->stacks));
	htrace_builder_free(w.b);
	loader_close(w.fresh);
	free(w.fresh);
	return err ? -1 : 0;
}
