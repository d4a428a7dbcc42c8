/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/*
 * The reading side of a region. The peer is hostile: geometry is copied once into private memory,
 * validated there, and never read again; what lives on is read word by word, once each.
 */
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include "core.h"

/* ---------------------------------------------------------------------------------- validation */

void htrace_geometry_of(const struct htrace_ringset *set, struct htrace_geometry *g)
{
	g->ring_mask = (1ULL << set->ring_shift) - 1;
	g->ring_shift = set->ring_shift;
	g->block_shift = set->block_shift;
	g->desc_off = set->desc_off;
	g->data_off = set->data_off;
	g->max_payload = HTRACE_MAX_PAYLOAD(set->block_shift);
	g->policy = set->policy;
}

static int area_check(const struct htrace_area *a, __u64 size, __u64 min, const char *name,
		      char *err, size_t errlen)
{
	if (a->off % HTRACE_GRANULE || a->off < HTRACE_FIXED_END ||
	    !htrace_inside(a->off, a->len, size) || a->len < min)
		return htrace_errf(err, errlen, "%s area (%#llx bytes at %#llx) does not fit", name,
				   (unsigned long long)a->len, (unsigned long long)a->off),
		       -EPROTO;
	return 0;
}

static const char *ringset_fault(const struct htrace_ringset *s, __u64 size)
{
	__u64 ring, blocks, space = size;

	if (s->placement < HTRACE_PLACEMENT_LOCAL || s->placement > HTRACE_PLACEMENT_VSHMEM)
		return "unknown placement";
	if (s->policy != HTRACE_DISCARD && s->policy != HTRACE_OVERWRITE)
		return "unknown policy";
	if (s->kind != HTRACE_RING_PER_CPU && s->kind != HTRACE_RING_PER_THREAD)
		return "unknown kind of ring";
	if (!s->nr_rings || s->nr_rings > HTRACE_MAX_RINGS ||
	    s->first_slot > HTRACE_MAX_RINGS - s->nr_rings)
		return "number of rings";
	if (s->block_shift < HTRACE_BLOCK_SHIFT_MIN || s->block_shift > HTRACE_BLOCK_SHIFT_MAX ||
	    s->ring_shift <= s->block_shift || s->ring_shift > HTRACE_RING_SHIFT_MAX)
		return "ring or block size";
	ring = 1ULL << s->ring_shift;
	blocks = ring >> s->block_shift;
	if (blocks > HTRACE_MAX_BLOCKS)
		return "number of blocks";
	if (s->desc_off % 64 || s->desc_off < sizeof(struct htrace_ring) || s->data_off % 64 ||
	    !htrace_inside(s->desc_off, blocks * sizeof(struct htrace_block), s->data_off))
		return "offsets of descriptors and data";
	if (s->stride % 4096 || s->off % 4096 || s->stride > 1ULL << 42 ||
	    !htrace_inside(s->data_off, ring, s->stride))
		return "stride of the images";
	if (s->placement == HTRACE_PLACEMENT_VSHMEM)
		space = ~0ULL; /* checked against the page runs when they are mapped */
	if (!htrace_inside(s->off, s->stride * s->nr_rings, space) ||
	    (s->placement != HTRACE_PLACEMENT_VSHMEM && s->off < HTRACE_FIXED_END))
		return "images outside the region";
	return NULL;
}

/* Rings that lie in each other would have what is in them read, and held, many times over. */
static int overlap_check(const struct htrace_super *s, char *err, size_t errlen)
{
	for (__u32 i = 0; i < s->nr_ringsets; i++) {
		const struct htrace_ringset *a = &s->ringset[i];

		for (__u32 k = 0; k < i; k++) {
			const struct htrace_ringset *b = &s->ringset[k];

			if (a->placement == HTRACE_PLACEMENT_VSHMEM ||
			    b->placement == HTRACE_PLACEMENT_VSHMEM ||
			    a->off >= b->off + b->stride * b->nr_rings ||
			    b->off >= a->off + a->stride * a->nr_rings)
				continue;
			htrace_errf(err, errlen, "ring sets %u and %u overlap", k, i);
			return -EPROTO;
		}
	}
	return 0;
}

