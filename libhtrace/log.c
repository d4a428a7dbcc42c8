// SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause
/* Version and messages. */
#include <htrace/version.h>

#include "internal.h"

#define STR_(x) #x
#define STR(x) STR_(x)

static htrace_log_fn log_fn;

const char *htrace_version(void)
{
	return STR(HTRACE_VERSION_MAJOR) "." STR(HTRACE_VERSION_MINOR) "."
	       STR(HTRACE_VERSION_PATCH);
}

htrace_log_fn htrace_set_log(htrace_log_fn fn)
{
	return __atomic_exchange_n(&log_fn, fn, __ATOMIC_ACQ_REL);
}

void htrace_log(enum htrace_log_level level, const char *fmt, ...)
{
	htrace_log_fn fn = __atomic_load_n(&log_fn, __ATOMIC_ACQUIRE);
	va_list args;

	if (!fn)
		return;
	va_start(args, fmt);
	fn(level, fmt, args);
	va_end(args);
}
