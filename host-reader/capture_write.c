/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "capture_writer.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "clock.h"
#include "outdir.h"
#include "session.h"

#define PAGE 4096u
#define REPLACE_BYTES (256u << 10)

/* --------------------------------------------------------------------------------- the metadata */

/* A new file in the place of the old one, all at once. */
static int replace_metadata(struct capture_writer *w)
{
	const struct tsdl *t = &w->metadata.text;
	int ret, fd = openat(w->dir, ".metadata", O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);

	if (fd < 0)
		return -errno;
	ret = outdir_write(fd, t->p, t->len);
	if (!ret && renameat(w->dir, ".metadata", w->dir, "metadata"))
		ret = -errno;
	if (ret) {
		unlinkat(w->dir, ".metadata", 0);
		close(fd);
		return ret;
	}
	if (w->metadata_fd >= 0)
		close(w->metadata_fd);
	w->metadata_fd = fd;
	w->metadata_size = w->metadata_written = t->len;
	w->metadata_anew = false;
	return 0;
}

/*
 * What does not cross a page is written whole or not at all, even if we are killed; so a reader of
 * the file never sees half a declaration. What does is worth a new file, unless that costs too much.
 */
static int append_metadata(struct capture_writer *w)
{
	const struct tsdl *t = &w->metadata.text;
	size_t len = t->len - w->metadata_written, room = PAGE - w->metadata_size % PAGE;
	char lines[PAGE];
	int ret = 0;

	if (len > PAGE && t->len <= REPLACE_BYTES)
		return replace_metadata(w);
	if (len > room && len <= PAGE) {
		memset(lines, ' ', room - 1);
		lines[room - 1] = '\n';
		ret = outdir_write(w->metadata_fd, lines, room);
		w->metadata_size += room;
	}
	if (!ret)
		ret = outdir_write(w->metadata_fd, t->p + w->metadata_written, len);
	if (ret && ftruncate(w->metadata_fd, (off_t)w->metadata_size))
		return -errno;
	w->metadata_size += len;
	w->metadata_written = t->len;
	return ret;
}

/* Before any packet that needs it. */
int capture_writer_declare(struct capture_writer *w)
{
	if (w->metadata_anew)
		return replace_metadata(w);
	return w->metadata_written < w->metadata.text.len ? append_metadata(w) : 0;
}

static int renew_metadata(struct capture_writer *w)
{
	capture_metadata_begin(&w->metadata, w->session);
	w->metadata_anew = true;
	return capture_writer_declare(w);
}

/* ---------------------------------------------------------------------------------- the journal */

static int write_entry(struct capture_writer *w, __u32 kind, const struct capture_item *item,
		       const void *first, size_t first_len, const void *second, size_t second_len)
{
	static const __u64 zero;
	struct capture_entry e = {
		.kind = kind,
		.len = (__u32)(first_len + second_len),
		.ordinal = w->ordinal++,
		.arrival = item->arrival,
		.asked = item->asked,
	};
	struct iovec v[4] = {
		{ &e, sizeof(e) },
		{ (void *)first, first_len },
		{ (void *)second, second_len },
		{ (void *)&zero, -(first_len + second_len) & 7 },
	};
	size_t total = sizeof(e) + first_len + second_len + v[3].iov_len;
	ssize_t n;

	do
		n = writev(w->journal, v, 4);
	while (n < 0 && errno == EINTR);
	if (n == (ssize_t)total) {
		w->journal_size += total;
		return 0;
	}
	n = n < 0 ? -errno : -ENOSPC; /* a file is written in part only if there is no more room */
	if (ftruncate(w->journal, (off_t)w->journal_size))
		return -errno;
	return (int)n;
}

static __u64 real_now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_REALTIME, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

