/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Buffered output into a descriptor. Functions of its own rather than stdio: events are formatted
 * by the million, and a write that a signal interrupted must not lose what the buffer held. After
 * an error everything is swallowed; out_error() tells.
 */
#ifndef READER_OUT_H
#define READER_OUT_H

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include <htrace/abi.h>

#define OUT_PIECE 320 /* bytes */

/* What of an output its users may see: where what they write next goes, for the usual case in line. */
struct out {
	char *at;
	char *end; /* of the buffer, or of what the line may have */
	char piece[OUT_PIECE]; /* for one that may not fit before the end */
};

/*
 * Open @path, created if it is missing, not truncated yet (NULL: standard output). Returns 0 or
 * -errno.
 */
int out_open(struct out **o, const char *path);
/* Likewise for a descriptor, which stays the caller's. */
int out_open_fd(struct out **o, int fd);
/* Close it without having written; a file that out_open() made goes again. */
void out_abandon(struct out *o, const char *path);
/* Empty the file: from here on it is ours. */
int out_begin(struct out *o);
/* Write what is left and close. The first error of the output's life, or 0. */
int out_close(struct out *o);

void out_flush(struct out *o);
/* The end of a line: flushes when the buffer is nearly full. */
void out_newline(struct out *o);
/* The line that begins now ends with "..." if it has more than @most bytes. */
void out_limit_line(struct out *o, size_t most);
/* Is all that is written up to its end in vain? */
bool out_line_full(const struct out *o);
int out_error(const struct out *o);
bool out_is_terminal(const struct out *o);
/* Of a terminal. 0 or -errno: it does not know. */
int out_terminal_size(const struct out *o, unsigned int *rows, unsigned int *columns);
/* Is it the file @dev, @ino? */
bool out_is_file(const struct out *o, __u64 dev, __u64 ino);

/* For what does not fit before the end: empties the buffer, or cuts the line. */
void out_mem_slowly(struct out *o, const char *s, size_t len);

/* Names and numbers: two moves that may overlap, and no call. The end. */
static inline char *piece_mem(char *to, const char *s, size_t len)
{
	if (__builtin_constant_p(len) || len > 16) {
		memcpy(to, s, len);
	} else if (len >= 8) {
		memcpy(to, s, 8);
		memcpy(to + len - 8, s + len - 8, 8);
	} else if (len >= 4) {
		memcpy(to, s, 4);
		memcpy(to + len - 4, s + len - 4, 4);
	} else {
		for (size_t i = 0; i < len; i++)
			to[i] = s[i];
	}
	return to + len;
}

static inline void out_mem(struct out *o, const char *s, size_t len)
{
	if ((size_t)(o->end - o->at) < len)
		out_mem_slowly(o, s, len);
	else
		o->at = piece_mem(o->at, s, len);
}

static inline void out_char(struct out *o, char c)
{
	if (o->at == o->end)
		out_mem_slowly(o, &c, 1);
	else
		*o->at++ = c;
}

static inline void out_text(struct out *o, const char *s)
{
	out_mem(o, s, strlen(s));
}

/*
 * What consists of several short things is put together as one piece: where the next thing goes stays in a
 * register then, and need not be stored and loaded again for each of them, which is most of what they cost.
 * OUT_PIECE bytes from where out_piece() says may be written. Functions return the end of what they wrote,
 * and may have used up to PIECE_SLACK bytes behind it; out_piece_end() takes the last one.
 */
#define PIECE_SLACK 20

static inline char *out_piece(struct out *o)
{
	return o->end - o->at >= OUT_PIECE ? o->at : o->piece;
}

static inline void out_piece_end(struct out *o, char *end)
{
	if (o->end - o->at >= OUT_PIECE)
		o->at = end;
	else
		out_mem_slowly(o, o->piece, (size_t)(end - o->piece));
}

static inline char *piece_text(char *p, const char *s)
{
	return piece_mem(p, s, strlen(s));
}

/* As out_unsigned() and the others below. */
char *piece_unsigned(char *p, __u64 v);
char *piece_signed(char *p, __s64 v);
/* Decimal, at least @width wide, which is PIECE_SLACK at most, filled from the left with @fill. */
char *piece_padded(char *p, __u64 v, int width, char fill);
char *piece_hex(char *p, __u64 v, int digits);

void out_spaces(struct out *o, int nr);
/* Decimal. */
void out_unsigned(struct out *o, __u64 v);
void out_signed(struct out *o, __s64 v);
/* Hexadecimal with 0x, at least @digits of them. */
void out_hex(struct out *o, __u64 v, int digits);
/* Bytes in hexadecimal, nothing between them. */
void out_bytes(struct out *o, const void *p, size_t len);
/* Bytes at the beginning of @s that are printable ASCII, and neither " nor \. */
size_t out_plain(const char *s, size_t len);
/* Text from a guest, made harmless. */
void out_escaped(struct out *o, const char *s, size_t len);
__attribute__((format(printf, 2, 3))) void out_printf(struct out *o, const char *fmt, ...);

#endif
