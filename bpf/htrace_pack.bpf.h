/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Switches of tasks in fewer bytes (guest-agent --compress). For tracers whose program runs on what
 * tp_btf/sched_switch does, with interrupts off: see pack.h.
 */
#ifndef HTRACE_PACK_BPF_H
#define HTRACE_PACK_BPF_H

#include "htrace.bpf.h"

#include <htrace/pack.h>

/*
 * Set by the agent before loading: event sched_switch is packed. Not where its records are made aside (for a filter,
 * for the kernel module), or begin with stacks.
 */
const volatile __u32 htrace_packs;

/* Record @e, a struct htrace_switch *, as event @name, if htrace_packs says so. */
#define htrace_pack_event(name, e)                                                                    \
	do {                                                                                          \
		struct htrace_ring *ring_ = htrace_this_ring();                                       \
		if (ring_)                                                                            \
			htrace_record_switch(ring_, (&(const struct htrace_geometry)HTRACE_GEOMETRY_QUICK), \
					     (&(const struct htrace_geometry)HTRACE_GEOMETRY),        \
					     &ring_->consumed, htrace_event__##name.config.id, (e),   \
					     htrace_schema_gen, bpf_ktime_get_ns());                  \
	} while (0)

#endif /* HTRACE_PACK_BPF_H */
