/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A guest's block requests on their way: what the guest says of them, and what the host says of the
 * virtual CPUs that they go through.
 *
 *	queue  in the guest's queue: block_rq_insert to block_rq_issue
 *	driver the guest's driver: to virtqueue_notify
 *	kick   the exit in which the notification is written: kvm_exit to kvm_entry
 *	vmm    from that entry until the virtual CPU is given the interrupt (kvm_inj_virq): whoever runs the
 *	       device, and his disk. 0: it was given with that very entry
 *	of kick and vmm together, from the exit until the interrupt is given:
 *	  waits  the VMM's requests to the host's disks are in the block layer's queues, and none is at a disk
 *	  disk   at least one is at a disk
 *	  rest   neither
 *	irq    from there until the request is complete in the guest
 *	total  from the first of insert and issue to block_rq_complete
 *
 * A stage that a request did not go through is none: it was issued without having been queued, or the
 * device did not want to be notified; the VMM asked no disk. One of which an end was not seen is not known, and is in no
 * number.
 *
 * The host does not say for which of a guest's requests its VMM asked a disk. While no other one of the guest's was
 * in flight all that was asked for and done between exit and interrupt is taken for its. Else, what was done there with
 * the host's sectors that are its own is its, if that is all of it: io_offsets.h tells where they are. None is if nothing
 * was done at all. Of all others it is not known.
 *
 * Memory is bounded: requests and classes beyond the limits are counted and no more.
 */
#ifndef READER_IO_H
#define READER_IO_H

#include <stdbool.h>

#include "durations.h"
#include "io_disk.h"
#include "table.h"

#define IO_REQUESTS 8192u /* in flight */
#define IO_CLASSES 256u
#define IO_QUEUES 4096u
#define IO_VCPUS 4096u
#define IO_KICKS 4096u /* notifications whose exits are remembered */
#define IO_SOURCES 64u
#define IO_DOUBT_NS 60000000000ULL /* for which requests that cannot be told apart may be in flight */

/* Of a dev_t as the kernel has it. */
#define IO_MAJOR(dev) ((dev) >> 20)
#define IO_MINOR(dev) ((dev) & 0xfffffu)

/* Interrupts from this one on are no device's to Linux: its timer, and what its CPUs tell each other. */
#define IO_SYSTEM_VECTORS 0xecu

enum io_stage { IO_QUEUE, IO_DRIVER, IO_KICK, IO_VMM, IO_WAITS, IO_DISK, IO_REST, IO_IRQ, IO_TOTAL, IO_STAGES };

enum io_exit {
	IO_EXIT_OTHER,
	IO_EXIT_FAST, /* if nothing else is said of it, a write to a device whose kind KVM does not look at */
	IO_EXIT_FORCED, /* by the host: it says nothing of what the guest did */
};

/* Where something happened in a guest. */
struct io_at {
	__u64 time;
	unsigned int source, cpu;
	bool on_host; /* the time is the host's, by @bound; and the virtual CPU is known: */
	__u64 bound;
	unsigned int host; /* the kvm source */
	__u32 vm, vcpu;
};

struct io_times {
	struct durations d;
	__u64 none, unknown;
};

/* Requests of one device and kind. */
struct io_class {
	struct table_key key;
	unsigned int source;
	__u32 dev;
	enum io_op op;
	__u64 errors;
	struct durations size; /* in bytes */
	struct io_times stage[IO_STAGES];
};

struct io;

struct io_counts {
	__u64 in_flight;
	__u64 no_issue;  /* completed, and it was not seen when they were issued */
	__u64 ambiguous; /* like another one in flight, or given up half-way */
	__u64 voided;    /* in flight while events of the guest were lost */
	__u64 beyond;    /* for which there was no room */
	__u64 lost;      /* events */
	__u64 first, last; /* time */
};

/* NULL: memory is out. */
struct io *io_new(void);
void io_free(struct io *x);

/*
 * Which of a guest's events are recorded, all of them: requests without them were not queued, or the device
 * not notified.
 */
void io_records(struct io *x, unsigned int source, bool inserts, bool issues, bool notifies);
void io_insert(struct io *x, const struct io_at *at, const struct io_rq *rq);
void io_issue(struct io *x, const struct io_at *at, const struct io_rq *rq);
/* Virtqueue @vq of a disk. */
void io_notify(struct io *x, const struct io_at *at, __u64 vq);
void io_interrupt(struct io *x, const struct io_at *at, __u64 vq);
void io_complete(struct io *x, const struct io_at *at, const struct io_rq *rq, bool error);
/* @lost events of a guest. */
void io_guest_loss(struct io *x, unsigned int source, __u64 lost);
/* Its session ended: what comes is maybe another guest's, with other disks. */
void io_guest_over(struct io *x, unsigned int source);

/* Whether the host tells of its disks. */
void io_host_records(struct io *x, unsigned int host, bool disks);
void io_host_disk(struct io *x, const struct io_disk_rq *rq);
/* What the host says of a virtual CPU. */
void io_host_exit(struct io *x, unsigned int host, __u32 vm, __u32 vcpu, __u64 time, enum io_exit kind);
void io_host_entry(struct io *x, unsigned int host, __u32 vm, __u32 vcpu, __u64 time);
/* It reads or writes a device's memory or port, in the exit that it is in. */
void io_host_access(struct io *x, unsigned int host, __u32 vm, __u32 vcpu, bool write);
/* An exit of @ns that ended at @time, with a write or without. @ns 0: it had no end. */
void io_host_whole(struct io *x, unsigned int host, __u32 vm, __u32 vcpu, __u64 time, __u64 ns, enum io_exit kind,
		   bool write);
/* @again: maybe the one before, which an exit had kept from being taken. */
void io_host_inject(struct io *x, unsigned int host, __u32 vm, __u32 vcpu, __u64 time, __u32 vector, bool again);
/*
 * In the exit that it is in, it tells its interrupt controller that an interrupt is over, which Linux does before it
 * handles one: what it was given last is yet to be handled.
 */
void io_host_eoi(struct io *x, unsigned int host, __u32 vm, __u32 vcpu);
void io_host_loss(struct io *x, unsigned int host, __u64 lost);

struct io_counts io_counts(const struct io *x);
/* Classes by source, device and kind; to be freed. NULL, and then *@nr is 0: memory is out. */
struct io_class **io_classes(const struct io *x, size_t *nr);
/* What the host's disks did, for any of a VMM's reasons. */
const struct io_disks *io_disks(const struct io *x);

#endif
