/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The events that tracers declare, and the constants that they are given before they are loaded. */
#include "loader_internal.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include <bpf/btf.h>

#include "boot.h"
#include "message.h"
#include "rodata.h"

#define BY_MODULE "htrace_by_module"
#define PACKS "htrace_packs"
#define PACKED_EVENT "sched_switch" /* of tracers that have that variable */
#define TRACEPOINT_EVENT "tracepoint" /* in tracepoint.bpf.c */
#define FUNCTION_EVENT "function"

bool loader_is_used(const struct tracer *t)
{
	struct bpf_program *p;

	bpf_object__for_each_program(p, t->obj) {
		if (bpf_program__autoload(p))
			return true;
	}
	return false;
}

static int rodata_of_tracer(const struct tracer *t, struct rodata *r)
{
	if (!rodata_of(r, t->obj))
		return 0;
	say("tracer %s does not use htrace.bpf.h: no .rodata", t->name);
	return -1;
}

void loader_events(const struct tracer *t, void (*each)(void *, const char *), void *ctx)
{
	struct rodata r;

	if (rodata_of_tracer(t, &r))
		return;
	for (int i = 0; i < r.nr; i++)
		if (rodata_event(&r, i))
			each(ctx, rodata_event(&r, i));
}

static bool is_built_in_event(const struct loader *l, const char *name)
{
	for (size_t i = 0; i < l->nr_tracers; i++)
		if (l->tracer[i].built_in &&
		    bpf_object__find_program_by_name(l->tracer[i].obj, name))
			return true;
	return false;
}

/*
 * What records of an event with stacks begin with: the fields' names are LTTng's. They come first
 * because a struct may end in an array without a length.
 */
static int stack_members(struct htrace_schema_builder *b, struct htrace_schema_member m[2])
{
	int kernel = htrace_builder_int(b, "stack_kernel", 8, false, HTRACE_HINT_STACK_KERNEL);
	int user = htrace_builder_int(b, "stack_user", 8, false, HTRACE_HINT_STACK_USER);

	if (kernel < 0 || user < 0)
		return -ENOMEM;
	m[0] = (struct htrace_schema_member){.type = (__u32)kernel, .name = "callstack_kernel"};
	m[1] = (struct htrace_schema_member){.type = (__u32)user, .bit_off = 64,
					     .name = "callstack_user"};
	return 2;
}

/* The event that says what stacks' ids stand for: variable @i. */
static int declare_stack_event(const struct tracer *t, struct rodata *r, int i,
			       struct htrace_schema_builder *b)
{
	struct rodata_event config = {0};
	char why[256] = "";
	int ret = htrace_builder_btf_event(b, r->btf, HTRACE_STACK_EVENT, rodata_payload(r, i), why,
					   sizeof(why));

	if (ret < 0) {
		say("tracer %s: event " HTRACE_STACK_EVENT " cannot be described: %s", t->name, why);
		return -1;
	}
	config.id = (__u32)ret;
	return rodata_set(r, i, &config, sizeof(config));
}

/* Recorded under its own name, or under SYSTEM_NAME if another event has it. */
static int declare_tracepoint(const struct loader *l, const struct tracer *t,
			      struct htrace_schema_builder *b, struct htrace_schema_member *front, __u32 nr)
{
	char name[2 * HTRACE_NAME_MAX];
	int ret = -EEXIST;

	if (!is_built_in_event(l, t->tp->name))
		ret = tracepoint_declare(t->tp, b, t->tp->name, front, nr);
	if (ret == -EEXIST) {
		snprintf(name, sizeof(name), "%s_%s", t->tp->system, t->tp->name);
		for (char *c = name; *c; c++)
			if (!isalnum((unsigned char)*c))
				*c = '_';
		name[HTRACE_NAME_MAX - 1] = 0;
		ret = tracepoint_declare(t->tp, b, name, front, nr);
	}
	return ret;
}

/* Events that the agent describes: the objects have an event in their place, whatever its fields. */
static int declare_described(const struct loader *l, struct tracer *t, struct htrace_schema_builder *b)
{
	const char *stands_for = t->tp ? TRACEPOINT_EVENT : FUNCTION_EVENT;
	struct htrace_schema_member front[2];
	struct rodata_event config = {0};
	int ret, nr_front = 0;
	struct rodata r;

	if (rodata_of_tracer(t, &r))
		return -1;
	if (loader_wants_stack(l, t, t->tp ? stands_for : t->name)) {
		config.stack = ++t->nr_stacks;
		nr_front = stack_members(b, front);
		if (nr_front < 0)
			return -1;
	}
	ret = t->tp ? declare_tracepoint(l, t, b, front, (__u32)nr_front) :
		      loader_declare_functions(t, b, front, (__u32)nr_front);
	if (ret < 0) {
		say("%s %s cannot be described: %s", t->tp ? "tracepoint" : "event", t->name,
		    htrace_builder_error(b));
		return -1;
	}
	config.id = (__u32)ret;
	ret = t->tp ? rodata_set_named(&r, "config", &t->tp->config, sizeof(t->tp->config)) : 0;
	for (int i = 0; i < r.nr && !ret; i++) {
		const char *event = rodata_event(&r, i);

		if (event && !strcmp(event, stands_for))
			ret = rodata_set(&r, i, &config, sizeof(config));
		else if (event && !strcmp(event, HTRACE_STACK_EVENT) && config.stack)
			ret = declare_stack_event(t, &r, i, b);
	}
	return ret;
}

