/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Requests to the host's disks that a VMM causes, as the source kvm tells of them: how many and how long for
 * each VM and disk, and how long it waited for them between two times.
 */
#ifndef READER_IO_DISK_H
#define READER_IO_DISK_H

#include <stdbool.h>

#include "durations.h"
#include "table.h"

#define IO_DISK_VMS 1024u
#define IO_DISK_CLASSES 256u
#define IO_DISK_PAST 512u /* of a VM's that are complete, the last ones */

enum io_op { IO_READ, IO_WRITE, IO_FLUSH, IO_DISCARD, IO_OTHER };

#define IO_OPS (IO_OTHER + 1)

/* A request to a disk of a guest's or a host's. */
struct io_rq {
	__u64 sector;
	__u32 dev, bytes;
	enum io_op op;
};

struct io_disk_rq {
	unsigned int host; /* the kvm source */
	__u32 vm;
	struct io_rq rq;
	bool error;
	__u64 end, ns, queue_ns; /* it was given to the disk @ns before the end, and asked for @queue_ns before that */
};

/* Of a VM, disk and kind. */
struct io_disk_class {
	struct table_key key;
	unsigned int host;
	__u32 vm, dev;
	enum io_op op;
	__u64 errors;
	struct durations size; /* in bytes */
	struct durations queue, disk;
};

/* Of a request that is complete. */
struct io_disk_span {
	__u64 asked, issued, end;
	struct io_rq rq;
	bool error;
};

/* What a VM waited for: time that it had at least one request in the queue or at the disk, or at the disk. */
struct io_disk_time {
	unsigned int requests;
	__u64 asked, disk;
};

struct io_disks;

/* NULL: memory is out. */
struct io_disks *io_disks_new(void);
void io_disks_free(struct io_disks *d);
/* One is complete. */
void io_disks_add(struct io_disks *d, const struct io_disk_rq *rq);
/*
 * Of a VM's requests, those that were complete from @from to @until, the last one first. How many; -1: not all of them may
 * be known. In @list, which has room for IO_DISK_PAST, they are valid until the next one is added.
 */
int io_disks_past(const struct io_disks *d, unsigned int host, __u32 vm, __u64 from, __u64 until,
		  const struct io_disk_span **list);
/* Leaves in @list, of @nr, those that were asked for at @from or later. How many. */
unsigned int io_disks_since(const struct io_disk_span **list, unsigned int nr, __u64 from);
/* Of those of @list, in its order: what they took from @from on. */
struct io_disk_time io_disks_time(const struct io_disk_span *const *list, unsigned int nr, __u64 from);
/* Requests for which there was no room. */
__u64 io_disks_beyond(const struct io_disks *d);
/* Classes by host, VM, device and kind; to be freed. NULL, and then *@nr is 0: memory is out. */
struct io_disk_class **io_disks_classes(const struct io_disks *d, size_t *nr);

#endif
