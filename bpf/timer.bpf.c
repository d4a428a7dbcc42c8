// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/* The kernel's timers: jiffies in timer_*, nanoseconds in timer_hrtimer_*. */
#include "hook.h"

char LICENSE[] SEC("license") = "Dual BSD/GPL";

#define ONE_TIMER(event, hook)                           \
	struct event {                                   \
		htrace_ptr_t timer;                      \
	};                                               \
	ON(event, hook, (struct timer_list * timer), {   \
		e->timer = (__u64)timer;                 \
	})

ONE_TIMER(timer_init, "timer_init")
ONE_TIMER(timer_cancel, "timer_cancel")
ONE_TIMER(timer_expire_exit, "timer_expire_exit")

struct timer_start {
	htrace_ptr_t timer;
	htrace_ptr_t function;
	__u64 expires;
	__u64 now;
	htrace_hex_t flags; /* lowest 22 bits: CPU and wheel */
};
ON(timer_start, "timer_start", (struct timer_list * timer), {
	e->timer = (__u64)timer;
	e->function = (__u64)timer->function;
	e->expires = timer->expires;
	e->now = bpf_jiffies64();
	e->flags = timer->flags;
})

struct timer_expire_entry {
	htrace_ptr_t timer;
	__u64 now;
	htrace_ptr_t function;
};
ON(timer_expire_entry, "timer_expire_entry", (struct timer_list * timer), {
	e->timer = (__u64)timer;
	e->now = bpf_jiffies64();
	e->function = (__u64)timer->function;
})

struct timer_hrtimer_init {
	htrace_ptr_t hrtimer;
	__s32 clockid;
	__u32 mode;
};
ON(timer_hrtimer_init, "hrtimer_init", (struct hrtimer * hrtimer, int clockid, __u32 mode), {
	e->hrtimer = (__u64)hrtimer;
	e->clockid = clockid;
	e->mode = mode;
})

/* As it is called since 6.15. */
struct timer_hrtimer_setup {
	htrace_ptr_t hrtimer;
	__s32 clockid;
	__u32 mode;
};
ON(timer_hrtimer_setup, "hrtimer_setup", (struct hrtimer * hrtimer, int clockid, __u32 mode), {
	e->hrtimer = (__u64)hrtimer;
	e->clockid = clockid;
	e->mode = mode;
})

struct timer_hrtimer_start {
	htrace_ptr_t hrtimer;
	htrace_ptr_t function;
	__s64 expires;
	__s64 softexpires;
	__u32 mode;
};
ON(timer_hrtimer_start, "hrtimer_start", (struct hrtimer * hrtimer, __u32 mode), {
	e->hrtimer = (__u64)hrtimer;
	e->function = (__u64)hrtimer->function;
	e->expires = hrtimer->node.expires;
	e->softexpires = hrtimer->_softexpires;
	e->mode = mode;
})

struct timer_hrtimer_expire_entry {
	htrace_ptr_t hrtimer;
	__s64 now;
	htrace_ptr_t function;
};
ON(timer_hrtimer_expire_entry, "hrtimer_expire_entry", (struct hrtimer * hrtimer, __s64 *now), {
	e->hrtimer = (__u64)hrtimer;
	e->now = 0;
	bpf_probe_read_kernel(&e->now, sizeof(e->now), now);
	e->function = (__u64)hrtimer->function;
})

#define ONE_HRTIMER(event, hook)                       \
	struct event {                                 \
		htrace_ptr_t hrtimer;                  \
	};                                             \
	ON(event, hook, (struct hrtimer * hrtimer), {  \
		e->hrtimer = (__u64)hrtimer;           \
	})

ONE_HRTIMER(timer_hrtimer_expire_exit, "hrtimer_expire_exit")
ONE_HRTIMER(timer_hrtimer_cancel, "hrtimer_cancel")
