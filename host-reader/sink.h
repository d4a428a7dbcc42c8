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
struct stacks;
struct symbols;
struct vcpu_change;
struct vcpu_view;

struct session_set {
	__u32 policy, kind; /* enum htrace_policy, htrace_ring_kind */
	__u32 nr_rings, ring_shift, block_shift;
};

/* What is known of a session from its beginning on. */
struct session_facts {
	__u64 session;
	__u8 boot_id[16];
	__u32 clock_id, nr_cpus, nr_sets;
	bool local; /* processes of this machine, not a guest */
	bool host;  /* the kvm source: what it says of VMs is the host's word */
	struct session_set set[HTRACE_MAX_RINGSETS];
};

/*
 * One life of a region. Its address tells it from others until the sinks are told of its end. What
 * it says may come late; it is complete, as far as it ever will be, once the first event goes out.
 */
struct sink_session {
	const char *path;   /* of the source */
	const char *source; /* as in struct origin */
	unsigned int source_nr; /* on the command line, from 0 on */
	bool ticks;         /* as in struct origin; known when the first event goes out */
	bool lends;         /* batches that nobody has looked into */
	bool on_host;       /* times are the host's CLOCK_MONOTONIC, not the machine's own; likewise */
	const __u64 *bound; /* by which they may be off so far, ns, or HOST_CLOCK_UNKNOWN; likewise */
	__u64 host_real;    /* CLOCK_REALTIME of the host less its CLOCK_MONOTONIC */
	__u8 host_boot_id[16];
	__u8 boot_id[16];
	struct htrace_clock_sample clock; /* a recent one; all zero: there was none */
	char hostname[64], release[64];   /* as struct htrace_guest has them */
	__u32 state; /* enum htrace_guest_state, as last seen */
	const struct names *names;
	__u64 tables; /* of tasks that were read so far; names has what they say */
	__u64 schema; /* another one whenever the schema was read again, and events have moved */
	__u32 vm;     /* the process on the host that runs it, on KVM; 0: not known */
	const char *began; /* how, harmless: "restarted: ...", "new session: ..."; NULL: it is its source's first */
	struct session_facts facts;
	/* The latest schema, which records that go out now may be too old for; NULL: none yet. */
	const struct htrace_schema *reading;
};

/* Where something comes from. */
struct origin {
	const char *source; /* shown beside each event; NULL: there is only one */
	const struct sink_session *session;
	const struct names *names;
	const struct stacks *stacks; /* NULL, as symbols: there are none */
	struct symbols *symbols;
	bool ticks;   /* times are TSC ticks, not nanoseconds: what they are in these is not known */
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
	const struct vcpu_view *vcpu; /* that it happened on; NULL: no kvm source is open, or says */
};

struct sink_loss {
	const struct origin *from;
	__u64 time; /* it lies between this and the ring's last event before */
	__u64 overwritten, dropped, corrupt, unfinished; /* events */
	__u64 uncommitted; /* bytes, reserved by a process that died */
};

/* Events; what they add up to is a guest's word, and may wrap. */
static inline __u64 sink_lost(const struct sink_loss *l)
{
	return l->overwritten + l->dropped + l->corrupt + l->unfinished;
}

/* Something that concerns a whole source: a session began. */
struct sink_note {
	const char *source;
	const char *text; /* harmless already */
	const struct sink_session *session; /* NULL: it is none's, but announces one */
	/* The event that comes behind it, or else that came before; NULL: there was none so far. */
	const struct origin *from;
	__u64 time;
	/* NULL; else it tells that times of the source are the host's, within `bound` ns (as above) so far, or its own. */
	const char *clock;
	__u64 bound;
};

/* What a capture gets of a session, in the order in which it came. Numbers are the file format's. */
enum capture_kind {
	CAPTURE_BATCH = 0,
	CAPTURE_SCHEMA = 2,
	CAPTURE_NAMES = 3,  /* struct htrace_name[] */
	CAPTURE_GUEST = 4,  /* struct htrace_guest */
	CAPTURE_PLACE = 5,  /* text: where its rings are */
	CAPTURE_SAID = 6,   /* text: what the reader said of the guest */
	CAPTURE_BROKEN = 7, /* a ring, and why */
	CAPTURE_END = 8,    /* struct capture_end */
	CAPTURE_CLOCK = 9,  /* struct htrace_clock_sample[], where times are ticks */
	CAPTURE_HOST = 10,  /* struct host_word[] */
	CAPTURE_VM = 11,    /* struct session_vm: by which process of the host it is run */
	CAPTURE_NOTE = 12,  /* text: a line between the events, of what befell the source */
	CAPTURE_BEGAN = 13, /* text: the line that the session began with, if it is not its source's first */
};

/* Of the host: virtual CPUs' numbers, rising; the n-th is the guest's CPU n. */
struct session_vm {
	__u8 boot_id[16]; /* the host's */
	__u32 pid, nr;
	__u32 vcpu[1024];
};

struct capture_end {
	__u64 attached_ns; /* how long the session was read */
	__u64 unread;      /* bytes that stayed in its rings */
};

/* Records of a batch by their first four bytes: id, flags and length. */
struct capture_tally {
	__u32 key, nr;
};

#define CAPTURE_TALLIES 192

