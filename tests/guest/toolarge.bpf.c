// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* An event of more fields than a reader takes: refused before anything is loaded. */
#include <linux/bpf.h>

#include <htrace/htrace.bpf.h>

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct huge {
	struct {
		__u8 a, b;
	} pair[2100];
};
HTRACE_EVENT(huge);

SEC("tp_btf/sys_enter")
int BPF_PROG(huge)
{
	return htrace_event__huge.config.id;
}
