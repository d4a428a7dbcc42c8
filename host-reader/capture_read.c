/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "capture_read.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <htrace/schema.h>

#include "session.h"

#define PATH_BYTES 4096
#define HOW_MANY 32u /* descriptions of batches that are read at once */

/* One of the files, and what is next in it. */
struct lane {
	int fd;
	__u64 size; /* when it was opened: it may grow */
	__u64 at;   /* of the next packet or entry */
	bool any;
	__u64 ordinal; /* of what is next; rises */
	/* the journal */
	struct capture_entry entry;
	/* a stream */
	bool stream;
	__u32 ring, kind;
	__u64 body, body_end; /* what is left of the packet's content */
	struct capture_tail tail;
	__u64 how_at; /* of those that were not read yet */
	__u32 how_left;
	bool first; /* batch of the packet */
	__u32 how_nr, how_next;
	struct capture_batch how[HOW_MANY];
};

struct capture_reader {
	int dir;
	struct session_facts facts;
	__u8 uuid[16];
	char path[4 * PATH_BYTES + 1];
	char damage[256];
	bool damaged;
	__u64 expected, missing;
	struct htrace_prog prog[HTRACE_MAX_PROGS]; /* as last said */
	__u32 nr_progs;
	unsigned char *buf, *records;
	size_t buf_room, records_room;
	struct lane journal;
	struct lane **heap; /* what has something, the one with the lowest ordinal first */
	unsigned int heap_len, heap_room;
};

static void say_damage(struct capture_reader *r, const char *fmt, ...)
{
	va_list args;

	if (r->damaged) /* the first is the one to know */
		return;
	r->damaged = true;
	va_start(args, fmt);
	vsnprintf(r->damage, sizeof(r->damage), fmt, args);
	va_end(args);
}

static bool grow(unsigned char **p, size_t *room, size_t len)
{
	unsigned char *more;

	if (len <= *room)
		return true;
	more = realloc(*p, len);
	if (!more)
		return false;
	*p = more;
	*room = len;
	return true;
}

/* All of it, within what the file had when it was opened. */
static bool read_at(const struct lane *l, void *p, size_t len, __u64 at)
{
	char *to = p;

	if (at > l->size || len > l->size - at)
		return false;
	while (len) {
		ssize_t n = pread(l->fd, to, len, (off_t)at);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return false;
		to += n;
		at += (__u64)n;
		len -= (size_t)n;
	}
	return true;
}

/* -------------------------------------------------------------------------- lanes, by their ordinals */

static void swap(struct capture_reader *r, unsigned int a, unsigned int b)
{
	struct lane *l = r->heap[a];

	r->heap[a] = r->heap[b];
	r->heap[b] = l;
}

static int add_lane(struct capture_reader *r, struct lane *l)
{
	unsigned int at = r->heap_len;

	if (at == r->heap_room) {
		unsigned int room = 2 * at + 8;
		struct lane **more = realloc(r->heap, room * sizeof(*more));

		if (!more)
			return -ENOMEM;
		r->heap = more;
		r->heap_room = room;
	}
	r->heap[r->heap_len++] = l;
	for (; at && l->ordinal < r->heap[(at - 1) / 2]->ordinal; at = (at - 1) / 2)
		swap(r, at, (at - 1) / 2);
	return 0;
}

/* The first lane's ordinal rose. */
static void sink_first(struct capture_reader *r)
{
	unsigned int at = 0, child;

	while ((child = 2 * at + 1) < r->heap_len) {
		if (child + 1 < r->heap_len &&
		    r->heap[child + 1]->ordinal < r->heap[child]->ordinal)
			child++;
		if (r->heap[at]->ordinal <= r->heap[child]->ordinal)
			break;
		swap(r, at, child);
		at = child;
	}
}

static void free_lane(struct capture_reader *r, struct lane *l)
{
	if (l->fd >= 0)
		close(l->fd);
	l->fd = -1;
	if (l != &r->journal)
		free(l);
}

static void drop_first(struct capture_reader *r)
{
	free_lane(r, r->heap[0]);
	r->heap[0] = r->heap[--r->heap_len];
	sink_first(r);
}

static bool rises(struct capture_reader *r, struct lane *l, __u64 ordinal)
{
	if (l->any && ordinal <= l->ordinal) {
		say_damage(r, "its order is not one");
		return false;
	}
	l->any = true;
	l->ordinal = ordinal;
	return true;
}

/* ----------------------------------------------------------------------------------------- streams */

