/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which exits and totals a guest is told of, and how many at most: without KVM, from a map of the
 * test's own.
 */
#include "../../host-reader/tell_kvm.c" /* NOLINT: without libbpf */

#include <htrace/consumer.h>

#include "unit.h"

#define SEC 1000000000ULL
#define LOOK_NS 5000000ULL

struct rig {
	struct teller teller;
	struct kvm_tell_vcpu *map;
	struct told_vm *vm;
	struct tell *tell;
	struct htrace_host *host; /* a granule */
	struct htrace_consumer *consumer;
	__u64 now;
	/* as the guest gets them */
	unsigned int exits, totals, of_vcpu[KVM_TELL_VCPUS], times_told[KVM_TELL_REASONS];
	bool late; /* some virtual CPUs wait for their turn: their exits come behind others' */
	__u64 last_time, last_out, sum[KVM_TELL_VCPUS];
};

static void rig_init(struct rig *r, unsigned int nr)
{
	struct htrace_consumer_opts opts = { .sz = sizeof(opts) };
	struct htrace_image img = { .kind = HTRACE_RING_PER_CPU, .placement = HTRACE_PLACEMENT_IVSHMEM };

	memset(r, 0, sizeof(*r));
	r->now = 100 * SEC;
	r->map = calloc(nr, sizeof(*r->map));
	r->teller.vcpu = r->map;
	r->vm = calloc(1, sizeof(*r->vm) + nr * sizeof(r->vm->vcpu[0]));
	r->vm->teller = &r->teller;
	r->vm->nr = r->vm->nr_numbers = nr;
	r->vm->totals_at = r->now;
	for (unsigned int i = 0; i < nr; i++) {
		r->vm->vcpu[i].from = &r->map[i];
		r->vm->vcpu[i].number = i;
		r->map[i].isa = HTRACE_ISA_SVM;
	}
	ck_assert_int_eq(tell_new(&r->tell, r->now), 0);
	r->host = aligned_alloc(4096, HTRACE_GRANULE);
	memset(r->host, 0, HTRACE_GRANULE);
	tell_flush(r->tell, r->host, r->now);
	img.ring = (const void *)((char *)r->host + (HTRACE_TOLD_OFF - HTRACE_HOST_OFF));
	img.geometry = (struct htrace_geometry){
		.ring_mask = (1u << HTRACE_TOLD_RING_SHIFT) - 1, .ring_shift = HTRACE_TOLD_RING_SHIFT,
		.block_shift = HTRACE_TOLD_BLOCK_SHIFT, .desc_off = HTRACE_TOLD_DESC_OFF,
		.data_off = HTRACE_TOLD_DATA_OFF, .max_payload = 2000, .policy = HTRACE_OVERWRITE,
	};
	ck_assert_int_eq(htrace_consumer_new(&r->consumer, &img, &opts), 0);
}

static void rig_free(struct rig *r)
{
	htrace_consumer_free(r->consumer);
	tell_free(r->tell);
	free(r->host);
	free(r->vm);
	free(r->map);
}

/* As the programs do it. */
static void leave(struct rig *r, unsigned int vcpu, unsigned int reason, __u64 out)
{
	struct kvm_tell_vcpu *v = &r->map[vcpu];

	v->exit[v->nr_exits++ % KVM_TELL_EXITS] = (struct kvm_tell_exit){
		.at = r->now, .reason = reason, .isa = HTRACE_ISA_SVM, .times.out = out,
	};
	v->counted[reason].exits++;
	v->counted[reason].times.out += out;
}

static int got(void *arg, const struct htrace_record *rec, const struct htrace_batch *b)
{
	struct htrace_told_exit e;
	struct rig *r = arg;

	(void)b;
	memcpy(&e, rec->payload, sizeof(e));
	if (rec->id == HTRACE_TOLD_TOTAL) {
		r->totals++;
		if (e.reason < KVM_TELL_REASONS)
			r->times_told[e.reason]++;
		r->sum[e.vcpu] = ((const struct htrace_told_total *)rec->payload)->exits;
		return 0;
	}
	ck_assert(r->late || rec->time >= r->last_time);
	r->last_time = rec->time;
	r->last_out = e.out_ns;
	r->exits++;
	r->of_vcpu[e.vcpu]++;
	return 0;
}

static int lost(void *arg, const struct htrace_batch *b)
{
	(void)arg;
	ck_assert_uint_eq(b->overwritten + b->dropped + b->corrupt + b->before, 0);
	return 0;
}

/* One look of the host, then one of the guest. */
static unsigned int look(struct rig *r, bool all)
{
	const struct htrace_each_opts opts = { .sz = sizeof(opts), .record = got, .loss = lost, .ctx = r };
	unsigned int nr = told_vm_look(r->vm, r->tell, r->host, r->now, all);

	ck_assert_int_ge(htrace_consumer_each(r->consumer, &opts), 0);
	r->now += LOOK_NS;
	return nr;
}

/* Few exits: each of them, in their order, whichever virtual CPU's. */
START_TEST(test_each)
{
	struct rig r;

	rig_init(&r, 3);
	for (unsigned int i = 0; i < 300; i++, r.now += 1000) {
		leave(&r, i % 3, 0x78, i);
		if (i % 50 == 49)
			ck_assert_uint_eq(look(&r, false), 50);
	}
	ck_assert_uint_eq(r.exits, 300);
	ck_assert_uint_eq(r.last_out, 299);
	ck_assert_uint_eq(look(&r, false), 0);
	rig_free(&r);
}
END_TEST

