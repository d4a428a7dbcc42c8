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
#define NUMBER_MAX 20             /* characters of a number, unless it is filled up */

/* All of it. Between lines, and in lines without a limit, end is the buffer's. */
struct output {
	struct out out;
	int fd;
	int error;
	bool opened; /* fd is ours to close */
	bool created; /* the file was not there before */
	bool terminal;
	bool limited; /* end is the line's */
	bool full;    /* some of it did not fit */
	char buf[BUFFER];
};

static struct output *whole(struct out *o)
{
	return (struct output *)o;
}

int out_open_fd(struct out **out, int fd)
{
	int flags = fcntl(fd, F_GETFL);
	struct output *o;

	if (flags < 0 || (flags & O_ACCMODE) == O_RDONLY)
		return -EBADF;
	o = malloc(sizeof(*o));
	if (!o)
		return -ENOMEM;
	o->fd = fd;
	o->error = 0;
	o->opened = o->created = false;
	o->terminal = isatty(fd);
	o->limited = o->full = false;
	o->out.at = o->buf;
	o->out.end = o->buf + BUFFER;
	*out = &o->out;
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
	whole(*out)->opened = true;
	whole(*out)->created = created;
	return 0;
}

void out_abandon(struct out *o, const char *path)
{
	if (whole(o)->created)
		unlink(path);
	o->at = whole(o)->buf;
	out_close(o);
}

int out_begin(struct out *o)
{
	struct stat st;

	if (!whole(o)->opened || fstat(whole(o)->fd, &st) || !S_ISREG(st.st_mode))
		return 0;
	return ftruncate(whole(o)->fd, 0) ? -errno : 0;
}

int out_close(struct out *out)
{
	struct output *o = whole(out);
	int error;

	if (!o)
		return 0;
	out_flush(out);
	if (o->opened && close(o->fd) && !o->error)
		o->error = errno;
	error = o->error;
	free(o);
	return -error;
}

/* Between lines, and where a line without a limit has filled the buffer. */
static void empty(struct output *o)
{
	const char *at = o->buf;

	while (at < o->out.at && !o->error) {
		ssize_t n = write(o->fd, at, (size_t)(o->out.at - at));

		if (n >= 0) {
			at += n;
		} else if (errno == EAGAIN) {
			struct pollfd p = { .fd = o->fd, .events = POLLOUT };

			poll(&p, 1, -1);
		} else if (errno != EINTR) {
			o->error = errno;
		}
	}
	o->out.at = o->buf;
}

void out_flush(struct out *o)
{
	empty(whole(o));
}

void out_limit_line(struct out *out, size_t most)
{
	struct output *o = whole(out);

	/* All of it has room, and its end. */
	if ((size_t)(out->at - o->buf) + most > BUFFER - LINE_MAX_USUAL)
		empty(o);
	out->end = out->at + most;
	o->limited = true;
}

bool out_line_full(const struct out *o)
{
	return ((const struct output *)o)->full;
}

void out_newline(struct out *out)
{
	struct output *o = whole(out);
	bool full = o->full;

	out->end = o->buf + BUFFER;
	o->limited = o->full = false;
	if (full)
		out_text(out, "...");
	out_char(out, '\n');
	if (out->at > o->buf + BUFFER - LINE_MAX_USUAL)
		empty(o);
}

int out_error(const struct out *o)
{
	return ((const struct output *)o)->error;
}

bool out_is_terminal(const struct out *o)
{
	return ((const struct output *)o)->terminal;
}

bool out_is_file(const struct out *o, __u64 dev, __u64 ino)
{
	struct stat st;

	return !fstat(((const struct output *)o)->fd, &st) && st.st_dev == dev && st.st_ino == ino;
}

/* ----------------------------------------------------------------------------------- formatting */

void out_mem_slowly(struct out *out, const char *s, size_t len)
{
	struct output *o = whole(out);

	for (;;) {
		size_t room = (size_t)(out->end - out->at), n = len < room ? len : room;

		memcpy(out->at, s, n);
		out->at += n;
		s += n;
		len -= n;
		if (!len)
			return;
		if (o->limited) {
			o->full = true;
			return;
		}
		empty(o);
	}
}

void out_spaces(struct out *o, int nr)
{
	static const char spaces[] = "                                ";
	const int most = sizeof(spaces) - 1;

	for (; nr > 0; nr -= most)
		out_mem(o, spaces, (size_t)(nr < most ? nr : most));
}

static const char pair_of[] =
	"00010203040506070809101112131415161718192021222324252627282930313233343536373839"
	"40414243444546474849505152535455565758596061626364656667686970717273747576777879"
	"8081828384858687888990919293949596979899";

/* Digits of @v in front of @p; where they begin. */
static char *put_digits(char *p, __u64 v)
{
	while (v >= 100) {
		p -= 2;
		memcpy(p, pair_of + 2 * (v % 100), 2);
		v /= 100;
	}
	if (v >= 10) {
		p -= 2;
		memcpy(p, pair_of + 2 * v, 2);
	} else {
		*--p = (char)('0' + v);
	}
	return p;
}

void out_unsigned(struct out *o, __u64 v, int width, char fill)
{
	char text[NUMBER_MAX], *p;
	int n;

	if (v < 10 && width <= 1) {
		out_char(o, (char)('0' + v));
		return;
	}
	p = put_digits(text + sizeof(text), v);
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
	char text[2 + 16], *p = text + sizeof(text), *least = p - (digits < 16 ? digits : 16);

	do
		*--p = digits_of[v & 15];
	while (v >>= 4);
	while (p > least)
		*--p = '0';
	*--p = 'x';
	*--p = '0';
	out_mem(o, p, (size_t)(text + sizeof(text) - p));
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
	char text[1024];
	size_t total = 0;

	while (len) {
		size_t n = len < sizeof(text) / 4 ? len : sizeof(text) / 4;
		size_t w = htrace_escape(text, sizeof(text), s, n);
		size_t room = (size_t)(o->end - o->at);

		out_mem(o, text, w);
		total += whole(o)->limited && w > room ? room : w;
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
