/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Regions made by the library, in files, which the input then spoils. */
#ifndef FUZZ_REGION_H
#define FUZZ_REGION_H

#include <htrace/region.h>

#include "fuzz.h"

#define REGION_SIZE (1u << 20)
#define GUEST_RAM (3ULL << 30) /* nearly all of it a hole; what lies above 2 GiB is at 4 GiB */

/* The last two: rings in guest RAM, and mirrors of them. The others: of threads, one of which died. */
enum shape { SHAPE_OVERWRITE, SHAPE_DISCARD, SHAPE_DIRECT, SHAPE_DIRECT_DISCARD, NR_SHAPES };

struct guest {
	int fd;
	char *mem; /* as the guest has it: writable */
	struct memory memory;
	struct place places[24];
	/* its RAM, a file, and where the rings are in it */
	char ram_path[300], path[300];
	int ram_fd;
	char *space;
	struct memory ram_memory;
	struct place ram_places[12];
};

/* The same in each process: the corpus speaks of it. Made when it is first asked for. */
struct guest *guest_get(enum shape shape);
/* Is it as it was made; and the file of its length. */
void guest_put_back(struct guest *g);

#endif
