/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * --filter, and filters and sampling of single events: which programs can look at their records
 * themselves, and putting that into them.
 * What goes where in a program is told by the marks of htrace_filter_marks.h.
 */
#include "loader_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/btf.h>

#include "filter_bpf.h"
#include "message.h"

#define SCRATCH_MAP "htrace_filter_scratch"
#define MAX_CASES 64 /* events of a tracer that are looked at */

struct event {
	__u32 id, number;
	const struct htrace_event *event; /* NULL: not declared, so never recorded */
	struct htrace_filter *own; /* --filter and its own one; NULL: --filter only */
	struct htrace_filter_bound *bound;
	__u32 sample;   /* as in struct program */
	bool recorded;  /* by a program that is loaded */
	bool stacks;    /* come with its records */
	const char *why; /* it is left to the reader; NULL: no program records what does not match */
};

struct work {
	const struct htrace_filter *filter;
	struct htrace_schema *schema;
	struct htrace_schema_builder *b;
	bool more; /* the session's filter holds already */
	size_t in_guest;
	char left[700]; /* events that are left to the reader, and why */
	/* of one tracer */
	struct event event[MAX_CASES];
	size_t nr_events;
	bool too_many;
	__u32 nr_elements;
};

/* --------------------------------------------------------------------------------------- programs */

static bool is_mark(const struct bpf_insn *i, __s32 mark)
{
	return i->code == (BPF_ALU64 | BPF_MOV | BPF_K) && i->imm == mark;
}

static bool is_begin(const struct bpf_insn *i)
{
	return i->code == (BPF_ALU64 | BPF_MOV | BPF_K) &&
	       (i->imm & ~HTRACE_FILTER_EVENTS) == HTRACE_FILTER_BEGIN;
}

static struct event *find_event(struct work *w, __u32 number)
{
	for (size_t i = 0; i < w->nr_events; i++)
		if (w->event[i].number == number)
			return &w->event[i];
	return NULL;
}

const char *loader_why_not_type(const struct bpf_program *p)
{
	const char *section = bpf_program__section_name(p);
	const char *dot = strchr(section, '.'), *slash = strchr(section, '/');

	if (dot && dot[1] == 's' && (!slash || dot < slash))
		return "its program may sleep";
	switch (bpf_program__type(p)) {
	case BPF_PROG_TYPE_TRACING:
		return !strncmp(section, "iter", 4) ? "of its program's type" : NULL;
	case BPF_PROG_TYPE_KPROBE:
		return strncmp(section, "k", 1) ? "of its program's type" : NULL;
	case BPF_PROG_TYPE_RAW_TRACEPOINT:
	case BPF_PROG_TYPE_TRACEPOINT:
		return NULL;
	default:
		return "of its program's type";
	}
}

bool loader_has_functions(const struct tracer *t)
{
	const struct btf *btf = bpf_object__btf(t->obj);

	for (__u32 i = 1; i < btf__type_cnt(btf); i++) {
		const struct btf_type *type = btf__type_by_id(btf, i);

		const char *name = btf__name_by_offset(btf, type->name_off);

		/*
		 * htrace.bpf.h's own make no records that a program's window would have to see; nor do the
		 * kernel's that function.bpf.c calls, which libbpf no longer tells from its own.
		 */
		if (btf_is_func(type) && btf_vlen(type) != BTF_FUNC_EXTERN &&
		    strncmp(name, "htrace_", 7) && strncmp(name, "bpf_session_", 12) && !bpf_object__find_program_by_name(t->obj, name))
			return true;
	}
	return false;
}

struct bpf_map *loader_scratch(const struct tracer *t)
{
	return bpf_object__find_map_by_name(t->obj, SCRATCH_MAP);
}

__u32 loader_scratch_used(const struct tracer *t)
{
	const struct bpf_map *m = loader_scratch(t);

	return m && bpf_map__autocreate(m) ? bpf_map__max_entries(m) : 0;
}

int loader_scratch_use(const struct tracer *t, __u32 nr)
{
	struct bpf_map *m = loader_scratch(t);
	int err = m ? bpf_map__set_autocreate(m, true) : -EINVAL;

	return err ? err : bpf_map__set_max_entries(m, nr);
}

