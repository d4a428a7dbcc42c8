/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* function:GLOB and function:FILE:GLOB: function.bpf.c, attached to each function that matches. */
#include "loader_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <linux/perf_event.h>

#include "functions.h"
#include "message.h"

#define MOST_AT_ONCE 4096 /* the kernel attaches to all of them in one go */
#define MOST_ONE_BY_ONE 256 /* it waits for each, and again when they are detached */
#define SAID_LEFT_OUT 5
#define KEPT_BY_CPU 128

#define RECORD 16 /* bytes: struct function of function.bpf.c */

extern const char function_bpf_start[], function_bpf_end[];

/* ---------------------------------------------------------------------------------------- opening */

/* The number of kprobe.session among the kernel's kinds of attaching; 0: before Linux 6.10. */
static __u32 session_type(struct loader *l)
{
	const struct btf_type *t;
	int id;

	if (!l->kernel)
		l->kernel = btf__load_vmlinux_btf();
	id = l->kernel ? btf__find_by_name_kind(l->kernel, "bpf_attach_type", BTF_KIND_ENUM) : -1;
	if (id <= 0 || btf__find_by_name_kind(l->kernel, "bpf_session_cookie", BTF_KIND_FUNC) <= 0)
		return 0;
	t = btf__type_by_id(l->kernel, (__u32)id);
	for (int i = 0; i < btf_vlen(t); i++)
		if (!strcmp(btf__name_by_offset(l->kernel, btf_enum(t)[i].name_off),
			    "BPF_TRACE_KPROBE_SESSION"))
			return (__u32)btf_enum(t)[i].val;
	return 0;
}

static void choose_programs(struct loader *l, struct tracer *t)
{
	struct bpf_program *p;

	if (!t->functions->user)
		t->session = session_type(l);
	bpf_object__for_each_program(p, t->obj) {
		const char *name = bpf_program__name(p);
		bool user = !strncmp(name, "user_", 5), session = !strcmp(name, "function_session");

		bpf_program__set_autoload(p, user == t->functions->user && session == (t->session != 0));
		if (session && t->session)
			bpf_program__set_expected_attach_type(p, (enum bpf_attach_type)t->session);
	}
}

/*
 * Each CPU keeps some entries of such a table for itself (before Linux 6.16, so many whatever its size): without
 * more, from 32 CPUs on none would be left for stacks. Not for CPUs that may come: an entry has some 1.6 KiB.
 */
static int size_calls(struct bpf_object *obj)
{
	struct bpf_map *calls = bpf_object__find_map_by_name(obj, "function_calls");
	long cpus = sysconf(_SC_NPROCESSORS_ONLN);

	return bpf_map__set_max_entries(calls, bpf_map__max_entries(calls) +
						       KEPT_BY_CPU * (__u32)(cpus > 0 ? cpus : 1));
}

static struct tracer *tracer_of(struct loader *l, bool user)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "function");
	struct bpf_object *obj;
	struct tracer *t;

	for (size_t i = 0; i < l->nr_tracers; i++)
		if (l->tracer[i].functions && l->tracer[i].functions->user == user)
			return &l->tracer[i];
	if (l->nr_tracers == MAX_TRACERS) {
		say("--events: function and those before it are more than %d tracers; choose fewer",
		    MAX_TRACERS);
		return NULL;
	}
	obj = bpf_object__open_mem(function_bpf_start, (size_t)(function_bpf_end - function_bpf_start),
				   &opts);
	if (!obj || size_calls(obj)) {
		say("cannot open the tracer of functions: %s", libbpf_complaint());
		bpf_object__close(obj);
		return NULL;
	}
	t = loader_keep_object(l, obj, user ? "user_function" : "function");
	t->functions = calloc(1, sizeof(*t->functions));
	if (!t->functions) {
		say("out of memory");
		return NULL;
	}
	t->functions->user = user;
	choose_programs(l, t);
	return t;
}

int loader_open_functions(struct loader *l, const char *word)
{
	const char *what = word + strlen("function:");
	bool user = strchr(what, '/') != NULL;
	const char *colon = user ? strrchr(what, ':') : NULL;
	struct tracer *t;
	char path[4096];

	if (!*what || (!user && strchr(what, ':')) ||
	    (user && (!colon || !colon[1] || strchr(colon, '/')))) {
		say("--events: %s: that is function:GLOB, of the kernel, as in 'function:vfs_*', or "
		    "function:FILE:GLOB, of a program", word);
		return -1;
	}
	t = tracer_of(l, user);
	if (!t)
		return -1;
	if (!user)
		return functions_want_kernel(t->functions, what);
	snprintf(path, sizeof(path), "%.*s", (int)(colon - what), what);
	return functions_add_user(t->functions, path, colon + 1);
}

