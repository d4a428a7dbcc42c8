/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A capture as a source: what was read when it was made comes again, in the same order and with the
 * same times of arrival, so that the outputs get the same. It is read as fast as they take it.
 */
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "capture_read.h"
#include "clock.h"
#include "message.h"
#include "outdir.h"
#include "source_internal.h"

#define ROUND_NS (20 * MS)
#define MAX_SESSIONS 100000u

struct found {
	unsigned int source, session, part; /* 0: the directory itself */
};

struct replay {
	int dir;
	struct found *list;
	unsigned int nr, at; /* sessions; the one to come */
	struct capture_reader *reader;
	struct capture_next next;
	bool have;      /* next is still to be used */
	bool awaited;   /* in the order, a session of ours */
	bool announced; /* the session */
	bool ended;     /* properly */
	__u64 begun, latest; /* arrivals */
	char name[4 * 4096 + 1];
};

/* ------------------------------------------------------------------------------ what there is */

static int by_number(const void *a, const void *b)
{
	const struct found *x = a, *y = b;

	if (x->source != y->source)
		return x->source < y->source ? -1 : 1;
	if (x->session != y->session)
		return x->session < y->session ? -1 : 1;
	return x->part < y->part ? -1 : x->part > y->part;
}

static bool parse_name(const char *name, struct found *f)
{
	char again[CAPTURE_NAME];

	f->part = 1;
	if (sscanf(name, CAPTURE_PART, &f->source, &f->session, &f->part) < 2)
		return false;
	capture_dir_name(again, f->source, f->session, f->part);
	return !strcmp(name, again) && f->source && f->session;
}

static int add_found(struct replay *p, const struct found *f)
{
	struct found *more;

	if (p->nr == MAX_SESSIONS)
		return -E2BIG;
	more = realloc(p->list, (p->nr + 1) * sizeof(*more));
	if (!more)
		return -ENOMEM;
	p->list = more;
	p->list[p->nr++] = *f;
	return 0;
}

static int list_sessions(struct replay *p)
{
	int fd = openat(p->dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), ret = 0;
	DIR *d = fd < 0 ? NULL : fdopendir(fd);
	const struct dirent *e;
	struct found f;

	if (!d) {
		ret = -errno;
		if (fd >= 0)
			close(fd);
		return ret;
	}
	while (!ret && (e = readdir(d)))
		if (parse_name(e->d_name, &f))
			ret = add_found(p, &f);
	closedir(d);
	if (!ret && p->nr)
		qsort(p->list, p->nr, sizeof(*p->list), by_number);
	return ret;
}

static void free_replay(struct replay *p)
{
	if (!p)
		return;
	capture_reader_close(p->reader);
	if (p->dir >= 0)
		close(p->dir);
	free(p->list);
	free(p);
}

static struct replay *open_replay(const char *path)
{
	struct replay *p = calloc(1, sizeof(*p));
	struct stat st;
	int ret = -ENOMEM;

	if (p) {
		p->dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
		ret = p->dir < 0 ? -errno : list_sessions(p);
	}
	/* One session's directory will do. */
	if (!ret && !p->nr && (!fstatat(p->dir, CAPTURE_SIDE "/" CAPTURE_JOURNAL, &st, 0) ||
			       !fstatat(p->dir, CAPTURE_SIDE "/" CAPTURE_JOURNAL CAPTURE_PACKED, &st, 0)))
		ret = add_found(p, &(struct found){ 0 });
	if (!ret && p->nr)
		return p;
	if (ret)
		say("cannot read capture '%s': %s%s", path, strerror(-ret),
		    ret == -ENOTDIR ? "; give the directory that -o raw: made" : "");
	else
		say("there is no session in capture '%s'; give the directory that -o raw: made",
		    path);
	free_replay(p);
	return NULL;
}

/* Of the capture only what came from source @of. */
static void keep_source(struct replay *p, unsigned int of)
{
	unsigned int to = 0;

	for (unsigned int i = 0; i < p->nr; i++)
		if (!of || p->list[i].source == of)
			p->list[to++] = p->list[i];
	p->nr = to;
}

