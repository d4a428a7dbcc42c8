/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which of a VMM's requests to the host's disks are whose of its guest's, when several are in flight: by where
 * the sectors of a guest's disk are on the host's.
 *
 * That is a constant offset by pieces: one of a whole disk, one for each extent of a raw file, one for each run of
 * clusters of another image. Requests that were alone tell what it is, for each of the guest's disks, operations
 * and the host's disks; not all do that are alone:
 *
 *   - All of that operation that the VMM asked the host's disks for meanwhile has together just the request's bytes, in one
 *     piece of one disk, without an error.
 *   - None of that operation outlasts a request that was alone, and all that it made the VMM ask for: whoever reads
 *     ahead asks for what the guest will read next, at a constant distance. What was not believed by then is forgotten, and
 *     what is found with one that outlasted counts for nothing.
 *   - What was found once is not believed, as the VMM reads and writes for itself, too. It is when a second
 *     request has the same offset that lies before the last one: two streams that go forward side by side have a constant
 *     distance as well. For one that only goes forward, when IO_OFFSETS_ROW in a row have it, as no stream of the VMM's
 *     own keeps step with the guest's, request by request. Never by the same place again.
 *
 * An offset is good for the sectors between all places where it was found, and beyond them as far as the next believed
 * one. It is forgotten where a request was alone of which the host's lie elsewhere on that disk, and then found again on
 * both sides; or where what it says to be a request's own outlasted it.
 *
 * With these offsets a request's own are the host's of its operation, asked for since it left the guest, which lie within its
 * sectors, if they have each of them once; if not, its share is not known. What the host's block layer merged with another's is
 * the request's own, too, from when the request left the guest: it waited for all of it. It may have been asked for earlier, not
 * issued.
 *
 * So disks that are striped in small pieces, mirrors while they are written, compressed or encrypted by the VMM in other
 * sizes, remain unknown. Flushes have no sectors.
 *
 * Memory and time are bounded; what was used the longest time ago is forgotten.
 */
#ifndef READER_IO_OFFSETS_H
#define READER_IO_OFFSETS_H

#include "io_disk.h"

#define IO_OFFSETS 128u       /* of a guest */
#define IO_OFFSETS_ROW 4u
#define IO_OFFSETS_TRIED 16u  /* for one request; of what more would have to be, nothing is known */
#define IO_OFFSETS_DISKS 4u   /* of the host's that one disk of a guest's is on; likewise */
#define IO_OFFSETS_PIECES 64u /* that a request may be in on the host; likewise */

struct io_offsets;

/* Of a guest. NULL: memory is out. */
struct io_offsets *io_offsets_new(void);
void io_offsets_free(struct io_offsets *o);
/* It is this VM's; what was found of another one's is forgotten. */
void io_offsets_of(struct io_offsets *o, unsigned int host, __u32 vm);
/* Something that @host told is lost: it may have been of its disks. */
void io_offsets_lost(struct io_offsets *o, unsigned int host);
/* From when on io_offsets_learn() wants to know of the host's requests, for one that left the guest at @from. */
__u64 io_offsets_since(const struct io_offsets *o, enum io_op op, __u64 from);
/*
 * @rq of the guest's was alone of its operation, and on the host from @from until @until; @list has all that was complete
 * from io_offsets_since() until then. @nr -1: not all of it is known.
 */
void io_offsets_learn(struct io_offsets *o, const struct io_rq *rq, __u64 from, __u64 until,
		      const struct io_disk_span *const *list, int nr);
/*
 * Leaves in @list, of @nr, what is @rq's. How many; 0: it is not known, and @list has anything of what it had.
 */
unsigned int io_offsets_own(struct io_offsets *o, const struct io_rq *rq, __u64 from,
			    const struct io_disk_span **list, unsigned int nr);

#endif
