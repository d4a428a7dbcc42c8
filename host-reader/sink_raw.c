/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* raw:DIR, the capture: all that is read, as it is, a directory for each session. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "capture_span.h"
#include "clock.h"
#include "message.h"
#include "options.h"
#include "outdir.h"
#include "capture_pack.h"
#include "rotation.h"
#include "session.h"
#include "sink.h"

#define PACKET (sizeof(struct capture_packet) + sizeof(struct capture_tail) + sizeof(struct capture_batch))

struct raw_session {
	struct raw_session *next;
	const struct sink_session *session;
	struct capture_writer *writer;
	unsigned int nr, part; /* in the directory's name */
	__u64 begun;           /* the part */
	__u64 size;            /* about */
	bool filled;           /* there is more in it than what it begins with */
	struct lasting lasting;
};

struct raw {
	struct outdir dir;
	struct raw_session *sessions; /* that go on */
	unsigned int nr_sessions;     /* of these */
	struct rotation rotation;
	struct parts parts;
	unsigned int nr[MAX_SOURCES]; /* sessions of each source so far */
	struct capture_lender *lender;
	int error;                    /* -errno: the first one; nothing is written any more */
};

/* Does the file system write past the page cache? */
static bool takes_direct(const struct outdir *d)
{
	static const char name[] = ".direct";
	int fd = openat(d->fd, name, O_WRONLY | O_CREAT | O_EXCL | O_DIRECT | O_CLOEXEC, 0600);

	if (fd >= 0)
		close(fd);
	unlinkat(d->fd, name, 0); /* some make the file, and then refuse */
	return fd >= 0;
}

static int raw_open(struct sink *s)
{
	struct raw *r = calloc(1, sizeof(*r));
	int ret;

	if (!r)
		return -ENOMEM;
	ret = capture_lender_new(&r->lender);
	if (!ret)
		ret = outdir_open(&r->dir, s->path);
	if (!ret && s->rotation.pack) {
		ret = packer_new(&r->parts.packer, r->dir.fd);
		if (ret)
			outdir_abandon(&r->dir, s->path);
	}
	if (ret == -ENOTSUP)
		say("output '%s': this host-reader was built without libzstd", s->path);
	if (ret) {
		capture_lender_free(r->lender);
		free(r);
		return ret;
	}
	r->rotation = s->rotation;
	if (r->rotation.direct && !takes_direct(&r->dir)) {
		say("%s: its file system does not write past the page cache; its captures are written the usual way",
		    s->path);
		r->rotation.direct = false;
	}
	s->state = r;
	return 0;
}

static int raw_options(struct sink *s, char *text, const char *spec)
{
	return rotation_parse(&s->rotation, text, spec);
}

