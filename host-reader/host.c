/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "host.h"

#define set(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)

static void set_state(struct htrace_view *v, __u64 session, __u64 verified,
		      enum htrace_host_state state, enum htrace_host_reason reason)
{
	struct htrace_host *h = htrace_view_host(v);

	if (!h)
		return;
	set(&h->version_major, HTRACE_ABI_MAJOR);
	set(&h->session, session);
	set(&h->verified, verified);
	set(&h->reason, reason);
	/* Release: whoever sees the state sees what it speaks of. The agent loads it (acquire). */
	__atomic_store_n(&h->state, state, __ATOMIC_RELEASE);
	__atomic_store_n(&h->magic, HTRACE_HOST_MAGIC, __ATOMIC_RELEASE);
	host_beat(v);
}

void host_waiting(struct htrace_view *v)
{
	struct htrace_host *h = htrace_view_host(v);

	/* The session stays: a reader that comes back to it goes on where this one ended. */
	if (h)
		set_state(v, __atomic_load_n(&h->session, __ATOMIC_RELAXED), 0,
			  HTRACE_HOST_WAITING, HTRACE_REASON_NONE);
}

void host_attached(struct htrace_view *v, __u64 session, bool verified,
		   enum htrace_host_reason reason)
{
	set_state(v, session, verified ? session : 0, HTRACE_HOST_ATTACHED, reason);
}

void host_refused(struct htrace_view *v, __u64 session, enum htrace_host_reason reason)
{
	set_state(v, session, 0, HTRACE_HOST_REFUSED, reason);
}

void host_drained(struct htrace_view *v, __u64 session)
{
	struct htrace_host *h = htrace_view_host(v);

	/* Release: after the last look at its rings. */
	if (h)
		__atomic_store_n(&h->drained, session, __ATOMIC_RELEASE);
}

void host_gone(struct htrace_view *v)
{
	struct htrace_host *h = htrace_view_host(v);

	if (h)
		set_state(v, __atomic_load_n(&h->session, __ATOMIC_RELAXED), 0, HTRACE_HOST_GONE,
			  HTRACE_REASON_NONE);
}

void host_beat(struct htrace_view *v)
{
	struct htrace_host *h = htrace_view_host(v);

	/* Only a change matters, so what the word held before us does not. */
	if (h)
		set(&h->heartbeat, __atomic_load_n(&h->heartbeat, __ATOMIC_RELAXED) + 1);
}

void host_want_names(struct htrace_view *v, __u64 served)
{
	struct htrace_host *h = htrace_view_host(v);

	if (h)
		__atomic_store_n(&h->names_wanted, served + 1, __ATOMIC_RELEASE);
}

void host_forget_other(struct htrace_view *v, __u64 session)
{
	struct htrace_host *h = htrace_view_host(v);

	if (!h || __atomic_load_n(&h->session, __ATOMIC_RELAXED) == session)
		return;
	for (__u32 slot = 0; slot < HTRACE_MAX_RINGS; slot++)
		__atomic_store_n(&htrace_view_host_ring(v, slot)->consumed, 0, __ATOMIC_RELEASE);
}
