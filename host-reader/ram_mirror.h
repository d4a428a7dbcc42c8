/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SOURCE pid: a region that a guest has in its own memory. What changes in it is copied into memory of ours that
 * looks like the region of a device, so whoever reads that reads this; so are rings (ram_rings.h) that cannot be mapped.
 * Nothing is ever written to the guest.
 */
#ifndef READER_RAM_MIRROR_H
#define READER_RAM_MIRROR_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/types.h>

struct htrace_view;
struct ram_mirror;

/* 0, or -errno with one line in @err, which says what to do. Opens all that it will ever need. */
int ram_mirror_open(struct ram_mirror **out, int pid, char *err, size_t errlen);
/* A descriptor of the region's memory, the caller's to close; or -errno. */
int ram_mirror_file(const struct ram_mirror *m);
/*
 * Go on looking for the guest's region, or take over what is new of it, if it is time. Returns a line to be said, or
 * NULL.
 */
const char *ram_mirror_work(struct ram_mirror *m, __u64 now);
/* When it is time again. */
__u64 ram_mirror_due(const struct ram_mirror *m);
/* The end is near: it is time at once. */
void ram_mirror_hurry(struct ram_mirror *m);
/* Is the process gone? What was copied can still be read. */
bool ram_mirror_gone(const struct ram_mirror *m);
/*
 * Map the rings of the session that @view is attached to; or copies of them. As htrace_view_map_ram_fds(); -EAGAIN:
 * they are being copied, by ram_mirror_work().
 */
int ram_mirror_map(struct ram_mirror *m, struct htrace_view *view, char *err, size_t errlen);
/* Are rings copied? */
bool ram_mirror_copies(const struct ram_mirror *m);
/* NULL is allowed. After all views of the region. */
void ram_mirror_close(struct ram_mirror *m);

#endif