int loader_end_functions(struct loader *l)
{
	for (size_t i = 0; i < l->nr_tracers; i++) {
		struct tracer *t = &l->tracer[i];
		size_t most = t->session ? MOST_AT_ONCE : MOST_ONE_BY_ONE;

		if (!t->functions)
			continue;
		if (!t->functions->user && functions_add_kernel(t->functions))
			return -1;
		functions_sort(t->functions);
		if (t->functions->nr <= most)
			continue;
		say("--events: these are %zu functions, and %zu can be traced at a time%s: choose fewer, as in "
		    "'function:some_*'", t->functions->nr, most,
		    t->session || t->functions->user ? "" : " (before Linux 6.10)");
		return -1;
	}
	return 0;
}

/* -------------------------------------------------------------------------------------- declaring */

static int name_type(const struct functions *f, struct htrace_schema_builder *b)
{
	struct htrace_schema_value *v = calloc(f->nr, sizeof(*v));
	int ret;

	if (!v)
		return -ENOMEM;
	for (size_t i = 0; i < f->nr; i++) {
		v[i].value = (__s64)i;
		memcpy(v[i].name, f->at[i].name, sizeof(v[i].name));
	}
	ret = htrace_builder_enum(b, f->user ? "user_function_name" : "function_name", 2, false, v,
				  (__u32)f->nr);
	free(v);
	return ret;
}

int loader_declare_functions(const struct tracer *t, struct htrace_schema_builder *b,
			     const struct htrace_schema_member *front, __u32 nr_front)
{
	struct htrace_schema_member m[2 + 5] = { { 0 } };
	const struct {
		const char *name;
		int type;
		__u32 at;
	} field[] = {
		{ "tid", htrace_builder_int(b, "tid", 4, false, HTRACE_HINT_TID), 0 },
		{ "function", name_type(t->functions, b), 4 },
		{ "depth", htrace_builder_int(b, "u8", 1, false, HTRACE_HINT_NONE), 6 },
		{ "interrupt", htrace_builder_int(b, "bool", 1, false, HTRACE_HINT_BOOL), 7 },
		{ "ns", htrace_builder_int(b, "u64", 8, false, HTRACE_HINT_NONE), 8 },
	};
	__u32 nr = nr_front;
	int ret;

	if (nr_front)
		memcpy(m, front, nr_front * sizeof(*m));
	for (size_t i = 0; i < ARRAY_SIZE(field); i++) {
		if (field[i].type < 0)
			return field[i].type;
		if (t->functions->user && !strcmp(field[i].name, "interrupt"))
			continue;
		m[nr].type = (__u32)field[i].type;
		m[nr].bit_off = 8 * (8 * nr_front + field[i].at);
		snprintf(m[nr++].name, sizeof(m->name), "%s", field[i].name);
	}
	ret = htrace_builder_struct(b, t->name, false, RECORD + 8 * nr_front, m, nr);
	return ret < 0 ? ret : htrace_builder_event(b, t->name, ret);
}

/* -------------------------------------------------------------------------------------- attaching */

/* What the kernel's union bpf_attr has for it; the build machine's header may be older. */
struct session_attr {
	__u32 prog, target, type, flags;
	__u32 multi_flags, nr;
	__u64 names, addresses, cookies;
	__u64 room[8];
};

static int attach_session(struct program *p)
{
	const struct functions *f = p->functions;
	__u64 *address = calloc(2 * f->nr, sizeof(*address));
	struct session_attr a = {
		.prog = (__u32)bpf_program__fd(p->prog),
		.type = bpf_program__expected_attach_type(p->prog),
		.nr = (__u32)f->nr,
		.addresses = (__u64)(unsigned long)address,
		.cookies = (__u64)(unsigned long)(address + f->nr),
	};
	int fd;

	if (!address) {
		say("out of memory");
		return -1;
	}
	for (size_t i = 0; i < f->nr; i++) {
		address[i] = f->at[i].address;
		address[f->nr + i] = i;
	}
	fd = (int)syscall(SYS_bpf, BPF_LINK_CREATE, &a, sizeof(a));
	free(address);
	if (fd < 0) {
		say("cannot attach to %zu functions: %s; is kernel.ftrace_enabled 0, or was a module "
		    "unloaded meanwhile?", f->nr, strerror(errno));
		return -1;
	}
	p->link_fd = fd;
	return 0;
}

