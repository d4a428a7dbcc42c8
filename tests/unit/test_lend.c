// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Captures without a copy: who owns the ring's memory when, what becomes of packets that are lapped,
 * cannot be written, or are changed while they are written, and that the writes themselves lose nothing.
 */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <htrace/schema.h>

#include "capture.h"
#include "capture_read.h"
#include "select.h"
#include "session.h"
#include "unit.h"
#include "uring.h"

#include "ringbox.h"

#define RING (1u << 20)
#define BLOCK 65536u
#define PAYLOAD 56 /* 64 bytes a record */
#define RECORDS 1023 /* in a block */

static char top[] = "/tmp/htrace-lend-XXXXXX";
static bool refuse; /* io_uring */
static bool direct; /* past the page cache */
static const enum htrace_policy policies[] = { HTRACE_DISCARD, HTRACE_OVERWRITE };
static struct selection *selection;

int __wrap_io_uring_queue_init(unsigned int entries, void *ring, unsigned int flags);
/* Not there where there is no liburing. */
__attribute__((weak)) int __real_io_uring_queue_init(unsigned int entries, void *ring, unsigned int flags);

int __wrap_io_uring_queue_init(unsigned int entries, void *ring, unsigned int flags)
{
	return refuse ? -EPERM : __real_io_uring_queue_init(entries, ring, flags);
}

static void setup(void)
{
	strcpy(top + sizeof(top) - 7, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(top));
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(selection_new(&selection, NULL), 0);
	if (!getenv("HTRACE_TEST_LOUD"))
		ck_assert_ptr_nonnull(freopen("/dev/null", "w", stderr));
}

static void teardown(void)
{
	char command[128];

	selection_free(selection);
	snprintf(command, sizeof(command), "rm -rf '%s'", top);
	ck_assert_int_eq(system(command), 0);
}

/* ------------------------------------------------------------------------------- writes by themselves */

struct one {
	struct uring_write w;
	struct iovec v[3];
	bool done;
};

static void is_done(struct uring_write *w)
{
	((struct one *)w)->done = true;
}

static void start(struct uring *q, struct one *o, int fd, __u64 at, char *p, size_t len)
{
	*o = (struct one){ .w = { .fd = fd, .at = at, .v = o->v, .nr = 3, .done = is_done } };
	o->v[0] = (struct iovec){ p, len / 4 };
	o->v[1] = (struct iovec){ p + len / 4, 0 };
	o->v[2] = (struct iovec){ p + len / 4, len - len / 4 };
	uring_write(q, &o->w);
}

static void wait_for(struct uring *q)
{
	while (uring_under_way(q))
		uring_reap(q, true);
}

#define WAYS 4

static void ways(int i)
{
	refuse = i & 1;
	direct = i & 2;
}

/* @_i: by ordinary writes. */
START_TEST(test_writes)
{
	enum { NR = 40, LEN = 100000 };
	static char data[NR * LEN], back[NR * LEN];
	char path[64];
	struct one one[NR];
	struct uring *q;
	int fd;

	refuse = _i;
	ck_assert_int_eq(uring_new(&q, 8), 0);
	if (refuse)
		ck_assert(!uring_is_async(q));
	for (size_t i = 0; i < sizeof(data); i++)
		data[i] = (char)(i * 7 + i / 253);
	snprintf(path, sizeof(path), "%s/file", top);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	for (int i = NR - 1; i >= 0; i--) {
		start(q, &one[i], fd, (__u64)i * LEN, data + i * LEN, LEN);
		ck_assert_uint_le(uring_under_way(q), 8);
	}
	wait_for(q);
	for (int i = 0; i < NR; i++)
		ck_assert(one[i].done && !one[i].w.error && one[i].w.written == LEN);
	ck_assert_int_eq(pread(fd, back, sizeof(back), 0), sizeof(back));
	ck_assert(!memcmp(data, back, sizeof(data)));
	uring_free(q);
	close(fd);
}
END_TEST

