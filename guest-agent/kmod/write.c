// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * What BPF programs call. Any context, NMI included: no locks, nothing sleeps, retries are bounded.
 *
 * The host, and whoever has the region mapped here, may write anything anywhere into the rings at
 * any time. So where things are is known from a private copy of the geometry that was checked, and
 * positions that are read are masked: ring.h's accesses then stay within the ring's image.
 */
#include <linux/bpf.h>
#include <linux/btf.h>
#include <linux/btf_ids.h>
#include <linux/cpumask.h>
#include <linux/module.h>
#include <linux/rcupdate.h>
#include <linux/slab.h>
#include <linux/timekeeping.h>
#include <linux/version.h>

#include <htrace/abi.h>
#include <htrace/ring.h>

#include "kmod.h"

#ifndef __bpf_kfunc
#define __bpf_kfunc __used noinline
#endif
#ifndef BTF_KFUNCS_START
#define BTF_KFUNCS_START BTF_SET8_START
#define BTF_KFUNCS_END BTF_SET8_END
#endif

struct rings {
	struct rcu_head rcu;
	u64 session;
	char *first;
	u64 stride;
	u32 nr;
	const struct htrace_host_ring *host;
	struct htrace_geometry geometry;
	/* The bell: what the host wants, and how; regs NULL: the device has none. */
	const u32 *sync;
	void __iomem *regs;
	u32 vectors;
};

/*
 * Changed with the device's lock held. Readers have preemption disabled, which keeps them on their
 * CPU too; synchronize_rcu() waits for them.
 */
static struct rings __rcu *current_rings;
static void __iomem *current_regs;

/* This CPU's ring, while preemption is disabled; NULL: there is none. */
static struct htrace_ring *this_ring(const struct rings **rings, unsigned int *cpu)
{
	*rings = rcu_dereference_sched(current_rings);
	*cpu = smp_processor_id();
	if (!*rings || *cpu >= (*rings)->nr)
		return NULL;
	return (void *)((*rings)->first + *cpu * (*rings)->stride);
}

/*
 * The host could want a bell with each record, and each costs an exit. So a CPU rings once in BELL_NS
 * in the long run, BELL_BURST_NS / BELL_NS times at once. No reader that sleeps and is woken in between
 * is as fast; one that is rung for in vain is woken by its own bound.
 */
#define BELL_NS 10000
#define BELL_BURST_NS 10000000
static DEFINE_PER_CPU(u64, bells_until);

/* An NMI in between makes this forget a bell: no harm. */
static bool may_ring(void)
{
	u64 now = ktime_get_mono_fast_ns(), until = __this_cpu_read(bells_until);

	if ((s64)(until - now) > BELL_BURST_NS)
		return false;
	__this_cpu_write(bells_until, ((s64)(until - now) > 0 ? until : now) + BELL_NS);
	return true;
}

/* @slot is committed in the ring of @cpu: wake the host's reader, if it sleeps and waits for this. */
static void wake_reader(const struct rings *r, unsigned int cpu, const struct htrace_slot *slot)
{
	u32 sync, vector;

	if (!r->regs)
		return;
	smp_mb__after_atomic(); /* the commit, then what the reader wants: it does the reverse */
	sync = READ_ONCE(*r->sync);
	if (!(sync & HTRACE_SYNC_RING))
		return;
	vector = sync >> HTRACE_SYNC_VECTOR_SHIFT & 0xffff;
	if (vector < r->vectors &&
	    htrace_ring_needs_bell(slot->from, slot->to, READ_ONCE(r->host[cpu].event_idx)) &&
	    may_ring())
		writel(vector, r->regs + REG_DOORBELL); /* of peer 0 */
}

#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Wmissing-prototypes"
#pragma GCC diagnostic ignored "-Wmissing-declarations"

/*
 * Record @data as an event @id, written under generation @schema of the region's schema, in this
 * CPU's ring. -ENOSPC: dropped and counted. -ENODEV: there are no rings.
 */
__bpf_kfunc int htrace_write(u32 id, u32 schema, const void *data, u32 data__sz)
{
	const struct rings *rings;
	struct htrace_ring *ring;
	unsigned int cpu;
	int ret = -ENODEV;

	preempt_disable_notrace();
	ring = this_ring(&rings, &cpu);
	if (ring) {
		struct htrace_slot slot;
		void *to = htrace_reserve(ring, &rings->geometry, &rings->host[cpu].consumed, id,
					  data__sz, schema, ktime_get_mono_fast_ns(), &slot);

		ret = -ENOSPC;
		if (to) {
			memcpy(to, data, data__sz);
			htrace_commit(&slot);
			wake_reader(rings, cpu, &slot);
			ret = 0;
		}
	}
	preempt_enable_notrace();
	return ret;
}

/* Count an event that is too large to be recorded, as htrace_write() does. */
__bpf_kfunc int htrace_refuse(void)
{
	const struct rings *rings;
	struct htrace_ring *ring;
	unsigned int cpu;
	int ret = -ENODEV;

	preempt_disable_notrace();
	ring = this_ring(&rings, &cpu);
	if (ring) {
		htrace_add(&ring->refused, 1);
		htrace_ring_drop(ring);
		ret = 0;
	}
	preempt_enable_notrace();
	return ret;
}

