/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "loader.h"

#include <dirent.h>
#include <ctype.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>
#include <linux/membarrier.h>

#include "message.h"

#define EVENT_PREFIX "htrace_event__"
#define RODATA ".rodata"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof(*(a)))

/* bpf/NAME.bpf.c, embedded by objects.S; and whether it is traced without --events. */
#define BUILT_IN(x) x(sched, true) x(syscalls, true) x(irq, false) x(timer, false) \
	x(workqueue, false) x(block, false) x(signal, false) x(net, false) x(mm, false) \
	x(module, false) x(virtio, false)

#define DECLARE(name, by_default) extern const char name##_bpf_start[], name##_bpf_end[];
BUILT_IN(DECLARE)
extern const char tracepoint_bpf_start[], tracepoint_bpf_end[];

#define ENTRY(name, by_default) {#name, name##_bpf_start, name##_bpf_end, by_default},
static const struct {
	const char *name;
	const char *start, *end;
	bool by_default;
} built_in[] = {
	BUILT_IN(ENTRY)
};

/* Programs without which the reader would not learn the names of new tasks. */
static const char *const name_sources[] = {"sched_process_fork", "sched_process_exec",
					   "task_rename"};

/* ----------------------------------------------------------------------------------- opening */

static struct tracer *keep_object(struct loader *l, struct bpf_object *obj, const char *name)
{
	struct tracer *t = &l->tracer[l->nr_tracers];

	snprintf(t->name, sizeof(t->name), "%s", name);
	t->obj = obj;
	l->nr_tracers++;
	return t;
}

int loader_open_built_in(struct loader *l)
{
	for (size_t i = 0; i < ARRAY_SIZE(built_in); i++) {
		LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = built_in[i].name);
		struct bpf_object *obj;
		struct tracer *t;

		obj = bpf_object__open_mem(built_in[i].start,
					   (size_t)(built_in[i].end - built_in[i].start), &opts);
		if (!obj) {
			say("cannot open the built-in tracer %s: %s", built_in[i].name,
			    libbpf_complaint());
			return -1;
		}
		t = keep_object(l, obj, built_in[i].name);
		t->built_in = true;
		t->by_default = built_in[i].by_default;
	}
	return 0;
}

static bool is_name_taken(const struct loader *l, const char *name)
{
	for (size_t i = 0; i < l->nr_tracers; i++)
		if (!strcmp(l->tracer[i].name, name))
			return true;
	return false;
}

/* One more instance of tracepoint.bpf.c. */
static int open_tracepoint(void *ctx, const char *system, const char *name)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "tracepoint");
	struct loader *l = ctx;
	struct tracepoint *tp;
	struct bpf_object *obj;
	char full[64];

	snprintf(full, sizeof(full), "%.31s:%.31s", system, name);
	if (is_name_taken(l, full))
		return 0;
	if (l->nr_tracers == MAX_TRACERS) {
		say("--events: %s and those before it are more than %d tracers; choose fewer", full,
		    MAX_TRACERS);
		return -1;
	}
	if (tracepoint_open(&tp, system, name))
		return 0;
	obj = bpf_object__open_mem(tracepoint_bpf_start,
				   (size_t)(tracepoint_bpf_end - tracepoint_bpf_start), &opts);
	if (!obj) {
		say("cannot open the tracer of %s: %s", full, libbpf_complaint());
		tracepoint_free(tp);
		return -1;
	}
	keep_object(l, obj, full)->tp = tp;
	return 0;
}

