/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the files called source*.c share. */
#ifndef READER_SOURCE_INTERNAL_H
#define READER_SOURCE_INTERNAL_H

#include "source.h"

#define MS 1000000ULL
#define SEC 1000000000ULL
#define BRIEF_NS (500 * MS) /* from a session that was soon over to the next: logs are not filled */
#define COST_SHARE 20 /* what took so long is not done again for so many times as long */

void source_enter(struct source *s, enum source_state state, __u64 now);

/* May the host area be written? Else something else took the region's place. */
bool source_may_write(struct source *s, __u64 now);

/* source.c */
/* Did the guest's heart beat since the last look? */
bool source_heart_beat(struct source *s, __u64 now);
/* Is there an end to the session? Then it was dealt with. */
bool source_ended(struct source *s, __u64 now);
/* Read, and take care of what can go wrong. False: the source is in another state now. */
bool source_read_rings(struct source *s, __u64 now, bool all, bool unverified,
		       struct live_pass *pass);
void source_look_at_guest(struct source *s, __u64 now);

/* source_attach.c */
int source_open_region(struct source *s);
void source_begin_region(struct source *s, __u64 now);
void source_close_view(struct source *s);
/* In SOURCE_WAITING and SOURCE_MAPPING: the next step, if it is possible. */
void source_try_attach(struct source *s, __u64 now);
void source_try_map(struct source *s, __u64 now);
/* A session begins: ask its producers to wake us, if the policy wants that, and say if they cannot. */
void source_ask_bell(struct source *s);
/* Make the device's memory, and serve it. A descriptor of it, or -errno with one line in @err. */
int source_open_server(struct source *s, char *err, size_t errlen);
/* See source_arm(). */
bool source_arm_region(struct source *s, struct htrace_bell *bell, int *nr, int max);
/* Open a region's file, and wait a moment for one that a reader which was killed has still locked. As region_file_open(). */
int source_open_file(struct source *s, const char *path, bool follow, char *err, size_t errlen);
/* VMs that come to the device that we serve, and go. */
void source_serve(struct source *s, __u64 now);
/* Say once when the agent has handed over. */
void source_watch_relay(struct source *s, __u64 now);
/* Say once when the process is gone whose exits are watched. */
void source_watch_vm(struct source *s, __u64 now);
/* Does this session beat its heart at all? A tracer on this machine need not. */
bool source_has_heart(const struct source *s);

/* source_plug.c */
/* Plug a device into a VM that runs. A descriptor of its memory, or -errno with one line in @err. */
int source_plug_in(struct source *s, char *err, size_t errlen);
/* Is the device still there? If it is not the source ends, once all that it left is read. */
void source_watch_plug(struct source *s, __u64 now);
/* Take it out, and remove its file. */
void source_plug_out(struct source *s);

/* source_stream.c */
/* It was begun already. A descriptor of the memory that it goes to, or -errno with one line in @err. */
int source_open_stream(struct source *s, char *err, size_t errlen);
/* What is there to be said of it? If nothing more can come the source ends, once all that came is read. */
void source_watch_stream(struct source *s, __u64 now);

/* source_back.c */
/* Has anything gone back that does not in a guest that was not set back to an earlier state? */
bool source_went_back(struct source *s);
/* Something has, or rings do not add up: nothing is read until it is known why. */
void source_go_back(struct source *s, __u64 now);
void source_back_round(struct source *s, __u64 now);
/* It was not set back, or nobody waits until that is known: what went back is broken. */
void source_not_back(struct source *s, __u64 now);
/* Our heartbeat, to be known again. */
void source_beat(struct source *s);
/* What was kept for the next session does not hold. */
void source_forget_ends(struct source *s);
/* Nothing is read, for it is not known whether it was set back. */
bool source_doubts(const struct source *s);
/* Does it have what is seen to go back? */
bool source_steps_back(const struct source *s);

/* source_silent.c */
/* Was there no heartbeat for too long? */
bool source_is_silent(struct source *s, __u64 now);
void source_go_silent(struct source *s, __u64 now);
/* Likewise, and why is known. */
void source_silent_as(struct source *s, enum vmm_is is, __u64 now);
/* How the process is that runs it, since it is suspected to be silent. */
enum vmm_is source_look_at_vmm(const struct source *s, __u64 now);
/* Did its silence ask for a snapshot already? One that is only paused does not. */
bool source_silence_recorded(const struct source *s);
void source_silent_round(struct source *s, __u64 now, struct source_round *round);
/* The reader ends. One pass; returns whether there is more. */
bool source_finish_silent(struct source *s, __u64 now);
/* Tracers of user space, whose rings are those of threads, may be many processes. */
bool source_is_machine(const struct source *s);
/* Does the process still live that runs the guest? */
void source_watch_vmm(struct source *s, __u64 now);
/* Another session may be another VM's. */
void source_forget_vmm(struct source *s);

/* source_vm.c */
/* Find the process that runs the guest on KVM, and its virtual CPUs, if that is wanted, and time for it. */
void source_find_vcpus(struct source *s, __u64 now);
/* Likewise. */
void source_forget_vcpus(struct source *s);

/* source_tell.c */
/* Tell the guest of its exits, if that is wanted, and time for it. Finds its VM by itself. */
void source_tell(struct source *s, __u64 now);
/* When it is time again; UINT64_MAX: never. */
__u64 source_tell_due(const struct source *s);
/* Tell what is left, and then that this was all. */
void source_tell_end(struct source *s, __u64 now);

/* source_end.c */
/* Forget the session. From here on the memory of its rings is not touched. */
void source_end_session(struct source *s, __u64 now);
/* Tell a guest to come that a reader is there, if the file is one to write to. */
void source_announce(struct source *s, __u64 now);
/* Forget the session, and wait for another one. */
void source_await_next(struct source *s, __u64 now);
/* Likewise, and for good: says why, also to the guest if there is a reason. */
void source_fail(struct source *s, enum htrace_host_reason reason, const char *why, __u64 now);

/* source_session.c: of any kind of source */
/* Say it, and have it captured with the session, if there is one. */
__attribute__((format(printf, 3, 4))) void source_say(struct source *s, __u64 now, const char *fmt,
						      ...);
/* Say it, and have it at its place in every output of the session, if there is one. */
__attribute__((format(printf, 3, 4))) void source_mark(struct source *s, __u64 now, const char *fmt,
						       ...);
/* A session begins: s->session. 0, or -errno with one line in @err. */
int source_open_session(struct source *s, const struct session_facts *facts, char *err,
			size_t errlen);
/* Put into words who it is and what its rings are like. */
void source_describe(struct source *s);
/* Say that it began, also in the outputs if it is not the first one. */
void source_announce_session(struct source *s, __u64 now);
/* What the guest says of itself now. */
void source_take_guest(struct source *s, const struct htrace_guest *copy,
		       const struct htrace_clock_sample *clock, __u64 now);
/* Nothing more is read: what it held goes out by source_emit_ending(). */
void source_let_go(struct source *s, const struct capture_end *end, __u64 now);
/* Returns whether there is more. */
bool source_emit_ending(struct source *s, __u64 now);

#endif
