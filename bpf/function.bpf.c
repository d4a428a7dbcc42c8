// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Calls of chosen functions, of the kernel's or of programs': one record where a call ends. The agent
 * opens this once for the kernel's and once for programs', chooses the programs that the kernel can
 * run, and attaches them to each function with the function's number as their cookie.
 *
 * What is under way lies in a table, by the stack that it is on: of the kernel's calls the kernel stack,
 * of which a task has one, and each CPU's interrupts; of a program's, the task. On one stack, whoever
 * was called later lies lower. So a call that was entered and did not return (its return was missed, or
 * it never does) is found out by the next that lies where it was, and the depth is right again.
 */
#define HTRACE_NO_MODULE /* not for this type of program */
#include "htrace.bpf.h"
#include "kernel_types.h"

#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define CALLS 64 /* on one stack; a power of two */
#define STACKS 4096
#define STACK_SIZE 16384ULL /* of a task, where the kernel does not say */
#define REGION_SHIFT 39

/* x86: of stacks for NMIs, and the like, which come into interrupts, too. */
#define EXCEPTIONS (0xfffffe0000000000ULL >> REGION_SHIFT)

#if defined(__TARGET_ARCH_x86)
#define RETURN_ADDRESS 8 /* bytes that a return takes off the stack */
#else
#define RETURN_ADDRESS 0
#endif

/* Described by the agent, which knows the functions' names. */
struct function {
	__u32 tid;
	__u16 function;
	__u8 depth;
	__u8 interrupt; /* 1; 2: on a stack of x86's for NMIs */
	__u64 ns;
};
HTRACE_EVENT(function);

struct call {
	__u64 sp;
	__u64 begin;
	__u64 function;
};

struct calls {
	__u32 nr;
	__u32 tid; /* whose they are; on a stack of interrupts 0 */
	__u32 interrupt;
	__u32 reserved;
	struct call call[CALLS];
};

struct {
	__uint(type, BPF_MAP_TYPE_LRU_HASH);
	__uint(max_entries, STACKS);
	__type(key, __u64);
	__type(value, struct calls);
} function_calls SEC(".maps");

/* As it is in the beginning: too large for a program's stack. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, struct calls);
} function_none SEC(".maps");

/* Calls that were entered and are not recorded for all that; the agent reads it. */
struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, 1);
	__type(key, __u32);
	__type(value, __u64);
} function_lost SEC(".maps");

extern _Bool bpf_session_is_return(void) __ksym __weak;
extern __u64 *bpf_session_cookie(void) __ksym __weak;

static __always_inline void count_lost(__u64 nr)
{
	__u32 zero = 0;
	__u64 *lost = nr ? bpf_map_lookup_elem(&function_lost, &zero) : 0;

	if (lost)
		htrace_add(lost, nr);
}

static __always_inline __u32 current_tid(void)
{
	return (__u32)bpf_get_current_pid_tgid();
}

static __always_inline struct calls *new_calls(__u64 key)
{
	__u32 zero = 0;
	const struct calls *none = bpf_map_lookup_elem(&function_none, &zero);

	if (!none)
		return 0;
	bpf_map_update_elem(&function_calls, &key, none, BPF_NOEXIST);
	return bpf_map_lookup_elem(&function_calls, &key);
}

static __u64 stack_bytes; /* once it is known */

/*
 * Tasks' kernel stacks begin at a multiple of it. It is said nowhere, but of a stack that is mapped, which has a page
 * more. (Those that are not are of early tasks, or of kernels built so.)
 */
static __always_inline __u64 stack_size(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();
	struct vm_struct *area;
	__u64 size, pages;

	if (stack_bytes)
		return stack_bytes;
	area = bpf_core_field_exists(task->stack_vm_area) ? BPF_CORE_READ(task, stack_vm_area) : 0;
	if (!area)
		return STACK_SIZE;
	size = BPF_CORE_READ(area, size);
	pages = BPF_CORE_READ(area, nr_pages);
	size -= size / (pages + 1);
	stack_bytes = !size || size & (size - 1) ? STACK_SIZE : size;
	return stack_bytes;
}

static __always_inline __u64 stack_of_task(void)
{
	struct task_struct *task = (void *)bpf_get_current_task();

	return (__u64)BPF_CORE_READ(task, stack);
}

/*
 * The stacks of interrupts begin anywhere (x86: at any page): one may lie in two places of stack_size(), one of which
 * may have a part of another CPU's. So they go by the CPU; and by the region of memory, for an NMI's is in another
 * one than the interrupt's that it comes into. The place itself is there to say that it is no task's; where tasks
 * are switched, it is the next one's already while the one before is still said to run.
 */