int loader_open_file(struct loader *l, const char *path)
{
	const char *base = strrchr(path, '/') ? strrchr(path, '/') + 1 : path;
	struct bpf_object *obj;
	char name[64];

	snprintf(name, sizeof(name), "%.*s", (int)strcspn(base, "."), base);
	if (is_name_taken(l, name)) {
		say("%s: there is another tracer named %s; rename the file", path, name);
		return -1;
	}
	if (l->nr_tracers == MAX_TRACERS) {
		say("%s: more than %d tracers", path, MAX_TRACERS);
		return -1;
	}
	if (access(path, R_OK)) {
		say("cannot read %s: %s", path, strerror(errno));
		return -1;
	}
	libbpf_forget();
	obj = bpf_object__open_file(path, NULL);
	if (!obj) {
		say("%s is not a BPF object file: %s", path, libbpf_complaint());
		return -1;
	}
	if (!bpf_object__find_map_by_name(obj, "htrace_rings") || !bpf_object__btf(obj)) {
		say("%s is no tracer: it does not use htrace.bpf.h%s", path,
		    bpf_object__btf(obj) ? "" : ", or was compiled without -g");
		bpf_object__close(obj);
		return -1;
	}
	keep_object(l, obj, name);
	return 0;
}

void loader_close(struct loader *l)
{
	for (size_t i = 0; i < l->nr_programs; i++)
		bpf_link__destroy(l->program[i].link);
	for (size_t i = 0; i < l->nr_tracers; i++) {
		bpf_object__close(l->tracer[i].obj);
		tracepoint_free(l->tracer[i].tp);
	}
	btf__free(l->kernel);
	memset(l, 0, sizeof(*l));
}

/* --------------------------------------------------------------------------------- selection */

static bool has_hook(struct btf *kernel, const char *section);

void loader_list(const struct loader *l, FILE *out, bool state)
{
	struct btf *kernel = state ? btf__load_vmlinux_btf() : NULL;

	for (size_t i = 0; i < l->nr_tracers; i++) {
		struct bpf_program *p;
		int column = 80;

		if (!l->tracer[i].built_in)
			continue;
		fprintf(out, "  %s%s:", l->tracer[i].name,
			l->tracer[i].by_default ? " (default)" : "");
		bpf_object__for_each_program(p, l->tracer[i].obj) {
			int len = (int)strlen(bpf_program__name(p)) + 1;

			if (column + len > 78) {
				fprintf(out, "\n     ");
				column = 5;
			}
			column += fprintf(out, " %s", bpf_program__name(p));
			if (kernel && !has_hook(kernel, bpf_program__section_name(p)))
				column += fprintf(out, "(not in this kernel)");
		}
		fprintf(out, "\n");
	}
	btf__free(kernel);
	if (state)
		tracepoints_list(out);
}

/* The kernel's name of what a program is attached to, which may differ from LTTng's, its own. */
static const char *hook_name(const struct bpf_program *prog)
{
	const char *slash = strrchr(bpf_program__section_name(prog), '/');

	return slash ? slash + 1 : "";
}

/* Does one word of the list choose @prog of @group? Notes in @used which words did. */
static bool matches(char *const *words, bool *used, size_t nr, const char *group,
		    const struct bpf_program *prog)
{
	bool yes = false;

	for (size_t i = 0; i < nr; i++) {
		if (!strcmp(words[i], group) || !fnmatch(words[i], bpf_program__name(prog), 0) ||
		    !strcmp(words[i], hook_name(prog))) {
			used[i] = true;
			yes = true;
		}
	}
	return yes;
}

static bool is_name_source(const char *program)
{
	for (size_t i = 0; i < ARRAY_SIZE(name_sources); i++)
		if (!strcmp(program, name_sources[i]))
			return true;
	return false;
}

static int add_program(struct loader *l, const struct tracer *t, struct bpf_program *prog)
{
	struct program *p = &l->program[l->nr_programs];

	if (l->nr_programs == HTRACE_MAX_PROGS) {
		say("more than %d programs; use fewer tracers", HTRACE_MAX_PROGS);
		return -1;
	}
	memset(p, 0, sizeof(*p));
	p->prog = prog;
	p->tp = t->tp;
	if (t->tp)
		snprintf(p->name, sizeof(p->name), "%.31s", t->name);
	else if (t->built_in)
		snprintf(p->name, sizeof(p->name), "%.31s", bpf_program__name(prog));
	else
		snprintf(p->name, sizeof(p->name), "%.14s/%.16s", t->name, bpf_program__name(prog));
	l->nr_programs++;
	return 0;
}

/*
 * Two rounds: choose those that are asked for; then the sources of names, if any was.
 * bpf_program__autoload() holds the choice.
 */