/* The packet at l->at. False: there is none, or it is not whole, or it is wrong. */
static bool begin_packet(struct capture_reader *r, struct lane *l)
{
	struct capture_packet p;
	__u64 content, size;

	if (l->at == l->size)
		return false;
	if (!read_at(l, &p, sizeof(p), l->at)) {
		say_damage(r, "it is cut off");
		return false;
	}
	content = p.content_size / 64 * 8 + (p.content_size % 64 ? 8 : 0);
	size = p.packet_size / 8;
	if (p.magic != CAPTURE_PACKET_MAGIC || memcmp(p.uuid, r->uuid, sizeof(p.uuid)) != 0 ||
	    (p.stream_id & (CAPTURE_KINDS - 1)) != l->kind || p.content_size % 8 ||
	    p.packet_size % 64 || content < sizeof(p) ||
	    content - sizeof(p) > CAPTURE_BODY_MAX || size < content + sizeof(l->tail)) {
		say_damage(r, "a packet's header is wrong");
		return false;
	}
	if (size > l->size - l->at || !read_at(l, &l->tail, sizeof(l->tail), l->at + content)) {
		say_damage(r, "it is cut off");
		return false;
	}
	if (!l->tail.nr_batches || l->tail.nr_batches > CAPTURE_BATCHES_MAX ||
	    size - content - sizeof(l->tail) < l->tail.nr_batches * sizeof(struct capture_batch)) {
		say_damage(r, "a packet's end is wrong");
		return false;
	}
	l->body = l->at + sizeof(p);
	l->body_end = l->at + content;
	l->how_at = l->body_end + sizeof(l->tail);
	l->how_left = l->tail.nr_batches;
	l->how_nr = l->how_next = 0;
	l->first = true;
	l->at += size;
	return true;
}

/* What is next in the stream: l->how[l->how_next]. */
static bool next_batch(struct capture_reader *r, struct lane *l)
{
	const struct capture_batch *how;

	if (l->how_next == l->how_nr) {
		if (!l->how_left && !begin_packet(r, l))
			return false;
		l->how_nr = l->how_left < HOW_MANY ? l->how_left : HOW_MANY;
		l->how_next = 0;
		if (!read_at(l, l->how, l->how_nr * sizeof(*l->how), l->how_at)) {
			say_damage(r, "it cannot be read");
			return false;
		}
		l->how_left -= l->how_nr;
		l->how_at += l->how_nr * sizeof(*l->how);
	}
	how = &l->how[l->how_next];
	if (how->len & 7 || how->len > l->body_end - l->body ||
	    (l->how_next + 1 == l->how_nr && !l->how_left && how->len != l->body_end - l->body)) {
		say_damage(r, "a packet's batches are not its content");
		return false;
	}
	return rises(r, l, how->ordinal);
}

/* The records that @len bytes of odd ones stand for. -1: they are wrong. */
static long unpack_odd(struct capture_reader *r, size_t len)
{
	struct capture_odd odd;
	size_t at = 0, to = 0;

	if (!grow(&r->records, &r->records_room, len + 8)) /* each gets shorter by 8 at least */
		return -ENOMEM;
	for (; at < len; at += sizeof(odd) + odd.len) {
		__u64 hdr = HTRACE_REC_HDR, head;

		if (len - at < sizeof(odd))
			return -EILSEQ;
		memcpy(&odd, r->buf + at, sizeof(odd));
		if (odd.flags & HTRACE_REC_EXTENDED)
			hdr += 8;
		if (odd.len & 7 || odd.len > HTRACE_REC_MAX - hdr ||
		    odd.len > len - at - sizeof(odd) || odd.flags > HTRACE_REC_EXTENDED)
			return -EILSEQ;
		head = odd.id | (hdr + odd.len + odd.flags) << 16 | odd.time << 32;
		memcpy(r->records + to, &head, 8);
		if (hdr > 8)
			memcpy(r->records + to + 8, &odd.time, 8);
		memcpy(r->records + to + hdr, r->buf + at + sizeof(odd), odd.len);
		to += hdr + odd.len;
	}
	return (long)to;
}

/* As the ring's reader found them; but who knows who wrote this file. */
static bool count_records(struct htrace_batch *b)
{
	__u32 off = 0;

	while (off < b->len) {
		__u64 head = *(const __u64 *)(b->data + off);
		__u32 id = head & 0xffff, n = (__u32)(head >> 16) & 0xffff;
		__u32 size = n & ~HTRACE_REC_FLAGS;

		if (!id || id > HTRACE_MAX_EVENTS || (n & HTRACE_REC_FLAGS) > HTRACE_REC_EXTENDED ||
		    size < HTRACE_REC_HDR * (1 + (n & HTRACE_REC_EXTENDED)) || size > b->len - off)
			return false;
		b->events++;
		off += size;
	}
	return true;
}