/* The marks of one program, and its events. */
struct marks {
	struct event *event[MAX_CASES];
	size_t nr;
	struct loader_marks count;
	bool unknown;
};

static bool has_window(const struct bpf_insn *at, const struct bpf_insn *end)
{
	if (end - at <= HTRACE_FILTER_INSNS)
		return false;
	for (int i = 1; i <= HTRACE_FILTER_INSNS; i++)
		if (at[i].code != (BPF_JMP | BPF_JA) || at[i].off)
			return false;
	return true;
}

static void note_begin(struct work *w, struct marks *m, __u32 number)
{
	struct event *e = find_event(w, number);

	m->unknown |= !e;
	for (size_t i = 0; i < m->nr; i++)
		if (m->event[i] == e)
			return;
	if (e && m->nr < MAX_CASES)
		m->event[m->nr++] = e;
}

void loader_count_marks(const struct bpf_insn *insn, size_t nr, struct loader_marks *m)
{
	memset(m, 0, sizeof(*m));
	for (size_t i = 0; i < nr; i++) {
		if (insn[i].code == (BPF_LD | BPF_DW | BPF_IMM))
			i++; /* two of them; the second has no code */
		else if (is_begin(&insn[i]))
			m->begins++;
		else if (is_mark(&insn[i], HTRACE_FILTER_END))
			m->ends++;
		else if (is_mark(&insn[i], HTRACE_FILTER_ELEMENT))
			m->elements++;
		else if (is_mark(&insn[i], HTRACE_FILTER_WINDOW))
			m->windows += has_window(&insn[i], insn + nr);
	}
}

bool loader_marks_agree(const struct loader_marks *m)
{
	return m->ends && m->windows == m->ends && m->elements == m->begins;
}

static void find_marks(struct work *w, const struct bpf_insn *insn, size_t nr, struct marks *m)
{
	memset(m, 0, sizeof(*m));
	loader_count_marks(insn, nr, &m->count);
	for (size_t i = 0; i < nr; i++) {
		if (insn[i].code == (BPF_LD | BPF_DW | BPF_IMM))
			i++;
		else if (is_begin(&insn[i]))
			note_begin(w, m, (__u32)insn[i].imm & HTRACE_FILTER_EVENTS);
	}
}

void loader_patch_marks(struct bpf_insn *insn, size_t nr, const struct filter_code *code,
			bool stacks, __u32 element)
{
	for (size_t i = 0; i < nr; i++) {
		if (insn[i].code == (BPF_LD | BPF_DW | BPF_IMM))
			i++;
		else if (is_begin(&insn[i]) || is_mark(&insn[i], HTRACE_FILTER_END))
			insn[i].imm = 1;
		else if (is_mark(&insn[i], HTRACE_FILTER_TASK))
			insn[i].imm = code && code->wants_task;
		else if (is_mark(&insn[i], HTRACE_FILTER_COMM))
			insn[i].imm = code && code->wants_comm;
		else if (is_mark(&insn[i], HTRACE_FILTER_CPU))
			insn[i].imm = code && code->wants_cpu;
		else if (is_mark(&insn[i], HTRACE_FILTER_STACK))
			insn[i].imm = stacks;
		else if (is_mark(&insn[i], HTRACE_FILTER_ELEMENT))
			insn[i].imm = (__s32)element;
		else if (code && is_mark(&insn[i], HTRACE_FILTER_WINDOW))
			memcpy(&insn[i + 1], code->insn, code->nr * sizeof(*insn));
	}
}

static void leave_to_reader(struct event *const *event, size_t nr, const char *why)
{
	for (size_t i = 0; i < nr; i++)
		if (!event[i]->why)
			event[i]->why = why;
}

/* The reader learns from these what tasks are called, and until when: it must see them all. */
static bool is_always_recorded(const struct htrace_event *e)
{
	return loader_is_name_source(e->name) || !strcmp(e->name, "sched_process_exit");
}

