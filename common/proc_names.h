/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Names of the tasks that run, for the region's table. */
#ifndef PROC_NAMES_H
#define PROC_NAMES_H

#include <htrace/region.h>

/*
 * Read the names from /proc and write the table anew. An entry that says what one before it said
 * keeps its time, so that the name holds from when it was first seen.
 */
void proc_names_update(struct htrace_region *r);
void proc_names_free(void);

#endif
