/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef AGENT_FOLLOW_H
#define AGENT_FOLLOW_H

#include "agent.h"

/*
 * Show what the host tells this guest of its own exits, until a signal ends it, then a table.
 * Records nothing, and writes nothing into the region. Returns the exit status.
 */
int follow_run(const struct options *o);

#endif
