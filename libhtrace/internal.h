/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* Shared by the library's own files; not installed. */
#ifndef HTRACE_INTERNAL_H
#define HTRACE_INTERNAL_H

#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>

#include <htrace/version.h>

#define HTRACE_PRINTF(fmt, args) __attribute__((format(printf, fmt, args)))

/* To the caller's htrace_set_log() function, if there is one. Not for signal handlers. */
HTRACE_PRINTF(2, 3)
void htrace_log(enum htrace_log_level level, const char *fmt, ...);

/* One line into a caller's error buffer, which may be NULL or empty. */
HTRACE_PRINTF(3, 4)
static inline void htrace_errf(char *err, size_t errlen, const char *fmt, ...)
{
	va_list args;

	if (!err || !errlen)
		return;
	va_start(args, fmt);
	vsnprintf(err, errlen, fmt, args);
	va_end(args);
}

#endif /* HTRACE_INTERNAL_H */
