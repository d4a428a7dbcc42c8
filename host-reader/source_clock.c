/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "source_clock.h"

#include <stdio.h>
#include <string.h>

#include "source_internal.h"

/* The fixed part of what is found out: who the host is. */
static void describe_host(struct host_word *w, const struct source *s)
{
	struct htrace_clock_sample own;

	htrace_clock_take(&own);
	w->real = own.real - own.mono;
	memcpy(w->boot_id, htrace_view_super(s->view)->boot_id, sizeof(w->boot_id));
}

void source_clock_begin(struct source *s, __u64 now)
{
	struct host_word w = { .kind = HOST_WORD_SAME };

	if (!htrace_view_same_boot(s->view))
		return;
	describe_host(&w, s);
	session_host_clock(s->session, &w, 1, now);
}