#define FEATURES (HTRACE_FEATURE_RELAY | HTRACE_FEATURE_PACKED)

/* A mirror has the shape of what it mirrors, which is no mirror itself. */
static const char *relay_fault(const struct htrace_super *s, __u32 i)
{
	const struct htrace_ringset *m = &s->ringset[i], *of;

	if (!m->relays)
		return NULL;
	if (!(s->features_required & HTRACE_FEATURE_RELAY))
		return "mirrors another, which is not announced";
	if (m->relays > s->nr_ringsets || m->relays == i + 1)
		return "mirrors a ring set that is not there";
	of = &s->ringset[m->relays - 1];
	if (of->relays || of->nr_rings != m->nr_rings || of->kind != m->kind ||
	    of->policy != m->policy || of->ring_shift != m->ring_shift ||
	    of->block_shift != m->block_shift)
		return "of another shape than the ring set that it mirrors";
	for (__u32 k = 0; k < i; k++)
		if (s->ringset[k].relays == m->relays)
			return "mirrors a ring set that another one mirrors already";
	return NULL;
}

int htrace_super_check(const struct htrace_super *s, __u64 size, char *err, size_t errlen)
{
	bool vshmem = false;
	int ret;

	if (s->version_major != HTRACE_ABI_MAJOR) {
		htrace_errf(err, errlen, "format version %u.%u, this program reads %u.x",
			    s->version_major, s->version_minor, HTRACE_ABI_MAJOR);
		return -EPROTONOSUPPORT;
	}
	if (s->features_required & ~FEATURES) {
		htrace_errf(err, errlen, "needs features %#llx that this program does not have",
			    (unsigned long long)(s->features_required & ~FEATURES));
		return -EPROTONOSUPPORT;
	}
	if (s->super_size < sizeof(*s) || s->super_size > HTRACE_GRANULE)
		return htrace_errf(err, errlen, "superblock of %u bytes", s->super_size), -EPROTO;
	if (s->region_size != size)
		return htrace_errf(err, errlen, "region of %llu bytes in a file of %llu",
				   (unsigned long long)s->region_size, (unsigned long long)size),
		       -EPROTO;
	if (!s->session)
		return htrace_errf(err, errlen, "session is 0"), -EPROTO;
	if (s->clock_id != HTRACE_CLOCK_MONOTONIC && s->clock_id != HTRACE_CLOCK_TSC)
		return htrace_errf(err, errlen, "unknown clock %u", s->clock_id), -EPROTO;
	if (s->guest_page_shift < 12 || s->guest_page_shift > 16)
		return htrace_errf(err, errlen, "page shift %u", s->guest_page_shift), -EPROTO;
	if (!s->nr_cpus || s->nr_cpus > HTRACE_MAX_CPUS)
		return htrace_errf(err, errlen, "%u CPUs", s->nr_cpus), -EPROTO;
	if (s->nr_ringsets > HTRACE_MAX_RINGSETS)
		return htrace_errf(err, errlen, "%u ring sets", s->nr_ringsets), -EPROTO;
	for (__u32 i = 0; i < s->nr_ringsets; i++) {
		const char *fault = ringset_fault(&s->ringset[i], size);

		if (fault)
			return htrace_errf(err, errlen, "ring set %u: %s", i, fault), -EPROTO;
		if (s->ringset[i].placement == HTRACE_PLACEMENT_VSHMEM && vshmem)
			return htrace_errf(err, errlen, "two ring sets in guest RAM"), -EPROTO;
		vshmem |= s->ringset[i].placement == HTRACE_PLACEMENT_VSHMEM;
	}
	for (__u32 i = 0; i < s->nr_ringsets; i++) {
		const char *fault = relay_fault(s, i);

		if (fault)
			return htrace_errf(err, errlen, "ring set %u: %s", i, fault), -EPROTO;
	}
	ret = overlap_check(s, err, errlen);
	if (!ret)
		ret = area_check(&s->guest, size, sizeof(struct htrace_guest), "guest", err,
				 errlen);
	if (!ret)
		ret = area_check(&s->schema, size, sizeof(struct htrace_schema_area), "schema", err,
				 errlen);
	if (!ret)
		ret = area_check(&s->names, size, sizeof(struct htrace_names), "names", err, errlen);
	if (!ret && (vshmem || s->runs.len))
		ret = area_check(&s->runs, size, sizeof(struct htrace_runs), "page runs", err,
				 errlen);
	return ret;
}

