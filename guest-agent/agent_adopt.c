/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * What an earlier agent left: its session goes on only if region and rings are exactly what we would
 * have made.
 */
#include "agent_internal.h"

#include <bpf/libbpf.h>
#include <string.h>
#include <unistd.h>

#include "message.h"

/* The rings' shape as the region says; false unless it is exactly what we would make of it. */
static bool shape_of(const struct agent *a, struct htrace_geometry *g)
{
	const struct htrace_ringset *s = &htrace_region_super(a->region)->ringset[0];

	return !htrace_geometry_init(g, 1ULL << s->ring_shift, 1ULL << s->block_shift, s->policy) &&
	       g->desc_off == s->desc_off && g->data_off == s->data_off &&
	       s->stride == a->rings.stride && s->nr_rings == a->rings.nr &&
	       s->stride == htrace_image_size(g, (size_t)sysconf(_SC_PAGESIZE)) &&
	       (int)s->nr_rings == libbpf_num_possible_cpus();
}

/* Which of our modes the region was made for; false: for something else. */
static bool mode_of(struct agent *a, enum mode *mode)
{
	const struct htrace_super *s = htrace_region_super(a->region);
	const struct htrace_ringset *set = s->ringset;

	if (s->nr_ringsets == 1 && set[0].placement == HTRACE_PLACEMENT_IVSHMEM)
		*mode = MODE_RELAY;
	else if (s->nr_ringsets == 1 && set[0].placement == HTRACE_PLACEMENT_VSHMEM)
		*mode = MODE_DIRECT;
	else if (s->nr_ringsets == 2 && set[0].placement == HTRACE_PLACEMENT_VSHMEM &&
		 set[1].relays == 1)
		*mode = MODE_AUTO;
	else
		return false;
	return true;
}

/* Is the pinned memory that of the region's session? */
static bool rings_match(struct agent *a)
{
	if (a->mode != MODE_RELAY)
		return !htrace_region_super(a->region)->ringset[0].off &&
		       !htrace_vshmem_check(a->region, a->rings.mem, a->rings.len);
	for (__u32 i = 0; i < a->rings.nr; i++)
		if (rings_at(&a->rings, i)->anchor != htrace_region_super(a->region)->session)
			return false;
	return true;
}

/*
 * The programs of an agent that was killed end a little after it. Give them time, so that no event
 * is recorded twice.
 */
static void wait_for_quiet(const struct rings *r)
{
	__u64 before = ~0ULL, sum;

	for (int i = 0; i < 50; i++) {
		sum = 0;
		for (__u32 k = 0; k < r->nr; k++)
			sum += __atomic_load_n(&rings_at(r, k)->head, __ATOMIC_RELAXED);
		if (sum == before)
			return;
		before = sum;
		usleep(20000);
	}
}

/* Does the kernel module still write into the region's rings? */
static bool is_modules(const struct agent *a)
{
	__u64 session = module_session(&a->module);

	return a->region && session && session == htrace_region_super(a->region)->session;
}

static bool adopt_from_module(struct agent *a, bool fits)
{
	if (!fits) {
		say("the session of an earlier agent, which recorded through the kernel module, ends: "
		    "these programs cannot; a new one begins");
		return false;
	}
	rings_close(&a->rings);
	agent_use_rings_of_region(a);
	a->mode = MODE_MODULE;
	if (shape_of(a, &a->geometry))
		return true;
	memset(&a->rings, 0, sizeof(a->rings));
	return false;
}

/* Its reader sleeps until it is rung for: we must be able to. */
static bool bell_fits(const struct agent *a)
{
	if (!(htrace_region_super(a->region)->features_optional & HTRACE_OPTIONAL_BELL) ||
	    bell_exists(&a->bell))
		return true;
	say("the session of an earlier agent ends: it had a doorbell to wake the host's reader; a new one "
	    "begins");
	return false;
}

/* The session that an earlier agent left, if both its region and its rings are still there. */
void agent_try_adopt(struct agent *a, const struct options *o, bool module_fits)
{
	bool pinned = !rings_open_pinned(&a->rings);

	if (htrace_region_adopt(&a->region, a->mem, a->size, a->io_memory))
		a->region = NULL;
	if (is_modules(a))
		a->adopted = adopt_from_module(a, module_fits);
	else
		a->adopted = pinned && a->region && mode_of(a, &a->mode) &&
			     shape_of(a, &a->geometry) && rings_match(a) && bell_fits(a);
	if (a->adopted) {
		wait_for_quiet(&a->rings);
		if ((o->mode != MODE_AUTO && o->mode != a->mode) ||
		    (o->policy_given && o->policy != (enum htrace_policy)a->geometry.policy) ||
		    (o->buffer_given && o->buffer != a->geometry.ring_mask + 1))
			say("the session of an earlier agent goes on, with its mode, policy and "
			    "buffer size; stop the agent properly (SIGTERM) to change them");
		return;
	}
	htrace_region_release(a->region);
	a->region = NULL;
	a->mode = o->mode == MODE_AUTO && module_fits ? MODE_MODULE : o->mode;
}
