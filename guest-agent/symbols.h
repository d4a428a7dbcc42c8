/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What stacks are symbolised with: the kernel's symbols, and the files that processes have mapped. */
#ifndef AGENT_SYMBOLS_H
#define AGENT_SYMBOLS_H

#include <htrace/region.h>

/*
 * Put the kernel's functions into the region; @adopted: a session that has them, so only what may
 * have come since. Says why if they cannot be had; addresses are shown then.
 */
void symbols_publish(struct htrace_region *r, bool adopted);
/* Those of modules that were loaded since. */
void symbols_update(struct htrace_region *r);
void symbols_free(void);

/* mappings.c: the executable mappings of the processes that map @pids_fd names. Bounded work. */
void mappings_update(struct htrace_region *r, int pids_fd);
void mappings_free(void);

#endif
