/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A tracer of user space: makes a local region and writes records into it by the library, for a
 * reader that is not ours (tests/system/byhand.py). Prints "RING SEQ" for each record that it got
 * into a ring; all values follow from SEQ.
 *
 *   writer PATH discard|overwrite RECORDS
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <htrace/producer.h>
#include <htrace/schema.h>

#define RINGS 3
#define COUNT(a) ((__u32)(sizeof(a) / sizeof(*(a))))

struct pair {
	__u8 x, y;
};

/* One of each type; the text follows the struct, up to the record's end. */
struct mixed {
	__u64 seq;
	__s32 level;
	__u32 low : 3;
	__s32 mid : 7;
	__u32 top : 22;
	__u16 list[3];
	struct pair pairs[2];
	__s16 small;
	union {
		__u32 word;
		__u8 bytes[4];
	} either;
	char name[8];
};

static void check(bool ok, const char *what)
{
	if (!ok) {
		fprintf(stderr, "writer: %s failed\n", what);
		exit(1);
	}
}

static __u32 declare(struct htrace_schema_builder *b)
{
	static const struct htrace_schema_value levels[] = { { -1, "LOW" }, { 0x7fffffff, "HIGH" } };
	__u32 u8 = (__u32)htrace_builder_int(b, NULL, 1, false, HTRACE_HINT_NONE);
	__u32 u16 = (__u32)htrace_builder_int(b, NULL, 2, false, HTRACE_HINT_NONE);
	__u32 u32 = (__u32)htrace_builder_int(b, NULL, 4, false, HTRACE_HINT_HEX);
	__u32 s32 = (__u32)htrace_builder_int(b, NULL, 4, true, HTRACE_HINT_NONE);
	const struct htrace_schema_member in_pair[] = {
		{ .type = u8, .name = "x" }, { .type = u8, .bit_off = 8, .name = "y" },
	};
	const struct htrace_schema_member in_either[] = {
		{ .type = u32, .name = "word" },
		{ .type = (__u32)htrace_builder_array(b, (int)u8, 4), .name = "bytes" },
	};
	int pair = htrace_builder_struct(b, "pair", false, 2, in_pair, COUNT(in_pair));
	int either = htrace_builder_struct(b, NULL, true, 4, in_either, COUNT(in_either));
	const struct htrace_schema_member members[] = {
		{ (__u32)htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE), 0, 0, 0, "seq" },
		{ (__u32)htrace_builder_enum(b, "level", 4, true, levels, 2), 64, 0, 0, "level" },
		{ u32, 96, 3, 0, "low" },
		{ s32, 99, 7, 0, "mid" },
		{ u32, 106, 22, 0, "top" },
		{ (__u32)htrace_builder_array(b, (int)u16, 3), 128, 0, 0, "list" },
		{ (__u32)htrace_builder_array(b, pair, 2), 176, 0, 0, "pairs" },
		{ (__u32)htrace_builder_int(b, NULL, 2, true, HTRACE_HINT_NONE), 208, 0, 0, "small" },
		{ (__u32)either, 224, 0, 0, "either" },
		{ (__u32)htrace_builder_string(b, 8), 256, 0, 0, "name" },
		{ (__u32)htrace_builder_string(b, 0), 320, 0, 0, "text" },
	};
	int type = htrace_builder_struct(b, "mixed", false, sizeof(struct mixed), members,
					 COUNT(members));
	int id = htrace_builder_event(b, "mixed", type);

	_Static_assert(sizeof(struct mixed) == 40, "as described");
	check(id > 0, htrace_builder_error(b));
	return (__u32)id;
}

static bool push(struct htrace_producer *p, __u32 id, __u32 seq)
{
	struct mixed m = {
		.seq = seq, .level = seq % 2 ? -1 : 0x7fffffff, .low = seq & 7,
		.mid = (int)(seq % 128) - 64, .top = seq & 0x3fffff,
		.list = { (__u16)seq, (__u16)(seq + 1), (__u16)(seq + 2) },
		.pairs = { { (__u8)seq, 1 }, { (__u8)(seq + 1), 2 } }, .small = (__s16)-(int)seq,
		.either.word = seq * 2654435761u,
	};
	__u32 text = seq % 100;
	struct htrace_slot slot;
	char *at;

	snprintf(m.name, sizeof(m.name), "n%u", seq);
	at = htrace_producer_reserve(p, id, (__u32)sizeof(m) + text + 1, &slot);
	if (!at)
		return false;
	memcpy(at, &m, sizeof(m));
	memset(at + sizeof(m), 'a' + (int)(seq % 26), text);
	at[sizeof(m) + text] = 0;
	htrace_producer_commit(p, &slot);
	return true;
}

int main(int argc, char **argv)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_LOCAL, .kind = HTRACE_RING_PER_THREAD,
		.nr_rings = RINGS, .ring_size = 16384, .block_size = 2048, .bell = true,
	};
	const struct timespec pause = { 2, 200000000 };
	struct htrace_producer p[RINGS];
	struct htrace_schema_builder *b;
	struct htrace_region *r;
	const void *entries;
	size_t len;
	__u32 id, n;
	int fd;

	check(argc == 4, "see the head of its source for how to call it; this");
	o.policy = strcmp(argv[2], "discard") ? HTRACE_OVERWRITE : HTRACE_DISCARD;
	n = (__u32)strtoul(argv[3], NULL, 10);
	check(!htrace_region_create_local(&r, argv[1], 1 << 20, &o, &fd), "making the region");
	check(!htrace_builder_new(&b, NULL, 0), "the builder");
	id = declare(b);
	entries = htrace_builder_entries(b, &len);
	check(!htrace_region_add_schema(r, entries, len), "the schema");
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	for (int i = 0; i < RINGS; i++)
		check(!htrace_producer_get(&p[i], r, 0, i), "taking a ring");
	for (__u32 seq = 1; seq <= n; seq++) {
		/* as long as makes the short form of the time too short */
		if (seq == 40)
			nanosleep(&pause, NULL);
		for (int i = 0; i < RINGS; i++)
			/* ring i has i records more than the others from time to time */
			for (int k = 0; k <= (seq % 10 ? 0 : i); k++)
				if (push(&p[i], id, seq))
					printf("%d %u\n", i, seq);
	}
	htrace_region_beat(r, 0); /* one more sample of the clocks */
	htrace_builder_free(b);
	htrace_region_release(r);
	return 0;
}
