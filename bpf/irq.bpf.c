// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Interrupts, soft interrupts and tasklets: when they run, and what asked for them. */
#include "hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct irq_handler_entry {
	__s32 irq;
	char name[28]; /* of the handler's device; longer ones are cut */
};
ON(irq_handler_entry, "irq_handler_entry", (int irq, struct irqaction *action), {
	e->irq = irq;
	__builtin_memset(e->name, 0, sizeof(e->name));
	bpf_probe_read_kernel_str(e->name, sizeof(e->name), action->name);
})

struct irq_handler_exit {
	__s32 irq;
	__s32 ret; /* 1: handled, 0: not, 2: its thread was woken */
};
ON(irq_handler_exit, "irq_handler_exit", (int irq, struct irqaction *action, int ret), {
	e->irq = irq;
	e->ret = ret;
})

struct irq_softirq_raise {
	__u32 vec;
};
ON(irq_softirq_raise, "softirq_raise", (unsigned int vec), { e->vec = vec; })

struct irq_softirq_entry {
	__u32 vec;
};
ON(irq_softirq_entry, "softirq_entry", (unsigned int vec), { e->vec = vec; })

struct irq_softirq_exit {
	__u32 vec;
};
ON(irq_softirq_exit, "softirq_exit", (unsigned int vec), { e->vec = vec; })

struct irq_tasklet_entry {
	htrace_ptr_t tasklet;
	htrace_ptr_t func;
};
ON(irq_tasklet_entry, "tasklet_entry", (void *tasklet, void *func), {
	e->tasklet = (__u64)tasklet;
	e->func = (__u64)func;
})

struct irq_tasklet_exit {
	htrace_ptr_t tasklet;
	htrace_ptr_t func;
};
ON(irq_tasklet_exit, "tasklet_exit", (void *tasklet, void *func), {
	e->tasklet = (__u64)tasklet;
	e->func = (__u64)func;
})
