/* SPDX-License-Identifier: LGPL-2.1-or-later OR BSD-2-Clause */
/* What else builds on a builder: its message. */
#ifndef HTRACE_SCHEMA_BUILDER_H
#define HTRACE_SCHEMA_BUILDER_H

#include <htrace/schema.h>

#include "internal.h"

/* Keep the message for htrace_builder_error(), and return @error. */
HTRACE_PRINTF(3, 4)
int htrace_builder_fail(struct htrace_schema_builder *b, int error, const char *fmt, ...);

#endif
