/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "sink.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "message.h"
#include "metrics.h"
#include "options.h"

#define FAILURE 1
#define USAGE_ERROR 2

static const struct sink_ops *const kinds[] = {
	&sink_text, &sink_json, &sink_ctf, &sink_raw, &sink_metrics,
#ifdef HAVE_PROTOBUF_C
	&sink_perfetto,
#endif
};

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
	char *rest;

	s->ops = find_kind(spec, len);
	if (!s->ops && len == 8 && !memcmp(spec, "perfetto", len)) {
		say("output '%s': this host-reader was built without protobuf-c, which it needs", spec);
		return USAGE_ERROR;
	}
	if (!s->ops) {
		say("unknown output '%s'; there are: text[:FILE], json[:FILE], ctf:DIR, raw:DIR, "
		    "perfetto:FILE, metrics:FILE", spec);
		return USAGE_ERROR;
	}
	s->path = spec[len] ? spec + len + 1 : NULL;
	if (s->path && s->ops->options) {
		rest = s->own = strdup(s->path);
		s->path = options_cut(&rest);
		if (s->ops->options(s, rest, spec))
			return USAGE_ERROR;
	}
	if (s->path ? !*s->path : s->ops->open != NULL) {
		say("output '%s' names no %s", spec, s->ops->open && !s->ops->file ? "directory" : "file");
		return USAGE_ERROR;
	}
	return 0;
}

static int error_of(const struct sink *s)
{
	return s->ops->error ? s->ops->error(s) : out_error(s->out);
}

static void say_failed(const struct sink *s, int err)
{
	say("cannot write to %s: %s%s", name_of(s), strerror(err),
	    s->ops->open && err == ENOTEMPTY ? "; give a new directory or an empty one" : "");
}

static int open_sink(struct sink *s)
{
	int err = s->ops->open ? s->ops->open(s) : out_open(&s->out, s->path);

	if (err)
		say_failed(s, -err);
	return err ? FAILURE : 0;
}

int sinks_open(struct sinks *s, const char *const *specs, unsigned int nr)
{
	int ret = 0;

	memset(s, 0, sizeof(*s));
	for (unsigned int i = 0; i < nr && !ret; i++)
		ret = parse(&s->sink[i], specs[i]);
	for (unsigned int i = 0; i < nr && !ret; i++) {
		ret = open_sink(&s->sink[i]);
		s->nr += !ret;
	}
	for (unsigned int i = s->nr; ret && i < nr; i++) /* those that are open are abandoned */
		free(s->sink[i].own);
	return ret;
}

const char *sinks_find_file(const struct sinks *s, __u64 dev, __u64 ino)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (s->sink[i].out && out_is_file(s->sink[i].out, dev, ino))
			return name_of(&s->sink[i]);
	return NULL;
}

int sinks_begin(struct sinks *s)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		struct sink *k = &s->sink[i];
		int err = k->ops->begin ? k->ops->begin(k) : out_begin(k->out);

		if (err) {
			say("cannot %s %s: %s", k->ops->begin ? "write to" : "empty", name_of(k),
			    strerror(-err));
			return FAILURE;
		}
	}
	return 0;
}

void sinks_event(struct sinks *s, const struct sink_event *e)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (s->sink[i].ops->event)
			s->sink[i].ops->event(&s->sink[i], e);
}

void sinks_loss(struct sinks *s, const struct sink_loss *l)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (s->sink[i].ops->loss)
			s->sink[i].ops->loss(&s->sink[i], l);
}

void sinks_note(struct sinks *s, const struct sink_note *n)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (s->sink[i].ops->note)
			s->sink[i].ops->note(&s->sink[i], n);
}

void sinks_vcpu(struct sinks *s, const struct sink_session *session, const struct vcpu_change *c)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (s->sink[i].ops->vcpu)
			s->sink[i].ops->vcpu(&s->sink[i], session, c);
}

void sinks_captured(struct sinks *s, const struct sink_session *session,
		    const struct capture_item *item)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (s->sink[i].ops->captured)
			s->sink[i].ops->captured(&s->sink[i], session, item);
}

bool sinks_lends(const struct sinks *s)
{
	return s->nr == 1 && s->sink[0].ops->lend;
}

bool sinks_lend(struct sinks *s, const struct sink_session *session,
		const struct capture_item *item, const struct capture_loan *loan)
{
	return s->sink[0].ops->lend(&s->sink[0], session, item, loan);
}

const char *sinks_lends_by(const struct sinks *s)
{
	return s->sink[0].ops->lends_by(&s->sink[0]);
}

bool sinks_take_back(struct sinks *s, enum take_back how)
{
	bool ok = true;

	for (unsigned int i = 0; i < s->nr; i++)
		if (s->sink[i].ops->take_back)
			ok &= s->sink[i].ops->take_back(&s->sink[i], how);
	return ok;
}

__u64 sinks_unwritten(struct sinks *s, const struct sink_session *session, unsigned int ring)
{
	__u64 first = ~0ULL;

	for (unsigned int i = 0; i < s->nr; i++) {
		__u64 at = s->sink[i].ops->unwritten ?
				   s->sink[i].ops->unwritten(&s->sink[i], session, ring) : ~0ULL;

		first = at < first ? at : first;
	}
	return first;
}

bool sinks_capture(const struct sinks *s)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (s->sink[i].ops->captured)
			return true;
	return false;
}

bool sinks_show(const struct sinks *s)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (s->sink[i].ops->event)
			return true;
	return false;
}

void sinks_session_end(struct sinks *s, const struct sink_session *session)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (s->sink[i].ops->session_end)
			s->sink[i].ops->session_end(&s->sink[i], session);
}

void sinks_flush(struct sinks *s, bool all)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		struct sink *k = &s->sink[i];

		if (!k->ops->flush && (all || out_is_terminal(k->out)))
			out_flush(k->out);
		else if (k->ops->flush && all)
			k->ops->flush(k);
	}
}

bool sinks_failed(struct sinks *s)
{
	for (unsigned int i = 0; i < s->nr; i++) {
		int err = error_of(&s->sink[i]);

		if (err) {
			say_failed(&s->sink[i], err);
			return true;
		}
	}
	return false;
}

static void free_paths(struct sinks *s)
{
	for (unsigned int i = 0; i < s->nr; i++)
		free(s->sink[i].own);
}

void sinks_abandon(struct sinks *s)
{
	for (unsigned int i = 0; i < s->nr; i++)
		if (s->sink[i].ops->abandon)
			s->sink[i].ops->abandon(&s->sink[i]);
		else
			out_abandon(s->sink[i].out, s->sink[i].path);
	free_paths(s);
	s->nr = 0;
}

int sinks_close(struct sinks *s)
{
	int ret = 0;

	for (unsigned int i = 0; i < s->nr; i++) {
		struct sink *k = &s->sink[i];
		int before = error_of(k), err = k->ops->close ? k->ops->close(k) : out_close(k->out);

		if (err && !before) /* else it was said */
			say_failed(k, -err);
		ret |= err ? FAILURE : 0;
	}
	free_paths(s);
	s->nr = 0;
	return ret;
}
