/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "capture_unpack.h"

#include <errno.h>

#ifdef HAVE_ZSTD

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <zstd.h>

#define FIRST 4u    /* chunks that one file may have, */
#define PER_FILE 2u /* and each further one: where a packet begins and ends */

struct slot {
	__u64 file; /* 0: nobody's */
	__u32 chunk;
	__u64 used; /* the last time */
	unsigned char *data;
};

struct unpacker {
	ZSTD_DCtx *ctx;
	__u64 files, clock;
	unsigned int nr, most; /* slots */
	struct slot slot[UNPACK_CHUNKS];
	unsigned char packed[ZSTD_COMPRESSBOUND(CAPTURE_CHUNK)];
};

static struct unpacker *unpacker_new(void)
{
	struct unpacker *u = calloc(1, sizeof(*u));

	if (!u)
		return NULL;
	u->most = FIRST - PER_FILE;
	u->ctx = ZSTD_createDCtx();
	if (u->ctx)
		return u;
	free(u);
	return NULL;
}

void unpacker_free(struct unpacker *u)
{
	if (!u)
		return;
	for (unsigned int i = 0; i < u->nr; i++)
		free(u->slot[i].data);
	ZSTD_freeDCtx(u->ctx);
	free(u);
}

static bool read_all(int fd, void *to, size_t len, __u64 at)
{
	char *p = to;

	while (len) {
		ssize_t n = pread(fd, p, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		p += n;
		at += (__u64)n;
		len -= (size_t)n;
	}
	return true;
}

/* Behind the last frame: what zstd skips. */
static bool read_table(struct packed *p, int fd, __u64 size)
{
	struct capture_pack_end end;
	__u64 len, chunks;
	__u32 head[2];

	if (size < sizeof(head) + sizeof(end) || !read_all(fd, &end, sizeof(end), size - sizeof(end)))
		return false;
	chunks = end.raw / CAPTURE_CHUNK + (end.raw % CAPTURE_CHUNK != 0);
	len = end.nr * sizeof(__u64) + sizeof(end);
	if (end.magic != CAPTURE_PACK_MAGIC || end.chunk != CAPTURE_CHUNK || !end.raw || end.raw > CAPTURE_PACK_MOST ||
	    end.nr != chunks || len > size - sizeof(head))
		return false;
	p->table = size - len;
	p->raw = end.raw;
	p->nr = end.nr;
	return read_all(fd, head, sizeof(head), p->table - sizeof(head)) && head[0] == CAPTURE_PACK_SKIPPED &&
	       head[1] == len;
}

int unpack_open(struct unpacker **u, struct packed *p, int fd, __u64 size)
{
	struct packed found = { 0 };

	if (!read_table(&found, fd, size))
		return -EILSEQ;
	if (!*u)
		*u = unpacker_new();
	if (!*u)
		return -ENOMEM;
	found.id = ++(*u)->files;
	if ((*u)->most < UNPACK_CHUNKS)
		(*u)->most += PER_FILE;
	*p = found;
	return 0;
}

static bool unpack(struct unpacker *u, const struct packed *p, int fd, __u32 chunk, unsigned char *to)
{
	bool last = chunk + 1 == p->nr;
	__u64 expected = last ? p->raw - (__u64)chunk * CAPTURE_CHUNK : CAPTURE_CHUNK;
	__u64 at[2] = { 0, p->table - 2 * sizeof(__u32) }; /* of it, and of what is behind it */

	if (!read_all(fd, at, last ? 8 : 16, p->table + chunk * sizeof(__u64)) || at[0] >= at[1] ||
	    at[1] > p->table - 2 * sizeof(__u32) || at[1] - at[0] > sizeof(u->packed) ||
	    !read_all(fd, u->packed, at[1] - at[0], at[0]))
		return false;
	return ZSTD_decompressDCtx(u->ctx, to, CAPTURE_CHUNK, u->packed, at[1] - at[0]) == expected;
}

/* The one that nobody used for longest, if there may be no further one. */
static struct slot *free_slot(struct unpacker *u)
{
	struct slot *oldest = &u->slot[0];

	if (u->nr < u->most) {
		u->slot[u->nr].data = malloc(CAPTURE_CHUNK);
		return u->slot[u->nr].data ? &u->slot[u->nr++] : NULL;
	}
	for (unsigned int i = 1; i < u->nr; i++)
		if (u->slot[i].used < oldest->used)
			oldest = &u->slot[i];
	return oldest;
}

static bool holds(const struct slot *s, const struct packed *p, __u32 chunk)
{
	return s->file == p->id && s->chunk == chunk;
}

static const unsigned char *find_chunk(struct unpacker *u, struct packed *p, int fd, __u32 chunk)
{
	struct slot *s = &u->slot[p->latest];

	for (unsigned int i = 0; i < u->nr && !holds(s, p, chunk); i++)
		s = &u->slot[i];
	if (!holds(s, p, chunk)) {
		s = free_slot(u);
		if (!s)
			return NULL;
		s->file = 0;
		if (!unpack(u, p, fd, chunk, s->data))
			return NULL;
		s->file = p->id;
		s->chunk = chunk;
	}
	s->used = ++u->clock;
	p->latest = (unsigned int)(s - u->slot);
	return s->data;
}

bool unpack_read(struct unpacker *u, struct packed *p, int fd, void *to, size_t len, __u64 at)
{
	unsigned char *out = to;

	while (len) {
		size_t off = at % CAPTURE_CHUNK, n = CAPTURE_CHUNK - off < len ? CAPTURE_CHUNK - off : len;
		const unsigned char *data = find_chunk(u, p, fd, (__u32)(at / CAPTURE_CHUNK));

		if (!data)
			return false;
		memcpy(out, data + off, n);
		out += n;
		at += n;
		len -= n;
	}
	return true;
}

#else

void unpacker_free(struct unpacker *u)
{
}

int unpack_open(struct unpacker **u, struct packed *p, int fd, __u64 size)
{
	return -ENOTSUP;
}

bool unpack_read(struct unpacker *u, struct packed *p, int fd, void *to, size_t len, __u64 at)
{
	return false;
}

#endif
