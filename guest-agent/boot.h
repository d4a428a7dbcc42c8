/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The kernel's own ring of its boot, which its command line had it fill (trace_event=... or
 * trace_instance=...): its records go into our rings, with the times and CPUs that they have, before the
 * first of our own programs'.
 *
 * Functions return 0, or a negative number after saying why.
 */
#ifndef AGENT_BOOT_H
#define AGENT_BOOT_H

#include <htrace/schema.h>

#include "pins.h"

struct boot;
struct loader;

/* @word: boot, or boot:INSTANCE. Reads what is traced there; changes nothing. */
int boot_open(struct boot **out, const char *word);
/* NULL is allowed. */
void boot_close(struct boot *b);
/* What it traces: call @each until it gives non-zero, which is returned. */
int boot_events(const struct boot *b, int (*each)(void *ctx, const char *system, const char *event), void *ctx);

/* Take what is in it, out of it: it goes on. */
int boot_read(struct boot *b);
/* The type of initcalls' addresses in @s; 0: they have no names; or -errno. After boot_read(). */
int boot_functions(const struct boot *b, struct htrace_schema_builder *s);
/* Declare in @s, with which the session begins, what programs that are chosen have not. */
int boot_declare(struct boot *b, struct htrace_schema_builder *s, int functions);
/* Take what came since, and write all of it into the rings: nobody else does yet. */
int boot_write(struct boot *b, const struct rings *rings, const struct htrace_geometry *g, __u32 schema);
/*
 * Programs are attached, and record: stop it. What happened before they were, and behind what was written, is
 * counted as dropped.
 */
void boot_end(struct boot *b, const struct loader *l, const struct rings *rings);

#endif
