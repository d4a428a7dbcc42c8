/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rings of a guest that is suspected to have been set back, or is dead: see source_back.c and source_silent.c. */
#include "live_internal.h"

unsigned int live_ends(struct live *s, bool first, const __u64 **ends)
{
	for (unsigned int i = 0; i < s->nr_rings; i++) {
		const struct live_ring *r = &s->ring[i];
		__u64 end = r->broken ? NO_END : __atomic_load_n(&r->header->head, __ATOMIC_RELAXED);

		if (first || end < s->end[i])
			s->end[i] = end;
	}
	*ends = s->end;
	return s->nr_rings;
}

void live_give_up(struct live *s, __u64 now)
{
	for (unsigned int i = 0; i < s->nr_rings; i++) {
		if (s->ring[i].went_back)
			live_give_up_ring(s, i, now);
		s->ring[i].went_back = false;
	}
}

bool live_went_back(const struct live *s)
{
	for (unsigned int i = 0; i < s->nr_rings; i++)
		if (s->ring[i].went_back)
			return true;
	return false;
}

void live_salvage(struct live *s)
{
	for (unsigned int i = 0; i < s->nr_rings; i++)
		if (!s->ring[i].broken && !s->ring[i].finished)
			htrace_consumer_salvage(s->ring[i].consumer);
}
