/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "out.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <htrace/schema.h>

#define BUFFER (256u << 10)
#define LINE_MAX_USUAL (8u << 10) /* lines longer than that may be written in two parts */

struct out {
	int fd;
	int error;
	bool opened; /* fd is ours to close */
	bool created; /* the file was not there before */
	bool terminal;
	size_t left; /* bytes that the line may still have */
	bool full;
	size_t len;
	char buf[BUFFER];
};

int out_open_fd(struct out **out, int fd)
{
	int flags = fcntl(fd, F_GETFL);
	struct out *o;

	if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	o = malloc(sizeof(*o));
	if (!o)
		return -ENOMEM;
	o->fd = fd;
	o->error = 0;
	o->opened = o->created = false;
	o->terminal = isatty(fd);
	o->len = 0;
	o->left = SIZE_MAX;
	o->full = false;
	*out = o;
	return 0;
}

int out_open(struct out **out, const char *path)
{
	bool created = false;
	int fd, ret;

	if (!path)
		return out_open_fd(out, STDOUT_FILENO);
	fd = open(path, O_WRONLY | O_CLOEXEC | O_NOCTTY);
	if (fd < 0 && errno == ENOENT) {
		fd = open(path, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOCTTY, 0666);
		created = fd >= 0;
	}
	if (fd < 0)
		return -errno;
	ret = out_open_fd(out, fd);
	if (ret) {
		close(fd);
		return ret;
	}
	(*out)->opened = true;
	(*out)->created = created;
	return 0;
}

void out_abandon(struct out *o, const char *path)
{
	if (o->created)
		unlink(path);
	o->len = 0;
	out_close(o);
}

int out_begin(struct out *o)
{
	struct stat st;

	if (!o->opened || fstat(o->fd, &st) || !S_ISREG(st.st_mode))
		return 0;
	return ftruncate(o->fd, 0) ? -errno : 0;
}

int out_close(struct out *o)
{
	int error;

	if (!o)
		return 0;
	out_flush(o);
	if (o->opened && close(o->fd) && !o->error)
		o->error = errno;
	error = o->error;
	free(o);
	return -error;
}

void out_flush(struct out *o)
{
	size_t at = 0;

	while (at < o->len && !o->error) {
		ssize_t n = write(o->fd, o->buf + at, o->len - at);

		if (n >= 0) {
			at += (size_t)n;
		} else if (errno == EAGAIN) {
			struct pollfd p = { .fd = o->fd, .events = POLLOUT };

			poll(&p, 1, -1);
		} else if (errno != EINTR) {
			o->error = errno;
		}
	}
	o->len = 0;
}

void out_limit_line(struct out *o, size_t most)
{
	o->left = most;
}

bool out_line_full(const struct out *o)
{
	return o->full;
}

/* As many of @len bytes as the line may still have. */
static size_t within(struct out *o, size_t len)
{
	if (o->left == SIZE_MAX)
		return len;
	if (len > o->left) {
		o->full = true;
		len = o->left;
	}
	o->left -= len;
	return len;
}

void out_newline(struct out *o)
{
	bool full = o->full;

	o->left = SIZE_MAX;
	o->full = false;
	if (full)
		out_text(o, "...");
	out_char(o, '\n');
	if (o->len > BUFFER - LINE_MAX_USUAL)
		out_flush(o);
}

int out_error(const struct out *o)
{
	return o->error;
}

bool out_is_terminal(const struct out *o)
{
	return o->terminal;
}

bool out_is_file(const struct out *o, __u64 dev, __u64 ino)
{
	struct stat st;

	return !fstat(o->fd, &st) && st.st_dev == dev && st.st_ino == ino;
}

/* ----------------------------------------------------------------------------------- formatting */

/* Room for @len bytes, at most BUFFER. */
static char *room(struct out *o, size_t len)
{
	if (o->len + len > BUFFER)
		out_flush(o);
	return o->buf + o->len;
}

void out_char(struct out *o, char c)
{
	if (!within(o, 1))
		return;
	*room(o, 1) = c;
	o->len++;
}

void out_mem(struct out *o, const char *s, size_t len)
{
	len = within(o, len);
	while (len) {
		size_t n = len < BUFFER / 2 ? len : BUFFER / 2;

		memcpy(room(o, n), s, n);
		o->len += n;
		s += n;
		len -= n;
	}
}

void out_text(struct out *o, const char *s)
{
	out_mem(o, s, strlen(s));
}

void out_spaces(struct out *o, int nr)
{
	while (nr-- > 0)
		out_char(o, ' ');
}

void out_unsigned(struct out *o, __u64 v, int width, char fill)
{
	char text[24], *p = text + sizeof(text);
	int n;

	do
		*--p = (char)('0' + v % 10);
	while (v /= 10);
	n = (int)(text + sizeof(text) - p);
	for (int i = n; i < width; i++)
		out_char(o, fill);
	out_mem(o, p, (size_t)n);
}

void out_signed(struct out *o, __s64 v)
{
	if (v < 0)
		out_char(o, '-');
	out_unsigned(o, v < 0 ? 0 - (__u64)v : (__u64)v, 0, ' ');
}

static const char digits_of[] = "0123456789abcdef";

void out_hex(struct out *o, __u64 v, int digits)
{
	char text[16], *p = text + sizeof(text);
	int n;

	do
		*--p = digits_of[v & 15];
	while (v >>= 4);
	n = (int)(text + sizeof(text) - p);
	out_mem(o, "0x", 2);
	for (int i = n; i < digits; i++)
		out_char(o, '0');
	out_mem(o, p, (size_t)n);
}

void out_bytes(struct out *o, const void *p, size_t len)
{
	const unsigned char *b = p;

	for (size_t i = 0; i < len; i++) {
		out_char(o, digits_of[b[i] >> 4]);
		out_char(o, digits_of[b[i] & 15]);
	}
}

size_t out_escaped(struct out *o, const char *s, size_t len)
{
	size_t total = 0;

	while (len) {
		size_t n = len < BUFFER / 8 ? len : BUFFER / 8, w;

		w = htrace_escape(room(o, 4 * n), 4 * n, s, n);
		w = within(o, w);
		o->len += w;
		total += w;
		s += n;
		len -= n;
	}
	return total;
}

void out_printf(struct out *o, const char *fmt, ...)
{
	char text[1024];
	va_list args;
	int n;

	va_start(args, fmt);
	n = vsnprintf(text, sizeof(text), fmt, args);
	va_end(args);
	if (n > 0)
		out_mem(o, text, (size_t)n < sizeof(text) ? (size_t)n : sizeof(text) - 1);
}
