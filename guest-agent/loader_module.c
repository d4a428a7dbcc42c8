/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Programs that record through the kernel module. They make their records aside, as those do that
 * filter, and hand them to htrace_write(): the marks of htrace_filter_marks.h are where that begins
 * and ends.
 */
#include "loader_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>

#include <bpf/btf.h>

#include "message.h"
#include "module.h"

/* Functions of the module, by the number of their arguments. */
static const struct {
	const char *name;
	__u16 args;
} functions[] = {
	{"htrace_write", 4},
	{"htrace_refuse", 0},
};

static bool has_function(const struct btf *btf, const char *name, __u16 args)
{
	int id = btf__find_by_name_kind(btf, name, BTF_KIND_FUNC);
	const struct btf_type *t = id > 0 ? btf__type_by_id(btf, (__u32)id) : NULL;

	t = t ? btf__type_by_id(btf, t->type) : NULL;
	return t && btf_is_func_proto(t) && btf_vlen(t) == args;
}

/* Would programs find the module's functions? */
static int check_btf(struct btf *kernel, char *why, size_t len)
{
	struct btf *btf = btf__parse_split(MODULE_BTF, kernel);
	int err = 0;

	if (!btf) {
		snprintf(why, len, "the module has no BTF that fits this kernel (%s: %s); build it "
			 "anew with this kernel's BTF", MODULE_BTF, strerror(errno));
		return -1;
	}
	for (size_t i = 0; i < ARRAY_SIZE(functions) && !err; i++) {
		if (has_function(btf, functions[i].name, functions[i].args))
			continue;
		snprintf(why, len, "%s() is not in the module's BTF as it should be: the module was "
			 "built with the BTF of another kernel, or is of another version than this "
			 "agent; build it anew on this machine", functions[i].name);
		err = -1;
	}
	btf__free(btf);
	return err;
}

/* Kernels before 6.2 let modules offer functions to few types of programs. */
static bool is_tracing_only(void)
{
	unsigned int major, minor;
	struct utsname u;

	return uname(&u) || sscanf(u.release, "%u.%u", &major, &minor) != 2 || major < 6 ||
	       (major == 6 && minor < 2);
}

static const char *why_not_program(const struct bpf_program *p, bool tracing_only)
{
	struct loader_marks marks;
	const char *why = loader_why_not_type(p);

	if (why)
		return why;
	if (tracing_only && bpf_program__type(p) != BPF_PROG_TYPE_TRACING)
		return "of its program's type: before Linux 6.2 only tp_btf, fentry and fexit can";
	loader_count_marks(bpf_program__insns(p), bpf_program__insn_cnt(p), &marks);
	return marks.begins && !loader_marks_agree(&marks) ?
		       "its program is not made as htrace.bpf.h makes them" :
		       NULL;
}

static const char *why_not_tracer(const struct tracer *t)
{
	if (t->tp || t->hz || t->functions)
		return "of its program's type";
	if (loader_has_functions(t))
		return "its tracer has functions that are not inlined";
	if (!loader_scratch(t) || !loader_knows_module(t))
		return "its tracer was compiled against another htrace.bpf.h; compile it anew";
	return NULL;
}

int loader_check_module(const struct loader *l, char *why, size_t len)
{
	bool tracing_only = is_tracing_only();

	if (l->boot) {
		snprintf(why, len, "what the kernel recorded of its boot cannot go through the module");
		return -1;
	}
	if (check_btf(l->kernel, why, len))
		return -1;
	for (size_t i = 0; i < l->nr_tracers; i++) {
		const struct tracer *t = &l->tracer[i];
		const char *reason = loader_is_used(t) ? why_not_tracer(t) : NULL;
		struct bpf_program *p;

		if (reason) {
			snprintf(why, len, "%s cannot record through the module (%s)", t->name, reason);
			return -1;
		}
		bpf_object__for_each_program(p, t->obj) {
			reason = bpf_program__autoload(p) ? why_not_program(p, tracing_only) : NULL;
			if (reason) {
				snprintf(why, len, "%s cannot record through the module (%s)",
					 bpf_program__name(p), reason);
				return -1;
			}
		}
	}
	return 0;
}

/* @elements grows by one if the program has records that no filter has made aside already. */
static int patch_program(struct bpf_program *p, bool stacks, __u32 *elements)
{
	size_t nr = bpf_program__insn_cnt(p);
	struct loader_marks marks;
	struct bpf_insn *insn;
	int err;

	loader_count_marks(bpf_program__insns(p), nr, &marks);
	if (!marks.begins)
		return 0;
	insn = malloc(nr * sizeof(*insn));
	if (!insn)
		return -ENOMEM;
	memcpy(insn, bpf_program__insns(p), nr * sizeof(*insn));
	loader_patch_marks(insn, nr, NULL, stacks, (*elements)++);
	err = bpf_program__set_insns(p, insn, nr);
	free(insn);
	return err;
}

int loader_use_module(struct loader *l)
{
	for (size_t i = 0; i < l->nr_tracers; i++) {
		struct tracer *t = &l->tracer[i];
		__u32 elements = loader_scratch_used(t);
		struct bpf_program *p;
		int err = 0;

		if (!loader_is_used(t))
			continue;
		bpf_object__for_each_program(p, t->obj) {
			if (bpf_program__autoload(p) && !err)
				err = patch_program(p, t->nr_stacks, &elements);
		}
		if (!err && elements)
			err = loader_scratch_use(t, elements);
		if (err) {
			say("tracer %s cannot be made to record through the module: %s", t->name,
			    strerror(-err));
			return -1;
		}
	}
	l->by_module = true;
	return 0;
}
