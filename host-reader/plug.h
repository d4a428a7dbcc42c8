/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * An ivshmem device in a VM that runs: where it could go, put in, taken out. It and its memory are known by their
 * ids, so that what a reader that was killed left behind is found by the next one.
 */
#ifndef READER_PLUG_H
#define READER_PLUG_H

#include <stdbool.h>
#include <stddef.h>

#include "qmp.h"

#define PLUG_DEVICE "htrace"
#define PLUG_MEMORY "htrace-memory"

/* What a VM has. */
struct plug_place {
	bool memory, device; /* of ours are in it, */
	bool same;           /* and the memory is that of the file that was asked for */
	char bus[64];        /* where a device could be put in */
	char type[64];       /* of machine */
	__u64 room;          /* for the device's memory, as far as is known */
	unsigned int vcpus;  /* that there can be */
};

/* Look for what we left, and for a place. 0, or -errno with one line in @err. */
int plug_look(struct qmp *q, const char *file, struct plug_place *p, char *err, size_t errlen);
/* Choose the bus: -ENOSPC says in @err what is missing, and how to add it. */
int plug_find_bus(struct qmp *q, struct plug_place *p, char *err, size_t errlen);
/* Make @file, of @size bytes, the memory of a device on the bus. If that fails nothing of it is left. */
int plug_put(struct qmp *q, const char *file, __u64 size, const struct plug_place *p, char *err, size_t errlen);
/* Take out both, if they are there, and wait for the guest to give the device back: -EBUSY if it does not. */
int plug_take(struct qmp *q, char *err, size_t errlen);

#endif
