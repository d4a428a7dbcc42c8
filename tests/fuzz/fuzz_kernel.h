/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The kernel's events that the Perfetto output knows, and Trace Compass, as an agent declares them. */
#ifndef FUZZ_KERNEL_H
#define FUZZ_KERNEL_H

#include <htrace/schema.h>

#include "fuzz_schema.h"

/* Members: "tNAME" is a task, "SNAME" one's state, "sNAME" a number, "nNAME" a system call, "rNAME" a result, "xNAME" text. */
static const struct {
	const char *name, *member[5];
} kernel_events[] = {
	{ "sched_switch", { "tprev_tid", "tnext_tid", "sprev_prio", "snext_prio", "Sprev_state" } },
	{ "sched_waking", { "ttid", "sprio", "starget_cpu" } },
	{ "sched_wakeup", { "ttid", "sprio", "starget_cpu" } },
	{ "sched_wakeup_new", { "ttid", "sprio", "starget_cpu" } },
	{ "sched_process_fork", { "tparent_tid", "tchild_tid", "tchild_pid", "xchild_comm" } },
	{ "sched_process_exit", { "ttid", "sprio" } },
	{ "task_rename", { "ttid", "tpid", "xcomm" } },
	{ "sys_enter", { "ttid", "nnr", "aargs" } },
	{ "sys_exit", { "ttid", "nnr", "rret" } },
	{ "irq_handler_entry", { "sirq", "xname" } },
	{ "irq_handler_exit", { "sirq", "sret" } },
	{ "irq_softirq_entry", { "svec" } },
	{ "irq_softirq_exit", { "svec" } },
};

static inline int kernel_member(struct htrace_schema_builder *b, char kind, __u32 *bytes)
{
	int u64 = htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_HEX);

	*bytes = kind == 'x' ? 16 : kind == 'a' ? 48 : kind == 'r' ? 8 : 4;
	switch (kind) {
	case 'x':
		return htrace_builder_string(b, 16);
	case 'a':
		return htrace_builder_array(b, u64, 6);
	case 'r':
		return htrace_builder_int(b, NULL, 8, true, HTRACE_HINT_NONE);
	default:
		return htrace_builder_int(b, NULL, 4, kind != 't',
					  kind == 't' ? HTRACE_HINT_TID : kind == 'n' ? HTRACE_HINT_SYSCALL :
					  kind == 'S' ? HTRACE_HINT_TASK_STATE : 0);
	}
}

/* As if the input had declared them. */
static inline void kernel_schema(struct schema_maker *m)
{
	struct htrace_schema_builder *b;
	const void *entries;
	int type = 0;

	CHECK(!htrace_builder_new(&b, NULL, 0));
	for (size_t e = 0; e < ARRAY_SIZE(kernel_events); e++) {
		struct htrace_schema_member members[5] = { 0 };
		__u32 nr = 0, at = 0, bytes;

		for (; nr < 5 && kernel_events[e].member[nr]; nr++) {
			const char *name = kernel_events[e].member[nr];

			members[nr].type = (__u32)kernel_member(b, *name, &bytes);
			members[nr].bit_off = 8 * at;
			strcpy(members[nr].name, name + 1);
			at += bytes;
		}
		type = htrace_builder_struct(b, kernel_events[e].name, false, (at + 7) & ~7u, members, nr);
		CHECK(htrace_builder_event(b, kernel_events[e].name, type) == (int)e + 1);
	}
	entries = htrace_builder_entries(b, &m->len);
	CHECK(m->len <= SCHEMA_ROOM);
	memcpy(m->at, entries, m->len);
	m->nr_types = (__u32)type;
	m->nr_events = ARRAY_SIZE(kernel_events);
	for (__u32 i = 0; i < m->nr_types; i++)
		m->size[i] = 8;
	htrace_builder_free(b);
}

#endif