/* A file that takes a part only: what was written, and why no more. A device that takes nothing. */
START_TEST(test_short)
{
	static char data[300000];
	struct rlimit limit = { 100000, RLIM_INFINITY };
	struct uring *q;
	struct one one;
	char path[64];
	int fd;

	refuse = _i;
	ck_assert_int_eq(uring_new(&q, 8), 0);
	snprintf(path, sizeof(path), "%s/file", top);
	fd = open(path, O_RDWR | O_CREAT, 0600);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	start(q, &one, fd, 4000, data, sizeof(data));
	wait_for(q);
	ck_assert(one.done);
	ck_assert_int_eq(one.w.error, -EFBIG);
	ck_assert_uint_eq(one.w.written, 96000);
	close(fd);
	fd = open("/dev/full", O_RDWR);
	start(q, &one, fd, 0, data, sizeof(data));
	wait_for(q);
	ck_assert_int_eq(one.w.error, -ENOSPC);
	ck_assert_uint_eq(one.w.written, 0);
	close(fd);
	start(q, &one, fd, 0, data, sizeof(data));
	wait_for(q);
	ck_assert_int_eq(one.w.error, -EBADF);
	uring_free(q);
}
END_TEST

/* ------------------------------------------------------------------------------------ a ring, a capture */

struct lender {
	struct ringbox box;
	struct sinks sinks;
	struct stats stats;
	struct say_quota quota;
	struct session *session;
	struct session_facts facts;
	char spec[64];
	__u64 now;
};

static void begin(struct lender *l, enum htrace_policy policy)
{
	struct session_config c = {
		.facts = &l->facts, .path = "here", .origin = "here", .stats = &l->stats,
		.sinks = &l->sinks, .selection = selection, .quota = &l->quota, .lend = true,
	};
	const char *spec = l->spec;
	char err[256] = "";

	memset(l, 0, sizeof(*l));
	box_init(&l->box, RING, BLOCK, policy);
	snprintf(l->spec, sizeof(l->spec), "raw:%s/raw%s", top, direct ? ",direct" : "");
	ck_assert_int_eq(sinks_open(&l->sinks, &spec, 1), 0);
	ck_assert_int_eq(sinks_begin(&l->sinks), 0);
	ck_assert_int_eq(stats_init(&l->stats), 0);
	l->facts = (struct session_facts){
		.session = 1, .clock_id = HTRACE_CLOCK_MONOTONIC, .nr_cpus = 1, .nr_sets = 1,
		.set = { { policy, HTRACE_RING_PER_CPU, 1, 20, 16 } },
	};
	ck_assert_int_eq(session_open(&l->session, &c, err, sizeof(err)), 0);
	ck_assert(session_lends(l->session));
	l->now = 1;
}

static void fill(struct lender *l, unsigned int blocks)
{
	for (unsigned int i = 0; i < blocks * RECORDS; i++)
		ck_assert_int_eq(box_push(&l->box, PAYLOAD), 0);
}

/* What fill() makes is of one length, and the schema says so. */
static void describe(struct lender *l)
{
	struct htrace_schema_builder *b;
	const void *entries;
	char err[256] = "";
	size_t len;
	__u32 words;

	ck_assert_int_eq(htrace_builder_new(&b, NULL, 0), 0);
	words = (__u32)htrace_builder_array(b, htrace_builder_int(b, NULL, 8, false, HTRACE_HINT_NONE),
					    PAYLOAD / 8);
	for (int id = 1; id <= 100; id++) {
		const struct htrace_schema_member m = { .type = words, .name = "words" };
		char name[16];

		snprintf(name, sizeof(name), "e%d", id);
		ck_assert_int_eq(htrace_builder_event(b, name, htrace_builder_struct(b, name, false, PAYLOAD,
										     &m, 1)), id);
	}
	entries = htrace_builder_entries(b, &len);
	ck_assert_msg(!session_schema(l->session, 1, entries, len, l->now, err, sizeof(err)), "%s", err);
	htrace_builder_free(b);
}

/* Everything there is, lent. */
static unsigned int lend(struct lender *l)
{
	struct htrace_batch b;
	unsigned int nr = 0;

	for (; htrace_consumer_borrow_unseen(l->box.c, &b) == 1; nr++)
		ck_assert_int_eq(session_lent(l->session, 0, l->box.c, &b, l->now++, false), 0);
	return nr;
}

