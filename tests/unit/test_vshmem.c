/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Rings in guest RAM, as the host maps them: a guest that is a file, its page runs good and bad. */
#include <check.h>
#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "regionbox.h"
#include "unit.h"

#define RAM_SIZE (64ULL << 20)
#define PAGES 64

/* A "guest" whose RAM is a file and whose ring pages are scattered in it. */
struct fake {
	char region_path[64], ram_path[64];
	int region_fd, ram_fd;
	char *region, *ram, *space; /* space: the ring's pages as the guest sees them */
	struct htrace_region *r;
	struct htrace_runs *runs;
	struct htrace_anchor *anchor;
	struct htrace_run *run;
	size_t len;
};

static void fake_guest(struct fake *f, __u64 ram_size, __u64 high_from)
{
	struct htrace_region_opts o = local_opts;
	size_t nr;

	o.placement = HTRACE_PLACEMENT_VSHMEM;
	o.kind = HTRACE_RING_PER_CPU;
	o.nr_rings = 2;
	memset(f, 0, sizeof(*f));
	strcpy(f->region_path, "/tmp/htrace-unit-XXXXXX");
	strcpy(f->ram_path, "/tmp/htrace-unit-XXXXXX");
	f->region_fd = mkstemp(f->region_path);
	f->ram_fd = mkstemp(f->ram_path);
	ck_assert_int_eq(ftruncate(f->region_fd, SIZE), 0);
	ck_assert_int_eq(ftruncate(f->ram_fd, (off_t)ram_size), 0);
	f->region = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->region_fd, 0);
	ck_assert_int_eq(htrace_region_format(&f->r, f->region, SIZE, &o), 0);
	f->len = (size_t)htrace_region_super(f->r)->ringset[0].stride * 2;
	nr = f->len / 4096;
	f->space = mmap(NULL, f->len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	f->runs = htrace_region_runs(f->r);
	f->anchor = (struct htrace_anchor *)(f->runs + 1);
	f->runs->nr_anchors = 4;
	f->runs->nr_pages = nr;
	f->run = (struct htrace_run *)(f->anchor + 4);
	/* pages in falling order, as a kernel hands them out; from the middle on above 4 GiB */
	for (size_t i = 0; i < nr; i++) {
		__u64 pfn = 0x1000 + 2 * (nr - i), off = pfn << 12;

		if (high_from && i >= nr / 2) {
			off = high_from + (pfn << 12);
			pfn += 1ULL << 20;
		}
		ck_assert_ptr_ne(mmap(f->space + i * 4096, 4096, PROT_READ | PROT_WRITE,
				      MAP_SHARED | MAP_FIXED, f->ram_fd, (off_t)off), MAP_FAILED);
		f->run[i].gpfn = pfn;
		f->run[i].nr_pages = 1;
	}
	f->runs->nr_runs = (__u32)nr;
	for (__u32 i = 0; i < 4; i++) {
		__u64 stride = f->len / 2, off = i / 2 * stride;

		off += i & 1 ? stride - 8 : offsetof(struct htrace_ring, anchor);
		f->anchor[i].gpa = f->run[off / 4096].gpfn * 4096 + off % 4096;
		f->anchor[i].nonce = 0x1111000011110000ULL + i;
		*(__u64 *)(f->space + off) = f->anchor[i].nonce;
	}
	htrace_region_set_state(f->r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(f->r);
}

static void fake_end(struct fake *f)
{
	htrace_region_release(f->r);
	munmap(f->space, f->len);
	munmap(f->region, SIZE);
	unlink(f->region_path);
	unlink(f->ram_path);
	close(f->region_fd);
	close(f->ram_fd);
}

static void fake_push(struct fake *f, __u32 index, int n)
{
	struct htrace_geometry g;
	struct htrace_slot slot;
	struct htrace_ring *ring = (void *)(f->space + index * (f->len / 2));

	htrace_geometry_of(&htrace_region_super(f->r)->ringset[0], &g);
	for (int i = 0; i < n; i++) {
		ck_assert_ptr_nonnull(htrace_reserve(ring, &g, &ring->consumed, 1, 16, 0, 1000, &slot));
		htrace_commit(&slot);
	}
}

static int map_fake(struct fake *f, struct htrace_view **v)
{
	ck_assert_int_eq(htrace_view_open(v, f->region_path, true, err, sizeof(err)), 0);
	ck_assert_msg(htrace_view_attach(*v, err, sizeof(err)) == 0, "%s", err);
	strcpy(err, "");
	return htrace_view_map_ram(*v, 0, f->ram_path, err, sizeof(err));
}

static const struct { __u64 size, high_from; } layouts[] = {
	{ RAM_SIZE, 0 }, { 3ULL << 30, 2ULL << 30 }, { 5ULL << 30, 3ULL << 30 },
	{ 5ULL << 30, 0xe0000000ULL },
};

START_TEST(test_vshmem)
{
	struct htrace_consumer *c;
	struct htrace_image img;
	struct htrace_view *v;
	struct htrace_batch b;
	struct fake f;

	fake_guest(&f, layouts[_i].size, layouts[_i].high_from);
	ck_assert_msg(map_fake(&f, &v) == 0, "%s", err);
	for (__u32 i = 0; i < 2; i++) {
		ck_assert_int_eq(htrace_view_ring(v, 0, i, &img), 0);
		ck_assert_uint_eq(img.anchor, f.anchor[2 * i].nonce);
		ck_assert_int_eq(htrace_consumer_new(&c, &img, NULL), 0);
		fake_push(&f, i, 1000);
		ck_assert_uint_eq(drain(c), 1000);
		/* the guest gives the pages up */
		fake_push(&f, i, 10);
		((struct htrace_ring *)(f.space + i * (f.len / 2)))->anchor = 0;
		ck_assert_int_eq(htrace_consumer_read(c, &b), -ESTALE);
		htrace_consumer_free(c);
	}
	htrace_view_close(v);
	fake_end(&f);
}
END_TEST

enum { RUN_OUTSIDE, RUN_WRAP, RUN_HUGE, RUN_ZERO, RUN_HOLE, RUN_STRADDLE, RUNS_NONE, RUNS_MANY,
       RUNS_OVER_AREA, ANCHORS_NONE, ANCHORS_MANY, ANCHOR_WRONG, ANCHOR_NONCE_0, ANCHOR_ODD,
       ANCHOR_ELSEWHERE, HIGH_UNANCHORED, NR_BAD_RUNS };

static const struct { int ret; const char *says; } bad_runs[] = {
	[RUN_OUTSIDE] = { -EPROTO, "outside guest RAM" },
	[RUN_WRAP] = { -EPROTO, "beyond any memory" },
	[RUN_HUGE] = { -EPROTO, "outside guest RAM" },
	[RUN_ZERO] = { -EPROTO, "page runs of 0" },
	[RUN_HOLE] = { -EPROTO, "outside guest RAM" },
	[RUN_STRADDLE] = { -EPROTO, "outside guest RAM" },
	[RUNS_NONE] = { -EPROTO, "0 page runs" },
	[RUNS_MANY] = { -EPROTO, "refused" },
	[RUNS_OVER_AREA] = { -EPROTO, "refused" },
	[ANCHORS_NONE] = { -EPROTO, "0 anchors" },
	[ANCHORS_MANY] = { -EPROTO, "refused" },
	[ANCHOR_WRONG] = { -ENXIO, "3 of 4 anchors" },
	[ANCHOR_NONCE_0] = { -ENXIO, "3 of 4 anchors" },
	[ANCHOR_ODD] = { -ENXIO, "3 of 4 anchors" },
	[ANCHOR_ELSEWHERE] = { -ENXIO, "3 of 4 anchors" },
	[HIGH_UNANCHORED] = { -EPROTO, "half of guest memory" },
};

START_TEST(test_bad_runs)
{
	struct htrace_view *v;
	struct fake f;
	int ret;

	fake_guest(&f, RAM_SIZE, 0);
	switch (_i) {
	case RUN_OUTSIDE: f.run[3].gpfn = RAM_SIZE >> 12; break;
	case RUN_WRAP: f.run[3].gpfn = ~0ULL >> 12; break;
	case RUN_HUGE: f.run[3].nr_pages = 1ULL << 30; break;
	case RUN_ZERO: f.run[3].nr_pages = 0; break;
	case RUN_HOLE: f.run[3].gpfn = 0xf0000; break;
	case RUN_STRADDLE:
		f.run[3].gpfn = (RAM_SIZE >> 12) - 1;
		f.run[3].nr_pages = 2;
		break;
	case RUNS_NONE: f.runs->nr_runs = 0; break;
	case RUNS_MANY: f.runs->nr_runs = ~0u; break;
	case RUNS_OVER_AREA: f.runs->nr_runs = 65536; break;
	case ANCHORS_NONE: f.runs->nr_anchors = 0; break;
	case ANCHORS_MANY: f.runs->nr_anchors = ~0u; break;
	case ANCHOR_WRONG: f.anchor[2].nonce ^= 1; break;
	case ANCHOR_NONCE_0: f.anchor[2].nonce = 0; break;
	case ANCHOR_ODD: f.anchor[2].gpa += 4; break;
	case ANCHOR_ELSEWHERE: f.anchor[2].gpa = 1ULL << 60; break;
	case HIGH_UNANCHORED: f.run[3].gpfn = 1ULL << 20; break;
	}
	ret = map_fake(&f, &v);
	ck_assert_msg(ret == bad_runs[_i].ret, "%d: %s", ret, err);
	ck_assert_msg(strstr(err, bad_runs[_i].says) != NULL, "%s", err);
	htrace_view_close(v);
	fake_end(&f);
}
END_TEST

/* Layouts that agree about all anchors may differ about other runs: 2.5 GiB on a pc of 4 GiB. */
START_TEST(test_layout_by_runs)
{
	struct htrace_view *v;
	struct fake f;
	size_t page = 5; /* neither a header nor a last page */

	fake_guest(&f, 4ULL << 30, 0);
	ck_assert_ptr_ne(mmap(f.space + page * 4096, 4096, PROT_READ | PROT_WRITE,
			      MAP_SHARED | MAP_FIXED, f.ram_fd, 0xa0000000), MAP_FAILED);
	f.run[page].gpfn = 0xa0000;
	strcpy(f.space + page * 4096, "here");
	ck_assert_msg(map_fake(&f, &v) == 0, "%s", err);
	ck_assert_str_eq((char *)v->space + page * 4096, "here");
	htrace_view_close(v);
	fake_end(&f);
}
END_TEST

/* A ring whose header is not anchored is not read, even if other anchors are right. */
START_TEST(test_unanchored_ring)
{
	struct htrace_image img;
	struct htrace_view *v;
	struct fake f;

	fake_guest(&f, RAM_SIZE, 0);
	f.anchor[2] = f.anchor[3];
	ck_assert_int_eq(map_fake(&f, &v), 0);
	ck_assert_int_eq(htrace_view_ring(v, 0, 0, &img), 0);
	ck_assert_int_eq(htrace_view_ring(v, 0, 1, &img), -ENXIO);
	htrace_view_close(v);
	fake_end(&f);
}
END_TEST

/* Found by itself: the process that maps the region's file writable, and its shared RAM. */
START_TEST(test_find_ram)
{
	struct htrace_view *v;
	int ready[2], status;
	struct fake f;
	pid_t pid;
	char c;

	fake_guest(&f, RAM_SIZE, 0);
	ck_assert_int_eq(htrace_view_open(&v, f.region_path, true, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	munmap(f.region, SIZE);
	f.region = mmap(NULL, SIZE, PROT_READ, MAP_SHARED, f.region_fd, 0);
	ck_assert_int_eq(htrace_view_map_ram(v, 0, NULL, err, sizeof(err)), -ESRCH);
	ck_assert_int_eq(pipe(ready), 0);
	pid = fork();
	if (!pid) { /* the "VMM" */
		mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f.region_fd, 0);
		mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f.ram_fd, 0);
		if (write(ready[1], "x", 1) == 1)
			pause();
		_exit(0);
	}
	ck_assert_int_eq(read(ready[0], &c, 1), 1);
	ck_assert_msg(htrace_view_map_ram(v, 0, NULL, err, sizeof(err)) == 0, "%s", err);
	ck_assert_int_eq(htrace_view_vmm_pid(v), pid);
	ck_assert_ptr_nonnull(strstr(htrace_view_ram_name(v), f.ram_path));
	ck_assert_int_eq(htrace_view_map_ram(v, pid, NULL, err, sizeof(err)), 0);
	kill(pid, SIGKILL);
	waitpid(pid, &status, 0);
	htrace_view_close(v);
	fake_end(&f);
}
END_TEST

static Suite *make_suite(void)
{
	Suite *s = suite_create("vshmem");
	TCase *ram = tcase_create("vshmem");

	tcase_add_loop_test(ram, test_vshmem, 0, (int)(sizeof(layouts) / sizeof(*layouts)));
	tcase_add_loop_test(ram, test_bad_runs, 0, NR_BAD_RUNS);
	tcase_add_test(ram, test_layout_by_runs);
	tcase_add_test(ram, test_unanchored_ring);
	tcase_add_test(ram, test_find_ram);
	suite_add_tcase(s, ram);
	return s;
}

int main(void)
{
	return unit_run(make_suite());
}
