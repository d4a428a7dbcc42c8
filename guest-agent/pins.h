/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What outlives an agent: the map of rings, pinned in bpffs, so that its pages stay the session's
 * when the agent is killed. Programs are not pinned: they end with their agent.
 */
#ifndef AGENT_PINS_H
#define AGENT_PINS_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/ring.h>

/* The rings' map and its memory. */
struct rings {
	int fd;
	char *mem;
	size_t len;
	__u32 nr;
	__u64 stride;
	bool borrowed; /* the memory is the region's */
};

/*
 * Mount bpffs if need be and become the machine's only agent until exit. Returns 0, or -1 after
 * saying why.
 */
int pins_lock(void);

/*
 * Memory for a region of @len bytes, pages of a map that do not move: that which an earlier agent left pinned, or else
 * zeroes, pinned now. 0, or -1 after saying why.
 */
int pins_open_region(void **mem, size_t len);
bool pins_has_region(void);
void pins_unpin_region(void);

/* The pinned map of an earlier agent: 0, or -ENOENT. */
int rings_open_pinned(struct rings *r);
/* A new map of @nr rings of shape @g, not pinned. 0, or -1 after saying why. */
int rings_create(struct rings *r, const struct htrace_geometry *g, __u32 nr);
struct htrace_ring *rings_at(const struct rings *r, __u32 index);
int rings_pin(const struct rings *r); /* 0, or -1 after saying why */
void rings_unpin(void);
/* Make sure that no reader takes these pages for a session's any more, and unpin them. */
void rings_discard(struct rings *r);
void rings_close(struct rings *r);

#endif