struct count {
	const struct loader *l;
	const struct tracer *t;
	__u32 nr;
};

static void count_stack(void *ctx, const char *event)
{
	struct count *c = ctx;

	c->nr += loader_wants_stack(c->l, c->t, event);
}

static int declare_tracer(const struct loader *l, struct tracer *t, struct htrace_schema_builder *b)
{
	struct count with_stacks = {l, t, 0};
	struct rodata r;

	if (rodata_of_tracer(t, &r))
		return -1;
	loader_events(t, count_stack, &with_stacks);
	for (int i = 0; i < r.nr; i++) {
		struct rodata_event config = {0};
		struct htrace_schema_member front[2];
		const char *name = rodata_event(&r, i);
		char why[256] = "";
		int ret, nr_front = 0;
		__u32 type;

		if (!name || (!strcmp(name, HTRACE_STACK_EVENT) && !with_stacks.nr))
			continue;
		if (loader_wants_stack(l, t, name)) {
			config.stack = ++t->nr_stacks;
			nr_front = stack_members(b, front);
			if (nr_front < 0)
				return -1;
		}
		type = rodata_payload(&r, i);
		ret = type ? htrace_builder_btf_event_behind(b, r.btf, name, type, front,
							     (__u32)nr_front, why, sizeof(why)) :
			     -EINVAL;
		if (ret < 0) {
			say("tracer %s: event %s cannot be described: %s", t->name, name,
			    why[0] ? why : "it was not declared by HTRACE_EVENT()");
			return -1;
		}
		config.id = (__u32)ret;
		if (rodata_set(&r, i, &config, sizeof(config)))
			return -1;
	}
	return 0;
}

int loader_declare(struct loader *l, struct htrace_schema_builder *b)
{
	int functions = l->boot ? boot_functions(l->boot, b) : 0;

	if (functions < 0)
		return -1;
	for (size_t i = 0; i < l->nr_tracers; i++) {
		struct tracer *t = &l->tracer[i];

		if (!loader_is_used(t))
			continue;
		if (t->tp) /* as the records of the boot have it */
			t->tp->functions = functions;
		if (t->tp || t->functions ? declare_described(l, t, b) : declare_tracer(l, t, b))
			return -1;
	}
	return l->boot ? boot_declare(l->boot, b, functions) : 0;
}

/* struct htrace_event_config of htrace.bpf.h. */
struct event_numbers {
	__u32 id, stack, reserved, number;
};

void loader_events_of(const struct tracer *t, loader_event_fn *each, void *ctx)
{
	struct event_numbers c;
	struct rodata r;

	if (rodata_of_tracer(t, &r))
		return;
	for (int i = 0; i < r.nr; i++)
		if (rodata_event(&r, i) && !rodata_get(&r, i, &c, sizeof(c)))
			each(ctx, c.id, c.number, c.stack != 0);
}

bool loader_knows_module(const struct tracer *t)
{
	struct rodata r;

	if (rodata_of_tracer(t, &r))
		return false;
	for (int i = 0; i < r.nr; i++)
		if (!strcmp(rodata_name(&r, i), BY_MODULE))
			return true;
	return false;
}

/* Records that begin with stacks are not packed, nor those that are made aside. */
static bool can_pack(const struct loader *l, const struct tracer *t)
{
	const struct bpf_program *p = bpf_object__find_program_by_name(t->obj, PACKED_EVENT);

	for (size_t i = 0; i < l->nr_programs; i++)
		if (l->program[i].prog == p && (l->program[i].filter || l->program[i].sample > 1))
			return false;
	return p && bpf_program__autoload(p) && !loader_wants_stack(l, t, PACKED_EVENT);
}

bool loader_use_packing(struct loader *l)
{
	l->packs = false;
	for (size_t i = 0; i < l->nr_tracers; i++)
		l->packs |= l->tracer[i].built_in && can_pack(l, &l->tracer[i]);
	return l->packs;
}

int loader_set_constants(const struct loader *l, const struct tracer *t, const struct htrace_geometry *g,
			 __u32 schema)
{
	__u32 module = l->by_module, packs = l->packs && can_pack(l, t);
	struct rodata r;

	if (rodata_of_tracer(t, &r))
		return -1;
	rodata_set_named(&r, BY_MODULE, &module, sizeof(module)); /* it may be of before there was one */
	rodata_set_named(&r, PACKS, &packs, sizeof(packs));
	if (!rodata_set_rings(&r, g, schema))
		return 0;
	say("tracer %s does not fit this agent: compile it against this version's htrace.bpf.h",
	    t->name);
	return -1;
}