/* More than are kept: the newest; the total has them all. */
START_TEST(test_lapped)
{
	struct rig r;

	rig_init(&r, 1);
	for (unsigned int i = 0; i < 1000; i++)
		leave(&r, 0, 0x7b, i);
	ck_assert_uint_eq(look(&r, true), KVM_TELL_EXITS - 1);
	ck_assert_uint_eq(r.last_out, 999);
	ck_assert_uint_eq(r.sum[0], 1000);
	rig_free(&r);
}
END_TEST

/* Many virtual CPUs that do nothing else: the work is bounded, and each has its turn. */
START_TEST(test_bounded)
{
	struct rig r;

	rig_init(&r, 512);
	r.late = true;
	for (unsigned int i = 0; i < 2000; i++) {
		unsigned int exits = r.exits, totals = r.totals;

		for (unsigned int v = 0; v < 512; v++)
			leave(&r, v, i % 100, 1);
		ck_assert_uint_le(look(&r, false), EXITS_PER_LOOK);
		ck_assert_uint_le(r.exits - exits, EXITS_PER_LOOK);
		ck_assert_uint_le(r.totals - totals, TOTALS_PER_LOOK);
	}
	for (unsigned int v = 0; v < 512; v++)
		ck_assert_uint_gt(r.of_vcpu[v], 0);
	rig_free(&r);
}
END_TEST

/* Each total about once a second, whether it changes or not, and no reason that did not occur. */
START_TEST(test_totals)
{
	struct rig r;

	rig_init(&r, 2);
	leave(&r, 0, 0x78, 1);
	leave(&r, 1, 0xff - 0x40, 1); /* the last that has an entry by its number */
	leave(&r, 1, KVM_TELL_OTHER - 1, 1);
	for (unsigned int i = 0; i < 10 * SEC / LOOK_NS; i++)
		look(&r, false);
	ck_assert_uint_ge(r.times_told[0x78], 9);
	ck_assert_uint_le(r.times_told[0x78], 11);
	ck_assert_uint_le(r.totals, 33);
	ck_assert_uint_ge(r.totals, 27);
	rig_free(&r);
}
END_TEST

static int reasons(void *arg, const struct htrace_record *rec, const struct htrace_batch *b)
{
	const struct htrace_told_exit *e = rec->payload;
	__u32 *seen = arg;

	(void)b;
	if (rec->id == HTRACE_TOLD_TOTAL)
		seen[seen[0] < 8 ? ++seen[0] : 8] = e->reason;
	return 0;
}

/* Entries of the map are reasons by the CPUs' numbers. */
START_TEST(test_reasons)
{
	const struct htrace_each_opts opts = { .sz = sizeof(opts), .record = reasons, .ctx = (__u32[9]){ 0 } };
	const __u32 *seen = opts.ctx;
	struct rig r;

	rig_init(&r, 1);
	r.map[0].counted[0].exits = r.map[0].counted[KVM_TELL_HIGH - 1].exits = 1;
	r.map[0].counted[KVM_TELL_HIGH].exits = r.map[0].counted[KVM_TELL_OTHER - 1].exits = 1;
	r.map[0].counted[KVM_TELL_OTHER].exits = 1;
	told_vm_look(r.vm, r.tell, r.host, r.now, true);
	ck_assert_int_eq(htrace_consumer_each(r.consumer, &opts), 5);
	ck_assert_uint_eq(seen[1], 0);
	ck_assert_uint_eq(seen[2], 191);
	ck_assert_uint_eq(seen[3], 0x400);
	ck_assert_uint_eq(seen[4], 0x40e);
	ck_assert_uint_eq(seen[5], HTRACE_TOLD_OTHER);
	rig_free(&r);
}
END_TEST

/* At the end all that changed, in portions that the ring holds; a second time nothing. */
START_TEST(test_end)
{
	struct rig r;

	rig_init(&r, 40);
	for (unsigned int v = 0; v < 40; v++)
		for (unsigned int reason = 0; reason < 10; reason++)
			leave(&r, v, reason, 7);
	look(&r, false); /* the exits, as many as there may be */
	ck_assert_uint_eq(r.totals, 0);
	look(&r, true);
	ck_assert_uint_eq(r.totals, 400);
	look(&r, true);
	ck_assert_uint_eq(r.totals, 400);
	leave(&r, 39, 9, 1);
	r.late = true;
	look(&r, true);
	ck_assert_uint_eq(r.totals, 401);
	ck_assert_uint_eq(r.sum[39], 2);
	rig_free(&r);
}
END_TEST

/* A process that has no VM, and one that cannot be looked at, which might have two. */
START_TEST(test_several)
{
	ck_assert(!has_several_vms(getpid()));
	ck_assert(has_several_vms(0x7fffffff));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("tell_kvm");
	TCase *c = tcase_create("look");

	tcase_add_test(c, test_each);
	tcase_add_test(c, test_lapped);
	tcase_add_test(c, test_bounded);
	tcase_add_test(c, test_totals);
	tcase_add_test(c, test_reasons);
	tcase_add_test(c, test_end);
	tcase_add_test(c, test_several);
	suite_add_tcase(s, c);
	return unit_run(s);
}
