/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What events are called that the analyses of Trace Compass know by name. They take some fields without looking
 * whether they are there, and one error ends the analysis of all machines; so what a guest made up is called
 * otherwise, and so is what only the host can say.
 */
#include <string.h>

#include "ctf_compass.h"

#define MADE_UP "guest_"
#define NUMBERS 5

/* Numbers, not enumerations, and a text. */
static const struct {
	const char *event;
	const char *number[NUMBERS];
	const char *text;
} needs[] = {
	{ "sched_switch", { "prev_tid", "prev_prio", "prev_state", "next_tid", "next_prio" }, "next_comm" },
	{ "sched_process_fork", { "parent_tid", "child_tid" }, "child_comm" },
	{ "sched_process_exit", { "tid" }, NULL },
	{ "sched_process_free", { "tid" }, NULL },
	{ "sched_waking", { "tid", "prio", "target_cpu" }, NULL },
	{ "sched_wakeup", { "tid", "prio", "target_cpu" }, NULL },
	{ "sched_wakeup_new", { "tid", "prio", "target_cpu" }, NULL },
	{ "sched_pi_setprio", { "tid", "newprio" }, NULL },
	{ "irq_handler_entry", { "irq" }, "name" },
	{ "irq_handler_exit", { "irq" }, NULL },
	{ "irq_softirq_raise", { "vec" }, NULL },
	{ "irq_softirq_entry", { "vec" }, NULL },
	{ "irq_softirq_exit", { "vec" }, NULL },
	{ "x86_irq_vectors_", { "vector" }, NULL }, /* and what begins so */
};

static const char *const reserved[] = { "vmsync_", "kvm_", "lttng_" };
/* LTTng has the vendor's part by another name. */
static const char *const x86[] = { "kvm_hypercall", "kvm_pio", "kvm_msr", "kvm_inj_virq" };

static const struct ctf_item *find(const struct htrace_event *e, const struct ctf_layout *l, const char *name)
{
	for (__u32 i = 0; l && i < l->nr; i++) {
		const struct ctf_item *item = &l->item[i];
		bool own = item->what == CTF_MEMBER || item->what == CTF_STATE;

		if (!strcmp(own ? e->type->members[item->member].name : item->name, name))
			return item;
	}
	return NULL;
}

static bool is_number(const struct htrace_event *e, const struct ctf_item *item)
{
	const struct htrace_type *t = item ? e->type->members[item->member].type : NULL;

	if (!item || item->what == CTF_COMM)
		return false;
	return item->what == CTF_ARG || (t->kind == HTRACE_TYPE_INT && t->size <= 8 && !ctf_is_stack(t, 0));
}

static bool is_text(const struct htrace_event *e, const struct ctf_item *item)
{
	if (!item || item->what == CTF_ARG)
		return false;
	return item->what == CTF_COMM || e->type->members[item->member].type->kind == HTRACE_TYPE_STRING;
}

static bool has_all(const struct htrace_event *e, const struct ctf_layout *l, size_t i)
{
	for (int n = 0; n < NUMBERS && needs[i].number[n]; n++)
		if (!is_number(e, find(e, l, needs[i].number[n])))
			return false;
	/* Of an array it would want to be one. */
	return (!needs[i].text || is_text(e, find(e, l, needs[i].text))) && !find(e, l, "vtids");
}

static bool begins(const char *name, const char *with)
{
	return !strncmp(name, with, strlen(with));
}

static bool is_as_it_should_be(const struct htrace_event *e, const struct ctf_layout *l)
{
	for (size_t i = 0; i < sizeof(reserved) / sizeof(*reserved); i++)
		if (begins(e->name, reserved[i]))
			return false;
	for (size_t i = 0; i < sizeof(needs) / sizeof(*needs); i++)
		if (!strcmp(e->name, needs[i].event) ||
		    (needs[i].event[strlen(needs[i].event) - 1] == '_' && begins(e->name, needs[i].event)))
			return has_all(e, l, i);
	return true;
}

const char *ctf_compass_prefix(enum ctf_role role, const struct htrace_event *e, const struct ctf_layout *l,
			       const char **name)
{
	*name = e->name;
	if (role == CTF_GUEST)
		return is_as_it_should_be(e, l) ? "" : MADE_UP;
	if (role != CTF_HOST || !l)
		return "";
	for (size_t i = 0; i < sizeof(x86) / sizeof(*x86); i++)
		if (!strcmp(e->name, x86[i])) {
			*name = e->name + strlen("kvm_");
			return "kvm_x86_";
		}
	return "";
}

void ctf_compass_states(struct ctf_layout *l, const struct htrace_event *e)
{
	for (__u32 i = 0; i < l->nr; i++) {
		const struct htrace_type *t = e->type->members[l->item[i].member].type;

		if (l->item[i].what == CTF_MEMBER && t->kind == HTRACE_TYPE_INT && t->size <= 8 &&
		    t->hint == HTRACE_HINT_TASK_STATE)
			l->item[i].what = CTF_STATE;
	}
}