static int expand(struct options *o, struct source_spec *spec)
{
	struct replay *p = open_replay(spec->path);
	int ret = 0;

	if (!p)
		return 0; /* source_open() says so */
	spec->of = p->list[0].source;
	for (unsigned int i = 1; i < p->nr && !ret; i++) {
		struct source_spec more = *spec;

		if (p->list[i].source == p->list[i - 1].source)
			continue;
		if (spec->console) {
			say("the capture '%s' has several sources, and console= is one's; give one session's directory",
			    spec->path);
			free_replay(p);
			return 1;
		}
		more.of = p->list[i].source;
		ret = options_add_source(o, &more) < 0;
	}
	if (ret)
		say("the capture '%s' and the other sources are more than %d", spec->path,
		    MAX_SOURCES);
	free_replay(p);
	return ret;
}

int source_file_expand(struct options *o)
{
	unsigned int nr = o->nr_sources;
	int ret = 0;

	for (unsigned int i = 0; i < nr && !ret; i++)
		if (o->source[i].kind == SOURCE_FILE)
			ret = expand(o, &o->source[i]);
	return ret;
}

/* ------------------------------------------------------------------------------ session by session */

static int file_open(struct source *s)
{
	s->replay = open_replay(s->spec->path);
	if (!s->replay) {
		s->state = SOURCE_FAILED;
		return 1;
	}
	keep_source(s->replay, s->spec->of);
	return 0;
}

/* Other captures' records wait for those of our next session. */
static void await_session(struct source *s, bool await)
{
	if (s->replay->awaited != await)
		order_await(s->config->order, await);
	s->replay->awaited = await;
}

static void file_begin(struct source *s, __u64 now)
{
	await_session(s, true);
	allow_many_files();
	source_enter(s, SOURCE_READING, now);
}

static void session_name(const struct replay *p, char *name)
{
	const struct found *f = &p->list[p->at];

	if (f->source)
		capture_dir_name(name, f->source, f->session, f->part);
	else
		snprintf(name, CAPTURE_NAME, ".");
}

/* False: this one cannot be read, which was said. */
static bool begin_session(struct source *s)
{
	struct replay *p = s->replay;
	const struct session_facts *facts;
	char name[CAPTURE_NAME], err[256] = "";
	int ret;

	session_name(p, name);
	ret = capture_reader_open(&p->reader, p->dir, name, err, sizeof(err));
	if (!ret) {
		facts = capture_reader_facts(p->reader);
		snprintf(p->name, sizeof(p->name), "%s", capture_reader_path(p->reader));
		s->name = p->name;
		s->local = facts->local;
		memset(&s->guest, 0, sizeof(s->guest));
		s->agent_cpu_from = s->agent_mono_from = 0;
		*s->placement = 0;
		ret = source_open_session(s, facts, err, sizeof(err));
	}
	if (ret) {
		say("%s: session %s cannot be read: %s", s->spec->path, name, err);
		s->damaged = true;
		return false;
	}
	await_session(s, false);
	p->have = p->announced = p->ended = false;
	p->begun = p->latest = 0;
	s->guest_came = true;
	return true;
}

static void tell_damage(struct source *s, const char *name)
{
	const struct replay *p = s->replay;
	const char *damage = capture_reader_damage(p->reader);
	__u64 missing = capture_reader_missing(p->reader);

	if (!p->ended)
		say("%s: the capture of session %s has no end%s%s%s; it was read up to its last "
		    "complete packets", s->spec->path, name, damage ? " (" : "",
		    damage ? damage : "", damage ? ")" : "");
	else if (damage)
		say("%s: session %s: %s; it was read up to there", s->spec->path, name, damage);
	s->damaged |= p->ended && damage;
	if (missing)
		say("%s: session %s: %" PRIu64 " pieces of the capture are missing", s->spec->path,
		    name, (uint64_t)missing);
}

static void end_session(struct source *s, const struct capture_end *end)
{
	struct replay *p = s->replay;
	char name[CAPTURE_NAME];

	session_name(p, name);
	if (p->ended || !s->finishing)
		tell_damage(s, name);
	source_let_go(s, end, p->latest);
	capture_reader_close(p->reader);
	p->reader = NULL;
	p->at++; /* what is left of this one is in the order itself, and goes out before the next is looked at */
}

