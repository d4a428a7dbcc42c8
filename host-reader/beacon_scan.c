/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "beacon_scan.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "clock.h"

#define ABSENT "its tables are swapped out, as too many others' are"
#define PAGES 4096u /* that are asked for at once whether they are in memory */

/* -------------------------------------------------------------------------------------- a region */

static int read_gpa(const struct guest_ram *ram, const struct ram_region *r, __u64 gpa, void *to, size_t len)
{
	const struct guest_ram_part *p = guest_ram_part(ram, r->part);
	__u64 off;

	if (p->id != r->id || !htrace_ram_offset(&r->layout, p->len, gpa, len, &off))
		return -ERANGE;
	return guest_ram_read(ram, r->part, off, to, len);
}

int ram_region_read(const struct guest_ram *ram, const struct ram_region *r, __u64 off, void *to, size_t len)
{
	size_t page = (size_t)1 << r->page_shift, n;
	__u64 at;
	int ret = 0;

	if (!htrace_inside(off, len, (__u64)r->nr_pages << r->page_shift))
		return -ERANGE;
	for (; len && !ret; off += n, to = (char *)to + n, len -= n) {
		at = off >> r->page_shift;
		n = page - off % page;
		while (n < len && r->gpfn[at + 1] == r->gpfn[at] + 1) { /* pages that follow on each other at once */
			at++;
			n += page;
		}
		n = n < len ? n : len;
		ret = read_gpa(ram, r, (r->gpfn[off >> r->page_shift] << r->page_shift) + off % page, to, n);
	}
	return ret;
}

bool ram_region_current(const struct guest_ram *ram, const struct ram_region *r)
{
	struct htrace_beacon b;
	struct htrace_super s;

	if (guest_ram_read(ram, r->part, r->beacon, &b, sizeof(b)) || b.magic != HTRACE_BEACON_MAGIC ||
	    b.session != r->session)
		return false;
	return !ram_region_read(ram, r, HTRACE_SUPER_OFF, &s, offsetof(struct htrace_super, boot_id)) &&
	       s.magic == HTRACE_MAGIC && s.session == r->session;
}

void ram_region_free(struct ram_region *r)
{
	free(r->gpfn);
	memset(r, 0, sizeof(*r));
}

/* What is swapped out comes back when it is read, which takes long: no more of it than this. */
static bool may_read(struct beacon_scan *s, const struct ram_region *r, __u64 gpa)
{
	bool present = true;
	__u64 off;

	if (!htrace_ram_offset(&r->layout, guest_ram_part(s->ram, r->part)->len, gpa, 8, &off) ||
	    guest_ram_present(s->ram, r->part, off / GUEST_RAM_PAGE, &present, 1))
		return true; /* reading it says why not */
	if (present)
		return true;
	if (s->absent == BEACON_ABSENT)
		return false;
	s->absent++;
	return true;
}

/* All the pages that it names, in its tables, which are pages too. */
static const char *read_tables(struct beacon_scan *s, struct ram_region *r, const struct htrace_beacon *b)
{
	__u64 size = guest_ram_part(s->ram, r->part)->len, off, page = 1ULL << b->page_shift;
	__u32 per_table = (__u32)(page / 8);

	for (__u32 i = 0; i < b->nr_tables; i++) {
		__u32 n = r->nr_pages - i * per_table < per_table ? r->nr_pages - i * per_table : per_table;

		if (b->table[i] >> (52 - b->page_shift))
			return "a table of its pages lies outside guest RAM";
		if (!may_read(s, r, b->table[i] << b->page_shift))
			return ABSENT;
		if (read_gpa(s->ram, r, b->table[i] << b->page_shift, r->gpfn + i * per_table, n * 8))
			return "a table of its pages lies outside guest RAM";
	}
	for (__u32 i = 0; i < r->nr_pages; i++)
		if (r->gpfn[i] >> (52 - b->page_shift) ||
		    !htrace_ram_offset(&r->layout, size, r->gpfn[i] << b->page_shift, page, &off))
			return "a page of its region lies outside guest RAM";
	return NULL;
}

static const char *follow(struct beacon_scan *s, struct ram_region *r, const struct htrace_beacon *b)
{
	const char *why = read_tables(s, r, b);

	if (why)
		return why;
	if (!may_read(s, r, (r->gpfn[HTRACE_SUPER_OFF >> r->page_shift] << r->page_shift)))
		return ABSENT;
	return ram_region_current(s->ram, r) ? NULL : "no region of its session is where it says";
}

