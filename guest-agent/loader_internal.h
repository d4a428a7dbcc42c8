/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the loader's files share. */
#ifndef AGENT_LOADER_INTERNAL_H
#define AGENT_LOADER_INTERNAL_H

#include "loader.h"

#define ARRAY_SIZE(a) (sizeof(a) / sizeof(*(a)))

/* loader_hooks.c */

/* Has the kernel what @section attaches to? What BTF does not tell is found out when attaching. */
bool loader_has_hook(struct btf *kernel, const char *section);
/* Forget program @i, which is neither loaded nor attached. */
void loader_leave_out(struct loader *l, size_t i);

/* loader_events.c */

/* Call @each for every event that @t declares, with its record id and its number in the object. */
void loader_events_of(const struct tracer *t, void (*each)(void *ctx, __u32 id, __u32 number),
		      void *ctx);

/* Is one of its programs chosen? */
bool loader_is_used(const struct tracer *t);
/* Shape of the rings and schema generation. */
int loader_set_constants(const struct tracer *t, const struct htrace_geometry *g, __u32 schema);

#endif
