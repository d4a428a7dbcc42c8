/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What is due of a session, in the order of all sources' times. */
#include "session_internal.h"

#include <stddef.h>
#include <stdint.h>

#include "clock.h"
#include "recorder.h"

#define EMIT_NS 30000000 /* of a round, of all whose records go out together: nobody waits for long to be read */

static struct session *session_of(const struct order_entry *e)
{
	return (struct session *)((char *)e - offsetof(struct session, order));
}

/* The next one that is due. Times that are not the host's say nothing of when others happened. */
static bool fill_order(struct order_entry *e)
{
	struct session *s = session_of(e);

	while (merge_pop(s->merge, s->asked, s->asked == UINT64_MAX, &s->next)) {
		if (s->next.mark) {
			session_use_mark(s, s->next.mark);
			continue;
		}
		session_begin_clock(s);
		s->next.time = region_clock_time(&s->clock, s->next.time);
		e->arrival = s->next.arrival;
		e->key = e->arrival + MERGE_DELAY_NS;
		if (s->clock.on_host && s->next.time < e->key)
			e->key = s->next.time;
		s->known = s->next.time;
		return true;
	}
	/* What a flight recorder holds was read, and is still to come. */
	if (!s->recorder && merge_due(s->merge) == UINT64_MAX && s->read_until > s->known)
		s->known = s->read_until;
	return false;
}

static void emit_order(struct order_entry *e)
{
	struct session *s = session_of(e);

	e->have = false;
	if (s->clock.wants_host && !s->said_clock)
		session_note_clock(s, "begins");
	s->said_clock = true;
	s->next.late |= e->late;
	session_show_item(s, &s->next);
}

static bool order_holds(const struct order_entry *e)
{
	return merge_due(session_of(e)->merge) != UINT64_MAX;
}

const struct order_ops session_order_ops = {
	.fill = fill_order,
	.emit = emit_order,
	.holds = order_holds,
};

bool session_emit_due(struct session *s, __u64 now, bool all, __u64 until)
{
	s->asked = all ? UINT64_MAX : now;
	s->order.now = now;
	if (!s->merge)
		return false;
	merge_ask(s->merge, now, all); /* also if one that is due waits for other sessions' */
	/* A capture's next piece waits for it. */
	return order_emit(&s->order, until) || (s->order.patient && s->order.have);
}

bool session_emit(struct session *s, __u64 now, bool all)
{
	__u64 until = clock_now() + EMIT_NS / order_sharers(&s->order);

	if (s->recorder ? recorder_emit(s->recorder, now, all, until) :
			  session_emit_due(s, now, all, until))
		return true;
	session_show_notes(s);
	return false;
}

void session_awaited(struct session *s, __u64 until)
{
	s->order.until = until;
}

bool session_is_out(const struct session *s)
{
	return !s->order.have;
}

__u64 session_due(const struct session *s)
{
	__u64 due = s->merge ? merge_due(s->merge) : UINT64_MAX, watch;

	if (s->order.have)
		due = order_due(&s->order);
	watch = session_watch(s) ? session_due(session_watch(s)) : UINT64_MAX;
	return due < watch ? due : watch;
}
