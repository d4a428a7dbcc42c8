/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Regions: made, attached to, and every malformed one refused. */
#include <check.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <htrace/consumer.h>
#include <htrace/producer.h>
#include <htrace/schema.h>

#include "regionbox.h"
#include "unit.h"

/* A published local region in a memfd, and its reader's view. */
static struct htrace_region *make(int *fd)
{
	struct htrace_region *r;

	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &local_opts, fd), 0);
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	return r;
}

static struct htrace_view *view(int fd)
{
	struct htrace_view *v = NULL;

	ck_assert_msg(htrace_view_open_fd(&v, fd, true, err, sizeof(err)) == 0, "%s", err);
	return v;
}

static int push_all(struct htrace_region *r)
{
	struct htrace_producer p;

	ck_assert_int_eq(htrace_producer_get(&p, r, 0, -1), 0);
	for (__u64 i = 0; i < 100; i++)
		ck_assert_int_eq(htrace_push(&p, 5, &i, sizeof(i)), 0);
	return (int)p.ring->index;
}

START_TEST(test_roundtrip)
{
	struct htrace_consumer_opts o = { .sz = sizeof(o) };
	struct htrace_consumer *c;
	struct htrace_region *r;
	struct htrace_image img;
	struct htrace_view *v;
	int fd, index;

	r = make(&fd);
	v = view(fd);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), -EAGAIN);
	htrace_region_publish(r);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	ck_assert(htrace_view_current(v));
	ck_assert_uint_eq(htrace_view_super(v)->ringset[0].nr_rings, 4);
	ck_assert_uint_eq(htrace_view_state(v), HTRACE_GUEST_RUNNING);
	index = push_all(r);
	ck_assert_int_eq(htrace_view_ring(v, 0, (__u32)index, &img), 0);
	ck_assert_int_eq(htrace_consumer_new(&c, &img, &o), 0);
	ck_assert_uint_eq(drain(c), 100);
	ck_assert_int_eq(htrace_view_ring(v, 0, 4, &img), -ENXIO);
	ck_assert_int_eq(htrace_view_ring(v, 1, 0, &img), -ENXIO);
	htrace_consumer_free(c);
	htrace_view_close(v);
	htrace_region_release(r);
	close(fd);
}
END_TEST

/* Another session in the same memory is noticed, and attached to. */
START_TEST(test_session_change)
{
	struct htrace_region *r, *r2;
	struct htrace_image img;
	struct htrace_view *v;
	void *mem;
	__u64 first;
	int fd;

	r = make(&fd);
	htrace_region_publish(r);
	v = view(fd);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	first = htrace_view_super(v)->session;
	ck_assert_int_eq(htrace_view_ring(v, 0, 0, &img), 0);
	htrace_view_drained(v, &img, 0);
	ck_assert_uint_eq(htrace_region_host_ring(r, 0)->drained, 1);
	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_int_eq(htrace_region_format(&r2, mem, SIZE, &local_opts), 0);
	ck_assert(!htrace_view_current(v));
	/* What was read of the old one is not of the new one, before its magic and behind. */
	htrace_view_drained(v, &img, 0);
	ck_assert_uint_eq(htrace_region_host_ring(r2, 0)->drained, 0);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), -EAGAIN);
	htrace_region_publish(r2);
	ck_assert(!htrace_view_current(v));
	htrace_view_drained(v, &img, 0);
	ck_assert_uint_eq(htrace_region_host_ring(r2, 0)->drained, 0);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	ck_assert_uint_ne(htrace_view_super(v)->session, first);
	htrace_view_close(v);
	htrace_region_release(r);
	htrace_region_release(r2);
	munmap(mem, SIZE);
	close(fd);
}
END_TEST

/* Positions that the host left in an older session do not free blocks of a new one. */
START_TEST(test_stale_consumed)
{
	struct htrace_region_opts o = local_opts;
	struct htrace_region *r;
	struct htrace_producer p;
	__u64 i, pushed = 0;
	void *mem;
	int fd;

	o.policy = HTRACE_DISCARD;
	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &o, &fd), 0);
	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	for (i = 0; i < HTRACE_MAX_RINGS; i++)
		((struct htrace_host_ring *)((char *)mem + HTRACE_HOST_RINGS_OFF))[i].consumed = 1 << 30;
	htrace_region_release(r);
	ck_assert_int_eq(htrace_region_format(&r, mem, SIZE, &o), 0);
	ck_assert_int_eq(htrace_producer_get(&p, r, 0, -1), 0);
	for (i = 0; i < 10000; i++)
		pushed += htrace_push(&p, 5, &i, sizeof(i)) == 0;
	ck_assert_uint_lt(pushed, 65536 / 16);
	ck_assert_uint_eq(p.ring->dropped, 10000 - pushed);
	htrace_region_release(r);
	munmap(mem, SIZE);
	close(fd);
}
END_TEST

