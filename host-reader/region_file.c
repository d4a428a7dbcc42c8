/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "region_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#include "finder.h"

#define CHUNK 65536

int region_file_open(const char *path, bool follow, bool *writable, char *err, size_t errlen)
{
	return finder_runs() ? finder_region(path, writable, err, errlen) :
			       region_file_open_here(path, follow, writable, err, errlen);
}

int region_file_open_here(const char *path, bool follow, bool *writable, char *err, size_t errlen)
{
	/* O_NONBLOCK: do not hang on a FIFO */
	int flags = O_CLOEXEC | O_NONBLOCK | O_NOCTTY | (follow ? 0 : O_NOFOLLOW), fd, e;

	fd = open(path, O_RDWR | flags);
	*writable = fd >= 0;
	if (fd < 0 && (errno == EACCES || errno == EROFS))
		fd = open(path, O_RDONLY | flags);
	if (fd < 0) {
		e = errno;
		snprintf(err, errlen, "%s", e == EISDIR ? "not a regular file" : strerror(e));
		return -e;
	}
	/* Two readers would write into one host area. */
	if (*writable && flock(fd, LOCK_EX | LOCK_NB)) {
		e = errno;
		snprintf(err, errlen, "%s", e == EWOULDBLOCK ? "another host-reader reads it" :
							       strerror(e));
		close(fd);
		return -e;
	}
	return fd;
}

static bool all_zero(const unsigned char *p, size_t len)
{
	return !len || (!p[0] && !memcmp(p, p + 1, len - 1));
}

/* Is there nothing but zeroes from @from on? Holes are skipped, and not filled by looking. */
static bool zero_from(int fd, off_t from)
{
	unsigned char buf[CHUNK];
	ssize_t n;

	for (;;) {
		off_t data = lseek(fd, from, SEEK_DATA);

		if (data < 0 && errno == ENXIO)
			return true; /* only a hole is left */
		if (data > from)
			from = data;
		n = pread(fd, buf, sizeof(buf), from);
		if (n <= 0)
			return n == 0;
		if (!all_zero(buf, (size_t)n))
			return false;
		from += n;
	}
}

enum region_content region_file_glance(int fd)
{
	struct htrace_super s;
	struct htrace_host h;
	struct stat st;

	if (fstat(fd, &st) || pread(fd, &s, sizeof(s), HTRACE_SUPER_OFF) != sizeof(s) ||
	    pread(fd, &h, sizeof(h), HTRACE_HOST_OFF) != sizeof(h))
		return CONTENT_FOREIGN;
	if (s.magic == HTRACE_MAGIC)
		return CONTENT_REGION;
	if (!s.magic && s.version_major == HTRACE_ABI_MAJOR && s.region_size == (__u64)st.st_size)
		return CONTENT_REGION;
	if (!all_zero((unsigned char *)&s, sizeof(s)))
		return CONTENT_FOREIGN;
	return h.magic == HTRACE_HOST_MAGIC ? CONTENT_EMPTY : CONTENT_UNKNOWN;
}

enum region_content region_file_inspect(int fd)
{
	enum region_content content = region_file_glance(fd);

	return content == CONTENT_UNKNOWN && zero_from(fd, 0) ? CONTENT_EMPTY : content;
}

bool region_file_replaced(const struct htrace_view *v, const char *path)
{
	struct stat st;
	__u64 dev, ino;

	if (stat(path, &st) || !S_ISREG(st.st_mode) || st.st_size < (off_t)HTRACE_REGION_MIN)
		return false;
	htrace_view_file(v, &dev, &ino);
	return st.st_dev != dev || st.st_ino != ino;
}

int region_file_remove(const char *path, __u64 dev, __u64 ino)
{
	struct stat st;

	if (lstat(path, &st))
		return -errno;
	if (st.st_dev != dev || st.st_ino != ino)
		return -ESTALE;
	return unlink(path) ? -errno : 0;
}
