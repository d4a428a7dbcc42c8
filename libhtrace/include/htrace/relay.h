/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Relay: mirrors a ring into a region whose memory may be a BAR, for readers that cannot reach the
 * ring itself. The mirror has the ring's geometry, and everything at the ring's own positions;
 * whoever reads it sees what a reader of the ring would have seen, loss included, a little later.
 *
 * One relay per mirror, in one thread. No atomics on the mirror's memory, and no reads from it but
 * by htrace_relay_new() and htrace_relay_handed_over().
 */
#ifndef HTRACE_RELAY_H
#define HTRACE_RELAY_H

#include <htrace/region.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

struct htrace_relay;

/*
 * Mirror @from into ring @index of ring set @set of the region. Goes on where an earlier relay of
 * this mirror ended, wherever that was. -EINVAL: no such ring in the region. -ENOMEM.
 */
int htrace_relay_new(struct htrace_relay **out, struct htrace_region *r, __u32 set, __u32 index,
		     const struct htrace_ring *from);
void htrace_relay_free(struct htrace_relay *m);
/*
 * Mirror what is committed and new. 1: stopped after about @max bytes; 0: nothing is left that is
 * committed; -EILSEQ: the ring is broken. Call htrace_region_fence() after the last of a
 * round: until then the newest may stay in the CPU's write-combining buffers.
 */
int htrace_relay_copy(struct htrace_relay *m, __u64 max);
/* Position up to which the ring is mirrored. */
__u64 htrace_relay_position(const struct htrace_relay *m);
/* Tell readers to go on in the ring itself; and take that back. */
void htrace_relay_hand_over(struct htrace_relay *m);
void htrace_relay_resume(struct htrace_relay *m);
/* Was it handed over, by this relay or one before? */
bool htrace_relay_handed_over(const struct htrace_relay *m);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
