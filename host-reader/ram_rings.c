/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "ram_rings.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "clock.h"

#define ROOM_MAX (1ULL << 30) /* bytes of all rings: so much of our memory costs a guest one page of its own */

struct copied {
	__u64 head;
	bool settled;  /* all up to there was committed, and is copied */
	__u64 *whole;  /* per block slot: 1 + position of the block that is in it, complete; 0: none */
};

struct ram_rings {
	const struct guest_ram *ram;
	struct ram_region where; /* its pages are those of the vshmem space */
	struct htrace_ringset set;
	struct htrace_anchor *anchor; /* where they are in the space */
	struct copied *ring;
	struct htrace_block *desc; /* of one ring, just read */
	char *mem;
	size_t len;
	int fd;
	__u32 next;        /* the ring that this round is at */
	bool midway, any;  /* in it, up to @pos of @head; was there anything in this round */
	__u64 head, pos;
};

static __u64 ring_size(const struct ram_rings *r)
{
	return 1ULL << r->set.ring_shift;
}

static __u64 block_size(const struct ram_rings *r)
{
	return 1ULL << r->set.block_shift;
}

/* ------------------------------------------------------------------------------------------- opening */

static int fault(char *err, size_t errlen, const char *what)
{
	snprintf(err, errlen, "%s", what);
	return -EPROTO;
}

/* One entry for each page, all of them in guest RAM. */
static int take_runs(struct ram_rings *r, const struct htrace_run *run, __u32 nr, char *err, size_t errlen)
{
	__u64 size = guest_ram_part(r->ram, r->where.part)->len, page = 1ULL << r->where.page_shift, off;
	__u32 at = 0;

	for (__u32 i = 0; i < nr; i++) {
		if (!run[i].nr_pages || run[i].nr_pages > r->where.nr_pages - at || run[i].gpfn >> (52 - r->where.page_shift))
			return fault(err, errlen, "page runs of 0 pages, or of more than the rings have");
		for (__u64 k = 0; k < run[i].nr_pages; k++) {
			r->where.gpfn[at] = run[i].gpfn + k;
			if (!htrace_ram_offset(&r->where.layout, size, r->where.gpfn[at++] << r->where.page_shift, page, &off))
				return fault(err, errlen, "a page run lies outside guest RAM");
		}
	}
	return at == r->where.nr_pages ? 0 : fault(err, errlen, "page runs of fewer pages than the rings have");
}

/* Each image has two, and the memory there has to hold what they say. */
static int take_anchors(struct ram_rings *r, const struct htrace_anchor *a, __u32 nr, char *err, size_t errlen)
{
	for (__u32 i = 0; i < 2 * r->set.nr_rings; i++) {
		__u64 image = r->set.off + (__u64)(i / 2) * r->set.stride, page = 1ULL << r->where.page_shift, gpa, value;
		__u64 off = i & 1 ? image + r->set.stride - 8 : image + offsetof(struct htrace_ring, anchor);
		__u32 k = 0;

		gpa = (r->where.gpfn[off >> r->where.page_shift] << r->where.page_shift) + off % page;
		while (k < nr && a[k].gpa != gpa)
			k++;
		if (k == nr || !a[k].nonce)
			return fault(err, errlen, "a ring has no anchor");
		if (ram_region_read(r->ram, &r->where, off, &value, 8) || value != a[k].nonce)
			return fault(err, errlen, "an anchor is not in guest RAM where it should be");
		r->anchor[i] = (struct htrace_anchor){ .gpa = off, .nonce = value };
		memcpy(r->mem + off, &value, 8);
	}
	return 0;
}

/* Not what lies between: of that a guest may say that it is as large as all rings. */
static void clear_ring(struct ram_rings *r, __u32 i, size_t descs)
{
	char *image = r->mem + r->set.off + i * r->set.stride;

	memset(image, 0, sizeof(struct htrace_ring));
	memset(image + r->set.desc_off, 0, descs);
}

