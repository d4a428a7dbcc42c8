/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --view boot: how long which part of a boot took, level by level, and what user space then did. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "boot.h"
#include "event_fields.h"
#include "symbols.h"
#include "view.h"

typedef unsigned long long ull;

#define SOURCES 64
#define SLOWEST 5    /* initcalls of each level */
#define STEPS 20     /* modules, programs */

enum field { F_FUNCTION, F_RET, F_TID, F_CHILD, FIELDS };

#define BIT(field) (1u << (field))

static const char *const fields[FIELDS] = { "func", "ret", "tid", "child_tid" };

enum kind { KIND_OTHER, KIND_LEVEL, KIND_START, KIND_FINISH, KIND_MODULE, KIND_EXEC, KIND_FORK, KIND_EXIT };

static const struct event_fields_spec spec = {
	.field = fields,
	.nr_fields = FIELDS,
	.kind = {
		[KIND_LEVEL] = { "initcall_level", 0 },
		[KIND_START] = { "initcall_start", BIT(F_FUNCTION) },
		[KIND_FINISH] = { "initcall_finish", BIT(F_FUNCTION) },
		[KIND_MODULE] = { "module_load", 0 },
		[KIND_EXEC] = { "sched_process_exec", BIT(F_TID) },
		[KIND_FORK] = { "sched_process_fork", BIT(F_CHILD) },
		[KIND_EXIT] = { "sched_process_exit", BIT(F_TID) },
	},
};

struct view_boot {
	struct event_fields *fields;
	struct boot *boot[SOURCES];
	char source[SOURCES][64]; /* what it is called, if there are several; harmless */
};

static void boot_view_close(void *view)
{
	struct view_boot *v = view;

	for (unsigned int i = 0; i < SOURCES; i++)
		boot_free(v->boot[i]);
	event_fields_free(v->fields);
	free(v);
}

static void *boot_view_open(void)
{
	struct view_boot *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	v->fields = event_fields_new(&spec);
	if (v->fields)
		return v;
	boot_view_close(v);
	return NULL;
}

/* ------------------------------------------------------------------------------------ what happens */

static struct boot *boot_of(struct view_boot *v, const struct sink_session *session)
{
	unsigned int nr = session->source_nr;

	if (nr >= SOURCES)
		return NULL;
	if (!v->boot[nr])
		v->boot[nr] = boot_new();
	if (session->source && !*v->source[nr])
		v->source[nr][htrace_escape(v->source[nr], sizeof(v->source[nr]) - 1, session->source,
					    strlen(session->source))] = 0;
	return v->boot[nr];
}

/* The event's text of this name, harmless. */
static const char *text_of(const struct sink_event *e, const char *field, char *out, size_t room)
{
	size_t len;
	const char *text = event_text(e, field, &len);

	out[text ? htrace_escape(out, room - 1, text, len) : 0] = 0;
	return out;
}

/* By the schema, by the symbols that come with stacks, or its address. */
static const char *function_of(const struct sink_event *e, const struct event_values *f, char *out, size_t room)
{
	const struct htrace_type *t = f->type[F_FUNCTION];
	const char *name = t->kind == HTRACE_TYPE_ENUM ? htrace_enum_name(t, f->v[F_FUNCTION]) : NULL;
	struct frame frame = { 0 };

	if (name)
		return name;
	symbols_kernel_address(e->from->symbols, f->v[F_FUNCTION], &frame);
	if (frame.symbol)
		out[htrace_escape(out, room - 1, frame.symbol, strlen(frame.symbol))] = 0;
	else
		snprintf(out, room, "0x%llx", (ull)f->v[F_FUNCTION]);
	return out;
}

static void boot_view_event(void *view, const struct sink_event *e)
{
	struct view_boot *v = view;
	struct boot *b = boot_of(v, e->from->session);
	struct event_values f;
	char text[4 * BOOT_TEXT];

	if (!b)
		return;
	boot_event(b, e->time);
	event_fields_take(v->fields, e, &f);
	switch ((enum kind)f.kind) {
	case KIND_LEVEL:
		boot_level(b, e->time, text_of(e, "level", text, sizeof(text)));
		break;
	case KIND_START:
	case KIND_FINISH:
		boot_initcall(b, e->time, f.v[F_FUNCTION], function_of(e, &f, text, sizeof(text)), e->from->ring,
			      f.kind == KIND_FINISH, (__s32)f.v[F_RET]);
		break;
	case KIND_MODULE:
		boot_module(b, e->time, (__u32)f.v[F_TID], text_of(e, "name", text, sizeof(text)));
		break;
	case KIND_EXEC:
		boot_program(b, e->time, (__u32)f.v[F_TID], text_of(e, "filename", text, sizeof(text)));
		break;
	case KIND_FORK:
		b->forks++;
		break;
	case KIND_EXIT:
		b->exits++;
		break;
	case KIND_OTHER:
		break;
	}
}

