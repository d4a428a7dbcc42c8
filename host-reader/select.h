/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which events are shown: a comma-separated list of patterns, as of file names. */
#ifndef READER_SELECT_H
#define READER_SELECT_H

#include <stdbool.h>

struct selection;

/* @list NULL: all events. -EINVAL: an empty pattern. */
int selection_new(struct selection **out, const char *list);
void selection_free(struct selection *s);
bool selection_matches(struct selection *s, const char *event);
/*
 * The first pattern that has matched nothing so far, or NULL; and the names of events that it may
 * have meant, or "".
 */
const char *selection_unused(const struct selection *s, const char **like);

#endif
