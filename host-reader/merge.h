/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Records of several rings in the order of their times. Rings are read one after the other, so a
 * record may come before an older one of another ring; each is therefore held back for a while.
 *
 * The delay runs on host time: as long as some batch arrived more than the delay ago, the record
 * with the smallest time of all rings goes out, whatever its own arrival. So a ring whose times lie
 * in the future holds up nobody, and no record waits longer than the delay for others.
 *
 * What is pushed is looked at only when all that was due at the merge_pop() before has gone out,
 * however long that takes. So the order depends on when batches arrived and for which times
 * merge_pop() was called, and on nothing else: a capture that says the same gives the same.
 *
 * Times that go backwards within a ring are raised to the one before.
 */
#ifndef READER_MERGE_H
#define READER_MERGE_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/consumer.h>

#define MERGE_DELAY_NS 50000000ULL
#define MERGE_BYTES (64u << 20) /* all rings of a source; and a batch more at most */

struct merge;

/*
 * A record, the loss that lies before the next record of its ring, or a mark, and then nothing else
 * is set. Valid until the next call.
 */
struct merge_item {
	void *mark;
	unsigned int ring;
	__u64 arrival;
	__u64 time;
	bool late; /* its time is before that of the item that went out before it */
	bool unverified;
	bool quiet;
	bool is_loss;
	struct htrace_record record;
	__u64 overwritten, dropped, corrupt, unfinished; /* events */
	__u64 uncommitted;                               /* bytes */
};

struct merge *merge_new(unsigned int nr_rings, __u64 delay_ns, size_t max_bytes);
void merge_free(struct merge *m);
/* May more of this ring be read, or does it hold too much? */
bool merge_has_room(const struct merge *m, unsigned int ring);
/* Copy a batch that arrived at @now. @unverified, @quiet: its items will say so. -ENOMEM. */
int merge_push(struct merge *m, unsigned int ring, const struct htrace_batch *b, __u64 now,
	       bool unverified, bool quiet);
/* Let @mark, which is not NULL, go out at this place among what is pushed. -ENOMEM. */
int merge_mark(struct merge *m, void *mark, __u64 now);
/* Marks that did not go out yet. */
unsigned int merge_marks(const struct merge *m);
/* What is pushed from now on comes after what is due at @now, as if merge_pop() had been called. */
void merge_ask(struct merge *m, __u64 now, bool all);
/* The next item that is due at @now, or, if @all, the next there is. */
bool merge_pop(struct merge *m, __u64 now, bool all, struct merge_item *item);
/* Host time at which the next item will be due; UINT64_MAX: nothing is held. */
__u64 merge_due(const struct merge *m);

#endif
