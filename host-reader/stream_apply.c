/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream_apply.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "core.h"

#define KEY offsetof(struct stream_frame, len) /* what an answer begins with is known before: so many bytes */

void stream_apply_init(struct stream_apply *a, void *mem, __u64 size)
{
	memset(a, 0, sizeof(*a));
	a->mem = mem;
	a->size = size;
	a->waits = true;
}

void stream_apply_expect(struct stream_apply *a, __u64 nonce)
{
	a->nonce = nonce;
	a->waits = true;
	a->frames = a->skipped = 0;
	a->in_len = 0;
}

/* Who reads may look at any time: words one by one, and what announces others, which lies before them, last. */
static void store(char *to, const unsigned char *from, __u32 len)
{
	for (__u32 at = len; at; at -= 8) {
		__u64 word;

		memcpy(&word, from + at - 8, 8);
		__atomic_store_n((__u64 *)(to + at - 8), word, __ATOMIC_RELEASE);
	}
}

/* ------------------------------------------------------------------------------------------- a session */

static struct htrace_super *shared_super(const struct stream_apply *a)
{
	return (struct htrace_super *)a->mem;
}

/* What was there before is gone, and its memory given back. */
static void make_anew(struct stream_apply *a)
{
	char *areas = a->mem + HTRACE_FIXED_END;
	__u64 len = a->size - HTRACE_FIXED_END;

	__atomic_store_n(&shared_super(a)->magic, 0, __ATOMIC_RELEASE);
	__atomic_thread_fence(__ATOMIC_SEQ_CST);
	memset(a->mem + HTRACE_HOST_RINGS_OFF, 0, sizeof(struct htrace_host_ring) * HTRACE_MAX_RINGS);
	if (madvise(areas, len, MADV_REMOVE))
		memset(areas, 0, len);
	a->super = (struct htrace_super){ 0 };
	a->ready = false;
}

static int refuse(const char *why, char *err, size_t errlen)
{
	snprintf(err, errlen, "%s", why);
	return -EPROTO;
}

static int check_super(const struct stream_apply *a, const struct htrace_super *s, char *err, size_t errlen)
{
	if (s->magic != HTRACE_MAGIC || !s->session)
		return refuse("no superblock", err, errlen);
	if (s->region_size > a->size) {
		snprintf(err, errlen, "the guest's rings need %llu MiB, and there are %llu: give it size=, or the agent a "
			 "smaller --buffer", (unsigned long long)s->region_size >> 20, (unsigned long long)a->size >> 20);
		return -EPROTO;
	}
	if (htrace_super_check(s, s->region_size, err, errlen))
		return -EPROTO;
	if (s->nr_ringsets != 1 || s->ringset[0].placement == HTRACE_PLACEMENT_VSHMEM)
		return refuse("its rings are not in the region", err, errlen);
	return 0;
}

static int take_hello(struct stream_apply *a, const struct stream_frame *f, const unsigned char *data, char *err,
		      size_t errlen)
{
	struct stream_hello hello;
	int ret;

	if (f->len < sizeof(hello.version))
		return refuse("a hello that is too short", err, errlen);
	memcpy(&hello.version, data, sizeof(hello.version));
	if (hello.version != STREAM_VERSION || f->len != sizeof(hello)) {
		snprintf(err, errlen, "the guest speaks version %u of the stream, this host-reader %u; use those of one "
			 "release", hello.version, STREAM_VERSION);
		return -EPROTO;
	}
	memcpy(&hello, data, sizeof(hello));
	if (a->super.session == hello.super.session && !memcmp(&a->super, &hello.super, sizeof(hello.super)))
		return 0;
	ret = check_super(a, &hello.super, err, errlen);
	if (ret)
		return ret;
	make_anew(a);
	a->super = hello.super;
	return 0;
}

