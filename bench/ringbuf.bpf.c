// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The usual way, for comparison: the same event through a BPF ring buffer to an agent. */
#include <linux/bpf.h>

#include <bpf/bpf_helpers.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct pt_regs {
	unsigned long di, si, dx, r10, r8, r9;
} __attribute__((preserve_access_index));

struct record { /* what the direct record holds: 8 bytes of header, sys_enter's payload */
	__u64 time;
	__u32 tid;
	__s32 nr;
	__u64 args[6];
};

struct {
	__uint(type, BPF_MAP_TYPE_RINGBUF);
	__uint(max_entries, 4 << 20);
} records SEC(".maps");

const volatile __u64 submit_flags; /* 0, or BPF_RB_NO_WAKEUP */
__u64 dropped;

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter, struct pt_regs *regs, long nr)
{
	struct record *r = bpf_ringbuf_reserve(&records, sizeof(*r), 0);

	if (!r) {
		__sync_fetch_and_add(&dropped, 1);
		return 0;
	}
	r->time = bpf_ktime_get_ns();
	r->tid = (__u32)bpf_get_current_pid_tgid();
	r->nr = (__s32)nr;
	r->args[0] = regs->di;
	r->args[1] = regs->si;
	r->args[2] = regs->dx;
	r->args[3] = regs->r10;
	r->args[4] = regs->r8;
	r->args[5] = regs->r9;
	bpf_ringbuf_submit(r, submit_flags);
	return 0;
}
