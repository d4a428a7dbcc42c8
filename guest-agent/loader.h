/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Tracers: BPF objects that use htrace.bpf.h, built in or the user's, all treated alike. Select
 * programs, declare their events, load, attach, read the kernel's counters.
 *
 * Functions return 0, or a negative number after saying why.
 */
#ifndef AGENT_LOADER_H
#define AGENT_LOADER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

#include <bpf/libbpf.h>
#include <htrace/filter.h>
#include <htrace/region.h>
#include <htrace/schema.h>

#include "tracepoints.h"

struct boot;
struct functions;

#define MAX_FILES 32
#define MAX_TRACERS (HTRACE_MAX_PROGS + MAX_FILES)

struct tracer {
	char name[64]; /* also the group's in --events */
	bool built_in;
	bool by_default; /* traced if the user does not choose */
	/* NULL; else one that is used if it is chosen by its own name, or the kernel has the hooks of no other. */
	const struct bpf_program *substitute;
	bool substitute_chosen;
	struct bpf_object *obj;
	struct tracepoint *tp; /* of instances of tracepoint.bpf.c */
	unsigned int hz; /* of profile.bpf.c: samples a second of each CPU */
	struct functions *functions; /* of function.bpf.c */
	__u32 session; /* likewise: attached to all of them at once, by this kind; 0: one by one */
	__u32 nr_stacks; /* events that stacks are recorded with, as far as they were declared */
};

struct program {
	char name[HTRACE_PROG_NAME];
	struct bpf_program *prog;
	struct bpf_link *link;
	bool misses_counted;
	const struct tracepoint *tp; /* attach here; NULL: to what its section says */
	unsigned int hz; /* or to a timer of each CPU */
	struct functions *functions; /* or to these */
	bool is_session; /* to all of them at once: link_fd, 0: it is not attached */
	int link_fd;
	const struct bpf_object *obj;
	__u64 attached; /* CLOCK_MONOTONIC */
	struct bpf_link **cpu_link; /* of each CPU, of each function */
	size_t nr_cpu_links;
	char *filter; /* besides the session's; NULL: none. Its own */
	__u32 sample; /* one in so many is recorded; 0, 1: all */
	__u64 misses_before, runs_before; /* of what it took the place of, and of links that are closed */
};

#define MAX_STACK_WORDS 64

/* Events with stacks, as --stack names them, and the maps that all tracers with such share. */
struct stack_choice {
	char *word[MAX_STACK_WORDS];
	size_t nr;
	int seen_fd, pids_fd; /* 0: not made */
};

struct loader {
	struct tracer tracer[MAX_TRACERS];
	size_t nr_tracers;
	struct program program[HTRACE_MAX_PROGS];
	size_t nr_programs; /* selected, later: attached */
	struct btf *kernel; /* the kernel's BTF */
	struct stack_choice stacks;
	struct boot *boot; /* the kernel's ring of its boot goes first; NULL: none was asked for */
	bool by_module; /* records go through the kernel module */
	bool packs;     /* and what can be is packed */
};

/* Built-in tracers; then files. */
int loader_open_built_in(struct loader *l);
int loader_open_file(struct loader *l, const char *path);
/*
 * What --events can name; with @state also what of it this kernel lacks, and its tracepoints.
 */
void loader_list(const struct loader *l, FILE *out, bool state);
/*
 * Choose among the built-in programs: comma-separated names (or their tracepoints'), globs and
 * groups, SYSTEM:NAME for any tracepoint, profile:HZ, functions as function:GLOB, and boot for what the
 * kernel has traced since its boot; NULL: the default groups, "none": none. Those that task names come from are always with the others. All of the files' programs are
 * chosen.
 */
int loader_select(struct loader *l, const char *events);
/*
 * Of the events so chosen, those that stacks are recorded with; words as for --events, and files'
 * events too. May be called again for more.
 */
