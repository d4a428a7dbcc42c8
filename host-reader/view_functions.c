/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* --view functions: which functions are called most and take most time, and who calls whom. */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "calls.h"
#include "event_fields.h"
#include "message.h"
#include "view.h"

typedef unsigned long long ull;

#define TOP 20
#define NAME_WIDTH 40
#define MOST_FOLDED (64u << 20) /* of a page */
#define PATH_ROOM (CALLS_DEPTH * (HTRACE_NAME_MAX + 1) + 256) /* of a path with its root */
#define NUMBER_ROOM 22
#define SHARE 0.001 /* of the time: what takes less is not in the graph */

enum field { F_TID, F_FUNCTION, F_DEPTH, F_INTERRUPT, F_NS, FIELDS };

#define BIT(field) (1u << (field))
#define NEEDED (BIT(F_TID) | BIT(F_FUNCTION) | BIT(F_DEPTH) | BIT(F_NS))

static const char *const fields[FIELDS] = { "tid", "function", "depth", "interrupt", "ns" };

enum kind { KIND_OTHER, KIND_KERNEL, KIND_USER };

static const struct event_fields_spec spec = {
	.field = fields,
	.nr_fields = FIELDS,
	.kind = {
		[KIND_KERNEL] = { "function", NEEDED },
		[KIND_USER] = { "user_function", NEEDED },
	},
};

struct view_functions {
	struct calls *calls;
	struct event_fields *fields;
	char source[CALLS_SOURCES][VIEW_SOURCE]; /* what it is called, if there are several; harmless */
	__u64 shown; /* when there was a page before: the last call's time */
	__u64 all;   /* ns that the graph has shares of */
	size_t left; /* bytes that the paths of a page may still have, */
	__u64 left_out; /* and those that were too much */
};

static void functions_view_close(void *view)
{
	struct view_functions *v = view;

	calls_free(v->calls);
	event_fields_free(v->fields);
	free(v);
}

static void *functions_view_open(void)
{
	struct view_functions *v = calloc(1, sizeof(*v));

	if (!v)
		return NULL;
	v->calls = calls_new();
	v->fields = event_fields_new(&spec);
	if (v->calls && v->fields)
		return v;
	functions_view_close(v);
	return NULL;
}

/* ------------------------------------------------------------------------------------ what happens */

static const char *name_of(const struct event_values *f, char *text, size_t len)
{
	const struct htrace_type *t = f->type[F_FUNCTION];
	const char *name = t->kind == HTRACE_TYPE_ENUM ? htrace_enum_name(t, f->v[F_FUNCTION]) : NULL;

	if (!name)
		snprintf(text, len, "function_%llu", (ull)f->v[F_FUNCTION]);
	return name ? name : text;
}

static void functions_view_event(void *view, const struct sink_event *e)
{
	const struct sink_session *session = e->from->session;
	struct view_functions *v = view;
	struct event_values f;
	struct calls_at at;
	char text[40];

	if (session->source_nr >= CALLS_SOURCES)
		return;
	event_fields_take(v->fields, e, &f);
	if (f.kind == KIND_OTHER)
		return;
	view_source_name(v->source[session->source_nr], session);
	at = (struct calls_at){
		.source = session->source_nr, .cpu = e->from->ring, .time = e->time, .tid = (__u32)f.v[F_TID],
		.depth = f.v[F_DEPTH] < CALLS_DEPTH ? (__u32)f.v[F_DEPTH] : CALLS_DEPTH - 1,
		.kind = f.kind == KIND_USER ? CALLS_USER : f.v[F_INTERRUPT] ? CALLS_INTERRUPT : CALLS_KERNEL,
	};
	if (at.kind == CALLS_INTERRUPT)
		at.level = f.v[F_INTERRUPT] > 1 ? 2 : 1;
	calls_returned(v->calls, &at, name_of(&f, text, sizeof(text)), f.v[F_NS]);
}

static void functions_view_loss(void *view, const struct sink_loss *l)
{
	struct view_functions *v = view;

	if (l->from->session->source_nr < CALLS_SOURCES)
		calls_loss(v->calls, l->from->session->source_nr, sink_lost(l));
}

static void functions_view_session_end(void *view, const struct sink_session *session)
{
	struct view_functions *v = view;

	if (session->source_nr < CALLS_SOURCES)
		calls_loss(v->calls, session->source_nr, 0);
	event_fields_session_end(v->fields, session);
}

