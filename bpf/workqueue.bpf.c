// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Workqueues: work that is queued, becomes ready, and runs. */
#include "hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct workqueue_queue_work {
	htrace_ptr_t work;
	htrace_ptr_t function;
	__s32 req_cpu;
};
ON(workqueue_queue_work, "workqueue_queue_work",
   (int req_cpu, void *pwq, struct work_struct *work), {
	e->work = (__u64)work;
	e->function = (__u64)work->func;
	e->req_cpu = req_cpu;
})

struct workqueue_activate_work {
	htrace_ptr_t work;
};
ON(workqueue_activate_work, "workqueue_activate_work", (struct work_struct * work), {
	e->work = (__u64)work;
})

struct workqueue_execute_start {
	htrace_ptr_t work;
	htrace_ptr_t function;
};
ON(workqueue_execute_start, "workqueue_execute_start", (struct work_struct * work), {
	e->work = (__u64)work;
	e->function = (__u64)work->func;
})

/* The work may be freed by now: its address is all that may be looked at. */
struct workqueue_execute_end {
	htrace_ptr_t work;
	htrace_ptr_t function;
};
ON(workqueue_execute_end, "workqueue_execute_end", (struct work_struct * work), {
	e->work = (__u64)work;
	e->function = 0;
	/* The second argument, a function, which the verifier lets nobody load directly. */
	bpf_probe_read_kernel(&e->function, sizeof(e->function), ctx + 1);
})
