/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records of several sources in the order of their times. Each session merges its own rings, and what
 * goes out there next does not depend on others: so a capture of one gives the same. Of all sessions
 * the record with the smallest key goes out next. While another session holds something that is not
 * due yet, which may be earlier, it waits for that, but not longer than the merge's delay once more:
 * who has records held back holds up nobody else for long.
 *
 * The key of a record is its time on the host's clock, where that is known, and never much later than
 * when it was read: what is read cannot come from the future, whatever a guest says.
 *
 * Captures wait for each other for as long as it takes: they come as fast as they are read.
 */
#ifndef READER_ORDER_H
#define READER_ORDER_H

#include <stdbool.h>

#include <linux/types.h>

struct order;
struct order_entry;

struct order_ops {
	/* The next record that is due becomes the one that waits: have, key and arrival. */
	bool (*fill)(struct order_entry *e);
	/* It goes out: no longer have. */
	void (*emit)(struct order_entry *e);
	/* Is anything held that is not due? */
	bool (*holds)(const struct order_entry *e);
};

/* A session's place. */
struct order_entry {
	const struct order_ops *ops;
	struct order *order;
	struct order_entry *next;
	bool patient; /* a capture */
	bool have;    /* a record waits to go out */
	bool late;    /* when it does, it comes behind later ones */
	__u64 key, arrival;
	__u64 now;    /* as its source was last asked */
	__u64 until;  /* its first records are waited for until then: its clock is not known yet; or 0 */
};

struct order *order_new(void);
/* NULL is allowed. No entry may be in it. */
void order_free(struct order *o);
/* @o NULL: it is alone. */
void order_join(struct order *o, struct order_entry *e);
void order_leave(struct order_entry *e);
/* How many sessions' records go out whichever of them is asked to let them. */
unsigned int order_sharers(const struct order_entry *e);
/* A capture's first or next session is still to join: others' wait for it; or no more. */
void order_await(struct order *o, bool await);
/*
 * Of all in @e's order, or of @e alone, let records out until @until (host time; looked at from time
 * to time). Returns false when nothing more may go out now.
 */
bool order_emit(struct order_entry *e, __u64 until);
/* When @e's record, which waits for others, goes out even so. */
__u64 order_due(const struct order_entry *e);

#endif
