/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A ring's mirror: a reader of it gets what a reader of the ring would have got. */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/relay.h>

#include "core.h"
#include "unit.h"

#include "ringbox.h"

#define RING 8192u
#define BLOCK 512u
#define REGION (2u << 20)

/* A ring, a region with its mirror, and a reader of that. */
struct rig {
	struct ringbox box;
	void *mem;
	struct htrace_region *region;
	struct htrace_relay *relay;
	struct htrace_image mirror;
	__u64 consumed; /* the reader's word */
	__u64 direct_consumed;
	bool direct; /* the reader went over */
};

static void rig_relay(struct rig *t)
{
	ck_assert_int_eq(htrace_relay_new(&t->relay, t->region, 1, 0, t->box.ring), 0);
}

static void rig_read_mirror(struct rig *t)
{
	struct htrace_consumer_opts o = { .sz = sizeof(o) };

	if (t->box.g.policy == HTRACE_DISCARD)
		o.consumed = &t->consumed;
	ck_assert_int_eq(htrace_consumer_new(&t->box.c, &t->mirror, &o), 0);
}

static void rig_init(struct rig *t, enum htrace_policy policy)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_VSHMEM, .policy = policy,
		.kind = HTRACE_RING_PER_CPU, .nr_rings = 1, .ring_size = RING, .block_size = BLOCK,
		.relay = true, .io_memory = true,
	};

	memset(t, 0, sizeof(*t));
	box_init_ring(&t->box, RING, BLOCK, policy);
	t->mem = aligned_alloc(4096, REGION);
	memset(t->mem, 0xa5, REGION); /* what is needed zeroed is zeroed */
	ck_assert_int_eq(htrace_region_fits(REGION, &o), 0);
	ck_assert_int_eq(htrace_region_format(&t->region, t->mem, REGION, &o), 0);
	t->mirror.placement = HTRACE_PLACEMENT_IVSHMEM;
	t->mirror.ring = htrace_region_ring(t->region, 1, 0, &t->mirror.geometry);
	ck_assert_ptr_nonnull(t->mirror.ring);
	rig_relay(t);
	rig_read_mirror(t);
}

static void rig_free(struct rig *t)
{
	htrace_relay_free(t->relay);
	htrace_region_release(t->region);
	free(t->mem);
	box_free(&t->box);
}

static void rig_copy(struct rig *t, __u64 max)
{
	ck_assert_int_ge(htrace_relay_copy(t->relay, max), 0);
}

static void rig_copy_all(struct rig *t)
{
	int ret;

	while ((ret = htrace_relay_copy(t->relay, RING)) == 1)
		;
	ck_assert_int_eq(ret, 0);
}

/* As the agent does. */
static void rig_forward(struct rig *t)
{
	__u64 to = t->direct ? t->direct_consumed : t->consumed;

	if (to > t->box.ring->consumed)
		t->box.ring->consumed = to;
}

static void rig_move(struct rig *t)
{
	__u64 at = __atomic_load_n(&t->mirror.ring->handover, __ATOMIC_ACQUIRE);

	if (t->direct || !at || htrace_consumer_position(t->box.c) < at - 1)
		return;
	ck_assert_uint_eq(htrace_consumer_position(t->box.c), at - 1);
	ck_assert_int_eq(htrace_consumer_move(t->box.c, &t->box.image,
					      t->box.g.policy == HTRACE_DISCARD ?
						      &t->direct_consumed : NULL), 0);
	t->direct = true;
}

START_TEST(test_verbatim)
{
	struct rig t;

	rig_init(&t, HTRACE_OVERWRITE);
	for (int i = 0; i < 500; i++) {
		ck_assert_int_eq(box_push(&t.box, 8 + i % 40), 0);
		rig_copy_all(&t);
		box_drain(&t.box);
		ck_assert_uint_eq(t.box.received, t.box.produced);
	}
	ck_assert(!memcmp((const char *)t.mirror.ring + t.box.g.desc_off,
			  (const char *)t.box.ring + t.box.g.desc_off,
			  t.box.g.data_off - t.box.g.desc_off));
	ck_assert_uint_eq(t.box.lost, 0);
	rig_free(&t);
}
END_TEST