/* --------------------------------------------------------------------------------------- as a table */

static double seconds(const struct view_functions *v, __u64 from)
{
	return v->calls->last > from ? (double)(v->calls->last - from) / 1e9 : 0.0;
}

static const char *separator(const struct view_functions *v, unsigned int source)
{
	return *v->source[source] ? ":" : "";
}

static void print_function(const struct view_functions *v, struct view_page *p, int width,
			   const struct calls_function *f)
{
	const struct durations *d = &f->d;
	const struct calls *c = v->calls;
	double time = seconds(v, v->shown ? v->shown : c->first);
	char name[2 * HTRACE_NAME_MAX + 2];

	snprintf(name, sizeof(name), "%s%s%s", v->source[f->source], separator(v, f->source), f->name);
	view_line(p, "%-*s %9llu %10.1f %6.2f%% %6.2f%% %6.2f%% %10.2f %9.2f %9.2f %10.2f %9.2f", width, name,
		  (ull)d->count, time > 0 ? (double)(d->count - f->before) / time : 0.0,
		  percent(d->count, c->count), percent(d->sum, c->outermost), percent(f->self, c->outermost),
		  durations_mean(d) / 1e3, us(durations_percentile(d, 0.5)), us(durations_percentile(d, 0.99)),
		  us(d->max), us(d->min));
}

/* On a terminal half of what is left of it, or all the rest. */
static size_t rows_of(const struct view_page *p, bool first)
{
	unsigned int left = p->rows > p->used + 1 ? p->rows - p->used - 1 : 0;

	if (!p->rows)
		return TOP;
	left = first ? left / 2 : left;
	return left > 3 ? left - 3 : 0;
}

static void print_top(const struct view_functions *v, struct view_page *p, bool by_count)
{
	size_t nr, rows = rows_of(p, !by_count);
	struct calls_function **f = calls_functions(v->calls, by_count, &nr);
	int width = 16;

	if (rows > TOP)
		rows = TOP;
	for (size_t i = 0; i < nr && i < rows; i++) {
		int len = (int)(strlen(v->source[f[i]->source]) + strlen(f[i]->name)) + 1;

		width = len > width ? len : width;
	}
	width = width > NAME_WIDTH ? NAME_WIDTH : width;
	view_line(p, "%s", "");
	view_line(p, "%-*s %9s %10s %7s %7s %7s %10s %9s %9s %10s %9s", width,
		  by_count ? "MOST CALLS" : "MOST TIME", "Calls", "Calls/s", "Calls%", "Time%", "Self%",
		  "Mean us", "p50 us", "p99 us", "Max us", "Min us");
	for (size_t i = 0; i < nr && i < rows; i++)
		print_function(v, p, width, f[i]);
	if (nr > rows)
		view_line(p, "and %zu more", nr - rows);
	free(f);
}

static void remember_counts(struct view_functions *v)
{
	struct calls_function *f;

	for (size_t i = 0; (f = table_next(&v->calls->functions, &i)) != NULL;)
		f->before = f->d.count;
	v->shown = v->calls->last;
}

static void print_head(const struct view_functions *v, struct view_page *p)
{
	const struct calls *c = v->calls;

	view_line(p, "%llu calls of %zu functions in %.3f s, %.3f ms in the outermost of them", (ull)c->count,
		  c->functions.nr, seconds(v, c->first), (double)c->outermost / 1e6);
	if (!c->count)
		view_line(p, "nothing was recorded: start guest-agent with --events 'function:GLOB'");
	if (c->lost)
		view_line(p, "lost: %llu events", (ull)c->lost);
	if (c->beyond || c->beyond_graph)
		view_line(p, "for which there was no room: %llu calls, and in the graph %llu", (ull)c->beyond,
			  (ull)c->beyond_graph);
}

static void functions_view_print(void *view, struct view_page *p)
{
	struct view_functions *v = view;

	print_head(v, p);
	if (v->calls->count) {
		print_top(v, p, false);
		print_top(v, p, true);
	}
	remember_counts(v);
}

/* ---------------------------------------------------------------------------------------- as a graph */

