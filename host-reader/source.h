/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * One region and its life:
 *
 *	WAITING ──a session──▶ MAPPING ──guest RAM found──▶ LISTENING ──a heartbeat──▶ READING
 *	   ▲                                                    │  ▲                    │   ▲
 *	   │                                    none for a while│  └──we were stopped───┤   │
 *	   │                                                    ▼                       │   │
 *	   ├──────────another session, or closed───────────── SILENT ◀──none for a while┘   │
 *	   └──────────another session, or closed──────────── (any) └───────a heartbeat──────┘
 *
 * Rings are read in READING, and once, as unverified, in SILENT. Whatever cannot be gone on with
 * ends in FAILED.
 */
#ifndef READER_SOURCE_H
#define READER_SOURCE_H

#include <stdbool.h>
#include <stddef.h>

#include "options.h"
#include "select.h"
#include "session.h"
#include "sink.h"
#include "stats.h"

enum source_state {
	SOURCE_WAITING,   /* for a session that was not read yet */
	SOURCE_MAPPING,   /* for guest RAM to be found */
	SOURCE_LISTENING, /* for the guest's heart to beat: the session may be a dead one's */
	SOURCE_READING,
	SOURCE_SILENT, /* the heart stands still; what was left was read once, as unverified */
	SOURCE_FAILED,
};

struct source_config {
	struct sinks *sinks; /* NULL: events are not shown */
	struct selection *selection;
	const char *sync; /* for messages */
	bool several;     /* sources: name them in the output */
};

struct source {
	const struct source_spec *spec;
	const struct source_config *config;
	enum source_state state;
	struct htrace_view *view;
	int fd; /* keeps the lock */
	bool writable;
	struct session *session;
	struct stats stats;
	struct htrace_guest guest; /* as last seen */
	bool guest_came;

	__u64 session_id; /* of the session attached to, or mapped for */
	__u64 done_id;    /* of a session that is over */
	__u8 boot_id[16];
	bool closing, drained, salvaged, lost_names;
	__u64 salvaged_events;
	unsigned int refused; /* attach attempts in a row that found no region */
	bool said_waiting, said_stale;

	/* host time, ns */
	__u64 since;     /* state entered */
	__u64 attached;  /* session attached */
	__u64 looked;    /* last pass */
	__u64 next_try;  /* of what is tried again and again */
	__u64 heartbeat, heart_beat_at; /* its last value, and when it changed */
	__u64 next_house; /* housekeeping */
	__u64 next_names;
	__u64 progress_at, progress_backlog; /* of a closing session */

	/* the agent's CPU time and clock when it was first seen */
	__u64 agent_cpu_from, agent_mono_from;

	/* for the summary */
	char placement[320], buffer[160], who[640];
	unsigned int nr_vcpus;
};

/* What one round gave. */
struct source_round {
	__u64 events;
	__u64 backlog;
	bool more;
};

/* Open and inspect the file; nothing is written. 0, or 1 after having said why. */
int source_open(struct source *s, const struct source_spec *spec,
		const struct source_config *config);
/* Announce the reader in the region. */
void source_begin(struct source *s, __u64 now);
void source_round(struct source *s, __u64 now, struct source_round *round);
/* Read what is there, for the last time. */
void source_finish(struct source *s, __u64 now);
void source_close(struct source *s);

bool source_is_reading(const struct source *s);
bool source_ready(const struct source *s);
__u64 source_due(const struct source *s);
/* In a few words, what is waited for; NULL: nothing. */
const char *source_awaits(const struct source *s);

#endif
