/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Of l2vmm.c: where its guest's region is, and so the memory that the guest has at L2_REGION. */
#ifndef TESTS_L2PLACE_H
#define TESTS_L2PLACE_H

#include <htrace/region.h>

#define L2_RAM_PREFIX "ram:"
#define L2_BAR_PREFIX "bar:"

struct l2place {
	struct htrace_region *region; /* not published */
	char *mem;                    /* with it, and its rings, in it */
	size_t size;
	bool ram;    /* where a reader finds it by a beacon */
	bool device; /* where it is the host's of this machine, too */
};

/*
 * @where: bar:PCI, in the memory of this machine's ivshmem device, so that its host may read; ram:KIND, in guest RAM
 * (ramlike.h), as guest-agent --region ram does, overwritten; or a file. @own: another machine's clocks will be there
 * (l2own.h). Ends the program if it cannot be.
 */
void l2place_make(struct l2place *p, const char *where, unsigned int cpus, bool own);
struct htrace_ring *l2place_ring(const struct l2place *p, unsigned int cpu, struct htrace_geometry *g);
/* When it is published; it is said on standard output. */
void l2place_light(const struct l2place *p);
/* Closed, whoever had to read has read. */
void l2place_retire(const struct l2place *p);

#endif
