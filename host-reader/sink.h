/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where events go. A sink formats them; it is made from a name, as in text:FILE, and a new kind is
 * a struct sink_ops and a line in sink.c.
 */
#ifndef READER_SINK_H
#define READER_SINK_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/consumer.h>
#include <htrace/schema.h>

#include "out.h"

struct names;

/*
 * One life of a region. Its address tells it from others until the sinks are told of its end. What
 * it says may come late; it is complete, as far as it ever will be, once the first event goes out.
 */
struct sink_session {
	const char *path;   /* of the source */
	const char *source; /* as in struct origin */
	bool ticks;         /* likewise */
	__u8 boot_id[16];
	struct htrace_clock_sample clock; /* a recent one; all zero: there was none */
	char hostname[64], release[64];   /* as struct htrace_guest has them */
	const struct names *names;
	__u64 schema; /* another one whenever the schema was read again, and events have moved */
};

/* Where something comes from. */
struct origin {
	const char *source; /* shown beside each event; NULL: there is only one */
	const struct sink_session *session;
	const struct names *names;
	bool ticks;   /* times are TSC ticks, not nanoseconds */
	bool per_cpu; /* rings are CPUs */
	unsigned int ring;
};

struct sink_event {
	const struct origin *from;
	__u64 time;
	bool unverified; /* from a guest that gave no sign of life any more */
	bool task_known;
	__u32 task; /* that ran when it happened */
	const struct htrace_event *event; /* NULL: not in the schema */
	const struct htrace_record *record;
};

struct sink_loss {
	const struct origin *from;
	__u64 time; /* it lies between this and the ring's last event before */
	__u64 overwritten, dropped, corrupt;
};

/* Something that concerns a whole source: a session began. */
struct sink_note {
	const char *source;
	const char *text; /* harmless already */
};

struct sink;

struct sink_ops {
	const char *name;
	/*
	 * NULL, as are the next five then: the sink writes lines into its `out`. Else it writes into
	 * a directory in a way of its own.
	 */
	int (*open)(struct sink *s);    /* touch nothing that is there. 0 or -errno */
	void (*abandon)(struct sink *s); /* close, as if it had not been opened */
	int (*begin)(struct sink *s);   /* nothing will be refused any more. 0 or -errno */
	void (*flush)(struct sink *s);  /* what a reader of the files should see now */
	int (*error)(const struct sink *s); /* an errno, or 0 */
	int (*close)(struct sink *s);   /* 0 or -errno: the first error of its life */

	void (*event)(struct sink *s, const struct sink_event *e);
	void (*loss)(struct sink *s, const struct sink_loss *l);
	/* These may be NULL. */
	void (*note)(struct sink *s, const struct sink_note *n);
	void (*session_end)(struct sink *s, const struct sink_session *session);
};

struct sink {
	const struct sink_ops *ops;
	struct out *out;  /* NULL: it has a way of its own */
	const char *path; /* NULL: standard output */
	void *state;
};

extern const struct sink_ops sink_text, sink_json;

/* All outputs of the command line. */
struct sinks {
	struct sink sink[16];
	unsigned int nr;
};

/* Open them, touching no contents yet. 0, or an exit status after having said why. */
int sinks_open(struct sinks *s, const char *const *specs, unsigned int nr);
/* The path of the output that is the file @dev, @ino, or NULL. */
const char *sinks_find_file(const struct sinks *s, __u64 dev, __u64 ino);
/* Make them empty. Likewise. */
int sinks_begin(struct sinks *s);
void sinks_event(struct sinks *s, const struct sink_event *e);
void sinks_loss(struct sinks *s, const struct sink_loss *l);
void sinks_note(struct sinks *s, const struct sink_note *n);
/* Nothing more comes from @session. */
void sinks_session_end(struct sinks *s, const struct sink_session *session);
/* Write out what is buffered, of terminals or of all. */
void sinks_flush(struct sinks *s, bool all);
/* Did an output fail? Said once. */
bool sinks_failed(struct sinks *s);
/* Close them unused, as if they had not been opened. */
void sinks_abandon(struct sinks *s);
/* 0, or 1 after an output failed and that was said. */
int sinks_close(struct sinks *s);

#endif
