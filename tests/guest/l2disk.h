/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The disk that l2vmm.c gives to the small guest: a block device of this machine, without its page cache. */
#ifndef TESTS_L2DISK_H
#define TESTS_L2DISK_H

#include <stdbool.h>

#include <htrace/region.h>

#include "l2/l2.h"

/*
 * @device of this machine; the guest's disk begins so many sectors behind its beginning. @beside: a thread serves it while the virtual CPUs
 * run, as QEMU's I/O threads do.
 */
void l2disk_open(const char *device, __u64 shift, bool beside);
/* The events of the guest's driver. */
void l2disk_declare(struct htrace_region *r, struct l2_disk *orders);
/*
 * The virtual CPU of @account, in whose machine's memory at @ram its data are, has written to the disk's port.
 * True: the request is done, and the interrupt due; else @done(@arg) is called when it is.
 */
bool l2disk_kick(struct l2_cpu *account, char *ram, void (*done)(void *arg), void *arg);

#endif
