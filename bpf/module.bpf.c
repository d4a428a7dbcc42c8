// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Kernel modules that come and go. */
#include "hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

struct module_load {
	htrace_tid_t tid;
	htrace_hex_t taints;
	char name[56];
};
ON(module_load, "module_load", (struct module * mod), {
	e->tid = CURRENT_TID();
	e->taints = mod->taints;
	__builtin_memset(e->name, 0, sizeof(e->name));
	bpf_probe_read_kernel_str(e->name, sizeof(e->name), mod->name);
})

struct module_free {
	htrace_tid_t tid;
	char name[56];
};
ON(module_free, "module_free", (struct module * mod), {
	e->tid = CURRENT_TID();
	__builtin_memset(e->name, 0, sizeof(e->name));
	bpf_probe_read_kernel_str(e->name, sizeof(e->name), mod->name);
})
