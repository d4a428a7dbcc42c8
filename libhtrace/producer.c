/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* Rings taken by threads of user-space tracers. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <htrace/producer.h>

#include "core.h"

/* Start time of this process in clock ticks: tells it from a later one of the same pid. */
static __u64 start_time(void)
{
	char buf[1024], *p;
	__u64 t = 0;
	FILE *f = fopen("/proc/self/stat", "re");

	if (!f)
		return 0;
	if (fgets(buf, sizeof(buf), f) && (p = strrchr(buf, ')')) != NULL) {
		/* state is field 3, starttime field 22 */
		for (int field = 2; *p && field < 22; p++)
			field += *p == ' ';
		t = strtoull(p, NULL, 10);
	}
	fclose(f);
	return t;
}

int htrace_producer_get(struct htrace_producer *p, struct htrace_region *r, __u32 set, int index)
{
	const struct htrace_super *s = htrace_region_super(r);
	__u64 me = (__u64)getpid() << 32 | (__u32)syscall(SYS_gettid);

	if (set >= s->nr_ringsets || s->ringset[set].placement == HTRACE_PLACEMENT_VSHMEM ||
	    s->ringset[set].kind != HTRACE_RING_PER_THREAD ||
	    (index >= 0 && (__u32)index >= s->ringset[set].nr_rings))
		return -ENXIO;
	for (__u32 i = index < 0 ? 0 : (__u32)index; i < s->ringset[set].nr_rings; i++) {
		struct htrace_ring *ring = htrace_region_ring(r, set, i, &p->geometry);

		if (htrace_cas(&ring->owner, 0, me)) {
			ring->owner_start = start_time();
			ring->generation++;
			p->ring = ring;
			p->consumed = &htrace_region_host_ring(
					       r, s->ringset[set].first_slot + i)->consumed;
			p->clock_id = s->clock_id;
			p->schema = (__u32)htrace_region_schema(r)->generation;
			p->region = r;
			htrace_region_sample(r);
			return 0;
		}
		if (index >= 0)
			break;
	}
	return -EBUSY;
}

void htrace_producer_put(struct htrace_producer *p)
{
	htrace_region_sample(p->region);
	__atomic_store_n(&p->ring->owner, 0, __ATOMIC_RELEASE);
	p->ring = NULL;
}
