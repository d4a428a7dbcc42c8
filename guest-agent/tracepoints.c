/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "tracepoints.h"

#include <dirent.h>
#include <errno.h>
#include <fnmatch.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <unistd.h>

#include "message.h"

#define TRACEFS "/sys/kernel/tracing"
#define EVENTS TRACEFS "/events"

/* ------------------------------------------------------------------------------ what there is */

int tracepoints_check(void)
{
	if (!access(EVENTS "/.", R_OK | X_OK))
		return 0;
	if (errno == ENOENT)
		mount("tracefs", TRACEFS, "tracefs", 0, NULL);
	if (!access(EVENTS "/.", R_OK | X_OK))
		return 0;
	say("cannot read " EVENTS ": %s; tracepoints by name need root and tracefs: mount -t "
	    "tracefs tracefs " TRACEFS,
	    strerror(errno));
	return -1;
}

/* A directory below events/ that is an event's or a system's: not a file, nor `ftrace`. */
static int is_entry(const struct dirent *e)
{
	return e->d_name[0] != '.' && e->d_type == DT_DIR && strcmp(e->d_name, "ftrace");
}

typedef int visit_fn(void *, const char *, const char *);

static int visit_system(const char *system, const char *pattern, int *nr, visit_fn *found, void *ctx)
{
	char path[600], full[600];
	struct dirent **event;
	int n, ret = 0;

	snprintf(path, sizeof(path), EVENTS "/%s", system);
	n = scandir(path, &event, is_entry, alphasort);
	for (int i = 0; i < n; i++) {
		snprintf(full, sizeof(full), "%s:%s", system, event[i]->d_name);
		if (!ret && (!pattern || !fnmatch(pattern, full, 0))) {
			(*nr)++;
			ret = found(ctx, system, event[i]->d_name);
		}
		free(event[i]);
	}
	if (n >= 0)
		free(event);
	return ret;
}

int tracepoints_find(const char *pattern, visit_fn *found, void *ctx)
{
	struct dirent **system;
	int n = scandir(EVENTS, &system, is_entry, alphasort), ret = 0, nr = 0;

	for (int i = 0; i < n; i++) {
		if (!ret)
			ret = visit_system(system[i]->d_name, pattern, &nr, found, ctx);
		free(system[i]);
	}
	if (n >= 0)
		free(system);
	return ret ? ret : nr;
}

/* Edits from one text to the other (Levenshtein); long ones are far from everything. */
static unsigned int distance(const char *a, const char *b)
{
	unsigned int row[128], old, up;
	size_t n = strlen(b);

	if (n >= 128)
		return ~0u;
	for (size_t j = 0; j <= n; j++)
		row[j] = (unsigned int)j;
	for (size_t i = 1; *a; a++, i++) {
		old = row[0];
		row[0] = (unsigned int)i;
		for (size_t j = 1; j <= n; j++) {
			up = row[j];
			row[j] = old + (*a != b[j - 1]);
			if (up + 1 < row[j])
				row[j] = up + 1;
			if (row[j - 1] + 1 < row[j])
				row[j] = row[j - 1] + 1;
			old = up;
		}
	}
	return row[n];
}

#define LIKE_MAX 4

struct like {
	const char *full, *event;
	struct {
		unsigned int far;
		char name[136];
	} best[LIKE_MAX];
	size_t nr;
};

static int look(void *ctx, const char *system, const char *name)
{
	struct like *l = ctx;
	unsigned int far;
	char full[136];
	size_t i;

	snprintf(full, sizeof(full), "%.64s:%.64s", system, name);
	far = strcmp(name, l->event) ? distance(l->full, full) : 0;
	if (far > 2 && strlen(l->event) > 3 && strstr(name, l->event))
		far = 3;
	if (far > 3)
		return 0;
	for (i = l->nr; i && l->best[i - 1].far > far; i--)
		if (i < LIKE_MAX)
			l->best[i] = l->best[i - 1];
	if (i == LIKE_MAX)
		return 0;
	l->best[i].far = far;
	memcpy(l->best[i].name, full, sizeof(full));
	if (l->nr < LIKE_MAX)
		l->nr++;
	return 0;
}

void tracepoints_like(const char *pattern, char *out, size_t len)
{
	const char *colon = strchr(pattern, ':');
	struct like l = {.full = pattern, .event = colon ? colon + 1 : pattern};
	size_t at = 0;

	out[0] = 0;
	if (access(EVENTS "/.", R_OK | X_OK))
		return;
	tracepoints_find(NULL, look, &l);
	for (size_t i = 0; i < l.nr && at < len; i++)
		at += (size_t)snprintf(out + at, len - at, "%s%s", i ? ", " : "", l.best[i].name);
}

struct listing {
	FILE *out;
	char system[64];
	unsigned int nr;
	int column;
};

static void end_system(struct listing *l)
{
	char text[80];
	int len;

	if (!l->nr)
		return;
	len = snprintf(text, sizeof(text), " %s:* (%u)", l->system, l->nr);
	if (l->column + len > 78)
		l->column = fprintf(l->out, "\n    ") - 1;
	l->column += fprintf(l->out, "%s", text);
	l->nr = 0;
}

static int list_one(void *ctx, const char *system, const char *name)
{
	struct listing *l = ctx;

	if (strncmp(l->system, system, sizeof(l->system) - 1)) {
		end_system(l);
		snprintf(l->system, sizeof(l->system), "%.63s", system);
	}
	l->nr++;
	return 0;
}

void tracepoints_list(FILE *out)
{
	struct listing l = {.out = out, .column = 80};

	if (tracepoints_check())
		return;
	fprintf(out, "Tracepoints by name, as SYSTEM:NAME; the names are in " EVENTS ":");
	tracepoints_find(NULL, list_one, &l);
	end_system(&l);
	fprintf(out, "\n");
}

/* ------------------------------------------------------------------------------- one of them */

int tracepoint_open(struct tracepoint **out, const char *system, const char *name)
{
	struct tracepoint *tp = calloc(1, sizeof(*tp));
	char path[300];
	FILE *file;
	int err;

	if (!tp)
		return -1;
	snprintf(tp->system, sizeof(tp->system), "%.63s", system);
	snprintf(tp->name, sizeof(tp->name), "%.63s", name);
	snprintf(path, sizeof(path), EVENTS "/%s/%s/format", tp->system, tp->name);
	file = fopen(path, "re");
	if (!file) {
		say("cannot read %s: %s", path, strerror(errno));
		tracepoint_free(tp);
		return -1;
	}
	err = tracepoint_parse(tp, file);
	fclose(file);
	if (err) {
		say("%s:%s is left out: %s", system, name,
		    err == -E2BIG ? "its fields are too large, or too many" :
				    "its format is not understood");
		tracepoint_free(tp);
		return -1;
	}
	*out = tp;
	return 0;
}
