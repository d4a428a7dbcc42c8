/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Of the CTF sink: its traces, which are directories, their streams, which are files, and events as they go into
 * these. What is on disk can be read at any time: a packet comes behind the declarations of the events in it.
 */
#ifndef READER_CTF_TRACE_H
#define READER_CTF_TRACE_H

#include "ctf_classes.h"
#include "names.h"
#include "outdir.h"

#define CTF_STREAM_BUCKETS 64

struct ctf_compass;

struct stream {
	struct stream *next;
	const struct origin *from;
	unsigned int kind;
	struct ctf_stream *out;
	struct trace *trace;
	/* For Trace Compass: of the host, the thread that runs on the CPU, as was written. */
	__u32 running;
	/* Of a guest: from when on it is told again whose virtual CPU is whose; and that an entry is to be told, too. */
	__u64 next_sync;
	bool awaits_sync;
};

struct trace {
	struct trace *next;
	struct ctf_trace_info info;
	char name[96];
	int dir;
	struct ctf_classes *classes;
	size_t head, published; /* bytes of the metadata's parts that are in the file */
	off_t metadata; /* its size */
	__u64 begin; /* time of the first event */
	bool told_began; /* how its session did, if there is a word of it */
	__u64 bound; /* of its times, that the metadata has */
	__u64 bound_next; /* host time: until then it may have an earlier one */
	__u64 tables; /* of tasks that were dumped */
	__u64 syncs;  /* of a guest: so far */
	struct stream *streams[CTF_STREAM_BUCKETS];
};

struct ctf {
	struct outdir dir;
	int error;
	unsigned int nr_traces;
	struct trace *traces;
	struct ctf_event event, scratch;
	struct ctf_compass *compass; /* NULL: traces are not for an experiment of Trace Compass's */
	__u32 pid; /* to which the task of the event in the making belongs; 0: as names have it */
};

/* @ret: 0, or -errno, of which the first is the output's. */
void ctf_fail(struct ctf *c, int ret);
/* That of a session, which may begin now; NULL: it cannot. */
struct trace *ctf_find_trace(struct ctf *c, const struct origin *from, __u64 time);
/* Likewise a stream of @kind, but for whether its ring is a CPU's. */
struct stream *ctf_find_stream(struct ctf *c, struct trace *t, const struct origin *from, unsigned int kind);
/* What was not written out is forgotten. */
void ctf_free_trace(struct ctf *c, struct trace *t);
/* All that was declared is in the file. */
void ctf_publish(struct ctf *c, struct trace *t);

/* The event in the making gets its header and context; its fields come behind. */
void ctf_begin_event(struct ctf *c, const struct sink_event *e, __u16 id, __u64 time);
void ctf_end_event(struct ctf *c, struct trace *t, struct stream *st, __u64 time);
/* A state dump's event, at the time of @nobody, which has no task. Without a name: as names have it. */
void ctf_dump_task(struct ctf *c, struct stream *st, const struct sink_event *nobody, const struct names_task *task);

#endif
