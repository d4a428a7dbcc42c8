/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "select.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdlib.h>
#include <string.h>

struct selection {
	unsigned int nr; /* 0: everything matches */
	char *list;
	struct pattern {
		const char *text;
		bool used;
	} pattern[];
};

int selection_new(struct selection **out, const char *list)
{
	unsigned int nr = 0;
	struct selection *s;
	char *at, *part;

	for (const char *p = list; p; p = strchr(p, ',') ? strchr(p, ',') + 1 : NULL)
		nr++;
	s = calloc(1, sizeof(*s) + nr * sizeof(*s->pattern));
	if (!s)
		return -ENOMEM;
	s->list = at = strdup(list ? list : "");
	while (s->nr < nr && (part = strsep(&at, ",")) != NULL) {
		if (!*part) {
			selection_free(s);
			return -EINVAL;
		}
		s->pattern[s->nr++].text = part;
	}
	*out = s;
	return 0;
}

void selection_free(struct selection *s)
{
	if (!s)
		return;
	free(s->list);
	free(s);
}

bool selection_matches(struct selection *s, const char *event)
{
	bool any = !s->nr;

	for (unsigned int i = 0; i < s->nr; i++) {
		if (fnmatch(s->pattern[i].text, event, 0))
			continue;
		s->pattern[i].used = true;
		any = true;
	}
	return any;
}

const char *selection_unused(const struct selection *s)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (!s->pattern[i].used)
			return s->pattern[i].text;
	return NULL;
}
