/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sink.h"

#include <string.h>

#include "message.h"

#define FAILURE 1
#define USAGE_ERROR 2

static const struct sink_ops *const kinds[] = { &sink_text, &sink_json };

static const char *name_of(const struct sink *s)
{
	return s->path ? s->path : "standard output";
}

static const struct sink_ops *find_kind(const char *spec, size_t len)
{
	for (size_t i = 0; i < sizeof(kinds) / sizeof(*kinds); i++)
		if (strlen(kinds[i]->name) == len && !memcmp(kinds[i]->name, spec, len))
			return kinds[i];
	return NULL;
}

static int parse(struct sink *s, const char *spec)
{
	size_t len = strcspn(spec, ":");

	s->ops = find_kind(spec, len);
	if (!s->ops) {
		say("unknown output '%s'; there are: text[:FILE], json[:FILE]", spec);
		return USAGE_ERROR;
	}
	s->path = spec[len] ? spec + len + 1 : NULL;
	if (s->path && !*s->path) {
		say("output '%s' names no file", spec);
		return USAGE_ERROR;
	}
	return 0;
}

int sinks_open(struct sinks *s, const char *const *specs, unsigned int nr)
{
	int ret = 0;

	memset(s, 0, sizeof(*s));
	for (unsigned int i = 0; i < nr && !ret; i++)
		ret = parse(&s->sink[i], specs[i]);
	for (unsigned int i = 0; i < nr && !ret; i++) {
		int err = out_open(&s->sink[i].out, s->sink[i].path);

		if (err) {
			say("cannot write to %s: %s", name_of(&s->sink[i]), strerror(-err));
			ret = FAILURE;
		} else {
			s->nr++;
		}
	}
	return ret;
}

const char *sinks_find_file(const struct sinks *s, __u64 dev, __u64 ino)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (out_is_file(s->sink[i].out, dev, ino))
			return name_of(&s->sink[i]);
	return NULL;
}

int sinks_begin(struct sinks *s)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		int err = out_begin(s->sink[i].out);

		if (err) {
			say("cannot empty %s: %s", name_of(&s->sink[i]), strerror(-err));
			return FAILURE;
		}
	}
	return 0;
}

void sinks_event(struct sinks *s, const struct sink_event *e)
{
	for (unsigned int i = 0; i < s->nr; i++)
		s->sink[i].ops->event(&s->sink[i], e);
}

void sinks_loss(struct sinks *s, const struct sink_loss *l)
{
	for (unsigned int i = 0; i < s->nr; i++)
		s->sink[i].ops->loss(&s->sink[i], l);
}

void sinks_note(struct sinks *s, const struct sink_note *n)
{
	for (unsigned int i = 0; i < s->nr; i++)
		s->sink[i].ops->note(&s->sink[i], n);
}

void sinks_flush(struct sinks *s, bool all)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (all || out_is_terminal(s->sink[i].out))
			out_flush(s->sink[i].out);
}

bool sinks_failed(struct sinks *s)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		int err = out_error(s->sink[i].out);

		if (err) {
			say("cannot write to %s: %s", name_of(&s->sink[i]), strerror(err));
			return true;
		}
	}
	return false;
}

void sinks_abandon(struct sinks *s)
{
	for (unsigned int i = 0; i < s->nr; i++)
		out_abandon(s->sink[i].out, s->sink[i].path);
	s->nr = 0;
}

int sinks_close(struct sinks *s)
{
	int ret = 0;

	for (unsigned int i = 0; i < s->nr; i++) {
		int before = out_error(s->sink[i].out), err = out_close(s->sink[i].out);

		if (err && !before) /* else it was said */
			say("cannot write to %s: %s", name_of(&s->sink[i]), strerror(-err));
		ret |= err ? FAILURE : 0;
	}
	s->nr = 0;
	return ret;
}
