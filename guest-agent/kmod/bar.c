// SPDX-License-Identifier: GPL-2.0-only OR BSD-2-Clause
/*
 * BAR2, write-back.
 *
 * It is memory of the host, so caches are coherent with it and atomics work on it, which they do
 * not where it is uncached. But the kernel asks the firmware's MTRRs: SeaBIOS declares all below
 * 4 GiB that is not RAM uncached, OVMF its 64-bit window too, and then it quietly maps uncached
 * what was to be write-back. Hypervisors do not heed the guest's MTRRs for memory of theirs, only
 * its page tables (AMD), or neither (Intel): so what page tables say is what counts.
 */
#include "kmod.h"

#ifdef CONFIG_X86
#include <asm/pgtable.h>
#include <asm/tlbflush.h>

static unsigned long pat_bit(unsigned int level)
{
	return level > PG_LEVEL_4K ? _PAGE_PAT_LARGE : _PAGE_PAT;
}

/* As the kernel sets up the PAT: arch/x86/mm/pat/memtype.c. */
static u32 caching_of(void *at)
{
	unsigned int level;
	pte_t *pte = lookup_address((unsigned long)at, &level);

	if (!pte)
		return HTRACE_CACHING_UNKNOWN;
	if (pte_val(*pte) & pat_bit(level))
		return HTRACE_CACHING_OTHER;
	switch (pte_val(*pte) & (_PAGE_PWT | _PAGE_PCD)) {
	case 0:
		return HTRACE_CACHING_WRITE_BACK;
	case _PAGE_PWT:
		return HTRACE_CACHING_WRITE_COMBINING;
	default:
		return HTRACE_CACHING_UNCACHED;
	}
}

static void flush_tlb(void *unused)
{
	__flush_tlb_all();
}

/* Of a mapping that nobody has used yet: no cache has seen it, and only TLBs could know of it. */
static void make_write_back(void *mem, resource_size_t size)
{
	unsigned long at = (unsigned long)mem, end = at + size;

	while (at < end) {
		unsigned int level;
		pte_t *pte = lookup_address(at, &level);

		if (!pte)
			break;
		set_pte(pte, __pte(pte_val(*pte) & ~(_PAGE_PCD | _PAGE_PWT | pat_bit(level))));
		at = (at & page_level_mask(level)) + page_level_size(level);
	}
	on_each_cpu(flush_tlb, NULL, 1);
}
#else
/* memremap() gives what it was asked for. */
static u32 caching_of(void *at)
{
	return HTRACE_CACHING_WRITE_BACK;
}

static void make_write_back(void *mem, resource_size_t size)
{
}
#endif

const char *htrace_caching_name(u32 caching)
{
	switch (caching) {
	case HTRACE_CACHING_WRITE_BACK:
		return "write-back";
	case HTRACE_CACHING_WRITE_COMBINING:
		return "write-combining";
	case HTRACE_CACHING_UNCACHED:
		return "uncached";
	default:
		return "cached in a way that is not known";
	}
}

int htrace_bar_map(struct htrace_dev *d)
{
	d->mem = memremap(d->phys, d->size, MEMREMAP_WB);
	if (!d->mem)
		return -ENOMEM;
	d->caching = caching_of(d->mem);
	if (d->caching == HTRACE_CACHING_WRITE_BACK)
		return 0;
	d->flags |= HTRACE_MODULE_OVERRULES;
	make_write_back(d->mem, d->size);
	d->caching = caching_of(d->mem);
	return 0;
}

void htrace_bar_unmap(struct htrace_dev *d)
{
	if (d->mem)
		memunmap(d->mem);
	d->mem = NULL;
}