int loader_select_stacks(struct loader *l, const char *events);
/* Is there an event with stacks? Known after loader_declare(). */
bool loader_has_stacks(const struct loader *l);
/* Are there programs that the kernel calls through code of its own making? */
bool loader_uses_trampolines(const struct loader *l);
/* Leave out what this kernel has no hook for, with a message. Fails if nothing is left. */
int loader_check_hooks(struct loader *l);
/* Add the events to @b and note their ids in the objects. */
int loader_declare(struct loader *l, struct htrace_schema_builder *b);
/*
 * Have the programs record only what matches @filter, as far as it can be compiled into them, and
 * add to @b what holds; @old, @oldlen: the session's entries before @b's. Says what is left to the
 * reader. @filter NULL: everything; then only an earlier agent's filter is ended.
 */
int loader_filter(struct loader *l, const struct htrace_filter *filter,
		  struct htrace_schema_builder *b, const void *old, size_t oldlen);
/*
 * Likewise for programs that come later, in a session whose readers know of @filter; and what single ones
 * have of their own, which is to be tested here or refused.
 */
int loader_filter_more(struct loader *l, const struct htrace_filter *filter,
		       struct htrace_schema_builder *b, const void *old, size_t oldlen);
/*
 * Can all the chosen programs record through the kernel module? 0, or -1 with why not in @why. After
 * loader_check_hooks().
 */
int loader_check_module(const struct loader *l, char *why, size_t len);
/* Have them do so; after loader_filter(). */
int loader_use_module(struct loader *l);
/*
 * Have those that can pack their records: is there such an event? After loader_check_hooks(), before loading.
 */
bool loader_use_packing(struct loader *l);
/*
 * Load the programs, to write into map @rings_fd of shape @g under schema generation @schema; or
 * through the kernel module.
 */
int loader_load(struct loader *l, int rings_fd, const struct htrace_geometry *g, __u32 schema);
/* Programs that cannot be attached are left out with a message; fails if none could be. */
int loader_attach(struct loader *l);
/* Detach all, calling @between (NULL: nothing) after each, and wait until none runs any more. */
void loader_detach(struct loader *l, void (*between)(void *arg), void *arg);
/*
 * One of those that are selected, while others record; for loader_attach_one() it is not attached. -1 after
 * saying why not.
 */
int loader_attach_one(struct program *p);
void loader_detach_one(struct program *p);
/* Wait until none that was detached runs any more. */
void loader_let_end(void);
/* Is it attached? */
bool loader_is_on(const struct program *p);
/* What --events calls it: all programs of one name are switched together. */
void loader_event_name(const struct loader *l, const struct program *p, char name[64]);
/* By @word of --events, a name, glob or group, among those that are selected. */
bool loader_is_named(const struct loader *l, const struct program *p, const char *word);
/* Is it always recorded, for task names' sake? */
bool loader_is_kept(const struct program *p);
/*
 * Tell readers of what these programs record, by number: not all is there any more, or all is again (@whole);
 * NULL: as they now are. -1 after saying why not: then nothing was told.
 */
int loader_tell(const struct loader *l, const bool *program, const bool *whole, struct htrace_region *region);
/* What is to be loaded while others record, and where to. */
struct loader_renewal {
	const bool *program; /* by number: these anew, with the filter and sampling that they have now */
	const char *more;    /* of --events: events that are not there yet; or NULL */
	const struct htrace_filter *filter; /* --filter, or NULL */
	struct htrace_region *region;
	int rings_fd;
	const struct htrace_geometry *geometry;
	/* Called in between. */
	void (*keep_up)(void *ctx);
	void *ctx;
};

/*
 * Those that are there keep their numbers, new ones come behind them. -1 after saying why all is as it was, but
 * for programs that could not be attached again. Either way readers may have been told that of those that are
 * exchanged some records are missing: loader_tell() ends that.
 */
int loader_renew(struct loader *l, const struct loader_renewal *r);
/* Current counters of program @i. */
void loader_counters(const struct loader *l, size_t i, struct htrace_prog *p);
void loader_close(struct loader *l);

#endif
