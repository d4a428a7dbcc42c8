// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * How fast one thread takes records out of full rings, validates and counts them, against memcpy()
 * of the same bytes to the same place: block by block into a buffer of one block, as the consumer
 * does. Rings: of 256 KiB, which stays in a core's own cache (and in which no other core's records can
 * be, so this is for comparison only); of guest-agent's default size; of several times what all
 * caches hold.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <htrace/consumer.h>

#include "bench.h"

#define NAME "read"
#define BYTES (512ull << 20) /* read in a round */
#define MIXED 0

static const unsigned int sizes[] = { 16, 32, 64, 256, MIXED }; /* of records, header included */
static const struct {
	uint64_t size;
	const char *name;
} rings[] = { { 256u << 10, "256 KiB" }, { 4u << 20, "4 MiB" }, { 256u << 20, "256 MiB" } };

struct box {
	struct htrace_ring *ring;
	struct htrace_geometry g;
	uint64_t events, bytes; /* what it holds */
	unsigned char *block;   /* where memcpy() copies to */
};

/* MIXED: 16 ... 64 bytes, in no order. */
static unsigned int next_size(unsigned int size, uint64_t *random)
{
	if (size != MIXED)
		return size;
	*random ^= *random << 13, *random ^= *random >> 7, *random ^= *random << 17;
	return 16 + 8 * (unsigned int)(*random % 7);
}

/* One lap of records of @size bytes; the last block stays open. */
static void fill(struct box *b, uint64_t ring, unsigned int size)
{
	uint64_t time = 1000000, random = 1;
	int err = htrace_geometry_init(&b->g, ring, 0, HTRACE_OVERWRITE);

	if (err)
		bench_die("geometry", err);
	b->ring = bench_memory(htrace_image_size(&b->g, 4096));
	b->block = malloc(1u << b->g.block_shift);
	if (!b->block)
		bench_die("memory", ENOMEM);
	b->events = b->bytes = 0;
	while (b->ring->head < ring - 512) {
		unsigned int len = next_size(size, &random) - HTRACE_REC_HDR;
		struct htrace_slot slot;
		uint64_t *at = htrace_reserve(b->ring, &b->g, &b->ring->consumed, 1 + b->events % 7,
					      len, 1, time++, &slot);

		if (!at)
			bench_die("a full ring", ENOSPC);
		for (unsigned int i = 0; i < len / 8; i++)
			at[i] = b->events + i;
		htrace_commit(&slot);
		b->events++;
		b->bytes += len + HTRACE_REC_HDR;
	}
}

/* GB/s of reading @times over all of it; its wrong is told. */
static double read_all(const struct box *b, unsigned int times, const char **wrong)
{
	struct htrace_image image = { .ring = b->ring, .geometry = b->g, .placement = HTRACE_PLACEMENT_LOCAL };
	struct htrace_consumer_opts opts = { .sz = sizeof(opts), .start = HTRACE_START_OLDEST };
	uint64_t ns = 0, events = 0, bytes = 0;
	struct htrace_consumer *c;
	struct htrace_batch batch;

	for (unsigned int i = 0; i < times; i++) {
		uint64_t start;
		int err = htrace_consumer_new(&c, &image, &opts);

		if (err)
			bench_die("consumer", err);
		start = bench_now();
		while (htrace_consumer_read(c, &batch) == 1) {
			events += batch.events;
			bytes += batch.len;
		}
		ns += bench_now() - start;
		htrace_consumer_free(c);
	}
	if (events != times * b->events || bytes != times * b->bytes)
		*wrong = "another number of events or bytes";
	return (double)bytes / (double)ns;
}

static double copy_all(const struct box *b, unsigned int times)
{
	const unsigned char *data = (const unsigned char *)b->ring + b->g.data_off;
	size_t block = 1u << b->g.block_shift;
	uint64_t start = bench_now();

	for (unsigned int i = 0; i < times; i++)
		for (uint64_t at = 0; at < b->g.ring_mask; at += block) {
			memcpy(b->block, data + at, block);
			__asm__ volatile("" ::"r"(b->block) : "memory");
		}
	return (double)times * (double)(b->g.ring_mask + 1) / (double)(bench_now() - start);
}

static void measure(uint64_t ring, const char *name, unsigned int size, unsigned int times, int rounds)
{
	struct bench_rounds reads = { .nr = 0 }, copies = { .nr = 0 };
	const char *wrong = NULL;
	struct box b;
	char params[80];

	fill(&b, ring, size);
	for (int i = -1; i < rounds; i++) { /* one to warm up */
		double read = read_all(&b, times, &wrong), copy = copy_all(&b, times);

		if (i < 0)
			continue;
		bench_add(&reads, read);
		bench_add(&copies, copy);
	}
	if (size == MIXED)
		snprintf(params, sizeof(params), "\"record\": \"mixed\", \"ring\": \"%s\"", name);
	else
		snprintf(params, sizeof(params), "\"record\": %u, \"ring\": \"%s\"", size, name);
	bench_print(NAME, "validate", params, "GB/s", &reads, wrong);
	bench_print(NAME, "memcpy", params, "GB/s", &copies, NULL);
	free(b.block);
	munmap(b.ring, htrace_image_size(&b.g, 4096));
}

int main(int argc, char **argv)
{
	bool quick = argc > 1 && !strcmp(argv[1], "--quick");
	uint64_t bytes = quick ? BYTES / 16 : BYTES;
	int cpu;

	bench_cpus(&cpu, 1);
	bench_pin(cpu);
	for (size_t i = 0; i < sizeof(sizes) / sizeof(*sizes); i++)
		for (size_t r = 0; r < sizeof(rings) / sizeof(*rings); r++) {
			uint64_t ring = quick && rings[r].size > bytes ? bytes : rings[r].size;

			measure(ring, rings[r].name, sizes[i], (unsigned int)(bytes / ring),
				quick ? 3 : 9);
		}
	return 0;
}
