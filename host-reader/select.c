/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "select.h"

#include <errno.h>
#include <fnmatch.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LIKE_MAX 200 /* bytes of names to propose */

struct pattern {
	const char *text;
	bool used;
	char like[LIKE_MAX]; /* events of similar names: "a, b" */
};

struct selection {
	unsigned int nr; /* 0: everything matches */
	char *list;
	struct pattern pattern[];
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

/* One contains the other, or they begin alike, and differ at the end; cheap, as events may be many. */
static bool is_like(const char *event, const char *text)
{
	size_t len = strcspn(text, "*?[");
	size_t same = 0;

	while (text[same] && text[same] == event[same])
		same++;
	if (len < 4 || text[len])
		return len >= 4 && !strncmp(event, text, len - 1);
	return same >= len - 2 || strstr(event, text) || strstr(text, event);
}

/* Names of events come from the guest, but are identifiers. */
static void propose(struct pattern *p, const char *event)
{
	size_t at = strlen(p->like);

	if (at + strlen(event) + 3 < sizeof(p->like) && is_like(event, p->text) &&
	    !strstr(p->like, event))
		snprintf(p->like + at, sizeof(p->like) - at, "%s%s", at ? ", " : "", event);
}

bool selection_matches(struct selection *s, const char *event)
{
	bool any = !s->nr;

	for (unsigned int i = 0; i < s->nr; i++) {
		if (fnmatch(s->pattern[i].text, event, 0)) {
			if (!s->pattern[i].used)
				propose(&s->pattern[i], event);
			continue;
		}
		s->pattern[i].used = true;
		any = true;
	}
	return any;
}

const char *selection_unused(const struct selection *s, const char **like)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		if (!s->pattern[i].used) {
			*like = s->pattern[i].like;
			return s->pattern[i].text;
		}
	}
	return NULL;
}
