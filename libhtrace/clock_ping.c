/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * Ping-pong of clocks through the region: the host asks, the guest answers with its TSC. The answer's
 * TSC was read after the host had stored its question and before it saw the answer, so it lies between
 * the host's readings around both, whatever else was slow.
 */
#include <errno.h>
#include <string.h>

#include <htrace/clock.h>

#include "core.h"

#define ROUNDS 32           /* of a burst */
#define FIRST_NS 3000000ULL /* for an answer: it may nap between two looks */
#define ROUND_NS 200000ULL  /* for those that follow: the guest's CPU may have lost its own */
#define BURST_NS 4000000ULL /* all of it: other sources wait meanwhile */
#define ANSWERS 64
#define LISTEN_NS 4000000ULL /* all of it, in the guest */
#define SPINS 32             /* between two looks at the clock */

#ifdef __x86_64__
static void relax(void)
{
	__builtin_ia32_pause();
}

/* ------------------------------------------------------------------------------------ the guest */

/* The word changes from @seen, until @until. */
static bool await_ping(const __u64 *word, __u64 seen, __u64 until, __u64 *ping)
{
	do {
		for (int i = 0; i < SPINS; i++) {
			/* Acquire: what we read the TSC for comes after the question. */
			*ping = __atomic_load_n(word, __ATOMIC_ACQUIRE);
			if (*ping != seen)
				return true;
			relax();
		}
	} while (htrace_clock_monotonic() < until);
	return false;
}

static void answer(struct htrace_region *r, __u64 ping)
{
	struct htrace_guest *g = htrace_region_guest(r);

	/* It fences: not read before the question was. */
	htrace_store(&g->clock_tsc, htrace_clock_tsc());
	htrace_region_fence(r);
	/* Release: whoever sees the answer sees its TSC, which was read before. */
	__atomic_store_n(&g->clock_pong, ping, __ATOMIC_RELEASE);
	htrace_region_fence(r);
}

unsigned int htrace_region_answer(struct htrace_region *r, __u64 wait_ns)
{
	const __u64 *word = &htrace_region_host(r)->clock_ping;
	struct htrace_guest *g = htrace_region_guest(r);
	__u64 pong = htrace_load(&g->clock_pong), ping, end, until;
	unsigned int nr = 0;

	ping = __atomic_load_n(word, __ATOMIC_ACQUIRE);
	if (!pong) { /* from here on it is known that somebody answers */
		__atomic_store_n(&g->clock_pong, ping ? ping : 1, __ATOMIC_RELEASE);
		return 0;
	}
	if (!ping || ping == pong)
		return 0;
	end = htrace_clock_monotonic() + LISTEN_NS;
	do {
		answer(r, ping);
		until = htrace_clock_monotonic() + wait_ns;
	} while (++nr < ANSWERS && await_ping(word, ping, until < end ? until : end, &ping) && ping);
	return nr;
}

/* ------------------------------------------------------------------------------------- the host */

static const struct htrace_guest *guest_of(const struct htrace_view *v)
{
	return (const void *)((const char *)v->mem + v->super.guest.off);
}

static void ask(struct htrace_view *v)
{
	struct htrace_host *h = htrace_view_host(v);

	v->ping++;
	v->ping_tsc = htrace_clock_tsc();
	htrace_store(&h->clock_tsc, v->ping_tsc);
	/* Release; and no store is visible before an earlier reading of the TSC is done. */
	__atomic_store_n(&h->clock_ping, v->ping, __ATOMIC_RELEASE);
}

static bool answered(const struct htrace_view *v)
{
	/* Acquire: then its TSC is there. */
	return __atomic_load_n(&guest_of(v)->clock_pong, __ATOMIC_ACQUIRE) == v->ping;
}

int htrace_view_ping(struct htrace_view *v)
{
	__u64 pong;

	if (!htrace_view_host(v))
		return -EACCES;
	if (!v->attached || !htrace_view_may_write(v))
		return -EINVAL;
	pong = __atomic_load_n(&guest_of(v)->clock_pong, __ATOMIC_ACQUIRE);
	if (!pong)
		return -EOPNOTSUPP;
	/* A number that no reader before asked by, nor one that is answered already. */
	if (!v->ping)
		v->ping = (htrace_load(&htrace_view_host(v)->clock_ping) | 0xffff) + htrace_random() % 0xffff;
	if (v->ping + 1 == pong)
		v->ping++;
	ask(v);
	return 0;
}

/*
 * What the answer to the latest question says of guest TSC less host TSC, modulo 2^64. False: no sense
 * in it, together with those before.
 */
static bool narrow(const struct htrace_view *v, struct htrace_pong *p)
{
	__u64 tsc = htrace_load(&guest_of(v)->clock_tsc), now = htrace_clock_tsc();
	__u64 low = tsc - now, high = tsc - v->ping_tsc;

	p->tsc = v->ping_tsc + (now - v->ping_tsc) / 2;
	if (!p->rounds++) {
		p->low = low;
		p->high = high;
		return true;
	}
	if ((__s64)(low - p->low) > 0)
		p->low = low;
	if ((__s64)(high - p->high) < 0)
		p->high = high;
	return (__s64)(p->high - p->low) >= 0;
}

static bool await_answer(const struct htrace_view *v, __u64 ns)
{
	__u64 until = htrace_clock_monotonic() + ns;

	do {
		for (int i = 0; i < SPINS; i++) {
			if (answered(v))
				return true;
			relax();
		}
	} while (htrace_clock_monotonic() < until);
	return false;
}

int htrace_view_pong(struct htrace_view *v, struct htrace_pong *p)
{
	__u64 until = htrace_clock_monotonic() + BURST_NS;
	int ret = 0;

	memset(p, 0, sizeof(*p));
	if (!v->attached || !v->ping || !answered(v))
		return -EAGAIN;
	do {
		if (!narrow(v, p)) {
			ret = -EPROTO;
			break;
		}
		if (p->rounds == ROUNDS || htrace_clock_monotonic() >= until)
			break;
		ask(v);
	} while (await_answer(v, p->rounds > 1 ? ROUND_NS : FIRST_NS));
	htrace_store(&htrace_view_host(v)->clock_ping, 0); /* it need not listen any more */
	return ret;
}

#else /* clocks of others are not read by the host */

unsigned int htrace_region_answer(struct htrace_region *r, __u64 wait_ns)
{
	return 0;
}

int htrace_view_ping(struct htrace_view *v)
{
	return -EOPNOTSUPP;
}

int htrace_view_pong(struct htrace_view *v, struct htrace_pong *p)
{
	memset(p, 0, sizeof(*p));
	return -EAGAIN;
}
#endif
