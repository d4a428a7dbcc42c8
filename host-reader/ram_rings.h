/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Copies of the rings that a guest has in its memory, brought up to date again and again. What a ring's reader sees is
 * what it would see in the guest's memory at one moment: descriptors are copied first, then head, then the data up
 * to that, then head once more. A block that was overwritten meanwhile is told by the later head, one that was
 * not complete by its descriptor; both are what a reader expects and deals with. That may be done some at a time: until
 * a ring is copied to its end, its head is ahead of its descriptors, as of a ring whose writers have not committed yet.
 */
#ifndef READER_RAM_RINGS_H
#define READER_RAM_RINGS_H

#include <htrace/abi.h>

#include "beacon_scan.h"

struct ram_rings;

/*
 * Of ring set @set, which was checked, of the page runs of region @r: @runs, as the guest wrote them, @len bytes. The
 * copies lie in @fd, one behind the other as in the vshmem space; it is made large enough, never smaller, and stays the
 * caller's. Nothing of the rings is copied yet. 0, or -errno with one line in @err; -EPROTO: the runs cannot be right.
 */
int ram_rings_open(struct ram_rings **out, int fd, const struct guest_ram *ram, const struct ram_region *r,
		   const struct htrace_ringset *set, const struct htrace_runs *runs, size_t len, char *err, size_t errlen);
/* Page runs and anchors, as they are in that file; at most @len bytes to @runs. 0 or -ENOSPC. */
int ram_rings_describe(const struct ram_rings *r, struct htrace_runs *runs, size_t len);
/*
 * Copy what is new in each of them. 1: there was something; 0; -EAGAIN: it is @until by clock_now(), and another call
 * goes on, which copies one block at least; or -errno of guest_ram_read().
 */
int ram_rings_update(struct ram_rings *r, __u64 until);
/* NULL is allowed. */
void ram_rings_close(struct ram_rings *r);

#endif
