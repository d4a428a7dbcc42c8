/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "misses.h"

#include <string.h>

/* Has struct or union @t, or an anonymous one within, a member @name? */
static bool has_member(const struct btf *btf, const struct btf_type *t, const char *name, int depth)
{
	const struct btf_member *m = btf_members(t);

	for (int i = 0; i < btf_vlen(t); i++) {
		const struct btf_type *mt = btf__type_by_id(btf, m[i].type);

		if (!strcmp(btf__name_by_offset(btf, m[i].name_off), name))
			return true;
		if (mt && btf_is_composite(mt) && depth && has_member(btf, mt, name, depth - 1))
			return true;
	}
	return false;
}

bool counts_misses(const struct btf *kernel, enum bpf_prog_type type)
{
	__s32 id;

	switch (type) {
	case BPF_PROG_TYPE_TRACING:
	case BPF_PROG_TYPE_RAW_TRACEPOINT:
	case BPF_PROG_TYPE_RAW_TRACEPOINT_WRITABLE:
	case BPF_PROG_TYPE_LSM:
		return true;
	case BPF_PROG_TYPE_KPROBE:
	case BPF_PROG_TYPE_TRACEPOINT:
		id = btf__find_by_name_kind(kernel, "bpf_link_info", BTF_KIND_STRUCT);
		return id > 0 &&
		       has_member(kernel, btf__type_by_id(kernel, (__u32)id), "missed", 5);
	default:
		return false;
	}
}
