// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * Calls between a Xen guest's kernel and Xen. Down: hypercalls that are queued (xen_mc_entry) and made
 * together (xen_mc_flush), by the kernel's tracepoints; those that the kernel makes one by one without
 * its queue have no hook. Up: Xen's upcalls, and the event channels that are handled in each.
 *
 * Where a function is entered its call goes on the CPU's list, and off it where it returns. Interrupts come into
 * calls, and make such calls themselves, but none is preempted: so what began last ends first. Both programs of a
 * call have the same context, which lies on the stack, and tells it from others. A call that was not
 * seen to end (the kernel skips a program that runs already) goes with the next that lies where it lay.
 */
#include "hook.h"
#include "xen_hypercalls.h"

#include <bpf/bpf_core_read.h>

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define BATCH 32 /* MC_BATCH, arch/x86/xen/multicalls.c */
#define WORDS (BATCH / 8)
#define DEPTH 4 /* a power of two: a task, its soft interrupt, an interrupt, an NMI */

#pragma clang attribute push(__attribute__((preserve_access_index)), apply_to = record)

struct multicall_entry {
	unsigned long op;
};

struct mc_buffer {
	unsigned int mcidx;
	struct multicall_entry entries[BATCH];
};

struct irq_data {
	void *chip_data;
	unsigned int irq;
};

struct irq_desc {
	struct irq_data irq_data;
	struct irqaction *action;
};

/* Of drivers/xen/events; other files have structs of this name, without these members. */
struct irq_info___xen {
	short type;
	union {
		unsigned short virq;
	} u;
};

#pragma clang attribute pop

extern const struct mc_buffer mc_buffer __ksym __weak;

/* Which work the kernel saves up: for page tables, or for a switch of tasks. */
enum __attribute__((packed)) xen_lazy_mode { lazy_none, lazy_mmu, lazy_cpu };

/* What an event channel is bound to; the last: to a channel of another domain. */
enum __attribute__((packed)) xen_channel_type { unbound, pirq, virq, ipi, evtchn };

/* The same as the kernel numbers it. */
enum xen_irq_type { IRQT_UNBOUND, IRQT_PIRQ, IRQT_VIRQ, IRQT_IPI, IRQT_EVTCHN };

enum __attribute__((packed)) xen_extend_result { extended, other_op, no_space };

struct call {
	__u64 key, begin;
	__u64 index;
	union {
		struct {
			__u32 nr, args, callbacks;
			__u64 op[WORDS];
		} flush;
		struct {
			__u32 channels;
		} upcall;
		struct {
			__u32 port;
			__s32 irq;
			__u16 type, number;
			char name[16];
		} channel;
	};
};

enum { FLUSH, UPCALL, CHANNEL, KINDS };

struct calls {
	__u64 nr;
	struct call call[DEPTH];
};

struct {
	__uint(type, BPF_MAP_TYPE_PERCPU_ARRAY);
	__uint(max_entries, KINDS);
	__type(key, __u32);
	__type(value, struct calls);
} calls_under_way SEC(".maps");

static __always_inline struct calls *calls_of(__u32 kind)
{
	return bpf_map_lookup_elem(&calls_under_way, &kind);
}

static __always_inline int enter(__u32 kind, void *ctx)
{
	struct calls *c = calls_of(kind);
	struct call *call;
	__u64 nr;

	if (!c)
		return 0;
	nr = c->nr;
	for (__u64 i = 0; i < DEPTH; i++)
		if (i < nr && c->call[i].key == (__u64)ctx)
			nr = i;
	if (nr >= DEPTH) /* none of them ended */
		nr = 0;
	call = &c->call[nr & (DEPTH - 1)];
	__builtin_memset(call, 0, sizeof(*call));
	call->index = nr;
	call->key = (__u64)ctx;
	call->begin = bpf_ktime_get_ns();
	c->nr = nr + 1;
	return 0;
}

/* The innermost one; NULL: none. */
static __always_inline struct call *innermost(__u32 kind)
{
	struct calls *c = calls_of(kind);

	return c && c->nr ? &c->call[(c->nr - 1) & (DEPTH - 1)] : 0;
}

/* NULL: it was not seen to begin. */
static __always_inline struct call *find(__u32 kind, void *ctx)
{
	struct calls *c = calls_of(kind);
	struct call *call = 0;

	for (__u64 i = 0; c && i < DEPTH; i++)
		if (i < c->nr && c->call[i].key == (__u64)ctx)
			call = &c->call[i];
	return call;
}

