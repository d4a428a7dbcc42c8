/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "events.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

struct events {
	__u32 nr;
	struct event_info info[];
};

/* Events known by name; the fields that they must have for it. */
static const struct known {
	const char *event;
	enum event_role role;
	const char *tid, *other, *comm;
	const char *pid; /* not needed */
} known[] = {
	{ "sched_switch", ROLE_SWITCH, "prev_tid", "next_tid", NULL, NULL },
	{ "sched_process_fork", ROLE_FORK, "parent_tid", "child_tid", "child_comm", "child_pid" },
	{ "sched_process_exec", ROLE_EXEC, "tid", NULL, "comm", "tid" },
	{ "task_rename", ROLE_RENAME, "tid", NULL, "comm", "pid" },
	{ "sched_process_exit", ROLE_EXIT, "tid", NULL, NULL, NULL },
	{ "kvm_vcpu", ROLE_EXEC, "tid", NULL, "comm", "vm" },
	{ "kvm_sched_out", ROLE_SWITCH, "tid", "next_tid", "next_comm", NULL },
	/* Their tid is a task that someone else wakes. */
	{ "sched_waking", ROLE_NONE, NULL, NULL, NULL, NULL },
	{ "sched_wakeup", ROLE_NONE, NULL, NULL, NULL, NULL },
	{ "sched_wakeup_new", ROLE_NONE, NULL, NULL, NULL, NULL },
	{ HTRACE_STACK_EVENT, ROLE_STACK, NULL, NULL, NULL, NULL },
};

/* By type: its field tid. Open addressing, at most half full. */
struct tids {
	unsigned int shift; /* the table has 2^(64 - shift) slots */
	struct {
		const struct htrace_type *type;
		const struct htrace_member *tid;
	} *slot;
};

static const struct htrace_member *find(const struct htrace_event *e, const char *name)
{
	for (__u32 i = 0; name && i < e->type->nr; i++)
		if (!strcmp(e->type->members[i].name, name))
			return &e->type->members[i];
	return NULL;
}

static const struct htrace_member *find_tid(const struct htrace_event *e, const char *name)
{
	const struct htrace_member *m = find(e, name);

	return m && m->type->kind == HTRACE_TYPE_INT && m->type->size == 4 && !m->bit_size ? m :
											      NULL;
}

static const struct htrace_member *find_comm(const struct htrace_event *e, const char *name)
{
	const struct htrace_member *m = find(e, name);

	return m && m->type->kind == HTRACE_TYPE_STRING && m->type->size ? m : NULL;
}

/* Many events may have one type, and that many members: each type is looked through once. */
static const struct htrace_member *find_own_tid(struct tids *t, const struct htrace_event *e)
{
	size_t at = ((uintptr_t)e->type >> 4) * 0x9e3779b97f4a7c15ULL >> t->shift;

	while (t->slot[at].type && t->slot[at].type != e->type)
		at = (at + 1) & ((1ULL << (64 - t->shift)) - 1);
	if (!t->slot[at].type) {
		t->slot[at].type = e->type;
		t->slot[at].tid = find_tid(e, "tid");
	}
	return t->slot[at].tid;
}

static void describe(struct event_info *info, struct tids *tids)
{
	const struct htrace_event *e = info->event;

	for (size_t i = 0; i < sizeof(known) / sizeof(*known); i++) {
		const struct known *k = &known[i];

		if (strcmp(k->event, e->name))
			continue;
		info->tid = find_tid(e, k->tid);
		info->other = find_tid(e, k->other);
		info->comm = find_comm(e, k->comm);
		info->pid = find_tid(e, k->pid);
		if (!k->tid == !info->tid && !k->other == !info->other && !k->comm == !info->comm)
			info->role = k->role;
		return;
	}
	info->tid = find_own_tid(tids, e);
	if (info->tid && info->tid->type->hint == HTRACE_HINT_TID)
		info->role = ROLE_TASK;
}

struct events *events_new(const struct htrace_schema *schema, struct selection *selection)
{
	__u32 nr = htrace_schema_nr_events(schema), last = 0;
	struct tids tids = { .shift = 62 };
	struct events *e;

	for (__u32 i = 0; i < nr; i++)
		if (htrace_schema_event_at(schema, i)->id > last)
			last = htrace_schema_event_at(schema, i)->id;
	e = calloc(1, sizeof(*e) + (last + 1) * sizeof(*e->info));
	while (1ULL << (64 - tids.shift) < 2ULL * nr)
		tids.shift--;
	tids.slot = calloc(1ULL << (64 - tids.shift), sizeof(*tids.slot));
	if (!e || !tids.slot) {
		free(tids.slot);
		free(e);
		return NULL;
	}
	e->nr = last + 1;
	for (__u32 i = 0; i < nr; i++) {
		const struct htrace_event *event = htrace_schema_event_at(schema, i);
		struct event_info *info = &e->info[event->id];

		info->event = event;
		info->shown = selection_matches(selection, event->name);
		describe(info, &tids);
		if (info->role == ROLE_STACK)
			info->shown = false;
	}
	free(tids.slot);
	return e;
}

void events_free(struct events *e)
{
	free(e);
}

const struct event_info *events_find(const struct events *e, __u32 id)
{
	return e && id < e->nr && e->info[id].event ? &e->info[id] : NULL;
}

/* A record may be shorter than its event: whoever wrote it is not trusted. */
static bool get_tid(const struct htrace_member *m, const struct htrace_record *r, __u32 *tid)
{
	if (m->bit_off / 8 + 4 > r->len)
		return false;
	memcpy(tid, (const char *)r->payload + m->bit_off / 8, 4);
	return true;
}

static void set_name(struct names *names, const struct event_info *info,
		     const struct htrace_member *tid, const struct sink_event *e)
{
	const struct htrace_member *comm = info->comm;
	const struct htrace_record *r = e->record;
	__u32 t, pid = 0;

	if (!get_tid(tid, r, &t) || comm->bit_off / 8 + comm->type->size > r->len)
		return;
	if (info->pid && !get_tid(info->pid, r, &pid))
		pid = 0;
	names_set(names, t, pid, e->time, (const char *)r->payload + comm->bit_off / 8,
		  comm->type->size);
}

void event_before(const struct event_info *info, struct names *names, struct sink_event *e)
{
	switch (info->role) {
	case ROLE_FORK:
		set_name(names, info, info->other, e);
		break;
	case ROLE_EXEC:
		set_name(names, info, info->tid, e);
		break;
	case ROLE_SWITCH:
		if (info->comm)
			set_name(names, info, info->other, e);
		break;
	case ROLE_TASK:
	case ROLE_EXIT:
		break;
	case ROLE_NONE:
	case ROLE_RENAME:
	case ROLE_STACK:
		return;
	}
	if (get_tid(info->tid, e->record, &e->task))
		e->task_known = true;
}

void event_after(const struct event_info *info, struct names *names, struct sink_event *e,
		 __u64 now)
{
	__u32 tid;

	switch (info->role) {
	case ROLE_SWITCH:
		e->task_known = get_tid(info->other, e->record, &e->task);
		break;
	case ROLE_RENAME:
		set_name(names, info, info->tid, e);
		break;
	case ROLE_EXIT:
		if (get_tid(info->tid, e->record, &tid))
			names_exit(names, tid, e->time, now);
		break;
	default:
		break;
	}
}
