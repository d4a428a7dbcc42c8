/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* What a region's reader writes into it: the host header, which the guest's agent looks at. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "core.h"

#define set(p, v) __atomic_store_n((p), (v), __ATOMIC_RELAXED)

/* Where the host's words are may be anything, in a file that is not a region. */
static int writable(const struct htrace_view *v, bool attached)
{
	if (!v->host)
		return -EACCES;
	return (attached && !v->attached) || !htrace_view_may_write(v) ? -EINVAL : 0;
}

/* Does the caller hold the lock already, by the descriptor that the view was opened with? */
static bool locked_by_caller(const struct htrace_view *v)
{
	char path[40], line[256];
	bool yes = false;
	FILE *f;

	snprintf(path, sizeof(path), "/proc/self/fdinfo/%d", v->fd);
	f = fopen(path, "re");
	while (f && !yes && fgets(line, sizeof(line), f))
		yes = strstr(line, "FLOCK") && strstr(line, "WRITE");
	if (f)
		fclose(f);
	return yes;
}

/*
 * A lock belongs to what open(2) made, and so to all who were handed the descriptor of a memfd: each
 * reader needs one of its own. Without /proc there is only the other.
 */
static int lock_file(struct htrace_view *v)
{
	char path[40];

	if (v->lock < 0 && !locked_by_caller(v)) {
		snprintf(path, sizeof(path), "/proc/self/fd/%d", v->fd);
		v->lock = open(path, O_RDWR | O_CLOEXEC | O_NONBLOCK);
	}
	if (flock(v->lock < 0 ? v->fd : v->lock, LOCK_EX | LOCK_NB))
		return errno == EWOULDBLOCK ? -EBUSY : -errno;
	return 0;
}

int htrace_view_claim(struct htrace_view *v)
{
	struct htrace_host *h = htrace_view_host(v);
	int err = writable(v, true);

	if (!err)
		err = lock_file(v); /* two readers would write into one host area */
	if (err)
		return err;
	set(&h->sync, 0); /* an earlier reader may have been killed while it slept */
	if (__atomic_load_n(&h->session, __ATOMIC_RELAXED) == v->super.session)
		return 0;
	for (__u32 slot = 0; slot < HTRACE_MAX_RINGS; slot++) {
		struct htrace_host_ring *words = htrace_view_host_ring(v, slot);

		/* A ring's first life may be over already, and nobody has read it. */
		__atomic_store_n(&words->drained, 0, __ATOMIC_RELEASE);
		__atomic_store_n(&words->consumed, 0, __ATOMIC_RELEASE);
	}
	return 0;
}

int htrace_view_beat(struct htrace_view *v)
{
	struct htrace_host *h = htrace_view_host(v);
	int err = writable(v, false);

	if (err)
		return err;
	/* Only a change matters, so what the word held before us does not. */
	set(&h->heartbeat, __atomic_load_n(&h->heartbeat, __ATOMIC_RELAXED) + 1);
	return 0;
}

int htrace_view_announce(struct htrace_view *v, enum htrace_host_state state, __u64 session,
			 bool verified, enum htrace_host_reason reason)
{
	struct htrace_host *h = htrace_view_host(v);
	int err = writable(v, state == HTRACE_HOST_ATTACHED);

	if (err)
		return err;
	/* A reader that comes back to the session goes on where this one ended. */
	if (state == HTRACE_HOST_WAITING || state == HTRACE_HOST_GONE) {
		session = __atomic_load_n(&h->session, __ATOMIC_RELAXED);
		verified = false;
		set(&h->sync, 0);
	}
	set(&h->version_major, HTRACE_ABI_MAJOR);
	set(&h->session, session);
	set(&h->verified, verified ? session : 0);
	set(&h->reason, reason);
	/* Release: whoever sees the state sees what it speaks of. The agent loads it (acquire). */
	__atomic_store_n(&h->state, state, __ATOMIC_RELEASE);
	__atomic_store_n(&h->magic, HTRACE_HOST_MAGIC, __ATOMIC_RELEASE);
	return htrace_view_beat(v);
}

int htrace_view_session_drained(struct htrace_view *v)
{
	struct htrace_host *h = htrace_view_host(v);
	int err = writable(v, true);

	if (err)
		return err;
	/* Release: after the last look at its rings. */
	__atomic_store_n(&h->drained, v->super.session, __ATOMIC_RELEASE);
	return 0;
}

int htrace_view_ask_names(struct htrace_view *v)
{
	struct htrace_host *h = htrace_view_host(v);
	struct htrace_guest g;
	int err = writable(v, true);

	if (err)
		return err;
	htrace_view_guest(v, &g, false);
	__atomic_store_n(&h->names_wanted, g.names_served + 1, __ATOMIC_RELEASE);
	return 0;
}

int htrace_view_set_sync(struct htrace_view *v, __u32 sync)
{
	int err = writable(v, true);

	if (err)
		return err;
	set(&htrace_view_host(v)->sync, sync);
	return 0;
}

const __u32 *htrace_view_bell(const struct htrace_view *v)
{
	const struct htrace_super *s = &v->super;
	const struct htrace_guest *g = (const void *)((const char *)v->mem + s->guest.off);

	if (!v->attached || !(s->features_optional & HTRACE_OPTIONAL_BELL))
		return NULL;
	/* Rings that are not all the machine's own have other bells. */
	for (__u32 i = 0; i < s->nr_ringsets; i++)
		if (s->ringset[i].placement != HTRACE_PLACEMENT_LOCAL)
			return NULL;
	return s->nr_ringsets ? &g->bell : NULL;
}
