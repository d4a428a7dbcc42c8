/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A machine's boot: a track of its levels of initcalls, in each the initcalls, one behind the other as they are called;
 * then user space, which begins with the first task's program. A guest that says otherwise gets a track as odd.
 */
#include <stdio.h>
#include <string.h>

#include "perfetto.h"

#define INIT 1 /* the first task's id */

static void put(struct pf *p, struct pf_machine *m, const char *name, __u64 time)
{
	Pf__TrackEvent e = PF__TRACK_EVENT__INIT;
	__u64 uuid = pf_uuid(m->id, PF_BOOT, false, 0);

	if (!m->boot.described)
		pf_describe(p, m, uuid, pf_uuid(m->id, PF_MACHINE, false, 0), "boot", NULL);
	m->boot.described = true;
	e.has_track_uuid = e.has_type = true;
	e.track_uuid = uuid;
	e.type = name ? PF__TRACK_EVENT__TYPE__TYPE_SLICE_BEGIN : PF__TRACK_EVENT__TYPE__TYPE_SLICE_END;
	pf_begin(p, m);
	if (name) {
		e.has_name_iid = true;
		e.name_iid = pf_intern(p, m, PF_EVENT_NAME, name);
	}
	pf_event(p, m, time, &e);
}

static void end_initcall(struct pf *p, struct pf_machine *m, __u64 time)
{
	if (m->boot.in_initcall)
		put(p, m, NULL, time);
	m->boot.in_initcall = false;
}

static void end_part(struct pf *p, struct pf_machine *m, __u64 time)
{
	end_initcall(p, m, time);
	if (m->boot.in_part)
		put(p, m, NULL, time);
	m->boot.in_part = false;
}

static void begin_part(struct pf *p, struct pf_machine *m, const char *name, __u64 time)
{
	end_part(p, m, time);
	m->boot.in_part = true;
	put(p, m, name, time);
}

static void level(struct pf *p, struct pf_machine *m, const struct sink_event *e, __u64 time)
{
	const struct htrace_type *t = e->event->type;
	char name[4 * 16 + 1] = "level";

	for (__u32 i = 0; i < t->nr; i++) {
		size_t at = t->members[i].bit_off / 8;

		if (!strcmp(t->members[i].name, "level") && t->members[i].type->kind == HTRACE_TYPE_STRING &&
		    at < e->record->len)
			pf_text(name, sizeof(name), (const char *)e->record->payload + at, e->record->len - at);
	}
	begin_part(p, m, name, time);
}

static const char *function(const struct sink_event *e, __u64 address, char *text, size_t len)
{
	const struct htrace_type *t = e->event->type;

	for (__u32 i = 0; i < t->nr; i++) {
		const struct htrace_type *of = t->members[i].type;
		const char *name = of->kind == HTRACE_TYPE_ENUM ? htrace_enum_name(of, address) : NULL;

		if (name && !strcmp(t->members[i].name, "func"))
			return name;
	}
	snprintf(text, len, "0x%llx", (unsigned long long)address);
	return text;
}

void pf_boot(struct pf *p, struct pf_machine *m, const struct sink_event *e, __u64 time)
{
	const char *name = e->event ? e->event->name : "";
	char text[24];
	__u64 v;

	if (m->boot.over || (strncmp(name, "initcall_", 9) && strcmp(name, "sched_process_exec")))
		return;
	if (!strcmp(name, "initcall_level"))
		level(p, m, e, time);
	else if (!strcmp(name, "sched_process_exec")) {
		if (!htrace_event_get(e->event, e->record->payload, e->record->len, "tid", &v) || v != INIT ||
		    !m->boot.described)
			return;
		begin_part(p, m, "user space", time);
		m->boot.over = true;
	} else if (!strcmp(name, "initcall_start")) {
		if (!m->boot.in_part || !htrace_event_get(e->event, e->record->payload, e->record->len, "func", &v))
			return; /* a module's */
		end_initcall(p, m, time);
		m->boot.in_initcall = true;
		put(p, m, function(e, v, text, sizeof(text)), time);
	} else if (!strcmp(name, "initcall_finish")) {
		end_initcall(p, m, time);
	}
}

void pf_boot_end(struct pf *p, struct pf_machine *m)
{
	if (!p->error)
		end_part(p, m, m->last);
}
