/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "boot_ring.h"

#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PAGE 4096u
#define MAGIC 0x0badfeedu

/* The kernel's struct ring_buffer_meta; then the order of its pages, as indices of four bytes. */
struct meta {
	__u32 magic, struct_size;
	__u64 text, data;
	__u64 first, head, commit; /* addresses in the guest's kernel */
	__u32 page_size, nr_pages;
};

/* A page as it was when it was last read. */
struct page {
	__u64 time;  /* its own, which may be 0: clocks stand still early in a boot */
	__u64 until; /* of the last record that was */
	__u32 used, bad; /* bytes; bad: of a page that did not add up */
	bool seen;
};

struct cpu {
	__u64 at, data; /* in the file */
	struct meta meta;
	struct page *page;
	__u32 latest; /* page that was read last, + 1 */
};

/* Something new, at the time that its page has. */
struct fresh {
	__u64 time;
	__u32 page;
};

struct boot_ring {
	int fd;
	__u64 at, size;
	struct cpu cpu[BOOT_RING_CPUS];
	struct boot_ring_state state;
	struct fresh *fresh; /* as many as the range has pages */
	bool looked;
};

int boot_ring_open(struct boot_ring **out, int fd, __u64 at, __u64 size)
{
	struct boot_ring *r;

	*out = NULL;
	if (at % PAGE || size % PAGE || !size || size > BOOT_RING_MAX || at > (__u64)INT64_MAX - size)
		return -EINVAL;
	r = calloc(1, sizeof(*r));
	if (!r)
		return -ENOMEM;
	r->fd = fd;
	r->at = at;
	r->size = size;
	r->fresh = calloc(size / PAGE, sizeof(*r->fresh));
	if (!r->fresh) {
		free(r);
		return -ENOMEM;
	}
	*out = r;
	return 0;
}

static void forget_cpus(struct boot_ring *r)
{
	while (r->state.cpus)
		free(r->cpu[--r->state.cpus].page);
}

void boot_ring_close(struct boot_ring *r)
{
	if (!r)
		return;
	forget_cpus(r);
	free(r->fresh);
	free(r);
}

const struct boot_ring_state *boot_ring_state(const struct boot_ring *r)
{
	return &r->state;
}

/* A copy, made once: what is checked is what is used. False: the file has become shorter. */
static bool copy(const struct boot_ring *r, void *to, size_t len, __u64 at)
{
	ssize_t n;

	do
		n = pread(r->fd, to, len, (off_t)at);
	while (n < 0 && errno == EINTR);
	return n == (ssize_t)len;
}

/* ------------------------------------------------------------------------------------------ finding it */

/* Does @m, found at @at, describe pages that lie in the range? */
static bool describes(const struct boot_ring *r, const struct meta *m, __u64 at, __u64 *data)
{
	__u64 room = r->at + r->size - at;

	if (m->magic != MAGIC || m->struct_size != sizeof(*m) || m->page_size != PAGE || m->nr_pages < 2 ||
	    m->nr_pages > room / PAGE)
		return false;
	/* The pages are aligned as addresses are, and the range begins at one that is. */
	*data = at + ((sizeof(*m) + 4ULL * m->nr_pages + PAGE - 1) & ~(__u64)(PAGE - 1));
	return *data - at <= room && m->nr_pages <= (room - (*data - at)) / PAGE;
}

static int add_cpu(struct boot_ring *r, const struct meta *m, __u64 at, __u64 data)
{
	struct cpu *c = &r->cpu[r->state.cpus];

	c->page = calloc(m->nr_pages, sizeof(*c->page));
	if (!c->page)
		return -ENOMEM;
	c->at = at;
	c->data = data;
	c->meta = *m;
	c->latest = 0;
	r->state.cpus++;
	r->state.text = m->text;
	return 0;
}

/*
 * The kernel describes one CPU's behind the other's, and empties the pages before it goes on. It makes them as large
 * as fit: as long as there is room for one more, there are some to come.
 */
int boot_ring_find(struct boot_ring *r)
{
	__u64 at = r->at, end = r->at + r->size, data, behind = 0, last = 0;
	int err;

	forget_cpus(r);
	while (at < end && r->state.cpus < BOOT_RING_CPUS) {
		struct meta m;

		if (!copy(r, &m, sizeof(m), at))
			return -EIO;
		if (!describes(r, &m, at, &data)) {
			at += PAGE;
			continue;
		}
		err = add_cpu(r, &m, at, data);
		if (err)
			return err;
		behind = data + (__u64)m.nr_pages * PAGE;
		last = behind - at;
		at = behind;
	}
	return r->state.cpus && (end - behind < last || r->state.cpus == BOOT_RING_CPUS) ? 0 : -EAGAIN;
}

