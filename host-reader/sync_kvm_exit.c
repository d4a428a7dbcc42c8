/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sync_kvm_exit.h"

#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/sync.h>

#include "clock.h"

#define NAME "kvm-exit"
#define DEFAULT_USEC 2000
#define LOOKS_PER_CLOCK 64
#define LINGER_NS 100000 /* of looking on, after a virtual CPU came or went */

struct policy {
	struct kvm_exits *exits;    /* or NULL */
	struct htrace_sync *asleep; /* adaptive: what is done while there are no exits */
	bool woken;                 /* written by wake, taken by wait */
	__u64 bound_ns;
	__u64 sum, changed; /* of all epochs, and when it was another one */
	bool inside;
};

static struct kvm_exits *in_use;

static void relax(void)
{
#if defined(__x86_64__)
	__builtin_ia32_pause();
#elif defined(__aarch64__)
	__asm__ volatile("yield" ::: "memory");
#endif
}

/* The argument is adaptive's, which checks it. */
static int policy_arm(void **priv, const struct htrace_sync_target *target, const char *arg)
{
	struct policy *p = calloc(1, sizeof(*p));
	char name[32] = "adaptive";
	int ret;

	if (!p)
		return -ENOMEM;
	if (arg && snprintf(name, sizeof(name), "adaptive:%s", arg) >= (int)sizeof(name))
		ret = -EINVAL;
	else
		ret = htrace_sync_new(&p->asleep, name, target);
	if (ret) {
		free(p);
		return ret;
	}
	p->exits = in_use;
	p->bound_ns = (arg ? strtoul(arg, NULL, 10) : DEFAULT_USEC) * 1000ULL;
	if (p->exits)
		kvm_exits_set_bound(p->exits, p->bound_ns);
	*priv = p;
	return 0;
}

/* Who sleeps was told as well: that is taken, too, else the next sleep would end at once. */
static bool take_woken(struct policy *p)
{
	if (!__atomic_load_n(&p->woken, __ATOMIC_RELAXED) ||
	    !__atomic_exchange_n(&p->woken, false, __ATOMIC_ACQUIRE))
		return false;
	htrace_sync_wait(p->asleep, 0);
	return true;
}

/*
 * Is it worth to go on looking? Something may be written only while a virtual CPU is inside; and
 * exits come soon where they came a moment ago.
 */
static bool look_on(struct policy *p, __u64 now)
{
	__u64 sum = kvm_exits_sum(p->exits, &p->inside);

	if (sum != p->sum) {
		p->sum = sum;
		p->changed = now;
	}
	return now - p->changed < (p->inside ? p->bound_ns : LINGER_NS);
}

/* Until an exit comes, a ring has not been looked at for too long, or it is @until. */
static bool look_for_exit(struct policy *p, __u64 until)
{
	for (;;) {
		for (int i = 0; i < LOOKS_PER_CLOCK; i++) {
			if (kvm_exits_pending(p->exits))
				return true;
			if (__atomic_load_n(&p->woken, __ATOMIC_RELAXED))
				return false;
			relax();
		}
		if (clock_now() >= until)
			return false;
		if (!look_on(p, clock_now()))
			return false;
	}
}

static int policy_wait(void *priv, __u64 max_ns)
{
	struct policy *p = priv;
	__u64 now = clock_now(), deadline = max_ns > UINT64_MAX - now ? UINT64_MAX : now + max_ns;
	int ret;

	if (!p->exits)
		return htrace_sync_wait(p->asleep, max_ns);
	kvm_exits_read_all(p->exits, false);
	while (look_on(p, now)) {
		__u64 until = now + p->bound_ns < deadline ? now + p->bound_ns : deadline;

		if (look_for_exit(p, until))
			return 1;
		if (take_woken(p))
			return -EINTR;
		now = clock_now();
		if (now >= deadline)
			return 0;
		if (now >= until)
			return 1; /* rings whose virtual CPUs stayed inside are due */
	}
	ret = htrace_sync_wait(p->asleep, deadline - now);
	/* What was found was not looked for by exits. */
	kvm_exits_read_all(p->exits, ret != 0);
	if (ret < 0)
		take_woken(p);
	return ret;
}

static void policy_did(void *priv, __u64 events, __u64 backlog)
{
	struct policy *p = priv;

	htrace_sync_did(p->asleep, events, backlog);
}

static void policy_wake(void *priv)
{
	struct policy *p = priv;

	__atomic_store_n(&p->woken, true, __ATOMIC_RELEASE);
	htrace_sync_wake(p->asleep);
}

static void policy_close(void *priv)
{
	struct policy *p = priv;

	htrace_sync_free(p->asleep);
	free(p);
}

static const struct htrace_sync_ops ops = {
	.sz = sizeof(ops),
	.name = NAME,
	.arm = policy_arm,
	.wait = policy_wait,
	.did = policy_did,
	.wake = policy_wake,
	.close = policy_close,
};

void sync_kvm_exit_register(void)
{
	htrace_sync_register(&ops);
}

bool sync_kvm_exit_is(const char *policy)
{
	size_t len = strlen(NAME);

	return !strncmp(policy, NAME, len) && (!policy[len] || policy[len] == ':');
}

void sync_kvm_exit_use(struct kvm_exits *e)
{
	in_use = e;
}