/* Readers look for these before they read, if the host's header names the session. */
static int take_consumed(struct stream_apply *a, const struct stream_frame *f, const unsigned char *data, char *err,
			 size_t errlen)
{
	struct htrace_host_ring *words = (struct htrace_host_ring *)(a->mem + HTRACE_HOST_RINGS_OFF);
	const struct htrace_ringset *set = &a->super.ringset[0];

	if (a->ready || f->len != set->nr_rings * sizeof(__u64))
		return refuse("positions at a wrong time, or too many", err, errlen);
	for (__u32 i = 0; i < set->nr_rings; i++)
		memcpy(&words[set->first_slot + i].consumed, data + i * sizeof(__u64), sizeof(__u64));
	__atomic_store_n(&((struct htrace_host *)(a->mem + HTRACE_HOST_OFF))->session, a->super.session, __ATOMIC_RELEASE);
	return 0;
}

static void take_ready(struct stream_apply *a)
{
	struct htrace_super super = a->super;

	if (a->ready)
		return;
	super.region_size = a->size; /* it is the memory that has that size */
	store(a->mem + 8, (const unsigned char *)&super + 8, sizeof(super) - 8);
	__atomic_store_n(&shared_super(a)->magic, HTRACE_MAGIC, __ATOMIC_RELEASE);
	a->ready = true;
}

/* -------------------------------------------------------------------------------------------- frames */

static int check_frame(const struct stream_apply *a, const struct stream_frame *f, char *err, size_t errlen)
{
	if (f->magic != STREAM_FRAME_MAGIC || f->len > STREAM_FRAME_MAX || f->len % 8 || f->reserved)
		return refuse("what came is no frame", err, errlen);
	if ((f->type == STREAM_HELLO) != !a->frames)
		return refuse(a->frames ? "a second hello" : "no hello", err, errlen);
	if (f->type == STREAM_STORE && (f->arg % 8 || f->arg < HTRACE_FIXED_END ||
					!htrace_inside(f->arg, f->len, a->super.region_size)))
		return refuse("a store outside of the region", err, errlen);
	if (f->type < STREAM_HELLO || f->type > STREAM_READY || (f->type == STREAM_READY && f->len))
		return refuse("a frame of a kind that is not known", err, errlen);
	return 0;
}

static int take_frame(struct stream_apply *a, const struct stream_frame *f, const unsigned char *data, char *err,
		      size_t errlen)
{
	a->frames++;
	switch (f->type) {
	case STREAM_HELLO:
		return take_hello(a, f, data, err, errlen);
	case STREAM_CONSUMED:
		return take_consumed(a, f, data, err, errlen);
	case STREAM_STORE:
		store(a->mem + f->arg, data, f->len);
		return 0;
	default:
		take_ready(a);
		return 0;
	}
}

/* Until the answer begins. */
static void look_for_answer(struct stream_apply *a)
{
	const struct stream_frame want = { .magic = STREAM_FRAME_MAGIC, .type = STREAM_HELLO, .arg = a->nonce };
	__u32 at = 0;

	while (a->in_len - at >= KEY && memcmp(a->in + at, &want, KEY))
		at++;
	a->waits = a->in_len - at < KEY;
	a->in_len -= at;
	memmove(a->in, a->in + at, a->in_len);
	a->skipped += at;
}

/* All whole frames that are in. */
static int take_frames(struct stream_apply *a, char *err, size_t errlen)
{
	struct stream_frame f;
	__u32 at = 0;
	int ret = 0;

	while (!ret && a->in_len - at >= sizeof(f)) {
		memcpy(&f, a->in + at, sizeof(f));
		ret = check_frame(a, &f, err, errlen);
		if (ret || a->in_len - at - sizeof(f) < f.len)
			break;
		ret = take_frame(a, &f, a->in + at + sizeof(f), err, errlen);
		at += (__u32)sizeof(f) + f.len;
	}
	a->in_len -= at;
	memmove(a->in, a->in + at, a->in_len);
	return ret;
}

int stream_apply_feed(struct stream_apply *a, const void *data, size_t len, char *err, size_t errlen)
{
	const unsigned char *from = data;
	int ret = 0;

	while (len && !ret) {
		size_t part = sizeof(a->in) - a->in_len;

		part = part < len ? part : len;
		memcpy(a->in + a->in_len, from, part);
		a->in_len += (__u32)part;
		from += part;
		len -= part;
		if (a->waits)
			look_for_answer(a);
		if (!a->waits)
			ret = take_frames(a, err, errlen);
	}
	return ret;
}
