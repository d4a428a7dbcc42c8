/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef READER_CLOCK_H
#define READER_CLOCK_H

#include "monotonic.h"

/* Host time, ns. */
static inline __u64 clock_now(void)
{
	return monotonic_ns();
}

#endif
