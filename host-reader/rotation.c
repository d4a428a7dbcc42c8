/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "rotation.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "host_clock.h"
#include "message.h"
#include "options.h"
#include "capture_pack.h"

#define USAGE_ERROR 2
#define LEAST (4u << 20) /* a part is metadata, journal and some packets at least */
#define PARTS 4          /* of what is kept, if nobody says */

/* -------------------------------------------------------------------------------------- options */

/* With a unit: K, M, G, T of bytes, or s. */
static bool parse(const char *text, __u64 *bytes, __u64 *ns)
{
	static const char units[] = "KMGT";
	unsigned long long v;
	const char *unit;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	v = strtoull(text, &end, 10);
	if (errno || !*end || end[1] || !v || v > 1ULL << 32)
		return false;
	if (*end == 's' && ns) {
		*ns = v * 1000000000;
		return true;
	}
	unit = strchr(units, *end);
	if (!unit)
		return false;
	v <<= 10 * (unit - units + 1);
	*bytes = v;
	return v >= LEAST && v < 1ULL << 60;
}

static int parse_one(struct rotation *r, const char *option, const char *spec)
{
	if (!strncmp(option, "rotate=", 7)) {
		if (parse(option + 7, &r->bytes, &r->ns))
			return 0;
		say("'%s' in output '%s' is neither a size from 4M on, as in rotate=64M, nor a time, as in "
		    "rotate=60s", option + 7, spec);
	} else if (!strncmp(option, "keep=", 5)) {
		if (parse(option + 5, &r->keep, NULL))
			return 0;
		say("'%s' in output '%s' is not a size from 4M on, as in keep=1G", option + 5, spec);
	} else if (!strcmp(option, "direct")) {
		r->direct = true;
		return 0;
	} else if (!strcmp(option, "zstd")) {
		r->pack = true;
		return 0;
	} else {
		say("unknown option '%s' in output '%s'; there are rotate=, keep=, direct and zstd; a comma of the path "
		    "itself is doubled", option, spec);
	}
	return USAGE_ERROR;
}

int rotation_parse(struct rotation *r, char *text, const char *spec)
{
	const char *option;
	unsigned int fit;
	int ret = 0;

	while (!ret && (option = options_cut(&text)) != NULL)
		ret = parse_one(r, option, spec);
	fit = r->pack ? 3 : 2; /* one is written, and one is written packed */
	if (!ret && r->keep && (r->keep < fit * LEAST || r->bytes > r->keep / fit)) {
		say("output '%s': of what is kept at least %s parts have to fit, of 4M or more", spec,
		    r->pack ? "three" : "two");
		return USAGE_ERROR;
	}
	if (!ret && r->pack && !rotates(r)) {
		say("output '%s': only what is complete is compressed: give rotate= or keep=, too", spec);
		return USAGE_ERROR;
	}
	if (!ret && r->keep && !r->bytes)
		r->bytes = r->keep / PARTS > LEAST ? r->keep / PARTS : LEAST;
	return ret;
}

/* ---------------------------------------------------------------------------------------- parts */

struct part {
	char name[CAPTURE_NAME];
	__u64 bytes;
	bool tried; /* to pack it */
};

int parts_add(struct parts *p, const char *name, __u64 bytes)
{
	struct part *more = realloc(p->part, (p->nr + 1) * sizeof(*more));

	if (!more)
		return -ENOMEM;
	p->part = more;
	more[p->nr] = (struct part){ .bytes = bytes };
	snprintf(more[p->nr++].name, sizeof(more->name), "%s", name);
	p->bytes += bytes;
	return 0;
}

/* The files of a directory, which then goes, too. What else somebody put there stays, and it with that. */
static int delete_dir(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;
	int ret = 0;

	if (!d) {
		ret = -errno;
		if (fd >= 0)
			close(fd);
		return ret;
	}
	while ((e = readdir(d)) != NULL)
		if (strcmp(e->d_name, ".") && strcmp(e->d_name, "..") && strcmp(e->d_name, CAPTURE_SIDE) &&
		    unlinkat(fd, e->d_name, 0) && errno != ENOENT)
			ret = ret ? ret : -errno;
	closedir(d);
	if (unlinkat(dir, name, AT_REMOVEDIR) && errno != ENOENT)
		ret = ret ? ret : -errno;
	return ret;
}

