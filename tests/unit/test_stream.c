/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A ring's records by a byte stream: a reader at its end gets what a reader of the ring would have got. */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "core.h"
#include "relay_sink.h"
#include "stream.h"
#include "stream_apply.h"
#include "stream_place.h"
#include "stream_receiver.h"
#include "unit.h"

#include "ringbox.h"

#define RING 8192u
#define BLOCK 512u
#define REGION (2u << 20)

struct rig {
	struct ringbox box; /* its consumer reads at the stream's end */
	void *mem, *far;    /* the sender's region, the receiver's */
	struct htrace_region *region;
	struct stream *stream;
	int fd; /* the host's end */
	struct stream_apply apply;
	struct htrace_image image;
	__u64 nonce, consumed;
	unsigned long long random;
};

static void rig_init(struct rig *t, enum htrace_policy policy)
{
	struct htrace_region_opts o = {
		.sz = sizeof(o), .placement = HTRACE_PLACEMENT_IVSHMEM, .policy = policy,
		.kind = HTRACE_RING_PER_CPU, .nr_rings = 1, .ring_size = RING, .block_size = BLOCK,
		.clock_id = HTRACE_CLOCK_MONOTONIC,
	};
	struct htrace_ring *ring;
	char where[16];
	int pair[2];

	memset(t, 0, sizeof(*t));
	box_init_ring(&t->box, RING, BLOCK, policy);
	t->mem = aligned_alloc(4096, REGION);
	t->far = aligned_alloc(4096, REGION);
	memset(t->mem, 0, REGION); /* as new shared memory is */
	memset(t->far, 0, REGION);
	ck_assert_int_eq(htrace_region_format(&t->region, t->mem, REGION, &o), 0);
	htrace_region_publish(t->region);
	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	t->fd = pair[0];
	snprintf(where, sizeof(where), "%d", pair[1]);
	ck_assert_int_eq(stream_new(&t->stream, where), 0);
	ring = t->box.ring;
	ck_assert_int_eq(stream_start(t->stream, t->region, &ring, 1), 0);
	stream_apply_init(&t->apply, t->far, REGION);
}

static void rig_free(struct rig *t)
{
	stream_free(t->stream); /* closes its end */
	close(t->fd);
	htrace_region_release(t->region);
	free(t->mem);
	free(t->far);
	box_free(&t->box);
}

static void rig_order(struct rig *t, __u32 type, __u64 a, __u64 b, __u64 c, __u64 d)
{
	struct stream_order o = { STREAM_ORDER_MAGIC, type, { a, b, c, d }, 0 };

	o.sum = stream_order_sum(&o);
	ck_assert_int_eq(write(t->fd, &o, sizeof(o)), sizeof(o));
}

/* As the receiver: what is held of the session goes along. */
static void rig_ask(struct rig *t)
{
	const struct htrace_ringset *set = &t->apply.super.ringset[0];
	struct htrace_relay_point p;
	struct htrace_geometry g;

	stream_apply_expect(&t->apply, ++t->nonce);
	rig_order(t, STREAM_ASK, t->nonce, t->apply.super.session, STREAM_VERSION, 0);
	if (t->apply.super.session) {
		htrace_geometry_of(set, &g);
		htrace_relay_point((struct htrace_ring *)((char *)t->far + set->off), &g, &p);
		rig_order(t, STREAM_POSITION, 0, p.pos, p.head, p.dropped);
	}
	rig_order(t, STREAM_GO, t->nonce, 0, 0, 0);
}

/* Take at most @most bytes off the stream. Returns how many came. */
static size_t rig_take(struct rig *t, size_t most)
{
	unsigned char data[4096];
	size_t all = 0;
	char err[200] = "";

	while (all < most) {
		ssize_t n = read(t->fd, data, most - all < sizeof(data) ? most - all : sizeof(data));

		if (n <= 0)
			break;
		ck_assert_msg(!stream_apply_feed(&t->apply, data, (size_t)n, err, sizeof(err)), "%s", err);
		all += (size_t)n;
	}
	return all;
}

static void rig_pump(struct rig *t)
{
	/* Until nothing came for as long as it may wait. */
	for (int quiet = 0; quiet < 10; quiet++) {
		usleep(2000);
		stream_work(t->stream);
		if (rig_take(t, ~0UL))
			quiet = 0;
	}
}