static bool names_stacks(const struct htrace_filter *f)
{
	return strstr(htrace_filter_text(f), "callstack_") != NULL;
}

/* Which of the program's events can be filtered, and is there one that some record may fail? */
static size_t make_cases(const struct work *w, const struct marks *m, struct filter_case *cases,
			 struct filter_code *code, bool *any, bool *stacks)
{
	*any = *stacks = false;
	for (size_t i = 0; i < m->nr; i++) {
		struct event *e = m->event[i];

		cases[i] = (struct filter_case){e->number, e->bound, e->event, e->sample};
		if (!e->event)
			continue;
		if (is_always_recorded(e->event) && !e->why)
			e->why = "task names come from it";
		else if (e->stacks && !e->why && e->bound && names_stacks(e->own ? e->own : w->filter))
			e->why = "stacks are looked at behind the filter";
		else if (!e->why && filter_compile(code, &cases[i], 1))
			e->why = code->error;
		if (e->why) {
			cases[i].bound = NULL;
			cases[i].sample = 0;
		}
		*any |= cases[i].bound || cases[i].sample > 1;
		*stacks |= e->stacks;
	}
	return m->nr;
}

static int filter_program(struct work *w, struct bpf_program *p, const char *why)
{
	size_t nr = bpf_program__insn_cnt(p), nr_cases;
	struct filter_case cases[MAX_CASES];
	struct filter_code *code;
	struct bpf_insn *insn;
	struct marks m;
	bool any, stacks;
	int err = 0;

	find_marks(w, bpf_program__insns(p), nr, &m);
	for (size_t i = 0; i < m.nr; i++)
		m.event[i]->recorded = true;
	if (!why)
		why = loader_why_not_type(p);
	if (!why && (m.unknown || !loader_marks_agree(&m.count)))
		why = "its program is not made as htrace.bpf.h makes them";
	if (why || !m.nr) {
		leave_to_reader(m.event, m.nr, why);
		return 0;
	}
	code = malloc(sizeof(*code));
	insn = malloc(nr * sizeof(*insn));
	if (!code || !insn) {
		say("--filter: %s", strerror(ENOMEM));
		err = -1;
		goto out;
	}
	nr_cases = make_cases(w, &m, cases, code, &any, &stacks);
	if (!any)
		goto out;
	if (filter_compile(code, cases, nr_cases)) {
		leave_to_reader(m.event, m.nr, code->error);
		goto out;
	}
	memcpy(insn, bpf_program__insns(p), nr * sizeof(*insn));
	loader_patch_marks(insn, nr, code, stacks, w->nr_elements++);
	err = bpf_program__set_insns(p, insn, nr);
	if (err)
		say("--filter: cannot change program %s: %s", bpf_program__name(p), strerror(-err));
out:
	free(code);
	free(insn);
	return err;
}

/* ----------------------------------------------------------------------------------------- tracers */

static void add_event(void *ctx, __u32 id, __u32 number, bool stacks)
{
	struct work *w = ctx;
	const struct htrace_event *event = id ? htrace_schema_event(w->schema, id) : NULL;
	struct event *twin = find_event(w, number);

	if (w->nr_events == MAX_CASES) {
		w->too_many = true;
		return;
	}
	w->event[w->nr_events++] = (struct event){
		.id = id, .number = number, .event = event, .stacks = stacks,
	};
	if (twin) /* of several source files */
		twin->why = w->event[w->nr_events - 1].why = "its tracer was linked from several files";
}

static void name_left(struct work *w, const struct event *e)
{
	size_t at = strlen(w->left);

	if (at < sizeof(w->left) - 160)
		snprintf(w->left + at, sizeof(w->left) - at, "%s%s (%s)", at ? ", " : "",
			 e->event->name, e->why);
	else if (strcmp(w->left + at - 3, "..."))
		strcat(w->left, ", ...");
}

