/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the host's commands need of the agent: its relay, counters and rings. */
#include <unistd.h>

#include "agent_internal.h"

#include "message.h"
#include "proc_names.h"

#define FLUSH_NS 1000000000ULL

static bool is_mirrored(const struct agent *a, const __u64 *heads)
{
	for (__u32 i = 0; i < a->rings.nr; i++)
		if (relay_position(&a->relay, i) < heads[i])
			return false;
	return true;
}

/* Direct rings can be read as they are; of the others, what is in them now. */
static bool flush(void *ctx)
{
	__u64 heads[HTRACE_MAX_RINGS], end = monotonic_ns() + FLUSH_NS;
	struct agent *a = ctx;
	bool all = true;

	health_publish(&a->health);
	proc_names_update(a->region);
	if (a->mode == MODE_MODULE || !relay_active(&a->relay))
		return true;
	for (__u32 i = 0; i < a->rings.nr; i++)
		heads[i] = __atomic_load_n(&rings_at(&a->rings, i)->head, __ATOMIC_ACQUIRE);
	while (relay_active(&a->relay) && !(all = is_mirrored(a, heads)) && monotonic_ns() < end) {
		__u64 ns = agent_work(a);

		usleep(ns < 1000000 ? (useconds_t)(ns / 1000) : 1000); /* under discard it may be the reader that is waited for */
	}
	return all || !relay_active(&a->relay);
}

static void keep_up(void *ctx)
{
	agent_work(ctx);
}

static int renew(void *ctx, const bool *program, const char *more)
{
	struct agent *a = ctx;
	struct loader_renewal r = {
		.program = program, .more = more, .filter = a->options->filter, .region = a->region,
		.rings_fd = a->rings.fd, .geometry = &a->geometry, .keep_up = keep_up, .ctx = a,
	};
	int err = loader_renew(a->loader, &r);

	health_publish(&a->health);
	proc_names_update(a->region); /* tasks may have come while the sources of names were exchanged */
	return err;
}

int agent_begin_control(struct agent *a, const struct options *o, struct loader *l)
{
	struct control_agent agent = {
		.region = a->region, .loader = l, .flush = flush, .renew = renew, .keep_up = keep_up, .ctx = a,
	};

	a->options = o;
	a->loader = l;
	a->control = control_new(&agent, o->allows);
	if (!a->control)
		say("out of memory");
	return a->control ? 0 : -1;
}
