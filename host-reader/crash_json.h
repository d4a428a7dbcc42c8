/* SPDX-License-Identifier: LGPL-2.1-or-later */
#ifndef READER_CRASH_JSON_H
#define READER_CRASH_JSON_H

#include "crash.h"

struct crash_report {
	const struct crash_guest *guest; /* whose session is not over yet */
	const char *end; /* how it is known to have ended, beside its notes; NULL: only by these */
	const struct last_events *const *rings;
	unsigned int nr_rings;
	const char *console; /* its path; NULL, as tail: none is read */
	const struct console_tail *tail;
	struct crash_clock clock;
	/*
	 * CPU time of this thread at which no further ring is begun, and no further event: what a guest recorded can be
	 * more work than others may be kept waiting for. Not time on the clock, as whoever reads may take his.
	 */
	__u64 enough, stop;
};

__u64 crash_work(void);

/* An object, on one line. */
void crash_show_json(struct out *o, const struct crash_report *r);

#endif
