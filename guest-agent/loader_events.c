/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The events that tracers declare, and the constants that they are given before they are loaded. */
#include "loader_internal.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

#include <bpf/btf.h>

#include "message.h"

#define EVENT_PREFIX "htrace_event__"
#define RODATA ".rodata"
#define BY_MODULE "htrace_by_module"
#define TRACEPOINT_EVENT "tracepoint" /* in tracepoint.bpf.c */

bool loader_is_used(const struct tracer *t)
{
	struct bpf_program *p;

	bpf_object__for_each_program(p, t->obj) {
		if (bpf_program__autoload(p))
			return true;
	}
	return false;
}

/* Initial contents of the object's .rodata, and the variables that lie in it. */
struct rodata {
	const struct btf *btf;
	const struct btf_type *sec;
	char *data;
	size_t len;
};

static int rodata_of(const struct tracer *t, struct rodata *r)
{
	struct bpf_map *map = bpf_object__find_map_by_name(t->obj, RODATA);
	__s32 id;

	r->btf = bpf_object__btf(t->obj);
	id = btf__find_by_name_kind(r->btf, RODATA, BTF_KIND_DATASEC);
	r->data = map ? (char *)bpf_map__initial_value(map, &r->len) : NULL;
	if (id < 0 || !r->data) {
		say("tracer %s does not use htrace.bpf.h: no " RODATA, t->name);
		return -1;
	}
	r->sec = btf__type_by_id(r->btf, (__u32)id);
	return 0;
}

static const char *var_name(const struct rodata *r, int i)
{
	const struct btf_type *var = btf__type_by_id(r->btf, btf_var_secinfos(r->sec)[i].type);

	return btf__name_by_offset(r->btf, var->name_off);
}

static int set_var(struct rodata *r, int i, const void *value, size_t len)
{
	const struct btf_var_secinfo *v = &btf_var_secinfos(r->sec)[i];

	if (v->size < len || v->offset > r->len || len > r->len - v->offset)
		return -1;
	memcpy(r->data + v->offset, value, len);
	return 0;
}

/* The struct behind variable @i of HTRACE_EVENT: the element type of its member `type`. */
static __u32 payload_type(const struct rodata *r, int i)
{
	const struct btf_type *t = btf__type_by_id(r->btf, btf_var_secinfos(r->sec)[i].type);
	const struct btf_member *m;

	t = btf__type_by_id(r->btf, t->type);
	while (t && (btf_is_mod(t) || btf_is_typedef(t)))
		t = btf__type_by_id(r->btf, t->type);
	if (!t || !btf_is_struct(t) || btf_vlen(t) != 2)
		return 0;
	m = &btf_members(t)[1];
	t = btf__type_by_id(r->btf, m->type);
	return t && btf_is_array(t) ? btf_array(t)->type : 0;
}

void loader_events(const struct tracer *t, void (*each)(void *, const char *), void *ctx)
{
	struct rodata r;

	if (rodata_of(t, &r))
		return;
	for (int i = 0; i < btf_vlen(r.sec); i++)
		if (!strncmp(var_name(&r, i), EVENT_PREFIX, strlen(EVENT_PREFIX)))
			each(ctx, var_name(&r, i) + strlen(EVENT_PREFIX));
}

static bool is_built_in_event(const struct loader *l, const char *name)
{
	for (size_t i = 0; i < l->nr_tracers; i++)
		if (l->tracer[i].built_in &&
		    bpf_object__find_program_by_name(l->tracer[i].obj, name))
			return true;
	return false;
}

/* struct htrace_event_config of htrace.bpf.h, as far as it is filled in here. */
struct event_config {
	__u32 id, stack;
};

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
	struct event_config config = {0};
	char why[256] = "";
	int ret = htrace_builder_btf_event(b, r->btf, HTRACE_STACK_EVENT, payload_type(r, i), why,
					   sizeof(why));

	if (ret < 0) {
		say("tracer %s: event " HTRACE_STACK_EVENT " cannot be described: %s", t->name, why);
		return -1;
	}
	config.id = (__u32)ret;
	return set_var(r, i, &config, sizeof(config));
}

/* Recorded under its own name, or under SYSTEM_NAME if another event has it. */
static int declare_tracepoint(const struct loader *l, struct tracer *t,
			      struct htrace_schema_builder *b)
{
	struct htrace_schema_member front[2];
	char name[2 * HTRACE_NAME_MAX];
	struct event_config config = {0};
	int ret = -EEXIST, nr_front = 0;
	struct rodata r;