/* -------------------------------------------------------------------------- opening, attaching */

static int map_host_area(struct htrace_view *v, char *err, size_t errlen)
{
	size_t len = HTRACE_FIXED_END - HTRACE_HOST_OFF;

	v->host = mmap(NULL, len, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, HTRACE_HOST_OFF);
	if (v->host == MAP_FAILED && errno == EINVAL) {
		/* huge pages: an offset of 64 KiB cannot be mapped, so map it all */
		char *all = mmap(NULL, v->size, PROT_READ | PROT_WRITE, MAP_SHARED, v->fd, 0);

		v->host_is_whole = true;
		v->host = all == MAP_FAILED ? MAP_FAILED : all + HTRACE_HOST_OFF;
	}
	if (v->host == MAP_FAILED) {
		int e = errno;

		v->host = NULL;
		return htrace_errf(err, errlen, "cannot map the host area: %s", strerror(e)), -e;
	}
	return htrace_sigbus_guard(v->host, len, true, &v->shrunk, err, errlen);
}

static int open_fd(struct htrace_view **out, int fd, bool writable_host, char *err, size_t errlen)
{
	struct htrace_view *v;
	struct stat st;
	int ret;

	if (fstat(fd, &st))
		return htrace_errf(err, errlen, "fstat: %s", strerror(errno)), -errno;
	if (!S_ISREG(st.st_mode))
		return htrace_errf(err, errlen, "not a regular file"), -EINVAL;
	if ((__u64)st.st_size < HTRACE_REGION_MIN)
		return htrace_errf(err, errlen, "%lld bytes are too few for a region (at least %llu)",
				   (long long)st.st_size, (unsigned long long)HTRACE_REGION_MIN),
		       -ENOSPC;
	if ((__u64)st.st_size > HTRACE_REGION_MAX)
		return htrace_errf(err, errlen, "too large for a region"), -EINVAL;
	v = calloc(1, sizeof(*v));
	if (!v)
		return -ENOMEM;
	v->fd = fcntl(fd, F_DUPFD_CLOEXEC, 3);
	v->lock = -1;
	v->size = (size_t)st.st_size;
	v->dev = st.st_dev;
	v->ino = st.st_ino;
	v->mem = mmap(NULL, v->size, PROT_READ, MAP_SHARED, fd, 0);
	if (v->fd < 0 || v->mem == MAP_FAILED) {
		ret = -errno;
		v->mem = NULL;
		htrace_errf(err, errlen, "cannot map: %s", strerror(-ret));
		goto fail;
	}
	ret = htrace_sigbus_guard(v->mem, v->size, false, &v->shrunk, err, errlen);
	if (!ret && writable_host)
		ret = map_host_area(v, err, errlen);
	if (ret)
		goto fail;
	*out = v;
	return 0;
fail:
	htrace_view_close(v);
	return ret;
}

int htrace_view_open(struct htrace_view **out, const char *path, bool writable_host, char *err,
		     size_t errlen)
{
	/* O_NONBLOCK: do not hang on a FIFO */
	int fd = open(path, (writable_host ? O_RDWR : O_RDONLY) | O_CLOEXEC | O_NONBLOCK), ret;

	if (fd < 0) {
		ret = -errno;
		htrace_errf(err, errlen, "%s", strerror(-ret));
		return ret;
	}
	ret = open_fd(out, fd, writable_host, err, errlen);
	close(fd);
	return ret;
}