static void boot_view_loss(void *view, const struct sink_loss *l)
{
	struct boot *b = boot_of(view, l->from->session);

	if (b)
		b->lost += sink_lost(l);
}

static void boot_view_session_end(void *view, const struct sink_session *session)
{
	struct view_boot *v = view;

	event_fields_session_end(v->fields, session);
}

/* --------------------------------------------------------------------------------------- as a table */

static double ms(__u64 ns)
{
	return (double)ns / 1e6;
}

static double since(const struct boot *b, __u64 time)
{
	return time > b->first ? (double)(time - b->first) / 1e9 : 0.0;
}

/* The end of what is known of the kernel's part. */
static __u64 kernel_end(const struct boot *b)
{
	return b->user ? b->user : b->nr_levels ? b->level[b->nr_levels - 1].end : b->last;
}

static void print_head(const struct view_boot *v, struct view_page *p, const struct boot *b, unsigned int nr)
{
	if (nr)
		view_line(p, "%s", "");
	view_line(p, "%s%s%llu events in %.3f s: the kernel %.3f s, %zu initcalls in %u levels; user space %.3f s, "
		  "%llu modules, %llu forks, %llu programs", v->source[nr], *v->source[nr] ? ": " : "", (ull)b->events,
		  since(b, b->last), since(b, kernel_end(b)), b->nr_initcalls, b->nr_levels,
		  b->user ? (double)(b->last - b->user) / 1e9 : 0.0, (ull)b->modules.count, (ull)b->forks,
		  (ull)b->programs.count);
	if (b->lost)
		view_line(p, "lost: %llu events", (ull)b->lost);
	if (b->no_room)
		view_line(p, "for which there was no room: %llu events", (ull)b->no_room);
	if (!b->nr_levels && !b->nr_initcalls)
		view_line(p, "there are no initcalls: boot with trace_event=initcall:* and start guest-agent with --events boot");
}

static void print_levels(struct view_page *p, const struct boot *b)
{
	__u64 all = since(b, kernel_end(b)) > 0 ? kernel_end(b) - b->first : 1;

	view_line(p, "%s", "");
	view_line(p, "%-10s %10s %10s %6s %9s %12s", "LEVEL", "Begin s", "Took ms", "Time%", "Initcalls", "In them ms");
	if (b->before)
		view_line(p, "%-10s %10s %10s %6s %9llu", "(before)", "", "", "", (ull)b->before);
	for (unsigned int i = 0; i < b->nr_levels; i++) {
		const struct boot_level *l = &b->level[i];

		view_line(p, "%-10s %10.6f %10.3f %5.1f%% %9u %12.3f", l->name, since(b, l->begin), ms(l->end - l->begin),
			  100.0 * (double)(l->end - l->begin) / (double)all, l->nr, ms(l->ns));
	}
	if (b->user)
		view_line(p, "%-10s %10.6f", "user space", since(b, b->user));
}

static void print_slowest(struct view_page *p, const struct boot *b, unsigned int level)
{
	size_t nr;
	const struct boot_initcall **i = boot_slowest(b, level, &nr);

	for (size_t n = 0; n < nr && n < SLOWEST && boot_took(i[n]); n++)
		view_line(p, "%-10s %10.3f %10.6f %4u %5d  %s",
			  n ? "" : level < b->nr_levels ? b->level[level].name : "(others)", ms(boot_took(i[n])),
			  since(b, i[n]->begin), i[n]->cpu, i[n]->ret, i[n]->name);
	free(i);
}

static void print_steps(struct view_page *p, const struct boot *b, const struct boot_steps *s, const char *what)
{
	if (!s->nr)
		return;
	view_line(p, "%s", "");
	view_line(p, "%10s %7s  %s", "At s", "Task", what);
	for (size_t i = 0; i < s->nr && i < STEPS; i++)
		view_line(p, "%10.6f %7u  %s", since(b, s->at[i].time), s->at[i].tid, s->at[i].text);
	if (s->count > STEPS)
		view_line(p, "%10s %7s  and %llu more", "", "", (ull)s->count - STEPS);
}

