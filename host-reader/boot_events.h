/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * SOURCE bootring: what a guest's kernel writes into the ring of its boot (boot_ring.h) goes into rings of a region of
 * ours, which looks like that of a guest with an agent, so whoever reads that reads this.
 */
#ifndef READER_BOOT_EVENTS_H
#define READER_BOOT_EVENTS_H

#include <stdbool.h>
#include <stddef.h>

#include <htrace/abi.h>

struct boot_events;

struct boot_events_config {
	const char *ram;     /* file of the guest's memory */
	__u64 at, size;      /* of the ring in it */
	const char *formats; /* file: the kernel's format files, one behind the other */
	const char *symbols; /* file: its System.map, or its kallsyms in any boot; NULL: initcalls have no names */
};

/* 0, or -errno with one line in @err, which says what to do. Opens all that it will ever need. */
int boot_events_open(struct boot_events **out, const struct boot_events_config *config, char *err, size_t errlen);
/* A descriptor of the region's memory, the caller's to close; or -errno. */
int boot_events_file(const struct boot_events *b);
/*
 * Take over what is new, as far as the reader makes room for it, if it is time. Returns a line to be said, once
 * each, or NULL.
 */
const char *boot_events_work(struct boot_events *b, __u64 now);
/* The end is near: it is time at once. */
void boot_events_hurry(struct boot_events *b);
/* When it is time again. */
__u64 boot_events_due(const struct boot_events *b);
/* NULL is allowed. After all views of the region. */
void boot_events_close(struct boot_events *b);

#endif