/* As when a source goes: the ring is not touched behind it. */
static int end(struct lender *l)
{
	struct capture_end e = { 0 };
	int ret;

	session_take_back(l->session, TAKE_BACK_ALL);
	htrace_consumer_free(l->box.c);
	session_end(l->session, &e, l->now);
	session_close(l->session);
	ret = sinks_close(&l->sinks);
	free(l->box.ring);
	return ret;
}

struct found {
	__u64 events, lost, last; /* value of the last record */
	unsigned int batches, wrong;
	bool in_order, damaged;
};

/* Records as fill() made them, in order, and what was lost where. */
static struct found read_back(void)
{
	struct found f = { .in_order = true };
	struct capture_reader *r;
	struct capture_next n;
	char err[256] = "", path[64];
	__u64 expect = 0;
	int dir, ret;

	snprintf(path, sizeof(path), "%s/raw", top);
	dir = open(path, O_RDONLY | O_DIRECTORY);
	ck_assert_msg(!capture_reader_open(&r, dir, "source1-session1", err, sizeof(err)), "%s", err);
	while ((ret = capture_reader_next(r, &n)) > 0) {
		struct htrace_record rec;
		struct htrace_iter it;

		f.wrong += ret == 2;
		if (ret != 1 || n.item.kind != CAPTURE_BATCH)
			continue;
		f.batches++;
		f.lost += n.batch.overwritten + n.batch.dropped + n.batch.corrupt;
		expect += n.batch.overwritten + n.batch.dropped + n.batch.corrupt;
		for (htrace_iter_init(&it, &n.batch); htrace_iter_next(&it, &rec); f.events++) {
			memcpy(&f.last, rec.payload, 8);
			f.in_order &= f.last == expect && rec.id == 1 + f.last % 100;
			expect = f.last + 1;
		}
	}
	f.damaged = capture_reader_damage(r) != NULL;
	capture_reader_close(r);
	close(dir);
	return f;
}

/* What the capture's stream has on the disk beyond its end. */
static long long ahead(void)
{
	struct stat st;
	char path[96];

	snprintf(path, sizeof(path), "%s/raw/source1-session1/cpu0", top);
	ck_assert_int_eq(stat(path, &st), 0);
	return 512LL * st.st_blocks - st.st_size;
}

static bool reserves(void)
{
	char path[96];
	int fd, ret;

	snprintf(path, sizeof(path), "%s/reserved", top);
	fd = open(path, O_WRONLY | O_CREAT, 0600);
	ret = fallocate(fd, FALLOC_FL_KEEP_SIZE, 0, 4096);
	close(fd);
	return !ret;
}

/* A file that is a little larger has room ahead, which goes when it ends. */
START_TEST(test_ahead)
{
	struct lender l;

	ways(_i);
	begin(&l, HTRACE_DISCARD);
	for (int lap = 0; lap < 5; lap++) {
		fill(&l, 15);
		lend(&l);
		session_take_back(l.session, TAKE_BACK_ALL);
	}
	if (reserves() && !direct)
		ck_assert_int_ge(ahead(), 500000);
	ck_assert_int_eq(end(&l), 0);
	ck_assert_int_lt(ahead(), 65536);
	ck_assert_uint_eq(read_back().events, l.box.seq);
	stats_free(&l.stats);
}
END_TEST

/* Discard: what is lent stays the reader's until it is written, and all of it is written. */
START_TEST(test_discard)
{
	struct lender l;
	struct found f;

	ways(_i);
	begin(&l, HTRACE_DISCARD);
	for (int lap = 0; lap < 5; lap++) {
		__u64 before = l.box.ring->consumed, events = l.box.seq;
		bool copied = direct && !lap; /* the first block, so that the others' bodies begin with pages */

		fill(&l, 15);
		ck_assert_uint_ge(lend(&l), 14);
		ck_assert_uint_eq(l.stats.cpu[0].events, events + (copied ? RECORDS : 0));
		ck_assert_uint_le(l.box.ring->consumed, before + (copied ? BLOCK : 0) + 64); /* a block's end */
		session_take_back(l.session, TAKE_BACK_ALL);
		ck_assert_uint_eq(l.box.ring->consumed, l.box.ring->head);
		ck_assert_uint_eq(l.stats.cpu[0].events, l.box.seq);
		ck_assert_uint_eq(l.stats.by_id[1].bytes, 64 * l.stats.by_id[1].count);
	}
	ck_assert_int_eq(end(&l), 0);
	f = read_back();
	ck_assert(f.in_order && !f.damaged && !f.lost);
	ck_assert_uint_eq(f.events, l.box.seq);
	stats_free(&l.stats);
}
END_TEST

