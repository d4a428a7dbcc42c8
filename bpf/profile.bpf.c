// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What CPUs do, looked at so many times a second: the agent attaches this to a timer event of each
 * CPU, and always has stacks recorded with it. They are those of what the timer interrupted.
 */
#define HTRACE_NO_MODULE /* not for this type of program */
#include "htrace.bpf.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct profile {
	htrace_tid_t tid;
	htrace_tid_t pid;
};
HTRACE_EVENT(profile);

SEC("perf_event")
int profile(void *ctx)
{
	__u64 ids = bpf_get_current_pid_tgid();
	struct htrace_slot slot;
	struct profile *e = htrace_begin(profile, &slot);

	if (!e)
		return 0;
	e->tid = ids;
	e->pid = ids >> 32;
	htrace_end(&slot);
	return 0;
}
