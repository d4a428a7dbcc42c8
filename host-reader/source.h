/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A source of sessions: a region, whose life is this, or a capture (source_file.c), which is READING
 * until it is DONE.
 *
 *	WAITING ──a session──▶ MAPPING ──guest RAM found──▶ LISTENING ──a heartbeat──▶ READING
 *	   ▲                                                    │  ▲                    │   ▲
 *	   │                                    none for a while│  └──we were stopped───┤   │
 *	   │                                                    ▼                       │   │
 *	   ├──────────another session, or closed───────────── SILENT ◀──none for a while┘   │
 *	   └──────────another session, or closed──────────── (any) └───────a heartbeat──────┘
 *
 * Rings are read in READING, and once, as unverified, in SILENT. What goes back, in any of these three, leads
 * to BACK, and from there to WAITING for the same session, or on to READING. Whatever cannot be gone on with
 * ends in FAILED.
 */
#ifndef READER_SOURCE_H
#define READER_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>
#include <sys/stat.h>
#include <unistd.h>

#include <htrace/sync.h>

#include "bell_server.h"
#include "boot_events.h"
#include "kvm_events.h"
#include "kvm_exits.h"
#include "live.h"
#include "message.h"
#include "options.h"
#include "ram_mirror.h"
#include "select.h"
#include "session.h"
#include "sink.h"
#include "source_clock.h"
#include "stats.h"
#include "tell_kvm.h"
#include "vmm.h"

enum source_state {
	SOURCE_WAITING,   /* for a session that was not read yet */
	SOURCE_MAPPING,   /* for guest RAM to be found */
	SOURCE_LISTENING, /* for the guest's heart to beat: the session may be a dead one's */
	SOURCE_READING,
	SOURCE_SILENT, /* the heart stands still; what was left was read once, as unverified */
	SOURCE_BACK,   /* it was set back to an earlier state, or that is to be seen; nothing is read (source_back.c) */
	SOURCE_FAILED,
	SOURCE_DONE, /* nothing more can come */
};

/* How producers may wake us. */
enum source_bell {
	SOURCE_NO_BELL,
	SOURCE_WORD,     /* in a local region */
	SOURCE_DOORBELL_FD, /* of a device that we serve */
};

struct source_config {
	struct sinks *sinks; /* NULL: events are not shown */
	struct selection *selection;
	const struct htrace_filter *filter; /* or NULL */
	const struct snapshot_config *snapshot; /* or NULL */
	const char *sync; /* for messages */
	enum source_bell bell; /* what its policy is woken by */
	struct kvm_exits *exits; /* that say when to read; or NULL */
	struct teller *teller;   /* guests are told of their exits; or NULL */
	struct vcpu_hosts *hosts; /* whose virtual CPUs are followed */
	bool several;     /* sources: name them in the output */
	bool copy;        /* also what trusted guests wrote */
	struct order *order; /* of their records */
	bool host_clock;  /* times are shown on the host's clock */
	bool clock;       /* and at the end how they came about */
};

struct source;
struct source_plug;
struct source_stream;
struct replay;

/* What one round gave. */
struct source_round {
	__u64 events;
	__u64 backlog;
	bool more;
};

/* A kind of source; the functions below say what each does. */
struct source_ops {
	int (*open)(struct source *s);
	void (*begin)(struct source *s, __u64 now);
	void (*round)(struct source *s, __u64 now, struct source_round *round);
	bool (*finish_some)(struct source *s, __u64 now, bool late);
	void (*finish)(struct source *s, __u64 now);
	void (*close)(struct source *s);
	bool (*is_reading)(const struct source *s);
	bool (*ready)(const struct source *s);
	bool (*arm)(struct source *s, struct htrace_bell *bell, int *nr, int max);
	__u64 (*due)(const struct source *s);
	const char *(*awaits)(const struct source *s);
	__u64 (*attached_ns)(const struct source *s, __u64 now); /* its session, so far */
};

extern const struct source_ops source_live, source_file;

/* A capture of several sources becomes as many. 0, or after having said why, 1. */
int source_file_expand(struct options *o);