static int begin_journal(struct capture_writer *w)
{
	struct capture_journal head = {
		.magic = CAPTURE_MAGIC, .version = CAPTURE_VERSION, .size = sizeof(head),
	};
	const struct session_facts *f = &w->session->facts;
	struct capture_item item = { .arrival = clock_now() };
	struct capture_start start = {
		.session = f->session,
		.begun_real = real_now(),
		.begun_mono = item.arrival,
		.clock_id = f->clock_id,
		.nr_cpus = f->nr_cpus,
		.facts = (f->local ? CAPTURE_IS_LOCAL : 0) | (f->host ? CAPTURE_IS_HOST : 0),
		.nr_sets = f->nr_sets,
	};
	const char *path = w->session->path;
	int side = outdir_make(w->dir, CAPTURE_SIDE), ret;

	if (side < 0)
		return side;
	w->journal = outdir_create(side, CAPTURE_JOURNAL);
	close(side);
	if (w->journal < 0)
		return w->journal;
	ret = outdir_write(w->journal, &head, sizeof(head));
	if (ret)
		return ret;
	w->journal_size = sizeof(head);
	memcpy(start.boot_id, f->boot_id, sizeof(start.boot_id));
	memcpy(start.uuid, w->metadata.uuid, sizeof(start.uuid));
	memcpy(start.set, f->set, sizeof(start.set));
	return write_entry(w, CAPTURE_START, &item, &start, sizeof(start), path,
			   strnlen(path, PAGE));
}

/* Programs only if something about them is new: there can be many, and their counts rarely move. */
static int take_guest(struct capture_writer *w, const struct capture_item *item)
{
	const struct htrace_guest *g = item->data;
	size_t head = offsetof(struct htrace_guest, clock);
	struct {
		unsigned char fixed[offsetof(struct htrace_guest, clock)];
		struct capture_guest more;
	} words;
	__u32 nr = g->nr_progs < HTRACE_MAX_PROGS ? g->nr_progs : HTRACE_MAX_PROGS;
	bool progs = nr != w->guest.nr_progs ||
		     memcmp(g->prog, w->guest.prog, nr * sizeof(*g->prog)) != 0;
	int ret;

	if (!progs && !memcmp(g, &w->guest, head))
		return 0;
	w->guest = *g;
	w->guest.nr_progs = nr;
	memcpy(words.fixed, &w->guest, head);
	words.more.clock = w->session->clock;
	ret = write_entry(w, item->kind, item, &words, sizeof(words), g->prog,
			  progs ? nr * sizeof(*g->prog) : 0);
	if (ret || w->clocked || !w->session->clock.mono)
		return ret;
	w->clocked = true; /* now we know who it is and what time it has */
	return renew_metadata(w);
}

static int take_schema(struct capture_writer *w, const struct capture_item *item)
{
	struct capture_schema head = { .generation = item->generation };
	int ret = write_entry(w, item->kind, item, &head, sizeof(head), item->data, item->len);

	memset(w->foresight, 0, sizeof(w->foresight));
	return ret ? ret : renew_metadata(w);
}

/* What ticks are is known better with more samples: said again each time that there are twice as many. */
static int describe_clock(struct capture_writer *w, bool last)
{
	struct htrace_clock_line line = { .sz = sizeof(line) };

	if (!w->clock || htrace_clock_get_line(w->clock, &line) ||
	    (!last && line.used < w->next_line))
		return 0;
	w->next_line = 2 * line.used;
	capture_metadata_clock(&w->metadata, &line);
	return renew_metadata(w);
}

static int take_clock(struct capture_writer *w, const struct capture_item *item)
{
	const struct htrace_clock_sample *s = item->data;
	int ret = write_entry(w, item->kind, item, item->data, item->len, NULL, 0);

	if (ret)
		return ret;
	for (size_t i = 0; i < item->len / sizeof(*s); i++)
		htrace_clock_add(w->clock, &s[i]);
	return describe_clock(w, false);
}

static int take_end(struct capture_writer *w, const struct capture_item *item)
{
	int ret = write_entry(w, item->kind, item, item->data, item->len, NULL, 0);

	return ret ? ret : describe_clock(w, true);
}

static int take_broken(struct capture_writer *w, const struct capture_item *item)
{
	struct capture_broken head = { .ring = item->ring };

	return write_entry(w, item->kind, item, &head, sizeof(head), item->data, item->len);
}

/* ---------------------------------------------------------------------------------- the records */