static int make_memory(struct ram_rings *r)
{
	__u32 nr = r->set.nr_rings, nb = 1u << (r->set.ring_shift - r->set.block_shift);
	struct stat st;

	r->where.gpfn = malloc(r->where.nr_pages * sizeof(*r->where.gpfn));
	r->anchor = calloc(2 * nr, sizeof(*r->anchor));
	r->ring = calloc(nr, sizeof(*r->ring));
	r->desc = malloc(nb * sizeof(*r->desc));
	if (!r->where.gpfn || !r->anchor || !r->ring || !r->desc)
		return -ENOMEM;
	for (__u32 i = 0; i < nr; i++) {
		r->ring[i].whole = calloc(nb, sizeof(*r->ring[i].whole));
		if (!r->ring[i].whole)
			return -ENOMEM;
	}
	if (fstat(r->fd, &st) || ((__u64)st.st_size < r->len && ftruncate(r->fd, (off_t)r->len)))
		return -errno;
	r->mem = mmap(NULL, r->len, PROT_READ | PROT_WRITE, MAP_SHARED, r->fd, 0);
	if (r->mem == MAP_FAILED) {
		r->mem = NULL;
		return -errno;
	}
	for (__u32 i = 0; i < nr; i++) /* another session's may have been there; data are read as far as these say */
		clear_ring(r, i, nb * sizeof(*r->desc));
	return 0;
}

static int open_rings(struct ram_rings *r, const struct htrace_runs *runs, size_t len, char *err, size_t errlen)
{
	const struct htrace_anchor *anchor = (const void *)(runs + 1);
	__u64 need, size = guest_ram_part(r->ram, r->where.part)->len;
	int ret;

	need = sizeof(*runs) + (__u64)runs->nr_anchors * sizeof(struct htrace_anchor) +
	       (__u64)runs->nr_runs * sizeof(struct htrace_run);
	if (runs->nr_anchors > HTRACE_MAX_ANCHORS || runs->nr_runs > HTRACE_MAX_RUNS || need > len)
		return fault(err, errlen, "the list of the rings' pages cannot be right");
	/* of the page size that the beacon says: of smaller ones they are multiples */
	if ((r->set.off | r->set.stride) % (1u << r->where.page_shift))
		return fault(err, errlen, "rings that are not whole pages");
	if (r->len > size || r->len > ROOM_MAX)
		return fault(err, errlen, "rings larger than guest RAM, or than 1 GiB together");
	r->where.nr_pages = (__u32)(r->len >> r->where.page_shift);
	ret = make_memory(r);
	if (ret) {
		snprintf(err, errlen, "copies of %zu MiB of rings: %s", r->len >> 20, strerror(-ret));
		return ret;
	}
	ret = take_runs(r, (const void *)(anchor + runs->nr_anchors), runs->nr_runs, err, errlen);
	if (!ret)
		ret = take_anchors(r, anchor, runs->nr_anchors, err, errlen);
	return ret;
}

int ram_rings_open(struct ram_rings **out, int fd, const struct guest_ram *ram, const struct ram_region *where,
		   const struct htrace_ringset *set, const struct htrace_runs *runs, size_t len, char *err, size_t errlen)
{
	struct ram_rings *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return -ENOMEM;
	r->ram = ram;
	r->where = *where;
	r->where.gpfn = NULL;
	r->set = *set;
	r->fd = fd;
	r->len = set->off + set->stride * set->nr_rings;
	ret = open_rings(r, runs, len, err, errlen);
	if (ret < 0) {
		ram_rings_close(r);
		return ret;
	}
	*out = r;
	return 0;
}

void ram_rings_close(struct ram_rings *r)
{
	if (!r)
		return;
	for (__u32 i = 0; r->ring && i < r->set.nr_rings; i++)
		free(r->ring[i].whole);
	if (r->mem)
		munmap(r->mem, r->len);
	free(r->where.gpfn);
	free(r->anchor);
	free(r->ring);
	free(r->desc);
	free(r);
}

int ram_rings_describe(const struct ram_rings *r, struct htrace_runs *runs, size_t len)
{
	__u32 nr = 2 * r->set.nr_rings;
	struct htrace_anchor *a = (void *)(runs + 1);
	struct htrace_run run = { .gpfn = 0, .nr_pages = r->where.nr_pages };

	if (sizeof(*runs) + nr * sizeof(*a) + sizeof(run) > len)
		return -ENOSPC;
	*runs = (struct htrace_runs){ .nr_anchors = nr, .nr_runs = 1, .nr_pages = run.nr_pages };
	memcpy(a, r->anchor, nr * sizeof(*a));
	memcpy(a + nr, &run, sizeof(run));
	return 0;
}

/* ------------------------------------------------------------------------------------------- copying */