/* The journal first: without it nobody takes the rest for a capture. */
int part_delete(int dir, const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), ret;

	if (fd < 0)
		return errno == ENOENT ? 0 : -errno;
	ret = delete_dir(fd, CAPTURE_SIDE);
	close(fd);
	return ret ? ret : delete_dir(dir, name);
}

int parts_delete(struct parts *p, int dir, __u64 most)
{
	unsigned int gone = 0;
	int ret = 0;

	for (; gone < p->nr && p->bytes > most && !ret; gone++) {
		bool busy = p->packer && packer_give_up(p->packer, p->part[gone].name);

		ret = part_delete(dir, p->part[gone].name);
		if (busy) /* what is left, if anything, is being deleted by that */
			ret = 0;
		p->bytes -= p->part[gone].bytes;
	}
	p->nr -= gone;
	if (p->nr)
		memmove(p->part, p->part + gone, p->nr * sizeof(*p->part));
	return ret;
}

static void take_packed(struct parts *p, const struct packed_part *done)
{
	for (unsigned int i = 0; i < p->nr; i++) {
		if (strcmp(p->part[i].name, done->name))
			continue;
		p->bytes -= p->part[i].bytes;
		p->part[i].bytes = done->bytes;
		p->bytes += done->bytes;
		if (done->error && !p->said)
			say("part %s of a capture could not be compressed: %s; such ones stay as they are", done->name,
			    strerror(-done->error));
		p->said |= done->error != 0;
	}
}

void parts_pack(struct parts *p)
{
	struct packed_part done;

	if (!p->packer)
		return;
	if (packer_take(p->packer, &done))
		take_packed(p, &done);
	for (unsigned int i = p->nr; i-- > 0;) {
		if (p->part[i].tried)
			continue;
		p->part[i].tried = packer_begin(p->packer, p->part[i].name);
		return;
	}
}

void parts_free(struct parts *p)
{
	packer_free(p->packer);
	free(p->part);
}

/* -------------------------------------------------------------------------------------- lasting */

static bool lasts(const struct capture_item *item)
{
	return item->kind == CAPTURE_SCHEMA || item->kind == CAPTURE_NAMES || item->kind == CAPTURE_GUEST ||
	       item->kind == CAPTURE_PLACE || item->kind == CAPTURE_CLOCK || item->kind == CAPTURE_BROKEN ||
	       item->kind == CAPTURE_HOST || item->kind == CAPTURE_VM;
}

/* Of what each adds to those before: bytes, of all of them the latest; as many as a reader of it takes. 0: not so. */
static size_t most_of(const struct capture_item *item)
{
	return item->kind == CAPTURE_CLOCK ? (HTRACE_CLOCK_SAMPLES + 1) * sizeof(struct htrace_clock_sample) :
	       item->kind == CAPTURE_HOST ? HTRACE_CLOCK_SAMPLES * sizeof(struct host_word) : 0;
}

int lasting_keep(struct lasting *l, const struct capture_item *item)
{
	size_t before = 0, skip = 0, most = most_of(item);
	unsigned char *data;
	struct said *s;

	if (!lasts(item))
		return 0;
	s = &l->said[item->kind];
	if (most) {
		before = s->item.len;
		skip = before + item->len > most ? before + item->len - most : 0;
		if (skip > before)
			return 0; /* no reader gives so many at once */
	}
	data = malloc(before - skip + item->len + 1);
	if (!data)
		return -ENOMEM;
	if (before > skip)
		memcpy(data, s->data + skip, before - skip);
	memcpy(data + before - skip, item->data, item->len);
	free(s->data);
	s->data = data;
	s->item = *item;
	s->item.data = data;
	s->item.len = before - skip + item->len;
	return 0;
}

void lasting_free(struct lasting *l)
{
	for (size_t i = 0; i < sizeof(l->said) / sizeof(*l->said); i++)
		free(l->said[i].data);
}
