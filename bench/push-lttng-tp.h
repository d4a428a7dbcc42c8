/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* LTTng-UST's tracepoints with payloads of the sizes that are compared. */
#undef LTTNG_UST_TRACEPOINT_PROVIDER
#define LTTNG_UST_TRACEPOINT_PROVIDER bench
#undef LTTNG_UST_TRACEPOINT_INCLUDE
#define LTTNG_UST_TRACEPOINT_INCLUDE "push-lttng-tp.h"

#if !defined(PUSH_LTTNG_TP_H) || defined(LTTNG_UST_TRACEPOINT_HEADER_MULTI_READ)
#define PUSH_LTTNG_TP_H

#include <lttng/tracepoint.h>
#include <stdint.h>

LTTNG_UST_TRACEPOINT_EVENT(bench, push16, LTTNG_UST_TP_ARGS(const uint64_t *, w),
			   LTTNG_UST_TP_FIELDS(lttng_ust_field_array(uint64_t, w, w, 2)))
LTTNG_UST_TRACEPOINT_EVENT(bench, push32, LTTNG_UST_TP_ARGS(const uint64_t *, w),
			   LTTNG_UST_TP_FIELDS(lttng_ust_field_array(uint64_t, w, w, 4)))
LTTNG_UST_TRACEPOINT_EVENT(bench, push64, LTTNG_UST_TP_ARGS(const uint64_t *, w),
			   LTTNG_UST_TP_FIELDS(lttng_ust_field_array(uint64_t, w, w, 8)))
LTTNG_UST_TRACEPOINT_EVENT(bench, push256, LTTNG_UST_TP_ARGS(const uint64_t *, w),
			   LTTNG_UST_TP_FIELDS(lttng_ust_field_array(uint64_t, w, w, 32)))

#endif

#include <lttng/tracepoint-event.h>