/* An agent of the same boot takes the region over; a closed one, or another boot's, it does not. */
START_TEST(test_adopt)
{
	struct htrace_region *r, *r2;
	__u64 session;
	void *mem;
	int fd;

	r = make(&fd);
	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	ck_assert_int_eq(htrace_region_adopt(&r2, mem, SIZE, false), -ENOENT); /* no magic */
	htrace_region_publish(r);
	session = htrace_region_super(r)->session;
	ck_assert_int_eq(htrace_region_adopt(&r2, mem, SIZE, false), 0);
	ck_assert_uint_eq(htrace_region_super(r2)->session, session);
	htrace_region_release(r2);
	((struct htrace_super *)mem)->boot_id[3] ^= 1;
	ck_assert_int_eq(htrace_region_adopt(&r2, mem, SIZE, false), -ENOENT);
	((struct htrace_super *)mem)->boot_id[3] ^= 1;
	htrace_region_set_state(r, HTRACE_GUEST_CLOSED);
	ck_assert_int_eq(htrace_region_adopt(&r2, mem, SIZE, false), -ENOENT);
	htrace_region_release(r);
	munmap(mem, SIZE);
	close(fd);
}
END_TEST

START_TEST(test_producer_rings)
{
	struct htrace_producer p[5];
	struct htrace_region *r;
	int fd;

	r = make(&fd);
	for (int i = 0; i < 4; i++)
		ck_assert_int_eq(htrace_producer_get(&p[i], r, 0, -1), 0);
	ck_assert_int_eq(htrace_producer_get(&p[4], r, 0, -1), -EBUSY);
	ck_assert_int_eq(htrace_producer_get(&p[4], r, 0, 2), -EBUSY);
	ck_assert_int_eq(htrace_producer_get(&p[4], r, 0, 4), -ENXIO);
	ck_assert_int_eq(htrace_producer_get(&p[4], r, 1, 0), -ENXIO);
	htrace_producer_put(&p[2]);
	ck_assert_int_eq(htrace_producer_get(&p[4], r, 0, -1), 0);
	ck_assert_uint_eq(p[4].ring->index, 2);
	htrace_region_release(r);
	close(fd);
}
END_TEST

/* Whatever the number of rings, and this machine's pages: the largest rings that fit do fit. */
START_TEST(test_default_ring_size)
{
	struct htrace_region_opts o = local_opts;
	struct htrace_region *r;
	int fd;

	o.ring_size = 0;
	for (o.nr_rings = 1; o.nr_rings <= 24; o.nr_rings++) {
		const struct htrace_ringset *set;

		ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &o, &fd), 0);
		set = &htrace_region_super(r)->ringset[0];
		ck_assert(htrace_inside(set->off, set->nr_rings * set->stride, SIZE));
		ck_assert_uint_eq(set->stride % (__u64)sysconf(_SC_PAGESIZE), 0);
		htrace_region_release(r);
		close(fd);
	}
}
END_TEST

/* Making a region: sizes and options that cannot be. */
START_TEST(test_format_refusals)
{
	struct htrace_region_opts o = local_opts;
	struct htrace_region *r;
	int fd;

	o.nr_rings = 1000;
	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &o, &fd), -ENOSPC);
	o.nr_rings = HTRACE_MAX_RINGS + 1;
	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &o, &fd), -EINVAL);
	o = local_opts;
	ck_assert_int_eq(htrace_region_create_local(&r, NULL, 65536, &o, &fd), -ENOSPC);
	ck_assert_int_eq(htrace_region_create_local(&r, NULL, 1 << 19, &o, &fd), -ENOSPC);
	o.ring_size = 60000;
	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &o, &fd), -EINVAL);
	o.ring_size = 4 << 20;
	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &o, &fd), -ENOSPC);
	o = local_opts;
	o.policy = 0;
	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &o, &fd), -EINVAL);
	o = local_opts;
	o.sz = 0;
	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &o, &fd), -EINVAL);
	o.sz = sizeof(o) + 8;
	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &o, &fd), -EINVAL);
	/* ring size left open: as large as fits */
	o = local_opts;
	o.ring_size = 0;
	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &o, &fd), 0);
	ck_assert_uint_ge(htrace_region_super(r)->ringset[0].ring_shift, 19);
	htrace_region_release(r);
	close(fd);
}
END_TEST

/* What no reader would take is not made: whichever way it is asked for. */
#define OPT(field, value) \
	{ #field, offsetof(struct htrace_region_opts, field), \
	  sizeof(((struct htrace_region_opts *)0)->field), value, SIZE }
