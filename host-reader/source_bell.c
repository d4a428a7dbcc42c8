/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A source's producers wake the reader; and the ivshmem device of a source that serves one. */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>

#include "message.h"
#include "source_internal.h"

/* ------------------------------------------------------------------------------------ the device */

int source_open_server(struct source *s, char *err, size_t errlen)
{
	int ret = 0, fd;

	if (!s->server)
		ret = bell_server_open(&s->server, s->spec->path, s->spec->size, err, errlen);
	if (ret)
		return ret;
	s->writable = true;
	fd = fcntl(bell_server_memory(s->server), F_DUPFD_CLOEXEC, 0);
	if (fd < 0) {
		ret = -errno;
		snprintf(err, errlen, "%s", strerror(-ret));
		return ret;
	}
	return fd;
}

void source_serve(struct source *s, __u64 now)
{
	int news;

	if (s->state == SOURCE_FAILED && s->server) { /* a VM that comes shall hear that nobody is there */
		bell_server_close(s->server);
		s->server = NULL;
	}
	news = s->server ? bell_server_round(s->server, now) : BELL_NOTHING;
	if (news & BELL_BROKEN)
		say_within(&s->quota, "%s: what was connected is no VM's ivshmem device: disconnected",
			   s->spec->path);
	else if (news & BELL_WENT)
		say_within(&s->quota, "%s: the VM is disconnected; it may come back", s->spec->path);
	if (news & BELL_CAME)
		say_within(&s->quota, "%s: a VM is connected", s->spec->path);
	if (news & BELL_REFUSED)
		say_within(&s->quota, "%s: another VM was refused, as one is connected; give it a "
			   "doorbell: source with a socket of its own", s->spec->path);
}

/* ---------------------------------------------------------------------------------- being woken */

static bool has_bell(const struct source *s)
{
	if (s->config->bell == SOURCE_WORD)
		return htrace_view_bell(s->view) != NULL;
	return s->server &&
	       htrace_view_super(s->view)->features_optional & HTRACE_OPTIONAL_BELL;
}

static const char *no_bell(const struct source *s)
{
	if (!htrace_view_host(s->view))
		return "no permission to write";
	if (s->config->bell == SOURCE_WORD)
		return "the region was not made for that";
	return s->server ? "nobody rings the doorbell there" : "it is no doorbell: source";
}

static __u32 load_bell(const struct source *s)
{
	const __u32 *word = htrace_view_bell(s->view);

	return word ? __atomic_load_n(word, __ATOMIC_ACQUIRE) : 0;
}

void source_ask_bell(struct source *s)
{
	s->has_bell = false;
	if (s->config->bell == SOURCE_NO_BELL)
		return;
	s->bell_seen = load_bell(s);
	s->has_bell = has_bell(s) && !htrace_view_set_sync(s->view, HTRACE_SYNC_RING);
	if (!s->has_bell)
		say_within(&s->quota, "%s: its producers do not wake the reader (%s); looking as sync "
			   "adaptive does", s->spec->path, no_bell(s));
}

/* The bell is emptied, or loaded, before the first ring is armed: what rings later is seen. */
bool source_arm_region(struct source *s, struct htrace_bell *bell, int *nr, int max)
{
	struct htrace_bell b = { .fd = -1 };

	if (s->state != SOURCE_READING)
		return true; /* for its rings nobody waits */
	if (!s->has_bell || *nr == max)
		return false;
	if (s->config->bell == SOURCE_WORD) {
		b.word = htrace_view_bell(s->view);
		b.seen = load_bell(s);
		s->stats.rings += (__u32)(b.seen - s->bell_seen);
		s->bell_seen = b.seen;
	} else {
		s->stats.rings += bell_server_take(s->server);
		b.fd = bell_server_fd(s->server);
		if (b.fd < 0)
			return false;
	}
	bell[(*nr)++] = b;
	return live_arm(s->live);
}
