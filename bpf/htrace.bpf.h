/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/*
 * Events from BPF programs, written straight into shared memory.
 *
 *	#include <htrace/htrace.bpf.h>     (after "vmlinux.h", if that is used)
 *	#include <bpf/bpf_tracing.h>
 *
 *	struct file_open {
 *		htrace_tid_t tid;
 *		__s32 flags;
 *	};
 *	HTRACE_EVENT(file_open);
 *
 *	SEC("fentry/do_sys_openat2")
 *	int BPF_PROG(file_open)
 *	{
 *		struct htrace_slot slot;
 *		struct file_open *e = htrace_begin(file_open, &slot);
 *
 *		if (!e)
 *			return 0;
 *		e->tid = bpf_get_current_pid_tgid();
 *		e->flags = 0;
 *		htrace_end(&slot);
 *		return 0;
 *	}
 *
 *	char LICENSE[] SEC("license") = "GPL";
 *
 * Compile with clang -O2 -g -target bpf -mcpu=v3, run with guest-agent --bpf FILE.bpf.o. The host
 * learns the struct from the object's BTF and decodes the event by itself.
 *
 * Works in every program type whose helpers include bpf_map_lookup_elem and bpf_ktime_get_ns, in
 * any context, and never waits: when there is no room the record is dropped and counted.
 */
#ifndef HTRACE_BPF_H
#define HTRACE_BPF_H

#ifndef __VMLINUX_H__
#include <linux/bpf.h>
#endif

#include <bpf/bpf_helpers.h>

#include <htrace/abi.h>
#include <htrace/ring.h>

/*
 * Types that say how an integer is to be shown. Use them for members of events; they survive in
 * BTF by their names.
 */
typedef __u32 htrace_tid_t; /* a task: shown with its name */
typedef __u64 htrace_hex_t; /* in hexadecimal */
typedef __u32 htrace_hex32_t;
typedef __u16 htrace_hex16_t;
typedef __u64 htrace_ptr_t; /* an address */
typedef __s32 htrace_syscall_t; /* a system call's number: shown by name */
typedef __u32 htrace_task_state_t; /* as sched_switch's prev_state: shown as ps(1) does */

/* The rings, one element per possible CPU. The agent makes the map; sizes here only stand in. */
struct {
	__uint(type, BPF_MAP_TYPE_ARRAY);
	__uint(map_flags, BPF_F_MMAPABLE);
	__uint(max_entries, 1);
	__uint(key_size, sizeof(__u32));
	__uint(value_size, 4096);
} htrace_rings SEC(".maps");

/* Set by the agent before loading, so that the verifier takes them for constants. */
const volatile struct htrace_geometry htrace_geo;
const volatile __u32 htrace_schema_gen;

/*
 * The kernel module (guest-agent --mode module) has the rings in the device's memory, and these
 * functions. A record is then made aside, as for a filter, and handed over at htrace_end(). Where
 * there is no module they are not there, and the verifier removes what would call them.
 */
#ifndef HTRACE_NO_MODULE
const volatile __u32 htrace_by_module; /* set by the agent */
extern int htrace_write(__u32 id, __u32 schema, const void *data, __u32 data__sz) __ksym __weak;
extern int htrace_refuse(void) __ksym __weak; /* count an event that is too large */
/*
 * Interrupt @vector of @peer of an ivshmem-doorbell device. For tracers, where htrace_by_module is
 * true: else it is not there. 0, or -ENODEV: the device has no interrupts.
 */
extern int htrace_doorbell(__u32 peer, __u32 vector) __ksym __weak;
#else
enum { htrace_by_module = 0 };
#define htrace_write(id, schema, data, size) (-1)
#define htrace_refuse() (-1)
#endif

/* What the agent tells a program about an event of its own, before loading. */
struct htrace_event_config {
	__u32 id; /* of its records */
	__u32 stack; /* 0, or 1 + its place in htrace_stack_scratch: records begin with its stacks */
	__u32 reserved;
	__u32 number; /* of the event among the object's, from 1; says the compiler */
};

/*
 * Declare event @name with payload struct @name, at file level, once. The agent finds the variable
 * in BTF by its prefix, learns the struct from `type` and fills in `config`.
 */
