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
