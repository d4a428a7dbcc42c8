/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Pieces of CTF 1.8's metadata language (TSDL). Names of fields get an underscore in front, which
 * readers take away again; so none is a keyword.
 */
#ifndef READER_TSDL_H
#define READER_TSDL_H

#include <htrace/clock.h>

#include "sink.h"

/* Text that grows up to a limit; what comes after it is dropped, and `full` says so. */
struct tsdl {
	char *p;
	size_t len, room, max;
	bool full;
};

#define TSDL_CLOCK "clock.monotonic.value"

__attribute__((format(printf, 2, 3))) void tsdl_put(struct tsdl *t, const char *fmt, ...);
void tsdl_free(struct tsdl *t);

/* uuid = "..."; */
void tsdl_uuid(struct tsdl *t, const char *name, const __u8 *uuid);
/* @key = "..."; with a value of anybody's, which ends at its NUL or after @max bytes. */
void tsdl_env(struct tsdl *t, const char *key, const char *value, size_t max);
/* The clock of the session. Times below 2^61 then stay below 2^63 ns for readers. */
void tsdl_clock(struct tsdl *t, const struct sink_session *s);
/* Likewise, where times are ticks as the region has them, by @line; its hz 0: they are not known. */
void tsdl_clock_ticks(struct tsdl *t, const struct sink_session *s,
		      const struct htrace_clock_line *line);
/* An integer or enum type of @bits bits, which begins at a multiple of @align bits. */
void tsdl_integer(struct tsdl *t, const struct htrace_type *type, unsigned int bits,
		  unsigned int align);

#endif
