/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Rings in guest RAM: as the guest publishes them, and as the host maps them; a guest that is a file,
 * its page runs good and bad.
 */
#include <check.h>
#include <errno.h>
#include <stdint.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/auxv.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#include "regionbox.h"
#include "unit.h"

#define RAM_SIZE (64ULL << 20)
#define GIB (1ULL << 30)

/* A "guest" whose RAM is a file and whose ring pages are scattered in it. */
struct fake {
	size_t page;
	char region_path[64], ram_path[64];
	int region_fd, ram_fd;
	char *region, *ram, *space; /* space: the ring's pages as the guest sees them */
	struct htrace_region *r;
	struct htrace_runs *runs;
	struct htrace_anchor *anchor;
	struct htrace_run *run;
	size_t len;
};

/* As the guest's kernel does it, whose pages need not be those of this machine. */
static void map_page(struct fake *f, size_t i, __u64 gpa_off)
{
	ck_assert_int_ne(syscall(SYS_mmap, f->space + i * f->page, f->page, PROT_READ | PROT_WRITE,
				 MAP_SHARED | MAP_FIXED, f->ram_fd, (off_t)gpa_off), -1);
}

/* What the library of a guest with other pages than this machine's would have written. */
static void set_page_size(struct fake *f)
{
	struct htrace_super *s = (struct htrace_super *)f->region;
	struct htrace_geometry g;

	htrace_geometry_of(&s->ringset[0], &g);
	s->guest_page_shift = (__u32)__builtin_ctzl(f->page);
	s->ringset[0].stride = htrace_image_size(&g, f->page);
}

struct shape {
	size_t page; /* of the guest; 0: of this machine */
	__u64 ram_size;
	__u64 start;     /* where its memory begins */
	__u64 high_from; /* if not 0: the second half of the pages lies above 4 GiB, here in the file */
	bool contiguous; /* else in falling order, with a gap between each two */
};