static void rig_read(struct rig *t)
{
	const struct htrace_ringset *set = &t->apply.super.ringset[0];
	struct htrace_consumer_opts o = { .sz = sizeof(o) };

	ck_assert(t->apply.ready);
	ck_assert_uint_eq(((struct htrace_super *)t->far)->magic, HTRACE_MAGIC);
	t->image.placement = HTRACE_PLACEMENT_IVSHMEM;
	t->image.ring = (struct htrace_ring *)((char *)t->far + set->off);
	htrace_geometry_of(set, &t->image.geometry);
	t->consumed = ((struct htrace_host_ring *)((char *)t->far + HTRACE_HOST_RINGS_OFF))->consumed;
	if (t->box.g.policy == HTRACE_DISCARD)
		o.consumed = &t->consumed;
	ck_assert_int_eq(htrace_consumer_new(&t->box.c, &t->image, &o), 0);
}

static void push_some(struct rig *t, unsigned int most)
{
	for (unsigned int n = (unsigned int)(unit_random(&t->random) % most); n--;)
		box_push(&t->box, 8 + (unsigned int)(unit_random(&t->random) % 40));
}

/* Everything that was attempted has come, or is accounted for. */
static void rig_check(struct rig *t)
{
	for (int i = 0; i < 4; i++) {
		rig_pump(t);
		box_drain(&t->box);
	}
	ck_assert_uint_eq(t->box.received + t->box.lost + t->box.before, t->box.produced);
}

/* The host asks, gets what there is, and reads it. */
static void rig_begin(struct rig *t)
{
	rig_ask(t);
	rig_pump(t);
	rig_read(t);
}

START_TEST(test_in_pieces)
{
	struct rig t;

	rig_init(&t, HTRACE_OVERWRITE);
	rig_begin(&t);
	for (int i = 0; i < (int)unit_some(100); i++) {
		push_some(&t, 60);
		usleep(17000); /* it may wait so long after a silence */
		stream_work(t.stream);
		while (rig_take(&t, 1 + unit_random(&t.random) % 700))
			box_drain(&t.box);
	}
	rig_check(&t);
	ck_assert_uint_eq(t.box.lost, 0);
	ck_assert_uint_eq(t.box.received, t.box.produced);
	rig_free(&t);
}
END_TEST

/* Nobody takes anything: the ring goes around, nothing waits, and what is missing is told exactly. */
START_TEST(test_overrun)
{
	struct rig t;

	rig_init(&t, HTRACE_OVERWRITE);
	rig_begin(&t);
	for (int i = 0; i < (unit_share() > 1 ? 8 : 20); i++) {
		for (int k = 0; k < 40; k++) {
			push_some(&t, 3000);
			usleep(200);
			stream_work(t.stream);
		}
		rig_check(&t);
	}
	ck_assert_uint_gt(t.box.lost, 1000);
	ck_assert_uint_gt(t.box.received, 1000);
	rig_free(&t);
}
END_TEST

/* A host that comes when the ring has gone around: what it holds, as a reader of the ring would see it. */
START_TEST(test_late)
{
	struct rig t;

	rig_init(&t, HTRACE_OVERWRITE);
	t.random = (unsigned long long)_i;
	for (int i = 0; i < 3000 + _i * 7; i++)
		box_push(&t.box, 8 + (unsigned int)i % 30);
	rig_begin(&t);
	rig_check(&t);
	ck_assert_uint_eq(t.box.lost, 0);
	ck_assert_uint_gt(t.box.before, 1000);
	ck_assert_uint_gt(t.box.received, RING / 2 / 48);
	for (int i = 0; i < 20; i++) {
		push_some(&t, 100);
		rig_check(&t);
	}
	ck_assert_uint_eq(t.box.lost, 0);
	rig_free(&t);
}
END_TEST

/* The connection ends anywhere, and begins anew: nothing comes twice, nothing is missing. */
START_TEST(test_asked_again)
{
	struct rig t;

	rig_init(&t, HTRACE_OVERWRITE);
	t.random = (unsigned long long)_i;
	rig_begin(&t);
	for (int i = 0; i < 60; i++) {
		push_some(&t, 60);
		usleep(1100);
		stream_work(t.stream);
		rig_take(&t, unit_random(&t.random) % 3000);
		box_drain(&t.box);
		if (i % 3)
			continue;
		rig_ask(&t); /* what is on its way belongs to nobody */
		rig_pump(&t);
	}
	rig_check(&t);
	ck_assert_uint_eq(t.box.lost, 0);
	rig_free(&t);
}
END_TEST

static void forward(struct rig *t)
{
	if (t->consumed > t->box.ring->consumed)
		t->box.ring->consumed = t->consumed;
}

