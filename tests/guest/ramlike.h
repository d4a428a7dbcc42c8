/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What stands for a VM's memory, in a process that stands for its VMM: a region and rings in it, and a beacon. */
#ifndef TESTS_RAMLIKE_H
#define TESTS_RAMLIKE_H

#include <htrace/region.h>

#define RAMLIKE_BASE (1ULL << 30) /* as on arm64 */

/*
 * @kind: private, shared, huge and hugeshared (likewise, in pages of 2 MiB), scattered (shared, no page beside its neighbour), outside (the beacon names a page that is not in the memory), runs (so
 * do the rings' page runs). The region is not published. False: this machine has no such memory.
 */
bool ramlike_make(const char *kind, struct htrace_region **region, const struct htrace_region_opts *o);
struct htrace_ring *ramlike_ring(unsigned int i, struct htrace_geometry *g);
/* All of that memory, whose first byte the guest has at RAMLIKE_BASE. */
void *ramlike_memory(size_t *len);
/* After it was published. */
void ramlike_light(void);
/* The same beacon in memory that is the VMM's own: nobody may look there. */
void ramlike_decoy(void);
/* @n beacons that lead nowhere, each in a page of its own. */
void ramlike_pretend(unsigned int n);
/* Give the rings' and the region's memory back, as an agent does. */
void ramlike_retire(void);

#endif