/* It ended, and so did whatever came into it. */
static __always_inline void forget(__u32 kind, const struct call *call)
{
	struct calls *c = calls_of(kind);

	if (c)
		c->nr = call->index;
}

/* ------------------------------------------------------------------------------- down: multicalls */

struct xen_mc_batch {
	htrace_tid_t tid;
	enum xen_lazy_mode mode;
};
ON(xen_mc_batch, "xen_mc_batch", (int mode), {
	e->tid = CURRENT_TID();
	e->mode = mode;
})

struct xen_mc_issue {
	htrace_tid_t tid;
	enum xen_lazy_mode mode;
};
ON(xen_mc_issue, "xen_mc_issue", (int mode), {
	e->tid = CURRENT_TID();
	e->mode = mode;
})

/* A hypercall is queued. */
struct xen_mc_entry {
	htrace_tid_t tid;
	enum xen_hypercall op;
	__u8 nargs;
};
ON(xen_mc_entry, "xen_mc_entry", (struct multicall_entry *mc, unsigned int nargs), {
	e->tid = CURRENT_TID();
	e->op = mc->op;
	e->nargs = nargs;
})

/* More work for the one that was queued last, if it is of this kind and there is room. */
struct xen_mc_extend_args {
	htrace_tid_t tid;
	enum xen_hypercall op;
	enum xen_extend_result result;
	__u16 bytes;
};
ON(xen_mc_extend_args, "xen_mc_extend_args", (unsigned long op, unsigned long bytes, int result), {
	e->tid = CURRENT_TID();
	e->op = op;
	e->result = result;
	e->bytes = bytes;
})

/* What is queued goes to Xen: which hypercalls, in their order, and how long it took until it was back. */
struct xen_mc_flush {
	__u64 ns;
	htrace_tid_t tid;
	__u8 calls;
	__u8 callbacks; /* of the kernel's own, afterwards */
	__u16 arg_bytes;
	enum xen_hypercall op[]; /* `none` behind the last */
};
HTRACE_EVENT(xen_mc_flush);

SEC("fentry/xen_mc_flush")
int BPF_PROG(xen_mc_flush__entry)
{
	return enter(FLUSH, ctx);
}

/* Without interrupts, so the queue stands still. */
SEC("tp_btf/xen_mc_flush")
int BPF_PROG(xen_mc_flush__calls, unsigned int calls, unsigned int args, unsigned int callbacks)
{
	struct call *call = innermost(FLUSH);
	const struct mc_buffer *b;
	__u64 at, op;

	if (!call)
		return 0;
	call->begin = bpf_ktime_get_ns();
	call->flush.nr = calls;
	call->flush.args = args;
	call->flush.callbacks = callbacks;
	for (int i = 0; i < WORDS; i++)
		call->flush.op[i] = ~0ULL;
	if (!&mc_buffer)
		return 0;
	b = bpf_this_cpu_ptr(&mc_buffer);
	at = (__u64)b + bpf_core_field_offset(struct mc_buffer, entries) +
	     bpf_core_field_offset(struct multicall_entry, op);
	for (__u32 i = 0; i < BATCH && i < calls; i++) {
		if (!bpf_probe_read_kernel(&op, sizeof(op), (void *)at))
			((__u8 *)call->flush.op)[i] = op;
		at += bpf_core_type_size(struct multicall_entry);
	}
	return 0;
}

SEC("fexit/xen_mc_flush")
int BPF_PROG(xen_mc_flush)
{
	__u64 now = bpf_ktime_get_ns();
	struct call *call = find(FLUSH, ctx);
	struct htrace_slot slot;
	struct xen_mc_flush *e;
	__u32 words;

	if (!call)
		return 0;
	words = (call->flush.nr + 7) / 8;
	if (words > WORDS)
		words = WORDS;
	e = htrace_begin_len(xen_mc_flush, sizeof(*e) + words * 8, &slot);
	if (e) {
		e->ns = now - call->begin;
		e->tid = CURRENT_TID();
		e->calls = call->flush.nr;
		e->callbacks = call->flush.callbacks;
		e->arg_bytes = call->flush.args;
		for (__u32 i = 0; i < WORDS && i < words; i++)
			((__u64 *)e->op)[i] = call->flush.op[i];
		htrace_end(&slot);
	}
	forget(FLUSH, call);
	return 0;
}

/* ------------------------------------------------------------------------------------- up: upcalls */

