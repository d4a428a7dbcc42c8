// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Scheduler events: what runs, what is woken, and what tasks come, go and are called. Fields
 * have the meaning of the kernel's own trace events of the same name.
 */
#include "htrace.bpf.h"
#include "htrace_pack.bpf.h"
#include "kernel_types.h"

#include <bpf/bpf_tracing.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Bits of task states, from the kernel's include/linux/sched.h (6.1 and 6.12 agree). */
#define TASK_UNINTERRUPTIBLE 0x0002
#define TASK_REPORT 0x007f
#define TASK_REPORT_IDLE (TASK_REPORT + 1)
#define TASK_REPORT_MAX (TASK_REPORT_IDLE << 1)
#define TASK_NOLOAD 0x0400
#define TASK_IDLE (TASK_UNINTERRUPTIBLE | TASK_NOLOAD)
#define TASK_RTLOCK_WAIT 0x1000
#define TASK_FROZEN 0x8000

struct sched_switch { /* as struct htrace_switch */
	htrace_tid_t prev_tid;
	htrace_tid_t next_tid;
	__s16 prev_prio;
	__s16 next_prio;
	htrace_task_state_t prev_state;
};
HTRACE_EVENT(sched_switch);

/* The state as sched_switch reports it: the highest bit that concerns tools, or "preempted". */
static __always_inline __u32 report_state(bool preempt, __u32 state, __u32 exit_state)
{
	__u32 bits = (state | exit_state) & TASK_REPORT;

	if (preempt)
		return TASK_REPORT_MAX;
	if ((state & TASK_IDLE) == TASK_IDLE)
		bits = TASK_REPORT_IDLE;
	if (state & (TASK_RTLOCK_WAIT | TASK_FROZEN))
		bits = TASK_UNINTERRUPTIBLE;
	bits |= bits >> 1;
	bits |= bits >> 2;
	bits |= bits >> 4;
	return bits - (bits >> 1);
}

#define FILL_SWITCH(e)                                                                  \
	do {                                                                            \
		(e)->prev_tid = prev->pid;                                              \
		(e)->next_tid = next->pid;                                              \
		(e)->prev_prio = prev->prio;                                            \
		(e)->next_prio = next->prio;                                            \
		(e)->prev_state = report_state(preempt, prev_state, prev->exit_state);  \
	} while (0)

SEC("tp_btf/sched_switch")
int BPF_PROG(sched_switch, bool preempt, struct task_struct *prev, struct task_struct *next,
	     unsigned int prev_state)
{
	struct htrace_slot slot;
	struct sched_switch *e;

	if (htrace_packs) {
		struct htrace_switch packed;

		FILL_SWITCH(&packed);
		htrace_pack_event(sched_switch, &packed);
		return 0;
	}
	e = htrace_begin(sched_switch, &slot);
	if (!e)
		return 0;
	FILL_SWITCH(e);
	htrace_end(&slot);
	return 0;
}

