/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "loader_internal.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <bpf/bpf.h>
#include <bpf/btf.h>

#include "boot.h"
#include "functions.h"
#include "health.h"
#include "message.h"

/* bpf/NAME.bpf.c, embedded by objects.S; and whether it is traced without --events. */
#define BUILT_IN(x) x(sched, true) x(syscalls, true) x(irq, false) x(timer, false) \
	x(workqueue, false) x(block, false) x(signal, false) x(net, false) x(mm, false) \
	x(module, false) x(virtio, false) x(virtio_blk, false) x(virtio_net, false) \
	x(xen, false) x(hypercalls, false) x(steal, false) x(kvm_guest, false)

#define DECLARE(name, by_default) extern const char name##_bpf_start[], name##_bpf_end[];
BUILT_IN(DECLARE)
extern const char tracepoint_bpf_start[], tracepoint_bpf_end[];
extern const char profile_bpf_start[], profile_bpf_end[];

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

struct tracer *loader_keep_object(struct loader *l, struct bpf_object *obj, const char *name)
{
	struct tracer *t = &l->tracer[l->nr_tracers];

	snprintf(t->name, sizeof(t->name), "%s", name);
	t->obj = obj;
	l->nr_tracers++;
	return t;
}

/* The one whose section begins with "?". */
static const struct bpf_program *find_substitute(const struct bpf_object *obj)
{
	struct bpf_program *p;

	bpf_object__for_each_program(p, obj)
		if (!bpf_program__autoload(p))
			return p;
	return NULL;
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
		t = loader_keep_object(l, obj, built_in[i].name);
		t->built_in = true;
		t->substitute = find_substitute(obj);
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

static int count_tracepoint(void *nr, const char *system, const char *name)
{
	++*(int *)nr;
	return 0;
}

/* Patterns that are too wide are refused before hundreds of objects are opened. */
static int check_number(char *const *words, size_t nr_words)
{
	bool syscalls = false;
	int nr = 0;

	for (size_t i = 0; i < nr_words; i++) {
		if (!strchr(words[i], ':') || !strncmp(words[i], "function:", 9))
			continue;
		tracepoints_find(words[i], count_tracepoint, &nr);
		syscalls |= !strncmp(words[i], "syscalls:", 9);
	}
	if (nr <= HTRACE_MAX_PROGS)
		return 0;
	say("--events: these are %d tracepoints, and %d can be recorded at a time: choose fewer, as "
	    "in 'SYSTEM:some_*'%s",
	    nr, HTRACE_MAX_PROGS, syscalls ? "; all system calls are the group syscalls" : "");
	return -1;
}

/* tracepoints_find() calls it. */
int loader_open_tracepoint(void *ctx, const char *system, const char *name)
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
	loader_keep_object(l, obj, full)->tp = tp;
	return 0;
}

static int open_profile(struct loader *l, const char *word)
{
	LIBBPF_OPTS(bpf_object_open_opts, opts, .object_name = "profile");
	unsigned int hz = loader_parse_profile(word);
	struct bpf_object *obj;

	if (!hz)
		return -1;
	if (is_name_taken(l, "profile")) {
		say("--events: profile is there twice, and there is one frequency; leave out %s",
		    word);
		return -1;
	}
	obj = bpf_object__open_mem(profile_bpf_start,
				   (size_t)(profile_bpf_end - profile_bpf_start), &opts);
	if (!obj || l->nr_tracers == MAX_TRACERS) {
		say("cannot open the tracer of %s: %s", word, libbpf_complaint());
		return -1;
	}
	loader_keep_object(l, obj, "profile")->hz = hz;
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
	loader_keep_object(l, obj, name);
	return 0;
}

void loader_close(struct loader *l)
{
	for (size_t i = 0; i < l->nr_programs; i++) {
		loader_detach_one(&l->program[i]);
		free(l->program[i].filter);
	}
	loader_close_stacks(l);
	boot_close(l->boot);
	for (size_t i = 0; i < l->nr_tracers; i++) {
		bpf_object__close(l->tracer[i].obj);
		tracepoint_free(l->tracer[i].tp);
		functions_free(l->tracer[i].functions);
	}
	btf__free(l->kernel);
	memset(l, 0, sizeof(*l));
}