/* What is being cut off a batch: records of one kind that one base and header suffice for. */
struct cut {
	const struct capture_item *item;
	struct captured_ring *ring;
	unsigned char *data; /* the batch's, or our copy */
	size_t odd_len;
	__u32 from;
	__u32 kind; /* bits of the stream class */
	__u32 raised;
	__u32 unused; /* of the last record */
	__u64 base, begin, end;
	bool begun, any;
};

static __u64 ctf_time(__u64 time)
{
	return time < CAPTURE_TIME_MAX ? time : CAPTURE_TIME_MAX;
}

__u32 capture_writer_stream_id(const struct capture_writer *w, const struct captured_ring *r, __u32 kind)
{
	bool cpu = w->session->facts.set[r->set].kind == HTRACE_RING_PER_CPU;

	return cpu ? kind : kind | CAPTURE_BY_THREAD;
}

int capture_writer_open_stream(struct capture_writer *w, struct captured_ring *r, __u32 kind)
{
	__u32 id = capture_writer_stream_id(w, r, kind);
	char name[CAPTURE_NAME];
	int err = 0;

	if (r->stream[kind])
		return 0;
	capture_metadata_add_stream(&w->metadata, id);
	capture_stream_name(name, &w->session->facts, r->set, r->index, kind);
	r->stream[kind] = capture_stream_new(w->dir, name, id, r->index, w->metadata.uuid,
					     &w->way, &err);
	return r->stream[kind] ? 0 : err;
}

/* Some of it was packed in the ring: where of that its records were, but for the first, is not known. */
static bool was_packed(const struct htrace_batch *b)
{
	return b->end > b->pos && b->end - b->pos < b->len;
}

static __u64 behind(const struct htrace_batch *b)
{
	return was_packed(b) ? b->end : b->pos + b->len;
}

/* What was cut so far, up to @to, goes its way. */
static int end_cut(struct capture_writer *w, struct cut *c, __u32 to)
{
	const struct htrace_batch *b = c->item->batch;
	struct capture_run run = {
		.data = c->kind & CAPTURE_ODD ? w->odd : c->data ? c->data + c->from : NULL, /* loss alone has none */
		.len = c->kind & CAPTURE_ODD ? (__u32)c->odd_len : to - c->from,
		.position = was_packed(b) ? b->pos : b->pos + c->from,
		.behind = to == b->len ? behind(b) : was_packed(b) ? b->pos : b->pos + to,
		.base = c->base,
		.begin = ctf_time(c->begin),
		.end = ctf_time(c->end),
		.schema = b->schema,
		.how = {
			.ordinal = w->ordinal++,
			.arrival = c->item->arrival,
			.asked = c->item->asked,
			.raised = c->raised,
		},
	};
	int ret;

	run.how.len = run.len;
	if (run.len)
		run.unused = c->unused;
	if (!c->any) { /* loss lies before the first record */
		run.overwritten = b->overwritten;
		run.dropped = b->dropped;
		run.corrupt = b->corrupt;
		run.unfinished = b->unfinished;
		run.uncommitted = b->uncommitted;
		run.before = b->before;
		run.how.raised += c->item->raised;
	}
	c->any = true;
	c->begun = false;
	c->raised = 0;
	c->odd_len = 0;
	ret = capture_writer_open_stream(w, c->ring, c->kind);
	if (!ret)
		ret = capture_writer_declare(w);
	return ret ? ret : capture_stream_add(c->ring->stream[c->kind], &run);
}

/* Times of the short form are within so much of their base. */
static bool base_reaches(__u64 base, __u64 time)
{
	return time - base + (1ULL << 31) < 1ULL << 32;
}

static bool must_end(const struct cut *c, __u32 kind, bool extended, __u64 time)
{
	return kind != c->kind || c->odd_len > CAPTURE_BODY_MAX / 2 ||
	       time - c->end >= 1ULL << 32 || (!extended && !base_reaches(c->base, time));
}

static void begin_cut(struct cut *c, __u32 from, __u32 kind, bool extended, __u64 time)
{
	c->begun = true;
	c->from = from;
	c->kind = kind;
	c->base = c->item->batch->base;
	if (!extended && !base_reaches(c->base, time))
		c->base = time;
	c->begin = time;
}

static bool grow(unsigned char **p, size_t *room, size_t len)
{
	unsigned char *more;

	if (len <= *room)
		return true;
	more = realloc(*p, 2 * len);
	if (!more)
		return false;
	*p = more;
	*room = 2 * len;
	return true;
}

