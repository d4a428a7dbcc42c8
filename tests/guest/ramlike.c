/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ramlike.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "core.h"

#define RAM (64u << 20)
#define HUGE (2u << 20)
#define REGION_AT (5u << 20) /* the rest is free */
#define BEACON_AT (REGION_AT + HTRACE_BEACON_REGION)
#define RINGS_AT (20u << 20)
#define FALSE_AT (36u << 20)
#define DECOY (32u << 20)
#define BASE RAMLIKE_BASE

static char *ram;
static struct htrace_region *made;
static const char *what;
static size_t rings_len;
static bool swapped; /* neighbouring pages are, so that none follows on the one before */

ssize_t __real_pread64(int fd, void *buf, size_t len, off_t off);
ssize_t __wrap_pread64(int fd, void *buf, size_t len, off_t off);

/* Of what is used of the region, and of the rings. */
static bool is_swapped(uintptr_t page)
{
	return swapped && ((page >= REGION_AT / 4096 && page < (REGION_AT + (3u << 20)) / 4096) ||
			   (page >= RINGS_AT / 4096 && page < (RINGS_AT + (1u << 20)) / 4096));
}

static __u64 frame(uintptr_t page)
{
	return BASE / 4096 + (is_swapped(page) ? page ^ 1 : page);
}

/* The frames of the memory as the guest numbers them. */
ssize_t __wrap_pread64(int fd, void *buf, size_t len, off_t off)
{
	char link[64], name[64] = "";
	uintptr_t first = (uintptr_t)off / 8 * 4096 - (uintptr_t)ram;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (readlink(link, name, sizeof(name) - 1) < 0 || !strstr(name, "/pagemap"))
		return __real_pread64(fd, buf, len, off);
	for (size_t i = 0; i < len / 8; i++)
		((__u64 *)buf)[i] = 1ULL << 63 | frame(first / 4096 + i);
	return (ssize_t)(len / 8 * 8);
}

/* The guest sees the pages of the VMM's mapping in another order; that is of a file, but not from its beginning on. */
static char *map_swapped(void)
{
	int fd = memfd_create("ram", MFD_CLOEXEC);
	char *at;

	if (ftruncate(fd, RAM + 4096))
		return MAP_FAILED;
	at = mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 4096);
	if (at == MAP_FAILED ||
	    mmap(NULL, RAM, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_POPULATE, fd, 4096) == MAP_FAILED)
		return MAP_FAILED;
	for (uintptr_t i = 0; i < RAM / 4096; i++)
		if (is_swapped(i) && mmap(at + i * 4096, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_FIXED, fd,
			 (off_t)((i ^ 1) + 1) * 4096) == MAP_FAILED)
			return MAP_FAILED;
	close(fd);
	return at;
}

static char *map(const char *kind)
{
	int flags = MAP_NORESERVE | MAP_PRIVATE | MAP_ANONYMOUS, fd = -1;
	char *at;

	if (!strcmp(kind, "scattered"))
		return swapped = true, map_swapped();
	if (!strcmp(kind, "shared") || !strcmp(kind, "hugeshared")) {
		fd = memfd_create("ram", MFD_CLOEXEC | (strcmp(kind, "shared") ? MFD_HUGETLB : 0));
		if (ftruncate(fd, RAM))
			return MAP_FAILED;
		flags = MAP_SHARED;
	} else if (!strcmp(kind, "huge")) {
		flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB;
	}
	at = mmap(NULL, RAM, PROT_READ | PROT_WRITE, flags, fd, 0);
	/* as QEMU does */
	if (at != MAP_FAILED && fd < 0 && madvise(at, RAM, MADV_DONTFORK))
		return MAP_FAILED;
	return at;
}

bool ramlike_make(const char *kind, struct htrace_region **region, const struct htrace_region_opts *o)
{
	const struct htrace_ringset *s;

	what = kind;
	ram = map(kind);
	if (ram == MAP_FAILED)
		return false;
	memset(ram, 1, 1 << 20); /* memory in use */
	if (htrace_region_format(&made, ram + REGION_AT, HTRACE_BEACON_REGION, o))
		return false;
	s = &htrace_region_super(made)->ringset[0];
	rings_len = s->nr_rings * s->stride;
	memset(ram + RINGS_AT, 0, rings_len);
	if (RINGS_AT + rings_len > FALSE_AT || htrace_vshmem_publish(made, ram + RINGS_AT, rings_len))
		return false;
	if (!strcmp(kind, "runs")) {
		struct htrace_runs *runs = htrace_region_runs(made);
		struct htrace_run *run = (void *)((struct htrace_anchor *)(runs + 1) + runs->nr_anchors);

		run[0].nr_pages--; /* its last page is another one */
		run[1] = (struct htrace_run){ .gpfn = (BASE + RAM) / 4096, .nr_pages = 1 };
		runs->nr_runs = 2;
	}
	*region = made;
	return true;
}

struct htrace_ring *ramlike_ring(unsigned int i, struct htrace_geometry *g)
{
	const struct htrace_ringset *s = &htrace_region_super(made)->ringset[0];

	htrace_geometry_of(s, g);
	return (struct htrace_ring *)(ram + RINGS_AT + i * s->stride);
}

void *ramlike_memory(size_t *len)
{
	*len = RAM;
	return ram;
}

void ramlike_light(void)
{
	memset(ram + BEACON_AT, 0, htrace_beacon_len(HTRACE_BEACON_REGION));
	if (htrace_beacon_light((void *)(ram + BEACON_AT), ram + REGION_AT, HTRACE_BEACON_REGION))
		abort();
	if (!strcmp(what, "outside"))
		((__u64 *)(ram + BEACON_AT + 4096))[7] = (BASE + RAM) / 4096;
}

void ramlike_decoy(void)
{
	size_t len = htrace_beacon_len(HTRACE_BEACON_REGION);
	char *at = mmap(NULL, DECOY, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);

	if (at == MAP_FAILED)
		abort();
	memcpy(at + DECOY / 2, ram + BEACON_AT, len);
}

void ramlike_pretend(unsigned int n)
{
	size_t len = htrace_beacon_len(HTRACE_BEACON_REGION);

	/* All right, but what lies there is no region. */
	for (char *at = ram + FALSE_AT; n-- && at + len <= ram + RAM; at += len)
		if (htrace_beacon_light((void *)at, ram, HTRACE_BEACON_REGION))
			abort();
}

void ramlike_retire(void)
{
	htrace_vshmem_retire(made, ram + RINGS_AT, rings_len);
	htrace_region_set_state(made, HTRACE_GUEST_CLOSED);
	htrace_beacon_clear((void *)(ram + BEACON_AT));
}
