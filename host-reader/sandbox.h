/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Confining the reader by what its command line needs. */
#ifndef READER_SANDBOX_H
#define READER_SANDBOX_H

#include "options.h"
#include "sink.h"
#include "source.h"

/*
 * All that the command line names is open: give up what reading does not need. 0, or after having said
 * why, 1. Ends at sandbox_leave(), which is called in any case, and last.
 */
int sandbox_enter(const struct options *o, const struct sinks *sinks, struct source *source, unsigned int nr);
void sandbox_leave(void);

#endif
