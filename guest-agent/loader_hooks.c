/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What of the chosen programs this kernel has a hook for, and what it counts of them. */
#include "loader_internal.h"

#include <dirent.h>
#include <errno.h>
#include <string.h>

#include <bpf/btf.h>

#include "message.h"
#include "misses.h"

/* Sections whose hooks are found in BTF: what precedes the hook's name there. */
static const struct {
	const char *section, *prefix;
	__u32 kind;
} btf_hooks[] = {
	{"tp_btf/", "btf_trace_", BTF_KIND_TYPEDEF},
	{"fentry/", "", BTF_KIND_FUNC},
	{"fentry.s/", "", BTF_KIND_FUNC},
	{"fexit/", "", BTF_KIND_FUNC},
	{"fexit.s/", "", BTF_KIND_FUNC},
	{"fmod_ret/", "", BTF_KIND_FUNC},
	{"lsm/", "bpf_lsm_", BTF_KIND_FUNC},
	{"lsm.s/", "bpf_lsm_", BTF_KIND_FUNC},
};

static bool in_modules(struct btf *kernel, const char *name, __u32 kind)
{
	DIR *d = opendir("/sys/kernel/btf");
	struct dirent *e;
	bool found = false;
	char path[300];

	while (d && !found && (e = readdir(d)) != NULL) {
		struct btf *btf;

		if (e->d_name[0] == '.' || !strcmp(e->d_name, "vmlinux"))
			continue;
		snprintf(path, sizeof(path), "/sys/kernel/btf/%s", e->d_name);
		btf = btf__parse_split(path, kernel);
		found = btf && btf__find_by_name_kind(btf, name, kind) > 0;
		btf__free(btf);
	}
	if (d)
		closedir(d);
	return found;
}

/* What is not looked up in BTF is found out when it is attached. */
bool loader_has_hook(struct btf *kernel, const char *section)
{
	for (size_t i = 0; i < ARRAY_SIZE(btf_hooks); i++) {
		size_t len = strlen(btf_hooks[i].section);
		char name[256];

		if (strncmp(section, btf_hooks[i].section, len))
			continue;
		snprintf(name, sizeof(name), "%s%s", btf_hooks[i].prefix, section + len);
		return btf__find_by_name_kind(kernel, name, btf_hooks[i].kind) > 0 ||
		       in_modules(kernel, name, btf_hooks[i].kind);
	}
	return true;
}

void loader_leave_out(struct loader *l, size_t i)
{
	bpf_program__set_autoload(l->program[i].prog, false);
	l->nr_programs--;
	memmove(&l->program[i], &l->program[i + 1], (l->nr_programs - i) * sizeof(*l->program));
}

static void say_left_out(const struct program *p)
{
	const char *section = bpf_program__section_name(p->prog);
	bool is_function = !strncmp(section, "fentry", 6) || !strncmp(section, "fexit", 5);

	if (is_function)
		say("%s is left out: this kernel has no function %s(); if that is a module's, load "
		    "the module before the agent",
		    p->name, strchr(section, '/') + 1);
	else
		say("%s is left out: this kernel has no %s", p->name, section);
}

const struct tracer *loader_tracer_of(const struct loader *l, const struct program *p)
{
	for (size_t i = 0; i < l->nr_tracers; i++)
		if (l->tracer[i].obj == p->obj)
			return &l->tracer[i];
	return NULL;
}

/* Is there another program for what @p does? */
static bool has_others(const struct loader *l, const struct program *p)
{
	for (size_t i = 0; i < l->nr_programs; i++)
		if (l->program[i].obj == p->obj && &l->program[i] != p)
			return true;
	return false;
}

static void drop_substitutes(struct loader *l)
{
	for (size_t i = 0; i < l->nr_programs;) {
		const struct program *p = &l->program[i];
		const struct tracer *t = loader_tracer_of(l, p);

		if (t && p->prog == t->substitute && !t->substitute_chosen && has_others(l, p))
			loader_leave_out(l, i);
		else
			i++;
	}
}

int loader_check_hooks(struct loader *l)
{
	if (!l->kernel)
		l->kernel = btf__load_vmlinux_btf();
	if (!l->kernel) {
		say("cannot read the kernel's BTF: %s", strerror(errno));
		return -1;
	}
	for (size_t i = 0; i < l->nr_programs;) {
		struct program *p = &l->program[i];

		if (!loader_has_hook(l->kernel, bpf_program__section_name(p->prog))) {
			if (!loader_tracer_of(l, p)->substitute || !has_others(l, p))
				say_left_out(p);
			loader_leave_out(l, i);
			continue;
		}
		p->misses_counted = counts_misses(l->kernel, bpf_program__type(p->prog));
		i++;
	}
	drop_substitutes(l);
	if (!l->nr_programs)
		say("nothing to trace: this kernel has none of the hooks");
	return l->nr_programs ? 0 : -1;
}