static const char *const root_name[CALLS_KINDS] = {
	[CALLS_KERNEL] = "kernel", [CALLS_INTERRUPT] = "interrupts", [CALLS_USER] = "programs",
};

#define UNSEEN "[caller not seen]"

/* What is printed for each root: its name, and @fn of the calls that nobody is known to have made. */
typedef void node_fn(struct view_functions *v, struct view_page *p, const struct calls_node *n, const char *path);

static void each_root(struct view_functions *v, struct view_page *p, node_fn *fn)
{
	calls_settle(v->calls);
	for (unsigned int i = 0; i < CALLS_SOURCES; i++)
		for (unsigned int k = 0; k < CALLS_KINDS; k++) {
			struct calls_root *r = &v->calls->root[i][k];
			char path[2 * HTRACE_NAME_MAX + 40];

			calls_sort(&r->seen);
			calls_sort(&r->unseen);
			snprintf(path, sizeof(path), "%s%s%s", v->source[i], separator(v, i), root_name[k]);
			if (r->seen.child)
				fn(v, p, &r->seen, path);
			snprintf(path, sizeof(path), "%s%s%s;" UNSEEN, v->source[i], separator(v, i), root_name[k]);
			if (r->unseen.child)
				fn(v, p, &r->unseen, path);
		}
}

/* Where no outermost call has returned, those that are the outermost of what is known. */
static __u64 all_time(const struct view_functions *v)
{
	__u64 ns = v->calls->outermost;

	for (unsigned int i = 0; !v->calls->outermost && i < CALLS_SOURCES; i++)
		for (unsigned int k = 0; k < CALLS_KINDS; k++)
			for (const struct calls_node *n = v->calls->root[i][k].unseen.child; n; n = n->next)
				ns += n->ns;
	return ns;
}

static void print_nodes(const struct view_functions *v, struct view_page *p, const struct calls_node *n,
			unsigned int depth)
{
	unsigned int left_out = 0;

	for (const struct calls_node *k = n->child; k; k = k->next) {
		if ((double)k->ns < SHARE * (double)v->all) {
			left_out++;
			continue;
		}
		view_line(p, "%6.2f%% %6.2f%% %10llu %10.2f  %*s%s", percent(k->ns, v->all), percent(k->self, v->all),
			  (ull)k->count,
			  (double)k->ns / (double)k->count / 1e3, (int)(2 * depth), "", k->function->name);
		print_nodes(v, p, k, depth + 1);
	}
	if (left_out)
		view_line(p, "%7s %7s %10s %10s  %*s%u more, of less than %g%% each", "", "", "", "",
			  (int)(2 * depth), "", left_out, 100 * SHARE);
}

static void graph_root(struct view_functions *v, struct view_page *p, const struct calls_node *n, const char *path)
{
	view_line(p, "%s", "");
	view_line(p, "%7s %7s %10s %10s  %s", "Time%", "Self%", "Calls", "Mean us", path);
	print_nodes(v, p, n, 0);
}

static void print_waiting(const struct view_functions *v, struct view_page *p)
{
	__u64 nr = calls_waiting(v->calls);

	if (nr)
		view_line(p, "not in the graph yet: %llu calls whose callers have not returned", (ull)nr);
}

static void graph_view_print(void *view, struct view_page *p)
{
	struct view_functions *v = view;

	print_head(v, p);
	print_waiting(v, p);
	calls_settle(v->calls);
	v->all = all_time(v);
	each_root(v, p, graph_root);
}

/*
 * As flame graphs are made of: a line for each path, with the nanoseconds of its end itself. As the tree has the names
 * once, and the lines have them again and again, these could be a few thousand times as much as what a guest made up.
 */
static void print_folded(struct view_functions *v, struct view_page *p, const struct calls_node *n, char *path,
			 size_t len)
{
	for (const struct calls_node *k = n->child; k; k = k->next) {
		size_t deeper = len + (size_t)snprintf(path + len, PATH_ROOM - len, ";%s", k->function->name);

		if (deeper >= PATH_ROOM || deeper + NUMBER_ROOM > v->left) {
			v->left_out++;
			continue;
		}
		v->left -= deeper + NUMBER_ROOM;
		out_text(p->out, path);
		out_printf(p->out, " %llu", (ull)k->self);
		out_newline(p->out);
		print_folded(v, p, k, path, deeper);
	}
}