static const struct {
	const char *what;
	size_t off, width;
	__u64 value;
	size_t size;
} senseless[] = {
	OPT(placement, 0),
	OPT(placement, 9),
	OPT(policy, 0),
	OPT(policy, 7),
	OPT(kind, 0),
	OPT(kind, 9),
	OPT(nr_rings, HTRACE_MAX_RINGS + 1),
	OPT(nr_cpus, HTRACE_MAX_CPUS + 1),
	OPT(nr_cpus, ~0u),
	OPT(clock_id, 9),
	OPT(ring_size, 3000),
	OPT(ring_size, 1ULL << 50),
	OPT(block_size, 256),
	OPT(block_size, 3000),
	OPT(block_size, 65536),
	{ "size", 0, 0, 0, HTRACE_REGION_MAX + 4096 },
	{ "size", 0, 0, 0, ~0UL - 4095 },
};

START_TEST(test_senseless)
{
	struct htrace_region_opts o = local_opts;
	size_t size = senseless[_i].size;
	struct htrace_region *r;
	void *mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	int fd;

	memcpy((char *)&o + senseless[_i].off, &senseless[_i].value, senseless[_i].width);
	ck_assert_msg(htrace_region_fits(size, &o) == -EINVAL, "%s", senseless[_i].what);
	ck_assert_int_eq(htrace_region_create_local(&r, NULL, size, &o, &fd), -EINVAL);
	ck_assert_int_eq(htrace_region_format(&r, mem, size, &o), -EINVAL);
	ck_assert_int_eq(htrace_region_format(&r, (char *)mem + 64, SIZE / 2, &local_opts), -EINVAL);
	munmap(mem, SIZE);
}
END_TEST

/* ------------------------------------------------------------------------- malformed superblocks */

static const struct bad {
	const char *what;
	size_t off;
	int width;
	__u64 value;
	int ret;
	const char *says;
} bads[] = {
#define SB(field, value, ret, says) \
	{ #field, offsetof(struct htrace_super, field), sizeof(((struct htrace_super *)0)->field), \
	  value, ret, says }
#define RS(field, value, says) SB(ringset[0].field, value, -EPROTO, says)
	SB(magic, 0x1122334455667788ULL, -EPROTO, "other than"),
	SB(version_major, 2, -EPROTONOSUPPORT, "version 2"),
	SB(version_major, 0, -EPROTONOSUPPORT, "version 0"),
	SB(features_required, 4, -EPROTONOSUPPORT, "features"),
	SB(ringset[0].relays, 1, -EPROTO, "not announced"),
	SB(super_size, 8, -EPROTO, "superblock of 8"),
	SB(super_size, 0xffffffff, -EPROTO, "superblock"),
	SB(region_size, SIZE / 2, -EPROTO, "in a file"),
	SB(region_size, ~0ULL, -EPROTO, "in a file"),
	SB(session, 0, -EPROTO, "session"),
	SB(clock_id, 9, -EPROTO, "clock"),
	SB(guest_page_shift, 11, -EPROTO, "page shift"),
	SB(guest_page_shift, 63, -EPROTO, "page shift"),
	SB(nr_cpus, 0, -EPROTO, "CPUs"),
	SB(nr_cpus, 1 << 30, -EPROTO, "CPUs"),
	SB(nr_ringsets, 5, -EPROTO, "ring sets"),
	SB(guest.off, 65536, -EPROTO, "guest area"),
	SB(guest.off, 3 * 65536 + 8, -EPROTO, "guest area"),
	SB(guest.off, SIZE, -EPROTO, "guest area"),
	SB(guest.off, ~0xffffULL, -EPROTO, "guest area"),
	SB(guest.len, 64, -EPROTO, "guest area"),
	SB(guest.len, ~0ULL, -EPROTO, "guest area"),
	SB(schema.off, 1ULL << 63, -EPROTO, "schema area"),
	SB(schema.len, 8, -EPROTO, "schema area"),
	SB(names.off, SIZE, -EPROTO, "names area"),
	SB(names.len, 0, -EPROTO, "names area"),
	SB(runs.len, 8, -EPROTO, "page runs area"),
	RS(placement, 0, "placement"),
	RS(placement, 4, "placement"),
	RS(policy, 0, "policy"),
	RS(policy, 3, "policy"),
	RS(kind, 0, "kind"),
	RS(nr_rings, 0, "number of rings"),
	RS(nr_rings, HTRACE_MAX_RINGS + 1, "number of rings"),
	RS(nr_rings, 0xffffffff, "number of rings"),
	RS(nr_rings, 100, "outside"),
	RS(first_slot, HTRACE_MAX_RINGS - 3, "number of rings"),
	RS(first_slot, 0xffffffff, "number of rings"),
	RS(block_shift, 8, "size"),
	RS(block_shift, 21, "size"),
	RS(block_shift, 0xffffffff, "size"),
	RS(ring_shift, 12, "size"),
	RS(ring_shift, 41, "size"),
	RS(ring_shift, 64 + 16, "size"),
	RS(ring_shift, 30, "number of blocks"),
	RS(ring_shift, 22, "offsets"), /* more descriptors than fit before the data */
	RS(desc_off, 128, "offsets"),
	RS(desc_off, 257, "offsets"),
	RS(desc_off, 0xffffffc0, "offsets"),
	RS(data_off, 256, "offsets"),
	RS(data_off, 4097, "offsets"),
	RS(data_off, 0xffffffc0, "stride"),
	RS(stride, 65536, "stride"),
	RS(stride, 69632 + 8, "stride"),
	RS(stride, 0, "stride"),
	RS(stride, ~0xfffULL, "stride"),
	RS(stride, 1ULL << 41, "outside"),
	RS(off, 0, "outside"),
	RS(off, SIZE, "outside"),
	RS(off, ~0xfffULL, "outside"),
	RS(off, 8, "stride"),
};

