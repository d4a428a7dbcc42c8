// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* Signals: sent, and handed to the task. */
#include "hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

/* Instead of a struct's address, info may say who sends. */
#define SEND_SIG_PRIV 1
#define SI_KERNEL 0x80

static __always_inline void get_info(struct kernel_siginfo *info, __s32 *error, __s32 *code)
{
	*error = 0;
	*code = 0; /* SI_USER */
	if ((unsigned long)info > SEND_SIG_PRIV) {
		bpf_probe_read_kernel(error, sizeof(*error), &info->si_errno);
		bpf_probe_read_kernel(code, sizeof(*code), &info->si_code);
	} else if ((unsigned long)info == SEND_SIG_PRIV) {
		*code = SI_KERNEL;
	}
}

struct signal_generate {
	htrace_tid_t tid; /* of the sender */
	__s32 sig;
	__s32 errno;
	__s32 code;
	htrace_tid_t pid; /* the receiving task */
	__s32 group;
	__s32 result;
};
ON(signal_generate, "signal_generate",
   (int sig, struct kernel_siginfo *info, struct task_struct *task, int group, int result), {
	e->tid = CURRENT_TID();
	e->sig = sig;
	get_info(info, &e->errno, &e->code);
	e->pid = task->pid;
	e->group = group;
	e->result = result;
})

struct signal_deliver {
	htrace_tid_t tid;
	__s32 sig;
	__s32 errno;
	__s32 code;
	htrace_ptr_t sa_handler;
	htrace_hex_t sa_flags;
};
ON(signal_deliver, "signal_deliver",
   (int sig, struct kernel_siginfo *info, struct k_sigaction *ka), {
	e->tid = CURRENT_TID();
	e->sig = sig;
	get_info(info, &e->errno, &e->code);
	e->sa_handler = (__u64)ka->sa.sa_handler;
	e->sa_flags = ka->sa.sa_flags;
})
