/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The system calls that are left; see confine.h. */
#ifndef READER_CONFINE_CALLS_H
#define READER_CONFINE_CALLS_H

#include "confine.h"

/* Appends what holds to @said. 0 or -errno. */
int confine_calls(const struct confine_plan *plan, char *said, size_t len);
/* Likewise of the finder. */
int confine_finder_calls(const struct confine_finder_plan *plan);
int confine_keeper_calls(void);
int confine_receiver_calls(bool handed);
int confine_connector_calls(int receiver);

#endif