START_TEST(test_bad_super)
{
	const struct bad *bad = &bads[_i];
	struct htrace_region *r;
	struct htrace_view *v;
	char *mem;
	int fd;

	r = make(&fd);
	htrace_region_publish(r);
	v = view(fd);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memcpy(mem + bad->off, &bad->value, (size_t)bad->width);
	strcpy(err, "");
	ck_assert_msg(htrace_view_attach(v, err, sizeof(err)) == bad->ret, "%s = %#llx: %s",
		      bad->what, (unsigned long long)bad->value, err);
	ck_assert_msg(strstr(err, bad->says) != NULL, "%s: %s", bad->what, err);
	htrace_view_close(v);
	htrace_region_release(r);
	munmap(mem, SIZE);
	close(fd);
}
END_TEST

/* Two ring sets in guest RAM would need two spaces. */
START_TEST(test_two_vshmem)
{
	struct htrace_super *s;
	struct htrace_region *r;
	struct htrace_view *v;
	int fd;

	r = make(&fd);
	htrace_region_publish(r);
	v = view(fd);
	s = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	s->nr_ringsets = 2;
	s->ringset[1] = s->ringset[0];
	s->ringset[0].nr_rings = 1;
	s->ringset[1].nr_rings = 1;
	s->ringset[1].off += s->ringset[1].stride;
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	s->ringset[0].placement = s->ringset[1].placement = HTRACE_PLACEMENT_VSHMEM;
	s->runs = s->names;
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), -EPROTO);
	ck_assert_ptr_nonnull(strstr(err, "two ring sets"));
	htrace_view_close(v);
	htrace_region_release(r);
	munmap(s, SIZE);
	close(fd);
}
END_TEST

/* Side by side, or one in guest RAM; else what is in rings would be read many times. */
START_TEST(test_overlap)
{
	struct htrace_super *s;
	struct htrace_region *r;
	struct htrace_view *v;
	int fd;

	r = make(&fd);
	htrace_region_publish(r);
	v = view(fd);
	s = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	s->nr_ringsets = 2;
	s->ringset[0].nr_rings = 2;
	s->ringset[1] = s->ringset[0];
	s->ringset[1].nr_rings = 1;
	for (int shift = -1; shift <= 2; shift++) {
		s->ringset[1].off = s->ringset[0].off + (__u64)(__s64)shift * s->ringset[0].stride;
		ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)),
				 shift >= 0 && shift < 2 ? -EPROTO : 0);
	}
	s->ringset[1].off = s->ringset[0].off + 2 * s->ringset[0].stride - 4096;
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), -EPROTO);
	ck_assert_ptr_nonnull(strstr(err, "overlap"));
	s->ringset[0].placement = HTRACE_PLACEMENT_VSHMEM;
	s->runs = s->names;
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	htrace_view_close(v);
	htrace_region_release(r);
	munmap(s, SIZE);
	close(fd);
}
END_TEST

/* Random bytes all over the superblock: attaches or refuses, never crashes. */
START_TEST(test_random_super)
{
	struct htrace_image img;
	struct htrace_region *r;
	struct htrace_guest g;
	struct htrace_view *v;
	__u64 seed = 7, gen;
	unsigned char *mem, good[sizeof(struct htrace_super)];
	int fd, accepted = 0;

	r = make(&fd);
	htrace_region_publish(r);
	v = view(fd);
	mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memcpy(good, mem, sizeof(good));
	for (int i = 0; i < 200000; i++) {
		memcpy(mem, good, sizeof(good));
		for (int k = 0; k < 1 + i % 4; k++) {
			seed ^= seed << 13, seed ^= seed >> 7, seed ^= seed << 17;
			mem[8 + seed % (sizeof(good) - 8)] ^= 1u << (seed >> 32) % 8;
		}
		if (htrace_view_attach(v, err, sizeof(err)))
			continue;
		accepted++;
		htrace_view_guest(v, &g, true);
		for (__u32 k = 0; k < htrace_view_super(v)->ringset[0].nr_rings; k++) {
			if (htrace_view_ring(v, 0, k, &img))
				continue;
			/* all of the image must be readable */
			const volatile char *p = (const volatile char *)img.ring;
			(void)p[0], (void)p[img.geometry.data_off + img.geometry.ring_mask];
		}
		void *buf;
		size_t len;
		gen = 0;
		if (htrace_view_schema(v, &gen, &buf, &len) == 1)
			free(buf);
		struct htrace_name *names;
		if (htrace_view_names(v, &gen, &names) >= 0)
			free(names);
	}
	ck_assert_int_gt(accepted, 1000);
	htrace_view_close(v);
	htrace_region_release(r);
	munmap(mem, SIZE);
	close(fd);
}
END_TEST