static void fake_guest_of(struct fake *f, struct shape shape)
{
	size_t page = shape.page ? shape.page : (size_t)sysconf(_SC_PAGESIZE);
	struct htrace_region_opts o = local_opts;
	size_t nr;

	o.placement = HTRACE_PLACEMENT_VSHMEM;
	o.kind = HTRACE_RING_PER_CPU;
	o.nr_rings = 2;
	o.ring_size = 256 << 10;
	memset(f, 0, sizeof(*f));
	f->page = page;
	strcpy(f->region_path, "/tmp/htrace-unit-XXXXXX");
	strcpy(f->ram_path, "/tmp/htrace-unit-XXXXXX");
	f->region_fd = mkstemp(f->region_path);
	f->ram_fd = mkstemp(f->ram_path);
	ck_assert_int_eq(ftruncate(f->region_fd, SIZE), 0);
	ck_assert_int_eq(ftruncate(f->ram_fd, (off_t)shape.ram_size), 0);
	f->region = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, f->region_fd, 0);
	ck_assert_int_eq(htrace_region_format(&f->r, f->region, SIZE, &o), 0);
	set_page_size(f);
	f->len = (size_t)((struct htrace_super *)f->region)->ringset[0].stride * 2;
	nr = f->len / page;
	f->space = mmap(NULL, f->len, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	f->runs = htrace_region_runs(f->r);
	f->anchor = (struct htrace_anchor *)(f->runs + 1);
	f->runs->nr_anchors = 4;
	f->runs->nr_pages = nr;
	f->run = (struct htrace_run *)(f->anchor + 4);
	for (size_t i = 0; i < nr; i++) {
		__u64 off = (16 << 20) + (shape.contiguous ? i : 2 * (nr - i)) * page;
		__u64 gpa = shape.start + off;

		if (shape.high_from && i >= nr / 2) {
			gpa = 4 * GIB + off;
			off += shape.high_from;
		}
		map_page(f, i, off);
		f->run[i].gpfn = gpa / page;
		f->run[i].nr_pages = 1;
	}
	f->runs->nr_runs = (__u32)nr;
	for (__u32 i = 0; i < 4; i++) {
		__u64 stride = f->len / 2, off = i / 2 * stride;

		off += i & 1 ? stride - 8 : offsetof(struct htrace_ring, anchor);
		f->anchor[i].gpa = f->run[off / page].gpfn * page + off % page;
		f->anchor[i].nonce = 0x1111000011110000ULL + i;
		*(__u64 *)(f->space + off) = f->anchor[i].nonce;
	}
	if (shape.contiguous) {
		f->run[0].nr_pages = nr;
		f->runs->nr_runs = 1;
	}
	htrace_region_set_state(f->r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(f->r);
}

static void fake_guest(struct fake *f, __u64 ram_size)
{
	fake_guest_of(f, (struct shape){ .ram_size = ram_size });
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

/* Reads both rings of a guest; its pages are no smaller than the host's. */
static void check_rings(struct fake *f)
{
	struct htrace_consumer *c;
	struct htrace_image img;
	struct htrace_view *v;
	struct htrace_batch b;

	ck_assert_msg(map_fake(f, &v) == 0, "%s", err);
	for (__u32 i = 0; i < 2; i++) {
		ck_assert_int_eq(htrace_view_ring(v, 0, i, &img), 0);
		ck_assert_uint_eq(img.anchor, f->anchor[2 * i].nonce);
		ck_assert_int_eq(htrace_consumer_new(&c, &img, NULL), 0);
		fake_push(f, i, 1000);
		ck_assert_uint_eq(drain(c), 1000);
		/* the guest gives the pages up */
		fake_push(f, i, 10);
		((struct htrace_ring *)(f->space + i * (f->len / 2)))->anchor = 0;
		ck_assert_int_eq(htrace_consumer_read(c, &b), -ESTALE);
		htrace_consumer_free(c);
	}
	htrace_view_close(v);
}

/* x86's machine types, and arm64's virt, whose memory begins at 1 GiB and has no hole. */
static const struct shape layouts[] = {
	{ .ram_size = RAM_SIZE },
	{ .ram_size = 3 * GIB, .high_from = 2 * GIB },
	{ .ram_size = 5 * GIB, .high_from = 3 * GIB },
	{ .ram_size = 5 * GIB, .high_from = 0xe0000000ULL },
	{ .ram_size = RAM_SIZE, .start = GIB },
	{ .ram_size = 5 * GIB, .start = GIB, .high_from = 3 * GIB },
};

START_TEST(test_vshmem)
{
	struct fake f;

	fake_guest_of(&f, layouts[_i]);
	check_rings(&f);
	fake_end(&f);
}
END_TEST

/*
 * Guests with each size of pages. Where this host's are larger (tests/unit/bigpages.c makes them
 * so), scattered ones cannot be mapped, and that is said.
 */
static const size_t page_sizes[] = { 4096, 16384, 65536 };
#define NR_PAGE_SIZES 3

/* A guest of smaller pages than those of this very kernel cannot be made up here. */
static bool can_be_guest(size_t page)
{
	return page >= getauxval(AT_PAGESZ);
}

START_TEST(test_page_sizes)
{
	size_t page = page_sizes[_i], host = (size_t)sysconf(_SC_PAGESIZE);
	struct htrace_view *v;
	struct fake f;
	char says[64];

	if (!can_be_guest(page))
		return;
	fake_guest_of(&f, (struct shape){ .page = page, .ram_size = RAM_SIZE });
	if (page >= host) {
		check_rings(&f);
	} else {
		snprintf(says, sizeof(says), "pages of %zu KiB are too large", host >> 10);
		ck_assert_int_eq(map_fake(&f, &v), -EINVAL);
		ck_assert_msg(strstr(err, says) && strstr(err, "relay"), "%s", err);
		htrace_view_close(v);
	}
	fake_end(&f);
}
END_TEST

/* Small pages that happen to make up large ones can be mapped, whatever this host's are. */
START_TEST(test_contiguous_pages)
{
	struct fake f;

	if (!can_be_guest(page_sizes[_i]))
		return;
	fake_guest_of(&f, (struct shape){ .page = page_sizes[_i], .ram_size = RAM_SIZE,
					  .contiguous = true });
	check_rings(&f);
	fake_end(&f);
}
END_TEST

/* ------------------------------------------- the guest's side: what it learns from its pagemap */

#define PRESENT (1ULL << 63)

static struct fake *paged; /* whose ring pages the pagemap describes */
static __u64 frame_flags;  /* of all its entries */
static __u64 frame_mask;   /* what is shown of frame numbers */
static __u64 first_frame[256]; /* the frames when the test began */

ssize_t __real_pread64(int fd, void *buf, size_t len, off_t off);

/* /proc/self/pagemap as the guest's kernel would give it, a few entries at a time. */
ssize_t __wrap_pread64(int fd, void *buf, size_t len, off_t off)
{
	char link[64], name[64] = "";
	__u64 *entry = buf, first;
	size_t n = 0;

	snprintf(link, sizeof(link), "/proc/self/fd/%d", fd);
	if (!paged || readlink(link, name, sizeof(name) - 1) < 0 || !strstr(name, "/pagemap"))
		return __real_pread64(fd, buf, len, off);
	first = (__u64)off / 8 - (uintptr_t)paged->space / paged->page;
	for (; n < 7 && n < len / 8; n++)
		entry[n] = frame_flags | (first_frame[first + n] & frame_mask);
	return (ssize_t)n * 8;
}

static void pagemap_begin(struct fake *f)
{
	size_t nr = f->len / f->page;

	ck_assert_uint_le(nr, sizeof(first_frame) / sizeof(*first_frame));
	for (size_t i = 0; i < nr; i++)
		first_frame[i] = f->run[i].gpfn;
	paged = f;
	frame_flags = PRESENT;
	frame_mask = (1ULL << 55) - 1;
}

/* Published by the library itself: frame numbers are in units of this machine's pages. */
START_TEST(test_publish)
{
	__u32 nr;
	struct fake f;

	fake_guest_of(&f, layouts[_i]);
	nr = f.runs->nr_runs;
	pagemap_begin(&f);
	memset(f.runs, 0, sizeof(*f.runs));
	memset(f.anchor, 0, 4 * sizeof(*f.anchor) + nr * sizeof(*f.run));
	ck_assert_int_eq(htrace_vshmem_publish(f.r, f.space, f.len), 0);
	ck_assert_uint_eq(f.runs->nr_runs, nr);
	ck_assert_uint_eq(f.runs->nr_pages, f.len / f.page);
	ck_assert_uint_eq(htrace_region_super(f.r)->guest_page_shift, __builtin_ctzl(f.page));
	ck_assert_int_eq(htrace_vshmem_check(f.r, f.space, f.len), 0);
	check_rings(&f);
	/* its pages have moved, or are given up */
	first_frame[3] ^= 1;
	ck_assert_int_eq(htrace_vshmem_check(f.r, f.space, f.len), -ESTALE);
	htrace_vshmem_retire(f.r, f.space, f.len);
	for (__u32 i = 0; i < 4; i++) {
		__u64 off = i / 2 * (f.len / 2);

		off += i & 1 ? f.len / 2 - 8 : offsetof(struct htrace_ring, anchor);
		ck_assert_uint_ne(f.anchor[i].nonce, 0);
		ck_assert_uint_eq(*(__u64 *)(f.space + off), 0);
	}
	paged = NULL;
	fake_end(&f);
}
END_TEST

START_TEST(test_publish_refusals)
{
	struct fake f;

	fake_guest(&f, RAM_SIZE);
	pagemap_begin(&f);
	frame_flags = 0;
	ck_assert_int_eq(htrace_vshmem_publish(f.r, f.space, f.len), -EFAULT);
	frame_flags = PRESENT;
	frame_mask = 0;
	ck_assert_int_eq(htrace_vshmem_publish(f.r, f.space, f.len), -EPERM);
	frame_mask = (1ULL << 55) - 1;
	ck_assert_int_eq(htrace_vshmem_publish(f.r, f.space, f.len - 8), -EINVAL);
	ck_assert_int_eq(htrace_vshmem_publish(f.r, f.space, f.len / 2), -EINVAL);
	paged = NULL;
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

	fake_guest(&f, RAM_SIZE);
	switch (_i) {
	case RUN_OUTSIDE: f.run[3].gpfn = RAM_SIZE / f.page; break;
	case RUN_WRAP: f.run[3].gpfn = ~0ULL / f.page; break;
	case RUN_HUGE: f.run[3].nr_pages = 1ULL << 30; break;
	case RUN_ZERO: f.run[3].nr_pages = 0; break;
	case RUN_HOLE: f.run[3].gpfn = 0xf0000000ULL / f.page; break;
	case RUN_STRADDLE:
		f.run[3].gpfn = RAM_SIZE / f.page - 1;
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
	case HIGH_UNANCHORED: f.run[3].gpfn = 4 * GIB / f.page; break;
	}
	ret = map_fake(&f, &v);
	ck_assert_msg(ret == bad_runs[_i].ret, "%d: %s", ret, err);
	ck_assert_msg(strstr(err, bad_runs[_i].says) != NULL, "%s", err);
	htrace_view_close(v);
	fake_end(&f);
}
END_TEST

/* Without rings in guest RAM there is nothing to map, and where the runs would be was not checked. */
START_TEST(test_no_runs)
{
	struct htrace_super *super;
	struct htrace_view *v;
	struct fake f;

	fake_guest(&f, RAM_SIZE);
	ck_assert_int_eq(htrace_view_open(&v, f.region_path, false, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_map_ram(v, 0, f.ram_path, err, sizeof(err)), -EPROTO);
	super = (void *)f.region;
	super->nr_ringsets = 0;
	super->runs = (struct htrace_area){ .off = 1ULL << 60 };
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_map_ram(v, 0, f.ram_path, err, sizeof(err)), -EPROTO);
	ck_assert_str_eq(err, "the region has no page runs");
	htrace_view_close(v);
	fake_end(&f);
}
END_TEST

/* Layouts that agree about all anchors may differ about other runs: 2.5 GiB on a pc of 4 GiB. */
START_TEST(test_layout_by_runs)
{
	struct htrace_view *v;
	struct fake f;
	size_t page = 2; /* neither a header nor a last page */

	fake_guest(&f, 4 * GIB);
	map_page(&f, page, 0xa0000000);
	f.run[page].gpfn = 0xa0000000 / f.page;
	strcpy(f.space + page * f.page, "here");
	ck_assert_msg(map_fake(&f, &v) == 0, "%s", err);
	ck_assert_str_eq((char *)v->space + page * f.page, "here");
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

	fake_guest(&f, RAM_SIZE);
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

	fake_guest(&f, RAM_SIZE);
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
	tcase_add_loop_test(ram, test_page_sizes, 0, NR_PAGE_SIZES);
	tcase_add_loop_test(ram, test_contiguous_pages, 0, NR_PAGE_SIZES);
	tcase_add_loop_test(ram, test_publish, 0, (int)(sizeof(layouts) / sizeof(*layouts)));
	tcase_add_test(ram, test_publish_refusals);
	tcase_add_loop_test(ram, test_bad_runs, 0, NR_BAD_RUNS);
	tcase_add_test(ram, test_no_runs);
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