/* Interrupt @vector of @peer. -ENODEV: there is no device, or one that has no interrupts. */
__bpf_kfunc int htrace_doorbell(u32 peer, u32 vector)
{
	void __iomem *regs;
	int ret = -ENODEV;

	if (peer > U16_MAX || vector > U16_MAX)
		return -EINVAL;
	preempt_disable_notrace();
	regs = READ_ONCE(current_regs);
	if (regs) {
		writel(peer << 16 | vector, regs + REG_DOORBELL);
		ret = 0;
	}
	preempt_enable_notrace();
	return ret;
}

#pragma GCC diagnostic pop

BTF_KFUNCS_START(htrace_kfuncs)
BTF_ID_FLAGS(func, htrace_write)
BTF_ID_FLAGS(func, htrace_refuse)
BTF_ID_FLAGS(func, htrace_doorbell)
BTF_KFUNCS_END(htrace_kfuncs)

static const struct btf_kfunc_id_set kfunc_set = {
	.owner = THIS_MODULE,
	.set = &htrace_kfuncs,
};

int htrace_kfuncs_register(void)
{
#if LINUX_VERSION_CODE >= KERNEL_VERSION(6, 2, 0)
	return register_btf_kfunc_id_set(BPF_PROG_TYPE_UNSPEC, &kfunc_set); /* all types */
#else
	/* One that is refused would undo those before it: only what is sure. */
	return register_btf_kfunc_id_set(BPF_PROG_TYPE_TRACING, &kfunc_set);
#endif
}

/* ---------------------------------------------------------------------------------- the rings */

/* Of @count pieces, @stride apart, the last of which is @len long: do they end within @size? */
static bool fits(u64 off, u64 count, u64 stride, u64 len, u64 size)
{
	u64 span, end;

	return !check_mul_overflow(count - 1, stride, &span) &&
	       !check_add_overflow(off, span, &end) && !check_add_overflow(end, len, &end) &&
	       end <= size;
}

static bool is_sound(const struct htrace_module_rings *r, u64 size)
{
	u64 ring, blocks;

	if (r->reserved || !r->nr_rings || r->nr_rings > HTRACE_MAX_CPUS ||
	    (r->policy != HTRACE_DISCARD && r->policy != HTRACE_OVERWRITE) ||
	    r->block_shift < HTRACE_BLOCK_SHIFT_MIN || r->block_shift > HTRACE_BLOCK_SHIFT_MAX ||
	    r->ring_shift <= r->block_shift || r->ring_shift > HTRACE_RING_SHIFT_MAX ||
	    r->first_slot > HTRACE_MAX_RINGS - r->nr_rings)
		return false;
	ring = 1ULL << r->ring_shift;
	blocks = ring >> r->block_shift;
	return (r->off | r->stride | r->data_off) % 8 == 0 && r->off >= HTRACE_FIXED_END &&
	       r->desc_off % sizeof(struct htrace_block) == 0 &&
	       r->desc_off >= sizeof(struct htrace_ring) && blocks <= HTRACE_MAX_BLOCKS &&
	       fits(r->desc_off, blocks, sizeof(struct htrace_block),
		    sizeof(struct htrace_block), r->data_off) &&
	       r->stride >= r->data_off + ring && /* 32 and 40 bits: no overflow */
	       fits(r->off, r->nr_rings, r->stride, r->data_off + ring, size);
}

static struct rings *make_rings(struct htrace_dev *d, const struct htrace_module_rings *r)
{
	struct rings *rings = kzalloc(sizeof(*rings), GFP_KERNEL);

	if (!rings)
		return NULL;
	rings->session = r->session;
	rings->first = d->mem + r->off;
	rings->stride = r->stride;
	rings->nr = r->nr_rings;
	rings->host = (void *)(d->mem + HTRACE_HOST_RINGS_OFF);
	rings->host += r->first_slot;
	rings->sync = &((struct htrace_host *)(d->mem + HTRACE_HOST_OFF))->sync;
	rings->regs = d->flags & HTRACE_MODULE_DOORBELL ? d->regs : NULL;
	rings->vectors = d->vectors;
	rings->geometry = (struct htrace_geometry){
		.ring_mask = (1ULL << r->ring_shift) - 1,
		.ring_shift = r->ring_shift,
		.block_shift = r->block_shift,
		.desc_off = r->desc_off,
		.data_off = r->data_off,
		.max_payload = HTRACE_MAX_PAYLOAD(r->block_shift),
		.policy = r->policy,
	};
	return rings;
}

int htrace_rings_set(struct htrace_dev *d, const struct htrace_module_rings *r)
{
	struct rings *new = NULL, *old;

	if (r && r->session) {
		if (!is_sound(r, d->size))
			return -EINVAL;
		new = make_rings(d, r);
		if (!new)
			return -ENOMEM;
	}
	old = rcu_replace_pointer(current_rings, new, lockdep_is_held(&d->lock));
	synchronize_rcu();
	kfree(old);
	return 0;
}

u64 htrace_rings_session(void)
{
	const struct rings *r;
	u64 session;

	rcu_read_lock_sched();
	r = rcu_dereference_sched(current_rings);
	session = r ? r->session : 0;
	rcu_read_unlock_sched();
	return session;
}

void htrace_doorbell_set(void __iomem *regs)
{
	WRITE_ONCE(current_regs, regs);
	synchronize_rcu();
}
