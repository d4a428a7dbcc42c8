/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "rodata.h"

#include <errno.h>
#include <string.h>

#include <bpf/btf.h>
#include <bpf/libbpf.h>

#define EVENT_PREFIX "htrace_event__"
#define RODATA ".rodata"

int rodata_of(struct rodata *r, struct bpf_object *obj)
{
	struct bpf_map *map = bpf_object__find_map_by_name(obj, RODATA);
	__s32 id;

	r->btf = bpf_object__btf(obj);
	id = btf__find_by_name_kind(r->btf, RODATA, BTF_KIND_DATASEC);
	r->data = map ? (char *)bpf_map__initial_value(map, &r->len) : NULL;
	if (id < 0 || !r->data)
		return -ENOENT;
	r->sec = btf__type_by_id(r->btf, (__u32)id);
	r->nr = btf_vlen(r->sec);
	return 0;
}

const char *rodata_name(const struct rodata *r, int i)
{
	const struct btf_type *var = btf__type_by_id(r->btf, btf_var_secinfos(r->sec)[i].type);

	return btf__name_by_offset(r->btf, var->name_off);
}

const char *rodata_event(const struct rodata *r, int i)
{
	const char *name = rodata_name(r, i);

	return strncmp(name, EVENT_PREFIX, strlen(EVENT_PREFIX)) ? NULL : name + strlen(EVENT_PREFIX);
}

/* The struct behind variable @i of HTRACE_EVENT: the element type of its member `type`. */
__u32 rodata_payload(const struct rodata *r, int i)
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

/* Where it is; NULL: it is smaller than @len. */
static char *place(const struct rodata *r, int i, size_t len)
{
	const struct btf_var_secinfo *v = &btf_var_secinfos(r->sec)[i];

	return v->size < len || v->offset > r->len || len > r->len - v->offset ? NULL :
										 r->data + v->offset;
}

int rodata_set(struct rodata *r, int i, const void *value, size_t len)
{
	char *to = place(r, i, len);

	if (!to)
		return -EINVAL;
	memcpy(to, value, len);
	return 0;
}

int rodata_get(const struct rodata *r, int i, void *value, size_t len)
{
	const char *from = place(r, i, len);

	if (!from)
		return -EINVAL;
	memcpy(value, from, len);
	return 0;
}

int rodata_set_named(struct rodata *r, const char *name, const void *value, size_t len)
{
	for (int i = 0; i < r->nr; i++)
		if (!strcmp(rodata_name(r, i), name))
			return rodata_set(r, i, value, len);
	return -ENOENT;
}

int rodata_set_rings(struct rodata *r, const struct htrace_geometry *g, __u32 schema)
{
	return rodata_set_named(r, "htrace_geo", g, sizeof(*g)) ||
			       rodata_set_named(r, "htrace_schema_gen", &schema, sizeof(schema)) ?
		       -ENOENT : 0;
}
