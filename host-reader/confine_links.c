/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "confine_links.h"

#include <dirent.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define MAX_ENTRIES 8192 /* looked at: some 20 us each */

struct search {
	char inside[PATH_MAX]; /* the directory, without links; a slash at the end */
	unsigned int left;
	int (*found)(void *arg, const char *path);
	void *arg;
};

static int look(const struct search *s, const char *path)
{
	char to[PATH_MAX];
	struct stat st;

	if (!realpath(path, to) || !strncmp(to, s->inside, strlen(s->inside)))
		return 0;
	return stat(to, &st) || !S_ISREG(st.st_mode) ? 0 : s->found(s->arg, to);
}

static int each(struct search *s, const char *dir, int (*visit)(struct search *s, const char *dir, const char *name))
{
	DIR *d = opendir(dir);
	struct dirent *e;
	int ret = 0;

	while (d && !ret && s->left && (e = readdir(d)) != NULL) {
		if (e->d_name[0] == '.')
			continue;
		s->left--;
		ret = visit(s, dir, e->d_name);
	}
	if (d)
		closedir(d);
	return ret;
}

/* A name that is a link, or has a link in it. */
static int visit_id(struct search *s, const char *dir, const char *name)
{
	char path[PATH_MAX];
	int ret;

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		return 0;
	ret = look(s, path);
	if (ret || strlen(path) + sizeof("/elf") > sizeof(path))
		return ret;
	strcat(path, "/elf");
	return look(s, path);
}

static int visit_first_byte(struct search *s, const char *dir, const char *name)
{
	char path[PATH_MAX];

	if (snprintf(path, sizeof(path), "%s/%s", dir, name) >= (int)sizeof(path))
		return 0;
	return each(s, path, visit_id);
}

int confine_links(const char *dir, int (*found)(void *arg, const char *path), void *arg)
{
	struct search s = { .left = MAX_ENTRIES, .found = found, .arg = arg };
	char ids[PATH_MAX];

	if (!realpath(dir, s.inside) || strlen(s.inside) + 2 > sizeof(s.inside) ||
	    snprintf(ids, sizeof(ids), "%s/.build-id", s.inside) >= (int)sizeof(ids))
		return 0;
	strcat(s.inside, "/");
	return each(&s, ids, visit_first_byte);
}
