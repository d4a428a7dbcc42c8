// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * As counted.bpf.c, and rings the doorbell of peer 0, vector number & 1, with each call, before the
 * record is handed over. The record says what came of it.
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

struct rung {
	__u64 number;
	__s32 result;
};
HTRACE_EVENT(rung);

SEC("tp_btf/sys_enter")
int BPF_PROG(rung, struct pt_regs *regs, long nr)
{
	struct htrace_slot slot;
	struct rung *e;

	if (nr != GETPGID || regs->di != VALUE)
		return 0;
	e = htrace_begin(rung, &slot);
	if (!e)
		return 0;
	e->number = regs->si;
	e->result = htrace_by_module ? htrace_doorbell(0, e->number & 1) : 1;
	htrace_end(&slot);
	return 0;
}