static int take_batch(struct capture_reader *r, struct lane *l, struct capture_next *n)
{
	const struct capture_batch *how = &l->how[l->how_next++];
	struct htrace_batch *b = &n->batch;
	long len = (long)how->len;

	n->item.kind = CAPTURE_BATCH;
	n->item.ring = l->ring;
	n->item.arrival = how->arrival;
	n->item.asked = how->asked;
	n->item.raised = how->raised;
	n->item.unverified = l->kind & CAPTURE_UNVERIFIED;
	n->item.batch = b;
	if (!grow(&r->buf, &r->buf_room, how->len + 8))
		return -ENOMEM;
	if (!read_at(l, r->buf, how->len, l->body)) {
		say_damage(r, "it cannot be read");
		return -EILSEQ;
	}
	b->data = r->buf;
	if (l->kind & CAPTURE_ODD) {
		len = unpack_odd(r, how->len);
		b->data = r->records;
	}
	if (len == -ENOMEM)
		return -ENOMEM;
	b->len = len < 0 ? 0 : (__u32)len;
	b->base = l->tail.base;
	b->schema = l->tail.schema;
	if (len < 0 || !count_records(b)) {
		say_damage(r, "its records are wrong");
		return -EILSEQ;
	}
	if (l->first) {
		b->overwritten = l->tail.overwritten;
		b->dropped = l->tail.dropped;
		b->corrupt = l->tail.corrupt;
		b->before = l->tail.before;
	}
	b->pos = l->tail.position;
	l->tail.position += how->len;
	l->first = false;
	l->body += how->len;
	return 0;
}

/* ----------------------------------------------------------------------------------------- journal */

static bool next_entry(struct capture_reader *r, struct lane *l)
{
	if (l->at == l->size)
		return false;
	if (!read_at(l, &l->entry, sizeof(l->entry), l->at) ||
	    (l->entry.len + 7ULL) / 8 * 8 > l->size - l->at - sizeof(l->entry)) {
		say_damage(r, "its journal is cut off");
		return false;
	}
	if (l->entry.len > CAPTURE_ENTRY_MAX) {
		say_damage(r, "its journal is wrong");
		return false;
	}
	return rises(r, l, l->entry.ordinal);
}

static bool take_guest(struct capture_reader *r, size_t len, struct capture_next *n)
{
	size_t head = offsetof(struct htrace_guest, clock), fixed = head + sizeof(struct capture_guest);
	size_t progs;

	if (len < fixed)
		return false;
	progs = len - fixed;
	memcpy(&n->guest, r->buf, head);
	memcpy(&n->clock, r->buf + head, sizeof(n->clock));
	if (n->guest.nr_progs > HTRACE_MAX_PROGS)
		return false;
	if (progs) {
		if (progs != n->guest.nr_progs * sizeof(*r->prog))
			return false;
		memcpy(r->prog, r->buf + fixed, progs);
		r->nr_progs = n->guest.nr_progs;
	}
	if (n->guest.nr_progs > r->nr_progs)
		return false;
	memcpy(n->guest.prog, r->prog, n->guest.nr_progs * sizeof(*r->prog));
	return true;
}

static bool take_content(struct capture_reader *r, size_t len, struct capture_next *n)
{
	size_t head = 0;

	switch (n->item.kind) {
	case CAPTURE_SCHEMA:
		head = sizeof(struct capture_schema);
		if (len < head || len - head > HTRACE_SCHEMA_MAX)
			return false;
		memcpy(&n->item.generation, r->buf, sizeof(n->item.generation));
		break;
	case CAPTURE_NAMES:
		if (len % sizeof(struct htrace_name) ||
		    len / sizeof(struct htrace_name) > HTRACE_MAX_NAMES)
			return false;
		break;
	case CAPTURE_GUEST:
		if (!take_guest(r, len, n))
			return false;
		break;
	case CAPTURE_BROKEN:
		head = sizeof(struct capture_broken);
		if (len < head)
			return false;
		memcpy(&n->item.ring, r->buf, sizeof(n->item.ring));
		if (n->item.ring >= session_facts_rings(&r->facts))
			return false;
		break;
	case CAPTURE_END:
		if (len < sizeof(struct capture_end))
			return false;
		break;
	default:
		break;
	}
	n->item.data = r->buf + head;
	n->item.len = len - head;
	return true;
}