static void raw_abandon(struct sink *s)
{
	struct raw *r = s->state;

	parts_free(&r->parts);
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
	parts_pack(&r->parts);
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

static void part_name(const struct raw_session *rs, char *name)
{
	capture_dir_name(name, rs->session->source_nr + 1, rs->nr, rs->part);
}

/* Of a part: so that with those of all that go on, half of what is kept is left to complete ones. */
static __u64 most_bytes(const struct raw *r)
{
	__u64 share = r->rotation.keep / (2 * (r->nr_sessions ? r->nr_sessions : 1));

	return share && (!r->rotation.bytes || share < r->rotation.bytes) ? share : r->rotation.bytes;
}

#define AHEAD (64u << 20)
#define LEAST_AHEAD (1u << 20) /* less is not worth a call */

/* Of parts an eighth at most, for all of their files. */
static __u64 ahead(const struct raw *r, const struct sink_session *s)
{
	unsigned int rings = session_facts_rings(&s->facts);
	__u64 share = most_bytes(r) / 8 / (rings ? rings : 1);

	if (!most_bytes(r))
		return AHEAD;
	return share < LEAST_AHEAD ? 0 : share < AHEAD ? share : AHEAD;
}

static int begin_part(struct raw *r, struct raw_session *rs)
{
	const struct capture_way way = { .direct = r->rotation.direct, .ahead = ahead(r, rs->session) };
	char name[CAPTURE_NAME];

	rs->part++;
	rs->begun = clock_now();
	rs->size = 0;
	rs->filled = false;
	part_name(rs, name);
	return capture_writer_new(&rs->writer, r->dir.fd, name, &way, rs->session);
}

static struct raw_session *begin_session(struct raw *r, const struct sink_session *session)
{
	struct raw_session *rs = calloc(1, sizeof(*rs));
	int ret = -ENOMEM;

	if (rs) {
		rs->session = session;
		rs->nr = ++r->nr[session->source_nr % MAX_SOURCES];
		ret = begin_part(r, rs);
	}
	if (ret) {
		note_error(r, ret);
		free(rs);
		return NULL;
	}
	rs->next = r->sessions;
	r->sessions = rs;
	r->nr_sessions++;
	return rs;
}

/* ------------------------------------------------------------------------------------- rotation */

/* Of complete ones: the rest is for those that go on, and for what one of them is packed to, beside it. */
static __u64 most_kept(const struct raw *r)
{
	return r->rotation.keep - most_bytes(r) * (r->nr_sessions + r->rotation.pack);
}

/* It is complete; the oldest make room for what is to come. */
static void end_part(struct raw *r, struct raw_session *rs)
{
	char name[CAPTURE_NAME];

	part_name(rs, name);
	if (!rotates(&r->rotation))
		return;
	capture_writer_trim(rs->writer);
	note_error(r, parts_add(&r->parts, name, capture_writer_size(rs->writer)));
	if (r->rotation.keep)
		note_error(r, parts_delete(&r->parts, r->dir.fd, most_kept(r)));
	parts_pack(&r->parts);
}

static int rotate(struct raw *r, struct raw_session *rs)
{
	struct capture_end end = { .attached_ns = clock_now() - rs->begun };
	struct capture_item last = {
		.kind = CAPTURE_END, .arrival = clock_now(), .data = &end, .len = sizeof(end),
	};
	int ret = capture_lender_take_back(r->lender, TAKE_BACK_ALL);

	if (!ret)
		ret = capture_writer_flush(rs->writer);
	if (!ret)
		ret = capture_writer_take(rs->writer, &last);
	if (ret)
		return ret;
	end_part(r, rs);
	capture_writer_free(rs->writer);
	rs->writer = NULL;
	ret = begin_part(r, rs);
	for (unsigned int kind = 0; kind < LASTING_KINDS && !ret; kind++)
		if (rs->lasting.said[kind].data)
			ret = capture_writer_take(rs->writer, &rs->lasting.said[kind].item);
	return ret;
}

/* Before @more bytes come: is it time for another part? */
static void rotate_if_due(struct raw *r, struct raw_session *rs, __u64 more)
{
	__u64 most = most_bytes(r);

	if (!rotates(&r->rotation) || r->error)
		return;
	rs->size += more;
	if (most && rs->size >= most - most / 8) /* about: now it is worth adding it up */
		rs->size = capture_writer_size(rs->writer) + more;
	if (rs->filled && ((most && rs->size >= most - most / 16) ||
			   (r->rotation.ns && clock_now() - rs->begun >= r->rotation.ns)))
		note_error(r, rotate(r, rs));
	rs->filled = true;
}

/* The session's writer, for @item; NULL: nothing is written any more. */
static struct capture_writer *writer_of(struct raw *r, const struct sink_session *session,
					const struct capture_item *item)
{
	struct raw_session *rs = *find(r, session);

	if (!rs && !r->error)
		rs = begin_session(r, session);
	if (rs && item->kind == CAPTURE_BATCH)
		rotate_if_due(r, rs, item->batch->len + PACKET);
	else if (rs && rotates(&r->rotation))
		note_error(r, lasting_keep(&rs->lasting, item));
	return rs && !r->error ? rs->writer : NULL;
}

static void raw_captured(struct sink *s, const struct sink_session *session,
			 const struct capture_item *item)
{
	struct raw *r = s->state;
	struct capture_writer *w = writer_of(r, session, item);

	if (w)
		note_error(r, capture_writer_take(w, item));
}

static bool raw_lend(struct sink *s, const struct sink_session *session,
		     const struct capture_item *item, const struct capture_loan *loan)
{
	struct raw *r = s->state;
	struct capture_writer *w = writer_of(r, session, item);
	int ret = w ? capture_writer_lend(w, r->lender, item, loan) : 0;

	note_error(r, ret);
	return ret == 1;
}

static const char *raw_lends_by(const struct sink *s)
{
	const struct raw *r = s->state;

	if (capture_lender_is_async(r->lender))
		return r->rotation.direct ? "io_uring, past the page cache" : "io_uring";
	return r->rotation.direct ? "ordinary writes, past the page cache" : "ordinary writes";
}

static __u64 raw_unwritten(struct sink *s, const struct sink_session *session, unsigned int ring)
{
	struct raw *r = s->state;
	const struct raw_session *rs = *find(r, session);

	return rs && rs->writer ? capture_writer_unwritten(rs->writer, ring, r->error) : r->error ? 0 : ~0ULL;
}

static bool raw_take_back(struct sink *s, enum take_back how)
{
	struct raw *r = s->state;

	if (how == TAKE_BACK_ALL)
		raw_flush(s);
	note_error(r, capture_lender_take_back(r->lender, how));
	return !r->error;
}

static void end_session(struct raw *r, struct raw_session **at)
{
	struct raw_session *rs = *at;

	flush(r, rs);
	*at = rs->next;
	r->nr_sessions--;
	if (rs->writer)
		end_part(r, rs);
	capture_writer_free(rs->writer);
	lasting_free(&rs->lasting);
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
	parts_free(&r->parts);
	outdir_close(&r->dir);
	capture_lender_free(r->lender);
	free(r);
	return ret;
}

const struct sink_ops sink_raw = {
	.name = "raw",
	.options = raw_options,
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