/* Xen interrupted a task: all that is pending is handled, so many event channels, in so long. */
struct xen_upcall {
	__u64 ns;
	htrace_tid_t tid;
	__u32 channels;
};
HTRACE_EVENT(xen_upcall);

SEC("fentry/xen_evtchn_do_upcall")
int BPF_PROG(xen_upcall__entry)
{
	return enter(UPCALL, ctx);
}

SEC("fexit/xen_evtchn_do_upcall")
int BPF_PROG(xen_upcall)
{
	__u64 now = bpf_ktime_get_ns();
	struct call *call = find(UPCALL, ctx);
	struct htrace_slot slot;
	struct xen_upcall *e;

	if (!call)
		return 0;
	e = htrace_begin(xen_upcall, &slot);
	if (e) {
		e->ns = now - call->begin;
		e->tid = CURRENT_TID();
		e->channels = call->upcall.channels;
		htrace_end(&slot);
	}
	forget(UPCALL, call);
	return 0;
}

/* One of them: what it is bound to, and how long its handlers took. */
struct xen_event_channel {
	__u64 ns;
	htrace_tid_t tid;
	__u32 port;
	__s32 irq;
	__u16 number; /* of a virtual interrupt (VIRQ_*), an IPI, or a physical interrupt; else 0 */
	enum xen_channel_type type;
	char name[17]; /* the first handler's */
};
HTRACE_EVENT(xen_event_channel);

SEC("fentry/handle_irq_for_port")
int BPF_PROG(xen_event_channel__entry, __u32 port)
{
	struct call *upcall = innermost(UPCALL), *call;

	if (upcall)
		upcall->upcall.channels++;
	enter(CHANNEL, ctx);
	call = innermost(CHANNEL);
	if (call) {
		call->channel.port = port;
		call->channel.irq = -1;
	}
	return 0;
}

static __always_inline enum xen_channel_type type_of(__u64 type)
{
	if (type == bpf_core_enum_value(enum xen_irq_type, IRQT_PIRQ))
		return pirq;
	if (type == bpf_core_enum_value(enum xen_irq_type, IRQT_VIRQ))
		return virq;
	if (type == bpf_core_enum_value(enum xen_irq_type, IRQT_IPI))
		return ipi;
	return type == bpf_core_enum_value(enum xen_irq_type, IRQT_EVTCHN) ? evtchn : unbound;
}

/* Only here it is known which interrupt it is; the legacy ones are Xen's PIRQs, without data of their own. */
static __always_inline int handles(struct irq_desc *desc)
{
	struct call *call = innermost(CHANNEL);
	struct irq_info___xen *info;
	struct irqaction *action;

	if (!call || call->channel.irq >= 0)
		return 0;
	call->channel.irq = desc->irq_data.irq;
	info = desc->irq_data.chip_data;
	call->channel.type = info ? type_of(BPF_CORE_READ(info, type)) : pirq;
	if (!info)
		call->channel.number = call->channel.irq;
	else if (call->channel.type != unbound && call->channel.type != evtchn)
		call->channel.number = BPF_CORE_READ(info, u.virq);
	action = desc->action;
	if (action)
		bpf_probe_read_kernel_str(call->channel.name, sizeof(call->channel.name), action->name);
	return 0;
}

SEC("fentry/handle_percpu_irq")
int BPF_PROG(xen_event_channel__percpu, struct irq_desc *desc)
{
	return handles(desc);
}

SEC("fentry/handle_edge_irq")
int BPF_PROG(xen_event_channel__edge, struct irq_desc *desc)
{
	return handles(desc);
}

SEC("fentry/handle_fasteoi_irq")
int BPF_PROG(xen_event_channel__fasteoi, struct irq_desc *desc)
{
	return handles(desc);
}

SEC("fexit/handle_irq_for_port")
int BPF_PROG(xen_event_channel)
{
	__u64 now = bpf_ktime_get_ns();
	struct call *call = find(CHANNEL, ctx);
	struct htrace_slot slot;
	struct xen_event_channel *e;

	if (!call)
		return 0;
	e = htrace_begin(xen_event_channel, &slot);
	if (e) {
		e->ns = now - call->begin;
		e->tid = CURRENT_TID();
		e->port = call->channel.port;
		e->irq = call->channel.irq;
		e->number = call->channel.number;
		e->type = call->channel.type;
		__builtin_memcpy(e->name, call->channel.name, sizeof(call->channel.name));
		e->name[sizeof(e->name) - 1] = 0;
		htrace_end(&slot);
	}
	forget(CHANNEL, call);
	return 0;
}