/* 0; 1: there is nothing in it; or -errno. */
static int take_entry(struct capture_reader *r, struct lane *l, struct capture_next *n)
{
	size_t len = l->entry.len;

	if (!grow(&r->buf, &r->buf_room, len + 8))
		return -ENOMEM;
	n->item.kind = (enum capture_kind)l->entry.kind;
	n->item.arrival = l->entry.arrival;
	n->item.asked = l->entry.asked;
	if (!read_at(l, r->buf, len, l->at + sizeof(l->entry))) {
		say_damage(r, "its journal cannot be read");
		return -EILSEQ;
	}
	l->at += sizeof(l->entry) + (len + 7) / 8 * 8;
	r->buf[len] = 0; /* texts end */
	if (l->entry.kind != CAPTURE_BATCH && take_content(r, len, n))
		return 0;
	say_damage(r, "an entry of its journal is wrong");
	return 1; /* what follows may be right */
}

/* ----------------------------------------------------------------------------------------- opening */

static int open_file(int dir, const char *name, __u64 *size)
{
	/* A FIFO in its place must not make us wait. */
	int fd = openat(dir, name, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC), ret;
	struct stat st;

	if (fd < 0)
		return -errno;
	ret = fstat(fd, &st) ? -errno : S_ISREG(st.st_mode) ? 0 : -EINVAL;
	if (ret) {
		close(fd);
		return ret;
	}
	*size = (__u64)st.st_size;
	return fd;
}

static bool good_facts(const struct session_facts *f)
{
	__u32 rings = 0;

	if ((f->clock_id != HTRACE_CLOCK_MONOTONIC && f->clock_id != HTRACE_CLOCK_TSC) ||
	    f->nr_cpus > HTRACE_MAX_CPUS || f->nr_sets > HTRACE_MAX_RINGSETS)
		return false;
	for (__u32 i = 0; i < f->nr_sets; i++) {
		const struct session_set *s = &f->set[i];

		if (s->policy < HTRACE_DISCARD || s->policy > HTRACE_OVERWRITE ||
		    s->kind < HTRACE_RING_PER_CPU || s->kind > HTRACE_RING_PER_THREAD ||
		    !s->nr_rings || s->nr_rings > HTRACE_MAX_RINGS ||
		    s->ring_shift > HTRACE_RING_SHIFT_MAX || s->block_shift > HTRACE_BLOCK_SHIFT_MAX)
			return false;
		rings += s->nr_rings;
	}
	return rings <= HTRACE_MAX_RINGS;
}

static int read_start(struct capture_reader *r, char *err, size_t errlen)
{
	struct capture_journal head;
	struct capture_start start;
	struct lane *l = &r->journal;
	char path[PATH_BYTES];
	size_t len;

	if (!read_at(l, &head, sizeof(head), 0) || head.magic != CAPTURE_MAGIC) {
		snprintf(err, errlen, "its journal is not one");
		return -EPROTO;
	}
	if (head.version != CAPTURE_VERSION) {
		snprintf(err, errlen, "it has version %u, and this host-reader knows %u",
			 head.version, CAPTURE_VERSION);
		return -EPROTONOSUPPORT;
	}
	l->at = head.size < sizeof(head) ? sizeof(head) : head.size;
	if (!next_entry(r, l) || l->entry.kind != CAPTURE_START || l->entry.len < sizeof(start) ||
	    !read_at(l, &start, sizeof(start), l->at + sizeof(l->entry))) {
		snprintf(err, errlen, "its journal has no beginning");
		return -EPROTO;
	}
	r->expected = l->ordinal + 1;
	r->facts = (struct session_facts){
		.session = start.session, .clock_id = start.clock_id, .nr_cpus = start.nr_cpus,
		.nr_sets = start.nr_sets, .local = start.local != 0,
	};
	memcpy(r->facts.boot_id, start.boot_id, sizeof(start.boot_id));
	memcpy(r->facts.set, start.set, sizeof(start.set));
	memcpy(r->uuid, start.uuid, sizeof(r->uuid));
	if (!good_facts(&r->facts)) {
		snprintf(err, errlen, "its journal begins with what cannot be");
		return -EPROTO;
	}
	len = l->entry.len - sizeof(start) < PATH_BYTES ? l->entry.len - sizeof(start) : PATH_BYTES;
	if (read_at(l, path, len, l->at + sizeof(l->entry) + sizeof(start)))
		r->path[htrace_escape(r->path, sizeof(r->path) - 1, path, strnlen(path, len))] = 0;
	l->at += sizeof(l->entry) + (l->entry.len + 7ULL) / 8 * 8;
	return 0;
}