START_TEST(test_discard)
{
	struct rig t;

	rig_init(&t, HTRACE_DISCARD);
	rig_begin(&t);
	for (int i = 0; i < (unit_share() > 1 ? 20 : 60); i++) {
		push_some(&t, 500);
		rig_pump(&t);
		box_drain(&t.box);
		forward(&t);
	}
	rig_check(&t);
	ck_assert_uint_gt(t.box.lost, 100);
	rig_free(&t);
}
END_TEST

/* Another host takes over, which has nothing: it begins behind what the first one read. */
START_TEST(test_discard_other_host)
{
	struct rig t;
	__u64 received;

	rig_init(&t, HTRACE_DISCARD);
	t.random = (unsigned long long)_i;
	rig_begin(&t);
	for (int i = 0; i < (unit_share() > 1 ? 10 : 40); i++) {
		push_some(&t, 100);
		rig_pump(&t);
		box_drain(&t.box);
		forward(&t);
	}
	rig_check(&t);
	forward(&t);
	received = t.box.received;
	push_some(&t, 100);
	htrace_consumer_free(t.box.c);
	stream_apply_init(&t.apply, t.far, REGION); /* as of another process */
	rig_begin(&t);
	for (int i = 0; i < (unit_share() > 1 ? 10 : 40); i++) {
		push_some(&t, 100);
		rig_pump(&t);
		box_drain(&t.box);
		forward(&t);
	}
	for (int i = 0; i < 4; i++) {
		rig_pump(&t);
		box_drain(&t.box);
	}
	/* Attempts are dropped before the second reader counts; what has a number is there once. */
	ck_assert_uint_eq(t.box.received, t.box.seq);
	ck_assert_uint_gt(t.box.received, received);
	rig_free(&t);
}
END_TEST

/* Words of the host's reader reach the agent's region, and only those of the host's areas. */
START_TEST(test_words)
{
	const struct htrace_host *host;
	char *before;
	struct rig t;

	rig_init(&t, HTRACE_OVERWRITE);
	host = htrace_region_host(t.region);
	rig_order(&t, STREAM_WORD, HTRACE_HOST_OFF + offsetof(struct htrace_host, heartbeat), 1, 0, 0);
	stream_work(t.stream);
	stream_work(t.stream);
	ck_assert_uint_eq(host->heartbeat, 0); /* of a connection that did not begin */
	rig_ask(&t);
	rig_pump(&t);
	before = malloc(REGION);
	memcpy(before, t.mem, REGION);
	rig_order(&t, STREAM_WORD, HTRACE_HOST_OFF + offsetof(struct htrace_host, heartbeat), 5, 0, 0);
	rig_order(&t, STREAM_WORD, HTRACE_HOST_RINGS_OFF, 77, 0, 0);
	rig_order(&t, STREAM_WORD, HTRACE_HOST_OFF + offsetof(struct htrace_host, clock_ping), 9, 0, 0);
	rig_order(&t, STREAM_WORD, 0, 1, 0, 0);
	rig_order(&t, STREAM_WORD, HTRACE_HOST_OFF + 4, 1, 0, 0);
	rig_order(&t, STREAM_WORD, HTRACE_HOST_RINGS_OFF + 64, 1, 0, 0);
	rig_order(&t, STREAM_WORD, HTRACE_FIXED_END, 1, 0, 0);
	rig_order(&t, STREAM_WORD, ~0ULL - 7, 1, 0, 0);
	ck_assert_int_eq(write(t.fd, "half an order", 13), 13);
	rig_order(&t, STREAM_WORD, HTRACE_HOST_OFF + offsetof(struct htrace_host, drained), 6, 0, 0);
	rig_pump(&t);
	ck_assert(stream_asked(t.stream) && !stream_asked(t.stream));
	ck_assert_uint_eq(host->heartbeat, 5);
	ck_assert_uint_eq(host->drained, 6);
	ck_assert_uint_eq(host->clock_ping, 9);
	ck_assert_uint_eq(htrace_region_host_ring(t.region, 0)->consumed, 77);
	memset(before + HTRACE_HOST_OFF, 0, sizeof(struct htrace_host) + 64);
	memset((char *)t.mem + HTRACE_HOST_OFF, 0, sizeof(struct htrace_host) + 64);
	memset((char *)t.mem + HTRACE_HOST_RINGS_OFF, 0, 8);
	memset(before + HTRACE_HOST_RINGS_OFF, 0, 8);
	ck_assert(!memcmp(before, t.mem, REGION));
	free(before);
	rig_free(&t);
}
END_TEST