/* As captured. */
static __u64 file_attached_ns(const struct source *s, __u64 now)
{
	return s->replay->latest - s->replay->begun;
}

/* Of one whose end was not written, or not reached. */
static void cut_session(struct source *s)
{
	struct capture_end end = { .attached_ns = file_attached_ns(s, 0) };

	end_session(s, &end);
}

/* ------------------------------------------------------------------------------------- what comes */

/* Text of anybody's who could write the file. */
static void take_text(char *to, size_t room, const struct capture_item *item)
{
	const char *from = item->data;
	size_t len = strnlen(from, item->len);

	if (len > room - 1)
		len = room - 1;
	for (size_t i = 0; i < len; i++)
		to[i] = from[i] >= 0x20 && from[i] < 0x7f ? from[i] : '?';
	to[len] = 0;
}

static void announce(struct source *s, __u64 now)
{
	if (s->replay->announced)
		return;
	s->replay->announced = true;
	source_describe(s);
	source_announce_session(s, now);
}

static void take_place(struct source *s, const struct capture_item *item)
{
	take_text(s->placement, sizeof(s->placement), item);
	session_tell(s->session, CAPTURE_PLACE, s->placement, strlen(s->placement), item->arrival);
	if (!s->replay->announced) {
		announce(s, item->arrival);
		return;
	}
	source_describe(s);
	say_within(&s->quota, "%s: from now on %s", s->spec->path, s->placement);
}

static void take_said(struct source *s, const struct capture_item *item)
{
	char text[1024];

	take_text(text, sizeof(text), item);
	source_say(s, item->arrival, "%s", text);
}

/* Of several sessions we say it by ourselves: older captures have no word of it. */
static void take_began(struct source *s, const struct capture_item *item)
{
	char text[1024];

	take_text(text, sizeof(text), item);
	if (s->stats.sessions == 1)
		session_began(s->session, text, item->arrival);
}

static void take_broken(struct source *s, const struct capture_item *item)
{
	char text[256];

	take_text(text, sizeof(text), item);
	session_broken(s->session, item->ring, text, item->arrival);
}

static void take_schema(struct source *s, const struct capture_item *item)
{
	char why[160] = "";

	if (session_schema(s->session, item->generation, item->data, item->len, item->arrival, why,
			   sizeof(why)))
		say_within(&s->quota, "%s: a schema of the capture was refused: %s", s->spec->path,
			   why);
}

/* What reached the session when this was captured. -ENOMEM. */
static int take(struct source *s, struct source_round *round)
{
	struct replay *p = s->replay;
	const struct capture_item *item = &p->next.item;

	p->have = false;
	if (!p->begun)
		p->begun = item->arrival;
	p->latest = item->arrival;
	switch (item->kind) {
	case CAPTURE_BATCH:
		announce(s, item->arrival);
		round->events += item->batch->events;
		return session_batch(s->session, item->ring, item->batch, item->arrival,
				     item->unverified, item->raised);
	case CAPTURE_SCHEMA:
		take_schema(s, item);
		break;
	case CAPTURE_NAMES:
		session_names(s->session, item->data,
			      (__u32)(item->len / sizeof(struct htrace_name)), item->arrival);
		break;
	case CAPTURE_CLOCK:
		session_clock(s->session, item->data,
			      (__u32)(item->len / sizeof(struct htrace_clock_sample)), item->arrival);
		break;
	case CAPTURE_HOST:
		session_host_clock(s->session, item->data,
				   (__u32)(item->len / sizeof(struct host_word)), item->arrival);
		break;
	case CAPTURE_VM: {
		struct session_vm vm = { 0 };

		memcpy(&vm, item->data, item->len);
		session_vm(s->session, &vm, item->arrival);
		break;
	}
	case CAPTURE_GUEST:
		source_take_guest(s, &p->next.guest, &p->next.clock, item->arrival);
		break;
	case CAPTURE_PLACE:
		take_place(s, item);
		break;
	case CAPTURE_SAID:
		take_said(s, item);
		break;
	case CAPTURE_NOTE: {
		char text[1024];

		take_text(text, sizeof(text), item);
		source_mark(s, item->arrival, "%s", text);
		break;
	}
	case CAPTURE_BEGAN:
		take_began(s, item);
		break;
	case CAPTURE_BROKEN:
		take_broken(s, item);
		break;
	case CAPTURE_END: {
		struct capture_end end;

		memcpy(&end, item->data, sizeof(end));
		p->ended = true;
		end_session(s, &end);
		break;
	}
	}
	return 0;
}