static int choose(struct loader *l, char *const *words, bool *used, size_t nr_words,
		  bool defaults)
{
	bool any = false;
	int err = 0;

	for (size_t i = 0; i < l->nr_tracers; i++) {
		const struct tracer *t = &l->tracer[i];
		struct bpf_program *p;

		bpf_object__for_each_program(p, t->obj) {
			bool on = bpf_program__autoload(p);

			if (t->built_in)
				on = defaults ? t->by_default :
						matches(words, used, nr_words, t->name, p);
			bpf_program__set_autoload(p, on);
			any |= on;
		}
	}
	for (size_t i = 0; i < l->nr_tracers && !err; i++) {
		const struct tracer *t = &l->tracer[i];
		struct bpf_program *p;

		bpf_object__for_each_program(p, t->obj) {
			if (any && t->built_in && is_name_source(bpf_program__name(p)))
				bpf_program__set_autoload(p, true);
			if (!err && bpf_program__autoload(p))
				err = add_program(l, t, p);
		}
	}
	return err;
}

/* Names that share their beginning or all but a few letters are told. */
static void say_unknown(const struct loader *l, const char *word)
{
	char like[400];
	size_t at;

	tracepoints_like(word, like, sizeof(like));
	at = strlen(like);
	for (size_t i = 0; i < l->nr_tracers; i++) {
		struct bpf_program *p;

		bpf_object__for_each_program(p, l->tracer[i].obj) {
			const char *name = bpf_program__name(p);

			if (l->tracer[i].built_in && strlen(word) > 3 && at < sizeof(like) - 40 &&
			    (strstr(name, word) || !strncmp(name, word, strlen(word) - 2)))
				at += (size_t)snprintf(like + at, sizeof(like) - at, "%s%.31s",
						       at ? ", " : "", name);
		}
	}
	say("--events: no event matches '%s'%s%s; guest-agent --events help lists them", word,
	    like[0] ? "; there are " : "", like);
}

int loader_select(struct loader *l, const char *events)
{
	char *list = strdup(events ? events : ""), *words[64], *save;
	bool used[ARRAY_SIZE(words)] = {false};
	bool defaults = !events, none = events && !strcmp(events, "none");
	size_t nr = 0;
	int err = -1, found;

	if (!list)
		return -1;
	for (char *w = strtok_r(list, ",", &save); w && !none; w = strtok_r(NULL, ",", &save)) {
		if (nr == ARRAY_SIZE(words)) {
			say("--events: more than %zu words", ARRAY_SIZE(words));
			goto out;
		}
		words[nr++] = w;
	}
	if (events && !none && !nr) {
		say("--events: the list is empty; say 'none' to trace no built-in events");
		goto out;
	}
	for (size_t i = 0; i < nr; i++) {
		if (!strchr(words[i], ':'))
			continue;
		if (tracepoints_check() || (found = tracepoints_find(words[i], open_tracepoint, l)) < 0)
			goto out;
		used[i] = found > 0;
	}
	if (choose(l, words, used, nr, defaults))
		goto out;
	for (size_t i = 0; i < nr; i++) {
		if (!used[i]) {
			say_unknown(l, words[i]);
			goto out;
		}
	}
	if (!l->nr_programs) {
		say("nothing to trace: --events none, and no --bpf FILE with programs");
		goto out;
	}
	err = 0;
out:
	free(list);
	return err;
}

/* ------------------------------------------------------------------------------ kernel's hooks */

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
static bool has_hook(struct btf *kernel, const char *section)
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

/*
 * Does this kernel count the calls that it skips of programs of @type (recursion_misses)?
 * - tp_btf, raw_tp, fentry, fexit: every kernel with the counter does, or skips nothing.
 * - lsm: nothing is ever skipped.
 * - kprobe, uprobe and tracepoint programs are skipped whenever another one runs on the CPU; this
 *   is counted since 6.7, which also gave the links' info a member `missed`.
 * - other types: not known.
 */
static bool counts_misses(const struct btf *kernel, enum bpf_prog_type type)
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