int htrace_view_open_fd(struct htrace_view **out, int fd, bool writable_host, char *err,
			size_t errlen)
{
	return open_fd(out, fd, writable_host, err, errlen);
}

void htrace_view_close(struct htrace_view *v)
{
	if (!v)
		return;
	htrace_view_unmap_ram(v);
	if (v->host) {
		htrace_sigbus_unguard(v->host);
		if (v->host_is_whole)
			munmap((char *)v->host - HTRACE_HOST_OFF, v->size);
		else
			munmap(v->host, HTRACE_FIXED_END - HTRACE_HOST_OFF);
	}
	if (v->mem) {
		htrace_sigbus_unguard(v->mem);
		munmap(v->mem, v->size);
	}
	if (v->fd >= 0)
		close(v->fd);
	if (v->lock >= 0)
		close(v->lock);
	free(v);
}

static __u64 load_magic(const struct htrace_view *v)
{
	return __atomic_load_n(&((const struct htrace_super *)v->mem)->magic, __ATOMIC_ACQUIRE);
}

static __u64 load_session(const struct htrace_view *v)
{
	return __atomic_load_n(&((const struct htrace_super *)v->mem)->session, __ATOMIC_ACQUIRE);
}

/* Nothing there but perhaps a host's own words, or a superblock that is just being written? */
static bool awaits_guest(const struct htrace_view *v)
{
	struct htrace_super s;
	const __u64 *w = (const __u64 *)&s;

	htrace_copy_once(&s, v->mem, sizeof(s));
	if (s.magic)
		return false;
	if (s.version_major == HTRACE_ABI_MAJOR && s.region_size == v->size)
		return true;
	for (size_t i = 0; i < sizeof(s) / 8; i++)
		if (w[i])
			return false;
	return true;
}

bool htrace_view_may_write(const struct htrace_view *v)
{
	return load_magic(v) == HTRACE_MAGIC || awaits_guest(v);
}

int htrace_view_attach(struct htrace_view *v, char *err, size_t errlen)
{
	struct htrace_super s;
	__u64 magic = load_magic(v);
	int ret;

	if (v->shrunk)
		return htrace_errf(err, errlen, "the file was truncated"), -EPROTO;
	if (magic != HTRACE_MAGIC) {
		if (awaits_guest(v))
			return -EAGAIN;
		if (load_magic(v) == HTRACE_MAGIC) /* it came just now */
			return -EAGAIN;
		return htrace_errf(err, errlen, "something other than a libhtrace region is in it"),
		       -EPROTO;
	}
	htrace_copy_once(&s, v->mem, sizeof(s));
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (load_magic(v) != HTRACE_MAGIC || s.magic != HTRACE_MAGIC || load_session(v) != s.session)
		return -EAGAIN;
	ret = htrace_super_check(&s, v->size, err, errlen);
	if (ret)
		return ret;
	htrace_view_unmap_ram(v);
	v->super = s;
	v->attached = true;
	return 0;
}

const struct htrace_super *htrace_view_super(const struct htrace_view *v)
{
	return &v->super;
}

bool htrace_view_current(const struct htrace_view *v)
{
	return v->attached && !v->shrunk && load_magic(v) == HTRACE_MAGIC &&
	       load_session(v) == v->super.session;
}

bool htrace_view_same_boot(const struct htrace_view *v)
{
	static const __u8 none[16];
	__u8 id[16];

	htrace_boot_id(id);
	return v->attached && memcmp(id, none, sizeof(id)) && !memcmp(id, v->super.boot_id, sizeof(id));
}

bool htrace_view_shrunk(const struct htrace_view *v)
{
	return v->shrunk;
}

size_t htrace_view_size(const struct htrace_view *v)
{
	return v->size;
}

void htrace_view_file(const struct htrace_view *v, __u64 *dev, __u64 *ino)
{
	*dev = v->dev;
	*ino = v->ino;
}

/* ------------------------------------------------------------------------------ guest's words */

static const struct htrace_guest *guest(const struct htrace_view *v)
{
	return (const void *)((const char *)v->mem + v->super.guest.off);
}

