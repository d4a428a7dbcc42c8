/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* The shape of rings. */
#include <errno.h>

#include <htrace/region.h>

#include "core.h"

#define DESC_OFF ((__u32)sizeof(struct htrace_ring))
#define DATA_ALIGN 4096u

_Static_assert(sizeof(struct htrace_ring) == 256, "ring header: four lines");
_Static_assert(sizeof(struct htrace_block) == 64, "a descriptor is a line");
_Static_assert(sizeof(struct htrace_host) <= HTRACE_GRANULE, "host header fits its granule");
_Static_assert(sizeof(struct htrace_host) <= HTRACE_TOLD_OFF - HTRACE_HOST_OFF, "no ring in it");
_Static_assert(HTRACE_TOLD_OFF + HTRACE_TOLD_DATA_OFF + (1u << HTRACE_TOLD_RING_SHIFT) <=
		       HTRACE_HOST_RINGS_OFF,
	       "the told ring fits the host header's granule");
_Static_assert(HTRACE_TOLD_DESC_OFF + (64u << (HTRACE_TOLD_RING_SHIFT - HTRACE_TOLD_BLOCK_SHIFT)) <=
		       HTRACE_TOLD_DATA_OFF, "its descriptors fit");
_Static_assert(sizeof(struct htrace_host_ring) == 64, "a slot is a line");
_Static_assert(sizeof(struct htrace_host_ring) * HTRACE_MAX_RINGS <= HTRACE_GRANULE, "slots fit");
_Static_assert(sizeof(struct htrace_guest) <= HTRACE_GRANULE, "guest header fits its granule");
_Static_assert(sizeof(struct htrace_super) <= 4096, "superblock fits a page");

static __u64 default_block(__u64 ring_size)
{
	__u64 block = ring_size / 16;

	if (block < 4096)
		block = ring_size / 2 < 4096 ? ring_size / 2 : 4096;
	return block < 65536 ? block : 65536;
}

static bool power_of_two(__u64 v)
{
	return v && !(v & (v - 1));
}

int htrace_geometry_init(struct htrace_geometry *g, __u64 ring_size, __u64 block_size,
			 enum htrace_policy policy)
{
	if (!block_size)
		block_size = default_block(ring_size);
	if (!power_of_two(ring_size) || !power_of_two(block_size) || ring_size < 2 * block_size ||
	    block_size < 1ULL << HTRACE_BLOCK_SHIFT_MIN ||
	    block_size > 1ULL << HTRACE_BLOCK_SHIFT_MAX ||
	    ring_size > 1ULL << HTRACE_RING_SHIFT_MAX || ring_size / block_size > HTRACE_MAX_BLOCKS)
		return -EINVAL;
	if (policy != HTRACE_DISCARD && policy != HTRACE_OVERWRITE)
		return -EINVAL;
	g->ring_mask = ring_size - 1;
	g->ring_shift = (__u32)__builtin_ctzll(ring_size);
	g->block_shift = (__u32)__builtin_ctzll(block_size);
	g->desc_off = DESC_OFF;
	g->data_off = (__u32)htrace_align(
		DESC_OFF + (ring_size / block_size) * sizeof(struct htrace_block), DATA_ALIGN);
	g->max_payload = HTRACE_MAX_PAYLOAD(g->block_shift);
	g->policy = policy;
	return 0;
}

__u64 htrace_image_size(const struct htrace_geometry *g, size_t page_size)
{
	return htrace_align(g->data_off + g->ring_mask + 1 + HTRACE_SLACK, page_size);
}
