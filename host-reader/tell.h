/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Telling a guest something of itself: the ring in the host's part of its region (docs/format.md,
 * "What the host tells"). Records are made in memory of our own and copied from there; nothing is
 * read from the region, which the guest can write.
 */
#ifndef READER_TELL_H
#define READER_TELL_H

#include <htrace/region.h>

#define TELL_BATCH 480 /* records between two calls of tell_flush() that the ring is sure to hold */

struct tell;

/* 0, or -ENOMEM. Times are told as ns since @now (CLOCK_MONOTONIC). */
int tell_new(struct tell **out, __u64 now);
/* NULL is allowed. */
void tell_free(struct tell *t);
/* Exit @e, of which guest mode was left @at. One thread. */
void tell_exit(struct tell *t, const struct htrace_told_exit *e, __u64 at);
void tell_total(struct tell *t, const struct htrace_told_total *total, __u64 now);
/*
 * Put what is new into the region's host area @host, and all of it there anew if it is another one
 * than before.
 */
void tell_flush(struct tell *t, struct htrace_host *host, __u64 now);
/* Nothing more will come; what was told stays there. */
void tell_end(struct tell *t, struct htrace_host *host);

#endif
