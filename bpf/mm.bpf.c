// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Memory: page faults. */
#include "hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#ifdef __TARGET_ARCH_x86
#define FAULT_IP(regs) ((regs)->ip)
#else
#define FAULT_IP(regs) ((regs)->pc)
#endif

#define FAULT_EVENT(event, hook)                                                               \
	struct event {                                                                         \
		htrace_ptr_t address;                                                          \
		htrace_ptr_t ip;                                                               \
		htrace_tid_t tid;                                                              \
		__u32 error_code;                                                              \
	};                                                                                     \
	ON(event, hook, (unsigned long address, struct pt_regs *regs, unsigned long error), {  \
		e->address = address;                                                          \
		e->ip = FAULT_IP(regs);                                                        \
		e->tid = CURRENT_TID();                                                        \
		e->error_code = error;                                                         \
	})

FAULT_EVENT(x86_exceptions_page_fault_user, "page_fault_user")
FAULT_EVENT(x86_exceptions_page_fault_kernel, "page_fault_kernel")