struct source {
	const struct source_ops *ops;
	const struct source_spec *spec;
	unsigned int nr; /* on the command line, from 0 on */
	const char *name; /* what it is called: its path, or that of which it is a capture */
	const struct source_config *config;
	enum source_state state;
	struct htrace_view *view;
	int fd; /* keeps the lock */
	bool writable;
	bool linked;        /* its path is a symbolic link */
	unsigned int owner; /* of the file */
	bool announced;     /* a reader, in a region that waits for a guest */
	struct session *session;
	struct live *live;      /* what reads it, of a region */
	struct bell_server *server; /* that gave the VM its device; or NULL */
	struct source_plug *plug;   /* that put the device into the VM; or NULL */
	struct source_stream *stream; /* that what is read comes by; or NULL */
	struct source_clock clock;  /* of the session */
	bool has_bell;          /* producers of this session ring */
	__u32 bell_seen;
	struct kvm_events *kvm; /* that writes what is read; or NULL */
	struct boot_events *boot; /* likewise */
	struct ram_mirror *mirror; /* of a region in the guest's memory; or NULL */
	struct kvm_vm *vm;      /* whose exits say when; or NULL */
	struct told_vm *told;   /* that is told of its exits; or NULL */
	struct tell *tell;      /* what it is told, while there is one */
	struct replay *replay;  /* or a capture */
	struct session *ending; /* its records still go out */
	struct say_quota quota;
	struct stats stats;
	struct htrace_guest guest; /* as last seen */
	bool guest_came;

	__u64 session_id; /* of the session attached to, or mapped for */
	__u64 done_id;    /* of a session that is over */
	bool damaged; /* a capture, not just cut off */
	struct session_facts facts; /* of the latest session */
	bool rebooted; /* since the session before */
	bool guest_seen; /* in this session */
	bool local; /* processes of this machine, not a guest */
	bool was_read; /* the session, and not only attached to */
	struct vmm *vmm; /* the process that runs the guest, once it was looked for; or NULL */
	bool set_back;   /* an earlier state of the guest was loaded: its session comes again */
	unsigned int beats_back; /* that rose since it was suspected */
	__u64 own_beat, own_beats; /* ours, as last written, and how many there were in the session */
	__u64 fine; /* host time of the last look at which nothing had gone back */
	__u64 *ends; /* of its rings, which were read that far, of session back_id; or NULL */
	unsigned int nr_ends;
	__u64 back_id;
	bool suspected;  /* no heartbeat for a while: it is watched */
	bool frozen, sure, buried; /* of a silent guest: paused; its memory is right; it is dead */
	bool recorded; /* that asked for a snapshot */
	__u64 still_at, loads_at; /* host time of the last look at which it was frozen, or could be being loaded */
	bool closing, drained, salvaged, lost_names;
	__u64 salvaged_events;
	unsigned int refused; /* attach attempts in a row that found no region */
	unsigned int unsettled; /* looks at a file that took its place */
	__u64 not_followed; /* inode of one that is somebody else's */
	bool said_waiting, said_stale;
	bool relayed; /* until the agent hands over */
	int vcpus_pid;          /* the process of KVM's that runs the guest; 0: none was found */
	__u64 next_find, find_pause; /* look for it, or at its virtual CPUs */
	__u64 find_again, kvm_again; /* not before: looking for it took long, for these and for its clock */
	bool vm_gone;
	unsigned int vm_tries; /* to find it, in this session */
	__u32 no_ram; /* enum htrace_host_reason: why guest RAM is not read, but its mirror */
	unsigned int map_tries;

	/* host time, ns */
	__u64 since;     /* state entered */
	__u64 attached;  /* session attached */
	__u64 looked;    /* last pass */
	__u64 next_try;  /* of what is tried again and again */
	__u64 next_map;  /* likewise, of what costs more */
	__u64 next_vm;
	__u64 next_tell; /* look for exits to tell of, or for a VM */
	__u64 tell_pause;
	__u64 next_vcpus; /* look whether it still has those */
	bool said_untold;
	bool said_several; /* that its process runs other VMs, too */
	__u64 next_scan; /* of a whole file */
	__u64 closed_at; /* a session was found that was over */
	__u64 heartbeat, heart_beat_at; /* its last value, and when it changed */
	__u64 next_house; /* housekeeping */
	__u64 next_file;  /* look whether another one took its place */
	__u64 next_names;
	__u64 progress_at, progress_backlog; /* of a closing session */
	unsigned int passes;                 /* at the end */
	bool finishing, finished, all_read, look_last;
	__u64 finish_at;

