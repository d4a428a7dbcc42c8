/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * CTF 1.8 with LTTng's events, for babeltrace2 and Trace Compass. Each session of a source is a
 * trace of its own, a directory in DIR; each ring is a stream in it. No name comes from a guest.
 *
 * What is on disk can be read at any time, also if we are killed in a write: a packet is there or not, and
 * after the declarations of the events in it.
 */
#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#include "clock.h"
#include "ctf_compass.h"
#include "ctf_trace.h"
#include "message.h"
#include "names.h"
#include "options.h"
#include "show.h"

#define COST_SHARE 20 /* what took so long is not done again for so many times as long */

/* --------------------------------------------------------------------------------------- events */

static unsigned int kind_of(const struct sink_event *e)
{
	return (e->unverified ? CTF_UNVERIFIED : 0) | (e->vcpu ? CTF_VCPU : 0);
}

static bool put_decoded(struct ctf *c, struct trace *t, const struct stream *st,
			const struct sink_event *e, __u64 time)
{
	const struct ctf_class *k = ctf_find_class(t->classes, e, st->kind);

	if (!k)
		return false;
	ctf_begin_event(c, e, k->id, time);
	return ctf_add_fields(&c->event, &c->scratch, e, k->layout);
}

static void put_undecoded(struct ctf *c, struct trace *t, const struct stream *st,
			  const struct sink_event *e, __u64 time)
{
	const struct ctf_class *k = ctf_find_raw(t->classes, e, st->kind);

	ctf_begin_event(c, e, k->id, time);
	if (k->id == CTF_UNDECODED)
		ctf_add(&c->event, &e->record->id, 4);
	ctf_add(&c->event, &e->record->len, 4);
	ctf_add(&c->event, e->record->payload, e->record->len);
}

/* ----------------------------------------------------------------------------------- state dump */

struct dump {
	struct ctf *ctf;
	struct stream *stream;
	const struct sink_event *event;
};

static bool dump_task(void *ctx, const struct names_task *task)
{
	const struct dump *d = ctx;

	if (task->tid) /* each CPU's idle task is known to everybody */
		ctf_dump_task(d->ctf, d->stream, d->event, task);
	return !d->ctf->error;
}

static void dump_mark(const struct dump *d, enum ctf_fixed which)
{
	ctf_begin_event(d->ctf, d->event, (__u16)which, d->event->time);
	ctf_end_event(d->ctf, d->stream->trace, d->stream, d->event->time);
}

/* What ran before the trace began, or while events were lost. It happens when @e does. */
static void dump_state(struct ctf *c, struct trace *t, struct stream *st,
		       const struct sink_event *e, __u64 time)
{
	struct sink_event nobody = *e;
	struct dump d = { .ctf = c, .stream = st, .event = &nobody };

	nobody.task_known = false;
	nobody.time = time;
	t->tables = e->from->session->tables;
	dump_mark(&d, CTF_DUMP_START);
	names_each(e->from->names, e->time, dump_task, &d);
	dump_mark(&d, CTF_DUMP_END);
}

/* ----------------------------------------------------------------------------------------- sink */

static void put_note(struct ctf *c, struct trace *t, const struct origin *from, const char *text, __u64 at)
{
	struct stream *st = c->error ? NULL : ctf_find_stream(c, t, from, 0);
	struct sink_event e = { .from = from, .time = at };
	__u64 time;

	if (!st || c->error)
		return;
	time = ctf_stream_time(st->out, at);
	ctf_begin_event(c, &e, CTF_NOTE, time);
	ctf_add_string(&c->event, text, strlen(text));
	ctf_end_event(c, t, st, time);
}

/* The trace of what happens at @at in @from; NULL: there is none. It begins with how its session did. */
static struct trace *find_trace(struct ctf *c, const struct origin *from, __u64 at)
{
	struct trace *t = c->error ? NULL : ctf_find_trace(c, from, at);

	if (!t || c->error || t->told_began)
		return t;
	t->told_began = true;
	if (from->session->began)
		put_note(c, t, from, from->session->began, at);
	return t;
}

static void ctf_event(struct sink *s, const struct sink_event *e)
{
	struct ctf *c = s->state;
	struct trace *t = find_trace(c, e->from, e->time);
	struct stream *st = t && !c->error ? ctf_find_stream(c, t, e->from, kind_of(e)) : NULL;
	__u64 time;

	if (!st || c->error)
		return;
	time = ctf_stream_time(st->out, e->time);
	if (t->tables != e->from->session->tables)
		dump_state(c, t, st, e, time);
	if (t->info.role == CTF_HOST && ctf_compass_host(c, st, e, time)) {
		c->pid = 0;
		return;
	}
	if (t->info.role == CTF_GUEST)
		ctf_compass_guest(c, st, e);
	if (!put_decoded(c, t, st, e, time))
		put_undecoded(c, t, st, e, time);
	ctf_end_event(c, t, st, time);
	c->pid = 0;
}

/* Where events are missing: in the stream of those that came last. */
static struct stream *find_losing(struct ctf *c, struct trace *t, const struct origin *from)
{
	for (struct stream *st = t->streams[from->ring % CTF_STREAM_BUCKETS]; st; st = st->next)
		if (st->from == from && st->kind & CTF_VCPU && !(st->kind & CTF_UNVERIFIED))
			return st;
	return ctf_find_stream(c, t, from, 0);
}

