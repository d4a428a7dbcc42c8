/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What session.c and its parts, session_clock.c, session_order.c and session_lend.c, and a session's flight recorder (recorder.c), share. */
#ifndef READER_SESSION_INTERNAL_H
#define READER_SESSION_INTERNAL_H

#include "filter.h"
#include "merge.h"
#include "order.h"
#include "region_clock.h"
#include "session.h"
#include "vcpus.h"

struct ring {
	struct origin origin;
	struct ring_count *count;
	__u64 time; /* of the last record read */
	bool broken;
	/* As far as records were emitted: who runs there. */
	bool switches; /* are recorded: so it is known until when a task runs */
	bool task_known;
	__u32 task;
	struct vcpu_mark mark; /* of its virtual CPU */
};

/* What takes effect at its place between the records. */
struct mark {
	struct mark *next;
	enum { MARK_SCHEMA, MARK_NAMES, MARK_NOTE, MARK_CLOCK, MARK_HOST } kind;
	bool tells_bound; /* a note that does */
	bool had_gap;     /* a schema: task switches were missing since the one before */
	struct htrace_schema *schema;
	__u32 nr; /* names; bytes of text; samples; words */
	__u64 bound;
	union {
		struct htrace_name name[0];
		struct htrace_clock_sample sample[0];
		struct host_word word[0];
		char text[0]; /* of a schema: the entries that are new */
	};
};

struct session {
	struct session_config c;
	struct merge *merge; /* NULL: nobody wants records */
	struct recorder *recorder; /* holds what is read until a snapshot is taken; or NULL */
	struct order_entry order;
	struct merge_item next; /* that waits in the order, if there is one; its time as it is shown */
	bool captured;
	struct region_clock clock;
	__u64 asked;         /* time of the last session_emit() */
	struct mark *early;  /* tables of names that came before it was known as what times go out */
	struct names *names;
	struct stacks *stacks; /* NULL, as symbols, where there is no merge */
	struct symbols *symbols;
	bool said_symbols, said_clock;
	struct sink_session about;
	struct htrace_schema *schema;
	struct events *events; /* what the reader knows of the schema's events */
	struct filters *filters;
	struct filter_said filter_said;
	bool switch_filtered; /* the guest records some switches only: who runs then is not known */
	size_t schema_len;     /* of what was parsed; entries are added only */
	struct session_vm vm;       /* that it is a guest in; pid 0: not known */
	struct vcpus *vcpus;        /* of the host that a kvm source tells of; NULL: it is none */
	struct vcpu_events *vcpu_events;
	__u64 read_until;           /* all that happened before, by the host's clock, was handed over; */
	__u64 known;                /* and went out */
	__u64 next_expire;
	unsigned char *copy; /* of a batch that was lent and cannot stay where it is */
	size_t copy_room;
	unsigned int nr_broken;
	struct mark *notes, **last_note; /* that go out with the next event, or when none is due */
	char *last_words; /* behind all of them; or NULL */
	char *began;      /* what is announced before all of them; or NULL */
	struct capture_end end; /* that captures get when a snapshot that goes out is in them, */
	__u64 ended;            /* and when that was; 0: not yet, or they have it */
	struct ring *latest; /* the ring of the latest event that went out, and when that was */
	__u64 latest_time;
	unsigned int waiting; /* schemas and tables that did not take effect yet */
	unsigned int nr_rings;
	struct ring ring[];
};

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

/* NULL: there is no memory. Its text, samples or words follow. */
struct mark *session_new_mark(int kind, size_t len);
void session_put_mark(struct session *s, struct mark *m, __u64 now);
void session_use_mark(struct session *s, struct mark *m);
/* It goes out with the next event, or when none is due. */
void session_queue_note(struct session *s, struct mark *m);
void session_show_notes(struct session *s);
/* Of the same records, before the recorder; or NULL. */
struct session *session_watch(const struct session *s);
/* session_clock.c: @when times begin or end, what they are; a word of how its clock goes beside the host's. */
void session_note_clock(struct session *s, const char *when);
void session_use_host_word(struct session *s, const struct host_word *w);
/* The first time of all goes out: as what, now holds. */
void session_begin_clock(struct session *s);
/* session_order.c: of its entry in the order. */
extern const struct order_ops session_order_ops;
/* A record, or a loss, whose time is as it is shown. */
void session_show_item(struct session *s, struct merge_item *item);

#endif
