/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the host is told before the first event: where the rings are, what is in them, names. */
#include "agent_internal.h"

#include <errno.h>
#include <string.h>

#include "message.h"
#include "proc_names.h"
#include "symbols.h"

static int publish_pages(struct agent *a, const struct options *o)
{
	int err;

	if (a->mode == MODE_MODULE)
		return 0;
	if (a->mode == MODE_RELAY) { /* whoever adopts them knows them by that */
		for (__u32 i = 0; i < a->rings.nr; i++)
			rings_at(&a->rings, i)->anchor = htrace_region_super(a->region)->session;
		return 0;
	}
	err = htrace_vshmem_publish(a->region, a->rings.mem, a->rings.len);
	if (err == -ENOSPC)
		say("region %s is too small for the list of %llu MiB of ring pages; give the device "
		    "more memory, or use a smaller --buffer",
		    agent_region_name(a, o), (unsigned long long)a->rings.len >> 20);
	else if (err == -EPERM)
		say("cannot find the rings in guest memory: page frame numbers are hidden; the agent "
		    "needs CAP_SYS_ADMIN in the initial user namespace");
	else if (err)
		say("cannot find the rings in guest memory: %s", strerror(-err));
	return err;
}

static int add_schema(struct agent *a)
{
	const void *entries;
	size_t len;
	int err;

	entries = htrace_builder_entries(a->schema, &len);
	err = len ? htrace_region_add_schema(a->region, entries, len) : 0;
	if (err == -ENOSPC)
		say("the region's schema area is full; use fewer tracers, or give the device more "
		    "memory");
	else if (err)
		say("the events' description is refused: %s", strerror(-err));
	htrace_builder_free(a->schema);
	a->schema = NULL;
	return err;
}

/* Before the first event, so that no stack is shown without names. */
static void publish_names_of_stacks(struct agent *a, const struct loader *l)
{
	if (!loader_has_stacks(l))
		return;
	symbols_publish(a->region, a->adopted);
	mappings_start(a->region);
}

int agent_publish_new(struct agent *a, const struct options *o, const struct loader *l)
{
	struct htrace_guest *g;

	if (agent_format_region(a, o) || add_schema(a) ||
	    (a->mode != MODE_MODULE && rings_pin(&a->rings)) || publish_pages(a, o))
		return -1;
	publish_names_of_stacks(a, l);
	g = htrace_region_guest(a->region);
	g->agent_starts = 1;
	g->agent_start_mono = monotonic_ns();
	g->heartbeat_ms = HEARTBEAT_MS;
	proc_names_update(a->region);
	htrace_region_publish(a->region);
	return 0;
}

int agent_publish_adopted(struct agent *a, const struct loader *l)
{
	struct htrace_guest *g = htrace_region_guest(a->region);

	if (add_schema(a))
		return -1;
	publish_names_of_stacks(a, l);
	g->agent_starts++;
	g->agent_start_mono = monotonic_ns();
	return 0;
}