/* May what comes next be taken? Not before that went out which had gone out then. */
static bool let_out(struct source *s, const struct capture_item *item)
{
	bool all = item->asked == UINT64_MAX;

	if (session_emit(s->session, item->asked, all))
		return false;
	/* Live, there was room: else it is not a capture's order, but memory has its limit. */
	if (item->kind == CAPTURE_BATCH && !session_has_room(s->session, item->ring))
		return !session_emit(s->session, item->asked, true);
	return true;
}

static void fail(struct source *s, int ret)
{
	say("%s: %s", s->spec->path, strerror(-ret));
	if (s->session)
		cut_session(s);
	await_session(s, false);
	s->state = SOURCE_FAILED;
}

/* One step. False: enough for this round. */
static bool step(struct source *s, struct source_round *round)
{
	struct replay *p = s->replay;
	int ret;

	if (!s->session) {
		if (p->at == p->nr) {
			await_session(s, false);
			s->state = s->damaged ? SOURCE_FAILED : SOURCE_DONE;
			return false;
		}
		await_session(s, true);
		if (!begin_session(s))
			p->at++;
		return true;
	}
	if (!p->have) {
		ret = capture_reader_next(p->reader, &p->next);
		if (ret <= 0) {
			if (ret)
				fail(s, ret);
			else
				cut_session(s);
			return false;
		}
		if (ret == 2)
			return true; /* but look at the clock */
		p->have = true;
	}
	if (!let_out(s, &p->next.item))
		return false;
	ret = take(s, round);
	if (ret)
		fail(s, ret);
	return !ret && s->session;
}

static void file_round(struct source *s, __u64 now, struct source_round *round)
{
	__u64 until = now + ROUND_NS;

	if (source_emit_ending(s, now)) {
		round->more = true;
		return;
	}
	while (s->state == SOURCE_READING && step(s, round))
		if (clock_now() >= until)
			break;
	round->more |= s->state == SOURCE_READING || s->ending;
}

/* ------------------------------------------------------------------------------------------ the end */

static bool file_finish_some(struct source *s, __u64 now, bool late)
{
	if (!s->replay) /* it could not be opened; others were read */
		return false;
	if (!s->finishing && s->session) {
		s->finishing = true;
		say("%s: stopped before the end of the capture", s->spec->path);
	}
	s->finishing = true;
	await_session(s, false);
	if (source_emit_ending(s, now))
		return true;
	if (s->session)
		cut_session(s);
	return source_emit_ending(s, now);
}

static void file_finish(struct source *s, __u64 now)
{
	file_finish_some(s, now, true);
	session_close(s->ending);
	s->ending = NULL;
	if (s->stats.unwritten)
		say("%s: %" PRIu64 " events that were read could not be written in time",
		    s->spec->path, (uint64_t)s->stats.unwritten);
	if (s->quota.unsaid)
		say("%s: %llu more messages", s->spec->path, s->quota.unsaid);
}

static void file_close(struct source *s)
{
	free_replay(s->replay);
	s->replay = NULL;
}

static bool file_is_reading(const struct source *s)
{
	return false; /* nothing has to be polled for */
}

static __u64 file_due(const struct source *s)
{
	return s->state == SOURCE_READING || s->ending ? 0 : UINT64_MAX;
}

static const char *file_awaits(const struct source *s)
{
	return NULL;
}

const struct source_ops source_file = {
	.open = file_open,
	.begin = file_begin,
	.round = file_round,
	.finish_some = file_finish_some,
	.finish = file_finish,
	.close = file_close,
	.is_reading = file_is_reading,
	.ready = file_is_reading,
	.due = file_due,
	.awaits = file_awaits,
	.attached_ns = file_attached_ns,
};