/*
 * A time that steps back would look to readers of CTF like one of 4 s later: the record gets the
 * time of the one before, which is what the reader makes of it anyway.
 */
static bool raise_time(struct capture_writer *w, struct cut *c, __u32 at, bool extended, __u64 time)
{
	const struct htrace_batch *b = c->item->batch;
	__u32 low = (__u32)time;

	if (c->data != w->copy || !w->copy) {
		if (!grow(&w->copy, &w->copy_room, b->len))
			return false;
		memcpy(w->copy, b->data, b->len);
		c->data = w->copy;
	}
	memcpy(c->data + at + 4, &low, 4);
	if (extended)
		memcpy(c->data + at + 8, &time, 8);
	c->raised++;
	return true;
}

static bool add_odd(struct capture_writer *w, struct cut *c, const struct htrace_record *rec,
		    __u64 time, __u16 flags)
{
	struct capture_odd odd = {
		.timestamp = ctf_time(time), .time = time, .id = (__u16)rec->id, .flags = flags,
		.len = rec->len,
	};

	if (!grow(&w->odd, &w->odd_room, c->odd_len + sizeof(odd) + rec->len))
		return false;
	memcpy(w->odd + c->odd_len, &odd, sizeof(odd));
	memcpy(w->odd + c->odd_len + sizeof(odd), rec->payload, rec->len);
	c->odd_len += sizeof(odd) + rec->len;
	return true;
}

static int take_record(struct capture_writer *w, struct cut *c, __u32 at,
		       const struct htrace_record *rec)
{
	__u64 head = *(const __u64 *)(c->item->batch->data + at), time = rec->time;
	bool extended = head >> 16 & HTRACE_REC_EXTENDED, raise = time < c->ring->time;
	__u32 kind = c->item->unverified ? CAPTURE_UNVERIFIED : 0;
	const struct capture_class *class = NULL;
	int ret = 0;

	if (raise)
		time = c->ring->time;
	if (time <= CAPTURE_TIME_MAX)
		class = capture_metadata_class(&w->metadata, w->session,
					       capture_writer_stream_id(w, c->ring, kind), (__u32)head);
	if (!class)
		kind |= CAPTURE_ODD;
	if (c->begun && (must_end(c, kind, extended, time) || at - c->from > CAPTURE_BODY_MAX / 2))
		ret = end_cut(w, c, at);
	if (ret)
		return ret;
	if (!c->begun)
		begin_cut(c, at, kind, extended, time);
	if (raise && !raise_time(w, c, at, extended, time))
		return -ENOMEM;
	if (kind & CAPTURE_ODD &&
	    !add_odd(w, c, rec, time, (__u16)(head >> 16 & HTRACE_REC_FLAGS)))
		return -ENOMEM;
	c->unused = class ? class->unused : 0;
	c->end = c->ring->time = time;
	if (time > w->latest)
		w->latest = time;
	return 0;
}

static int take_batch(struct capture_writer *w, const struct capture_item *item)
{
	const struct htrace_batch *b = item->batch;
	struct captured_ring *r = &w->ring[item->ring];
	struct cut c = { .item = item, .ring = r, .data = (unsigned char *)b->data };
	struct htrace_record rec;
	struct htrace_iter it;
	__u32 at = 0;
	int ret = 0;

	htrace_iter_init(&it, b);
	while (!ret && htrace_iter_next(&it, &rec)) {
		ret = take_record(w, &c, at, &rec);
		at = it.off;
	}
	if (ret)
		return ret;
	if (!c.begun) { /* nothing but loss, after what came last */
		if (!r->time)
			r->time = w->latest;
		c.begin = c.end = r->time;
		c.base = b->base;
		c.kind = item->unverified ? CAPTURE_UNVERIFIED : 0;
	}
	ret = end_cut(w, &c, at);
	if (!ret)
		r->taken = behind(b);
	return ret;
}

/* ---------------------------------------------------------------------------------- the session */

