// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Guest RAM that another process has: a beacon and what it leads to, and rings that are copied from there, some at a
 * time, while they change. The RAM is this process' own, in the place of host-reader/guest_ram.c.
 */
#include <errno.h>
#include <sys/mman.h>
#include <unistd.h>

#include <htrace/consumer.h>

#include "beacon_scan.h"
#include "clock.h"
#include "core.h"
#include "fuzz.h"
#include "fuzz_region.h"
#include "guest_ram.h"
#include "ram_rings.h"

#define PAGE 4096u
#define PAGES 16u /* of the part with the beacon: it, its table, a superblock */
#define TABLE 1u
#define SUPER 2u
#define SESSION 77

static char *low;
static struct memory low_memory;
static const struct place low_places[] = {
	{ 0, sizeof(struct htrace_beacon) }, { TABLE * PAGE, 64 }, { TABLE * PAGE, PAGE }, { SUPER * PAGE, 128 },
};
static struct guest_ram_part part[2];
static __u64 absent; /* bits of pages that are not in memory */
static int ram_fd, copies = -1;

/* ------------------------------------------------------------------------------- the process' memory */

int guest_ram_open(struct guest_ram **out, int pid, char *err, size_t errlen)
{
	snprintf(err, errlen, "there is no process here");
	return -ESRCH;
}

void guest_ram_close(struct guest_ram *r)
{
}

int guest_ram_look(struct guest_ram *r)
{
	return 2;
}

unsigned int guest_ram_nr(const struct guest_ram *r)
{
	return 2;
}

const struct guest_ram_part *guest_ram_part(const struct guest_ram *r, unsigned int i)
{
	CHECK(i < 2);
	return &part[i];
}

int guest_ram_read(const struct guest_ram *r, unsigned int i, __u64 off, void *to, size_t len)
{
	/* Whoever asks has translated an address into a place of this part. */
	CHECK(i < 2 && len && htrace_inside(off, len, part[i].len));
	if (i)
		return pread(ram_fd, to, len, (off_t)off) == (ssize_t)len ? 0 : -EIO;
	memcpy(to, low + off, len);
	return 0;
}

int guest_ram_present(const struct guest_ram *r, unsigned int i, __u64 first, bool *present, unsigned int nr)
{
	CHECK(i < 2 && htrace_inside(first, nr, part[i].len / GUEST_RAM_PAGE));
	for (unsigned int k = 0; k < nr; k++)
		present[k] = !i && !(absent >> (first + k) % 64 & 1);
	return 0;
}

/* ----------------------------------------------------------------------------------------- a beacon */

static void sum_up(struct htrace_beacon *b)
{
	__u64 sum = 0xcbf29ce484222325ULL, word, magic = b->magic;

	b->magic = b->sum = 0;
	for (size_t i = 0; i < sizeof(*b) / 8; i++) {
		memcpy(&word, (char *)b + 8 * i, 8);
		sum = (sum ^ word) * 0x100000001b3ULL;
	}
	b->magic = magic;
	b->sum = sum;
}

/* Each page of its region is one and the same. */
static void make_low(void)
{
	struct htrace_beacon *b;
	struct htrace_super *s;

	low = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	CHECK(low != MAP_FAILED);
	b = (void *)low;
	*b = (struct htrace_beacon){ .magic = HTRACE_BEACON_MAGIC, .inverse = ~HTRACE_BEACON_MAGIC, .session = SESSION,
				     .region_size = HTRACE_BEACON_REGION, .page_shift = 12,
				     .nr_tables = HTRACE_BEACON_REGION / PAGE / (PAGE / 8) };
	for (unsigned int i = 0; i < b->nr_tables; i++)
		b->table[i] = TABLE;
	sum_up(b);
	for (unsigned int i = 0; i < PAGE / 8; i++)
		((__u64 *)(low + TABLE * PAGE))[i] = SUPER;
	s = (void *)(low + SUPER * PAGE + HTRACE_SUPER_OFF % PAGE);
	s->magic = HTRACE_MAGIC;
	s->session = SESSION;
	memory_keep(&low_memory, low, PAGES * PAGE, low_places, ARRAY_SIZE(low_places));
}

