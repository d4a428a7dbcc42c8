/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
#ifndef HTRACE_VERSION_H
#define HTRACE_VERSION_H

#include <stdarg.h>

#ifdef __cplusplus
extern "C" {
#endif
#pragma GCC visibility push(default)

#define HTRACE_VERSION_MAJOR 0
#define HTRACE_VERSION_MINOR 1
#define HTRACE_VERSION_PATCH 0

/* Version of the library that is loaded, as "0.1.0". */
const char *htrace_version(void);

enum htrace_log_level {
	HTRACE_LOG_ERROR = 0,
	HTRACE_LOG_WARN = 1,
	HTRACE_LOG_INFO = 2,
	HTRACE_LOG_DEBUG = 3,
};

typedef void (*htrace_log_fn)(enum htrace_log_level level, const char *fmt, va_list args);

/* Where the library's few messages go; NULL: nowhere (the default). Returns the one before. */
htrace_log_fn htrace_set_log(htrace_log_fn fn);

#pragma GCC visibility pop
#ifdef __cplusplus
}
#endif
#endif