/* --------------------------------------------------------------------------------- selection */

#define PART "__" /* EVENT__what is a part of EVENT: they are chosen together */

static bool is_part(const struct bpf_program *prog)
{
	return strstr(bpf_program__name(prog), PART) != NULL;
}

/* Is it a part of an event that another program is called by? */
static bool serves_another(const struct tracer *t, const struct bpf_program *prog)
{
	const char *name = bpf_program__name(prog);
	char event[64];

	snprintf(event, sizeof(event), "%.*s", (int)(strstr(name, PART) ? strstr(name, PART) - name : 0), name);
	return is_part(prog) && bpf_object__find_program_by_name(t->obj, event);
}

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

			if (serves_another(&l->tracer[i], p))
				continue;
			if (column + len > 78) {
				fprintf(out, "\n     ");
				column = 5;
			}
			column += fprintf(out, " %s", bpf_program__name(p));
			if (kernel && !loader_has_hook(kernel, bpf_program__section_name(p)))
				column += fprintf(out, "(not in this kernel)");
		}
		fprintf(out, "\n");
	}
	btf__free(kernel);
	fprintf(out, "  profile:HZ: what each CPU does, HZ times a second, with stacks\n");
	fprintf(out, "  function:GLOB, function:FILE:GLOB: calls of functions, of the kernel or a program\n");
	fprintf(out, "  boot, boot:INSTANCE: what the kernel traces since its boot, from there on\n");
	if (state)
		tracepoints_list(out);
}

/* The kernel's name of what a program is attached to, which may differ from LTTng's, its own. */
static const char *hook_name(const struct bpf_program *prog)
{
	const char *slash = strrchr(bpf_program__section_name(prog), '/');

	return slash ? slash + 1 : "";
}

/* Does one word of the list choose @prog of @t? Notes in @used which words did. */
static bool matches(char *const *words, bool *used, size_t nr, struct tracer *t, const struct bpf_program *prog)
{
	const char *name = bpf_program__name(prog);
	char event[64];
	bool yes = false;

	snprintf(event, sizeof(event), "%.*s", (int)(is_part(prog) ? strstr(name, PART) - name : 63), name);
	for (size_t i = 0; i < nr; i++) {
		bool by_name = !fnmatch(words[i], name, 0);

		if (strcmp(words[i], t->name) != 0 && fnmatch(words[i], event, 0) && !by_name &&
		    (is_part(prog) || strcmp(words[i], hook_name(prog)) != 0))
			continue;
		if (prog == t->substitute && !strcmp(words[i], name))
			t->substitute_chosen = true;
		used[i] = true;
		yes = true;
	}
	return yes;
}

bool loader_is_name_source(const char *program)
{
	for (size_t i = 0; i < ARRAY_SIZE(name_sources); i++)
		if (!strcmp(program, name_sources[i]))
			return true;
	return false;
}

