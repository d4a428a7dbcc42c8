/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What source.c, source_attach.c and source_end.c share. */
#ifndef READER_SOURCE_INTERNAL_H
#define READER_SOURCE_INTERNAL_H

#include "source.h"

#define MS 1000000ULL
#define SEC 1000000000ULL
#define BRIEF_NS (500 * MS) /* from a session that was soon over to the next: logs are not filled */

void source_enter(struct source *s, enum source_state state, __u64 now);

/* May the host area be written? Else something else took the region's place. */
bool source_may_write(struct source *s, __u64 now);

/* source_attach.c */
void source_close_view(struct source *s);
/* In SOURCE_WAITING and SOURCE_MAPPING: the next step, if it is possible. */
void source_try_attach(struct source *s, __u64 now);
void source_try_map(struct source *s, __u64 now);
/* Say once when the agent has handed over. */
void source_watch_relay(struct source *s);
/* Does this session beat its heart at all? A tracer on this machine need not. */
bool source_has_heart(const struct source *s);

/* source_end.c */
/* An agent is there; source_fold_agent() when it is no more. */
void source_note_skipped(struct source *s, const struct htrace_guest *fresh);
void source_watch_agent(struct source *s);
void source_fold_agent(struct source *s);
/* Forget the session. From here on the memory of its rings is not touched. */
void source_end_session(struct source *s, __u64 now);
/* Tell a guest to come that a reader is there, if the file is one to write to. */
void source_announce(struct source *s, __u64 now);
/* Forget the session, and wait for another one. */
void source_await_next(struct source *s, __u64 now);
/* Likewise, and for good: says why, also to the guest if there is a reason. */
void source_fail(struct source *s, enum htrace_host_reason reason, const char *why, __u64 now);

#endif
