/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* Beacons: by what a host finds a region that lies in guest RAM, where no device tells of it. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "core.h"

static size_t page_size(void)
{
	return (size_t)sysconf(_SC_PAGESIZE);
}

/* Pages of frame numbers for @pages pages of @page bytes. */
static size_t tables_for(size_t pages, size_t page)
{
	return (pages * 8 + page - 1) / page;
}

size_t htrace_beacon_len(size_t size)
{
	size_t page = page_size();

	return page * (1 + tables_for(size / page, page));
}

__u64 htrace_beacon_sum(const struct htrace_beacon *b)
{
	struct htrace_beacon copy = *b;
	const htrace_word *w = (const htrace_word *)&copy;
	__u64 sum = 0xcbf29ce484222325ULL;

	copy.magic = copy.sum = 0;
	for (size_t i = 0; i < sizeof(copy) / 8; i++)
		sum = (sum ^ w[i]) * 0x100000001b3ULL;
	return sum;
}

int htrace_beacon_light(struct htrace_beacon *b, const void *mem, size_t size)
{
	size_t page = page_size(), pages = size / page, tables = tables_for(pages, page);
	struct htrace_beacon made = { .inverse = ~HTRACE_BEACON_MAGIC, .region_size = size };
	__u64 own;
	int ret;

	if (tables > HTRACE_BEACON_TABLES || size % page)
		return -EINVAL;
	ret = htrace_page_frames(mem, pages, (__u64 *)((char *)b + page));
	if (!ret)
		ret = htrace_page_frames((char *)b + page, tables, made.table);
	if (!ret)
		ret = htrace_page_frames(b, 1, &own);
	if (ret)
		return ret;
	made.gpa = own * page;
	made.session = ((const struct htrace_super *)mem)->session;
	made.page_shift = (__u32)__builtin_ctzl(page);
	made.nr_tables = (__u32)tables;
	made.sum = htrace_beacon_sum(&made);
	htrace_beacon_clear(b);
	memcpy(b, &made, sizeof(made));
	__atomic_store_n(&b->magic, HTRACE_BEACON_MAGIC, __ATOMIC_RELEASE);
	return 0;
}

void htrace_beacon_clear(struct htrace_beacon *b)
{
	__atomic_store_n(&b->magic, 0, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
}

bool htrace_beacon_valid(const struct htrace_beacon *b)
{
	size_t page = (size_t)1 << (b->page_shift & 31);

	return b->magic == HTRACE_BEACON_MAGIC && b->inverse == ~HTRACE_BEACON_MAGIC && b->session &&
	       b->page_shift >= 12 && b->page_shift <= 16 && b->region_size == HTRACE_BEACON_REGION &&
	       !(b->gpa % page) && b->nr_tables == tables_for(b->region_size / page, page) &&
	       b->sum == htrace_beacon_sum(b);
}