	if (rodata_of(t, &r))
		return -1;
	if (loader_wants_stack(l, t, TRACEPOINT_EVENT)) {
		config.stack = ++t->nr_stacks;
		nr_front = stack_members(b, front);
		if (nr_front < 0)
			return -1;
	}
	if (!is_built_in_event(l, t->tp->name))
		ret = tracepoint_declare(t->tp, b, t->tp->name, front, (__u32)nr_front);
	if (ret == -EEXIST) {
		snprintf(name, sizeof(name), "%s_%s", t->tp->system, t->tp->name);
		for (char *c = name; *c; c++)
			if (!isalnum((unsigned char)*c))
				*c = '_';
		name[HTRACE_NAME_MAX - 1] = 0;
		ret = tracepoint_declare(t->tp, b, name, front, (__u32)nr_front);
	}
	if (ret < 0) {
		say("tracepoint %s cannot be described: %s", t->name, htrace_builder_error(b));
		return -1;
	}
	config.id = (__u32)ret;
	ret = 0;
	for (int i = 0; i < btf_vlen(r.sec) && !ret; i++) {
		if (!strcmp(var_name(&r, i), "config"))
			ret = set_var(&r, i, &t->tp->config, sizeof(t->tp->config));
		else if (!strcmp(var_name(&r, i), EVENT_PREFIX TRACEPOINT_EVENT))
			ret = set_var(&r, i, &config, sizeof(config));
		else if (!strcmp(var_name(&r, i), EVENT_PREFIX HTRACE_STACK_EVENT) && config.stack)
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

	if (rodata_of(t, &r))
		return -1;
	loader_events(t, count_stack, &with_stacks);
	for (int i = 0; i < btf_vlen(r.sec); i++) {
		struct event_config config = {0};
		struct htrace_schema_member front[2];
		const char *name = var_name(&r, i);
		char why[256] = "";
		int ret, nr_front = 0;
		__u32 type;

		if (strncmp(name, EVENT_PREFIX, strlen(EVENT_PREFIX)))
			continue;
		name += strlen(EVENT_PREFIX);
		if (!strcmp(name, HTRACE_STACK_EVENT) && !with_stacks.nr)
			continue;
		if (loader_wants_stack(l, t, name)) {
			config.stack = ++t->nr_stacks;
			nr_front = stack_members(b, front);
			if (nr_front < 0)
				return -1;
		}
		type = payload_type(&r, i);
		ret = type ? htrace_builder_btf_event_behind(b, r.btf, name, type, front,
							     (__u32)nr_front, why, sizeof(why)) :
			     -EINVAL;
		if (ret < 0) {
			say("tracer %s: event %s cannot be described: %s", t->name, name,
			    why[0] ? why : "it was not declared by HTRACE_EVENT()");
			return -1;
		}
		config.id = (__u32)ret;
		if (set_var(&r, i, &config, sizeof(config)))
			return -1;
	}
	return 0;
}

int loader_declare(struct loader *l, struct htrace_schema_builder *b)
{
	for (size_t i = 0; i < l->nr_tracers; i++) {
		struct tracer *t = &l->tracer[i];

		if (!loader_is_used(t))
			continue;
		if (t->tp ? declare_tracepoint(l, t, b) : declare_tracer(l, t, b))
			return -1;
	}
	return 0;
}

/* struct htrace_event_config of htrace.bpf.h. */
struct event_numbers {
	__u32 id, stack, reserved, number;
};

void loader_events_of(const struct tracer *t, loader_event_fn *each, void *ctx)
{
	struct event_numbers c;
	struct rodata r;

	if (rodata_of(t, &r))
		return;
	for (int i = 0; i < btf_vlen(r.sec); i++) {
		const struct btf_var_secinfo *v = &btf_var_secinfos(r.sec)[i];

		if (strncmp(var_name(&r, i), EVENT_PREFIX, strlen(EVENT_PREFIX)) ||
		    v->offset > r.len || sizeof(c) > r.len - v->offset)
			continue;
		memcpy(&c, r.data + v->offset, sizeof(c));
		each(ctx, c.id, c.number, c.stack != 0);
	}
}

bool loader_knows_module(const struct tracer *t)
{
	struct rodata r;

	if (rodata_of(t, &r))
		return false;
	for (int i = 0; i < btf_vlen(r.sec); i++)
		if (!strcmp(var_name(&r, i), BY_MODULE))
			return true;
	return false;
}

int loader_set_constants(const struct tracer *t, const struct htrace_geometry *g, __u32 schema,
			 bool by_module)
{
	int geometry = -1, generation = -1;
	__u32 module = by_module;
	struct rodata r;

	if (rodata_of(t, &r))
		return -1;
	for (int i = 0; i < btf_vlen(r.sec); i++) {
		if (!strcmp(var_name(&r, i), "htrace_geo"))
			geometry = set_var(&r, i, g, sizeof(*g));
		else if (!strcmp(var_name(&r, i), "htrace_schema_gen"))
			generation = set_var(&r, i, &schema, sizeof(schema));
		else if (!strcmp(var_name(&r, i), BY_MODULE))
			set_var(&r, i, &module, sizeof(module));
	}
	if (!geometry && !generation)
		return 0;
	say("tracer %s does not fit this agent: compile it against this version's htrace.bpf.h",
	    t->name);
	return -1;
}
