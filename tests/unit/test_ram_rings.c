/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Beacons and rings that a guest means to cost much, or to lead elsewhere. Its RAM is this process' own. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "beacon_scan.h"
#include "core.h"
#include "guest_ram.h"
#include "ram_rings.h"
#include "unit.h"
#include "vm_process.h"

#define MIB (1u << 20)
#define RAM (16 * MIB)
#define PAGE 4096u
#define TABLES (HTRACE_BEACON_REGION / PAGE / (PAGE / 8))
#define NEVER (~0ULL)

static char err[512];
static struct guest_ram *guest;
static unsigned int part;
static char *ram;

bool __wrap_vm_process_is(int pid);

bool __wrap_vm_process_is(int pid)
{
	return true;
}

/* Apart from all others, so that it is joined to none. */
static char *map_ram(size_t len)
{
	char *room = mmap(NULL, len + 2 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *at = room + MIB;

	ck_assert_ptr_ne(room, MAP_FAILED);
	ck_assert_ptr_eq(mmap(at, len, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE,
			      -1, 0), at);
	ck_assert_int_eq(madvise(at, len, MADV_DONTFORK), 0);
	madvise(at, len, MADV_NOHUGEPAGE); /* pages are touched one by one; EINVAL: the kernel has none */
	return at;
}

static int part_at(const void *start)
{
	for (unsigned int i = 0; i < guest_ram_nr(guest); i++)
		if (guest_ram_part(guest, i)->len && guest_ram_part(guest, i)->start == (uintptr_t)start)
			return (int)i;
	return -1;
}

static void open_ram(size_t len)
{
	ram = map_ram(len);
	ck_assert_msg(!guest_ram_open(&guest, getpid(), err, sizeof(err)), "%s", err);
	ck_assert_int_ge(part_at(ram), 0);
	part = (unsigned int)part_at(ram);
}

/* ------------------------------------------------------------------------------------------- beacons */

/* One in page @page that is right, as far as it goes: its tables are pages @table and the next ones. */
static void put_beacon(unsigned int page, unsigned int table)
{
	struct htrace_beacon *b = (void *)(ram + page * PAGE);

	*b = (struct htrace_beacon){ .inverse = ~HTRACE_BEACON_MAGIC, .region_size = HTRACE_BEACON_REGION, .session = 1,
				     .gpa = page * PAGE, .page_shift = 12, .nr_tables = TABLES };
	for (unsigned int i = 0; i < TABLES; i++)
		b->table[i] = table + i;
	b->sum = htrace_beacon_sum(b);
	b->magic = HTRACE_BEACON_MAGIC;
	ck_assert(htrace_beacon_valid(b));
}

static int scan_all(struct beacon_scan *s)
{
	return beacon_scan_step(s, NEVER / 2);
}

/* A slice is no longer for beacons that lead nowhere. */
START_TEST(test_slices)
{
	struct beacon_scan s;
	int ret = 1;

	open_ram(RAM);
	memset(ram + MIB, 0, TABLES * PAGE);
	for (unsigned int i = 0; i < 500; i++)
		put_beacon(512 + i, MIB / PAGE);
	beacon_scan_begin(&s, guest);
	for (unsigned int before = 0; ret == 1; before = s.tries) {
		ret = beacon_scan_step(&s, 0);
		ck_assert_uint_le(s.tries, before + 1);
	}
	ck_assert_int_eq(ret, 0);
	ck_assert_uint_eq(s.tries, 500);
	ck_assert_uint_eq(s.refused, 500);
	beacon_scan_end(&s, NULL);
	guest_ram_close(guest);
}
END_TEST

/* Of what they name only so much is read that is not in memory. */
START_TEST(test_absent)
{
	unsigned int first = 512, tables = 1024, nr = 0;
	bool present[1024] = { false };
	struct beacon_scan s;

	open_ram(RAM);
	for (unsigned int i = 0; i < 200; i++)
		put_beacon(first + i, tables + TABLES * i);
	beacon_scan_begin(&s, guest);
	ck_assert_int_eq(scan_all(&s), 0);
	ck_assert_uint_eq(s.tries, 200);
	ck_assert_uint_eq(s.refused, 200);
	ck_assert_ptr_nonnull(strstr(s.why, "swapped out"));
	ck_assert_int_eq(guest_ram_present(guest, part, tables, present, 1024), 0);
	for (unsigned int i = 0; i < 1024; i++)
		nr += present[i];
	ck_assert_uint_gt(nr, 0);
	ck_assert_uint_le(nr, BEACON_ABSENT);
	beacon_scan_end(&s, NULL);
	guest_ram_close(guest);
}
END_TEST

/* RAM that goes while it is looked through is not the VM's end. */
START_TEST(test_gone)
{
	struct beacon_scan s;
	char *other;

	open_ram(RAM);
	other = map_ram(RAM);
	ck_assert_int_gt(guest_ram_look(guest), 0);
	beacon_scan_begin(&s, guest);
	s.part = part;
	s.page = 100;
	munmap(ram, RAM);
	ck_assert_int_gt(guest_ram_look(guest), 0);
	ck_assert_uint_eq(guest_ram_part(guest, part)->len, 0);
	ck_assert_int_eq(scan_all(&s), 0);
	ck_assert_uint_eq(s.part, guest_ram_nr(guest));
	/* likewise if a smaller one has its number by then */
	munmap(other, RAM);
	s.part = part;
	s.page = RAM / PAGE - 1;
	map_ram(RAM / 2);
	ck_assert_int_gt(guest_ram_look(guest), 0);
	ck_assert_uint_eq(guest_ram_part(guest, part)->len, RAM / 2);
	ck_assert_int_eq(scan_all(&s), 0);
	guest_ram_close(guest);
}
END_TEST

/* However often RAM comes and goes, what there is is known, and what was is not taken for it. */
START_TEST(test_comes_and_goes)
{
	__u64 gpfn = 0;
	char c;

	open_ram(RAM);
	for (unsigned int i = 0; i < 3 * GUEST_RAM_MAX; i++) {
		struct ram_region r = { .part = part, .id = guest_ram_part(guest, part)->id, .layout = { 0, 1 << 30 },
					.page_shift = 12, .nr_pages = 1, .gpfn = &gpfn };

		ck_assert_int_eq(ram_region_read(guest, &r, 0, &c, 1), 0);
		munmap(ram, RAM);
		ck_assert_int_ge(guest_ram_look(guest), 0);
		ck_assert_int_eq(ram_region_read(guest, &r, 0, &c, 1), -ERANGE);
		ram = map_ram(RAM);
		ck_assert_int_gt(guest_ram_look(guest), 0);
		ck_assert_msg(part_at(ram) >= 0, "the %u. is not known", i);
		ck_assert_int_eq(ram_region_read(guest, &r, 0, &c, 1), -ERANGE);
		part = (unsigned int)part_at(ram);
	}
	guest_ram_close(guest);
}
END_TEST

/* --------------------------------------------------------------------------------------------- rings */

#define RINGS 2
#define BLOCKS 16
#define RING (BLOCKS * PAGE)
#define HEAD (3ULL * RING + 100) /* the first block of the 4th lap is open */

static struct {
	struct htrace_runs runs;
	struct htrace_anchor anchor[2 * RINGS];
	struct htrace_run run;
} list;
static struct htrace_ringset set;
static struct ram_region where;

/* From page 0 of the RAM on. */
static void make_rings(void)
{
	set = (struct htrace_ringset){ .placement = HTRACE_PLACEMENT_VSHMEM, .policy = HTRACE_OVERWRITE,
				       .kind = HTRACE_RING_PER_CPU, .nr_rings = RINGS, .ring_shift = 16,
				       .block_shift = 12, .desc_off = 1024, .data_off = PAGE,
				       .stride = 2 * PAGE + RING };
	where = (struct ram_region){ .part = part, .id = guest_ram_part(guest, part)->id, .layout = { 0, 2ULL << 30 },
				     .page_shift = 12 };
	list.runs = (struct htrace_runs){ .nr_anchors = 2 * RINGS, .nr_runs = 1 };
	list.run = (struct htrace_run){ .nr_pages = RINGS * set.stride / PAGE };
	for (unsigned int i = 0; i < RINGS; i++) {
		char *image = ram + i * set.stride;
		struct htrace_block *d = (void *)(image + set.desc_off);
		struct htrace_ring *h = (void *)image;

		memset(image + set.data_off, 'a' + (int)i, RING);
		h->head = HEAD;
		h->anchor = *(__u64 *)(image + set.stride - 8) = 7 + i;
		for (unsigned int k = 0; k < BLOCKS; k++)
			d[k].commit = k ? 3 * PAGE : 3 * PAGE + 100;
		list.anchor[2 * i].gpa = i * set.stride + offsetof(struct htrace_ring, anchor);
		list.anchor[2 * i].nonce = 7 + i;
		list.anchor[2 * i + 1] = (struct htrace_anchor){ (i + 1) * set.stride - 8, 7 + i };
	}
}

static int open_rings(struct ram_rings **r, int fd)
{
	return ram_rings_open(r, fd, guest, &where, &set, &list.runs, sizeof(list), err, sizeof(err));
}

/* They are what is in the guest's memory, however many slices that takes; and no slice copies more than a block. */
START_TEST(test_copy)
{
	int fd = memfd_create("copies", MFD_CLOEXEC), slices = 0, ret;
	struct htrace_block none[BLOCKS] = { { 0 } };
	struct ram_rings *r;
	char *copy;

	open_ram(RAM);
	make_rings();
	ck_assert_msg(!open_rings(&r, fd), "%s", err);
	copy = mmap(NULL, RINGS * set.stride, PROT_READ, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(copy, MAP_FAILED);
	while ((ret = ram_rings_update(r, 0)) == -EAGAIN) {
		slices++;
		if (slices <= BLOCKS) { /* nothing is said of it yet, but that it is overwritten */
			ck_assert_uint_eq(((struct htrace_ring *)copy)->head, HEAD);
			ck_assert_mem_eq(copy + set.desc_off, none, sizeof(none));
			ck_assert_uint_eq(((struct htrace_ring *)(copy + set.stride))->head, 0);
		}
	}
	ck_assert_int_eq(ret, 1);
	ck_assert_int_ge(slices, RINGS * BLOCKS - 1);
	for (unsigned int i = 0; i < RINGS; i++) {
		char *a = ram + i * set.stride, *b = copy + i * set.stride;

		ck_assert_mem_eq(a, b, sizeof(struct htrace_ring));
		ck_assert_mem_eq(a + set.desc_off, b + set.desc_off, sizeof(none));
		ck_assert_mem_eq(a + set.data_off, b + set.data_off, 100);
		ck_assert_mem_eq(a + set.data_off + PAGE, b + set.data_off + PAGE, RING - PAGE);
	}
	ck_assert_int_eq(ram_rings_update(r, 0), -EAGAIN); /* the next ring's turn */
	ck_assert_int_eq(ram_rings_update(r, 0), 0);
	ck_assert_int_eq(ram_rings_update(r, NEVER), 0);
	((struct htrace_ring *)(ram + set.stride))->dropped++;
	ck_assert_int_eq(ram_rings_update(r, NEVER), 1);
	ck_assert_uint_eq(((struct htrace_ring *)(copy + set.stride))->dropped, 1);
	munmap(copy, RINGS * set.stride);
	ram_rings_close(r);
	guest_ram_close(guest);
	close(fd);
}
END_TEST

/* Images that begin within a page end behind the last page that is counted. */
START_TEST(test_part_pages)
{
	int fd = memfd_create("copies", MFD_CLOEXEC);
	struct ram_rings *r;

	open_ram(RAM);
	make_rings();
	where.page_shift = 16;
	set.nr_rings = 1;
	set.stride = 3 << 16;
	set.off = PAGE;
	list.run.nr_pages = 3;
	ck_assert_int_eq(open_rings(&r, fd), -EPROTO);
	ck_assert_str_eq(err, "rings that are not whole pages");
	set.off = 0;
	set.stride += PAGE;
	ck_assert_int_eq(open_rings(&r, fd), -EPROTO);
	ck_assert_str_eq(err, "rings that are not whole pages");
	guest_ram_close(guest);
	close(fd);
}
END_TEST

/* One page of the guest's can be in all runs: what it costs us has a limit. */
START_TEST(test_too_large)
{
	int fd = memfd_create("copies", MFD_CLOEXEC);
	struct ram_rings *r;

	open_ram(RAM);
	make_rings();
	set.stride = RAM;
	ck_assert_int_eq(open_rings(&r, fd), -EPROTO);
	ck_assert_ptr_nonnull(strstr(err, "larger than guest RAM"));
	guest_ram_close(guest);
	munmap(ram, RAM);
	open_ram(2048UL * MIB);
	make_rings();
	set.stride = 513 * MIB;
	ck_assert_int_eq(open_rings(&r, fd), -EPROTO);
	ck_assert_ptr_nonnull(strstr(err, "1 GiB"));
	guest_ram_close(guest);
	close(fd);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("ram_rings");
	TCase *t = tcase_create("ram_rings");

	tcase_set_timeout(t, 60);
	tcase_add_test(t, test_slices);
	tcase_add_test(t, test_absent);
	tcase_add_test(t, test_gone);
	tcase_add_test(t, test_comes_and_goes);
	tcase_add_test(t, test_copy);
	tcase_add_test(t, test_part_pages);
	tcase_add_test(t, test_too_large);
	suite_add_tcase(suite, t);
	return unit_run(suite);
}
