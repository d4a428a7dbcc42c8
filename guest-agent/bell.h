/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Waking the host's reader by the device's doorbell, for records that reach it by the agent (relay)
 * or that BPF programs write, which cannot ring (direct placement). docs/format.md, "Waking the reader".
 */
#ifndef AGENT_BELL_H
#define AGENT_BELL_H

#include <stdbool.h>

#include <htrace/region.h>

#include "module.h"
#include "pins.h"

struct bell {
	const struct htrace_region *region;
	const struct module *module; /* rings; NULL: the registers do */
	volatile __u32 *regs; /* BAR0; NULL: there is none, or the module has it */
	bool said_none;
	/* direct placement */
	const struct rings *rings;
	__u64 *seen; /* heads of the rings */
	__u64 next, every; /* CLOCK_MONOTONIC, ns */
};

/* Of the region's device @pci (NULL: it has none), by @m if that has bound it. No doorbell is no error. */
void bell_open(struct bell *b, const char *pci, const struct module *m);
/* 0, or -1 after saying why not. */
int bell_start(struct bell *b, const struct htrace_region *region, const struct rings *rings);
void bell_close(struct bell *b);
/* Is there one that rings? */
bool bell_exists(const struct bell *b);
/*
 * Head of the ring with the host's words at @slot went from @from to @to, and what is between is committed,
 * and has left this CPU: does its reader want to be woken for it?
 */
bool bell_due(struct bell *b, __u32 slot, __u64 from, __u64 to);
void bell_ring(struct bell *b);
/* The rings are direct: look whether one of them has passed where its reader sleeps. ns until the next look. */
__u64 bell_watch(struct bell *b);

#endif
