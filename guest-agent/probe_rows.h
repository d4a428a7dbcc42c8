/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What --probe says of a hypervisor, by what was found: rows of text. */
#ifndef AGENT_PROBE_ROWS_H
#define AGENT_PROBE_ROWS_H

#include <stdbool.h>
#include <stdio.h>

#include "platform.h"

/* Functions of the kernel that are looked for; all in one pass, since there are 200,000. */
enum probe_function {
	KVM_STEAL, XEN_STEAL, XEN_MULTICALL, XEN_UPCALL, XEN_UPCALL_BEFORE, XEN_CHANNEL, KVM_KICK, KVM_IPI, KVM_TLB,
	KVM_ASYNC_PF, HALT_POLL, KPROBES, KPROBE_MULTI, NR_FUNCTIONS,
};

extern const char *const probe_function_names[NR_FUNCTIONS];

/* Found by probe_print(), made up by tests. */
struct probe {
	struct platform_facts facts;
	enum platform platform;
	bool has[NR_FUNCTIONS], by_fentry[NR_FUNCTIONS];
	bool has_symbols, has_btf;
	char clock[64], governor[64]; /* clock source and idle governor in use; "": the kernel does not tell */
};

__attribute__((format(printf, 4, 5))) void probe_row(FILE *out, const char *what, const char *answer, const char *fmt, ...);

/* What it is asked: exits, hypercalls, callbacks. */
void probe_rows_calls(FILE *out, const struct probe *p);
/* What it takes and offers: stolen time, KVM's features; then by what functions can be traced. */
void probe_rows_kernel(FILE *out, const struct probe *p);

#endif
