/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which of the regions in guest RAM is read, and until when. The RAM is this process' own, and so is time. */
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <htrace/region.h>

#include "core.h"
#include "ram_mirror.h"
#include "unit.h"
#include "vm_process.h"

#define MIB (1u << 20)
#define MS 1000000ULL
#define RAM (16 * MIB)
#define PAGE 4096u
#define PAGES (HTRACE_BEACON_REGION / PAGE)
#define TABLES (PAGES / (PAGE / 8))

static char err[512];
static __u64 now = 1;

bool __wrap_vm_process_is(int pid);

bool __wrap_vm_process_is(int pid)
{
	return true;
}

/* A part of guest RAM with a region from its beginning on, and a beacon. */
struct part {
	char *ram;
	int fd;
	struct htrace_region *region;
	struct htrace_guest *guest;
};

static void light(struct part *p)
{
	struct htrace_beacon *b = (void *)(p->ram + HTRACE_BEACON_REGION);
	__u64 *table = (void *)((char *)b + PAGE);

	for (unsigned int i = 0; i < PAGES; i++)
		table[i] = i;
	*b = (struct htrace_beacon){ .inverse = ~HTRACE_BEACON_MAGIC, .region_size = HTRACE_BEACON_REGION,
				     .session = htrace_region_super(p->region)->session, .gpa = HTRACE_BEACON_REGION,
				     .page_shift = 12, .nr_tables = TABLES };
	for (unsigned int i = 0; i < TABLES; i++)
		b->table[i] = PAGES + 1 + i;
	b->sum = htrace_beacon_sum(b);
	b->magic = HTRACE_BEACON_MAGIC;
	ck_assert(htrace_beacon_valid(b));
}

