// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* A tracer that the verifier must refuse: it takes a number for an address. */
#include <linux/bpf.h>

#include <htrace/htrace.bpf.h>

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct refused {
	__u64 number;
};
HTRACE_EVENT(refused);

SEC("tp_btf/sys_enter")
int BPF_PROG(unchecked, void *regs, long nr)
{
	struct htrace_slot slot;
	struct refused *e = htrace_begin(refused, &slot);

	if (!e)
		return 0;
	e->number = *(volatile __u64 *)nr; /* the reason */
	htrace_end(&slot);
	return 0;
}
