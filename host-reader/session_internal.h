/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What session.c, session_lend.c, and a session's flight recorder (recorder.c), share. */
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

struct session {
	struct session_config c;
	struct merge *merge; /* NULL: nobody wants records */
	struct recorder *recorder; /* holds what is read until a snapshot is taken; or NULL */
	struct order_entry order;
	struct merge_item next; /* that waits in the order, if there is one; its time as it is shown */
	bool captured;
	struct region_clock clock;
	__u64 asked;         /* time of the last session_emit() */
	struct mark *early, **last_early; /* names that came before it was known as what times go out */
	unsigned int nr_early;
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

#endif
