// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A tracer of a function that it calls itself: the kernel skips the inner call, and counts it. Each
 * `workload count` call makes one record and one skipped call. A kprobe beside it, whose skipped
 * calls older kernels do not count.
 */
#include <linux/bpf.h>

#include <htrace/htrace.bpf.h>

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

#define GETPGID 121
#define VALUE 424242

struct bpf_map;

struct pt_regs {
	unsigned long di, si;
} __attribute__((preserve_access_index));

struct {
	__uint(type, BPF_MAP_TYPE_HASH);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u32);
} traced SEC(".maps");

struct deleted {
	__u64 count;
};
HTRACE_EVENT(deleted);

struct slept {
	__u64 nothing;
};
HTRACE_EVENT(slept);

SEC("tp_btf/sys_enter")
int BPF_PROG(trigger, struct pt_regs *regs, long nr)
{
	__u32 key = 0;

	if (nr == GETPGID && regs->di == VALUE)
		bpf_map_delete_elem(&traced, &key);
	return 0;
}

SEC("fentry/htab_map_delete_elem")
int BPF_PROG(on_delete, struct bpf_map *map)
{
	struct htrace_slot slot;
	struct deleted *e;
	__u32 key = 0;

	if (map != (void *)&traced)
		return 0;
	e = htrace_begin(deleted, &slot);
	if (e) {
		e->count = 1;
		htrace_end(&slot);
	}
	bpf_map_delete_elem(&traced, &key);
	return 0;
}

SEC("kprobe/hrtimer_nanosleep")
int on_sleep(void *ctx)
{
	struct htrace_slot slot;
	struct slept *e = htrace_begin(slept, &slot);

	if (e) {
		e->nothing = 0;
		htrace_end(&slot);
	}
	return 0;
}
