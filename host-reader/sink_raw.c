/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* raw:DIR, the capture: all that is read, as it is, a directory for each session. */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "capture_span.h"
#include "options.h"
#include "outdir.h"
#include "sink.h"

struct raw_session {
	struct raw_session *next;
	const struct sink_session *session;
	struct capture_writer *writer;
};

struct raw {
	struct outdir dir;
	struct raw_session *sessions; /* that go on */
	unsigned int nr[MAX_SOURCES]; /* sessions of each source so far */
	struct capture_lender *lender;
	int error;                    /* -errno: the first one; nothing is written any more */
};

static int raw_open(struct sink *s)
{
	struct raw *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return -ENOMEM;
	ret = capture_lender_new(&r->lender);
	if (!ret)
		ret = outdir_open(&r->dir, s->path);
	if (ret) {
		capture_lender_free(r->lender);
		free(r);
		return ret;
	}
	s->state = r;
	return 0;
}

static void raw_abandon(struct sink *s)
{
	struct raw *r = s->state;

	outdir_abandon(&r->dir, s->path);
	capture_lender_free(r->lender);
	free(r);
}

static int raw_begin(struct sink *s)
{
	allow_many_files();
	return 0;
}

static void note_error(struct raw *r, int ret)
{
	if (ret < 0 && !r->error)
		r->error = ret;
}

static void flush(struct raw *r, struct raw_session *rs)
{
	if (!r->error)
		note_error(r, capture_writer_flush(rs->writer));
}

static void raw_flush(struct sink *s)
{
	struct raw *r = s->state;

	for (struct raw_session *rs = r->sessions; rs; rs = rs->next)
		flush(r, rs);
}

static int raw_error(const struct sink *s)
{
	const struct raw *r = s->state;

	return -r->error;
}

static struct raw_session **find(struct raw *r, const struct sink_session *session)
{
	struct raw_session **at = &r->sessions;

	while (*at && (*at)->session != session)
		at = &(*at)->next;
	return at;
}

static struct raw_session *begin_session(struct raw *r, const struct sink_session *session)
{
	struct raw_session *rs = calloc(1, sizeof(*rs));
	int ret = -ENOMEM;

	if (rs)
		ret = capture_writer_new(&rs->writer, r->dir.fd,
					 ++r->nr[session->source_nr % MAX_SOURCES], session);
	if (ret) {
		note_error(r, ret);
		free(rs);
		return NULL;
	}
	rs->session = session;
	rs->next = r->sessions;
	r->sessions = rs;
	return rs;
}

/* The session's writer; NULL: nothing is written any more. */
static struct capture_writer *writer_of(struct raw *r, const struct sink_session *session)
{
	struct raw_session *rs = *find(r, session);

	if (!rs && !r->error)
		rs = begin_session(r, session);
	return rs && !r->error ? rs->writer : NULL;
}

static void raw_captured(struct sink *s, const struct sink_session *session,
			 const struct capture_item *item)
{
	struct raw *r = s->state;
	struct capture_writer *w = writer_of(r, session);

	if (w)
		note_error(r, capture_writer_take(w, item));
}

static bool raw_lend(struct sink *s, const struct sink_session *session,
		     const struct capture_item *item, const struct capture_loan *loan)
{
	struct raw *r = s->state;
	struct capture_writer *w = writer_of(r, session);
	int ret = w ? capture_writer_lend(w, r->lender, item, loan) : 0;

	note_error(r, ret);
	return ret == 1;
}

static const char *raw_lends_by(const struct sink *s)
{
	const struct raw *r = s->state;

	return capture_lender_is_async(r->lender) ? "io_uring" : "ordinary writes";
}

static __u64 raw_unwritten(struct sink *s, const struct sink_session *session, unsigned int ring)
{
	struct raw *r = s->state;
	const struct raw_session *rs = *find(r, session);

	return rs ? capture_writer_unwritten(rs->writer, ring, r->error) : r->error ? 0 : ~0ULL;
}

static bool raw_take_back(struct sink *s, bool all)
{
	struct raw *r = s->state;

	if (all)
		raw_flush(s);
	note_error(r, capture_lender_take_back(r->lender, all));
	return !r->error;
}

static void end_session(struct raw *r, struct raw_session **at)
{
	struct raw_session *rs = *at;

	flush(r, rs);
	*at = rs->next;
	capture_writer_free(rs->writer);
	free(rs);
}

static void raw_session_end(struct sink *s, const struct sink_session *session)
{
	struct raw *r = s->state;
	struct raw_session **at = find(r, session);

	if (*at)
		end_session(r, at);
}

static int raw_close(struct sink *s)
{
	struct raw *r = s->state;
	int ret;

	while (r->sessions)
		end_session(r, &r->sessions);
	ret = r->error;
	outdir_close(&r->dir);
	capture_lender_free(r->lender);
	free(r);
	return ret;
}

const struct sink_ops sink_raw = {
	.name = "raw",
	.open = raw_open,
	.abandon = raw_abandon,
	.begin = raw_begin,
	.flush = raw_flush,
	.error = raw_error,
	.close = raw_close,
	.captured = raw_captured,
	.lend = raw_lend,
	.lends_by = raw_lends_by,
	.take_back = raw_take_back,
	.unwritten = raw_unwritten,
	.session_end = raw_session_end,
};
