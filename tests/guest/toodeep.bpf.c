// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* An event of types that are nested too deep for a reader: refused before anything is loaded. */
#include <linux/bpf.h>

#include <htrace/htrace.bpf.h>

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define NEST(outer, inner) \
	struct outer {     \
		inner in;  \
	}
NEST(a, __u32);
NEST(b, struct a);
NEST(c, struct b);
NEST(d, struct c);
NEST(e, struct d);
NEST(f, struct e);
NEST(g, struct f);
NEST(h, struct g);
NEST(deep, struct h);
HTRACE_EVENT(deep);

SEC("tp_btf/sys_enter")
int BPF_PROG(deep)
{
	return htrace_event__deep.config.id;
}