/* Nothing of a record that is not committed gets through, nor of those behind it. */
START_TEST(test_uncommitted)
{
	struct htrace_slot slot;
	struct rig t;

	rig_init(&t, HTRACE_OVERWRITE);
	box_push(&t.box, 8);
	rig_copy_all(&t);
	ck_assert_ptr_nonnull(box_reserve(&t.box, 8, &slot));
	box_push(&t.box, 8);
	rig_copy_all(&t);
	box_drain(&t.box);
	ck_assert_uint_eq(t.box.received, 1);
	htrace_commit(&slot);
	rig_copy_all(&t);
	box_drain(&t.box);
	ck_assert_uint_eq(t.box.received, 3);
	rig_free(&t);
}
END_TEST

/* Overtaken by the producers: the reader tells how much, at the gap. */
START_TEST(test_relay_lapped)
{
	struct htrace_batch b;
	struct rig t;
	__u64 first;
	__u64 seq;

	rig_init(&t, HTRACE_OVERWRITE);
	for (int i = 0; i < 10; i++)
		box_push(&t.box, 8);
	rig_copy_all(&t);
	box_drain(&t.box);
	for (int i = 0; i < 5000; i++)
		box_push(&t.box, 8);
	rig_copy_all(&t);
	ck_assert_int_eq(htrace_consumer_read(t.box.c, &b), 1);
	memcpy(&seq, b.data + 8, 8);
	first = seq;
	ck_assert_uint_eq(b.overwritten, first - 10);
	t.box.received += b.events;
	t.box.lost += b.overwritten;
	t.box.expect = first + b.events;
	box_check(&t.box);
	ck_assert_uint_eq(htrace_consumer_backlog(t.box.c), 0);
	rig_free(&t);
}
END_TEST

/* Everything at random: pushes, a slow relay that is killed and started again, a slow reader. */
static void random_run(enum htrace_policy policy, unsigned long long seed)
{
	bool hand_over = seed & 1;
	struct rig t;

	rig_init(&t, policy);
	for (int i = 0; i < 4000; i++) {
		unsigned int burst = unit_random(&seed) % 100 < 3 ? 600 : 6;

		for (unsigned long long n = unit_random(&seed) % burst; n; n--)
			box_push(&t.box, 8 + unit_random(&seed) % 60);
		if (unit_random(&seed) % 3 == 0 && !htrace_relay_handed_over(t.relay))
			rig_copy(&t, unit_random(&seed) % 3000);
		if (unit_random(&seed) % 50 == 0) {
			htrace_relay_free(t.relay);
			rig_relay(&t);
		}
		if (hand_over && i == 2000)
			htrace_relay_hand_over(t.relay);
		for (unsigned long long n = unit_random(&seed) % 4; n; n--) {
			box_read(&t.box);
			rig_move(&t);
		}
		rig_forward(&t);
	}
	for (int i = 0; i < 3; i++) {
		if (!hand_over)
			rig_copy_all(&t);
		box_drain(&t.box);
		rig_move(&t);
	}
	EXPECT(t.direct == hand_over);
	ck_assert_msg(t.box.received + t.box.lost == t.box.produced && !t.box.before,
		      "received %llu + lost %llu, before %llu; produced %llu",
		      (unsigned long long)t.box.received, (unsigned long long)t.box.lost,
		      (unsigned long long)t.box.before, (unsigned long long)t.box.produced);
	ck_assert_uint_gt(t.box.received, 1000);
	ck_assert_uint_eq(htrace_consumer_backlog(t.box.c), 0);
	rig_free(&t);
}

START_TEST(test_random)
{
	for (unsigned long long seed = 0; seed < 40; seed++)
		random_run(_i ? HTRACE_DISCARD : HTRACE_OVERWRITE, seed * 7919 + (seed & 1));
}
END_TEST