/* What else is in the region is the same on both sides, whenever it changed. */
START_TEST(test_areas)
{
	const struct htrace_super *s;
	struct rig t;

	rig_init(&t, HTRACE_OVERWRITE);
	s = htrace_region_super(t.region);
	rig_ask(&t);
	for (unsigned int i = 0; i < unit_some(200); i++) {
		struct htrace_guest *g = htrace_region_guest(t.region);
		char comm[16];

		snprintf(comm, sizeof(comm), "task %u", i);
		ck_assert_int_eq(htrace_region_add_name(t.region, 1 + i, 1 + i, comm, i), 0);
		htrace_region_beat(t.region, i);
		((__u64 *)g)[unit_random(&t.random) % (sizeof(*g) / 8)] ^= 1ULL << i % 64;
		usleep(1000);
		rig_pump(&t);
		ck_assert(!memcmp((char *)t.far + s->guest.off, g, sizeof(*g)));
		ck_assert(!memcmp((char *)t.far + s->names.off, htrace_region_names(t.region),
				  sizeof(struct htrace_names) + (i + 1) * sizeof(struct htrace_name)));
		if (i == unit_some(200) / 2)
			rig_ask(&t);
	}
	ck_assert(!memcmp((char *)t.far + 8, (char *)t.mem + 8, sizeof(*s) - 8)); /* their sizes are the same */
	rig_free(&t);
}
END_TEST

static void refused(struct rig *t, const void *data, size_t len, const char *why)
{
	char err[200] = "";

	ck_assert_int_eq(stream_apply_feed(&t->apply, data, len, err, sizeof(err)), -EPROTO);
	ck_assert_msg(strstr(err, why) != NULL, "'%s' instead of '%s'", err, why);
}

START_TEST(test_refused)
{
	struct {
		struct stream_frame f;
		struct stream_hello h;
	} __attribute__((packed)) m = { { STREAM_FRAME_MAGIC, STREAM_HELLO, 0, sizeof(m.h), 0 }, { .version = 1 } }, good;
	struct {
		struct stream_frame f;
		__u64 word[2];
	} s = { { STREAM_FRAME_MAGIC, STREAM_STORE, 0, 16, 0 }, { 1, 2 } };
	char err[200];
	struct rig t;

	rig_init(&t, HTRACE_OVERWRITE);
	m.h.super = *htrace_region_super(t.region);
	good = m;
	stream_apply_expect(&t.apply, 5);
	ck_assert_int_eq(stream_apply_feed(&t.apply, &m, sizeof(m), err, sizeof(err)), 0); /* another's answer */
	ck_assert(t.apply.waits);
	m.f.arg = 5;
	m.h.version = 2;
	refused(&t, &m, sizeof(m), "version 2");
	m = good;
	m.f.arg = 5;
	m.h.super.region_size += HTRACE_GRANULE;
	stream_apply_expect(&t.apply, 5);
	refused(&t, &m, sizeof(m), "smaller --buffer");
	m.h.super = good.h.super;
	m.h.super.ringset[0].off = REGION;
	stream_apply_expect(&t.apply, 5);
	refused(&t, &m, sizeof(m), "");
	m.h.super = good.h.super;
	for (__u64 off = 0; off < HTRACE_FIXED_END; off += HTRACE_GRANULE / 2) {
		stream_apply_expect(&t.apply, 5);
		ck_assert_int_eq(stream_apply_feed(&t.apply, &m, sizeof(m), err, sizeof(err)), 0);
		s.f.arg = off;
		refused(&t, &s, sizeof(s), "outside");
	}
	stream_apply_expect(&t.apply, 5);
	ck_assert_int_eq(stream_apply_feed(&t.apply, &m, sizeof(m), err, sizeof(err)), 0);
	s.f.arg = REGION - 16;
	ck_assert_int_eq(stream_apply_feed(&t.apply, &s, sizeof(s), err, sizeof(err)), 0);
	s.f.arg = REGION - 8;
	refused(&t, &s, sizeof(s), "outside");
	rig_free(&t);
}
END_TEST