static void boot_view_print(void *view, struct view_page *p)
{
	struct view_boot *v = view;
	bool any = false;

	for (unsigned int nr = 0; nr < SOURCES; nr++) {
		struct boot *b = v->boot[nr];

		if (!b)
			continue;
		any = true;
		boot_settle(b);
		print_head(v, p, b, nr);
		print_levels(p, b);
		if (b->nr_initcalls) {
			view_line(p, "%s", "");
			view_line(p, "%-10s %10s %10s %4s %5s  %s", "SLOWEST", "Took ms", "Begin s", "CPU", "Gave", "Initcall");
		}
		for (unsigned int l = 0; l <= b->nr_levels; l++)
			print_slowest(p, b, l);
		print_steps(p, b, &b->modules, "MODULE");
		print_steps(p, b, &b->programs, "PROGRAM");
	}
	if (!any)
		view_line(p, "no events");
}

/* ----------------------------------------------------------------------------------------- as JSON */

static void json_member(struct out *o, const char *name, const char *text)
{
	out_printf(o, "\"%s\":", name);
	view_json_text(o, text);
}

static void json_levels(struct out *o, const struct boot *b)
{
	out_text(o, ",\"levels\":[");
	for (unsigned int i = 0; i < b->nr_levels; i++) {
		const struct boot_level *l = &b->level[i];

		out_text(o, i ? ",{" : "{");
		json_member(o, "level", l->name);
		view_json_number(o, "begin", l->begin);
		view_json_number(o, "ns", l->end - l->begin);
		view_json_number(o, "initcalls", l->nr);
		view_json_number(o, "initcalls_ns", l->ns);
		out_char(o, '}');
	}
	out_char(o, ']');
}

/* By level, the slowest first. */
static void json_initcalls(struct out *o, const struct boot *b)
{
	bool first = true;

	out_text(o, ",\"initcalls\":[");
	for (unsigned int level = 0; level <= b->nr_levels; level++) {
		size_t nr;
		const struct boot_initcall **of = boot_slowest(b, level, &nr);

		for (size_t n = 0; n < nr; n++, first = false) {
			const struct boot_initcall *i = of[n];

			out_text(o, first ? "{" : ",{");
			json_member(o, "function", i->name);
			if (level < b->nr_levels) {
				out_char(o, ',');
				json_member(o, "level", b->level[level].name);
			}
			view_json_number(o, "cpu", i->cpu);
			if (i->began)
				view_json_number(o, "begin", i->begin);
			if (i->began && i->ended)
				view_json_number(o, "ns", boot_took(i));
			if (i->ended)
				out_printf(o, ",\"ret\":%d", i->ret);
			out_char(o, '}');
		}
		free(of);
	}
	out_char(o, ']');
}

static void json_steps(struct out *o, const struct boot_steps *s, const char *what, const char *name)
{
	out_printf(o, ",\"%s\":[", what);
	for (size_t i = 0; i < s->nr; i++) {
		out_text(o, i ? ",{" : "{");
		json_member(o, name, s->at[i].text);
		view_json_number(o, "tid", s->at[i].tid);
		view_json_number(o, "time", s->at[i].time);
		out_char(o, '}');
	}
	out_char(o, ']');
}

static void json_view_print(void *view, struct view_page *p)
{
	struct view_boot *v = view;
	struct out *o = p->out;

	for (unsigned int nr = 0; nr < SOURCES; nr++) {
		struct boot *b = v->boot[nr];

		if (!b)
			continue;
		boot_settle(b);
		out_text(o, "{\"view\":\"boot\"");
		if (*v->source[nr]) {
			out_char(o, ',');
			json_member(o, "source", v->source[nr]);
		}
		view_json_number(o, "events", b->events);
		view_json_number(o, "lost", b->lost);
		view_json_number(o, "first", b->first);
		view_json_number(o, "last", b->last);
		if (b->user)
			view_json_number(o, "user", b->user);
		view_json_number(o, "nr_initcalls", b->nr_initcalls);
		view_json_number(o, "nr_modules", b->modules.count);
		view_json_number(o, "nr_programs", b->programs.count);
		view_json_number(o, "forks", b->forks);
		view_json_number(o, "exits", b->exits);
		view_json_number(o, "no_room", b->no_room);
		json_levels(o, b);
		json_initcalls(o, b);
		json_steps(o, &b->modules, "modules", "module");
		json_steps(o, &b->programs, "programs", "path");
		out_char(o, '}');
		out_newline(o);
	}
}

#define BOOT_VIEW(called, how, is_lines) {          \
		.name = called,                     \
		.lines = is_lines,                  \
		.open = boot_view_open,             \
		.event = boot_view_event,           \
		.loss = boot_view_loss,             \
		.session_end = boot_view_session_end, \
		.print = how,                       \
		.close = boot_view_close,           \
	}

const struct view_ops view_boot = BOOT_VIEW("boot", boot_view_print, false);
const struct view_ops view_boot_json = BOOT_VIEW("boot:json", json_view_print, true);