/* Three events of one shape: the waker's view, the woken task being runnable, a new task. */
#define WAKEUP_EVENT(name)                                  \
	struct name {                                       \
		htrace_tid_t tid;                           \
		__s16 prio;                                 \
		__u16 target_cpu;                           \
	};                                                  \
	HTRACE_EVENT(name);                                 \
                                                            \
	SEC("tp_btf/" #name)                                \
	int BPF_PROG(name, struct task_struct *p)           \
	{                                                   \
		struct htrace_slot slot;                    \
		struct name *e = htrace_begin(name, &slot); \
                                                            \
		if (!e)                                     \
			return 0;                           \
		e->tid = p->pid;                            \
		e->prio = p->prio;                          \
		e->target_cpu = p->thread_info.cpu;         \
		htrace_end(&slot);                          \
		return 0;                                   \
	}

WAKEUP_EVENT(sched_waking)
WAKEUP_EVENT(sched_wakeup)
WAKEUP_EVENT(sched_wakeup_new)

/*
 * Names go into the reader's table of tasks through the three events below (and the agent's list
 * of tasks that already ran), not into every record. tid is a thread's id, pid its process's.
 */
struct sched_process_fork {
	htrace_tid_t parent_tid;
	htrace_tid_t parent_pid;
	htrace_tid_t child_tid;
	htrace_tid_t child_pid;
	char child_comm[16];
};
HTRACE_EVENT(sched_process_fork);

SEC("tp_btf/sched_process_fork")
int BPF_PROG(sched_process_fork, struct task_struct *parent, struct task_struct *child)
{
	struct htrace_slot slot;
	struct sched_process_fork *e = htrace_begin(sched_process_fork, &slot);

	if (!e)
		return 0;
	e->parent_tid = parent->pid;
	e->parent_pid = parent->tgid;
	e->child_tid = child->pid;
	e->child_pid = child->tgid;
	__builtin_memcpy(e->child_comm, child->comm, sizeof(e->child_comm));
	htrace_end(&slot);
	return 0;
}

struct task_rename {
	htrace_tid_t tid;
	htrace_tid_t pid;
	char comm[16]; /* the new name */
};
HTRACE_EVENT(task_rename);

SEC("tp_btf/task_rename")
int BPF_PROG(task_rename, struct task_struct *task, const char *comm)
{
	struct htrace_slot slot;
	struct task_rename *e = htrace_begin(task_rename, &slot);

	if (!e)
		return 0;
	e->tid = task->pid;
	e->pid = task->tgid;
	__builtin_memset(e->comm, 0, sizeof(e->comm));
	bpf_probe_read_kernel_str(e->comm, sizeof(e->comm), comm);
	htrace_end(&slot);
	return 0;
}

#define EXEC_FILENAME_MAX 1024 /* with its NUL; longer ones are cut */

struct sched_process_exec {
	htrace_tid_t tid;
	htrace_tid_t old_tid; /* another one if a thread other than the first called exec */
	char comm[16];
	char filename[];
};
HTRACE_EVENT(sched_process_exec);

/* The name's length must be known before the record is reserved. exec does not nest on a CPU. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, char[EXEC_FILENAME_MAX]);
} exec_filename SEC(".maps");

SEC("tp_btf/sched_process_exec")
int BPF_PROG(sched_process_exec, struct task_struct *p, int old_pid, struct linux_binprm *bprm)
{
	struct sched_process_exec *e;
	struct htrace_slot slot;
	__u32 zero = 0;
	char *name;
	long len;

	name = bpf_map_lookup_elem(&exec_filename, &zero);
	if (!name)
		return 0;
	len = bpf_probe_read_kernel_str(name, EXEC_FILENAME_MAX, bprm->filename);
	if (len < 1) {
		name[0] = 0;
		len = 1;
	}
	e = htrace_begin_len(sched_process_exec, sizeof(*e) + len, &slot);
	if (!e)
		return 0;
	e->tid = p->pid;
	e->old_tid = old_pid;
	__builtin_memcpy(e->comm, p->comm, sizeof(e->comm));
	/* The verifier has forgotten the bound by now. */
	bpf_probe_read_kernel(e->filename, ((len - 1) & (EXEC_FILENAME_MAX - 1)) + 1, name);
	htrace_end(&slot);
	return 0;
}

struct sched_process_exit {
	htrace_tid_t tid;
	__s32 prio;
};
HTRACE_EVENT(sched_process_exit);

SEC("tp_btf/sched_process_exit")
int BPF_PROG(sched_process_exit, struct task_struct *p)
{
	struct htrace_slot slot;
	struct sched_process_exit *e = htrace_begin(sched_process_exit, &slot);

	if (!e)
		return 0;
	e->tid = p->pid;
	e->prio = p->prio;
	htrace_end(&slot);
	return 0;
}