START_TEST(test_places)
{
	static const struct {
		const char *text;
		int kind; /* -1: none */
		bool loopback;
	} places[] = {
		{ "3", STREAM_FD, false }, { "/dev/null", STREAM_DEVICE, false }, { "/tmp/x", STREAM_UNIX, false },
		{ "./x", STREAM_UNIX, false }, { "127.0.0.1:80", STREAM_TCP, true }, { "127.9.9.9:1", STREAM_TCP, true },
		{ "localhost:65535", STREAM_TCP, true }, { "[::1]:7000", STREAM_TCP, true },
		{ "10.0.2.2:7000", STREAM_TCP, false }, { "0.0.0.0:1", STREAM_TCP, false }, { "[::]:1", STREAM_TCP, false },
		{ "[::ffff:127.0.0.1]:1", STREAM_TCP, false }, { "vsock:3:7000", STREAM_VSOCK, false },
		{ "vsock:any:1", STREAM_VSOCK, false },
		{ "", -1, false }, { "x", -1, false }, { "x:1", -1, false }, { "127.0.0.1:", -1, false },
		{ "127.0.0.1:0", -1, false }, { "127.0.0.1:65536", -1, false }, { "127.0.0.1:-1", -1, false },
		{ ":7000", -1, false }, { "vsock:3", -1, false }, { "vsock::1", -1, false }, { "vsock:3:", -1, false },
		{ "vsock:4294967296:1", -1, false }, { "99999999999", -1, false },
	};
	char err[200], longer[200] = "/";
	struct stream_place p;

	for (size_t i = 0; i < sizeof(places) / sizeof(*places); i++) {
		int ret = stream_place_parse(&p, places[i].text, err, sizeof(err));

		ck_assert_msg(ret == (places[i].kind < 0 ? -EINVAL : 0), "%s", places[i].text);
		if (!ret)
			ck_assert_msg((int)p.kind == places[i].kind && p.loopback == places[i].loopback, "%s",
				      places[i].text);
	}
	memset(longer + 1, 'x', sizeof(longer) - 2);
	ck_assert_int_eq(stream_place_parse(&p, longer, err, sizeof(err)), -EINVAL);
}
END_TEST

/* ------------------------------------------------------------------------------ the process that receives */

/* What it says is a stranger's word: there is nothing in it that steers a terminal, and no end but that of its room. */
START_TEST(test_news)
{
	struct stream_news news = { .what = STREAM_SAID, .text = "\033[2J\n'" };
	int pair[2];

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair), 0);
	ck_assert_int_eq(stream_news_take(pair[0], &news), STREAM_NOTHING);
	ck_assert_int_eq(send(pair[1], &news, sizeof(news), 0), sizeof(news));
	ck_assert_int_eq(stream_news_take(pair[0], &news), STREAM_SAID);
	ck_assert_str_eq(news.text, "\\x1b[2J\\x0a'");
	memset(news.text, 0xff, sizeof(news.text));
	ck_assert_int_eq(send(pair[1], &news, sizeof(news), 0), sizeof(news));
	ck_assert_int_eq(stream_news_take(pair[0], &news), STREAM_SAID);
	ck_assert_uint_gt(strlen(news.text), sizeof(news.text) - 8);
	ck_assert_uint_eq(strspn(news.text, "\\xf"), strlen(news.text));
	news.what = 77;
	ck_assert_int_eq(send(pair[1], &news, sizeof(news), 0), sizeof(news));
	ck_assert_int_eq(stream_news_take(pair[0], &news), STREAM_ENDED);
	ck_assert_int_eq(send(pair[1], &news, 3, 0), 3);
	ck_assert_int_eq(stream_news_take(pair[0], &news), STREAM_ENDED);
	close(pair[1]);
	ck_assert_int_eq(stream_news_take(pair[0], &news), STREAM_ENDED);
	close(pair[0]);
}
END_TEST

static __u64 now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (__u64)t.tv_sec * 1000000000 + (__u64)t.tv_nsec;
}

static struct stream_receiver *start_receiver(const char *where, int fd)
{
	struct stream_receiver *r;
	struct stream_place place;
	char err[200] = "";
	int memory = memfd_create("test", MFD_CLOEXEC);

	ck_assert(memory >= 0 && !ftruncate(memory, REGION));
	ck_assert_msg(!stream_place_parse(&place, where, err, sizeof(err)), "%s", err);
	ck_assert_int_eq(stream_receiver_start(&r, &place, fd, memory, REGION), 0);
	close(memory);
	return r;
}

