/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Exits by virtual CPU and reason, as the host tells of them. */
#ifndef AGENT_FOLLOW_TABLE_H
#define AGENT_FOLLOW_TABLE_H

#include <stdio.h>

#include <htrace/abi.h>

struct follow_table;

struct follow_table *follow_table_new(void);
void follow_table_free(struct follow_table *t);
/* One exit; the host's own sum. What there is no room for is counted, and said at the end. */
void follow_table_exit(struct follow_table *t, const struct htrace_told_exit *e);
void follow_table_total(struct follow_table *t, const struct htrace_told_total *total);
/* The table, of @ns of telling. */
void follow_table_print(const struct follow_table *t, __u64 ns, FILE *out);

#endif
