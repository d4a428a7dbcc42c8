/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * CTF 1.8 as the CTF sink writes it, in three parts: what the metadata declare (ctf_metadata.c), in
 * which order and with which additions LTTng has an event's fields (ctf_layout.c), and streams of
 * packets (ctf_stream.c). sink_ctf.c puts them together.
 *
 * All is little-endian and aligned to bytes, as LTTng has it on x86.
 */
#ifndef READER_CTF_H
#define READER_CTF_H

#include <time.h>

#include "sink.h"
#include "tsdl.h"

/* ------------------------------------------------------------------------------------ metadata */

/* Kinds of streams: bits, and the ids of the stream classes. */
#define CTF_RING 1u /* of a ring that is no CPU's */
#define CTF_UNVERIFIED 2u /* of events of a guest that gave no sign of life any more */
#define CTF_VCPU 4u /* whose events say what their virtual CPU did */
#define CTF_STREAM_KINDS 8

/* In an experiment of Trace Compass's: a bit. 0: the trace is for no such thing. */
enum ctf_role {
	CTF_GUEST = 1,
	CTF_HOST = 2,
};

struct ctf_trace_info {
	const struct sink_session *session;
	const char *name;
	time_t created;
	__u8 uuid[16];
	bool per_cpu; /* a kernel's, as far as tools can tell */
	enum ctf_role role;
};

/* All that comes before streams and events. */
void ctf_put_trace(struct tsdl *t, const struct ctf_trace_info *info);
void ctf_put_stream(struct tsdl *t, unsigned int kind);
void ctf_put_event(struct tsdl *t, unsigned int kind, __u32 id, const char *name,
		   const char *fields);

/* A stack's id, which the event has as a sequence of addresses? */
bool ctf_is_stack(const struct htrace_type *t, unsigned int depth);
struct ctf_layout;
/* The fields of @e, a struct. */
void ctf_put_fields(struct tsdl *t, const struct htrace_event *e, const struct ctf_layout *l);
/* Fields of events that are not made from a record. */
extern const char ctf_fields_none[], ctf_fields_raw[], ctf_fields_undecoded[],
	ctf_fields_process_state[], ctf_fields_note[], ctf_fields_sync[], ctf_fields_kvm_exit[], ctf_fields_kvm_entry[],
	ctf_fields_switch[];

/* -------------------------------------------------------------------------------------- layout */

enum ctf_what {
	CTF_MEMBER,
	CTF_STATE, /* likewise, a task's state, as Trace Compass knows it */
	CTF_COMM, /* the name of the task that the member holds */
	CTF_ARG, /* a system call's argument, of those in the member */
};

struct ctf_item {
	enum ctf_what what;
	__u32 member; /* index */
	char name[24]; /* of the last two */
	__u8 arg;
	char type; /* as in struct syscall_arg */
};

/* What is written of an event, in this order. */
struct ctf_layout {
	__u32 nr;
	struct ctf_item item[];
};

/* @syscall: name of the call that @e is about, or NULL. NULL: no memory. */
struct ctf_layout *ctf_layout_new(const struct htrace_event *e, const char *syscall);
/* "syscall_entry_" or "syscall_exit_" if @e's events are called after their call; or NULL. */
const char *ctf_syscall_prefix(const struct htrace_event *e);

/* -------------------------------------------------------------------------------------- values */

/* The event in the making. */
struct ctf_event {
	unsigned char *buf;
	size_t len, room;
	bool failed; /* no memory */
	/* While a record is decoded: where its members end in `buf`. */
	__u32 *end;
	__u32 nr, nr_room, depth;
	const struct sink_event *event;
	unsigned int stacks; /* of it so far */
	size_t length_at; /* of an array to the record's end: where its length goes */
	__u32 length;
	bool open;
};

void ctf_event_free(struct ctf_event *w);
void ctf_add(struct ctf_event *w, const void *p, size_t len);
/*
 * Harmless text, as in the text output, with a NUL at its end. If it is empty, "\\x00":
 * babeltrace2 before 2.0.5 shows text of an earlier event in the place of an empty string.
 */
void ctf_add_string(struct ctf_event *w, const char *s, size_t len);
/* The name of a task, or "<...>": not known. */
#define CTF_NO_TASK (~0ULL)
void ctf_add_comm(struct ctf_event *w, const struct sink_event *e, __u64 tid);
/*
 * Add @e's fields as laid out; @scratch is of use meanwhile. False: the record is too short, and
 * nothing was added.
 */
bool ctf_add_fields(struct ctf_event *w, struct ctf_event *scratch, const struct sink_event *e,
		    const struct ctf_layout *l);

/* ------------------------------------------------------------------------------------- streams */

/* Times up to this one stay below 2^63 with the clock's offset added. */
#define CTF_TIME_MAX (1ULL << 62)
#define CTF_OFFSET_MAX (1ULL << 61)

struct ctf_event_header {
	__u16 id;
	__u64 timestamp;
	/* the event's context; the task's name follows */
	__s32 pid, tid; /* -1: not known */
} __attribute__((packed));

struct ctf_stream;

/* A new file in the directory @dir. 0 or -errno. */
int ctf_stream_new(struct ctf_stream **out, int dir, const char *name, unsigned int kind,
		   __u32 ring, const __u8 *uuid);
/* Forgets what was not written out. The first error of its life, an errno, or 0. */
int ctf_stream_free(struct ctf_stream *st);
/* The time at which something of time @time goes into it: times do not go backwards. */
__u64 ctf_stream_time(const struct ctf_stream *st, __u64 time);
/* Add an event, that is header, context and fields. */
int ctf_stream_add(struct ctf_stream *st, __u64 time, const void *event, size_t len);
/* Is it time to write the packet? */
bool ctf_stream_full(const struct ctf_stream *st);
/*
 * Write the packet, if there are events in it. All of this return 0 or -errno; then the file ends
 * with the last packet that is whole.
 */
int ctf_stream_flush(struct ctf_stream *st);
/*
 * @nr events were lost between the last one and @time. That is a packet without events, which goes
 * out at once. If none came before, they were lost since @since.
 */
int ctf_stream_lose(struct ctf_stream *st, __u64 since, __u64 time, __u64 nr);

#endif
