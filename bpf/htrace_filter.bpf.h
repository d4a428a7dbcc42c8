/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Records that are looked at before they take room in the ring (guest-agent --filter), or that the
 * kernel module puts there (--mode module). Included by htrace.bpf.h; nothing in here is for tracers
 * to use.
 *
 * The agent makes the filter: before a program is loaded it replaces constants and instructions at
 * marked places. A program that it leaves as it is goes the ordinary way, and the verifier removes
 * everything in here but one `r0 = constant` before and one behind each record.
 */
#ifndef HTRACE_FILTER_BPF_H
#define HTRACE_FILTER_BPF_H

#include "htrace_filter_marks.h"

/* Where a record is while nobody knows whether it is wanted. */
struct htrace_filter_scratch {
	__u64 pid_tgid;
	__u32 cpu;
	__u32 stack; /* as in struct htrace_event_config */
	char comm[16];
	__u64 reserved2[4];
	char record[HTRACE_FILTER_RECORD];
};

/*
 * One element per program that filters: on one CPU a program may be preempted by others, but not by
 * itself. The agent sets the size, or leaves the map out.
 */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct htrace_filter_scratch);
} htrace_filter_scratch SEC(".maps");

/* Has the agent set this mark? */
#define HTRACE_FILTER_MARKED(name, mark)                                          \
	HTRACE_INLINE int name(void)                                              \
	{                                                                         \
		__asm__ goto("r0 = %0\n\tif r0 == 1 goto %l[yes]" : : "i"(mark)   \
			     : "r0" : yes);                                       \
		return 0;                                                         \
	yes:                                                                      \
		return 1;                                                         \
	}
HTRACE_FILTER_MARKED(htrace_filter_ends, HTRACE_FILTER_END)
HTRACE_FILTER_MARKED(htrace_filter_wants_task, HTRACE_FILTER_TASK)
HTRACE_FILTER_MARKED(htrace_filter_wants_comm, HTRACE_FILTER_COMM)
HTRACE_FILTER_MARKED(htrace_filter_wants_cpu, HTRACE_FILTER_CPU)
HTRACE_FILTER_MARKED(htrace_filter_wants_stack, HTRACE_FILTER_STACK)

HTRACE_INLINE int htrace_filter_begins(const int event)
{
	__asm__ goto("r0 = %0\n\tif r0 == 1 goto %l[yes]" : : "i"(HTRACE_FILTER_BEGIN + event)
		     : "r0" : yes);
	return 0;
yes:
	return 1;
}

/*
 * Room for @len bytes that htrace_filter_end() will find again through @slot, which has no
 * reservation yet and so has room to say where.
 */
HTRACE_INLINE void *htrace_filter_begin(__u32 event, const volatile struct htrace_event_config *c,
					__u32 len, struct htrace_slot *slot)
{
	__u32 stack = c->stack, front = stack ? sizeof(struct htrace_stack_ids) : 0, key;
	struct htrace_filter_scratch *s;
	struct htrace_ring *ring;

	len += front;
	__asm__ volatile("%0 = %1" : "=r"(key) : "i"(HTRACE_FILTER_ELEMENT));
	s = bpf_map_lookup_elem(&htrace_filter_scratch, &key);
	if (s && len <= HTRACE_FILTER_RECORD) {
		slot->commit = (__u64 *)s;
		slot->add = (__u64)len << 32 | event << 16 | (c->id & 0xffff);
		s->stack = stack;
		return s->record + front;
	}
	if (htrace_by_module) {
		htrace_refuse();
		return 0;
	}
	ring = htrace_this_ring();
	if (ring) {
		htrace_add(&ring->refused, 1);
		htrace_ring_drop(ring);
	}
	return 0;
}

/* The agent's instructions. */
HTRACE_INLINE __u64 htrace_filter_passes(const struct htrace_filter_scratch *s, __u64 event)
{
	register __u64 result __asm__("r0");
	register const struct htrace_filter_scratch *r1 __asm__("r1") = s;
	register __u64 r2 __asm__("r2") = event;

	__asm__ volatile("%0 = %3\n\t"
			 ".rept %4\n\t"
			 "goto +0\n\t"
			 ".endr"
			 : "=r"(result), "+r"(r1), "+r"(r2)
			 : "i"(HTRACE_FILTER_WINDOW), "i"(HTRACE_FILTER_INSNS)
			 : "r3", "r4", "r5", "memory");
	return result;
}

/* Stacks are unwound for what passes only. */
HTRACE_INLINE void htrace_filter_add_stacks(void *from, struct htrace_filter_scratch *s)
{
	struct htrace_stack_ids *ids = (struct htrace_stack_ids *)s->record;

	ids->kernel = htrace_stack_id(from, s->stack, 0);
	ids->user = htrace_stack_id(from, s->stack, 1);
}

/* @from: the program's context, or NULL. */
HTRACE_INLINE void htrace_filter_end(void *from, struct htrace_slot *slot)
{
	struct htrace_filter_scratch *s = (void *)slot->commit;
	__u64 len = slot->add >> 32;
	struct htrace_ring *ring;
	struct htrace_slot real;
	void *to;

	if (htrace_filter_wants_task())
		s->pid_tgid = bpf_get_current_pid_tgid();
	if (htrace_filter_wants_comm())
		bpf_get_current_comm(s->comm, sizeof(s->comm));
	if (htrace_filter_wants_cpu())
		s->cpu = bpf_get_smp_processor_id();
	if (!htrace_filter_passes(s, slot->add >> 16 & 0xffff))
		return;
	if (htrace_filter_wants_stack() && s->stack)
		htrace_filter_add_stacks(from, s);
	if (htrace_by_module) {
		if (len <= HTRACE_FILTER_RECORD)
			htrace_write(slot->add & 0xffff, htrace_schema_gen, s->record, len);
		return;
	}
	ring = htrace_this_ring();
	if (!ring)
		return;
	__asm__ volatile("" : "+r"(len)); /* the bound must be of the register that is used below */
	if (len > HTRACE_FILTER_RECORD)
		return;
	to = htrace_reserve_with(0, ring, (&(const struct htrace_geometry)HTRACE_GEOMETRY_QUICK),
				 (&(const struct htrace_geometry)HTRACE_GEOMETRY), &ring->consumed,
				 slot->add & 0xffff, len, htrace_schema_gen, bpf_ktime_get_ns(),
				 &real);
	if (!to)
		return;
	bpf_probe_read_kernel(to, len, s->record);
	htrace_commit(&real);
}

#endif /* HTRACE_FILTER_BPF_H */
