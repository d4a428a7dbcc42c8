// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * One event, recorded in the ways that bench/bpf-push compares, and part by part as bench/components does: a system
 * call that they make, with its own number in an argument. Each program decides alike whether a call is one of those.
 */
#include <linux/bpf.h>

#include "htrace.bpf.h"
#include "htrace_pack.bpf.h"

#include <bpf/bpf_tracing.h>

#include "bpf-push.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct pt_regs {
	unsigned long di, si, dx, r10, r8, r9;
} __attribute__((preserve_access_index));

struct pushed {
	__u64 number;
	__u64 nr;
};
HTRACE_EVENT(pushed);

struct bare {
};
HTRACE_EVENT(bare);

struct large { /* as many bytes as sys_enter's */
	__u64 number;
	__u64 args[6];
};
HTRACE_EVENT(large);

struct switched { /* as struct htrace_switch */
	__u32 prev_tid, next_tid;
	__s16 prev_prio, next_prio;
	__u32 prev_state;
};
HTRACE_EVENT(switched);

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, PUSH_RING);
} ringbuf SEC(".maps");

struct {
	__uint(type, BPF_MAP_TYPE_PERF_EVENT_ARRAY);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, sizeof(__u32));
} perf_events SEC(".maps");

__u64 ringbuf_dropped;
__u64 perf_dropped;

static __always_inline int is_ours(const struct pt_regs *regs)
{
	return regs->di == PUSH_MAGIC;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(empty)
{
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(test, struct pt_regs *regs, long nr)
{
	return is_ours(regs); /* nobody asks for it */
}

SEC("tp_btf/sys_enter")
int BPF_PROG(clock_only, struct pt_regs *regs, long nr)
{
	if (is_ours(regs))
		bpf_ktime_get_ns();
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(htrace, struct pt_regs *regs, long nr)
{
	struct htrace_slot slot;
	struct pushed *e;

	if (!is_ours(regs))
		return 0;
	e = htrace_begin(pushed, &slot);
	if (!e)
		return 0;
	e->number = regs->si;
	e->nr = nr;
	htrace_end(&slot);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(htrace_bare, struct pt_regs *regs, long nr)
{
	struct htrace_slot slot;

	if (is_ours(regs) && htrace_begin(bare, &slot))
		htrace_end(&slot);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(htrace_large, struct pt_regs *regs, long nr)
{
	struct htrace_slot slot;
	struct large *e = is_ours(regs) ? htrace_begin(large, &slot) : 0;

	if (!e)
		return 0;
	*e = (struct large){ regs->si, { regs->di, regs->si, regs->dx, regs->r10, regs->r8, regs->r9 } };
	htrace_end(&slot);
	return 0;
}

/* As if each call switched to another task: in full, and packed. */
#define FILL_SWITCH(e, number)                  \
	do {                                    \
		(e)->prev_tid = (number) - 1;   \
		(e)->next_tid = (number);       \
		(e)->prev_prio = PUSH_PRIO;     \
		(e)->next_prio = PUSH_PRIO;     \
		(e)->prev_state = (number) & 2; \
	} while (0)

SEC("tp_btf/sys_enter")
int BPF_PROG(switch_full, struct pt_regs *regs, long nr)
{
	struct htrace_slot slot;
	struct switched *e;

	if (!is_ours(regs))
		return 0;
	e = htrace_begin(switched, &slot);
	if (!e)
		return 0;
	FILL_SWITCH(e, regs->si);
	htrace_end(&slot);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(switch_packed, struct pt_regs *regs, long nr)
{
	struct htrace_switch e;

	if (!is_ours(regs))
		return 0;
	FILL_SWITCH(&e, regs->si);
	htrace_pack_event(switched, &e);
	return 0;
}

static __always_inline int into_ringbuf(const struct pt_regs *regs, long nr, __u64 flags)
{
	struct push_record *r;

	if (!is_ours(regs))
		return 0;
	r = bpf_ringbuf_reserve(&ringbuf, sizeof(*r), 0);
	if (!r) {
		__sync_fetch_and_add(&ringbuf_dropped, 1);
		return 0;
	}
	r->time = bpf_ktime_get_ns();
	r->number = regs->si;
	r->nr = nr;
	bpf_ringbuf_submit(r, flags);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(ringbuf_wakes, struct pt_regs *regs, long nr)
{
	return into_ringbuf(regs, nr, 0);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(ringbuf_quiet, struct pt_regs *regs, long nr)
{
	return into_ringbuf(regs, nr, BPF_RB_NO_WAKEUP);
}

SEC("tp_btf/sys_enter")
int BPF_PROG(perf_buffer, struct pt_regs *regs, long nr)
{
	struct push_record r;

	if (!is_ours(regs))
		return 0;
	r.time = bpf_ktime_get_ns();
	r.number = regs->si;
	r.nr = nr;
	if (bpf_perf_event_output(ctx, &perf_events, BPF_F_CURRENT_CPU, &r, sizeof(r)))
		__sync_fetch_and_add(&perf_dropped, 1);
	return 0;
}
