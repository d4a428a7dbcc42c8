/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The flight recorder of a session, --snapshot: what is read is held, the last of each ring, and goes
 * out when a snapshot is asked for. What becomes too old passes through the session unseen, so that
 * names of tasks, stacks and who runs are known in the next snapshot as if all had been shown.
 *
 * What asks for it may be an event. That is looked for by a session of its own, the watch, which sees
 * all at once, in the order of time and with its names.
 */
#ifndef READER_RECORDER_H
#define READER_RECORDER_H

#include "session.h"

struct recorder;

/* For @s, of which @c is the configuration. 0 or -errno, with one line in @err. */
int recorder_new(struct recorder **out, struct session *s, const struct session_config *c, char *err,
		 size_t errlen);
/* What is held and was not asked for goes with it. */
void recorder_free(struct recorder *r);
/* Gets schemas, names and clock samples too. NULL: no event asks for snapshots. */
struct session *recorder_watch(struct recorder *r);
bool recorder_has_room(const struct recorder *r, unsigned int ring);
/* As session_batch(); session_note(), or, if @captured, session_mark(). */
int recorder_batch(struct recorder *r, unsigned int ring, const struct htrace_batch *b, __u64 now,
		   bool unverified, __u32 raised);
void recorder_note(struct recorder *r, const char *text, bool captured, __u64 now);
/* Let all that is held now go out; if something does already, what came since follows it. */
void recorder_ask(struct recorder *r, const char *why, __u64 now);
/* As session_emit(), until @until. */
bool recorder_emit(struct recorder *r, __u64 now, bool all, __u64 until);

#endif