/* -------------------------------------------------------------------------------- bad files */

START_TEST(test_bad_files)
{
	char path[] = "/tmp/htrace-unit-XXXXXX", fifo[64];
	struct htrace_view *v;
	int fd = mkstemp(path);

	ck_assert_int_eq(htrace_view_open(&v, "/nonexistent/region", true, err, sizeof(err)), -ENOENT);
	ck_assert_int_eq(htrace_view_open(&v, "/tmp", false, err, sizeof(err)), -EINVAL);
	ck_assert_int_eq(htrace_view_open(&v, path, true, err, sizeof(err)), -ENOSPC); /* empty */
	ck_assert_int_eq(ftruncate(fd, HTRACE_REGION_MIN - 1), 0);
	ck_assert_int_eq(htrace_view_open(&v, path, true, err, sizeof(err)), -ENOSPC);
	ck_assert_int_eq(ftruncate(fd, HTRACE_REGION_MIN), 0);
	ck_assert_int_eq(htrace_view_open(&v, path, true, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), -EAGAIN); /* all zero: waits */
	ck_assert_int_eq(pwrite(fd, "hello", 5, 100), 5);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), -EPROTO); /* foreign */
	htrace_view_close(v);
	snprintf(fifo, sizeof(fifo), "%s.fifo", path);
	ck_assert_int_eq(mkfifo(fifo, 0600), 0);
	ck_assert_int_eq(htrace_view_open(&v, fifo, true, err, sizeof(err)), -EINVAL);
	unlink(fifo);
	unlink(path);
	close(fd);
}
END_TEST

/* The file shrinks under the reader: a flag, not a death. */
START_TEST(test_shrunk)
{
	char path[] = "/tmp/htrace-unit-XXXXXX";
	struct htrace_consumer *c;
	struct htrace_region *r;
	struct htrace_image img;
	struct htrace_view *v;
	int fd = mkstemp(path), index;
	struct htrace_batch b;

	close(fd);
	unlink(path);
	ck_assert_int_eq(htrace_region_create_local(&r, path, SIZE, &local_opts, &fd), 0);
	htrace_region_publish(r);
	index = push_all(r);
	ck_assert_int_eq(htrace_view_open(&v, path, true, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_ring(v, 0, (__u32)index, &img), 0);
	ck_assert_int_eq(htrace_consumer_new(&c, &img, NULL), 0);
	ck_assert_int_eq(ftruncate(fd, 4096), 0);
	while (htrace_consumer_read(c, &b) == 1)
		ck_assert_uint_eq(b.events, 0);
	ck_assert(htrace_view_shrunk(v));
	ck_assert(!htrace_view_current(v));
	htrace_view_host(v)->heartbeat++;
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), -EPROTO);
	htrace_consumer_free(c);
	htrace_view_close(v);
	htrace_region_release(r);
	unlink(path);
	close(fd);
}
END_TEST

START_TEST(test_create_existing)
{
	char path[] = "/tmp/htrace-unit-XXXXXX";
	struct htrace_region *r, *r2;
	int fd = mkstemp(path), status;
	pid_t pid;

	/* a file that is no region is not touched */
	ck_assert_int_eq(write(fd, "precious", 8), 8);
	ck_assert_int_eq(htrace_region_create_local(&r, path, SIZE, &local_opts, NULL), -EEXIST);
	ck_assert_int_eq(lseek(fd, 0, SEEK_END), 8);
	close(fd);
	unlink(path);
	pid = fork();
	if (!pid) {
		if (htrace_region_create_local(&r, path, SIZE, &local_opts, NULL))
			_exit(1);
		htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
		htrace_region_publish(r);
		_exit(0);
	}
	waitpid(pid, &status, 0);
	ck_assert_int_eq(status, 0);
	/* its maker is dead */
	ck_assert_int_eq(htrace_region_create_local(&r, path, SIZE, &local_opts, NULL), 0);
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	/* its maker is alive */
	ck_assert_int_eq(htrace_region_create_local(&r2, path, SIZE, &local_opts, NULL), -EEXIST);
	htrace_region_set_state(r, HTRACE_GUEST_CLOSED);
	ck_assert_int_eq(htrace_region_create_local(&r2, path, SIZE, &local_opts, NULL), 0);
	htrace_region_release(r);
	htrace_region_release(r2);
	unlink(path);
}
END_TEST

