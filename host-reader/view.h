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

/* A string of JSON: what is harmless on a terminal has backslashes still. */
void view_json_text(struct out *o, const char *text);

struct view_ops {
	const char *name;
	bool needs_host; /* it shows nothing but what the source kvm says */
	bool lines; /* for programs to read: pages follow one another as they are, on terminals too */
	void *(*open)(void); /* NULL: memory is out */
	void (*event)(void *view, const struct sink_event *e);
	void (*loss)(void *view, const struct sink_loss *l);
	void (*session_end)(void *view, const struct sink_session *session);
	void (*print)(void *view, struct view_page *p);
	void (*close)(void *view);
};

extern const struct view_ops view_exits, view_io, view_functions, view_functions_graph, view_functions_folded,
	view_functions_json, view_boot, view_boot_json;

/* NULL: there is none of this name. */
const struct view_ops *view_find(const char *name);
/*
 * Outputs of text show this view. @interval: between two pages, ns; 0: a second on terminals, none
 * elsewhere. 0 or -ENOMEM.
 */
int views_open(struct sinks *s, const struct view_ops *ops, __u64 interval, __u64 now);
/* Print what is due. */
void views_refresh(struct sinks *s, __u64 now);
/* The end of each, and, if @last_page, all that it has to show. */
void views_close(struct sinks *s, bool last_page);

#endif
