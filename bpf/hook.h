/* SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause */
/* What most built-in programs are: one tracepoint, one record of fixed size. */
#ifndef HTRACE_HOOK_H
#define HTRACE_HOOK_H

#include "htrace.bpf.h"
#include "kernel_types.h"

#include <bpf/bpf_tracing.h>

#define HOOK_PROG(name, ...) BPF_PROG(name, __VA_ARGS__)
#define HOOK_ARGS(...) __VA_ARGS__

/*
 * Program @event on tracepoint @hook, which has the arguments @args (in parentheses): reserves
 * struct @event as `e`, runs the block that follows, publishes.
 */
#define ON(event, hook, args, ...) ON_SECTION(event, "tp_btf/" hook, args, __VA_ARGS__)
/* Likewise for any hook that has typed arguments. */
#define ON_SECTION(event, section, args, ...)                 \
	HTRACE_EVENT(event);                                  \
	SEC(section)                                          \
	int HOOK_PROG(event, HOOK_ARGS args)                  \
	{                                                     \
		struct htrace_slot slot;                      \
		struct event *e = htrace_begin(event, &slot); \
                                                              \
		if (!e)                                       \
			return 0;                             \
		__VA_ARGS__                                   \
		htrace_end(&slot);                            \
		return 0;                                     \
	}

#define CURRENT_TID() ((__u32)bpf_get_current_pid_tgid())

#endif /* HTRACE_HOOK_H */
