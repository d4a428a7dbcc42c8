/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* The names table of a region: a seqlock of one writer. */
#include <errno.h>
#include <string.h>

#include "core.h"

static size_t room(struct htrace_region *r)
{
	return (htrace_region_super(r)->names.len - sizeof(struct htrace_names)) /
	       sizeof(struct htrace_name);
}

/* Odd from here on; a writer may have died in between, and left it so. */
static void begin(struct htrace_region *r, struct htrace_names *t)
{
	__atomic_store_n(&t->generation, t->generation | 1, __ATOMIC_RELAXED);
	htrace_region_fence(r);
}

static void end(struct htrace_region *r, struct htrace_names *t)
{
	htrace_region_fence(r);
	__atomic_store_n(&t->generation, t->generation + 1, __ATOMIC_RELEASE);
	htrace_region_fence(r);
}

/* By words: memcpy() may use forms that device memory does not take. */
static void put(struct htrace_names *t, size_t at, const struct htrace_name *names, size_t nr)
{
	volatile __u64 *to = (__u64 *)((struct htrace_name *)(t + 1) + at);
	const __u64 *from = (const __u64 *)names;

	for (size_t i = 0; i < nr * sizeof(*names) / 8; i++)
		to[i] = from[i];
}

int htrace_region_set_names(struct htrace_region *r, const struct htrace_name *names, __u32 nr)
{
	struct htrace_names *t = htrace_region_names(r);
	__u32 most = room(r) < nr ? (__u32)room(r) : nr;

	begin(r, t);
	put(t, 0, names, most);
	t->nr = most;
	t->truncated = nr - most;
	end(r, t);
	return (int)(nr - most);
}

int htrace_region_add_name(struct htrace_region *r, __u32 tid, __u32 tgid, const char *comm,
			   __u64 time)
{
	struct htrace_name n = { .time = time, .tid = tid, .tgid = tgid };
	struct htrace_names *t = htrace_region_names(r);
	struct htrace_guest *g = htrace_region_guest(r);
	__u32 nr = t->nr;
	bool full = nr >= room(r);

	memcpy(n.comm, comm, strnlen(comm, sizeof(n.comm) - 1));
	begin(r, t);
	if (full)
		t->truncated++;
	else
		put(t, nr, &n, 1);
	t->nr = nr + !full;
	end(r, t);
	/* What tells a reader that has the table to look again. */
	__atomic_store_n(&g->names_served, g->names_served + 1, __ATOMIC_RELEASE);
	return full ? -ENOSPC : 0;
}