static void leave_out(struct loader *l, size_t i)
{
	bpf_program__set_autoload(l->program[i].prog, false);
	l->nr_programs--;
	memmove(&l->program[i], &l->program[i + 1], (l->nr_programs - i) * sizeof(*l->program));
}

int loader_check_hooks(struct loader *l)
{
	l->kernel = btf__load_vmlinux_btf();
	if (!l->kernel) {
		say("cannot read the kernel's BTF: %s", strerror(errno));
		return -1;
	}
	for (size_t i = 0; i < l->nr_programs;) {
		struct program *p = &l->program[i];

		if (!has_hook(l->kernel, bpf_program__section_name(p->prog))) {
			say("%s is left out: this kernel has no %s", p->name,
			    bpf_program__section_name(p->prog));
			leave_out(l, i);
			continue;
		}
		p->misses_counted = counts_misses(l->kernel, bpf_program__type(p->prog));
		i++;
	}
	if (!l->nr_programs)
		say("nothing to trace: this kernel has none of the hooks");
	return l->nr_programs ? 0 : -1;
}

/* ------------------------------------------------------------------------ events and constants */

static bool is_used(const struct tracer *t)
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

		if (!is_used(t))
			continue;
		if (t->tp ? declare_tracepoint(l, t, b) : declare_tracer(t, b))
			return -1;
	}
	return 0;
}

static int set_constants(const struct tracer *t, const struct htrace_geometry *g, __u32 schema)
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

/* ------------------------------------------------------------------------ loading, attaching */

static int load_tracer(struct tracer *t, int rings_fd, const struct htrace_geometry *g,
		       __u32 schema)
{
	struct bpf_map *rings = bpf_object__find_map_by_name(t->obj, "htrace_rings");
	int err;

	if (set_constants(t, g, schema))
		return -1;
	libbpf_forget();
	err = bpf_map__reuse_fd(rings, rings_fd);
	if (!err)
		err = bpf_object__load(t->obj);
	if (!err)
		return 0;
	say("cannot load tracer %s: %s (%s)", t->name, strerror(-err), libbpf_complaint());
	say_verifier_log();
	return -1;
}

int loader_load(struct loader *l, int rings_fd, const struct htrace_geometry *g, __u32 schema)
{
	for (size_t i = 0; i < l->nr_tracers; i++)
		if (is_used(&l->tracer[i]) && load_tracer(&l->tracer[i], rings_fd, g, schema))
			return -1;
	return 0;
}

int loader_attach(struct loader *l)
{
	for (size_t i = 0; i < l->nr_programs;) {
		struct program *p = &l->program[i];

		p->link = p->tp ? bpf_program__attach_tracepoint(p->prog, p->tp->system, p->tp->name) :
				  bpf_program__attach(p->prog);
		if (p->link) {
			i++;
			continue;
		}
		say("%s is left out: cannot attach to %s: %s", p->name,
		    bpf_program__section_name(p->prog), strerror(errno));
		leave_out(l, i);
	}
	if (!l->nr_programs)
		say("nothing to trace: no program could be attached");
	return l->nr_programs ? 0 : -1;
}

void loader_detach(struct loader *l)
{
	for (size_t i = 0; i < l->nr_programs; i++) {
		bpf_link__destroy(l->program[i].link);
		l->program[i].link = NULL;
	}
	/* Waits for an RCU grace period, within which programs that are under way end. */
	if (syscall(SYS_membarrier, MEMBARRIER_CMD_GLOBAL, 0, 0))
		usleep(50000);
}

void loader_counters(const struct loader *l, size_t i, struct htrace_prog *p)
{
	struct bpf_prog_info info = {0};
	__u32 len = sizeof(info);

	memset(p, 0, sizeof(*p));
	memcpy(p->name, l->program[i].name, sizeof(p->name));
	if (l->program[i].misses_counted)
		p->flags |= HTRACE_PROG_MISSES_COUNTED;
	if (!bpf_obj_get_info_by_fd(bpf_program__fd(l->program[i].prog), &info, &len)) {
		p->misses = info.recursion_misses;
		p->runs = info.run_cnt;
	}
}