#define HTRACE_EVENT(name)                                                  \
	enum { htrace_number__##name = __COUNTER__ + 1 };                   \
	const volatile struct {                                             \
		struct htrace_event_config config;                          \
		struct name type[0];                                        \
	} htrace_event__##name = {                                          \
		.config = { .number = htrace_number__##name }               \
	}

/* This CPU's ring. NULL never happens, but the verifier wants it asked. */
HTRACE_INLINE struct htrace_ring *htrace_this_ring(void)
{
	__u32 cpu = bpf_get_smp_processor_id();

	return bpf_map_lookup_elem(&htrace_rings, &cpu);
}

/* The rings' shape, field by field: the verifier wants constants. */
#define HTRACE_GEOMETRY                                    \
	{                                                  \
		.ring_mask = htrace_geo.ring_mask,         \
		.ring_shift = htrace_geo.ring_shift,       \
		.block_shift = htrace_geo.block_shift,     \
		.desc_off = htrace_geo.desc_off,           \
		.data_off = htrace_geo.data_off,           \
		.max_payload = htrace_geo.max_payload,     \
		.policy = htrace_geo.policy,               \
	}

/* Likewise, what htrace_try_quick() needs of it. */
#define HTRACE_GEOMETRY_QUICK                              \
	{                                                  \
		.ring_mask = htrace_geo.ring_mask,         \
		.block_shift = htrace_geo.block_shift,     \
		.desc_off = htrace_geo.desc_off,           \
		.data_off = htrace_geo.data_off,           \
	}

/* A record of event number @id with @len bytes of payload: what htrace_begin_len() builds upon. */
#define htrace_reserve_id(id, len, slot)                                                           \
	({                                                                                         \
		struct htrace_ring *this_ = htrace_this_ring();                                    \
		void *record_ = 0;                                                                 \
		if (this_)                                                                         \
			record_ = htrace_reserve_with(                                             \
				0, this_, (&(const struct htrace_geometry)HTRACE_GEOMETRY_QUICK),     \
				(&(const struct htrace_geometry)HTRACE_GEOMETRY),                  \
				&this_->consumed, (id), (len), htrace_schema_gen,                  \
				bpf_ktime_get_ns(), (slot));                                       \
		record_;                                                                           \
	})

#include "htrace_stack.bpf.h"
#include "htrace_filter.bpf.h"

/*
 * Reserve a record of event @name with @len bytes of payload, for structs that end in a flexible
 * array. Evaluates to a struct @name *, uninitialised, or NULL: dropped and counted. Fill it all
 * in, then htrace_end().
 *
 * Lengths are rounded up to a multiple of 8, so end text with a NUL, and give other arrays a member
 * that says how long they are. The verifier wants all accesses bounded by constants, and a record
 * of 4000 bytes at most.
 *
 * guest-agent --stack puts stacks into the event's records, in front of the struct. They are those
 * of the program's context if that is called `ctx` where this stands, as in what BPF_PROG() and its
 * like define; else of where the program runs, without the kernel's scheduling functions.
 */
#define htrace_begin_len(name, len, slot)                                                          \
	({                                                                                         \
		struct name *event_;                                                               \
		if (htrace_filter_begins(htrace_number__##name))                                   \
			event_ = htrace_filter_begin(htrace_number__##name,                        \
						     &htrace_event__##name.config, (len), (slot)); \
		else if (htrace_event__##name.config.stack)                                        \
			event_ = htrace_stack_begin((void *)(long)ctx,                             \
						    htrace_event__##name.config.id,                \
						    htrace_event__##name.config.stack, (len),      \
						    (slot));                                       \
		else                                                                               \
			event_ = htrace_reserve_id(htrace_event__##name.config.id, (len), (slot)); \
		event_;                                                                            \
	})

/* Likewise for exactly one struct @name. */
#define htrace_begin(name, slot) htrace_begin_len(name, sizeof(struct name), slot)

/* Publish the record. Must follow every htrace_begin() that did not give NULL. */
#define htrace_end(slot)                                                \
	do {                                                            \
		if (htrace_filter_ends())                               \
			htrace_filter_end((void *)(long)ctx, (slot));   \
		else                                                    \
			htrace_commit(slot);                            \
	} while (0)

#endif /* HTRACE_BPF_H */
