// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* One function, hooked in three ways, one of which has no context by the usual name. */
#include <linux/bpf.h>
#include <htrace/htrace.bpf.h>
#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "GPL";

struct by_fentry {
	htrace_tid_t tid;
	char tail[]; /* what a struct may end in */
};
HTRACE_EVENT(by_fentry);

SEC("fentry/do_sys_openat2")
int BPF_PROG(on_fentry, int dfd, const char *name)
{
	struct htrace_slot slot;
	struct by_fentry *e = htrace_begin_len(by_fentry, sizeof(*e) + 12, &slot);

	if (!e)
		return 0;
	e->tid = bpf_get_current_pid_tgid();
	__builtin_memcpy(e->tail, "twelve bytes", 12);
	htrace_end(&slot);
	return 0;
}

struct by_kprobe {
	htrace_tid_t tid;
};
HTRACE_EVENT(by_kprobe);

SEC("kprobe/do_sys_openat2")
int on_kprobe(struct pt_regs *ctx)
{
	struct htrace_slot slot;
	struct by_kprobe *e = htrace_begin(by_kprobe, &slot);

	if (!e)
		return 0;
	e->tid = bpf_get_current_pid_tgid();
	htrace_end(&slot);
	return 0;
}

struct by_task {
	htrace_tid_t tid;
};
HTRACE_EVENT(by_task);

SEC("kprobe/do_sys_openat2")
int on_task(struct pt_regs *registers)
{
	struct htrace_slot slot;
	struct by_task *e = htrace_begin(by_task, &slot);

	if (!e)
		return 0;
	e->tid = bpf_get_current_pid_tgid();
	htrace_end(&slot);
	return 0;
}

/* Not asked for: no stacks, in the same object. */
struct without {
	htrace_tid_t tid;
};
HTRACE_EVENT(without);

SEC("fentry/do_sys_openat2")
int BPF_PROG(on_without, int dfd, const char *name)
{
	struct htrace_slot slot;
	struct without *e = htrace_begin(without, &slot);

	if (!e)
		return 0;
	e->tid = bpf_get_current_pid_tgid();
	htrace_end(&slot);
	return 0;
}