/* Are all bytes of the block at @at committed, by the descriptor that was read before its data? */
static bool is_complete(const struct ram_rings *r, __u64 at)
{
	const struct htrace_block *d = &r->desc[(at & (ring_size(r) - 1)) >> r->set.block_shift];
	__u64 lap = at >> r->set.ring_shift;

	return (__u32)d->commit == (__u32)((lap + 1) << r->set.block_shift);
}

/* All that is in the block that is open at @head? */
static bool is_committed(const struct ram_rings *r, __u64 head)
{
	const struct htrace_block *d = &r->desc[(head & (ring_size(r) - 1)) >> r->set.block_shift];
	__u64 lap = head >> r->set.ring_shift;

	return (__u32)d->commit == (__u32)((lap << r->set.block_shift) + (head & (block_size(r) - 1)));
}

/* What is in the blocks up to the head, but for what is whole already. -EAGAIN: it is late, and there is more. */
static int copy_data(struct ram_rings *r, struct copied *c, __u64 image, __u64 until)
{
	__u64 block = block_size(r), end = (r->head & ~(block - 1)) + block, mask = ring_size(r) - 1;

	while (r->pos != end) {
		__u64 at = r->pos, *whole = &c->whole[(at & mask) >> r->set.block_shift];
		__u64 off = image + r->set.data_off + (at & mask), len = r->head - at < block ? r->head - at : block;
		int ret;

		r->pos += block;
		if (!len || *whole == at + 1)
			continue;
		*whole = 0;
		ret = ram_region_read(r->ram, &r->where, off, r->mem + off, len);
		if (ret)
			return ret;
		if (len == block && is_complete(r, at))
			*whole = at + 1;
		else if (len == block)
			c->settled = false;
		if (clock_now() >= until)
			return -EAGAIN;
	}
	return 0;
}

static int copy_header(struct ram_rings *r, __u64 image, struct htrace_ring *h)
{
	return ram_region_read(r->ram, &r->where, image, h, sizeof(*h));
}

/* 1; 0: nothing is new in it. */
static int begin_ring(struct ram_rings *r, struct copied *c, __u64 image, size_t descs)
{
	struct htrace_ring *shown = (void *)(r->mem + image), h;
	__u64 block = block_size(r), open;
	int ret = copy_header(r, image, &h);

	if (ret || (c->settled && h.head == c->head && h.dropped == shown->dropped && h.anchor == shown->anchor))
		return ret;
	ret = ram_region_read(r->ram, &r->where, image + r->set.desc_off, r->desc, descs);
	if (!ret)
		ret = copy_header(r, image, &h);
	if (ret)
		return ret;
	/* Whoever still reads a copy finds by it that it is overwritten. */
	__atomic_store_n(&shown->head, h.head, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	open = h.head & ~(block - 1);
	r->head = h.head;
	r->pos = open >= ring_size(r) - block ? open + block - ring_size(r) : 0;
	c->settled = is_committed(r, h.head);
	return 1;
}

static int update_ring(struct ram_rings *r, __u32 i, __u64 until)
{
	__u64 image = r->set.off + (__u64)i * r->set.stride;
	size_t descs = sizeof(*r->desc) << (r->set.ring_shift - r->set.block_shift);
	struct copied *c = &r->ring[i];
	struct htrace_ring h;
	int ret = r->midway ? 1 : begin_ring(r, c, image, descs);

	if (ret <= 0)
		return ret;
	ret = copy_data(r, c, image, until);
	if (!ret)
		ret = copy_header(r, image, &h);
	r->midway = ret == -EAGAIN;
	if (ret)
		return ret;
	memcpy(r->mem + image + r->set.desc_off, r->desc, descs);
	__atomic_thread_fence(__ATOMIC_RELEASE);
	*(struct htrace_ring *)(r->mem + image) = h;
	c->settled &= h.head == r->head;
	c->head = h.head;
	return 1;
}

int ram_rings_update(struct ram_rings *r, __u64 until)
{
	int any;

	do {
		int ret = update_ring(r, r->next, until);

		if (ret < 0)
			return ret;
		r->any |= ret;
		r->next++;
		if (r->next < r->set.nr_rings && clock_now() >= until)
			return -EAGAIN;
	} while (r->next < r->set.nr_rings);
	any = r->any;
	r->next = 0;
	r->any = false;
	return any;
}
