/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A source's ends: what is summed up when a session is over, and what comes after it. */
#include <stdio.h>
#include <string.h>

#include <htrace/schema.h>

#include "clock.h"
#include "message.h"
#include "region_file.h"
#include "source_internal.h"

/* From here on the memory of the session's rings is not touched. */
void source_end_session(struct source *s, __u64 now)
{
	struct capture_end end = { .attached_ns = now - s->attached };

	if (!s->session)
		return;
	source_forget_vmm(s);
	end.unread = live_close(s->live, s->look_last);
	s->live = NULL;
	kvm_vm_unwatch(s->vm, s->stats.exits);
	s->vm = NULL;
	s->set_back = false;
	source_clock_settle(s, now);
	source_let_go(s, &end, now);
	s->done_id = s->session_id;
}

void source_fail(struct source *s, enum htrace_host_reason reason, const char *why, __u64 now)
{
	say("%s: %s", s->spec->path, why);
	source_tell_end(s, now);
	if (reason && source_may_write(s, now))
		htrace_view_announce(s->view, HTRACE_HOST_REFUSED, s->session_id, false, reason);
	source_snapshot(s, "the end of its source", now);
	source_end_session(s, now);
	s->state = SOURCE_FAILED;
}

/*
 * Whoever may write the file may also put something else there. Only from what a look at all of it
 * costs follows how often that is done.
 */
bool source_may_write(struct source *s, __u64 now)
{
	enum region_content content = region_file_glance(s->fd);
	__u64 took;

	if (content == CONTENT_UNKNOWN && now >= s->next_scan) {
		took = clock_now();
		content = region_file_inspect(s->fd);
		took = clock_now() - took;
		s->next_scan = now + 20 * took;
	}
	return content == CONTENT_EMPTY || content == CONTENT_REGION;
}

void source_announce(struct source *s, __u64 now)
{
	s->announced = source_may_write(s, now);
	if (!s->announced)
		return;
	htrace_view_announce(s->view, HTRACE_HOST_WAITING, 0, false, HTRACE_REASON_NONE);
	if (!s->told && htrace_view_host(s->view)) /* a reader that was killed told of exits, perhaps */
		__atomic_store_n(&htrace_view_host(s->view)->telling, 0, __ATOMIC_RELEASE);
}

/* Wait for another session. Guest RAM is let go: it may be that of a VM that is gone. */
void source_await_next(struct source *s, __u64 now)
{
	char err[256] = "";
	bool brief = now - s->attached < SEC;

	source_end_session(s, now);
	htrace_view_close(s->view);
	s->view = NULL;
	if (htrace_view_open_fd(&s->view, s->fd, s->writable, err, sizeof(err))) {
		say("%s: %s", s->spec->path, err);
		s->state = SOURCE_FAILED;
		return;
	}
	source_announce(s, now);
	source_enter(s, SOURCE_WAITING, now);
	s->next_try = brief ? now + BRIEF_NS : 0;
}
