/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which events have stacks recorded with them, and the maps that this takes. */
#include "loader_internal.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>

#include "message.h"

#define SEEN_ENTRIES 16384 /* stacks; of more than that, rare ones are recorded more often */
#define PIDS_ENTRIES 4096

/* ---------------------------------------------------------------------------------- selection */

static bool names_event(const char *word, const struct tracer *t, const char *event)
{
	if (t->tp)
		return !fnmatch(word, t->name, 0) || !fnmatch(word, t->tp->name, 0);
	return !strcmp(word, t->name) || !fnmatch(word, event, 0);
}

/* Built-in programs have their events' names: is @event's chosen? Of files all are. */
static bool is_traced(const struct tracer *t, const char *event)
{
	const struct bpf_program *p = bpf_object__find_program_by_name(t->obj, event);

	if (!loader_is_used(t))
		return false;
	return !t->built_in || !p || bpf_program__autoload(p);
}

bool loader_wants_stack(const struct loader *l, const struct tracer *t, const char *event)
{
	if (!strcmp(event, HTRACE_STACK_EVENT) || !is_traced(t, event))
		return false;
	if (t->hz)
		return true;
	for (size_t i = 0; i < l->stacks.nr; i++)
		if (names_event(l->stacks.word[i], t, event))
			return true;
	return false;
}

bool loader_has_stacks(const struct loader *l)
{
	for (size_t i = 0; i < l->nr_tracers; i++)
		if (l->tracer[i].nr_stacks)
			return true;
	return false;
}

bool loader_uses_trampolines(const struct loader *l)
{
	static const char *const sections[] = {"fentry", "fexit", "fmod_ret", "lsm"};

	for (size_t i = 0; i < l->nr_programs; i++)
		for (size_t k = 0; k < ARRAY_SIZE(sections); k++)
			if (!strncmp(bpf_program__section_name(l->program[i].prog), sections[k],
				     strlen(sections[k])))
				return true;
	return false;
}

struct search {
	const char *word;
	const struct tracer *t;
	bool found, untraced;
	char like[400];
	size_t len;
};

static void look(void *ctx, const char *event)
{
	const char *name;
	struct search *s = ctx;
	size_t len = strlen(s->word);

	if (!strcmp(event, HTRACE_STACK_EVENT))
		return;
	name = s->t->tp ? s->t->name : event;
	if (names_event(s->word, s->t, event)) {
		if (is_traced(s->t, event))
			s->found = true;
		else
			s->untraced = true;
	} else if (len > 3 && s->len < sizeof(s->like) - 70 && is_traced(s->t, event) &&
		   (strstr(name, s->word) || !strncmp(name, s->word, len - 2))) {
		s->len += (size_t)snprintf(s->like + s->len, sizeof(s->like) - s->len, "%s%.63s",
					   s->len ? ", " : "", name);
	}
}

static int check_word(const struct loader *l, const char *word)
{
	struct search s = {.word = word};

	for (size_t i = 0; i < l->nr_tracers; i++) {
		s.t = &l->tracer[i];
		if (s.t->built_in || loader_is_used(s.t))
			loader_events(s.t, look, &s);
	}
	if (s.found)
		return 0;
	if (s.untraced)
		say("--stack: '%s' is not traced; name it in --events too", word);
	else
		say("--stack: no event that is traced matches '%s'%s%s", word,
		    s.like[0] ? "; there are " : "", s.like);
	return -1;
}

int loader_select_stacks(struct loader *l, const char *events)
{
	char *list = strdup(events), *save;
	bool any = false;
	int err = 0;

	if (!list)
		return -1;
	for (char *w = strtok_r(list, ",", &save); w && !err; w = strtok_r(NULL, ",", &save)) {
		any = true;
		err = check_word(l, w);
		if (!err && l->stacks.nr == MAX_STACK_WORDS) {
			say("--stack: more than %d words", MAX_STACK_WORDS);
			err = -1;
		}
		if (!err)
			l->stacks.word[l->stacks.nr++] = strdup(w);
	}
	if (!any) {
		say("--stack: the list is empty; name events that are traced");
		err = -1;
	}
	free(list);
	return err;
}

/* --------------------------------------------------------------------------------------- maps */

static int make_map(int *fd, const char *name, __u32 key_size, __u32 entries)
{
	if (*fd > 0)
		return 0;
	*fd = bpf_map_create(BPF_MAP_TYPE_LRU_HASH, name, key_size, sizeof(__u64), entries, NULL);
	if (*fd > 0)
		return 0;
	say("cannot make the table of stacks: %s", strerror(errno));
	return -1;
}

int loader_prepare_stacks(struct loader *l, const struct tracer *t)
{
	struct bpf_map *scratch = bpf_object__find_map_by_name(t->obj, "htrace_stack_scratch");
	struct bpf_map *seen = bpf_object__find_map_by_name(t->obj, "htrace_stack_seen");
	struct bpf_map *pids = bpf_object__find_map_by_name(t->obj, "htrace_stack_pids");

	if (!scratch || !seen || !pids) {
		if (!t->nr_stacks)
			return 0;
		say("--stack: tracer %s was compiled against an older htrace.bpf.h; compile it anew",
		    t->name);
		return -1;
	}
	if (!t->nr_stacks) { /* the code that uses them is dead then */
		bpf_map__set_autocreate(scratch, false);
		bpf_map__set_autocreate(seen, false);
		bpf_map__set_autocreate(pids, false);
		return 0;
	}
	if (make_map(&l->stacks.seen_fd, "htrace_seen", sizeof(__u64), SEEN_ENTRIES) ||
	    make_map(&l->stacks.pids_fd, "htrace_pids", sizeof(__u32), PIDS_ENTRIES))
		return -1;
	if (bpf_map__set_max_entries(scratch, t->nr_stacks) ||
	    bpf_map__reuse_fd(seen, l->stacks.seen_fd) ||
	    bpf_map__reuse_fd(pids, l->stacks.pids_fd)) {
		say("tracer %s: its tables of stacks do not fit this agent; compile it against this "
		    "version's htrace.bpf.h", t->name);
		return -1;
	}
	return 0;
}

void loader_close_stacks(struct loader *l)
{
	while (l->stacks.nr)
		free(l->stacks.word[--l->stacks.nr]);
	if (l->stacks.seen_fd > 0)
		close(l->stacks.seen_fd);
	if (l->stacks.pids_fd > 0)
		close(l->stacks.pids_fd);
}