int loader_add_program(struct loader *l, const struct tracer *t, struct bpf_program *prog)
{
	struct program *p = &l->program[l->nr_programs];

	if (l->nr_programs == HTRACE_MAX_PROGS) {
		say("--events and --bpf choose more than %d programs in all, which is the most that "
		    "can be traced at a time; choose fewer",
		    HTRACE_MAX_PROGS);
		return -1;
	}
	memset(p, 0, sizeof(*p));
	p->prog = prog;
	p->tp = t->tp;
	p->hz = t->hz;
	p->functions = t->functions;
	p->is_session = t->session != 0;
	p->obj = t->obj;
	if (t->tp || t->hz)
		snprintf(p->name, sizeof(p->name), "%.31s", t->name);
	else if (t->built_in || t->functions)
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
		struct tracer *t = &l->tracer[i];
		struct bpf_program *p;

		bpf_object__for_each_program(p, t->obj) {
			bool on = bpf_program__autoload(p);

			if (t->built_in)
				on = defaults ? t->by_default :
						matches(words, used, nr_words, t, p);
			bpf_program__set_autoload(p, on);
			any |= on;
		}
	}
	for (size_t i = 0; i < l->nr_tracers && !err; i++) {
		const struct tracer *t = &l->tracer[i];
		struct bpf_program *p;

		bpf_object__for_each_program(p, t->obj) {
			if (any && t->built_in && loader_is_name_source(bpf_program__name(p)))
				bpf_program__set_autoload(p, true);
			if (!err && bpf_program__autoload(p))
				err = loader_add_program(l, t, p);
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

/* Words that a list gets longer by. */
struct longer {
	const struct loader *loader;
	char *list;
};

static int lengthen(struct longer *w, const char *word)
{
	char *more = NULL;
	int len = asprintf(&more, "%s%s%s", w->list, *w->list ? "," : "", word);

	if (len < 0)
		return -1;
	free(w->list);
	w->list = more;
	return 0;
}

/* A program that is built in for it, or else any tracepoint's. */
static int choose_boot_event(void *ctx, const char *system, const char *event)
{
	struct longer *w = ctx;
	char full[136];

	for (size_t i = 0; i < w->loader->nr_tracers; i++) {
		struct bpf_program *p;

		if (!w->loader->tracer[i].built_in)
			continue;
		bpf_object__for_each_program(p, w->loader->tracer[i].obj) {
			if (!strcmp(hook_name(p), event))
				return lengthen(w, bpf_program__name(p));
		}
	}
	snprintf(full, sizeof(full), "%s:%s", system, event);
	return lengthen(w, full);
}

/* In the place of "boot": what was traced since. The caller's to free; NULL after saying why not. */
static char *replace_boot(struct loader *l, const char *events)
{
	struct longer w = { l, strdup("") };
	char *list = strdup(events ? events : ""), *save;
	int err = !list || !w.list;

	for (char *word = err ? NULL : strtok_r(list, ",", &save); word && !err; word = strtok_r(NULL, ",", &save)) {
		if (strncmp(word, "boot", 4) || (word[4] && word[4] != ':'))
			err = lengthen(&w, word);
		else if (l->boot)
			err = (say("--events: boot is there twice"), -1);
		else
			err = boot_open(&l->boot, word) || boot_events(l->boot, choose_boot_event, &w);
	}
	free(list);
	if (!err)
		return w.list;
	free(w.list);
	return NULL;
}

int loader_select(struct loader *l, const char *events)
{
	char *list = replace_boot(l, events), *words[256], *save;
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
	if (check_number(words, nr))
		goto out;
	for (size_t i = 0; i < nr; i++) {
		if (!strncmp(words[i], "profile", 7) && (!words[i][7] || words[i][7] == ':')) {
			if (open_profile(l, words[i]))
				goto out;
			used[i] = true;
			continue;
		}
		if (!strncmp(words[i], "function:", 9)) {
			if (loader_open_functions(l, words[i]))
				goto out;
			used[i] = true;
			continue;
		}
		if (!strchr(words[i], ':'))
			continue;
		if (tracepoints_check() || (found = tracepoints_find(words[i], loader_open_tracepoint, l)) < 0)
			goto out;
		used[i] = found > 0;
	}
	if (loader_end_functions(l) || choose(l, words, used, nr, defaults))
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

/* ----------------------------------------------------------------------------------- loading */

int loader_load_tracer(struct loader *l, struct tracer *t, int rings_fd,
		       const struct htrace_geometry *g, __u32 schema)
{
	struct bpf_map *rings = bpf_object__find_map_by_name(t->obj, "htrace_rings");
	int err;

	if (loader_set_constants(l, t, g, schema) || loader_prepare_stacks(l, t))
		return -1;
	libbpf_forget();
	/* By the module: the map is of no use, but the smallest of its kind satisfies the verifier. */
	err = l->by_module ? 0 : bpf_map__reuse_fd(rings, rings_fd);
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
		if (loader_is_used(&l->tracer[i]) &&
		    loader_load_tracer(l, &l->tracer[i], rings_fd, g, schema))
			return -1;
	return 0;
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
	if (l->program[i].functions)
		loader_function_misses(&l->program[i], p);
	p->misses += l->program[i].misses_before;
	p->runs += l->program[i].runs_before;
}