void htrace_view_guest(const struct htrace_view *v, struct htrace_guest *copy, bool arrays)
{
	size_t len = arrays ? sizeof(*copy) : offsetof(struct htrace_guest, clock);

	memset(copy, 0, sizeof(*copy));
	if (!v->attached)
		return;
	htrace_copy_once(copy, guest(v), len);
	if (copy->nr_progs > HTRACE_MAX_PROGS)
		copy->nr_progs = HTRACE_MAX_PROGS;
	if (!arrays)
		copy->nr_progs = 0;
}

__u64 htrace_view_heartbeat(const struct htrace_view *v)
{
	return v->attached ? __atomic_load_n(&guest(v)->heartbeat, __ATOMIC_ACQUIRE) : 0;
}

__u32 htrace_view_state(const struct htrace_view *v)
{
	return v->attached ? __atomic_load_n(&guest(v)->state, __ATOMIC_ACQUIRE) : HTRACE_GUEST_NONE;
}

int htrace_view_clock(const struct htrace_view *v, struct htrace_clock_sample *s)
{
	for (int i = 0; v->attached && i < 8; i++) {
		__u64 head = __atomic_load_n(&guest(v)->clock_head, __ATOMIC_ACQUIRE);

		if (!head)
			return -EAGAIN;
		htrace_copy_once(s, &guest(v)->clock[(head - 1) % HTRACE_CLOCK_SAMPLES], sizeof(*s));
		__atomic_thread_fence(__ATOMIC_ACQUIRE);
		/* the slot is written again when head is about to get 64 further */
		if (__atomic_load_n(&guest(v)->clock_head, __ATOMIC_RELAXED) - head <
		    HTRACE_CLOCK_SAMPLES - 1)
			return 0;
	}
	return -EAGAIN;
}

int htrace_view_clock_samples(const struct htrace_view *v, __u64 *next,
			      struct htrace_clock_sample s[HTRACE_CLOCK_SAMPLES])
{
	__u64 head, from = *next, kept;
	int nr = 0;

	if (!v->attached)
		return 0;
	head = __atomic_load_n(&guest(v)->clock_head, __ATOMIC_ACQUIRE);
	/* One slot may be written already, of the next that comes. */
	kept = head < HTRACE_CLOCK_SAMPLES ? head : HTRACE_CLOCK_SAMPLES - 1;
	if (from > head || head - from > kept)
		from = head - kept;
	for (__u64 i = from; i != head; i++)
		htrace_copy_once(&s[nr++], &guest(v)->clock[i % HTRACE_CLOCK_SAMPLES], sizeof(*s));
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	kept = __atomic_load_n(&guest(v)->clock_head, __ATOMIC_RELAXED) - from;
	*next = head;
	/* Those at the front that were overwritten meanwhile are not what they were. */
	if (kept <= HTRACE_CLOCK_SAMPLES - 1)
		return nr;
	kept -= HTRACE_CLOCK_SAMPLES - 1;
	if (kept >= (__u64)nr)
		return 0;
	nr -= (int)kept;
	memmove(s, s + kept, (size_t)nr * sizeof(*s));
	return nr;
}

int htrace_view_schema(const struct htrace_view *v, __u64 *generation, void **buf, size_t *len)
{
	const struct htrace_schema_area *a =
		(const void *)((const char *)v->mem + v->super.schema.off);
	__u64 gen, room;
	__u32 bytes;

	if (!v->attached)
		return 0;
	gen = __atomic_load_n(&a->generation, __ATOMIC_ACQUIRE);
	room = (v->super.schema.len - sizeof(*a)) & ~7ULL; /* words are what is copied */
	bytes = __atomic_load_n(&a->bytes, __ATOMIC_RELAXED) & ~7u;
	if (gen == *generation)
		return 0;
	if (bytes > room)
		bytes = (__u32)room;
	if (bytes > HTRACE_SCHEMA_MAX)
		bytes = HTRACE_SCHEMA_MAX;
	*buf = malloc(bytes ? bytes : 1);
	if (!*buf)
		return -ENOMEM;
	htrace_copy_once(*buf, a + 1, bytes);
	*len = bytes;
	*generation = gen;
	return 1;
}

