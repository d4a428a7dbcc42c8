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

static bool is_built_in_event(const struct loader *l, const char *name)
{
	for (size_t i = 0; i < l->nr_tracers; i++)
		if (l->tracer[i].built_in &&
		    bpf_object__find_program_by_name(l->tracer[i].obj, name))
			return true;
	return false;
}

/* Recorded under its own name, or under SYSTEM_NAME if another event has it. */
static int declare_tracepoint(const struct loader *l, const struct tracer *t,
			      struct htrace_schema_builder *b)
{
	char name[2 * HTRACE_NAME_MAX];
	struct rodata r;
	int ret = -EEXIST;
	__u32 id;

	if (rodata_of(t, &r))
		return -1;
	if (!is_built_in_event(l, t->tp->name))
		ret = tracepoint_declare(t->tp, b, t->tp->name);
	if (ret == -EEXIST) {
		snprintf(name, sizeof(name), "%s_%s", t->tp->system, t->tp->name);
		for (char *c = name; *c; c++)
			if (!isalnum((unsigned char)*c))
				*c = '_';
		name[HTRACE_NAME_MAX - 1] = 0;
		ret = tracepoint_declare(t->tp, b, name);
	}
	if (ret < 0) {
		say("tracepoint %s cannot be described: %s", t->name, htrace_builder_error(b));
		return -1;
	}
	id = (__u32)ret;
	ret = 0;
	for (int i = 0; i < btf_vlen(r.sec) && !ret; i++) {
		if (!strcmp(var_name(&r, i), "config"))
			ret = set_var(&r, i, &t->tp->config, sizeof(t->tp->config));
		else if (!strcmp(var_name(&r, i), EVENT_PREFIX "tracepoint"))
			ret = set_var(&r, i, &id, sizeof(id));
	}
	return ret;
}

static int declare_tracer(const struct tracer *t, struct htrace_schema_builder *b)
{
	struct rodata r;

	if (rodata_of(t, &r))
		return -1;
	for (int i = 0; i < btf_vlen(r.sec); i++) {
		const char *name = var_name(&r, i);
		char why[256] = "";
		__u32 type, id;
		int ret;

		if (strncmp(name, EVENT_PREFIX, strlen(EVENT_PREFIX)))
			continue;
		name += strlen(EVENT_PREFIX);
		type = payload_type(&r, i);
		ret = type ? htrace_builder_btf_event(b, r.btf, name, type, why, sizeof(why)) :
			     -EINVAL;
		if (ret < 0) {
			say("tracer %s: event %s cannot be described: %s", t->name, name,
			    why[0] ? why : "it was not declared by HTRACE_EVENT()");
			return -1;
		}
		id = (__u32)ret;
		if (set_var(&r, i, &id, sizeof(id)))
			return -1;
	}
	return 0;
}

int loader_declare(struct loader *l, struct htrace_schema_builder *b)
{
	for (size_t i = 0; i < l->nr_tracers; i++) {
		const struct tracer *t = &l->tracer[i];

		if (!loader_is_used(t))
			continue;
		if (t->tp ? declare_tracepoint(l, t, b) : declare_tracer(t, b))
			return -1;
	}
	return 0;
}

/* struct htrace_event_config of htrace.bpf.h. */
struct event_numbers {
	__u32 id, reserved[2], number;
};

void loader_events_of(const struct tracer *t, void (*each)(void *ctx, __u32 id, __u32 number),
		      void *ctx)
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
		each(ctx, c.id, c.number);
	}
}

int loader_set_constants(const struct tracer *t, const struct htrace_geometry *g, __u32 schema)
{
	int geometry = -1, generation = -1;
	struct rodata r;

	if (rodata_of(t, &r))
		return -1;
	for (int i = 0; i < btf_vlen(r.sec); i++) {
		if (!strcmp(var_name(&r, i), "htrace_geo"))
			geometry = set_var(&r, i, g, sizeof(*g));
		else if (!strcmp(var_name(&r, i), "htrace_schema_gen"))
			generation = set_var(&r, i, &schema, sizeof(schema));
	}
	if (!geometry && !generation)
		return 0;
	say("tracer %s does not fit this agent: compile it against this version's htrace.bpf.h",
	    t->name);
	return -1;
}
