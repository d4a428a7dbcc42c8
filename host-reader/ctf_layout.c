/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which fields LTTng has of the events that we have too, and in which order. Ours have no names of
 * tasks in them; they are put in where LTTng has them. Whatever else a record holds comes behind.
 */
#include <stdlib.h>
#include <string.h>

#include "ctf.h"
#include "show.h"

#define LISTED 12 /* fields of one event below, at most */

/* Fields in LTTng's order; NAME=TID is the name of the task in field TID. */
static const struct {
	const char *event;
	const char *fields[LISTED];
} lttng[] = {
	{ "sched_switch",
	  { "prev_comm=prev_tid", "prev_tid", "prev_prio", "prev_state", "next_comm=next_tid",
	    "next_tid", "next_prio" } },
	{ "sched_waking", { "comm=tid", "tid", "prio", "target_cpu" } },
	{ "sched_wakeup", { "comm=tid", "tid", "prio", "target_cpu" } },
	{ "sched_wakeup_new", { "comm=tid", "tid", "prio", "target_cpu" } },
	{ "sched_process_fork",
	  { "parent_comm=parent_tid", "parent_tid", "parent_pid", "child_comm", "child_tid",
	    "child_pid" } },
	{ "sched_process_exec", { "filename", "tid", "old_tid" } },
	{ "sched_process_exit", { "comm=tid", "tid", "prio" } },
	{ "signal_generate", { "sig", "errno", "code", "comm=pid", "pid", "group", "result" } },
};

static __u32 find(const struct htrace_type *t, const char *name)
{
	__u32 i = 0;

	while (i < t->nr && strcmp(t->members[i].name, name) != 0)
		i++;
	return i;
}

const char *ctf_syscall_prefix(const struct htrace_event *e)
{
	const char *prefix = !strcmp(e->name, "sys_enter") ? "syscall_entry_" :
			     !strcmp(e->name, "sys_exit") ? "syscall_exit_" :
							    NULL;
	__u32 nr = prefix ? find(e->type, "nr") : 0;

	return prefix && nr < e->type->nr && e->type->members[nr].type->hint == HTRACE_HINT_SYSCALL ?
		       prefix :
		       NULL;
}

static void add_comm(struct ctf_layout *l, const struct htrace_type *t, const char *field,
		     size_t len)
{
	__u32 tid = find(t, field + len + 1);
	const struct htrace_type *type = tid < t->nr ? t->members[tid].type : NULL;
	struct ctf_item *to = &l->item[l->nr];

	if (!type || type->kind != HTRACE_TYPE_INT || type->hint != HTRACE_HINT_TID ||
	    type->size > 8)
		return;
	*to = (struct ctf_item){ .what = CTF_COMM, .member = tid };
	memcpy(to->name, field, len);
	l->nr += find(t, to->name) == t->nr; /* else its record has that name after all */
}

static void add_member(struct ctf_layout *l, const struct htrace_type *t, const char *field,
		       bool *taken)
{
	__u32 i = find(t, field);

	/* What reaches to the record's end may be moved: in CTF it has a length. */
	if (i == t->nr || taken[i])
		return;
	taken[i] = true;
	l->item[l->nr++] = (struct ctf_item){ .what = CTF_MEMBER, .member = i };
}

static void add_listed(struct ctf_layout *l, const struct htrace_event *e, bool *taken)
{
	size_t i = 0;

	while (i < sizeof(lttng) / sizeof(*lttng) && strcmp(lttng[i].event, e->name) != 0)
		i++;
	for (int f = 0; i < sizeof(lttng) / sizeof(*lttng) && f < LISTED && lttng[i].fields[f];
	     f++) {
		const char *field = lttng[i].fields[f];
		size_t len = strcspn(field, "=");

		if (field[len])
			add_comm(l, e->type, field, len);
		else
			add_member(l, e->type, field, taken);
	}
}

/* Arguments that are numbers, under their own names, beside all of them as they are. */
static void add_arguments(struct ctf_layout *l, const struct htrace_event *e, const char *syscall)
{
	__u32 args = find(e->type, "args");
	const struct htrace_type *t = args < e->type->nr ? e->type->members[args].type : NULL;
	const struct syscall_arg *arg = syscall ? syscall_args(syscall) : NULL;

	if (!arg || !t || t->kind != HTRACE_TYPE_ARRAY || t->size != 6 * 8 ||
	    t->elem->kind != HTRACE_TYPE_INT || t->elem->size != 8)
		return;
	for (; *arg->name; arg++) {
		struct ctf_item *to = &l->item[l->nr];

		*to = (struct ctf_item){
			.what = CTF_ARG, .member = args, .arg = arg->index, .type = arg->type
		};
		strcpy(to->name, arg->name);
		l->nr += find(e->type, to->name) == e->type->nr;
	}
}

struct ctf_layout *ctf_layout_new(const struct htrace_event *e, const char *syscall)
{
	size_t most = e->type->nr + LISTED + SYSCALL_ARGS;
	struct ctf_layout *l = calloc(1, sizeof(*l) + most * sizeof(*l->item));
	bool *taken = calloc(e->type->nr + 1, sizeof(*taken));

	if (l && taken) {
		add_listed(l, e, taken);
		if (syscall)
			add_arguments(l, e, syscall);
		for (__u32 i = 0; i < e->type->nr; i++)
			if (!taken[i])
				l->item[l->nr++] = (struct ctf_item){ .member = i };
	} else {
		free(l);
		l = NULL;
	}
	free(taken);
	return l;
}