static void ctf_loss(struct sink *s, const struct sink_loss *l)
{
	struct ctf *c = s->state;
	struct trace *t = find_trace(c, l->from, l->time);
	struct stream *st = t && !c->error ? find_losing(c, t, l->from) : NULL;
	__u64 nr = 0;

	if (!st || c->error)
		return;
	if (__builtin_add_overflow(l->overwritten, l->dropped, &nr) ||
	    __builtin_add_overflow(nr, l->corrupt, &nr) ||
	    __builtin_add_overflow(nr, l->unfinished, &nr))
		nr = ~0ULL;
	if (!nr) /* CTF counts events; bytes that were never committed have no place in it */
		return;
	ctf_publish(c, t);
	if (!c->error)
		ctf_fail(c, ctf_stream_lose(st->out, t->begin, l->time, nr));
}

/* That a session began is told when it has a trace, of which this is not known yet. */
static void ctf_note(struct sink *s, const struct sink_note *n)
{
	struct ctf *c = s->state;
	struct trace *t = n->from ? find_trace(c, n->from, n->time) : NULL;

	if (t)
		put_note(c, t, n->from, n->text, n->time);
}

/*
 * What the file says of how far times may be off holds for those that are in it. That takes all of it anew: a
 * guest that has it large, and its clock ever worse, makes that rare. @end: the last time.
 */
static bool renew_bound(struct trace *t, __u64 now, bool end)
{
	const __u64 *bound = t->info.session->bound;

	if (!bound || *bound == t->bound || (now < t->bound_next && !end))
		return false;
	t->bound = *bound;
	ctf_classes_renew_head(t->classes);
	t->head = 0;
	return true;
}

static void flush_trace(struct ctf *c, struct trace *t, bool end)
{
	__u64 start = clock_now(), done;
	bool renewed = renew_bound(t, start, end);

	ctf_publish(c, t);
	done = clock_now();
	if (renewed)
		t->bound_next = done + COST_SHARE * (done - start);
	for (size_t i = 0; i < CTF_STREAM_BUCKETS; i++)
		for (struct stream *st = t->streams[i]; st && !c->error; st = st->next)
			ctf_fail(c, ctf_stream_flush(st->out));
}

static void ctf_flush(struct sink *s)
{
	struct ctf *c = s->state;

	for (struct trace *t = c->traces; t; t = t->next)
		flush_trace(c, t, false);
}

static void ctf_session_end(struct sink *s, const struct sink_session *session)
{
	struct ctf *c = s->state;

	for (struct trace **at = &c->traces; *at; at = &(*at)->next) {
		struct trace *t = *at;

		if (t->info.session != session)
			continue;
		flush_trace(c, t, true);
		*at = t->next;
		if (c->compass)
			ctf_compass_end(c, t);
		ctf_free_trace(c, t);
		return;
	}
}

/* What the options leave for ctf_open(), in place of the state that it makes. */
static char for_compass[1];

static int ctf_options(struct sink *s, char *text, const char *spec)
{
	const char *option;

	while ((option = options_cut(&text)) != NULL) {
		if (strcmp(option, "trace-compass") != 0) {
			say("unknown option '%s' in output '%s'; there is trace-compass; a comma of the path itself is "
			    "doubled", option, spec);
			return -EINVAL;
		}
		s->state = for_compass;
	}
	return 0;
}

static int ctf_open(struct sink *s)
{
	struct ctf *c = calloc(1, sizeof(*c));
	int ret = c ? 0 : -ENOMEM;

	if (c && s->state == for_compass) {
		c->compass = ctf_compass_new();
		ret = c->compass ? 0 : -ENOMEM;
	}
	if (!ret)
		ret = outdir_open(&c->dir, s->path);
	if (ret && c)
		ctf_compass_free(c->compass);
	if (ret)
		free(c);
	else
		s->state = c;
	return ret;
}

/* A file per ring is open: there may be as many as the system lets us have. */
static int ctf_begin(struct sink *s)
{
	struct rlimit l;

	if (!getrlimit(RLIMIT_NOFILE, &l)) {
		l.rlim_cur = l.rlim_max;
		setrlimit(RLIMIT_NOFILE, &l);
	}
	return 0;
}

static int ctf_error(const struct sink *s)
{
	const struct ctf *c = s->state;

	return c->error;
}

static int close_all(struct ctf *c)
{
	int error;

	ctf_event_free(&c->event);
	ctf_event_free(&c->scratch);
	ctf_compass_free(c->compass);
	error = c->error;
	free(c);
	return -error;
}

static int ctf_close(struct sink *s)
{
	struct ctf *c = s->state;

	while (c->traces)
		ctf_session_end(s, c->traces->info.session);
	outdir_close(&c->dir);
	return close_all(c);
}

static void ctf_abandon(struct sink *s)
{
	struct ctf *c = s->state;

	outdir_abandon(&c->dir, s->path);
	close_all(c);
}

const struct sink_ops sink_ctf = {
	.name = "ctf",
	.options = ctf_options,
	.open = ctf_open,
	.abandon = ctf_abandon,
	.begin = ctf_begin,
	.flush = ctf_flush,
	.error = ctf_error,
	.close = ctf_close,
	.event = ctf_event,
	.loss = ctf_loss,
	.note = ctf_note,
	.session_end = ctf_session_end,
};
