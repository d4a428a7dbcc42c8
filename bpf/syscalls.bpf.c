// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * System calls. Those that a process makes through the machine's 32-bit entry are events of their
 * own (compat_*), since their numbers mean other calls.
 */
#include "htrace.bpf.h"
#include "kernel_types.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Readers have the names of x86-64's calls only: elsewhere a number is better than a wrong name. */
#ifdef __TARGET_ARCH_x86
#define SYSCALL_NR htrace_syscall_t
#else
#define SYSCALL_NR __s32
#endif

struct sys_enter {
	htrace_tid_t tid;
	SYSCALL_NR nr;
	htrace_hex_t args[6];
};
HTRACE_EVENT(sys_enter);

struct sys_exit {
	htrace_tid_t tid;
	SYSCALL_NR nr;
	__s64 ret;
};
HTRACE_EVENT(sys_exit);

#ifdef __TARGET_ARCH_x86
#define TS_COMPAT 2

struct compat_sys_enter {
	htrace_tid_t tid;
	__s32 nr;
	htrace_hex_t args[6];
};
HTRACE_EVENT(compat_sys_enter);

struct compat_sys_exit {
	htrace_tid_t tid;
	__s32 nr;
	__s64 ret;
};
HTRACE_EVENT(compat_sys_exit);

static __always_inline bool is_compat(void)
{
	return bpf_get_current_task_btf()->thread_info.status & TS_COMPAT;
}

static __always_inline void compat_enter(struct pt_regs *regs, long id)
{
	struct htrace_slot slot;
	struct compat_sys_enter *e = htrace_begin(compat_sys_enter, &slot);

	if (!e)
		return;
	e->tid = bpf_get_current_pid_tgid();
	e->nr = id;
	e->args[0] = regs->bx;
	e->args[1] = regs->cx;
	e->args[2] = regs->dx;
	e->args[3] = regs->si;
	e->args[4] = regs->di;
	e->args[5] = regs->bp;
	htrace_end(&slot);
}

static __always_inline void compat_exit(struct pt_regs *regs, long ret)
{
	struct htrace_slot slot;
	struct compat_sys_exit *e = htrace_begin(compat_sys_exit, &slot);

	if (!e)
		return;
	e->tid = bpf_get_current_pid_tgid();
	e->nr = regs->orig_ax;
	e->ret = ret;
	htrace_end(&slot);
}

static __always_inline void get_args(struct pt_regs *regs, __u64 *args)
{
	args[0] = regs->di;
	args[1] = regs->si;
	args[2] = regs->dx;
	args[3] = regs->r10;
	args[4] = regs->r8;
	args[5] = regs->r9;
}

static __always_inline __s32 get_nr(struct pt_regs *regs)
{
	return regs->orig_ax;
}
#endif /* x86 */

#ifdef __TARGET_ARCH_arm64
/* 32-bit calls are not told apart here. */
static __always_inline bool is_compat(void)
{
	return false;
}

static __always_inline void compat_enter(struct pt_regs *regs, long id)
{
}
static __always_inline void compat_exit(struct pt_regs *regs, long ret)
{
}

static __always_inline void get_args(struct pt_regs *regs, __u64 *args)
{
	args[0] = regs->orig_x0;
	for (int i = 1; i < 6; i++)
		args[i] = regs->regs[i];
}

static __always_inline __s32 get_nr(struct pt_regs *regs)
{
	return regs->syscallno;
}
#endif /* arm64 */

SEC("tp_btf/sys_enter")
int BPF_PROG(sys_enter, struct pt_regs *regs, long id)
{
	struct htrace_slot slot;
	struct sys_enter *e;

	if (is_compat()) {
		compat_enter(regs, id);
		return 0;
	}
	e = htrace_begin(sys_enter, &slot);
	if (!e)
		return 0;
	e->tid = bpf_get_current_pid_tgid();
	e->nr = id;
	get_args(regs, e->args);
	htrace_end(&slot);
	return 0;
}

SEC("tp_btf/sys_exit")
int BPF_PROG(sys_exit, struct pt_regs *regs, long ret)
{
	struct htrace_slot slot;
	struct sys_exit *e;

	if (is_compat()) {
		compat_exit(regs, ret);
		return 0;
	}
	e = htrace_begin(sys_exit, &slot);
	if (!e)
		return 0;
	e->tid = bpf_get_current_pid_tgid();
	e->nr = get_nr(regs);
	e->ret = ret;
	htrace_end(&slot);
	return 0;
}
