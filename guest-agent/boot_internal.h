/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What boot.c and boot_pages.c share. */
#ifndef AGENT_BOOT_INTERNAL_H
#define AGENT_BOOT_INTERNAL_H

#include "boot.h"
#include "boot_records.h"

#define BOOT_EVENTS 1024 /* kinds of them */

/* What was taken out of a CPU's buffer. */
struct boot_cpu {
	unsigned char *page; /* pages, one behind the other */
	size_t nr, room;
};

struct boot {
	char dir[128]; /* of the buffer, in tracefs */
	struct boot_records *records;
	__u32 type[BOOT_EVENTS];
	size_t nr_types;
	struct boot_cpu *cpu;
	size_t nr_cpus, page_size;
	__u64 *initcall; /* addresses */
	size_t nr_initcalls;
	bool named[BOOT_FUNCTIONS];
	__u64 offset; /* of CLOCK_MONOTONIC from the buffer's clock */
	__u64 until;  /* CLOCK_MONOTONIC: what was before is written */
	__u64 written, lost, unknown;
};

/* boot.c: the functions that b->initcall has the addresses of, some of them more than once. */
int boot_name_initcalls(struct boot *b);

#endif
