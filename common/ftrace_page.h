/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pages of the kernel's own trace ring, as tracefs' trace_pipe_raw gives them and as they lie in its
 * memory (events/header_page and header_event say how; 64-bit little-endian kernels). Nothing in one
 * is taken on trust: what is read lies within it, and a page that does not add up ends there.
 */
#ifndef COMMON_FTRACE_PAGE_H
#define COMMON_FTRACE_PAGE_H

#include <stdbool.h>
#include <stddef.h>

#include <linux/types.h>

#define FTRACE_PAGE_HEADER 16

struct ftrace_page {
	const unsigned char *data;
	size_t len;   /* committed */
	size_t at;    /* behind the last record */
	__u64 time;   /* of the last record; the page's, at first */
	bool missed;  /* records before it were overwritten ... */
	__u64 nr_missed; /* ... so many; 0: nobody knows how many */
	bool broken;
};

/* A record: the event's common fields and its own. */
struct ftrace_record {
	__u64 time; /* of the ring's clock */
	const unsigned char *data; /* in the page */
	size_t len;
};

/* @size bytes at @page, private and unchanging. False: it is no page. */
bool ftrace_page_open(struct ftrace_page *p, const void *page, size_t size);
/* False: that was the last, or the page is broken. */
bool ftrace_page_next(struct ftrace_page *p, struct ftrace_record *r);

/* The event's number, its task. */
static inline __u16 ftrace_record_type(const struct ftrace_record *r)
{
	return r->len < 2 ? 0 : (__u16)(r->data[0] | r->data[1] << 8);
}

#endif
