// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What ../bpf/kvm_exit.bpf.c does at each exit and entry, at each system call that bench/exit-cost
 * makes, since that comes at any rate on any machine. The call's fourth argument is the virtual CPU.
 */
#include "../bpf/kvm_epoch.bpf.h"

#include <bpf/bpf_tracing.h>

#include "exit-cost.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct pt_regs {
	unsigned long di, r10;
} __attribute__((preserve_access_index));

SEC("tp_btf/sys_enter")
int BPF_PROG(empty_exit)
{
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(empty_entry)
{
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_exit, struct pt_regs *regs, long nr)
{
	if (regs->di == EXIT_MAGIC)
		vcpu_left((__u32)regs->r10);
	return 0;
}

SEC("tp_btf/sys_enter")
int BPF_PROG(on_entry, struct pt_regs *regs, long nr)
{
	if (regs->di == EXIT_MAGIC)
		vcpu_entered((__u32)regs->r10);
	return 0;
}