static __always_inline struct calls *calls_of(__u64 sp, int kernel, int make)
{
	__u64 key = kernel ? sp & ~(stack_size() - 1) : current_tid();
	struct calls *c = bpf_map_lookup_elem(&function_calls, &key);
	int is_new = !c && make;

	if (is_new)
		c = new_calls(key);
	if (kernel && c && (is_new || c->interrupt))
		c->interrupt = stack_of_task() != key;
	if (!kernel || !c || !c->interrupt)
		return c;
	key = sp >> REGION_SHIFT << 16 | bpf_get_smp_processor_id();
	c = bpf_map_lookup_elem(&function_calls, &key);
	if (!c && make)
		c = new_calls(key);
	if (c)
		c->interrupt = sp >> REGION_SHIFT == EXCEPTIONS ? 2 : 1;
	return c;
}

/* Nonzero: it does not count. */
static __always_inline int enter(__u64 sp, __u64 function, int kernel)
{
	struct calls *c = calls_of(sp, kernel, 1);
	struct call *call;
	__u64 lost = 0;
	__u32 nr;

	if (!c) {
		count_lost(1);
		return 1;
	}
	nr = c->nr;
	if (!c->interrupt && c->tid != current_tid()) { /* of a task that is gone */
		lost = nr;
		nr = 0;
		c->tid = current_tid();
	}
	for (int i = 0; i < CALLS && nr; i++) {
		call = &c->call[(nr - 1) & (CALLS - 1)];
		/* At the same place: the one before jumped here, unless it is this one. */
		if (call->sp > sp || (call->sp == sp && call->function != function))
			break;
		nr--;
		lost++;
	}
	if (nr < CALLS) {
		call = &c->call[nr & (CALLS - 1)];
		call->sp = sp;
		call->function = function;
		call->begin = bpf_ktime_get_ns();
		c->nr = nr + 1;
		count_lost(lost);
		return 0;
	}
	count_lost(lost + 1);
	return 1;
}

/* Zero: it was not seen to be entered, or that is forgotten. */
static __always_inline int leave(void *ctx, __u64 sp, __u64 function, int kernel)
{
	__u64 now = bpf_ktime_get_ns(), lost = 0;
	struct calls *c = calls_of(sp, kernel, 0);
	struct call *call = 0;
	struct htrace_slot slot;
	struct function *e;
	__u32 nr;
	int found = 0;

	if (!c)
		return 0;
	nr = c->nr;
	for (int i = 0; i < CALLS && nr && !found; i++) {
		call = &c->call[(nr - 1) & (CALLS - 1)];
		if (call->sp > sp) /* this one was not seen to be entered */
			break;
		nr--;
		found = call->sp == sp && call->function == function;
		lost += !found;
	}
	c->nr = nr;
	count_lost(lost);
	if (!found)
		return 0;
	now -= call->begin;
	e = htrace_begin(function, &slot);
	if (!e)
		return 1;
	e->tid = current_tid();
	e->function = function;
	e->depth = nr;
	e->interrupt = c->interrupt;
	e->ns = now;
	htrace_end(&slot);
	return 1;
}

/* Attached in this order: before a return is seen, nothing is entered. */
SEC("kretprobe")
int function_exit(struct pt_regs *ctx)
{
	leave(ctx, ctx->sp - RETURN_ADDRESS, bpf_get_attach_cookie(ctx), 1);
	return 0;
}

SEC("kprobe")
int function_entry(struct pt_regs *ctx)
{
	enter(ctx->sp, bpf_get_attach_cookie(ctx), 1);
	return 0;
}

/* Both: the kernel calls this where a function is entered and, given 0, again where it returns. */
SEC("kprobe")
int function_session(struct pt_regs *ctx)
{
	__u64 *number = bpf_session_cookie();

	if (bpf_session_is_return()) {
		/* Only of what was let in: if it is not there, its stack had to make room in the table for others. */
		if (!leave(ctx, ctx->sp - RETURN_ADDRESS, *number, 1))
			count_lost(1);
		return 0;
	}
	*number = bpf_get_attach_cookie(ctx);
	return enter(ctx->sp, *number, 1);
}

SEC("uretprobe")
int user_function_exit(struct pt_regs *ctx)
{
	leave(ctx, ctx->sp - RETURN_ADDRESS, bpf_get_attach_cookie(ctx), 0);
	return 0;
}

SEC("uprobe")
int user_function_entry(struct pt_regs *ctx)
{
	enter(ctx->sp, bpf_get_attach_cookie(ctx), 0);
	return 0;
}