static int publish_event(struct work *w, const struct event *e)
{
	bool told;
	int err;

	if (!e->event || !strcmp(e->event->name, HTRACE_STACK_EVENT))
		return 0;
	if (e->why && (e->own || e->sample > 1)) {
		say("records of %s cannot be chosen in the guest: %s", e->event->name, e->why);
		return -1;
	}
	if (!w->filter)
		return 0;
	told = w->more && htrace_schema_is_filtered(w->schema, e->id);
	if (e->why) { /* and was told otherwise when no program recorded it */
		name_left(w, e);
		err = told ? htrace_builder_unfiltered(w->b, e->id) : 0;
	} else {
		w->in_guest += e->recorded; /* what no program records needs no reader's filter either */
		err = told ? 0 : htrace_builder_filtered(w->b, e->id);
	}
	if (err)
		say("--filter: %s", htrace_builder_error(w->b));
	return err;
}

static bool has_setting(const struct program *p)
{
	return p->filter || p->sample > 1;
}

static bool is_of(const struct loader *l, const struct tracer *t, const struct program *p, const char *event)
{
	char name[64];

	if (p->obj != t->obj || t->tp)
		return p->obj == t->obj;
	loader_event_name(l, p, name);
	return !strcmp(name, event);
}

/* The program that @e is recorded by, as far as it may have settings of its own: of several one that has. */
static const struct program *program_of(const struct loader *l, const struct tracer *t, const char *event)
{
	const struct program *found = NULL;

	for (size_t i = 0; i < l->nr_programs; i++)
		if (is_of(l, t, &l->program[i], event) && (!found || has_setting(&l->program[i])))
			found = &l->program[i];
	return found;
}

/* 32-bit calls are sampled with the others. Filters are not for them: their numbers mean other calls. */
static __u32 sample_of(const struct loader *l, const struct tracer *t, const char *event)
{
	const struct program *p = program_of(l, t, event);
	size_t len = strlen(LOADER_COMPAT);

	if (!p && t->built_in && !strncmp(event, LOADER_COMPAT, len))
		p = program_of(l, t, event + len);
	return p ? p->sample : 0;
}

/* A setting that no event takes would be taken for one that holds. */
static int check_settings(const struct loader *l, const struct work *w, const struct tracer *t)
{
	for (size_t i = 0; i < l->nr_programs; i++) {
		const struct program *p = &l->program[i];
		bool taken = !has_setting(p) || p->obj != t->obj;

		for (size_t k = 0; k < w->nr_events && !taken; k++)
			taken = w->event[k].event && is_of(l, t, p, w->event[k].event->name);
		if (!taken) {
			say("records of %s cannot be chosen in the guest: its tracer is of another version", p->name);
			return -1;
		}
	}
	return 0;
}

/* What of an event's own there is, and --filter: all has to hold. */
static int bind_event(struct work *w, const struct program *p, struct event *e)
{
	const char *session = w->filter ? htrace_filter_text(w->filter) : NULL;
	struct htrace_filter_error why;
	char *both = NULL;
	int err = 0;

	if (p && p->filter) {
		if (asprintf(&both, session ? "(%s) && (%s)" : "%s", session ? session : p->filter, p->filter) < 0)
			return -ENOMEM;
		err = htrace_filter_parse(&e->own, both, &why);
		free(both);
		/* Its names are those of this event, or a mistake. */
		if (!err)
			err = htrace_filter_check(e->own, w->schema, &why);
		if (err)
			say("%s: filter: %s", e->event->name, why.msg);
	}
	if (!err && (e->own || w->filter))
		err = htrace_filter_bind(&e->bound, e->own ? e->own : w->filter, e->event);
	return err;
}

