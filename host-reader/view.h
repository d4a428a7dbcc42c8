/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Views: tables in the place of events. A view takes events as a sink does, and prints what it has
 * made of them: on a terminal again and again in place, else at an interval, if there is one, and at
 * the end. It is a struct view_ops and a line in view.c.
 */
#ifndef READER_VIEW_H
#define READER_VIEW_H

#include "durations.h"
#include "sink.h"

/* What is printed at a time: lines, no more and no longer than a terminal shows. */
struct view_page {
	struct out *out;
	unsigned int rows, columns; /* 0: as many as there are */
	unsigned int used, left_out; /* lines */
};

__attribute__((format(printf, 2, 3))) void view_line(struct view_page *p, const char *fmt, ...);

/* How many there are of each power of two, as bars. */
void view_octaves(struct view_page *p, const struct durations *d);

/* What a session's source is called, harmless; it stays as it is where there is something already. */
#define VIEW_SOURCE 64
void view_source_name(char name[VIEW_SOURCE], const struct sink_session *session);

/* Of views that are JSON: text that is harmless already; a member behind others. */
void view_json_text(struct out *o, const char *text);
void view_json_number(struct out *o, const char *name, __u64 v);
/* min_ns, p50_ns, p99_ns, max_ns. */
void view_json_spread(struct out *o, const struct durations *d);
/* octaves: how many there are of each power of two, @unit being "ns" or "bytes". */
void view_json_octaves(struct out *o, const struct durations *d, const char *unit);
/* The first members of an object: count, sum_@unit, min_@unit, ..., error_percent, octaves. */
void view_json_durations(struct out *o, const struct durations *d, const char *unit);
/* A member behind others: harmless text; nothing if there is none. */
void view_json_named(struct out *o, const char *name, const char *text);
/* Likewise: what a guest says, up to @room bytes of anything. */
void view_json_said(struct out *o, const char *name, const char *text, size_t room);

static inline double percent(__u64 part, __u64 of)
{
	return of ? 100.0 * (double)part / (double)of : 0.0;
}

static inline double us(__u64 ns)
{
	return (double)ns / 1e3;
}

struct console;
struct source;

/* What views are told beside events; all stays the caller's. */
struct view_config {
	unsigned int number; /* as given behind the view's name; 0: none was */
	unsigned int nr;     /* sources */
	struct console *const *console; /* of each source; NULL: none was named */
	const bool *capture; /* is it one? */
	const struct source *source; /* of them all */
	__u64 started; /* host time */
};

struct view_ops {
	const char *name;
	unsigned int most; /* it takes a number, from 1 to this: NAME:NUMBER. 0: it takes none */
	bool needs_host; /* it shows nothing but what the source kvm says */
	bool lines; /* for programs to read: pages follow one another as they are, on terminals too */
	void *(*open)(void); /* NULL: memory is out */
	void (*configure)(void *view, const struct view_config *c); /* NULL, as the next five: it is not asked */
	void (*note)(void *view, const struct sink_note *n);
	/* Nothing more comes from a source for now: its guest is silent. What it prints at once. */
	void (*rest)(void *view, unsigned int source_nr, struct view_page *p);
	/* What is known of a session goes at its end: what it prints then. */
	void (*print_session)(void *view, const struct sink_session *session, struct view_page *p);
	void (*finish)(void *view); /* the reader ends; sessions are closed after that */
	void (*event)(void *view, const struct sink_event *e); /* NULL, as the three behind it: it wants none of them */
	void (*loss)(void *view, const struct sink_loss *l);
	/* A kvm source's session says that a virtual CPU is in another state; NULL: it is not asked. */
	void (*vcpu)(void *view, const struct sink_session *session, const struct vcpu_change *c);
	void (*session_end)(void *view, const struct sink_session *session);
	void (*print)(void *view, struct view_page *p);
	void (*close)(void *view);
};

struct exits;

extern const struct view_ops view_exits, view_exits_json, view_io, view_io_json, view_functions,
	view_functions_graph, view_functions_folded, view_functions_json, view_steal, view_steal_json, view_hypercalls, view_hypercalls_folded, view_hypercalls_json,
	view_boot, view_boot_json, view_crash, view_crash_json, view_summary_json;

/* What view_exits has counted. */
const struct exits *view_exits_numbers(const void *view);

/* NULL: there is none of this name, or it takes no such number. */
const struct view_ops *view_find(const char *name);
/* The number behind a view's name; 0: there is none. */
unsigned int view_number(const char *name);
/*
 * Outputs of text show this view. @interval: between two pages, ns; 0: a second on terminals, none
 * elsewhere. 0 or -ENOMEM.
 */
int views_open(struct sinks *s, const struct view_ops *ops, __u64 interval, __u64 now);
void views_configure(struct sinks *s, const struct view_config *c);
void views_rest(struct sinks *s, unsigned int source_nr);
void views_finish(struct sinks *s);
/* Print what is due. */
void views_refresh(struct sinks *s, __u64 now);
/* The end of each, and, if @last_page, all that it has to show. */
void views_close(struct sinks *s, bool last_page);

#endif