int htrace_view_names(const struct htrace_view *v, __u64 *generation, struct htrace_name **names)
{
	const struct htrace_names *t = (const void *)((const char *)v->mem + v->super.names.off);
	__u64 gen, room;
	__u32 nr;

	*names = NULL;
	if (!v->attached)
		return -EAGAIN;
	gen = __atomic_load_n(&t->generation, __ATOMIC_ACQUIRE);
	room = (v->super.names.len - sizeof(*t)) / sizeof(struct htrace_name);
	if (gen & 1)
		return -EAGAIN;
	nr = __atomic_load_n(&t->nr, __ATOMIC_RELAXED);
	if (nr > room)
		nr = (__u32)room;
	if (nr > HTRACE_MAX_NAMES)
		nr = HTRACE_MAX_NAMES;
	*names = malloc((nr ? nr : 1) * sizeof(**names));
	if (!*names)
		return -ENOMEM;
	htrace_copy_once(*names, t + 1, nr * sizeof(**names));
	__atomic_thread_fence(__ATOMIC_ACQUIRE);
	if (__atomic_load_n(&t->generation, __ATOMIC_RELAXED) != gen) {
		free(*names);
		*names = NULL;
		return -EAGAIN;
	}
	*generation = gen;
	return (int)nr;
}

/* ------------------------------------------------------------------------------- host's words */

struct htrace_host *htrace_view_host(struct htrace_view *v)
{
	return v->host;
}

struct htrace_host_ring *htrace_view_host_ring(struct htrace_view *v, __u32 slot)
{
	if (!v->host || slot >= HTRACE_MAX_RINGS)
		return NULL;
	return (struct htrace_host_ring *)((char *)v->host + HTRACE_HOST_RINGS_OFF -
					   HTRACE_HOST_OFF) +
	       slot;
}

/* --------------------------------------------------------------------------------------- rings */

/* The nonce that the anchor at byte @off of the vshmem space must hold; 0: there is none. */
static __u64 anchor_at(const struct htrace_view *v, __u64 off)
{
	__u64 page = off >> v->super.guest_page_shift, first = 0;
	__u64 in_page = off & ((1ULL << v->super.guest_page_shift) - 1);

	for (__u32 i = 0; i < v->nr_runs; i++) {
		const struct htrace_run *r = &v->runs[i];
		__u64 gpa;

		if (page - first >= r->nr_pages) {
			first += r->nr_pages;
			continue;
		}
		gpa = ((r->gpfn + page - first) << v->super.guest_page_shift) + in_page;
		for (__u32 k = 0; k < v->nr_anchors; k++)
			if (v->anchors[k].gpa == gpa)
				return v->anchors[k].nonce;
		return 0;
	}
	return 0;
}

int htrace_view_ring(const struct htrace_view *v, __u32 set, __u32 index, struct htrace_image *img)
{
	const struct htrace_ringset *s = &v->super.ringset[set < HTRACE_MAX_RINGSETS ? set : 0];
	__u64 off;

	if (!v->attached || set >= v->super.nr_ringsets || index >= s->nr_rings)
		return -ENXIO;
	off = s->off + index * s->stride;
	memset(img, 0, sizeof(*img));
	htrace_geometry_of(s, &img->geometry);
	img->kind = s->kind;
	img->packed = v->super.features_required & HTRACE_FEATURE_PACKED;
	img->placement = s->placement;
	img->index = index;
	img->slot = s->first_slot + index;
	if (s->placement != HTRACE_PLACEMENT_VSHMEM) {
		img->ring = (const void *)((const char *)v->mem + off);
		return 0;
	}
	if (!v->space || !htrace_inside(off, s->stride, v->space_len))
		return -ENXIO;
	img->anchor = anchor_at(v, off + offsetof(struct htrace_ring, anchor));
	if (!img->anchor)
		return -ENXIO;
	img->ring = (const void *)((const char *)v->space + off);
	return 0;
}