	/* the agent's CPU time and clock when it was first seen */
	__u64 agent_cpu_from, agent_mono_from;

	/* for the summary */
	char placement[320], buffer[160], who[640];
	unsigned int nr_vcpus;
};

/*
 * Open and inspect what it reads; nothing is written. 0, or after having said why: 1, and then the
 * source is SOURCE_FAILED, or -1 if memory is out.
 */
int source_open(struct source *s, const struct source_spec *spec, unsigned int nr,
		const struct source_config *config);
void source_close(struct source *s);

struct options;

/*
 * Those that are streams: begun before all else, as who receives gets a copy of what is mapped here by then. Each says
 * when it is opened what it failed at. Ended behind all else.
 */
void source_streams_begin(struct options *o);
void source_streams_end(struct options *o);

/* Announce the reader in the region. */
static inline void source_begin(struct source *s, __u64 now)
{
	s->ops->begin(s, now);
}

static inline void source_round(struct source *s, __u64 now, struct source_round *round)
{
	s->ops->round(s, now, round);
}

/*
 * The end: a bounded part of what is left to read, or, once that is @late, of what was read and has
 * to go out. Returns whether there is more. Then source_finish(), which does nothing more of it and
 * says what is left.
 */
static inline bool source_finish_some(struct source *s, __u64 now, bool late)
{
	return s->ops->finish_some(s, now, late);
}

static inline void source_finish(struct source *s, __u64 now)
{
	s->ops->finish(s, now);
}

static inline bool source_is_reading(const struct source *s)
{
	return s->ops->is_reading(s);
}

static inline bool source_ready(const struct source *s)
{
	return s->ops->ready(s);
}

/*
 * The next record is to wake us: adds to the @nr bells what its producers ring, if they do. False: nobody
 * rings for some of its rings. Then htrace_sync_armed().
 */
static inline bool source_arm(struct source *s, struct htrace_bell *bell, int *nr, int max)
{
	return !s->ops->arm || s->ops->arm(s, bell, nr, max); /* a capture: there is nothing to wait for */
}

static inline __u64 source_due(const struct source *s)
{
	return s->ops->due(s);
}

/*
 * What its stats will have if its session ends @now, as far as that is known: how its rings were read for exits is
 * counted at its end only. Arrays stay those of its stats.
 */
struct stats source_stats(const struct source *s, __u64 now);

/* Write out what the flight recorder holds, if there is one. @why: in a few words. */
void source_snapshot(struct source *s, const char *why, __u64 now);

#define SOURCE_PLUG_FILES "/dev/shm/htrace-qmp-"

/* Where the file is that is made for a device that is plugged in by the monitor @st. */
static inline void source_plug_path(char *path, size_t len, const struct stat *st)
{
	snprintf(path, len, SOURCE_PLUG_FILES "%llx-%llx", (unsigned long long)st->st_dev,
		 (unsigned long long)st->st_ino);
}

/* Is it such a file of ours? Anybody may make one of that name. */
static inline bool source_plug_is_ours(int fd)
{
	struct stat st;

	return !fstat(fd, &st) && S_ISREG(st.st_mode) && st.st_uid == geteuid() && st.st_nlink == 1;
}

/* The file that was made for a device that was plugged in. */
const char *source_plug_file(const struct source *s);

/* Its guest is silent, and all that it left went out: nothing comes, unless it lives on. */
bool source_rests(const struct source *s);

/* Its memory is in a file that we made: the path that was given for the source is not that file's. */
static inline bool source_made_its_file(const struct source *s)
{
	return s->server || s->kvm || s->plug || s->stream || s->boot || s->mirror;
}

/* In a few words, what is waited for; NULL: nothing. */
static inline const char *source_awaits(const struct source *s)
{
	return s->ops->awaits(s);
}

#endif