/* A batch that is still in its ring. */
struct capture_lent {
	struct htrace_batch batch;
	__u32 nr; /* 0: nobody has looked */
	const struct capture_tally *tally;
};

/* Who gets it back; copied by whoever takes it. */
struct capture_loan {
	/* Was it as it should be until now, all of it? From now on it may be overwritten. */
	bool (*give_back)(const struct capture_loan *l, const struct capture_lent *what);
	/* It could not be written: it stays unread. */
	void (*forfeit)(const struct capture_loan *l, const struct capture_lent *what);
	void *session;
	struct htrace_consumer *consumer;
	unsigned int ring;
	__u64 *time; /* of the ring's last record; whoever takes the batch sets it */
};

/* Of what is lent: take what is back, and ... */
enum take_back {
	TAKE_BACK_DONE,  /* begin what a file has nothing of under way for: more comes at once */
	TAKE_BACK_BEGUN, /* begin to write all of it: nobody knows when more comes */
	TAKE_BACK_ALL,   /* wait until it is written */
};

struct capture_item {
	enum capture_kind kind;
	__u64 arrival; /* host time */
	__u64 asked;   /* until when everything due had to be shown before */
	__u32 ring;
	const struct htrace_batch *batch;
	const struct htrace_schema *schema; /* that the batch's records are described by, or NULL */
	bool unverified;
	__u32 raised;
	__u64 generation; /* of a schema */
	const void *data;
	size_t len;
};

struct sink;

/* raw:DIR,rotate=SIZE,rotate=SECs,keep=SIZE,direct,zstd: rotation.h. 0: none. */
struct rotation {
	__u64 bytes, ns; /* of a part */
	bool direct;     /* past the page cache */
	bool pack;       /* parts that are complete are compressed */
	__u64 keep;      /* bytes of all there is, at most */
};

struct sink_ops {
	const char *name;
	bool file; /* it has open(), and wants a file, which is its `out` */
	/* NULL: it has none. What is behind its path's first single comma. 0, or after having said why not, 2. */
	int (*options)(struct sink *s, char *text, const char *spec);
	/*
	 * NULL, as are the next five then: the sink writes lines into its `out`. Else it writes into
	 * a directory, or a file, in a way of its own.
	 */
	int (*open)(struct sink *s);    /* touch nothing that is there. 0 or -errno */
	void (*abandon)(struct sink *s); /* close, as if it had not been opened */
	int (*begin)(struct sink *s);   /* nothing will be refused any more. 0 or -errno */
	void (*flush)(struct sink *s);  /* what a reader of the files should see now */
	int (*error)(const struct sink *s); /* an errno, or 0 */
	int (*close)(struct sink *s);   /* 0 or -errno: the first error of its life */

	/* NULL: it gets no events. */
	void (*event)(struct sink *s, const struct sink_event *e);
	/* These may be NULL. */
	void (*loss)(struct sink *s, const struct sink_loss *l);
	/* All that is read, as it is, when it is read: neither merged, nor named, nor chosen. */
	void (*captured)(struct sink *s, const struct sink_session *session,
			 const struct capture_item *item);
	/*
	 * A batch that is still in its ring, for @loan to get it back once it is written. False: it is
	 * not taken, and has to come by captured().
	 */
	bool (*lend)(struct sink *s, const struct sink_session *session,
		     const struct capture_item *item, const struct capture_loan *loan);
	const char *(*lends_by)(const struct sink *s); /* for messages: what writes it */
	/*
	 * Give back what is written, without waiting, or, with @all, everything that was lent, and write what
	 * was held back. False: some of it could not be written, and stays unread.
	 */
	bool (*take_back)(struct sink *s, enum take_back how);
	/* Where in the ring the first record lies that was captured and is not written; ~0: there is none. */
	__u64 (*unwritten)(struct sink *s, const struct sink_session *session, unsigned int ring);
	void (*note)(struct sink *s, const struct sink_note *n);
	/* A kvm source's session says that a virtual CPU is in another state. */
	void (*vcpu)(struct sink *s, const struct sink_session *session,
		     const struct vcpu_change *c);
	void (*session_end)(struct sink *s, const struct sink_session *session);
};

struct sink {
	const struct sink_ops *ops;
	struct out *out;  /* NULL: it has a way of its own */
	const char *path; /* NULL: standard output */
	char *own; /* where it lies, if options were cut off it */
	void *state;
	struct rotation rotation;
};

extern const struct sink_ops sink_text, sink_json, sink_ctf, sink_raw, sink_perfetto;

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
void sinks_vcpu(struct sinks *s, const struct sink_session *session, const struct vcpu_change *c);
void sinks_captured(struct sinks *s, const struct sink_session *session,
		    const struct capture_item *item);
/* As the ops; the first and the last only where sinks_lends(). */
bool sinks_lend(struct sinks *s, const struct sink_session *session,
		const struct capture_item *item, const struct capture_loan *loan);
bool sinks_take_back(struct sinks *s, enum take_back how);
__u64 sinks_unwritten(struct sinks *s, const struct sink_session *session, unsigned int ring);
const char *sinks_lends_by(const struct sinks *s);
/* Is one that takes batches in their rings the only output? Others need copies. */
bool sinks_lends(const struct sinks *s);
/* Does any of them capture, or show events? */
bool sinks_capture(const struct sinks *s);
bool sinks_show(const struct sinks *s);
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
