/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* How the clock of a source's session goes beside the host's: found out while it is read. */
#ifndef READER_SOURCE_CLOCK_H
#define READER_SOURCE_CLOCK_H

#include "host_clock.h"

struct source;

/* A session begins. */
void source_clock_begin(struct source *s, __u64 now);

#endif
