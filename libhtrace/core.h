/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* What the region's sources share among themselves. */
#ifndef HTRACE_CORE_H
#define HTRACE_CORE_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <htrace/region.h>

#include "internal.h"

static inline __u64 htrace_align(__u64 v, __u64 to)
{
	return (v + to - 1) & ~(to - 1);
}

typedef __u64 __attribute__((may_alias)) htrace_word;

/* Copy @len bytes (a multiple of 8) of shared memory by words, each read exactly once. */
static inline void htrace_copy_once(void *to, const void *from, size_t len)
{
	const htrace_word *src = (const htrace_word *)from;
	htrace_word *dst = (htrace_word *)to;

	for (size_t i = 0; i < len / 8; i++)
		dst[i] = __atomic_load_n(&src[i], __ATOMIC_RELAXED);
}

/*
 * Copy @len bytes (a multiple of 8) that may change meanwhile: what they were at some time, for the
 * caller to check in the copy, and to discard if it should find out that they did change. As fast as
 * memory goes.
 */
static inline void htrace_copy_out(void *to, const void *from, size_t len)
{
#ifdef HTRACE_TSAN
	htrace_copy_once(to, from, len); /* which sees a race in anything else */
#else
	memcpy(to, from, len);
	/* From here on the copy is what is read: nothing may be read from @from in its place. */
	__asm__ volatile("" ::: "memory");
#endif
}

/*
 * Does @len bytes at @off lie in @size? Written so that it cannot overflow.
 */
static inline bool htrace_inside(__u64 off, __u64 len, __u64 size)
{
	return off <= size && len <= size - off;
}

/*
 * Everything that can be said against a (private copy of a) superblock of a region of @size bytes:
 * 0, -EPROTONOSUPPORT or -EPROTO, with one line in @err.
 */
int htrace_super_check(const struct htrace_super *s, __u64 size, char *err, size_t errlen);
void htrace_geometry_of(const struct htrace_ringset *set, struct htrace_geometry *g);
/* The running kernel's boot id; zero where there is none. */
void htrace_boot_id(__u8 id[16]);
/* What htrace_clock_check() makes of the TSC, from what it found out. */
int htrace_tsc_check(bool invariant, bool readable, const char *clocksources, char *err,
		     size_t errlen);
/* Random, never 0. */
__u64 htrace_random(void);

/*
 * SIGBUS in a guarded range (the file behind it shrank) puts zero pages there and raises the flag,
 * instead of killing the process.
 */
int htrace_sigbus_guard(void *mem, size_t len, bool writable, volatile bool *shrunk, char *err,
			size_t errlen);
void htrace_sigbus_unguard(void *mem);

/* Of a process's stat in its directory of /proc. */
struct htrace_stat {
	char state;
	__u32 threads;
	__u64 start; /* in clock ticks since boot */
};

bool htrace_read_stat(const char *dir, struct htrace_stat *st);
/* As struct htrace_ring's owner_ns. */
__u64 htrace_own_ns(void);

/* Tells whether processes live; the last verdict is kept. */
struct htrace_judge {
	__u64 ns;  /* ours; 0: nobody can be judged */
	bool proc; /* /proc is that of our pid namespace */
	bool judged, dead;
	__u32 pid;
	__u64 start;
};

/* For processes of the machine with @boot_id. */
void htrace_judge_init(struct htrace_judge *j, const __u8 boot_id[16]);
/* False also if it cannot be told. @start 0: not known. */
bool htrace_judge_dead(struct htrace_judge *j, __u32 pid, __u64 ns, __u64 start);
/* Likewise, for a ring's @owner that says that it is being taken. */
bool htrace_judge_taker_dead(struct htrace_judge *j, __u64 owner);

/* A reader's mapping of a region. */
struct htrace_view {
	int fd;
	int lock; /* another descriptor of the file, of the reader that claimed it; or -1 */
	void *mem; /* read-only */
	size_t size;
	void *host; /* host area, writable, or NULL */
	bool host_is_whole; /* host points into a writable mapping of all of the file */
	__u64 dev, ino;
	volatile bool shrunk;
	bool attached;
	struct htrace_super super; /* validated copy */
	/* guest RAM */
	void *space; /* the page runs side by side, read-only */
	size_t space_len;
	struct htrace_anchor *anchors; /* verified copies */
	__u32 nr_anchors;
	struct htrace_run *runs;
	__u32 nr_runs;
	int vmm_pid;
	char ram_name[256];
	__u64 ping, ping_tsc; /* the latest question for its TSC, and ours then */
	__u64 command; /* the number of that which was given last; 0: none */
	struct htrace_judge judge; /* of owners of rings, as of judged_at */
	__u64 judged_at;
};

/* Is what is in the file a region, or nothing yet, as htrace_view_attach() sees it? */
bool htrace_view_may_write(const struct htrace_view *v);
/* Take a sample of the clocks, unless there is a recent one. Any thread. */
void htrace_region_sample(struct htrace_region *r);
/* As htrace_region_host_ring(), for who retires a ring. */
struct htrace_host_ring *htrace_host_words(struct htrace_region *r, __u32 slot);
/* Which of the host's commands a handle took last. */
struct htrace_taken {
	bool begun; /* those before are not its own */
	__u64 number;
};

struct htrace_taken *htrace_region_taken(struct htrace_region *r);
/* htrace_region_format() in two: what may fail and touches no memory, and what is sure to succeed. */
int htrace_region_plan(struct htrace_region **out, size_t size,
		       const struct htrace_region_opts *opts);
void htrace_region_write(struct htrace_region *r, void *mem);
void htrace_view_unmap_ram(struct htrace_view *v);
/* The region is in a mapping that goes when the handle is released. */
void htrace_region_own_mapping(struct htrace_region *r);
/*
 * Guest-physical address to offset in what backs guest RAM: RAM begins at start; what lies below start + low is at
 * its beginning, what lies above 4 GiB follows.
 */
struct htrace_ram_layout {
	__u64 start, low;
};

/* Those of known machine types, from 0 on; NULL: no more. */
const struct htrace_ram_layout *htrace_ram_layouts(unsigned int i);
/* Do @len bytes at @gpa lie wholly in the RAM of @size bytes, in one piece? Then where: @off. */
bool htrace_ram_offset(const struct htrace_ram_layout *l, __u64 size, __u64 gpa, __u64 len, __u64 *off);

/* Page frame numbers of the @nr pages at @mem, of this process: 0, or -errno as htrace_vshmem_publish(). */
int htrace_page_frames(const void *mem, size_t nr, __u64 *pfn);

/* Bytes that the beacon of a region of @size bytes takes, with its tables. */
size_t htrace_beacon_len(size_t size);
/*
 * Make the beacon at @b of the published region at @mem: both mapped, resident, and of pages that do not move. As
 * htrace_page_frames(); -EINVAL: too large.
 */
int htrace_beacon_light(struct htrace_beacon *b, const void *mem, size_t size);
/* Ordered before any later release of the pages. */
void htrace_beacon_clear(struct htrace_beacon *b);
/* Of its other words: with magic and sum taken as 0. */
__u64 htrace_beacon_sum(const struct htrace_beacon *b);
/* Is the (private) copy of a page one of a beacon that somebody meant to be one? */
bool htrace_beacon_valid(const struct htrace_beacon *b);

/* The writing side's page runs, NULL if the region has none. */
struct htrace_runs *htrace_region_runs(struct htrace_region *r);

#endif
