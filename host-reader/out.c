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
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <htrace/schema.h>

#define BUFFER (256u << 10)
#define LINE_MAX_USUAL (8u << 10) /* lines longer than that may be written in two parts */

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

int out_terminal_size(const struct out *o, unsigned int *rows, unsigned int *columns)
{
	struct winsize w;

	if (ioctl(((const struct output *)o)->fd, TIOCGWINSZ, &w))
		return -errno;
	*rows = w.ws_row;
	*columns = w.ws_col;
	return w.ws_row && w.ws_col ? 0 : -ENODATA;
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

/* -------------------------------------------------------------------------------------- numbers */

/*
 * Numbers are most of what is written, and of any length: no branch depends on that, as each second
 * one would be guessed wrong. Digits are made eight at a time, in the bytes of a word, the first in
 * the lowest; a word is stored whole, and what follows begins behind those of its bytes that count.
 */
#define ASCII_ZEROS 0x3030303030303030ULL

/* Decimal digits of @v < 10^8. By multiplications, exact for what the lanes can hold, all lanes at once. */
static __u64 eight_digits(__u64 v)
{
	__u64 x = v / 10000 | v % 10000 << 32, high; /* lanes of four digits */

	high = x * 10486 >> 20 & 0x0000007f0000007fULL; /* by 100 */
	x = high | (x - 100 * high) << 16;
	high = x * 103 >> 10 & 0x000f000f000f000fULL; /* by 10 */
	return high | (x - 10 * high) << 8;
}

/*
 * How many digits @v < 10^8 has. Where what follows goes depends on nothing else, so that this is done long
 * before the digits are. By the number's bits: how many digits it has, or has from a power of ten on.
 */
static unsigned int nr_digits(__u64 v)
{
#define ALL(n) ((__u64)(n) << 32)
#define FROM(power, n) (ALL(n) - (power))
	static const __u64 by_bits[] = {
		ALL(1), ALL(1), ALL(1), FROM(10, 2), ALL(2), ALL(2), FROM(100, 3), ALL(3), ALL(3),
		FROM(1000, 4), ALL(4), ALL(4), ALL(4), FROM(10000, 5), ALL(5), ALL(5),
		FROM(100000, 6), ALL(6), ALL(6), FROM(1000000, 7), ALL(7), ALL(7), ALL(7),
		FROM(10000000, 8), ALL(8), ALL(8), ALL(8),
	};

	return (unsigned int)((v + by_bits[63 - __builtin_clzll(v | 1)]) >> 32);
}

char *piece_unsigned(char *p, __u64 v)
{
	unsigned int nr;
	__u64 digits;

	if (v >= 100000000) {
		p = piece_unsigned(p, v / 100000000);
		digits = eight_digits(v % 100000000) + ASCII_ZEROS;
		memcpy(p, &digits, 8);
		return p + 8;
	}
	nr = nr_digits(v);
	digits = (eight_digits(v) + ASCII_ZEROS) >> 8 * (8 - nr);
	memcpy(p, &digits, 8);
	return p + nr;
}

char *piece_signed(char *p, __s64 v)
{
	if (v >= 0)
		return piece_unsigned(p, (__u64)v);
	*p = '-';
	return piece_unsigned(p + 1, 0 - (__u64)v);
}

char *piece_padded(char *p, __u64 v, int width, char fill)
{
	int missing = width;
	__u64 rest = v;

	for (; rest >= 100000000; rest /= 100000000)
		missing -= 8;
	missing -= (int)nr_digits(rest);
	if (missing > 0) {
		memset(p, fill, PIECE_SLACK);
		p += missing;
	}
	return piece_unsigned(p, v);
}

void out_unsigned(struct out *o, __u64 v)
{
	out_piece_end(o, piece_unsigned(out_piece(o), v));
}

void out_signed(struct out *o, __s64 v)
{
	out_piece_end(o, piece_signed(out_piece(o), v));
}

/* Hexadecimal digits of @v. */
static __u64 eight_hex_digits(__u32 v)
{
	__u64 x = v, letters;

	x = (x & 0xffff) << 32 | x >> 16;
	x = (x & 0x000000ff000000ffULL) << 16 | (x >> 8 & 0x000000ff000000ffULL);
	x = (x & 0x000f000f000f000fULL) << 8 | (x >> 4 & 0x000f000f000f000fULL);
	letters = (x + 0x0606060606060606ULL) >> 4 & 0x0101010101010101ULL;
	return x + ASCII_ZEROS + letters * ('a' - '0' - 10);
}

char *piece_hex(char *p, __u64 v, int digits)
{
	int n = 16 - __builtin_clzll(v | 1) / 4;
	__u64 first, second;

	if (n < digits)
		n = digits < 16 ? digits : 16;
	v <<= 64 - 4 * n;
	first = eight_hex_digits((__u32)(v >> 32));
	second = eight_hex_digits((__u32)v);
	memcpy(p, "0x", 2);
	memcpy(p + 2, &first, 8);
	memcpy(p + 10, &second, 8);
	return p + 2 + n;
}

void out_hex(struct out *o, __u64 v, int digits)
{
	out_piece_end(o, piece_hex(out_piece(o), v, digits));
}

static const char digits_of[] = "0123456789abcdef";

void out_bytes(struct out *o, const void *p, size_t len)
{
	const unsigned char *b = p;

	for (size_t i = 0; i < len; i++) {
		out_char(o, digits_of[b[i] >> 4]);
		out_char(o, digits_of[b[i] & 15]);
	}
}

/* ----------------------------------------------------------------------------------------- text */

static bool is_plain(unsigned char c)
{
	return c >= 0x20 && c < 0x7f && c != '"' && c != '\\';
}

/* Bytes of @x that are 0 have their highest bit set; so may others behind the first of those. */
static __u64 zeros(__u64 x)
{
	return (x - 0x0101010101010101ULL) & ~x & 0x8080808080808080ULL;
}

size_t out_plain(const char *s, size_t len)
{
	const __u64 each = 0x0101010101010101ULL;
	size_t n = 0;

	for (; len - n >= 8; n += 8) {
		__u64 x, other;

		memcpy(&x, s + n, 8);
		other = zeros(x ^ each * '"') | zeros(x ^ each * '\\') | zeros(x ^ each * 0x7f) |
			((x - each * 0x20) & ~x & each * 0x80) | (x & each * 0x80);
		if (other)
			return n + (size_t)__builtin_ctzll(other) / 8;
	}
	while (n < len && is_plain((unsigned char)s[n]))
		n++;
	return n;
}

void out_escaped(struct out *o, const char *s, size_t len)
{
	while (len) {
		size_t n = out_plain(s, len);
		char text[4];

		if (n) {
			out_mem(o, s, n);
		} else {
			n = 1;
			out_mem_slowly(o, text, htrace_escape(text, sizeof(text), s, n));
		}
		s += n;
		len -= n;
	}
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