/* A reader that comes late, to a region that an earlier relay left in the midst of a gap. */
START_TEST(test_killed_in_gap)
{
	struct rig t;

	rig_init(&t, HTRACE_OVERWRITE);
	for (int i = 0; i < 3000; i++)
		box_push(&t.box, 8);
	rig_copy(&t, 1); /* one block behind the gap */
	htrace_relay_free(t.relay);
	rig_relay(&t);
	rig_copy_all(&t);
	box_check(&t.box);
	ck_assert_uint_eq(htrace_consumer_backlog(t.box.c), 0);
	ck_assert_uint_gt(t.box.received, 300);
	rig_free(&t);
}
END_TEST

/* Handed over, then taken back: a new reader of the mirror gets on with it. */
START_TEST(test_resume)
{
	struct rig t;

	rig_init(&t, HTRACE_OVERWRITE);
	for (int i = 0; i < 100; i++)
		box_push(&t.box, 8);
	rig_copy_all(&t);
	htrace_relay_hand_over(t.relay);
	ck_assert(htrace_relay_handed_over(t.relay));
	box_drain(&t.box);
	for (int i = 0; i < 2000; i++)
		box_push(&t.box, 8);
	htrace_relay_resume(t.relay);
	rig_copy_all(&t);
	rig_move(&t);
	ck_assert(!t.direct);
	box_check(&t.box);
	ck_assert_uint_eq(htrace_consumer_backlog(t.box.c), 0);
	rig_free(&t);
}
END_TEST

START_TEST(test_refused)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_VSHMEM, .policy = HTRACE_OVERWRITE,
		.kind = HTRACE_RING_PER_CPU, .nr_rings = 4, .ring_size = 1 << 20, .relay = true,
	};
	struct htrace_relay *r;
	struct rig t;

	ck_assert_int_eq(htrace_region_fits(REGION, &o), -ENOSPC);
	o.relay = false;
	ck_assert_int_eq(htrace_region_fits(REGION, &o), 0);
	rig_init(&t, HTRACE_OVERWRITE);
	ck_assert_int_eq(htrace_relay_new(&r, t.region, 0, 0, t.box.ring), -EINVAL);
	ck_assert_int_eq(htrace_relay_new(&r, t.region, 1, 1, t.box.ring), -EINVAL);
	rig_free(&t);
}
END_TEST

/* What a superblock may say about mirrors. */
START_TEST(test_shapes)
{
	struct htrace_super s;
	char why[160] = "";
	struct rig t;

	rig_init(&t, HTRACE_OVERWRITE);
	s = *htrace_region_super(t.region);
	ck_assert_int_eq(htrace_super_check(&s, REGION, why, sizeof(why)), 0);
#define WRONG(change, says)                                                                  \
	do {                                                                                 \
		s = *htrace_region_super(t.region);                                          \
		s.change;                                                                    \
		ck_assert_int_eq(htrace_super_check(&s, REGION, why, sizeof(why)), -EPROTO); \
		ck_assert_ptr_nonnull(strstr(why, says));                                    \
	} while (0)
	WRONG(features_required = 0, "not announced");
	WRONG(ringset[1].relays = 2, "not there");
	WRONG(ringset[1].relays = 3, "not there");
	WRONG(ringset[1].relays = ~0u, "not there");
	WRONG(ringset[0].relays = 2, "another shape");
	WRONG(ringset[1].policy = HTRACE_DISCARD, "another shape");
	WRONG(ringset[1].kind = HTRACE_RING_PER_THREAD, "another shape");
	WRONG(ringset[1].ring_shift--, "another shape");
	WRONG(ringset[0].block_shift++, "another shape");
	WRONG(ringset[0].nr_rings = 2, "another shape");
	WRONG(ringset[2] = s.ringset[1]; s.nr_ringsets = 3, "mirrors already");
	rig_free(&t);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("relay");
	TCase *c = tcase_create("relay");

	tcase_set_timeout(c, 120);
	tcase_add_test(c, test_verbatim);
	tcase_add_test(c, test_uncommitted);
	tcase_add_test(c, test_relay_lapped);
	tcase_add_loop_test(c, test_random, 0, 2);
	tcase_add_test(c, test_killed_in_gap);
	tcase_add_test(c, test_resume);
	tcase_add_test(c, test_refused);
	tcase_add_test(c, test_shapes);
	suite_add_tcase(s, c);
	return unit_run(s);
}
