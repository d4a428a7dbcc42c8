/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The last of what came from each ring, in the order in which it came, in bounded memory: a ring's
 * takes at least @bytes, and a batch more at most; twice that while something goes out that was asked for.
 */
#ifndef READER_HOLD_H
#define READER_HOLD_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/consumer.h>

struct hold;

/* A batch, or a note, which is in no ring. */
struct held {
	struct held *older, *newer; /* of all */
	struct held *next;          /* of its ring */
	__u64 arrival;
	unsigned int ring;
	bool is_note; /* its text is batch.data, with a NUL */
	bool captured; /* it is a note for captures too */
	bool unverified;
	bool asked; /* it is to go out */
	__u32 raised;
	struct htrace_batch batch; /* len of the data that are copied */
	unsigned char data[] __attribute__((aligned(8)));
};

/* What is held. */
struct hold_sum {
	__u64 events, lost;
	__u64 since, until; /* arrivals of the first and the last; 0: nothing is */
};

struct hold *hold_new(unsigned int nr_rings, __u64 bytes);
void hold_free(struct hold *h);
/* May more of this ring be put, or does it have to go out first? */
bool hold_has_room(const struct hold *h, unsigned int ring);
/* Copy a batch that arrived at @now. -ENOMEM. */
int hold_batch(struct hold *h, unsigned int ring, const struct htrace_batch *b, __u64 now,
	       bool unverified, __u32 raised);
int hold_note(struct hold *h, const char *text, bool captured, __u64 now);
/*
 * Take out the oldest of the ring last put to, or of the notes, if the rest is enough and it was not
 * asked for. NULL: nothing is in excess. The caller frees it.
 */
struct held *hold_excess(struct hold *h);
/* All that is held now is to go out. */
struct hold_sum hold_ask(struct hold *h);
/* The oldest that was asked for, which stays until hold_take(). NULL: there is none. */
struct held *hold_asked(const struct hold *h);
/* Take out what hold_asked() gave. The caller frees it. */
void hold_take(struct hold *h, struct held *i);
__u64 hold_lost(const struct htrace_batch *b);

#endif
