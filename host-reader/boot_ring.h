/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The ring that a guest's stock kernel (Linux 6.12: trace_instance=NAME@ADDRESS:SIZE,...) keeps at an address of its
 * memory that the command line says: for each CPU a description, then pages. Read while the guest writes, by copies
 * of what lies there, of which nothing is taken on trust: places and lengths stay within the range, work is
 * bounded by its size, and what does not add up is skipped and counted.
 */
#ifndef READER_BOOT_RING_H
#define READER_BOOT_RING_H

#include <stdbool.h>

#include "ftrace_page.h"

#define BOOT_RING_MAX (1ULL << 28)
#define BOOT_RING_CPUS 256

struct boot_ring;

/* What it met so far. */
struct boot_ring_state {
	unsigned int cpus;
	__u64 text; /* where the kernel says that some function of its own is */
	bool wrapped;   /* its beginning had been overwritten when it was first looked at */
	__u64 overrun;  /* times that pages were overwritten before they were read */
	__u64 corrupt;  /* pages that did not add up */
	bool anew;      /* the guest made it anew: nothing more is read */
};

/*
 * @fd stays the caller's: its bytes from @at on, @size of them, both multiples of 4096. 0 or -errno: -EINVAL, -ENOMEM.
 */
int boot_ring_open(struct boot_ring **out, int fd, __u64 at, __u64 size);
void boot_ring_close(struct boot_ring *r);
/* Is it there, with all its CPUs? 0, -EAGAIN: not yet; -EIO: the memory cannot be read; -ENOMEM. Until it is found. */
int boot_ring_find(struct boot_ring *r);
/*
 * After it was found: give @each what is new, of each CPU in its order; until it says that it has no room for a
 * record, which comes again then. Returns how many were taken, or -errno as above.
 */
long boot_ring_read(struct boot_ring *r, bool (*each)(void *ctx, unsigned int cpu, const struct ftrace_record *rec),
		    void *ctx);
const struct boot_ring_state *boot_ring_state(const struct boot_ring *r);

#endif
