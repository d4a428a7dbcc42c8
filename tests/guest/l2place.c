/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "l2place.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "l2/l2.h"
#include "ramlike.h"

#define FILE_SIZE (4u << 20)
#define RING_SIZE 131072
#define RAM_RING_SIZE (2u << 20) /* nobody waits for its reader: all records of a test */
#define BLOCK_SIZE 8192

_Static_assert(L2_REGION == RAMLIKE_BASE, "where the guest has its memory, and where its pages say that they are");

static void check(bool ok, const char *what)
{
	if (ok)
		return;
	fprintf(stderr, "l2vmm: the region: %s: %s\n", what, strerror(errno));
	exit(1);
}

static void in_file(struct l2place *p, const char *path, const struct htrace_region_opts *o)
{
	int ret = htrace_region_create_local(&p->region, path, FILE_SIZE, o, NULL);

	errno = -ret;
	check(!ret, path);
	p->size = FILE_SIZE;
	p->mem = (char *)htrace_region_host(p->region) - HTRACE_HOST_OFF; /* its beginning */
}

/* BAR2 as sysfs maps it: no pages of this machine's memory, which KVM gives to a guest all the same. */
static void in_bar(struct l2place *p, const char *pci, bool own, struct htrace_region_opts *o)
{
	struct htrace_bar *bar;
	char why[200] = "";
	int ret = htrace_bar_open(&bar, pci, why, sizeof(why));

	errno = -ret;
	check(!ret, why);
	p->mem = htrace_bar_mem(bar, &p->size);
	o->placement = HTRACE_PLACEMENT_IVSHMEM;
	/* Samples of our clocks are kept away by a lock, which there is none of in a device's memory; x86 could have it. */
	o->io_memory = htrace_bar_io_memory(bar) && !own;
	ret = htrace_region_format(&p->region, p->mem, p->size, o);
	errno = -ret;
	check(!ret, "making it");
	p->device = true;
}

static void in_ram(struct l2place *p, const char *kind, struct htrace_region_opts *o)
{
	o->placement = HTRACE_PLACEMENT_VSHMEM;
	o->policy = HTRACE_OVERWRITE;
	o->ring_size = RAM_RING_SIZE;
	errno = 0;
	check(ramlike_make(kind, &p->region, o), "making it in guest RAM");
	p->mem = ramlike_memory(&p->size);
	p->ram = true;
}

void l2place_make(struct l2place *p, const char *where, unsigned int cpus, bool own)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_DISCARD,
		.kind = HTRACE_RING_PER_CPU, .nr_rings = cpus, .nr_cpus = cpus,
		.ring_size = RING_SIZE, .block_size = BLOCK_SIZE,
	};

	if (!strncmp(where, L2_RAM_PREFIX, strlen(L2_RAM_PREFIX)))
		in_ram(p, where + strlen(L2_RAM_PREFIX), &o);
	else if (!strncmp(where, L2_BAR_PREFIX, strlen(L2_BAR_PREFIX)))
		in_bar(p, where + strlen(L2_BAR_PREFIX), own, &o);
	else
		in_file(p, where, &o);
}

struct htrace_ring *l2place_ring(const struct l2place *p, unsigned int cpu, struct htrace_geometry *g)
{
	return p->ram ? ramlike_ring(cpu, g) : htrace_region_ring(p->region, 0, cpu, g);
}

void l2place_light(const struct l2place *p)
{
	if (!p->ram)
		return;
	ramlike_light();
	ramlike_decoy();
	puts("l2vmm: the beacon is lit");
	fflush(stdout);
}

void l2place_retire(const struct l2place *p)
{
	if (p->ram)
		ramlike_retire();
	else
		htrace_region_set_state(p->region, HTRACE_GUEST_CLOSED);
	htrace_region_release(p->region);
}
