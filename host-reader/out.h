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

/* What of an output its users may see: where what they write next goes, for the usual case in line. */
struct out {
	char *at;
	char *end; /* of the buffer, or of what the line may have */
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
/* Is it the file @dev, @ino? */
bool out_is_file(const struct out *o, __u64 dev, __u64 ino);

/* For what does not fit before the end: empties the buffer, or cuts the line. */
void out_mem_slowly(struct out *o, const char *s, size_t len);

static inline void out_mem(struct out *o, const char *s, size_t len)
{
	char *to = o->at;

	if ((size_t)(o->end - to) < len) {
		out_mem_slowly(o, s, len);
		return;
	}
	o->at += len;
	/* Names and numbers: two moves that may overlap, and no call. */
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

void out_spaces(struct out *o, int nr);
/* Decimal, at least @width wide, filled from the left with @fill. */
void out_unsigned(struct out *o, __u64 v, int width, char fill);
void out_signed(struct out *o, __s64 v);
/* Hexadecimal with 0x, at least @digits of them. */
void out_hex(struct out *o, __u64 v, int digits);
/* Bytes in hexadecimal, nothing between them. */
void out_bytes(struct out *o, const void *p, size_t len);
/* Text from a guest, made harmless. Returns the characters written. */
size_t out_escaped(struct out *o, const char *s, size_t len);
__attribute__((format(printf, 2, 3))) void out_printf(struct out *o, const char *fmt, ...);

#endif
