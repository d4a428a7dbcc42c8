// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * A BPF event with more than the arguments of a function: how long each open of a file took, what
 * came of it, and which file. Two programs, a map between them, text in the event.
 *
 *	clang -O2 -g -target bpf -mcpu=v3 $(pkg-config --cflags libhtrace) \
 *	      -idirafter /usr/include/$(gcc -print-multiarch) -c open-latency.bpf.c -o open-latency.bpf.o
 *	guest-agent --bpf open-latency.bpf.o                                       # in the guest
 *	guest-agent --bpf open-latency.bpf.o --filter 'ns > 1000000 || fd < 0'     # or: what matters
 *	host-reader --events open_latency ivshmem:/dev/shm/myvm.htrace             # on the host
 */
#include <linux/bpf.h>

#include <htrace/htrace.bpf.h>

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* The host learns this from the object's BTF. */
struct open_latency {
	__u64 ns;
	htrace_tid_t tid;
	__s32 fd; /* or -errno */
	char path[64]; /* as far as it fits */
};
HTRACE_EVENT(open_latency);

/* When a task's open began. LRU: an entry whose exit was never seen makes room for others. */
struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, 8192);
	__type(key, __u32);
	__type(value, __u64);
} starts SEC(".maps");

SEC("fentry/do_sys_openat2")
int BPF_PROG(open_begins)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 now = bpf_ktime_get_ns();

	bpf_map_update_elem(&starts, &tid, &now, BPF_ANY);
	return 0;
}

SEC("fexit/do_sys_openat2")
int BPF_PROG(open_ends, int dfd, const char *name, void *how, long ret)
{
	__u32 tid = (__u32)bpf_get_current_pid_tgid();
	__u64 now = bpf_ktime_get_ns(), *start = bpf_map_lookup_elem(&starts, &tid);
	struct htrace_slot slot;
	struct open_latency *e;

	if (!start) /* began before we came */
		return 0;
	/* As late as possible: nothing may fail between htrace_begin() and htrace_end(). */
	e = htrace_begin(open_latency, &slot);
	if (e) { /* else there was no room, which is counted */
		e->ns = now - *start;
		e->tid = tid;
		e->fd = (__s32)ret;
		/* Here, not at the entry: the kernel has just read the name, so its page is there. */
		if (bpf_probe_read_user_str(e->path, sizeof(e->path), name) < 0)
			e->path[0] = 0; /* every byte that is shown must be written */
		htrace_end(&slot);
	}
	bpf_map_delete_elem(&starts, &tid);
	return 0;
}
