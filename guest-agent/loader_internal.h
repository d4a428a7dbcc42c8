/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the loader's files share. */
#ifndef AGENT_LOADER_INTERNAL_H
#define AGENT_LOADER_INTERNAL_H

#include "loader.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof(*(a)))

/* loader.c */

/* Add @obj to the tracers, of which there are fewer than MAX_TRACERS. */
struct tracer *loader_keep_object(struct loader *l, struct bpf_object *obj, const char *name);
/* One more instance of tracepoint.bpf.c, of the loader @l. 0, or -1 after saying why not. */
int loader_open_tracepoint(void *l, const char *system, const char *name);
/* Choose @prog of @t, too. Likewise. */
int loader_add_program(struct loader *l, const struct tracer *t, struct bpf_program *prog);
/* loader_load() of one. Likewise. */
int loader_load_tracer(struct loader *l, struct tracer *t, int rings_fd, const struct htrace_geometry *g,
		       __u32 schema);
/* Would the reader not learn the names of new tasks without it? */
bool loader_is_name_source(const char *program);

/* loader_hooks.c */

/* Has the kernel what @section attaches to? What BTF does not tell is found out when attaching. */
bool loader_has_hook(struct btf *kernel, const char *section);
/* Whose program is it? */
const struct tracer *loader_tracer_of(const struct loader *l, const struct program *p);
/* Forget program @i, which is neither loaded nor attached. */
void loader_leave_out(struct loader *l, size_t i);

/* loader_events.c */

/* An event's record id, its number in the object, and whether stacks come with its records. */
typedef void loader_event_fn(void *ctx, __u32 id, __u32 number, bool stacks);
/* Call @each for every event that @t declares. */
void loader_events_of(const struct tracer *t, loader_event_fn *each, void *ctx);

/* Is one of its programs chosen? */
bool loader_is_used(const struct tracer *t);
/* Call @each for every event of @t, by its name in the object. */
void loader_events(const struct tracer *t, void (*each)(void *, const char *), void *ctx);
/* Shape of the rings and schema generation. */
int loader_set_constants(const struct loader *l, const struct tracer *t, const struct htrace_geometry *g,
			 __u32 schema);
/* Was it compiled against a htrace.bpf.h that knows of the kernel module? */
bool loader_knows_module(const struct tracer *t);

/* loader_filter.c: records that are made aside, and the marks that make programs do so */

struct filter_code;

/*
 * Does the kernel keep this program from running twice at a time on a CPU? Then one scratch record
 * per CPU is enough for it. And has it the helpers that tell of the task? NULL, or why not.
 */
const char *loader_why_not_type(const struct bpf_program *p);
/* Functions that are not inlined: whose records they make, and when, is not seen in the programs. */
bool loader_has_functions(const struct tracer *t);
/* How many places @insn has that begin and end records, and that are not patched yet. */
struct loader_marks {
	size_t begins, ends, elements, windows;
};
void loader_count_marks(const struct bpf_insn *insn, size_t nr, struct loader_marks *m);
/* Are they as htrace.bpf.h makes them? */
bool loader_marks_agree(const struct loader_marks *m);
/* @code NULL: all pass. */
void loader_patch_marks(struct bpf_insn *insn, size_t nr, const struct filter_code *code,
			bool stacks, __u32 element);
/* The map of scratch records; NULL: the tracer has none. */
struct bpf_map *loader_scratch(const struct tracer *t);
/* Elements that programs have so far; and have so many: -EINVAL if the tracer has no such map. */
__u32 loader_scratch_used(const struct tracer *t);
int loader_scratch_use(const struct tracer *t, __u32 nr);

/* loader_tell.c */

#define LOADER_COMPAT "compat_" /* and the name: its 32-bit kind, which the same program records */
/* Bytes of the schema area that it takes at most to tell of all programs. */
size_t loader_tell_room(const struct loader *l);

/* loader_stacks.c */

/* Are stacks recorded with @event of @t? */
bool loader_wants_stack(const struct loader *l, const struct tracer *t, const char *event);
/* The maps that @t needs for it, before it is loaded. */
int loader_prepare_stacks(struct loader *l, const struct tracer *t);
void loader_close_stacks(struct loader *l);

/* loader_profile.c */

/* The HZ of "profile:HZ"; 0 after saying what is wrong with it. */
unsigned int loader_parse_profile(const char *word);
int loader_attach_profile(struct program *p);

/* loader_functions.c */

/* The functions of the word "function:..."; 0, or -1 after saying why not. */
int loader_open_functions(struct loader *l, const char *word);
/* All words are read. Likewise. */
int loader_end_functions(struct loader *l);
/* Declare @t's event behind @nr_front members of 8 bytes each. Record id or -errno. */
int loader_declare_functions(const struct tracer *t, struct htrace_schema_builder *b,
			     const struct htrace_schema_member *front, __u32 nr_front);
int loader_attach_functions(struct program *p);
/* What of its calls is not recorded, in addition to what the kernel counts, and in its place. */
void loader_function_misses(const struct program *p, struct htrace_prog *counted);
/* Calls for which the kernel had no room to remember that they return, and so called nobody. */
__u64 loader_not_called(int link_fd);

#endif
