/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What a session's flight recorder (recorder.c) does with it. */
#ifndef READER_SESSION_INTERNAL_H
#define READER_SESSION_INTERNAL_H

#include "session.h"

/* What was counted goes in now; @quiet: it is not shown, and not captured. -ENOMEM. */
int session_let_in(struct session *s, unsigned int ring, const struct htrace_batch *b, __u64 arrival,
		   bool unverified, __u32 raised, bool quiet);
bool session_merge_has_room(const struct session *s, unsigned int ring);
/* As session_emit(), of what was let in, until the host's time is @until. */
bool session_emit_due(struct session *s, __u64 now, bool all, __u64 until);
/* Put @text into the outputs at this place, and, if @captured, into captures. */
void session_show_note(struct session *s, const char *text, bool captured, __u64 now);
/* These could not be shown. */
void session_count_unwritten(struct session *s, __u64 events);

#endif
