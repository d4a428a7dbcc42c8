/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bell.h"

#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#include <htrace/ring.h>

#include "health.h"
#include "message.h"
#include "pace.h"

#define REGS_SIZE 256 /* BAR0 */
#define REG_DOORBELL (0x0c / 4)

/* Only a device with interrupts has BAR1, for their table. */
static bool has_interrupts(const char *pci)
{
	char path[96];

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource1", pci);
	return !access(path, F_OK);
}

static size_t page_mask(void)
{
	return (size_t)sysconf(_SC_PAGESIZE) - 1;
}

/* sysfs maps pages, and a BAR that is smaller need not begin with one. -1: not known. */
static long regs_in_page(const char *pci)
{
	unsigned long long start = 0;
	char path[96];
	FILE *f;
	int n;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource", pci);
	f = fopen(path, "re");
	n = f ? fscanf(f, "%llx", &start) : 0;
	if (f)
		fclose(f);
	return n == 1 ? (long)(start & page_mask()) : -1;
}

static void map_regs(struct bell *b, const char *pci)
{
	long at = regs_in_page(pci);
	void *mem = MAP_FAILED;
	char path[96];
	int fd;

	snprintf(path, sizeof(path), "/sys/bus/pci/devices/%s/resource0", pci);
	fd = at < 0 ? -1 : open(path, O_RDWR | O_CLOEXEC);
	if (fd >= 0)
		mem = mmap(NULL, REGS_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	if (mem == MAP_FAILED)
		say("no doorbell: cannot map %s: %s; the host's reader looks by itself", path,
		    strerror(errno));
	else
		b->regs = (volatile __u32 *)((char *)mem + at);
	if (fd >= 0)
		close(fd);
}

void bell_open(struct bell *b, const char *pci, const struct module *m)
{
	if (m->fd >= 0 && m->info.flags & HTRACE_MODULE_DOORBELL)
		b->module = m;
	else if (m->fd < 0 && pci && has_interrupts(pci))
		map_regs(b, pci);
}

int bell_start(struct bell *b, const struct htrace_region *region, const struct rings *rings)
{
	b->region = region;
	b->rings = rings;
	b->every = PACE_NS;
	b->seen = calloc(rings->nr, sizeof(*b->seen));
	if (!b->seen)
		say("out of memory");
	return b->seen ? 0 : -1;
}

void bell_close(struct bell *b)
{
	if (b->regs)
		munmap((void *)((uintptr_t)b->regs & ~(uintptr_t)page_mask()), REGS_SIZE);
	free(b->seen);
	b->regs = NULL;
	b->module = NULL;
	b->seen = NULL;
}

bool bell_exists(const struct bell *b)
{
	return b->module || b->regs;
}

static __u32 sync_word(const struct bell *b)
{
	return __atomic_load_n(&htrace_region_host(b->region)->sync, __ATOMIC_RELAXED);
}

static bool is_asked(struct bell *b)
{
	if (!(sync_word(b) & HTRACE_SYNC_RING))
		return false;
	if (!bell_exists(b) && !b->said_none) {
		say("the host's reader asks to be woken, but there is no doorbell: it looks by itself. One "
		    "comes with -device ivshmem-doorbell, and needs it to be ours alone or the kernel "
		    "module's");
		b->said_none = true;
	}
	return bell_exists(b);
}

bool bell_due(struct bell *b, __u32 slot, __u64 from, __u64 to)
{
	if (from == to || !is_asked(b))
		return false;
	return htrace_ring_needs_bell(
		from, to, __atomic_load_n(&htrace_region_host_ring(b->region, slot)->event_idx,
					  __ATOMIC_RELAXED));
}

void bell_ring(struct bell *b)
{
	__u16 vector = (__u16)(sync_word(b) >> HTRACE_SYNC_VECTOR_SHIFT);
	struct htrace_module_bell bell = {.vector = vector};

	if (b->module)
		ioctl(b->module->fd, HTRACE_MODULE_BELL, &bell); /* else the device is gone */
	else if (b->regs)
		b->regs[REG_DOORBELL] = vector; /* of peer 0 */
}

/* Programs' commits may come after our look at head: a reader that is woken too early looks again. */
static __u64 look(struct bell *b)
{
	__u64 bytes = 0, head;
	bool due = false;

	for (__u32 i = 0; i < b->rings->nr; i++) {
		head = __atomic_load_n(&rings_at(b->rings, i)->head, __ATOMIC_ACQUIRE);
		__atomic_thread_fence(__ATOMIC_SEQ_CST);
		due |= bell_due(b, i, b->seen[i], head);
		bytes += head - b->seen[i];
		b->seen[i] = head;
	}
	if (due)
		bell_ring(b);
	return bytes;
}

__u64 bell_watch(struct bell *b)
{
	__u64 now;

	if (!is_asked(b))
		return UINT64_MAX;
	now = monotonic_ns();
	if (now < b->next)
		return b->next - now;
	b->every = pace_next(b->every, look(b), UINT64_MAX);
	b->next = now + b->every;
	return b->every;
}
