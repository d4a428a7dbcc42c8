/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* A consumer's state, for its sources: reading, handing over by callback, lending. */
#ifndef HTRACE_CONSUMER_CORE_H
#define HTRACE_CONSUMER_CORE_H

#include <stdbool.h>

#include <htrace/consumer.h>

#include "unpack.h"

/* What we know of one block slot. */
struct slot {
	__u64 seen;  /* events of this slot, over all laps, that are accounted for */
	__u64 lap;   /* lap of the last visit */
	bool known;  /* visited at all */
};

/* What is done with records before they are handed on. */
enum htrace_take {
	TAKE_COPY,     /* copied, then looked at */
	TAKE_IN_PLACE, /* looked at where they are */
	TAKE_UNSEEN,   /* likewise, but those of complete blocks are not: their words say enough */
};

/* Records that were borrowed, oldest first, in a circle. */
struct htrace_loan {
	__u64 pos;
	__u32 len, events;
	bool released; /* but an older one is out */
};

struct htrace_loans {
	__u32 first, nr;
	struct htrace_loan loan[HTRACE_BORROW_MAX];
};

struct htrace_consumer {
	const struct htrace_ring *ring;
	struct htrace_geometry g;
	__u64 anchor;
	__u64 *consumed;
	__u64 pos;
	__u64 head;      /* as last seen */
	__u64 dropped;   /* of the ring, as far as reported */
	bool dropped_known; /* dropped is of our start, not 0 for want of a better number */
	bool quarantined;
	bool begun;        /* the slot of the block at pos is accounted for this lap */
	__u64 block_seen;  /* events of the block at pos that were delivered */
	__u64 skip_until;  /* discard: records before this were consumed by an earlier reader */
	__u64 bad_block;   /* start + 1 of an open block that did not validate */
	__u64 generation;  /* of the ring: its positions are of this life */
	bool finished;     /* nobody produces any more */
	bool salvaging;    /* and what looks like a record behind a hole is wanted */
	bool over;         /* and all was read */
	__u32 strikes;
	struct htrace_batch loss; /* collected for the next batch */
	struct htrace_consumer_stats stats;
	/* Discard: consumed does not pass this, whatever was read; ~0: nothing is held. */
	__u64 hold;
	struct htrace_batch rest; /* what htrace_consumer_each() stopped before; in buf */
	struct htrace_loans *loans; /* NULL: nothing was borrowed yet */
	struct slot *slots;
	unsigned char *buf; /* one block */
	__u64 buf_pos;      /* ring position of what was copied there */
	struct htrace_unpacker basis; /* of packed records, at pos */
	unsigned char *unpacked; /* what buf is without packing; NULL: nothing is packed */
	char error[160];
};

/*
 * The next batch. As htrace_consumer_read(), but for what a callback left over.
 */
int htrace_consumer_next(struct htrace_consumer *c, struct htrace_batch *b, enum htrace_take how);
/* Ring position behind the first @nr records of @b, the last batch that was copied, which take @len bytes of it. */
__u64 htrace_consumer_behind(const struct htrace_consumer *c, const struct htrace_batch *b, __u32 len, __u32 nr);
/* Nothing from the position reached on is to be told as consumed, until this is taken back. */
void htrace_consumer_hold(struct htrace_consumer *c);
/* Hold what is still in somebody's hands, and nothing else; tell the rest as consumed. */
void htrace_consumer_let_go(struct htrace_consumer *c);
/* Let producers that discard have the room of what is not held. */
void htrace_consumer_publish(struct htrace_consumer *c);
/* Is what was at @pos still there? Everything taken from it before this call, that is. */
bool htrace_consumer_intact(struct htrace_consumer *c, __u64 pos);

#endif
