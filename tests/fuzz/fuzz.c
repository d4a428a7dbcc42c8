// SPDX-License-Identifier: LGPL-2.1-or-later
#include "fuzz.h"

#include <errno.h>
#include <ftw.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <unistd.h>

#include "message.h"

/* ----------------------------------------------------------------------------------- allocations */

static __thread unsigned int failing;

/* What the code under test calls instead of those of the C library, see targets.py. */
void *fuzz_malloc(size_t size);
void *fuzz_calloc(size_t nr, size_t size);
void *fuzz_realloc(void *p, size_t size);
void *fuzz_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off);

void fail_allocation(unsigned int nth)
{
	failing = nth;
}

static bool fails(void)
{
	return failing && !--failing;
}

void *fuzz_malloc(size_t size)
{
	return fails() ? NULL : malloc(size);
}

void *fuzz_calloc(size_t nr, size_t size)
{
	return fails() ? NULL : calloc(nr, size);
}

void *fuzz_realloc(void *p, size_t size)
{
	return fails() ? NULL : realloc(p, size);
}

void *fuzz_mmap(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	if (!fails())
		return mmap(at, len, prot, flags, fd, off);
	errno = ENOMEM;
	return MAP_FAILED;
}

/* --------------------------------------------------------------------------------- input, memory */

void *take_exact(struct input *in, size_t most, size_t *len)
{
	void *p;

	*len = in->left < most ? in->left : most;
	p = malloc(*len ? *len : 1);
	memcpy(p, in->at, *len);
	in->at += *len;
	in->left -= *len;
	return p;
}

void memory_keep(struct memory *m, void *at, size_t size, const struct place *places,
		 unsigned int nr_places)
{
	*m = (struct memory){ .at = at, .size = size, .places = places, .nr_places = nr_places };
	m->was = malloc(size);
	memcpy(m->was, at, size);
}

void memory_touch(struct memory *m, size_t off, size_t len)
{
	if (m->nr_touched < ARRAY_SIZE(m->touched))
		m->touched[m->nr_touched++] = (struct place){ off, len };
	else
		m->touched[0] = (struct place){ 0, m->size };
}

void memory_put_back(struct memory *m)
{
	for (unsigned int i = 0; i < m->nr_touched; i++)
		memcpy(m->at + m->touched[i].off, m->was + m->touched[i].off, m->touched[i].len);
	m->nr_touched = 0;
}

bool take_patch(struct memory *m, struct input *in, struct patch *p)
{
	const struct place *place;
	__u64 how;

	if (!in->left)
		return false;
	how = take(in, 1);
	place = &m->places[take(in, 1) % m->nr_places];
	p->width = 1u << how % 4;
	p->off = take(in, how & 4 ? 2 : 1);
	/* Words where words are; what is behind small offsets is reached by larger steps. */
	p->off = p->off * (how & 8 ? 8 : p->width) % place->len;
	p->off += place->off;
	if (p->off > m->size - p->width)
		p->off = m->size - p->width;
	p->value = take_number(in);
	if (how & 16) { /* by a difference */
		__u64 old = 0;

		memcpy(&old, m->at + p->off, p->width);
		p->value += old;
	}
	return true;
}

void apply_patch(struct memory *m, const struct patch *p)
{
	memory_touch(m, p->off, p->width);
	memcpy(m->at + p->off, &p->value, p->width);
}

void take_patches(struct memory *m, struct input *in, unsigned int most)
{
	struct patch p;

	for (unsigned int n = (unsigned int)take(in, 1) % (most + 1); n && take_patch(m, in, &p); n--)
		apply_patch(m, &p);
}

/* ------------------------------------------------------------------------------------- directory */

static char dir[256];
static pid_t dir_owner;

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

static int remove_below(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return ftw->level ? remove(path) : 0;
}

void remove_tree(const char *path, bool itself)
{
	nftw(path, itself ? remove_one : remove_below, 8, FTW_DEPTH | FTW_PHYS);
}

static void at_end(void)
{
	if (dir_owner == getpid())
		remove_tree(dir, true);
}

const char *fuzz_dir(void)
{
	const char *tmp = getenv("TMPDIR");

	if (dir[0])
		return dir;
	snprintf(dir, sizeof(dir), "%s/htrace-fuzz-XXXXXX", tmp ? tmp : "/dev/shm");
	CHECK(mkdtemp(dir));
	dir_owner = getpid();
	atexit(at_end);
	return dir;
}

/* ------------------------------------------------------------------------------ what is said of it */

/* In the place of the reader's message.c: nothing of a guest's steers a terminal or log. */
__attribute__((format(printf, 1, 0))) static void check_said(const char *fmt, va_list args)
{
	char line[4096];
	int n = vsnprintf(line, sizeof(line), fmt, args);

	CHECK(n >= 0);
	for (const char *p = line; *p; p++)
		CHECK((*p >= ' ' && *p <= '~') || *p == '\n');
}

void say(const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	check_said(fmt, args);
	va_end(args);
}

void say_within(struct say_quota *q, const char *fmt, ...)
{
	va_list args;

	va_start(args, fmt);
	check_said(fmt, args);
	va_end(args);
}

void progress(const char *fmt, ...)
{
}

void progress_end(void)
{
}