/* Overwrite: what was lapped before it was written is lost where it was, and not written as a record. */
START_TEST(test_lapped)
{
	struct lender l;
	struct found f;

	ways(_i);
	begin(&l, HTRACE_OVERWRITE);
	fill(&l, 12);
	lend(&l);
	fill(&l, 8); /* over the first 4, or 5, of them */
	session_take_back(l.session, TAKE_BACK_ALL);
	ck_assert_uint_ge(l.stats.cpu[0].overwritten, (direct ? 3 : 4) * RECORDS); /* one was copied */
	ck_assert_uint_le(l.stats.cpu[0].overwritten, 5 * RECORDS);
	lend(&l);
	session_take_back(l.session, TAKE_BACK_ALL);
	ck_assert_uint_eq(l.stats.cpu[0].events + l.stats.cpu[0].overwritten, l.box.seq);
	fill(&l, 3);
	lend(&l);
	ck_assert_int_eq(end(&l), 0);
	f = read_back();
	ck_assert(f.in_order && !f.damaged);
	ck_assert_uint_eq(f.lost, l.stats.cpu[0].overwritten);
	ck_assert_uint_eq(f.events, l.stats.cpu[0].events);
	ck_assert_uint_eq(f.last, l.box.seq - 1);
	stats_free(&l.stats);
}
END_TEST

/* Of the stream's packets: how many are said to be open, which no packet follows that is not. */
static unsigned int open_packets(unsigned int *nr)
{
	struct capture_packet p = { 0 };
	unsigned int nr_open = 0;
	__u64 lost = 0;
	char path[96];
	off_t at = 0;
	int fd;

	snprintf(path, sizeof(path), "%s/raw/source1-session1/cpu0", top);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	for (*nr = 0; pread(fd, &p, sizeof(p), at) == sizeof(p); ++*nr, at += (off_t)p.packet_size / 8) {
		ck_assert_uint_eq(p.magic, CAPTURE_PACKET_MAGIC);
		ck_assert_uint_eq(p.packet_seq_num, *nr);
		ck_assert_uint_ge(p.events_discarded, lost);
		lost = p.events_discarded;
		if (p.unverified == CAPTURE_PACKET_OPEN) {
			ck_assert_uint_eq(p.content_size, 8 * sizeof(p));
			nr_open++;
			continue;
		}
		ck_assert_uint_eq(p.unverified, 0);
		ck_assert_uint_eq(nr_open, 0);
	}
	close(fd);
	return nr_open;
}

/*
 * Overwrite: what a reader leaves that is killed before it knows whether what it wrote had been lapped meanwhile is
 * packets without content, to whoever reads it; and nothing of their bytes is taken for records.
 */
START_TEST(test_open)
{
	struct lender l;
	unsigned int nr;
	struct found f;

	ways(0);
	begin(&l, HTRACE_OVERWRITE);
	fill(&l, 4);
	lend(&l);
	session_take_back(l.session, TAKE_BACK_ALL);
	ck_assert_uint_eq(open_packets(&nr), 0);
	fill(&l, 6);
	lend(&l);
	session_take_back(l.session, TAKE_BACK_BEGUN);
	if (l.stats.cpu[0].events == l.box.seq) { /* no io_uring */
		end(&l);
		stats_free(&l.stats);
		return;
	}
	while (open_packets(&nr) < 6 || nr < 10)
		usleep(1000);
	f = read_back();
	ck_assert(f.in_order && f.damaged && !f.lost && !f.wrong);
	ck_assert_uint_ge(f.events, 3 * RECORDS);
	ck_assert_uint_le(f.events, 4 * RECORDS);
	ck_assert_int_eq(end(&l), 0);
	ck_assert_uint_eq(open_packets(&nr), 0);
	f = read_back();
	ck_assert(f.in_order && !f.damaged && !f.lost);
	ck_assert_uint_eq(f.events, l.box.seq);
	stats_free(&l.stats);
}
END_TEST

