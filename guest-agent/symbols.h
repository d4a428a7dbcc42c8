/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What stacks are named with: the kernel's symbols, and the files that processes have mapped. */
#ifndef AGENT_SYMBOLS_H
#define AGENT_SYMBOLS_H

#include <htrace/region.h>

/*
 * Put the kernel's functions into the region; @adopted: a session that has them, so only what may
 * have come since. Says why if they cannot be had; addresses are shown then.
 */
void symbols_publish(struct htrace_region *r, bool adopted);
/* What came with attaching programs: trampolines, which are between them and functions. */
void symbols_attached(struct htrace_region *r);
/* Those of modules that were loaded since. */
void symbols_update(struct htrace_region *r);
void symbols_free(void);

/*
 * mappings.c: the files that processes have mapped as code, once; later the mappings of the
 * processes that the map @pids_fd names, a few a call.
 */
void mappings_start(struct htrace_region *r);
void mappings_update(struct htrace_region *r, int pids_fd);
void mappings_free(void);

#endif
