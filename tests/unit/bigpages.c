/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Preloaded (LD_PRELOAD), makes a program believe in pages of $HTRACE_PAGE_SIZE bytes, larger than
 * this machine's: sysconf() says so, and the calls that map memory refuse and round as such a
 * kernel does. So code for hosts of 16 and 64 KiB pages is tested where there is none.
 */
#undef _FILE_OFFSET_BITS /* mmap() and mmap64() by these names */
#include <dlfcn.h>
#include <errno.h>
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

static size_t page_size(void)
{
	static size_t size;

	if (!size) {
		const char *s = getenv("HTRACE_PAGE_SIZE");

		size = s ? strtoul(s, NULL, 10) : 4096;
	}
	return size;
}

static size_t round_up(size_t len)
{
	return (len + page_size() - 1) & ~(page_size() - 1);
}

static int refuse(int unaligned)
{
	if (unaligned)
		errno = EINVAL;
	return unaligned;
}

static void *map(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	return (void *)syscall(SYS_mmap, at, len, prot, flags, fd, off);
}

/* Room at a multiple of the page size. */
static void *find_room(size_t len)
{
	uintptr_t from, at;

	from = (uintptr_t)map(NULL, len + page_size(), PROT_NONE,
			      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if ((void *)from == MAP_FAILED)
		return MAP_FAILED;
	at = round_up(from);
	if (at > from)
		syscall(SYS_munmap, from, at - from);
	if (at + len < from + len + page_size())
		syscall(SYS_munmap, at + len, from + page_size() - at);
	return (void *)at;
}

void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t off)
{
	if (refuse(!len || (size_t)off % page_size() ||
		   (flags & MAP_FIXED && (uintptr_t)at % page_size())))
		return MAP_FAILED;
	len = round_up(len);
	if (!(flags & MAP_FIXED)) {
		at = find_room(len);
		if (at == MAP_FAILED)
			return at;
	}
	return map(at, len, prot, flags | MAP_FIXED, fd, off);
}

void *mmap64(void *at, size_t len, int prot, int flags, int fd, off_t off)
	__attribute__((alias("mmap")));

int munmap(void *at, size_t len)
{
	return refuse((uintptr_t)at % page_size() != 0) ? -1 :
							  (int)syscall(SYS_munmap, at, round_up(len));
}

int mprotect(void *at, size_t len, int prot)
{
	return refuse((uintptr_t)at % page_size() != 0) ?
		       -1 :
		       (int)syscall(SYS_mprotect, at, round_up(len), prot);
}

int getpagesize(void)
{
	return (int)page_size();
}

long sysconf(int name)
{
	long (*real)(int) = (long (*)(int))(uintptr_t)dlsym(RTLD_NEXT, "sysconf");

	if (name == _SC_PAGESIZE)
		return (long)page_size();
	if (name == _SC_PHYS_PAGES || name == _SC_AVPHYS_PAGES)
		return (long)((size_t)real(name) * 4096 / page_size());
	return real(name);
}