/* ---------------------------------------------------------------------------------------------- reading */

static int by_time(const void *a, const void *b)
{
	const struct fresh *x = a, *y = b;

	if (x->time != y->time)
		return x->time < y->time ? -1 : 1;
	return x->page < y->page ? -1 : x->page > y->page;
}

/* Does the kernel still use it as it was found? It was mapped elsewhere, or made anew, after a reboot. */
static bool is_same(const struct boot_ring *r, const struct cpu *c)
{
	struct meta m;

	return copy(r, &m, sizeof(m), c->at) && m.magic == MAGIC && m.first == c->meta.first &&
	       m.text == c->meta.text && m.nr_pages == c->meta.nr_pages;
}

/* The pages that have something new; -EIO. */
static long find_fresh(struct boot_ring *r, struct cpu *c)
{
	__u32 filled = 0;
	long nr = 0;

	for (__u32 i = 0; i < c->meta.nr_pages; i++) {
		struct page *p = &c->page[i];
		__u64 head[2]; /* time, committed */
		__u32 len;

		if (!copy(r, head, sizeof(head), c->data + (__u64)i * PAGE))
			return -EIO;
		len = head[1] & 0xfffff;
		if (!len)
			continue;
		filled++;
		if (!p->seen || p->time != head[0]) {
			if (p->seen && c->latest == i + 1)
				r->state.overrun++; /* and so were all that came behind it */
			*p = (struct page){ .time = head[0], .until = head[0], .seen = true };
		}
		if (len > p->used && len != p->bad)
			r->fresh[nr++] = (struct fresh){ head[0], i };
	}
	if (!r->looked && filled == c->meta.nr_pages)
		r->state.wrapped = true;
	return nr;
}

/* Of one page, what came since. False: there is no room for more. */
static bool read_page(struct boot_ring *r, unsigned int cpu, __u32 page,
		      bool (*each)(void *ctx, unsigned int cpu, const struct ftrace_record *rec), void *ctx, long *nr)
{
	struct cpu *c = &r->cpu[cpu];
	struct page *p = &c->page[page];
	__u64 at = c->data + (__u64)page * PAGE, again;
	unsigned char bytes[PAGE];
	struct ftrace_record rec;
	struct ftrace_page f;

	/* From its beginning to its end: what was committed when that was read was there by then. */
	if (!copy(r, bytes, sizeof(bytes), at) || !copy(r, &again, sizeof(again), at))
		return true;
	if (again != p->time)
		return true; /* it was overwritten: the next look finds so */
	if (!ftrace_page_open(&f, bytes, sizeof(bytes)) || f.time != p->time || f.len < p->used) {
		r->state.corrupt++;
		p->bad = f.len;
		return true;
	}
	c->latest = page + 1;
	f.at = p->used;
	f.time = p->until;
	while (ftrace_page_next(&f, &rec)) {
		if (!each(ctx, cpu, &rec))
			return false;
		(*nr)++;
		p->used = (__u32)f.at;
		p->until = f.time;
	}
	if (f.broken) {
		r->state.corrupt++;
		p->bad = (__u32)f.len;
	} else {
		p->used = (__u32)f.len;
		p->until = f.time;
	}
	return true;
}

long boot_ring_read(struct boot_ring *r, bool (*each)(void *ctx, unsigned int cpu, const struct ftrace_record *rec),
		    void *ctx)
{
	long taken = 0;

	for (unsigned int i = 0; i < r->state.cpus && !r->state.anew; i++) {
		long nr;

		if (!is_same(r, &r->cpu[i])) {
			r->state.anew = true;
			break;
		}
		nr = find_fresh(r, &r->cpu[i]);
		if (nr < 0)
			return nr;
		if (nr)
			qsort(r->fresh, (size_t)nr, sizeof(*r->fresh), by_time);
		for (long n = 0; n < nr; n++)
			if (!read_page(r, i, r->fresh[n].page, each, ctx, &taken))
				break;
	}
	r->looked = true;
	return taken;
}
