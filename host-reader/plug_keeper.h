/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process beside the reader that has the connection to a VM's monitor, and is the only one that reads from it.
 * Whoever has such a connection can have QEMU open files and start programs, so a reader must not have it;
 * the keeper does with it what it is asked for here, and nothing else. It has no rights but its two sockets.
 *
 * A reader that is killed leaves the device where it is, for the next one: its keeper ends with it.
 */
#ifndef READER_PLUG_KEEPER_H
#define READER_PLUG_KEEPER_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/types.h>

struct plug_keeper;

/* What was found. */
struct plug_found {
	bool ours;      /* a device with the file's memory is in the VM: it can be gone on with */
	__u64 room;     /* for memory of a new one */
	unsigned int vcpus;
};

enum plug_news {
	PLUG_NOTHING,
	PLUG_TAKEN, /* the device is gone from the VM, by somebody else's doing or the guest's */
	PLUG_LOST,  /* so is the monitor, and mostly the VM */
};

/* Connect to the monitor at @path. A descriptor, or -errno with one line in @err. */
int plug_connect(const char *path, char *err, size_t errlen);
/* Start it, with a connection (which becomes its own), for a device with the memory of @file. 0, or -errno. */
int plug_keeper_start(struct plug_keeper **out, int monitor, const char *file);
/*
 * Look what is in the VM. What we left there is taken out, unless @have_file, and it is that file's: then it is
 * gone on with. 0, or -errno with one line in @err.
 */
int plug_keeper_look(struct plug_keeper *k, bool have_file, struct plug_found *found, char *err, size_t errlen);
/* Plug in a new one of @size. */
int plug_keeper_put(struct plug_keeper *k, __u64 size, char *err, size_t errlen);
/* Take it out. */
int plug_keeper_take(struct plug_keeper *k, char *err, size_t errlen);
/* Does not wait. */
enum plug_news plug_keeper_news(struct plug_keeper *k);
/* NULL is allowed. The device stays, unless it was taken out. */
void plug_keeper_end(struct plug_keeper *k);

#endif
