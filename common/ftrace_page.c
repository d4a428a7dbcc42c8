// SPDX-License-Identifier: LGPL-2.1-or-later
#include "ftrace_page.h"

#include <string.h>

/* The second word of a page's header. */
#define COMMITTED 0xfffffu
#define MISSED (1u << 31)
#define MISSED_STORED (1u << 30) /* behind the data is how many */

/* The low five bits of a record's first word; else a length in words of four bytes. */
#define TYPE_BITS 5
#define TYPE_MASK 31u
#define TYPE_LONG 0
#define TYPE_PADDING 29
#define TYPE_EXTEND 30
#define TYPE_STAMP 31
#define DELTA_BITS 27
#define STAMP_HIGH (0xf8ULL << 56) /* that a stamp does not have */

static __u64 load64(const unsigned char *p)
{
	__u64 v;

	memcpy(&v, p, sizeof(v));
	return v;
}

static __u32 load32(const unsigned char *p)
{
	__u32 v;

	memcpy(&v, p, sizeof(v));
	return v;
}

bool ftrace_page_open(struct ftrace_page *p, const void *page, size_t size)
{
	const unsigned char *bytes = page;
	__u64 commit;

	memset(p, 0, sizeof(*p));
	if (size < FTRACE_PAGE_HEADER)
		return false;
	p->time = load64(bytes);
	commit = load64(bytes + 8);
	p->data = bytes + FTRACE_PAGE_HEADER;
	p->len = commit & COMMITTED;
	if (p->len > size - FTRACE_PAGE_HEADER)
		return false;
	p->missed = commit & MISSED;
	if (p->missed && commit & MISSED_STORED && size - FTRACE_PAGE_HEADER - p->len >= 8)
		p->nr_missed = load64(p->data + p->len);
	return true;
}

static bool broken(struct ftrace_page *p)
{
	p->broken = true;
	return false;
}

/* One that takes @len bytes from @at on, if they are there. */
static bool take(struct ftrace_page *p, struct ftrace_record *r, size_t at, size_t len)
{
	if (at > p->len || len > p->len - at)
		return broken(p);
	*r = (struct ftrace_record){ .time = p->time, .data = p->data + at, .len = len };
	p->at = at + len;
	return true;
}

bool ftrace_page_next(struct ftrace_page *p, struct ftrace_record *r)
{
	while (!p->broken && p->at < p->len) {
		size_t left = p->len - p->at;
		__u32 head, type, delta, word = 0;

		if (left < 4)
			return broken(p);
		head = load32(p->data + p->at);
		type = head & TYPE_MASK;
		delta = head >> TYPE_BITS;
		if (type == TYPE_LONG || type >= TYPE_PADDING) {
			if (type == TYPE_PADDING && !delta) { /* to the page's end */
				p->at = p->len;
				return false;
			}
			if (left < 8)
				return broken(p);
			word = load32(p->data + p->at + 4);
		}
		switch (type) {
		case TYPE_PADDING: /* a record that was taken back */
			if (word > left - 4)
				return broken(p);
			p->time += delta;
			p->at += 4 + (size_t)word;
			break;
		case TYPE_EXTEND:
			p->time += delta + ((__u64)word << DELTA_BITS);
			p->at += 8;
			break;
		case TYPE_STAMP:
			p->time = (p->time & STAMP_HIGH) | (delta + ((__u64)word << DELTA_BITS));
			p->at += 8;
			break;
		case TYPE_LONG:
			p->time += delta;
			return word < 4 ? broken(p) : take(p, r, p->at + 8, word - 4);
		default:
			p->time += delta;
			return take(p, r, p->at + 4, type * (size_t)4);
		}
	}
	return false;
}