static int create(const char *path, size_t size)
{
	struct htrace_region *r;
	int ret = htrace_region_create_local(&r, path, size, &local_opts, NULL);

	if (!ret)
		htrace_region_release(r);
	return ret;
}

/* Files that were made for a region are taken, as large as they are; nothing else is. */
START_TEST(test_create_prepared)
{
	char path[] = "/tmp/htrace-unit-XXXXXX", other[64];
	int fd = mkstemp(path);
	struct htrace_view *v;
	struct stat st;

	ck_assert_int_eq(create(path, 0), -ENOSPC); /* empty: any size, but which? */
	ck_assert_int_eq(create(path, SIZE), 0);
	ck_assert_int_eq(fstat(fd, &st), 0);
	ck_assert_uint_eq(st.st_size, SIZE);
	/* truncate -s */
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	ck_assert_int_eq(ftruncate(fd, SIZE), 0);
	ck_assert_int_eq(create(path, 2 * SIZE), -EINVAL);
	ck_assert_int_eq(create(path, SIZE), 0);
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	ck_assert_int_eq(ftruncate(fd, SIZE), 0);
	ck_assert_int_eq(create(path, 0), 0);
	/* a byte of something else, anywhere */
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	ck_assert_int_eq(ftruncate(fd, SIZE), 0);
	ck_assert_int_eq(pwrite(fd, "x", 1, SIZE - 1), 1);
	ck_assert_int_eq(create(path, SIZE), -EEXIST);
	/* a reader waits; its mapping stays as large */
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	ck_assert_int_eq(ftruncate(fd, SIZE), 0);
	ck_assert_int_eq(htrace_view_open(&v, path, true, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_announce(v, HTRACE_HOST_WAITING, 0, false, 0), 0);
	ck_assert_int_eq(create(path, 2 * SIZE), -EINVAL);
	ck_assert_int_eq(create(path, 0), 0);
	htrace_view_close(v);
	/* too small, a link, a directory, a half-made region */
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	ck_assert_int_eq(ftruncate(fd, 4096), 0);
	ck_assert_int_eq(create(path, SIZE), -EEXIST);
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	snprintf(other, sizeof(other), "%s-link", path);
	ck_assert_int_eq(symlink(path, other), 0);
	ck_assert_int_eq(create(other, SIZE), -EEXIST);
	unlink(other);
	ck_assert_int_eq(create("/tmp", SIZE), -EEXIST);
	ck_assert_int_eq(create(path, SIZE), 0); /* formatted, never published */
	ck_assert_int_eq(create(path, SIZE), -EEXIST);
	close(fd);
	unlink(path);
	ck_assert_int_eq(create(path, 0), -ENOSPC);
	ck_assert_int_eq(access(path, F_OK), -1); /* what was created in vain is gone */
}
END_TEST

/* ---------------------------------------------------------------------- what the reader says */

START_TEST(test_host_words)
{
	struct htrace_region *r;
	struct htrace_view *v, *onlooker;
	const struct htrace_host *h;
	__u64 session;
	int fd;

	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &local_opts, &fd), 0);
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	session = htrace_region_super(r)->session;
	h = htrace_region_host(r);
	ck_assert_int_eq(htrace_view_open_fd(&v, fd, true, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	htrace_view_host_ring(v, 0)->consumed = 77;
	htrace_view_host_ring(v, 3)->drained = 1;
	ck_assert_int_eq(htrace_view_claim(v), 0);
	ck_assert_uint_eq(htrace_region_host_ring(r, 0)->consumed, 0); /* of no session */
	ck_assert_uint_eq(htrace_region_host_ring(r, 3)->drained, 0);
	ck_assert_int_eq(htrace_view_announce(v, HTRACE_HOST_ATTACHED, session, true,
					      HTRACE_REASON_NONE), 0);
	ck_assert_uint_eq(h->magic, HTRACE_HOST_MAGIC);
	ck_assert_uint_eq(h->version_major, HTRACE_ABI_MAJOR);
	ck_assert_uint_eq(h->state, HTRACE_HOST_ATTACHED);
	ck_assert_uint_eq(h->session, session);
	ck_assert_uint_eq(h->verified, session);
	ck_assert_uint_eq(h->heartbeat, 1);
	htrace_view_host_ring(v, 0)->consumed = 77;
	htrace_view_host_ring(v, 3)->drained = 1;
	ck_assert_int_eq(htrace_view_claim(v), 0);
	ck_assert_uint_eq(htrace_region_host_ring(r, 0)->consumed, 77); /* of this one */
	ck_assert_uint_eq(htrace_region_host_ring(r, 3)->drained, 1);
	ck_assert_int_eq(htrace_view_beat(v), 0);
	ck_assert_uint_eq(h->heartbeat, 2);
	htrace_region_guest(r)->names_served = 5;
	ck_assert_int_eq(htrace_view_ask_names(v), 0);
	ck_assert_uint_eq(h->names_wanted, 6);
	ck_assert_int_eq(htrace_view_session_drained(v), 0);
	ck_assert_uint_eq(h->drained, session);
	/* it goes, and whoever comes next goes on from consumed */
	ck_assert_int_eq(htrace_view_announce(v, HTRACE_HOST_GONE, 0, false, 0), 0);
	ck_assert_uint_eq(h->state, HTRACE_HOST_GONE);
	ck_assert_uint_eq(h->session, session);
	ck_assert_uint_eq(h->verified, 0);
	ck_assert_int_eq(htrace_view_announce(v, HTRACE_HOST_REFUSED, 9, false,
					      HTRACE_REASON_INVALID), 0);
	ck_assert_uint_eq(h->session, 9);
	ck_assert_uint_eq(h->reason, HTRACE_REASON_INVALID);
	/* who only looks on says nothing */
	ck_assert_int_eq(htrace_view_open_fd(&onlooker, fd, false, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_attach(onlooker, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_claim(onlooker), -EACCES);
	ck_assert_int_eq(htrace_view_announce(onlooker, HTRACE_HOST_GONE, 0, false, 0), -EACCES);
	ck_assert_int_eq(htrace_view_beat(onlooker), -EACCES);
	ck_assert_int_eq(htrace_view_session_drained(onlooker), -EACCES);
	ck_assert_int_eq(htrace_view_ask_names(onlooker), -EACCES);
	htrace_view_close(onlooker);
	htrace_view_close(v);
	htrace_region_release(r);
	close(fd);
}
END_TEST

/* ----------------------------------------------------------------------- the guest's tables */

START_TEST(test_names_table)
{
	struct htrace_name two[2] = { { 5, 1, 1, "one" }, { 6, 2, 1, "two" } }, *names;
	struct htrace_region *r;
	struct htrace_view *v;
	__u64 generation, served;
	__u32 room, nr;
	int fd;

	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &local_opts, &fd), 0);
	htrace_region_publish(r);
	room = (__u32)(htrace_region_super(r)->names.len - sizeof(struct htrace_names)) /
	       sizeof(struct htrace_name);
	ck_assert_int_eq(htrace_view_open_fd(&v, fd, false, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_region_set_names(r, two, 2), 0);
	served = htrace_region_guest(r)->names_served;
	ck_assert_int_eq(htrace_region_add_name(r, 3, 1, "a name that is too long", 7), 0);
	ck_assert_uint_ne(htrace_region_guest(r)->names_served, served);
	ck_assert_int_eq(htrace_view_names(v, &generation, &names), 3);
	ck_assert_uint_eq(generation % 2, 0);
	ck_assert_str_eq(names[0].comm, "one");
	ck_assert_uint_eq(names[1].time, 6);
	ck_assert_str_eq(names[2].comm, "a name that is ");
	ck_assert(names[2].tid == 3 && names[2].tgid == 1 && names[2].time == 7);
	free(names);
	/* killed while it wrote: the next one puts it right */
	htrace_region_names(r)->generation |= 1;
	ck_assert_int_eq(htrace_view_names(v, &generation, &names), -EAGAIN);
	ck_assert_int_eq(htrace_region_add_name(r, 3, 1, "other", 8), 0);
	ck_assert_int_eq(htrace_view_names(v, &generation, &names), 4);
	free(names);
	for (nr = 4; !htrace_region_add_name(r, nr, 1, "x", 9); nr++)
		;
	ck_assert_uint_eq(nr, room);
	ck_assert_int_eq(htrace_region_add_name(r, nr, 1, "x", 9), -ENOSPC);
	ck_assert_uint_eq(htrace_region_names(r)->truncated, 2);
	ck_assert_int_eq(htrace_view_names(v, &generation, &names), (int)room);
	ck_assert_int_eq(htrace_region_set_names(r, names, room), 0);
	free(names);
	names = calloc(room + 3, sizeof(*names));
	ck_assert_int_eq(htrace_region_set_names(r, names, room + 3), 3);
	ck_assert_uint_eq(htrace_region_names(r)->truncated, 3);
	free(names);
	htrace_view_close(v);
	htrace_region_release(r);
	close(fd);
}
END_TEST

START_TEST(test_tables)
{
	struct htrace_schema_builder *builder;
	struct htrace_clock_sample s;
	struct htrace_name *names, *table;
	struct htrace_names *area;
	struct htrace_schema *schema;
	struct htrace_region *r;
	struct htrace_view *v;
	__u64 gen = 0, area_len;
	const void *entries;
	size_t len;
	void *buf;
	int fd, type, id;

	r = make(&fd);
	ck_assert_int_eq(htrace_builder_new(&builder, NULL, 0), 0);
	type = htrace_builder_int(builder, "int", 4, true, HTRACE_HINT_NONE);
	struct htrace_schema_member m = { .type = (__u32)type, .name = "value" };
	type = htrace_builder_struct(builder, "s", false, 4, &m, 1);
	id = htrace_builder_event(builder, "thing", type);
	ck_assert_int_gt(id, 0);
	entries = htrace_builder_entries(builder, &len);
	ck_assert_int_eq(htrace_region_add_schema(r, entries, len), 0);
	ck_assert_int_eq(htrace_region_add_schema(r, entries, len), -EINVAL); /* declared twice */
	htrace_region_publish(r);
	v = view(fd);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_schema(v, &gen, &buf, &len), 1);
	ck_assert_int_eq(htrace_schema_parse(&schema, buf, len, err, sizeof(err)), 0);
	ck_assert_ptr_nonnull(htrace_schema_event(schema, (__u32)id));
	ck_assert_int_eq(htrace_view_schema(v, &gen, &buf, &len), 0); /* unchanged */
	htrace_schema_free(schema);
	/* a length beyond the area is cut to it */
	htrace_region_schema(r)->bytes = 0xfffffff8;
	htrace_region_schema(r)->generation++;
	free(buf);
	ck_assert_int_eq(htrace_view_schema(v, &gen, &buf, &len), 1);
	ck_assert_uint_le(len, htrace_view_super(v)->schema.len);
	free(buf);
	/* and to words, which are what is copied: nothing behind them is handed out */
	area_len = sizeof(struct htrace_schema_area) + 13;
	ck_assert_int_eq(pwrite(fd, &area_len, 8, offsetof(struct htrace_super, schema.len)), 8);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	htrace_region_schema(r)->generation++;
	ck_assert_int_eq(htrace_view_schema(v, &gen, &buf, &len), 1);
	ck_assert_uint_eq(len, 8);
	free(buf);

	ck_assert_int_eq(htrace_view_clock(v, &s), 0); /* from when it was published */
	ck_assert_uint_gt(s.mono, 0);
	htrace_region_guest(r)->clock_head = 0;
	ck_assert_int_eq(htrace_view_clock(v, &s), -EAGAIN);
	for (int i = 0; i < 200; i++)
		htrace_region_beat(r, (__u64)i);
	ck_assert_int_eq(htrace_view_clock(v, &s), 0);
	ck_assert_uint_eq(s.mono, htrace_region_guest(r)->heartbeat_mono);
	ck_assert_uint_eq(htrace_view_heartbeat(v), 200);

	area = htrace_region_names(r);
	table = (struct htrace_name *)(area + 1);
	memcpy(table[0].comm, "init", 5);
	table[0].tid = 1;
	area->nr = 1;
	ck_assert_int_eq(htrace_view_names(v, &gen, &names), 1);
	ck_assert_str_eq(names[0].comm, "init");
	free(names);
	area->generation = 3;
	ck_assert_int_eq(htrace_view_names(v, &gen, &names), -EAGAIN); /* being written */
	area->generation = 4;
	area->nr = ~0u;
	ck_assert_int_gt(htrace_view_names(v, &gen, &names), 0); /* cut to the area */
	free(names);
	htrace_builder_free(builder);
	htrace_view_close(v);
	htrace_region_release(r);
	close(fd);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *s = suite_create("region");
	TCase *t = tcase_create("region"), *bad = tcase_create("malformed");

	tcase_set_timeout(bad, 120);
	tcase_add_test(t, test_roundtrip);
	tcase_add_test(t, test_session_change);
	tcase_add_test(t, test_stale_consumed);
	tcase_add_test(t, test_adopt);
	tcase_add_test(t, test_producer_rings);
	tcase_add_test(t, test_default_ring_size);
	tcase_add_test(t, test_format_refusals);
	tcase_add_loop_test(t, test_senseless, 0, (int)(sizeof(senseless) / sizeof(*senseless)));
	tcase_add_test(t, test_tables);
	tcase_add_test(t, test_create_existing);
	tcase_add_test(t, test_create_prepared);
	tcase_add_test(t, test_host_words);
	tcase_add_test(t, test_names_table);
	suite_add_tcase(s, t);
	tcase_add_loop_test(bad, test_bad_super, 0, (int)(sizeof(bads) / sizeof(*bads)));
	tcase_add_test(bad, test_two_vshmem);
	tcase_add_test(bad, test_overlap);
	tcase_add_test(bad, test_random_super);
	tcase_add_test(bad, test_bad_files);
	tcase_add_test(bad, test_shrunk);
	suite_add_tcase(s, bad);
	return s;
}

int main(void)
{
	return unit_run(make_suite());
}