static int filter_tracer(const struct loader *l, struct work *w, struct tracer *t)
{
	const char *why = loader_has_functions(t) ? "its tracer has functions that are not inlined" :
						    NULL;
	struct bpf_map *scratch = loader_scratch(t);
	struct bpf_program *p;
	int err = 0;

	w->nr_events = w->nr_elements = 0;
	w->too_many = false;
	loader_events_of(t, add_event, w);
	err = check_settings(l, w, t);
	for (size_t i = 0; i < w->nr_events && !err; i++) {
		if (!w->event[i].event)
			continue;
		w->event[i].sample = sample_of(l, t, w->event[i].event->name);
		err = bind_event(w, program_of(l, t, w->event[i].event->name), &w->event[i]);
	}
	if (w->too_many || !scratch)
		why = "its tracer is of another version, or has too many events";
	bpf_object__for_each_program(p, t->obj) {
		if (bpf_program__autoload(p) && !err)
			err = filter_program(w, p, why);
	}
	/* What is recorded in functions was not seen in any program. */
	for (size_t i = 0; why && i < w->nr_events; i++)
		w->event[i].why = why;
	if (!err && scratch && w->nr_elements)
		err = loader_scratch_use(t, w->nr_elements);
	for (size_t i = 0; i < w->nr_events; i++) {
		if (!err)
			err = publish_event(w, &w->event[i]);
		htrace_filter_unbind(w->event[i].bound);
		htrace_filter_free(w->event[i].own);
	}
	return err;
}

/* A map that no program will use takes memory of each CPU. */
static void drop_scratch(const struct loader *l)
{
	for (size_t i = 0; i < l->nr_tracers; i++) {
		struct bpf_map *m = loader_scratch(&l->tracer[i]);

		if (m)
			bpf_map__set_autocreate(m, false);
	}
}

/* All that was declared in the session. */
static int parse_schema(struct work *w, const void *old, size_t oldlen)
{
	size_t len;
	const void *fresh = htrace_builder_entries(w->b, &len);
	char *all = malloc(oldlen + len + 1), why[160] = "";
	int err = -1;

	if (all) {
		if (oldlen)
			memcpy(all, old, oldlen);
		if (len)
			memcpy(all + oldlen, fresh, len);
		err = htrace_schema_parse(&w->schema, all, oldlen + len, why, sizeof(why));
	}
	if (err)
		say("--filter: the events' description cannot be read: %s", why);
	free(all);
	return err;
}

static bool has_settings(const struct loader *l)
{
	for (size_t i = 0; i < l->nr_programs; i++)
		if (has_setting(&l->program[i]))
			return true;
	return false;
}

static int filter_all(struct loader *l, struct work *w)
{
	int err = 0;

	for (size_t i = 0; i < l->nr_tracers && !err; i++)
		if (loader_is_used(&l->tracer[i]))
			err = filter_tracer(l, w, &l->tracer[i]);
	return err;
}

int loader_filter(struct loader *l, const struct htrace_filter *filter,
		  struct htrace_schema_builder *b, const void *old, size_t oldlen)
{
	struct work *w = calloc(1, sizeof(*w));
	struct htrace_filter_error why;
	int err;

	drop_scratch(l);
	if (!w)
		return -1;
	w->filter = filter;
	w->b = b;
	if (!filter) {
		err = htrace_builder_has_filter(b) ? htrace_builder_filter(b, "") : 0;
		goto out;
	}
	err = parse_schema(w, old, oldlen);
	if (err)
		goto out;
	err = htrace_filter_check(filter, w->schema, &why);
	if (err) {
		say_filter_error(htrace_filter_text(filter), &why);
		goto out;
	}
	err = htrace_builder_filter(b, htrace_filter_text(filter));
	if (!err)
		err = filter_all(l, w);
	if (!err)
		say("--filter: applied here to %zu event%s%s%s", w->in_guest,
		    w->in_guest == 1 ? "" : "s", w->left[0] ? "; by host-reader to " : "", w->left);
out:
	htrace_schema_free(w->schema);
	free(w);
	return err ? -1 : 0;
}

int loader_filter_more(struct loader *l, const struct htrace_filter *filter,
		       struct htrace_schema_builder *b, const void *old, size_t oldlen)
{
	struct work *w;
	int err;

	drop_scratch(l);
	if (!filter && !has_settings(l))
		return 0;
	w = calloc(1, sizeof(*w));
	if (!w)
		return -1;
	w->filter = filter;
	w->b = b;
	w->more = true;
	err = parse_schema(w, old, oldlen);
	if (!err)
		err = filter_all(l, w);
	htrace_schema_free(w->schema);
	free(w);
	return err ? -1 : 0;
}
