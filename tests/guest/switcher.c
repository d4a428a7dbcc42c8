/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Makes a local region and writes switches of tasks into it, in full or packed: the same ones, at the same times, of which
 * some cannot be packed, with other events in between.
 *
 *   switcher PATH full|packed RECORDS [RING]
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/pack.h>
#include <htrace/region.h>
#include <htrace/schema.h>

#define RINGS 2
#define BEGIN 5000000000000ULL

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "switcher: %s failed\n", what);
		exit(1);
	}
}

static void declare(struct htrace_region *r)
{
	struct htrace_schema_builder *b;
	const void *entries;
	size_t len;

	check(!htrace_builder_new(&b, NULL, 0), "the builder");
	__u32 tid = (__u32)htrace_builder_int(b, "tid", 4, false, HTRACE_HINT_TID);
	__u32 prio = (__u32)htrace_builder_int(b, "prio", 2, true, HTRACE_HINT_NONE);
	__u32 state = (__u32)htrace_builder_int(b, "state", 4, false, HTRACE_HINT_TASK_STATE);
	__u32 u64 = (__u32)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE);
	const struct htrace_schema_member members[] = {
		{ tid, 0, 0, 0, "prev_tid" }, { tid, 32, 0, 0, "next_tid" }, { prio, 64, 0, 0, "prev_prio" },
		{ prio, 80, 0, 0, "next_prio" }, { state, 96, 0, 0, "prev_state" },
	};
	const struct htrace_schema_member number = { u64, 0, 0, 0, "number" };

	check(htrace_builder_event(b, "sched_switch", htrace_builder_struct(b, "sched_switch", false, 16, members, 5)) == 1 &&
	      htrace_builder_event(b, "mark", htrace_builder_struct(b, "mark", false, 8, &number, 1)) == 2,
	      htrace_builder_error(b));
	entries = htrace_builder_entries(b, &len);
	check(!htrace_region_add_schema(r, entries, len), "the schema");
	htrace_builder_free(b);
}

static __u32 random_below(__u64 *seed, __u32 n)
{
	*seed = *seed * 6364136223846793005ULL + 1442695040888963407ULL;
	return (__u32)(*seed >> 33) % n;
}

static void record(struct htrace_ring *ring, const struct htrace_geometry *g, struct htrace_switch *e, __u64 now,
		   bool packed)
{
	struct htrace_slot slot;
	struct htrace_switch *to;

	if (packed) {
		htrace_record_switch(ring, g, g, &ring->consumed, 1, e, 1, now);
		return;
	}
	to = htrace_reserve(ring, g, &ring->consumed, 1, sizeof(*e), 1, now, &slot);
	*to = *e;
	htrace_commit(&slot);
}

static void fill(struct htrace_region *r, __u32 index, __u64 records, bool packed)
{
	struct htrace_switch e = { .next_prio = 120 };
	__u64 now = BEGIN, seed = index;
	struct htrace_geometry g;
	struct htrace_ring *ring = htrace_region_ring(r, 0, index, &g);

	for (__u64 i = 0; i < records; i++) {
		struct htrace_slot slot;
		__u64 *mark;

		now += 1 + random_below(&seed, random_below(&seed, 50) ? 100000 : 1000000000);
		if (!random_below(&seed, 5)) {
			mark = htrace_reserve(ring, &g, &ring->consumed, 2, 8, 1, now, &slot);
			*mark = i;
			htrace_commit(&slot);
			continue;
		}
		e = (struct htrace_switch){ e.next_tid, random_below(&seed, 60), e.next_prio, 120, 1u << random_below(&seed, 9) };
		if (!random_below(&seed, 20))
			e.next_prio = (__s16)((__s16)random_below(&seed, 141) - 1);
		if (!random_below(&seed, 20))
			e.prev_state = 0;
		if (!random_below(&seed, 200))
			e.next_tid = random_below(&seed, 1 << 31);
		if (!random_below(&seed, 200))
			e.prev_tid++;
		record(ring, &g, &e, now, packed);
	}
	printf("%llu\n", (unsigned long long)ring->head);
}

int main(int argc, char **argv)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_OVERWRITE, .kind = HTRACE_RING_PER_CPU,
		.nr_rings = RINGS, .ring_size = 1 << 20, .block_size = 4096, .nr_cpus = RINGS,
		.clock_id = HTRACE_CLOCK_MONOTONIC,
	};
	struct htrace_region *r;

	check(argc == 4 || argc == 5, "see the head of its source for how to call it; this");
	o.packed = !strcmp(argv[2], "packed");
	if (argc == 5)
		o.ring_size = strtoull(argv[4], NULL, 0);
	check(!htrace_region_create_local(&r, argv[1], 4 << 20, &o, NULL), "making the region");
	declare(r);
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	for (__u32 i = 0; i < RINGS; i++)
		fill(r, i, strtoull(argv[3], NULL, 0), o.packed);
	htrace_region_set_state(r, HTRACE_GUEST_CLOSING);
	htrace_region_release(r);
	return 0;
}