static int read_number(const char *path, const char *format)
{
	FILE *f = fopen(path, "re");
	int number = -1;

	if (f && fscanf(f, format, &number) != 1)
		number = -1;
	if (f)
		fclose(f);
	return number;
}

static struct bpf_link *attach_kprobe(const struct program *p, size_t i, bool at_return)
{
	struct perf_event_attr attr = {
		.size = sizeof(attr),
		.type = (__u32)read_number("/sys/bus/event_source/devices/kprobe/type", "%d"),
		.config2 = p->functions->at[i].address,
	};
	LIBBPF_OPTS(bpf_perf_event_opts, opts, .bpf_cookie = i);
	int bit = read_number("/sys/bus/event_source/devices/kprobe/format/retprobe", "config:%d"), fd;
	struct bpf_link *link;

	if (at_return)
		attr.config = 1ULL << (bit & 63);
	fd = (int)syscall(SYS_perf_event_open, &attr, -1, 0, -1, PERF_FLAG_FD_CLOEXEC);
	if (fd < 0)
		return NULL;
	link = bpf_program__attach_perf_event_opts(p->prog, fd, &opts);
	if (!link)
		close(fd);
	return link;
}

static struct bpf_link *attach_uprobe(const struct program *p, size_t i, bool at_return)
{
	LIBBPF_OPTS(bpf_uprobe_opts, opts, .bpf_cookie = i, .retprobe = at_return);

	return bpf_program__attach_uprobe_opts(p->prog, -1, p->functions->at[i].path,
					       p->functions->at[i].address, &opts);
}

static int attach_one_by_one(struct program *p)
{
	bool at_return = strstr(bpf_program__name(p->prog), "_exit") != NULL;
	struct functions *f = p->functions;
	size_t left_out = 0;

	p->cpu_link = calloc(f->nr, sizeof(*p->cpu_link));
	if (!p->cpu_link) {
		say("out of memory");
		return -1;
	}
	for (size_t i = 0; i < f->nr; i++) {
		struct bpf_link *link;

		if (f->at[i].left_out)
			continue;
		errno = 0;
		link = f->user ? attach_uprobe(p, i, at_return) : attach_kprobe(p, i, at_return);
		if (link) {
			p->cpu_link[p->nr_cpu_links++] = link;
			continue;
		}
		f->at[i].left_out = true;
		if (++left_out <= SAID_LEFT_OUT)
			say("function %s is left out: cannot attach to it: %s%s", f->at[i].name,
			    strerror(errno), errno == EINVAL ? "; the kernel keeps it from probes" : "");
	}
	if (left_out > SAID_LEFT_OUT)
		say("%zu more functions are left out", left_out - SAID_LEFT_OUT);
	if (!p->nr_cpu_links)
		say("cannot attach to any of %zu functions", f->nr);
	return p->nr_cpu_links ? 0 : -1;
}

int loader_attach_functions(struct program *p)
{
	int err = p->is_session ? attach_session(p) : attach_one_by_one(p);

	if (!err)
		detail("%s: attached to %zu functions", p->name,
		       p->is_session ? p->functions->nr : p->nr_cpu_links);
	return err;
}

/* --------------------------------------------------------------------------------------- counting */

__u64 loader_not_called(int link_fd)
{
	struct {
		__u32 type, id, prog, reserved;
		__u64 addresses;
		__u32 nr, flags;
		__u64 missed;
		__u64 room[8];
	} info = { 0 };
	__u32 len = sizeof(info);

	return link_fd > 0 && !bpf_obj_get_info_by_fd(link_fd, &info, &len) ? info.missed : 0;
}

/*
 * A program that does not run, because another runs on the CPU, runs neither where what was called
 * there returns: so a call is missed where it is entered. What was entered and is not recorded, the
 * programs count themselves.
 */
void loader_function_misses(const struct program *p, struct htrace_prog *counted)
{
	bool entry = strstr(bpf_program__name(p->prog), "_entry") != NULL;
	int nr = libbpf_num_possible_cpus(), fd;
	__u64 *lost = nr > 0 ? calloc((size_t)nr, sizeof(*lost)) : NULL;
	__u32 zero = 0;

	if (entry || !lost) {
		free(lost);
		return;
	}
	if (!p->is_session)
		counted->misses = 0;
	fd = bpf_object__find_map_fd_by_name(p->obj, "function_lost");
	if (!bpf_map_lookup_elem(fd, &zero, lost))
		for (int i = 0; i < nr; i++)
			counted->misses += lost[i];
	counted->misses += loader_not_called(p->link_fd);
	free(lost);
}
