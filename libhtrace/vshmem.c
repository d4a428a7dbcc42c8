/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Rings in guest memory: tells the host which guest-physical pages they consist of, and marks the
 * pages as the session's by nonces that only it can have written (anchors).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core.h"

#define PAGEMAP_PRESENT (1ULL << 63)
#define PAGEMAP_PFN ((1ULL << 55) - 1)

int htrace_page_frames(const void *mem, size_t nr, __u64 *pfn)
{
	size_t page = (size_t)sysconf(_SC_PAGESIZE), got = 0;
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC), ret = 0;

	if (fd < 0)
		return -errno;
	while (got < nr) {
		ssize_t n = pread(fd, pfn + got, (nr - got) * 8,
				  (off_t)(((uintptr_t)mem / page + got) * 8));

		if (n <= 0) {
			ret = n < 0 ? -errno : -EIO;
			break;
		}
		got += (size_t)n / 8;
	}
	close(fd);
	for (size_t i = 0; !ret && i < nr; i++) {
		if (!(pfn[i] & PAGEMAP_PRESENT))
			ret = -EFAULT;
		pfn[i] &= PAGEMAP_PFN;
		if (!pfn[i]) /* hidden from processes without CAP_SYS_ADMIN */
			ret = -EPERM;
	}
	return ret;
}

/* Where the anchors of image @i lie, from the space's start: in its first and in its last page. */
static __u64 anchor_offset(const struct htrace_ringset *s, __u32 i, int which)
{
	__u64 image = s->off + i * s->stride;

	return which ? image + s->stride - 8 : image + offsetof(struct htrace_ring, anchor);
}

static const struct htrace_ringset *vshmem_set(struct htrace_region *r)
{
	const struct htrace_super *s = htrace_region_super(r);

	for (__u32 i = 0; i < s->nr_ringsets; i++)
		if (s->ringset[i].placement == HTRACE_PLACEMENT_VSHMEM)
			return &s->ringset[i];
	return NULL;
}

static __u32 merge_runs(const __u64 *pfn, size_t nr, struct htrace_run *run)
{
	__u32 n = 0;

	for (size_t i = 0; i < nr; i++) {
		if (n && run[n - 1].gpfn + run[n - 1].nr_pages == pfn[i]) {
			run[n - 1].nr_pages++;
		} else {
			run[n].gpfn = pfn[i];
			run[n++].nr_pages = 1;
		}
	}
	return n;
}

/* Page frames and runs of @mem, allocated; what both functions below begin with. */
static int survey(struct htrace_region *r, void *mem, size_t len, __u64 **pfn,
		  struct htrace_run **run, __u32 *nr_runs)
{
	const struct htrace_ringset *s = vshmem_set(r);
	size_t page = (size_t)sysconf(_SC_PAGESIZE), nr = len / page;
	int ret;

	if (!s || !htrace_inside(s->off, s->stride * s->nr_rings, len) || len % page)
		return -EINVAL;
	*pfn = malloc(nr * sizeof(**pfn));
	*run = malloc(nr * sizeof(**run));
	ret = *pfn && *run ? htrace_page_frames(mem, nr, *pfn) : -ENOMEM;
	if (ret) {
		free(*pfn);
		free(*run);
		return ret;
	}
	*nr_runs = merge_runs(*pfn, nr, *run);
	return 0;
}

int htrace_vshmem_publish(struct htrace_region *r, void *mem, size_t len)
{
	const struct htrace_ringset *s = vshmem_set(r);
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	struct htrace_runs *area = htrace_region_runs(r);
	struct htrace_anchor *anchor;
	struct htrace_run *run;
	__u32 nr_runs;
	__u64 *pfn;
	int ret;

	ret = area ? survey(r, mem, len, &pfn, &run, &nr_runs) : -EINVAL;
	if (ret)
		return ret;
	if (nr_runs > HTRACE_MAX_RUNS || 2 * s->nr_rings > HTRACE_MAX_ANCHORS ||
	    sizeof(*area) + 2 * s->nr_rings * sizeof(*anchor) + nr_runs * sizeof(*run) >
		    htrace_region_super(r)->runs.len) {
		ret = -ENOSPC;
		goto out;
	}
	anchor = (struct htrace_anchor *)(area + 1);
	for (__u32 i = 0; i < 2 * s->nr_rings; i++) {
		__u64 off = anchor_offset(s, i / 2, i & 1), nonce = htrace_random();

		anchor[i].gpa = pfn[off / page] * page + off % page;
		anchor[i].nonce = nonce;
		__atomic_store_n((__u64 *)((char *)mem + off), nonce, __ATOMIC_RELEASE);
	}
	memcpy(anchor + 2 * s->nr_rings, run, nr_runs * sizeof(*run));
	area->nr_anchors = 2 * s->nr_rings;
	area->nr_runs = nr_runs;
	area->nr_pages = len / page;
out:
	free(pfn);
	free(run);
	return ret;
}

int htrace_vshmem_check(struct htrace_region *r, void *mem, size_t len)
{
	const struct htrace_ringset *s = vshmem_set(r);
	const struct htrace_runs *area = htrace_region_runs(r);
	size_t page = (size_t)sysconf(_SC_PAGESIZE);
	const struct htrace_anchor *anchor;
	struct htrace_run *run;
	__u32 nr_runs;
	__u64 *pfn;
	int ret;

	ret = area ? survey(r, mem, len, &pfn, &run, &nr_runs) : -EINVAL;
	if (ret)
		return ret;
	ret = -ESTALE;
	if (area->nr_anchors != 2 * s->nr_rings || area->nr_runs != nr_runs)
		goto out;
	anchor = (const struct htrace_anchor *)(area + 1);
	for (__u32 i = 0; i < 2 * s->nr_rings; i++) {
		__u64 off = anchor_offset(s, i / 2, i & 1);

		if (anchor[i].gpa != pfn[off / page] * page + off % page ||
		    anchor[i].nonce != *(__u64 *)((char *)mem + off))
			goto out;
	}
	if (!memcmp(anchor + 2 * s->nr_rings, run, nr_runs * sizeof(*run)))
		ret = 0;
out:
	free(pfn);
	free(run);
	return ret;
}

void htrace_vshmem_retire(struct htrace_region *r, void *mem, size_t len)
{
	const struct htrace_ringset *s = vshmem_set(r);

	if (!s || !htrace_inside(s->off, s->stride * s->nr_rings, len))
		return;
	for (__u32 i = 0; i < 2 * s->nr_rings; i++)
		__atomic_store_n((__u64 *)((char *)mem + anchor_offset(s, i / 2, i & 1)), 0,
				 __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}