/* The disk is full in the midst of a packet: those before it are there, the others stay in the ring. */
START_TEST(test_full)
{
	struct rlimit limit = { 9 * BLOCK + 30000, RLIM_INFINITY };
	struct lender l;
	struct found f;

	ways(_i);
	if (direct) /* where they begin with pages, packets are larger */
		limit.rlim_cur += 9 * 4096;
	begin(&l, HTRACE_DISCARD);
	fill(&l, 15);
	lend(&l);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &limit), 0);
	session_take_back(l.session, TAKE_BACK_ALL);
	ck_assert(sinks_failed(&l.sinks));
	ck_assert_uint_eq(l.stats.cpu[0].events, 9 * RECORDS);
	ck_assert_uint_eq(l.stats.unwritten, l.box.seq - 9 * RECORDS);
	ck_assert_uint_eq(l.box.ring->consumed, 9 * BLOCK);
	ck_assert_int_eq(end(&l), 1);
	f = read_back();
	ck_assert(f.in_order && !f.damaged && !f.lost);
	ck_assert_uint_eq(f.events, 9 * RECORDS);
	stats_free(&l.stats);
}
END_TEST

/* Memory that goes away while it is written from is no failure of the output. */
START_TEST(test_gone)
{
	struct lender l;
	struct found f;
	char *data;

	ways(_i);
	begin(&l, HTRACE_DISCARD);
	fill(&l, 10);
	lend(&l);
	data = (char *)l.box.ring + l.box.g.data_off;
	ck_assert_int_eq(mprotect(data + 4 * BLOCK, BLOCK, PROT_NONE), 0);
	session_take_back(l.session, TAKE_BACK_ALL);
	ck_assert_int_eq(mprotect(data + 4 * BLOCK, BLOCK, PROT_READ | PROT_WRITE), 0);
	ck_assert(!sinks_failed(&l.sinks));
	ck_assert_int_eq(end(&l), 0);
	f = read_back();
	ck_assert(f.in_order && !f.damaged);
	ck_assert_uint_eq(f.events, 4 * RECORDS);
	ck_assert_uint_eq(f.events + f.lost, l.box.seq);
	stats_free(&l.stats);
}
END_TEST

/* Trust that was misplaced: any word changes after it was looked at. Packets stay packets. */
START_TEST(test_changed)
{
	unsigned long long state = 99 + (unsigned long long)_i;
	struct lender l;
	struct found f;
	char *data;

	direct = _i & 1;
	begin(&l, HTRACE_DISCARD);
	data = (char *)l.box.ring + l.box.g.data_off;
	for (int lap = 0; lap < 10; lap++) {
		fill(&l, 14);
		lend(&l);
		for (int i = 0; i < 8; i++) {
			unsigned long long x = unit_random(&state);

			memcpy(data + (x % (14 * BLOCK) & ~7ULL), &state, 8);
		}
		/* Also between validation and its being described: what is borrowed here is lent below. */
		fill(&l, 1);
		for (struct htrace_batch b; htrace_consumer_borrow(l.box.c, &b) == 1;) {
			unsigned long long x = unit_random(&state);

			memcpy((char *)b.data + (x % b.len & ~7ULL), &x, 8);
			ck_assert_int_eq(session_lent(l.session, 0, l.box.c, &b, l.now++, false), 0);
		}
		session_take_back(l.session, TAKE_BACK_ALL);
		ck_assert_uint_eq(l.box.ring->consumed, l.box.ring->head);
	}
	ck_assert_int_eq(end(&l), 0);
	f = read_back();
	ck_assert_uint_ge(f.events, l.box.seq / 4);
	ck_assert_uint_le(f.events, l.box.seq);
	ck_assert_uint_ge(f.batches + f.wrong, 100);
	stats_free(&l.stats);
}
END_TEST