/* Under a known translation its place is where it says that it is; of several the one under which it leads somewhere. */
static const char *try_layouts(struct beacon_scan *s, struct ram_region *r, const struct htrace_beacon *b)
{
	__u64 size = guest_ram_part(s->ram, r->part)->len, off;
	const struct htrace_ram_layout *l, alone = { b->gpa - r->beacon, 1ULL << 48 };
	const char *why = "it is not where it says that it is";

	for (unsigned int i = 0; (l = htrace_ram_layouts(i)) != NULL; i++) {
		r->layout = *l;
		if (!htrace_ram_offset(l, size, b->gpa, sizeof(*b), &off) || off != r->beacon)
			continue;
		why = follow(s, r, b);
		if (!why)
			return NULL;
	}
	/* A part of its own, wherever its beginning is, as of memory in several pieces. */
	if (b->gpa < r->beacon)
		return why;
	r->layout = alone;
	return follow(s, r, b);
}

static void look_into(struct beacon_scan *s, __u64 off, const struct htrace_beacon *b)
{
	struct ram_region r = { .part = s->part, .id = guest_ram_part(s->ram, s->part)->id, .beacon = off,
				 .session = b->session, .page_shift = b->page_shift };
	const char *why;

	s->tries++;
	if (!htrace_beacon_valid(b)) {
		s->refused++;
		s->why = "it is damaged, or of another version";
		return;
	}
	r.nr_pages = (__u32)(b->region_size >> b->page_shift);
	r.gpfn = malloc(r.nr_pages * sizeof(*r.gpfn));
	why = r.gpfn ? try_layouts(s, &r, b) : "memory is out";
	if (!why && s->nr < BEACONS_MAX) {
		s->found[s->nr++] = r;
		return;
	}
	if (why) {
		s->refused++;
		s->why = why;
	}
	free(r.gpfn);
}

/* ------------------------------------------------------------------------------------------- the scan */

void beacon_scan_begin(struct beacon_scan *s, const struct guest_ram *ram)
{
	memset(s, 0, sizeof(*s));
	s->ram = ram;
}

static int look_at(struct beacon_scan *s, __u64 page)
{
	__u64 off = page * GUEST_RAM_PAGE, head[2];
	struct htrace_beacon b;
	int ret = guest_ram_read(s->ram, s->part, off, head, sizeof(head));

	s->present++;
	if (ret || head[0] != HTRACE_BEACON_MAGIC || head[1] != ~HTRACE_BEACON_MAGIC || s->tries == BEACON_TRIES)
		return ret == -EIO ? 0 : ret; /* such as a page that has just been given back */
	ret = guest_ram_read(s->ram, s->part, off, &b, sizeof(b));
	if (!ret)
		look_into(s, off, &b);
	return ret == -EIO ? 0 : ret;
}

static int step_batch(struct beacon_scan *s, __u64 until)
{
	__u64 pages = guest_ram_part(s->ram, s->part)->len / GUEST_RAM_PAGE;
	unsigned int n, tries = s->tries;
	bool present[PAGES];
	int ret;

	if (s->page >= pages) { /* it went meanwhile, or another one is in its place */
		s->page = 0;
		s->part++;
		return 0;
	}
	n = pages - s->page < PAGES ? (unsigned int)(pages - s->page) : PAGES;
	ret = guest_ram_present(s->ram, s->part, s->page, present, n);
	for (unsigned int i = 0; i < n && !ret; i++) {
		if (present[i])
			ret = look_at(s, s->page + i);
		if (s->tries != tries && clock_now() >= until) /* one of these may take long */
			n = i + 1;
		tries = s->tries;
	}
	s->page += n;
	s->pages += n;
	if (s->page == pages) {
		s->page = 0;
		s->part++;
	}
	return ret;
}

int beacon_scan_step(struct beacon_scan *s, __u64 ns)
{
	__u64 start = clock_now();
	int ret = 0;

	while (!ret && s->part < guest_ram_nr(s->ram)) {
		ret = step_batch(s, start + ns);
		if (clock_now() - start >= ns)
			break;
	}
	s->ns += clock_now() - start;
	return ret ? ret : s->part < guest_ram_nr(s->ram);
}

void beacon_scan_end(struct beacon_scan *s, const struct ram_region *keep)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (&s->found[i] != keep)
			ram_region_free(&s->found[i]);
	s->nr = 0;
}