static bool runs(pid_t pid)
{
	char name[64], state = 0;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/%d/stat", (int)pid);
	f = fopen(name, "re");
	if (f && fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		state = 0;
	if (f)
		fclose(f);
	return state && state != 'Z' && state != 'X';
}

/* The process that @parent started last; 0: none. */
static pid_t last_child(pid_t parent)
{
	char name[64];
	int pid = 0;
	FILE *f;

	snprintf(name, sizeof(name), "/proc/%d/task/%d/children", (int)parent, (int)parent);
	f = fopen(name, "re");
	while (f && fscanf(f, "%d", &pid) == 1)
		;
	if (f)
		fclose(f);
	return pid;
}

/* One that does not end by itself is ended, and keeps nobody from ending. */
START_TEST(test_stuck)
{
	struct stream_receiver *r;
	__u64 begin;
	int pair[2];
	char where[16];
	pid_t pid = 0;

	ck_assert_int_eq(socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, pair), 0);
	snprintf(where, sizeof(where), "%d", pair[1]);
	r = start_receiver(where, pair[1]);
	for (int i = 0; i < 5000 && !pid; i++) {
		usleep(1000);
		pid = last_child(last_child(getpid()));
	}
	ck_assert_int_gt(pid, 0);
	ck_assert_int_eq(kill(pid, SIGSTOP), 0);
	if (_i) { /* nor does who is to end it */
		ck_assert_int_eq(kill(last_child(getpid()), SIGSTOP), 0);
		usleep(100000);
	}
	begin = now_ns();
	stream_receiver_end(r);
	ck_assert_uint_lt(now_ns() - begin, 20000000000ULL);
	if (_i) {
		ck_assert_int_eq(kill(last_child(getpid()), SIGCONT), 0);
		ck_assert_int_gt(wait(NULL), 0);
	}
	for (int i = 0; i < 10000 && runs(pid); i++)
		usleep(1000);
	ck_assert(!runs(pid));
	close(pair[0]);
}
END_TEST

static int accept_soon(int listener, int most_ms)
{
	int fd = -1;

	for (int i = 0; i < most_ms && fd < 0; i++) {
		usleep(1000);
		fd = accept4(listener, NULL, NULL, SOCK_NONBLOCK);
	}
	return fd;
}

/* Who listens may come later, and again; each is asked. */
START_TEST(test_connects)
{
	char dir[] = "/tmp/htrace-test-XXXXXX";
	struct sockaddr_un a = { .sun_family = AF_UNIX };
	struct stream_receiver *r;
	struct stream_news news;
	struct stream_order o;
	int listener, fd;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	snprintf(a.sun_path, sizeof(a.sun_path), "%s/socket", dir);
	r = start_receiver(a.sun_path, -1);
	for (int i = 0; i < 5000 && stream_receiver_news(r, &news) != STREAM_SAID; i++)
		usleep(1000);
	ck_assert_str_eq(news.text, "cannot connect: No such file or directory; trying again");
	listener = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0);
	ck_assert(!bind(listener, (struct sockaddr *)&a, sizeof(a)) && !listen(listener, 1));
	for (int i = 0; i < 3; i++) {
		fd = accept_soon(listener, 5000);
		ck_assert_int_ge(fd, 0);
		for (int k = 0; k < 5000 && recv(fd, &o, sizeof(o), MSG_PEEK) != sizeof(o); k++)
			usleep(1000);
		ck_assert_uint_eq(o.magic, STREAM_ORDER_MAGIC);
		ck_assert_uint_eq(o.type, STREAM_ASK);
		close(fd);
	}
	ck_assert_int_eq(stream_receiver_news(r, &news), STREAM_NOTHING);
	stream_receiver_end(r);
	ck_assert_int_eq(last_child(getpid()), 0);
	close(listener);
	unlink(a.sun_path);
	rmdir(dir);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("stream");
	TCase *c = tcase_create("stream");

	tcase_set_timeout(c, 120);
	tcase_add_test(c, test_in_pieces);
	tcase_add_test(c, test_overrun);
	tcase_add_loop_test(c, test_late, 0, (int)unit_some(4));
	tcase_add_loop_test(c, test_asked_again, 0, (int)unit_some(4));
	tcase_add_test(c, test_discard);
	tcase_add_loop_test(c, test_discard_other_host, 0, (int)unit_some(2));
	tcase_add_test(c, test_words);
	tcase_add_test(c, test_areas);
	tcase_add_test(c, test_refused);
	tcase_add_test(c, test_places);
	tcase_add_test(c, test_news);
	tcase_add_loop_test(c, test_stuck, 0, 2);
	tcase_add_test(c, test_connects);
	suite_add_tcase(s, c);
	return unit_run(s);
}
