/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Telling a source's guest of its own exits. It needs no session: a guest may ask what it loses
 * without being traced.
 */
#include <errno.h>
#include <stdint.h>

#include "message.h"
#include "source_internal.h"

#define LOOK_NS (5 * MS) /* while there are exits */
#define LOOK_MAX_NS (40 * MS) /* while there are none */
#define FIND_NS (250 * MS) /* between two looks for its VM: through /proc; */
#define FIND_MAX_NS (8 * SEC) /* twice as long each time, up to this */
#define VCPUS_NS SEC /* between two looks whether it has others: they are made one by one */
#define SHUT_NS (200 * MS) /* between two looks whether the region may be written */

static void stop(struct source *s)
{
	told_vm_free(s->told);
	tell_free(s->tell);
	s->told = NULL;
	s->tell = NULL;
}

/* Look again, after longer and longer. */
static void find_later(struct source *s, __u64 now)
{
	s->tell_pause = s->tell_pause ? 2 * s->tell_pause : FIND_NS;
	if (s->tell_pause > FIND_MAX_NS)
		s->tell_pause = FIND_MAX_NS;
	s->next_tell = now + s->tell_pause;
}

/* That there is none is said when it was found neither at once nor a little later. */
static void find(struct source *s, __u64 now)
{
	char err[256] = "";
	int ret = told_vm_new(&s->told, s->config->teller, s->view, s->spec->pid, err, sizeof(err));

	if (ret) {
		if ((s->tell_pause || ret != -ENOENT) && !s->said_untold) {
			say_within(&s->quota, "%s: its guest cannot be told of its exits yet: %s",
				   s->spec->path, err);
			s->said_untold = true;
		}
		find_later(s, now);
		return;
	}
	if (tell_new(&s->tell, now)) {
		stop(s);
		find_later(s, now);
		return;
	}
	say_within(&s->quota, "%s: telling the guest of the exits of process %d, %u vCPUs",
		   s->spec->path, told_vm_pid(s->told), told_vm_vcpus(s->told));
	s->said_untold = false;
	s->tell_pause = LOOK_NS;
	s->next_vcpus = now + VCPUS_NS;
}

static void look(struct source *s, __u64 now)
{
	bool any = told_vm_look(s->told, s->tell, htrace_view_host(s->view), now, false) != 0;

	s->tell_pause = any ? LOOK_NS : 2 * s->tell_pause;
	if (s->tell_pause > LOOK_MAX_NS)
		s->tell_pause = LOOK_MAX_NS;
	s->next_tell = now + s->tell_pause;
}

static void look_at_vcpus(struct source *s, __u64 now)
{
	if (now < s->next_vcpus)
		return;
	s->next_vcpus = now + VCPUS_NS;
	if (!told_vm_changed(s->told, s->view))
		return;
	source_tell_end(s, now);
	s->next_tell = now;
	s->tell_pause = 0;
}

void source_tell(struct source *s, __u64 now)
{
	if (!s->config->teller || now < s->next_tell)
		return;
	if (s->spec->nested) { /* what this host's VM leaves guest mode for is no business of its guest's */
		say_within(&s->quota, "%s: its guest cannot be told of its exits: it is one of the VM's own (nested)", s->spec->path);
		s->next_tell = UINT64_MAX;
		return;
	}
	if (!htrace_view_host(s->view)) {
		say("%s: its guest cannot be told of its exits: no permission to write",
		    s->spec->path);
		s->next_tell = UINT64_MAX;
		return;
	}
	/* Something else may have taken the region's place. */
	if (s->refused || !source_may_write(s, now)) {
		s->next_tell = now + SHUT_NS;
		return;
	}
	if (!s->told)
		find(s, now);
	if (!s->told)
		return;
	look(s, now);
	if (!told_vm_gone(s->told)) {
		look_at_vcpus(s, now);
		return;
	}
	say_within(&s->quota, "%s: process %d, whose exits the guest was told of, is gone",
		   s->spec->path, told_vm_pid(s->told));
	source_tell_end(s, now);
	s->tell_pause = 0;
	find_later(s, now);
}

__u64 source_tell_due(const struct source *s)
{
	return s->config->teller && s->state != SOURCE_FAILED ? s->next_tell : UINT64_MAX;
}

void source_tell_end(struct source *s, __u64 now)
{
	struct htrace_host *host = s->view ? htrace_view_host(s->view) : NULL;

	if (s->told && host && source_may_write(s, now)) {
		told_vm_look(s->told, s->tell, host, now, true);
		tell_end(s->tell, host);
	}
	stop(s);
}