static int open_stream(struct capture_reader *r, __u32 set, __u32 index, __u32 ring, __u32 kind)
{
	char name[CAPTURE_NAME];
	struct lane *l;
	__u64 size = 0;
	int fd;

	capture_stream_name(name, &r->facts, set, index, kind);
	fd = open_file(r->dir, name, &size);
	if (fd == -ENOENT)
		return 0;
	if (fd < 0)
		return fd;
	l = calloc(1, sizeof(*l));
	if (!l) {
		close(fd);
		return -ENOMEM;
	}
	l->fd = fd;
	l->size = size;
	l->stream = true;
	l->ring = ring;
	l->kind = kind;
	if (next_batch(r, l) && !add_lane(r, l))
		return 0;
	free_lane(r, l);
	return 0;
}

static int open_streams(struct capture_reader *r, char *err, size_t errlen)
{
	__u32 ring = 0;

	for (__u32 set = 0; set < r->facts.nr_sets; set++)
		for (__u32 i = 0; i < r->facts.set[set].nr_rings; i++, ring++)
			for (__u32 kind = 0; kind < CAPTURE_KINDS; kind++) {
				int ret = open_stream(r, set, i, ring, kind);

				if (!ret)
					continue;
				snprintf(err, errlen, "the stream of ring %u: %s", i, strerror(-ret));
				return ret;
			}
	return 0;
}

int capture_reader_open(struct capture_reader **out, int dir, const char *name, char *err,
			size_t errlen)
{
	struct capture_reader *r = calloc(1, sizeof(*r));
	int ret = -ENOMEM, fd = -1;

	snprintf(err, errlen, "%s", strerror(ENOMEM));
	if (!r)
		return ret;
	r->journal.fd = -1;
	r->dir = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	if (r->dir >= 0)
		fd = open_file(r->dir, CAPTURE_SIDE "/" CAPTURE_JOURNAL, &r->journal.size);
	ret = r->dir < 0 ? -errno : fd < 0 ? fd : 0;
	if (ret) {
		snprintf(err, errlen, "its journal: %s", strerror(-ret));
	} else {
		r->journal.fd = fd;
		ret = read_start(r, err, errlen);
	}
	if (!ret)
		ret = open_streams(r, err, errlen);
	if (!ret && next_entry(r, &r->journal))
		ret = add_lane(r, &r->journal);
	if (ret) {
		capture_reader_close(r);
		return ret;
	}
	*out = r;
	return 0;
}

void capture_reader_close(struct capture_reader *r)
{
	if (!r)
		return;
	for (unsigned int i = 0; i < r->heap_len; i++)
		free_lane(r, r->heap[i]);
	if (r->journal.fd >= 0)
		close(r->journal.fd);
	if (r->dir >= 0)
		close(r->dir);
	free(r->heap);
	free(r->buf);
	free(r->records);
	free(r);
}

const struct session_facts *capture_reader_facts(const struct capture_reader *r)
{
	return &r->facts;
}

const char *capture_reader_path(const struct capture_reader *r)
{
	return r->path;
}

const char *capture_reader_damage(const struct capture_reader *r)
{
	return r->damaged ? r->damage : NULL;
}

__u64 capture_reader_missing(const struct capture_reader *r)
{
	return r->missing;
}

/* ----------------------------------------------------------------------------------------- reading */

/* Take what is next in the first lane, and look what follows in it. */
static int take_first(struct capture_reader *r, struct capture_next *n)
{
	struct lane *l = r->heap[0];
	int ret;

	if (l->ordinal > r->expected)
		r->missing += l->ordinal - r->expected;
	r->expected = l->ordinal + 1;
	ret = l->stream ? take_batch(r, l, n) : take_entry(r, l, n);
	if (ret == -ENOMEM)
		return ret;
	if (ret >= 0 && (l->stream ? next_batch(r, l) : next_entry(r, l)))
		sink_first(r);
	else
		drop_first(r);
	return ret;
}

int capture_reader_next(struct capture_reader *r, struct capture_next *n)
{
	while (r->heap_len) {
		int ret;

		memset(&n->item, 0, sizeof(n->item));
		memset(&n->batch, 0, sizeof(n->batch));
		ret = take_first(r, n);
		if (ret == -ENOMEM)
			return ret;
		if (!ret)
			return 1;
	}
	return 0;
}
