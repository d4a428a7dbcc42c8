/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Looks through guest RAM for beacons (struct htrace_beacon), some at a time. One counts if it is whole, says of
 * itself where it lies, under a translation of guest-physical addresses that is known, and leads to the superblock
 * of a region of the same session, all of whose pages are in that RAM.
 */
#ifndef READER_BEACON_SCAN_H
#define READER_BEACON_SCAN_H

#include <htrace/abi.h>

#include "core.h"
#include "guest_ram.h"

#define BEACONS_MAX 16      /* that are kept of one scan */
#define BEACON_TRIES 4096   /* pages that claim to be one, and are looked into, of one scan */
#define BEACON_ABSENT 64    /* pages that are not in memory, and are read all the same, of one scan */

/* A region in guest RAM. */
struct ram_region {
	unsigned int part, id; /* of guest RAM */
	struct htrace_ram_layout layout;
	__u64 beacon;      /* where it is in that part */
	__u64 session;
	__u32 page_shift;
	__u32 nr_pages;
	__u64 *gpfn; /* of its pages */
};

struct beacon_scan {
	const struct guest_ram *ram;
	unsigned int part;
	__u64 page;
	struct ram_region found[BEACONS_MAX];
	unsigned int nr, tries, refused; /* beacons that led to nothing */
	unsigned int absent;
	const char *why; /* the latest of these; or NULL */
	__u64 pages, present, ns; /* gone through, of these looked at, and how long that took */
};

void beacon_scan_begin(struct beacon_scan *s, const struct guest_ram *ram);
/* Go on for about @ns, or for one beacon more. 1: there is more; 0: this was all; or -errno of guest_ram_read(). */
int beacon_scan_step(struct beacon_scan *s, __u64 ns);
/* Forget what was found, but for @keep, or NULL. */
void beacon_scan_end(struct beacon_scan *s, const struct ram_region *keep);

/* Bytes of a region: 0, -ERANGE: some page of it lies outside its RAM, or that is gone; or as guest_ram_read(). */
int ram_region_read(const struct guest_ram *ram, const struct ram_region *r, __u64 off, void *to, size_t len);
/* Is it still there: the beacon, and the session's superblock? */
bool ram_region_current(const struct guest_ram *ram, const struct ram_region *r);
void ram_region_free(struct ram_region *r);

#endif
