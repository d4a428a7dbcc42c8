/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * When to look at the rings. A policy decides only when records are read, never which.
 *
 * The reader's loop: htrace_sync_wait(); read all rings; tell htrace_sync_did(); again.
 */
#ifndef HTRACE_SYNC_H
#define HTRACE_SYNC_H

#include <htrace/abi.h>
#include <htrace/version.h>

#include <stdbool.h>
#include <stddef.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

/* What producers ring to wake a reader: a word that they change, or a descriptor. */
struct htrace_bell {
	const __u32 *word; /* htrace_view_bell(); or NULL */
	__u32 seen;        /* what it held, loaded (acquire) before any ring was armed */
	int fd;            /* readable once rung, until arm is called again; or -1 */
};

/* What a policy may ask about the rings that it serves. */
struct htrace_sync_target {
	size_t sz;
	bool (*ready)(void *ctx); /* is there something to read? cheap: a load per ring */
	void *ctx;
	/*
	 * Asked by policies that sleep until they are rung, right before; NULL: nobody rings. Reads empty
	 * the descriptors, loads the words, calls htrace_consumer_arm() for each ring, then
	 * htrace_sync_armed(), and fills in @bell; returns how many. *@all, which is true: set to false
	 * if there is a ring that nobody rings for, or more than @max bells. The policy then looks again.
	 */
	int (*arm)(void *ctx, struct htrace_bell *bell, int max, bool *all);
};

/* The full fence between arming and looking again. */
static inline void htrace_sync_armed(void)
{
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

/*
 * A policy. All calls come from the reader's thread, except wake, which may come from any thread
 * or signal handler. Only wait must be there.
 */
struct htrace_sync_ops {
	size_t sz;
	const char *name;
	/*
	 * Set up for @target, which stays until close; @arg is what follows ':' in the policy's name, or
	 * NULL. State in *priv.
	 */
	int (*arm)(void **priv, const struct htrace_sync_target *target, const char *arg);
	/*
	 * Return when the rings should be read, at the latest after @max_ns. 1: probably something
	 * to read; 0: time is up; -EINTR: woken by wake or a signal.
	 */
	int (*wait)(void *priv, __u64 max_ns);
	/* @events were read after the last wait, @backlog bytes are left. */
	void (*did)(void *priv, __u64 events, __u64 backlog);
	void (*wake)(void *priv);
	void (*close)(void *priv);
};

struct htrace_sync;

/*
 * Register a policy under its name (the ops stay the caller's and must outlive all use).
 * Names are of lower-case letters, digits, '-' and '_', up to 32 bytes.
 * -EEXIST: the name is taken. -EINVAL: the ops are not complete. -ENOSPC: too many policies.
 * Not thread-safe against htrace_sync_new().
 */
int htrace_sync_register(const struct htrace_sync_ops *ops);
/*
 * Make a policy by name: "spin", "adaptive", "adaptive:MAX_USEC", "timer:USEC", "futex", "doorbell", or a
 * registered one. -ENOENT: no such policy. -EINVAL: its argument is wrong. -ENOSYS: the kernel cannot (futex).
 *
 * spin: looks all the time, with a pause between looks. While each look finds something, it rests before the
 * next one, for up to half a microsecond, or up to two once that has lasted for 1/4 ms, as looks cost the
 * producer time. A signal does not end its wait, wake does.
 *
 * adaptive: polls as often as it takes to find about 64 events at a time at the rate that it
 * measured (weight 1/8 a poll), between 50 us and MAX_USEC (50 ... 1000000, default 2000); while
 * nothing comes, the interval doubles up to MAX_USEC; after a poll that found events and left some it
 * is 50 us. (What is left but cannot be read is not committed: that is waited for as in silence.)
 *
 * timer: polls every USEC (1 ... 1000000) microseconds, on a grid.
 *
 * futex, doorbell: sleep until a producer rings, by a word of a local region (futex), or by a descriptor
 * (doorbell: an ivshmem device's). Only who sleeps is rung: after a look that found something there is
 * another one 50 us later, and only when that finds nothing the rings are armed. At the latest after
 * 100 ms there is a look, rung or not. For nothing nobody is rung for long: after a ring without a record the next look is
 * after 50 us, and twice as long each time, up to 2 ms; as are looks at a record that is not committed. So there are at
 * most 20000 looks a second, whatever producers do, and other rings are read at each. While some ring has no bell, or
 * one of the other kind, all are polled as adaptive does, and rings end the sleep earlier. futex needs Linux 5.16.
 *
 * Sleeping adds the thread's timer slack (50 us unless prctl(PR_SET_TIMERSLACK) says otherwise).
 */
int htrace_sync_new(struct htrace_sync **out, const char *policy,
		    const struct htrace_sync_target *target);
/*
 * The policy's calls, as in struct htrace_sync_ops: wait gives 1 (look), 0 (@max_ns are over) or
 * -EINTR; wake may be called from any thread or signal handler; free allows NULL.
 */
int htrace_sync_wait(struct htrace_sync *s, __u64 max_ns);
void htrace_sync_did(struct htrace_sync *s, __u64 events, __u64 backlog);
void htrace_sync_wake(struct htrace_sync *s);
void htrace_sync_free(struct htrace_sync *s);
/* Names of all policies, comma-separated, for messages. */
const char *htrace_sync_names(void);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
