/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A session while it is attached: reads its rings, schema and names in a region, and hands them to
 * the session. When to read is the source's business.
 */
#ifndef READER_LIVE_H
#define READER_LIVE_H

#include <stdbool.h>

#include <htrace/region.h>

#include "kvm_exits.h"
#include "session.h"

struct live;
struct source_clock;

struct live_config {
	struct htrace_view *view; /* attached, guest RAM mapped if there are rings in it ... */
	bool no_ram;              /* ... or not: then their mirrors in the region are read */
	struct kvm_vm *vm;        /* that writes the per-CPU rings, or NULL */
	const char *path;         /* for messages */
	struct say_quota *quota;  /* for what the guest causes to be said */
	struct source_clock *clock; /* that wants to know what times are possible */
	/* Where each ring ends that an earlier look at the session has read, as live_ends() gave them. */
	const __u64 *ends;
	unsigned int nr_ends;
	bool steps_back; /* it may be set back: what does not add up in its rings may be due to that */
};

/* What one look at all rings gave. */
struct live_pass {
	__u64 events;
	__u64 backlog; /* bytes left */
	bool more;     /* it is worth to look again at once */
	bool lost;     /* events were lost */
	bool drained;  /* no ring has anything left that is committed */
	bool went_back; /* rings, or they do not add up; they are not read until it is known why: live_give_up() */
	bool cut;      /* for want of time or memory less was read than there is a budget for */
};

/* 0, or -errno with one line in @err. */
int live_open(struct live **out, struct session *session, const struct live_config *config,
	      char *err, size_t errlen);
/*
 * From here on nothing is read, and no memory of the guest's is touched. Bytes that stay in the
 * rings: as of the last look, or, if @look, as of now.
 */
__u64 live_close(struct live *s, bool look);

/* There was no good reason why rings went back: they are broken. */
void live_give_up(struct live *s, __u64 now);
/* Is there one that did, or does not add up, and is neither read nor given up? */
bool live_went_back(const struct live *s);
/*
 * The memory of the guest was set back, or may have been: where its rings end, or ended at an earlier look since
 * @first if that was before. What lies before that is what was read. *@ends, or NULL, is live's.
 */
unsigned int live_ends(struct live *s, bool first, const __u64 **ends);
/* Its machine is dead: from now on what looks like events in unfinished blocks is read, too. */
void live_salvage(struct live *s);
/*
 * Read a bounded amount of each ring, or, unless @all, of those that the exits of the VM leave.
 * @unverified: from a guest that may be dead. -ESTALE: ring
 * memory is not the session's any more.
 */
int live_read(struct live *s, __u64 now, bool all, bool unverified, struct live_pass *pass);
/* From now on these are the exits that say when. */
void live_set_vm(struct live *s, struct kvm_vm *vm);
/* Read schema and names again if the guest has new ones. At most so often, whatever it does. */
void live_refresh(struct live *s, __u64 now);
/* Hand over what samples there are of the region's clock, if its times are ticks. */
void live_clock(struct live *s, __u64 now);
/*
 * Look whose the rings of threads are, some of them a call, or @all: of those whose process died
 * what can be read is read to the end, and then they may be used again.
 */
void live_look_at_owners(struct live *s, bool all);
/* Rings that are read from their mirrors. */
unsigned int live_relayed(const struct live *s);
/* Is there something in the rings? A load per ring. */
bool live_ready(const struct live *s);
/*
 * The next record of each ring is to wake us. Then htrace_sync_armed(), and live_ready() once more.
 * False: there are rings whose producers cannot be told.
 */
bool live_arm(const struct live *s);
/* Bytes that were in the rings when they were last looked at. */
__u64 live_backlog(const struct live *s);

#endif
