/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A disk of the small guest: of what its driver (disk_driver.h), its device (../l2disk.c) and its events are. */
#ifndef TESTS_L2_DISK_H
#define TESTS_L2_DISK_H

#include <linux/types.h>

#define L2_PORT_DISK 0x14 /* written: the request in l2_cpu.disk is for the device */
#define L2_DISK_DATA 0x180000 /* L2_DISK_DATA_SIZE for each virtual CPU */
#define L2_DISK_DATA_SIZE 0x10000
#define L2_DISK_DEV (253u << 20)
#define L2_DISK_CACHED 65536 /* from this sector on the device reads by its host's page cache */
#define L2_DISK_QUEUE 0x1000 /* and the virtual CPU's number: its queue */

/* LTTng's bits, as those of bpf/request.h. */
#define L2_WRITE 1
#define L2_READ_BLOCKS 4
#define L2_FLUSH 256

/* Records with the names and fields of those that guest-agent's programs write, as far as --view io reads them. */
struct l2_request { /* block_rq_insert, block_rq_issue */
	__u64 sector;
	__u32 dev, bytes, rwbs;
};

struct l2_completion { /* block_rq_complete */
	__u64 sector;
	__u32 dev, nr_sector;
	__s32 error;
	__u32 rwbs;
};

struct l2_queue_event { /* virtqueue_notify, vring_interrupt */
	__u64 vq;
	char name[8];
};

/* A virtual CPU's request, one at a time. */
struct l2_disk {
	/* from the VMM, before the start */
	__u32 insert, issue, notify, interrupt, complete; /* ids of events */
	/* from the guest */
	struct l2_request request;
	__u64 asked; /* requests so far */
	/* from the VMM */
	__u64 answered;
	__s32 error;
};

#endif