static void look_for_beacons(struct input *in, __u64 how)
{
	struct beacon_scan s;
	char bytes[256];
	int ret;

	take_patches(&low_memory, in, 8);
	if (how & 1) {
		memory_touch(&low_memory, 0, sizeof(struct htrace_beacon));
		sum_up((void *)low);
	}
	absent = how & 2 ? take(in, 8) : 0;
	beacon_scan_begin(&s, NULL);
	while ((ret = beacon_scan_step(&s, 0)) == 1)
		;
	CHECK(!ret && s.nr <= BEACONS_MAX && s.nr + s.refused <= s.tries && s.absent <= BEACON_ABSENT);
	for (unsigned int i = 0; i < s.nr; i++) {
		CHECK(ram_region_current(NULL, &s.found[i]));
		take_patches(&low_memory, in, 4);
		for (int k = 0; k < 4; k++) {
			__u64 off = take_number(in), len = 1 + take(in, 1);

			ret = ram_region_read(NULL, &s.found[i], off, bytes, len);
			CHECK(ret == (htrace_inside(off, len, HTRACE_BEACON_REGION) ? 0 : -ERANGE));
		}
		part[0].id++; /* it went, and another one came */
		CHECK(ram_region_read(NULL, &s.found[i], 0, bytes, 1) == -ERANGE);
		part[0].id--;
	}
	beacon_scan_end(&s, NULL);
}

/* -------------------------------------------------------------------------------------------- rings */

static void read_rings(struct htrace_view *v, __u32 nr)
{
	struct htrace_image img;
	struct htrace_consumer *c;
	struct htrace_batch b;

	for (__u32 i = 0; i < nr && i < 8; i++) {
		if (htrace_view_ring(v, 0, i, &img) || htrace_consumer_new(&c, &img, NULL))
			continue;
		for (int k = 0; k < 20 && htrace_consumer_read(c, &b) == 1; k++)
			;
		htrace_consumer_free(c);
	}
}

static void copy_rings(struct ram_rings *r, struct guest *g, struct htrace_view *v, struct input *in, bool same)
{
	const struct htrace_super *super = htrace_view_super(v);
	char *shown = (char *)g->mem + super->runs.off, err[256] = "";
	int ret = -EAGAIN;

	for (int i = 0; i < 40 && (i < 8 || ret == -EAGAIN); i++) {
		ret = ram_rings_update(r, i & 1 ? 0 : clock_now() + 300000);
		CHECK(ret >= 0 || ret == -EAGAIN);
		if (in->left)
			take_patches(&g->ram_memory, in, 4);
	}
	memory_touch(&g->memory, super->runs.off, super->runs.len);
	ret = ram_rings_describe(r, (void *)shown, super->runs.len);
	CHECK(!ret || ret == -ENOSPC);
	if (ret || !same)
		return;
	ret = htrace_view_map_ram_fds(v, &copies, 1, err, sizeof(err));
	CHECK(!ret || err[0] || ret == -ENOMEM);
	if (!ret)
		read_rings(v, super->ringset[0].nr_rings);
}

static void follow_rings(struct input *in, __u64 how)
{
	struct guest *g = guest_get(SHAPE_DIRECT);
	struct ram_region where = { .part = 1, .id = part[1].id, .layout = { 0, 2ULL << 30 } };
	const struct htrace_super *super;
	struct htrace_runs *runs = NULL;
	struct ram_rings *r = NULL;
	struct htrace_view *v;
	char err[256] = "";
	int ret;

	ram_fd = g->ram_fd;
	take_patches(&g->memory, in, 24);
	take_patches(&g->ram_memory, in, 4);
	CHECK(!htrace_view_open_fd(&v, g->fd, false, err, sizeof(err)));
	if (htrace_view_attach(v, err, sizeof(err)))
		goto out;
	super = htrace_view_super(v);
	if (super->ringset[0].placement != HTRACE_PLACEMENT_VSHMEM)
		goto out;
	where.page_shift = how & 4 ? 12 + (__u32)take(in, 1) % 5 : super->guest_page_shift;
	runs = malloc(super->runs.len);
	memcpy(runs, g->mem + super->runs.off, super->runs.len);
	err[0] = 0;
	fail_allocation(how & 8 ? (unsigned int)take(in, 1) : 0);
	ret = ram_rings_open(&r, copies, NULL, &where, &super->ringset[0], runs, super->runs.len, err, sizeof(err));
	fail_allocation(0);
	CHECK(!ret || err[0] || ret == -ENOMEM);
	if (!ret)
		copy_rings(r, g, v, in, where.page_shift == super->guest_page_shift);
out:
	htrace_view_close(v);
	ram_rings_close(r);
	free(runs);
	guest_put_back(g);
	CHECK(!ftruncate(copies, 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct input in = { data, size };
	__u64 how = take(&in, 1);

	if (!low) {
		make_low();
		copies = memfd_create("copies", MFD_CLOEXEC);
		part[0] = (struct guest_ram_part){ .len = PAGES * PAGE, .id = 1, .file = -1 };
		part[1] = (struct guest_ram_part){ .len = GUEST_RAM, .id = 3, .file = -1 };
	}
	if (how & 128)
		look_for_beacons(&in, how);
	else
		follow_rings(&in, how);
	memory_put_back(&low_memory);
	return 0;
}