/* The only text in it that is nobody's name of a function is what the source is called. */
static void folded_root(struct view_functions *v, struct view_page *p, const struct calls_node *n, const char *root)
{
	char *path = malloc(PATH_ROOM), *end;

	if (!path)
		return;
	snprintf(path, PATH_ROOM, "%s", root);
	end = strrchr(path, ':'); /* behind what it is called */
	for (char *at = path; end && (at = strchr(at, ';')) != NULL && at < end;)
		*at = ',';
	print_folded(v, p, n, path, strlen(path));
	free(path);
}

static void folded_view_print(void *view, struct view_page *p)
{
	struct view_functions *v = view;

	v->left = MOST_FOLDED;
	v->left_out = 0;
	each_root(view, p, folded_root);
	if (v->left_out)
		say("--view functions:folded: %llu paths were left out, with what is below them: the others are %u MiB",
		    (ull)v->left_out, MOST_FOLDED >> 20);
}

/* ----------------------------------------------------------------------------------------- as JSON */

static void json_function(const struct view_functions *v, struct out *o, const struct calls_function *f)
{
	const struct durations *d = &f->d;

	out_text(o, "{\"function\":");
	view_json_text(o, f->name);
	view_json_named(o, "source", v->source[f->source]);
	view_json_number(o, "calls", d->count);
	view_json_number(o, "ns", d->sum);
	view_json_number(o, "self_ns", f->self);
	view_json_spread(o, d);
	out_char(o, '}');
}

static void json_nodes(struct out *o, const struct calls_node *n)
{
	out_char(o, '[');
	for (const struct calls_node *k = n->child; k; k = k->next) {
		out_text(o, k == n->child ? "{\"function\":" : ",{\"function\":");
		view_json_text(o, k->function->name);
		view_json_number(o, "calls", k->count);
		view_json_number(o, "ns", k->ns);
		view_json_number(o, "self_ns", k->self);
		if (k->child) {
			out_text(o, ",\"called\":");
			json_nodes(o, k);
		}
		out_char(o, '}');
	}
	out_char(o, ']');
}

static void json_root(struct view_functions *v, struct view_page *p, const struct calls_node *n, const char *path)
{
	if (p->used++)
		out_char(p->out, ',');
	out_text(p->out, "{\"root\":");
	view_json_text(p->out, path);
	out_text(p->out, ",\"called\":");
	json_nodes(p->out, n);
	out_char(p->out, '}');
}

static void json_view_print(void *view, struct view_page *p)
{
	struct view_functions *v = view;
	const struct calls *c = v->calls;
	size_t nr;
	struct calls_function **f = calls_functions(c, false, &nr);

	out_printf(p->out, "{\"view\":\"functions\",\"calls\":%llu", (ull)c->count);
	view_json_number(p->out, "first", c->first);
	view_json_number(p->out, "last", c->last);
	view_json_number(p->out, "outermost_ns", c->outermost);
	view_json_number(p->out, "lost", c->lost);
	view_json_number(p->out, "waiting", calls_waiting(c));
	view_json_number(p->out, "no_room", c->beyond);
	view_json_number(p->out, "no_room_in_graph", c->beyond_graph);
	out_text(p->out, ",\"functions\":[");
	for (size_t i = 0; i < nr; i++) {
		if (i)
			out_char(p->out, ',');
		json_function(v, p->out, f[i]);
	}
	out_text(p->out, "],\"graph\":[");
	each_root(v, p, json_root);
	out_text(p->out, "]}");
	out_newline(p->out);
	free(f);
}

#define FUNCTIONS_VIEW(called, how, is_lines) {          \
		.name = called,                          \
		.lines = is_lines,                       \
		.open = functions_view_open,             \
		.event = functions_view_event,           \
		.loss = functions_view_loss,             \
		.session_end = functions_view_session_end, \
		.print = how,                            \
		.close = functions_view_close,           \
	}

const struct view_ops view_functions = FUNCTIONS_VIEW("functions", functions_view_print, false);
const struct view_ops view_functions_graph = FUNCTIONS_VIEW("functions:graph", graph_view_print, false);
const struct view_ops view_functions_folded = FUNCTIONS_VIEW("functions:folded", folded_view_print, true);
const struct view_ops view_functions_json = FUNCTIONS_VIEW("functions:json", json_view_print, true);