static void list_rings(struct capture_writer *w)
{
	const struct session_facts *f = &w->session->facts;

	for (__u32 set = 0; set < f->nr_sets; set++)
		for (__u32 i = 0; i < f->set[set].nr_rings; i++) {
			w->ring[w->nr_rings].set = set;
			w->ring[w->nr_rings++].index = i;
		}
}

int capture_writer_new(struct capture_writer **out, int dir, const char *name, const struct capture_way *way,
		       const struct sink_session *s)
{
	unsigned int rings = session_facts_rings(&s->facts);
	struct capture_writer *w = calloc(1, sizeof(*w) + rings * sizeof(*w->ring));
	int ret;

	if (!w)
		return -ENOMEM;
	w->session = s;
	w->way = *way;
	w->way.direct &= s->lends; /* copies take the usual way */
	w->journal = w->metadata_fd = -1;
	list_rings(w);
	if (getrandom(w->metadata.uuid, 16, 0) != 16)
		memcpy(w->metadata.uuid, s->facts.boot_id, 16);
	ret = w->dir = outdir_make(dir, name);
	if (ret >= 0 && s->facts.clock_id != HTRACE_CLOCK_MONOTONIC)
		ret = htrace_clock_new(&w->clock, s->facts.clock_id);
	if (ret >= 0)
		ret = renew_metadata(w);
	if (!ret)
		ret = begin_journal(w);
	if (ret) {
		capture_writer_free(w);
		return ret;
	}
	*out = w;
	return 0;
}

int capture_writer_take(struct capture_writer *w, const struct capture_item *item)
{
	switch (item->kind) {
	case CAPTURE_BATCH:
		return take_batch(w, item);
	case CAPTURE_SCHEMA:
		return take_schema(w, item);
	case CAPTURE_GUEST:
		return take_guest(w, item);
	case CAPTURE_BROKEN:
		return take_broken(w, item);
	case CAPTURE_CLOCK:
		return w->clock ? take_clock(w, item) : 0;
	case CAPTURE_END:
		return take_end(w, item);
	default:
		return write_entry(w, item->kind, item, item->data, item->len, NULL, 0);
	}
}

int capture_writer_flush(struct capture_writer *w)
{
	int ret = 0;

	for (__u32 i = 0; i < w->nr_rings; i++)
		for (__u32 kind = 0; kind < CAPTURE_KINDS && !ret; kind++)
			if (w->ring[i].stream[kind])
				ret = capture_stream_flush(w->ring[i].stream[kind]);
	return ret;
}

__u64 capture_writer_size(const struct capture_writer *w)
{
	__u64 size = w->journal_size + w->metadata_size;

	for (__u32 i = 0; i < w->nr_rings; i++)
		for (__u32 kind = 0; kind < CAPTURE_KINDS; kind++)
			if (w->ring[i].stream[kind])
				size += capture_stream_size(w->ring[i].stream[kind]);
	return size;
}

void capture_writer_trim(struct capture_writer *w)
{
	for (__u32 i = 0; i < w->nr_rings; i++)
		for (__u32 kind = 0; kind < CAPTURE_KINDS; kind++)
			if (w->ring[i].stream[kind])
				capture_stream_trim(w->ring[i].stream[kind]);
}

__u64 capture_writer_unwritten(const struct capture_writer *w, __u32 ring, bool failed)
{
	const struct captured_ring *r = &w->ring[ring];
	__u64 at = failed ? r->taken : ~0ULL;

	for (__u32 kind = 0; kind < CAPTURE_KINDS; kind++)
		if (r->stream[kind] && capture_stream_unwritten(r->stream[kind]) < at)
			at = capture_stream_unwritten(r->stream[kind]);
	return at;
}

void capture_writer_free(struct capture_writer *w)
{
	if (!w)
		return;
	for (__u32 i = 0; i < w->nr_rings; i++)
		for (__u32 kind = 0; kind < CAPTURE_KINDS; kind++)
			capture_stream_free(w->ring[i].stream[kind]);
	if (w->dir >= 0)
		close(w->dir);
	if (w->journal >= 0)
		close(w->journal);
	if (w->metadata_fd >= 0)
		close(w->metadata_fd);
	capture_metadata_free(&w->metadata);
	htrace_clock_free(w->clock);
	free(w->copy);
	free(w->odd);
	free(w);
}
