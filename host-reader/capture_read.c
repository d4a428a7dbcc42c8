/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "capture_lane.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <htrace/schema.h>

#include "session.h"

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

/* ----------------------------------------------------------------------------------------- journal */

static bool next_entry(struct capture_reader *r, struct lane *l)
{
	if (l->at == l->size)
		return false;
	if (!capture_read_at(r, l, &l->entry, sizeof(l->entry), l->at) ||
	    (l->entry.len + 7ULL) / 8 * 8 > l->size - l->at - sizeof(l->entry)) {
		capture_damage(r, "its journal is cut off");
		return false;
	}
	if (l->entry.len > CAPTURE_ENTRY_MAX) {
		capture_damage(r, "its journal is wrong");
		return false;
	}
	return capture_rises(r, l, l->entry.ordinal);
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

static bool good_vm(const unsigned char *buf, size_t len)
{
	size_t head = offsetof(struct session_vm, vcpu);
	struct session_vm vm;

	if (len < head)
		return false;
	memcpy(&vm, buf, head);
	return vm.nr <= sizeof(vm.vcpu) / sizeof(vm.vcpu[0]) && len == head + vm.nr * sizeof(vm.vcpu[0]);
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
	case CAPTURE_CLOCK:
		if (len % sizeof(struct htrace_clock_sample) ||
		    len / sizeof(struct htrace_clock_sample) > HTRACE_CLOCK_SAMPLES + 1)
			return false;
		break;
	case CAPTURE_HOST:
		if (!len || len % sizeof(struct host_word) || len / sizeof(struct host_word) > HTRACE_CLOCK_SAMPLES)
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
	case CAPTURE_VM:
		if (!good_vm(r->buf, len))
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

	if (!capture_grow(&r->buf, &r->buf_room, len + 8))
		return -ENOMEM;
	n->item.kind = (enum capture_kind)l->entry.kind;
	n->item.arrival = l->entry.arrival;
	n->item.asked = l->entry.asked;
	if (!capture_read_at(r, l, r->buf, len, l->at + sizeof(l->entry))) {
		capture_damage(r, "its journal cannot be read");
		return -EILSEQ;
	}
	l->at += sizeof(l->entry) + (len + 7) / 8 * 8;
	r->buf[len] = 0; /* texts end */
	if (l->entry.kind != CAPTURE_BATCH && take_content(r, len, n))
		return 0;
	capture_damage(r, "an entry of its journal is wrong");
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

/* One of its files, packed or not; a part that is packed just now has both for a moment. */
static int open_lane(struct capture_reader *r, struct lane *l, const char *name)
{
	char packed[CAPTURE_NAME + 8];
	int ret;

	l->fd = open_file(r->dir, name, &l->size);
	if (l->fd != -ENOENT)
		return l->fd < 0 ? l->fd : 0;
	snprintf(packed, sizeof(packed), "%s" CAPTURE_PACKED, name);
	l->fd = open_file(r->dir, packed, &l->size);
	if (l->fd < 0)
		return l->fd;
	ret = unpack_open(&r->unpacker, &l->packed, l->fd, l->size);
	l->size = l->packed.raw;
	return ret;
}

static const char *why_not(int ret)
{
	return ret == -ENOTSUP ? "it is packed, and this host-reader was built without libzstd" :
	       ret == -EILSEQ ? "it is packed, and damaged" : strerror(-ret);
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

	if (!capture_read_at(r, l, &head, sizeof(head), 0) || head.magic != CAPTURE_MAGIC) {
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
	    !capture_read_at(r, l, &start, sizeof(start), l->at + sizeof(l->entry))) {
		snprintf(err, errlen, "its journal has no beginning");
		return -EPROTO;
	}
	r->expected = l->ordinal + 1;
	r->facts = (struct session_facts){
		.session = start.session, .clock_id = start.clock_id, .nr_cpus = start.nr_cpus,
		.nr_sets = start.nr_sets, .local = (start.facts & CAPTURE_IS_LOCAL) != 0,
		.host = (start.facts & CAPTURE_IS_HOST) != 0,
	};
	memcpy(r->facts.boot_id, start.boot_id, sizeof(start.boot_id));
	memcpy(r->facts.set, start.set, sizeof(start.set));
	memcpy(r->uuid, start.uuid, sizeof(r->uuid));
	if (!good_facts(&r->facts)) {
		snprintf(err, errlen, "its journal begins with what cannot be");
		return -EPROTO;
	}
	len = l->entry.len - sizeof(start) < PATH_BYTES ? l->entry.len - sizeof(start) : PATH_BYTES;
	if (capture_read_at(r, l, path, len, l->at + sizeof(l->entry) + sizeof(start)))
		r->path[htrace_escape(r->path, sizeof(r->path) - 1, path, strnlen(path, len))] = 0;
	l->at += sizeof(l->entry) + (l->entry.len + 7ULL) / 8 * 8;
	return 0;
}

static int open_stream(struct capture_reader *r, __u32 set, __u32 index, __u32 ring, __u32 kind)
{
	char name[CAPTURE_NAME];
	struct lane *l = calloc(1, sizeof(*l));
	int ret;

	if (!l)
		return -ENOMEM;
	capture_stream_name(name, &r->facts, set, index, kind);
	ret = open_lane(r, l, name);
	if (ret) {
		free_lane(r, l);
		if (ret == -EILSEQ)
			capture_damage(r, "what is packed in it is damaged");
		return ret == -ENOENT || ret == -EILSEQ ? 0 : ret;
	}
	l->stream = true;
	l->ring = ring;
	l->kind = kind;
	if (capture_next_batch(r, l) && !add_lane(r, l))
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
				snprintf(err, errlen, "the stream of ring %u: %s", i, why_not(ret));
				return ret;
			}
	return 0;
}

int capture_reader_open(struct capture_reader **out, int dir, const char *name, char *err,
			size_t errlen)
{
	struct capture_reader *r = calloc(1, sizeof(*r));
	int ret = -ENOMEM;

	snprintf(err, errlen, "%s", strerror(ENOMEM));
	if (!r)
		return ret;
	r->journal.fd = -1;
	r->dir = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
	ret = r->dir < 0 ? -errno : open_lane(r, &r->journal, CAPTURE_SIDE "/" CAPTURE_JOURNAL);
	if (ret)
		snprintf(err, errlen, "its journal: %s", why_not(ret));
	else
		ret = read_start(r, err, errlen);
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
	unpacker_free(r->unpacker);
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
	ret = l->stream ? capture_take_batch(r, l, n) : take_entry(r, l, n);
	if (ret == -ENOMEM)
		return ret;
	if (ret >= 0 && (l->stream ? capture_next_batch(r, l) : next_entry(r, l)))
		sink_first(r);
	else
		drop_first(r);
	return ret;
}

int capture_reader_next(struct capture_reader *r, struct capture_next *n)
{
	int ret;

	if (!r->heap_len)
		return 0;
	memset(&n->item, 0, sizeof(n->item));
	memset(&n->batch, 0, sizeof(n->batch));
	ret = take_first(r, n);
	if (ret == -ENOMEM)
		return ret;
	return ret ? 2 : 1;
}
