/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "outdir.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

static int check_empty(int dir)
{
	int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;

	if (!d) {
		ret = -errno;
		if (fd >= 0)
			close(fd);
		return ret;
	}
	do {
		errno = 0;
		e = readdir(d);
	} while (e && (!strcmp(e->d_name, ".") || !strcmp(e->d_name, "..")));
	ret = e ? -ENOTEMPTY : -errno;
	closedir(d);
	return ret;
}

int outdir_open(struct outdir *d, const char *path)
{
	int ret;

	d->created = !mkdir(path, 0777);
	if (!d->created && errno != EEXIST)
		return -errno;
	d->fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	ret = d->fd < 0 ? -errno : check_empty(d->fd);
	if (!ret && faccessat(d->fd, ".", W_OK | X_OK, AT_EACCESS)) /* rather now than later */
		ret = -errno;
	if (ret)
		outdir_abandon(d, path);
	return ret;
}

void outdir_close(struct outdir *d)
{
	if (d->fd >= 0)
		close(d->fd);
	d->fd = -1;
}

void outdir_abandon(struct outdir *d, const char *path)
{
	if (d->created)
		rmdir(path);
	outdir_close(d);
}

int outdir_make(int dir, const char *name)
{
	int fd;

	if (mkdirat(dir, name, 0777))
		return -errno;
	fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

int outdir_create(int dir, const char *name)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);

	return fd < 0 ? -errno : fd;
}

void allow_many_files(void)
{
	struct rlimit l;

	if (getrlimit(RLIMIT_NOFILE, &l) || l.rlim_cur == l.rlim_max)
		return;
	l.rlim_cur = l.rlim_max;
	setrlimit(RLIMIT_NOFILE, &l);
}

int outdir_write(int fd, const void *p, size_t len)
{
	const char *at = p;

	while (len) {
		ssize_t n = write(fd, at, len);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n > 0) {
			at += n;
			len -= (size_t)n;
		}
	}
	return 0;
}

int outdir_writev_at(int fd, struct iovec *v, int nr, off_t at)
{
	while (nr) {
		ssize_t n = pwritev(fd, v, nr, at);

		if (n < 0 && errno != EINTR)
			return -errno;
		if (n < 0)
			continue;
		at += n;
		for (; nr && (size_t)n >= v->iov_len; v++, nr--) /* what is empty, too */
			n -= (ssize_t)v->iov_len;
		if (nr) {
			v->iov_base = (char *)v->iov_base + n;
			v->iov_len -= (size_t)n;
		}
	}
	return 0;
}

int outdir_write_at(int fd, const void *p, size_t len, off_t at)
{
	struct iovec v = { (void *)p, len };

	return outdir_writev_at(fd, &v, 1, at);
}

static int write_blanks(int fd, size_t len, off_t at)
{
	char blanks[OUTDIR_PAGE];
	int ret = 0;

	memset(blanks, ' ', sizeof(blanks));
	while (len > sizeof(blanks) && !ret) {
		ret = outdir_write_at(fd, blanks, sizeof(blanks), at);
		len -= sizeof(blanks);
		at += sizeof(blanks);
	}
	blanks[len - 1] = '\n';
	return ret ? ret : outdir_write_at(fd, blanks, len, at);
}

/* With blanks for newlines: a line of any length. */
static int write_line(int fd, const char *text, size_t len, off_t at)
{
	char part[OUTDIR_PAGE];
	int ret = 0;

	while (len && !ret) {
		size_t n = len < sizeof(part) ? len : sizeof(part);

		for (size_t i = 0; i < n; i++)
			part[i] = text[i] == '\n' ? ' ' : text[i];
		ret = outdir_write_at(fd, part, n, at);
		text += n;
		len -= n;
		at += (off_t)n;
	}
	return ret;
}

/* In what is blank up to the end of a line: as a comment, of which then only its beginning is taken away. */
static int write_over_blanks(int fd, const char *text, size_t len, off_t at)
{
	int ret = outdir_write_at(fd, "//", 2, at);

	if (!ret)
		ret = write_line(fd, text, len, at + 2);
	if (!ret)
		ret = outdir_write_at(fd, "  ", 2, at);
	return ret ? ret : outdir_write_at(fd, text, len, at + 2); /* now with its lines */
}

int outdir_append_text(int fd, const char *text, size_t len, off_t *at)
{
	size_t room = OUTDIR_PAGE - (size_t)*at % OUTDIR_PAGE;
	size_t skip = room < 2 ? room : 0; /* what makes a comment does not cross a page either */
	size_t all = skip + 2 + len + 1;
	int ret;

	if (len <= room) {
		ret = outdir_write_at(fd, text, len, *at);
		*at += ret ? 0 : (off_t)len;
		return ret;
	}
	ret = write_blanks(fd, all, *at);
	if (!ret)
		ret = write_over_blanks(fd, text, len, *at + (off_t)skip);
	*at += ret ? 0 : (off_t)all;
	return ret;
}