static void make_part(struct part *p)
{
	struct htrace_region_opts o = { .sz = sizeof(o), .placement = HTRACE_PLACEMENT_VSHMEM,
					.policy = HTRACE_OVERWRITE, .kind = HTRACE_RING_PER_CPU,
					.nr_rings = 1, .nr_cpus = 1, .ring_size = 65536,
					.clock_id = HTRACE_CLOCK_MONOTONIC };
	char *room = mmap(NULL, RAM + 2 * MIB, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	p->fd = memfd_create("ram", MFD_CLOEXEC);
	ck_assert_int_eq(ftruncate(p->fd, RAM), 0);
	p->ram = room + MIB; /* apart from all others, so that it is joined to none */
	ck_assert_ptr_ne(room, MAP_FAILED);
	ck_assert_ptr_eq(mmap(p->ram, RAM, PROT_READ | PROT_WRITE, MAP_FIXED | MAP_SHARED, p->fd, 0), p->ram);
	ck_assert_int_eq(htrace_region_format(&p->region, p->ram, HTRACE_BEACON_REGION, &o), 0);
	/* what its rings' pages are is not looked at here */
	((struct htrace_super *)p->ram)->magic = HTRACE_MAGIC;
	p->guest = (void *)(p->ram + htrace_region_super(p->region)->guest.off);
	light(p);
}

/* Have the page of the region at @off in the RAM's last page, which can be taken away: it cannot be read then. */
static char *put_last(struct part *p, __u64 off)
{
	__u64 *table = (void *)(p->ram + HTRACE_BEACON_REGION + PAGE);
	char *last = p->ram + RAM - PAGE;

	memcpy(last, p->ram + off / PAGE * PAGE, PAGE);
	table[off / PAGE] = RAM / PAGE - 1;
	return last + off % PAGE;
}

static void hide_last(const struct part *p, bool hide)
{
	ck_assert_int_eq(ftruncate(p->fd, hide ? RAM - PAGE : RAM), 0);
}

static __u64 shown(const char *mem)
{
	const struct htrace_super *s = (const void *)mem;

	return s->magic == HTRACE_MAGIC ? s->session : 0;
}

/* For @ms, in steps of 10 ms; @beats: whose heart does so. */
static void go_on(struct ram_mirror *m, struct part *beats, unsigned int ms)
{
	for (unsigned int i = 0; i < ms; i += 10) {
		if (beats && i % 50 == 0)
			beats->guest->heartbeat++;
		now += 10 * MS;
		ram_mirror_work(m, now);
	}
}

static const char *map_mirror(const struct ram_mirror *m)
{
	int fd = ram_mirror_file(m);
	char *mem = mmap(NULL, HTRACE_BEACON_REGION, PROT_READ, MAP_SHARED, fd, 0);

	ck_assert_ptr_ne(mem, MAP_FAILED);
	close(fd);
	return mem;
}

/* Two in this process, of which only @a has a beacon that is lit. What is shown of them. */
static const char *begin(struct part *a, struct part *b, struct ram_mirror **m)
{
	make_part(a);
	make_part(b);
	((struct htrace_beacon *)(b->ram + HTRACE_BEACON_REGION))->magic = 0;
	ck_assert_msg(!ram_mirror_open(m, getpid(), err, sizeof(err)), "%s", err);
	return map_mirror(*m);
}

/* A silent region goes when another one's heart beats, and not before. */
START_TEST(test_silent)
{
	struct part a, b;
	struct ram_mirror *m;
	const char *mem;

	mem = begin(&a, &b, &m);
	go_on(m, NULL, 5000);
	ck_assert_uint_eq(shown(mem), 0);
	go_on(m, &a, 30000);
	ck_assert_uint_eq(shown(mem), htrace_region_super(a.region)->session);
	light(&b);
	go_on(m, NULL, 60000);
	ck_assert_uint_eq(shown(mem), htrace_region_super(a.region)->session);
	go_on(m, &b, 60000);
	ck_assert_uint_eq(shown(mem), htrace_region_super(b.region)->session);
	ram_mirror_close(m);
}
END_TEST

/* That the other one cannot be read any more, or not as a whole, is no heart that beats. */
START_TEST(test_unreadable)
{
	struct part a, b;
	struct ram_mirror *m;
	const char *mem;

	mem = begin(&a, &b, &m);
	go_on(m, &a, 30000);
	ck_assert_uint_eq(shown(mem), htrace_region_super(a.region)->session);
	light(&b);
	b.guest = (void *)put_last(&b, htrace_region_super(b.region)->guest.off);
	/* It goes at every point of a scan and of the watch behind it, and is there again. */
	for (unsigned int i = 0; i < 30; i++) {
		b.guest->heartbeat = 5;
		go_on(m, NULL, 500 + 17 * i);
		hide_last(&b, true);
		go_on(m, NULL, 500 + 17 * i);
		hide_last(&b, false);
		ck_assert_msg(shown(mem) == htrace_region_super(a.region)->session, "it is gone after %u", i);
	}
	ram_mirror_close(m);
}
END_TEST

/* One whose heart beats, but that cannot be read as a whole, does not take the place of what is there. */
START_TEST(test_part_of_it)
{
	struct part a, b;
	struct ram_mirror *m;
	const char *mem;

	mem = begin(&a, &b, &m);
	go_on(m, &a, 30000);
	light(&b);
	put_last(&b, htrace_region_super(b.region)->schema.off);
	hide_last(&b, true);
	go_on(m, &b, 60000);
	ck_assert_uint_eq(shown(mem), htrace_region_super(a.region)->session);
	hide_last(&b, false);
	go_on(m, &b, 60000);
	ck_assert_uint_eq(shown(mem), htrace_region_super(b.region)->session);
	ram_mirror_close(m);
}
END_TEST

int main(void)
{
	Suite *suite = suite_create("ram_mirror");
	TCase *t = tcase_create("ram_mirror");

	tcase_set_timeout(t, 60);
	tcase_add_test(t, test_silent);
	tcase_add_test(t, test_unreadable);
	tcase_add_test(t, test_part_of_it);
	suite_add_tcase(suite, t);
	return unit_run(suite);
}