/* All lengths are known: nobody looks at the records, and what is written is right. */
START_TEST(test_unseen)
{
	struct lender l;
	struct found f;

	refuse = false;
	direct = _i & 2;
	begin(&l, policies[_i & 1]);
	describe(&l);
	for (int lap = 0; lap < 5; lap++) {
		fill(&l, 12);
		lend(&l);
		if (_i & 1)
			fill(&l, 6); /* over some of those that are lent */
		session_take_back(l.session, TAKE_BACK_ALL);
	}
	ck_assert_uint_ge(l.stats.by_id[0].count, 5 * 7 * RECORDS);
	ck_assert_uint_eq(l.stats.by_id[0].bytes, 64 * l.stats.by_id[0].count);
	lend(&l);
	l.box.clock -= 5000; /* a block that begins before the last one ended is looked at, and changed */
	fill(&l, 2);
	lend(&l);
	ck_assert_uint_ge(l.stats.backwards, 1);
	l.box.clock += 1ULL << 33; /* so is one in which a time is too far from the one before */
	fill(&l, 2);
	lend(&l);
	ck_assert_int_eq(end(&l), 0);
	f = read_back();
	ck_assert(f.in_order && !f.damaged);
	ck_assert_uint_eq(f.events, l.stats.cpu[0].events);
	ck_assert_uint_eq(f.events + f.lost, l.box.seq);
	ck_assert((f.lost != 0) == (_i & 1));
	stats_free(&l.stats);
}
END_TEST

/* Times that step back have to be changed, which is done in a copy. */
START_TEST(test_backwards)
{
	struct lender l;
	struct found f;

	begin(&l, HTRACE_DISCARD);
	fill(&l, 3);
	l.box.clock -= 5000;
	fill(&l, 3);
	lend(&l);
	session_take_back(l.session, TAKE_BACK_ALL);
	ck_assert_uint_ge(l.stats.backwards, 1);
	ck_assert_int_eq(end(&l), 0);
	f = read_back();
	ck_assert(f.in_order && !f.damaged && !f.lost);
	ck_assert_uint_eq(f.events, l.box.seq);
	stats_free(&l.stats);
}
END_TEST

/* Others need copies: there nothing is lent. */
START_TEST(test_not_alone)
{
	struct session_facts facts = { .session = 1, .clock_id = HTRACE_CLOCK_MONOTONIC, .nr_cpus = 1 };
	struct session_config c = { .facts = &facts, .path = "x", .origin = "x", .lend = true };
	char raw[2][64], err[256];
	const char *specs[] = { raw[0], raw[1] };
	struct stats stats;
	struct sinks sinks;

	for (int i = 0; i < 2; i++)
		snprintf(raw[i], sizeof(raw[i]), "raw:%s/%d", top, i);
	ck_assert_int_eq(stats_init(&stats), 0);
	for (unsigned int nr = 1; nr <= 2; nr++) {
		struct session *s;

		ck_assert_int_eq(sinks_open(&sinks, specs, nr), 0);
		c.sinks = &sinks;
		c.stats = &stats;
		ck_assert_int_eq(session_open(&s, &c, err, sizeof(err)), 0);
		ck_assert(session_lends(s) == (nr == 1));
		session_close(s);
		sinks_abandon(&sinks);
	}
	stats_free(&stats);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("lend");
	TCase *t = tcase_create("lend");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, test_writes, 0, 2);
	tcase_add_loop_test(t, test_short, 0, 2);
	tcase_add_loop_test(t, test_ahead, 0, WAYS);
	tcase_add_loop_test(t, test_discard, 0, WAYS);
	tcase_add_loop_test(t, test_lapped, 0, WAYS);
	tcase_add_test(t, test_open);
	tcase_add_loop_test(t, test_full, 0, WAYS);
	tcase_add_loop_test(t, test_gone, 0, WAYS);
	tcase_add_loop_test(t, test_changed, 0, unit_share() > 1 ? 4 : 10);
	tcase_add_loop_test(t, test_unseen, 0, 4);
	tcase_add_test(t, test_backwards);
	tcase_add_test(t, test_not_alone);
	suite_add_tcase(s, t);
	return unit_run(s);
}
