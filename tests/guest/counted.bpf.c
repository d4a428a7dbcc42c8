// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Records only what `workload count N VALUE` calls, with the workload's own number: so a test knows
 * from outside the ring what was produced, on which CPU, and which records are missing.
 */
#include <linux/bpf.h>

#include <htrace/htrace.bpf.h>

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define GETPGID 121
#define VALUE 424242

struct pt_regs {
	unsigned long di, si;
} __attribute__((preserve_access_index));

struct counted {
	__u64 number;
};
HTRACE_EVENT(counted);

SEC("tp_btf/sys_enter")
int BPF_PROG(counted, struct pt_regs *regs, long nr)
{
	struct htrace_slot slot;
	struct counted *e;

	if (nr != GETPGID || regs->di != VALUE)
		return 0;
	e = htrace_begin(counted, &slot);
	if (!e)
		return 0;
	e->number = regs->si;
	htrace_end(&slot);
	return 0;
}
