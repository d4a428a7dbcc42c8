/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Which records are shown: those that match the reader's own filter, and the guest's where its
 * programs did not look at them already.
 */
#ifndef READER_FILTER_H
#define READER_FILTER_H

#include <stdbool.h>

#include <htrace/filter.h>

#include "message.h"
#include "sink.h"

/* What is wrong with the @text of @option, and where. */
void filter_error(const char *option, const char *text, const struct htrace_filter_error *err);

/* What a session has said of filters, so that it is said once. */
struct filter_said {
	const char *option; /* that the own one was given by */
	bool own;
	char guest[64]; /* the beginning of the last one */
	unsigned int times;
};

struct filters;

/*
 * The filters that hold for the events of @schema: @own or NULL, and the guest's. NULL: there are
 * none. Says which, and what is wrong with them.
 */
struct filters *filters_new(const struct htrace_filter *own, const struct htrace_schema *schema,
			    struct filter_said *said, const char *path, struct say_quota *quota);
/* NULL is allowed. */
void filters_free(struct filters *f);
/* Is @e to be shown? @f NULL: yes. */
bool filters_pass(struct filters *f, const struct sink_event *e);

#endif
