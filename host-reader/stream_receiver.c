/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream_receiver.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#include <htrace/schema.h>

#include "clock.h"
#include "confine.h"
#include "core.h"
#include "helper_process.h"
#include "pass_fd.h"
#include "relay_sink.h"
#include "stream_apply.h"

#define READER HELPER_FD /* in the receiver: whom it tells */
#define MS 1000000ULL
#define RETRY_NS (200 * MS)  /* between two tries to connect */
#define PAUSE_NS (1000 * MS) /* after one that sent what it should not have */
#define ASK_NS (3000 * MS)   /* without a word: it is asked again, */
#define GIVE_UP_NS (10000 * MS) /* and where others may come in its place, given up */
#define WORDS_MSEC 10        /* between two looks at what the reader tells the guest; */
#define CLOCK_MSEC 1         /* while an answer of its clock is waited for */
#define READ_SIZE 65536u
#define READS 32 /* until others have their turn */
#define END_MSEC 1000 /* for one that is to end */
#define HEADER_WORDS (offsetof(struct htrace_host, telling) / 8)
#define RING_WORDS 4 /* of each that it is told: from consumed to drained */
#define ORDERS_MAX (HTRACE_MAX_RINGS * 5 + 64)

struct stream_receiver {
	int sock, life; /* that is closed for it to end */
	pid_t pid;      /* of who connects for it, its parent */
	bool ended;
};

struct receiver {
	const struct stream_place *place;
	int door;   /* where connections come from: the socket that it listens at, or who connects for it; or -1 */
	bool asked; /* the latter for one */
	int fd;     /* or -1 */
	bool said_up;
	int said_err;
	__u64 next;  /* try again, or ask again; host time, ns */
	__u64 heard; /* something that makes sense */
	struct stream_apply apply;
	__u64 header[HEADER_WORDS];                    /* of the host, as the guest was told */
	__u64 words[HTRACE_MAX_RINGS][RING_WORDS];
	bool told; /* it was told all of them */
	struct stream_order out[ORDERS_MAX];
	size_t out_beg, out_end; /* bytes */
};

/* ------------------------------------------------------------------------------------------------ saying */

__attribute__((format(printf, 2, 3))) static void tell(enum stream_what what, const char *fmt, ...)
{
	struct stream_news news = { .what = what };
	va_list args;

	va_start(args, fmt);
	vsnprintf(news.text, sizeof(news.text), fmt, args);
	va_end(args);
	send(READER, &news, sizeof(news), MSG_NOSIGNAL | MSG_DONTWAIT);
}

static bool listens(const struct receiver *r)
{
	return stream_place_listens(r->place);
}

static bool comes_again(const struct receiver *r)
{
	return r->place->kind != STREAM_FD && r->place->kind != STREAM_DEVICE;
}

/* Returns whether it can go on. */
static bool lose(struct receiver *r, const char *why, __u64 pause, __u64 now)
{
	bool ends = !comes_again(r) && !pause;

	if (r->said_up || ends)
		tell(ends ? STREAM_ENDED : STREAM_SAID, "the connection is over: %s", why);
	else if (pause)
		tell(STREAM_SAID, "what came is refused: %s", why);
	if (comes_again(r)) {
		close(r->fd);
		r->fd = -1;
	}
	r->said_up = false;
	r->out_beg = r->out_end = 0;
	r->apply.waits = true;
	r->next = now + (pause ? pause : RETRY_NS);
	return !ends;
}

/* ------------------------------------------------------------------------------------------------ orders */

static void order(struct receiver *r, __u32 type, __u64 a, __u64 b, __u64 c, __u64 d)
{
	struct stream_order o = { .magic = STREAM_ORDER_MAGIC, .type = type, .arg = { a, b, c, d } };

	if (r->out_end + sizeof(o) > sizeof(r->out))
		return; /* the guest does not read: it is asked again, or told later */
	o.sum = stream_order_sum(&o);
	memcpy((char *)r->out + r->out_end, &o, sizeof(o));
	r->out_end += sizeof(o);
}

/* What is held of the session, for the guest to go on there. */
static void ask(struct receiver *r, __u64 now)
{
	const struct htrace_ringset *set = &r->apply.super.ringset[0];
	__u64 nonce = htrace_random(), held = r->apply.super.session;
	struct htrace_geometry g;

	r->out_end = r->out_beg % sizeof(struct stream_order) ? r->out_end : 0; /* what is half out goes out */
	r->out_beg = r->out_end ? r->out_beg : 0;
	stream_apply_expect(&r->apply, nonce);
	order(r, STREAM_ASK, nonce, held, STREAM_VERSION, 0);
	if (held)
		htrace_geometry_of(set, &g);
	for (__u32 i = 0; held && i < set->nr_rings; i++) {
		struct htrace_ring *ring = (struct htrace_ring *)(r->apply.mem + set->off + i * set->stride);
		struct htrace_relay_point p;

		htrace_relay_point(ring, &g, &p);
		order(r, STREAM_POSITION, i, p.pos, p.head, p.dropped);
	}
	order(r, STREAM_GO, nonce, 0, 0, 0);
	r->told = false;
	r->next = now + ASK_NS;
}

/* The reader's words. From the last to the first: what announces others comes before them in memory. */
static void tell_words(struct receiver *r)
{
	const __u64 *header = (const __u64 *)(r->apply.mem + HTRACE_HOST_OFF);
	const struct htrace_ringset *set = &r->apply.super.ringset[0];

	if (r->apply.waits || !r->apply.ready || r->out_end)
		return;
	for (__u32 i = 0; i < set->nr_rings; i++) {
		__u64 off = HTRACE_HOST_RINGS_OFF + (set->first_slot + i) * sizeof(struct htrace_host_ring);

		for (__u32 k = 0; k < RING_WORDS; k++) {
			__u64 v = __atomic_load_n((const __u64 *)(r->apply.mem + off) + k, __ATOMIC_ACQUIRE);

			if (r->told ? v == r->words[i][k] : !v)
				continue;
			r->words[i][k] = v;
			order(r, STREAM_WORD, off + 8 * k, v, 0, 0);
		}
	}
	for (size_t k = HEADER_WORDS; k--;) {
		__u64 v = __atomic_load_n(&header[k], __ATOMIC_ACQUIRE);

		if (r->told && v == r->header[k])
			continue;
		r->header[k] = v;
		order(r, STREAM_WORD, HTRACE_HOST_OFF + 8 * k, v, 0, 0);
	}
	r->told = true;
}

/* 0 or an error. */
static int flush(struct receiver *r)
{
	while (r->out_beg < r->out_end) {
		ssize_t n = write(r->fd, (char *)r->out + r->out_beg, r->out_end - r->out_beg);

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? 0 : errno;
		r->out_beg += (size_t)n;
	}
	r->out_beg = r->out_end = 0;
	return 0;
}

/* -------------------------------------------------------------------------------------------- connecting */

/*
 * To a UNIX socket its parent makes the connections, which sees no byte of a guest's: code that a guest got to run in
 * this one could speak with whoever listens at a socket of this machine, if it could connect by itself.
 */
static void hand_over(const struct stream_place *place, int to)
{
	bool pending; /* never, of those */
	int fd = stream_place_connect(place, &pending), error = fd < 0 ? -fd : 0;

	pass_fds(to, &error, sizeof(error), &fd, !error, MSG_DONTWAIT); /* one that takes no answers does not hold us up */
	if (!error)
		close(fd);
}

/* A connection, or -errno: -EAGAIN: nothing came yet; -EPIPE: who connects is gone. */
static int take_over(int from)
{
	int error, fd[PASS_FDS], nr = take_fds(from, &error, sizeof(error), fd, MSG_DONTWAIT);

	if (nr < 0)
		return nr;
	return error ? -error : nr ? fd[0] : -EMFILE;
}

static void begin(struct receiver *r, __u64 now)
{
	r->said_err = 0;
	r->heard = now;
	ask(r, now);
}

/* Once of each reason: others bring it about as often as they like. */
static void say_why_not(struct receiver *r, int err)
{
	if (r->said_err == err)
		return;
	r->said_err = err;
	if (listens(r))
		tell(STREAM_SAID, "another virtual machine than that one connected, and was sent away");
	else
		tell(STREAM_SAID, "cannot connect: %s; trying again", strerror(err));
}

/* Returns whether it goes on. */
static bool await(struct receiver *r, __u64 now)
{
	int fd;

	if (now < r->next)
		return true;
	if (!listens(r) && !r->asked) {
		r->asked = send(r->door, "", 1, MSG_NOSIGNAL) == 1;
		if (!r->asked)
			tell(STREAM_ENDED, "host-reader's process that connects is gone");
		return r->asked;
	}
	fd = listens(r) ? stream_place_accept(r->place, r->door) : take_over(r->door);
	if (fd >= 0) {
		r->asked = false;
		r->fd = fd;
		begin(r, now);
	} else if (listens(r)) { /* it is polled for */
		if (fd == -EPERM)
			say_why_not(r, EPERM);
	} else if (fd == -EPIPE) {
		tell(STREAM_ENDED, "host-reader's process that connects is gone");
		return false;
	} else if (fd != -EAGAIN) {
		r->asked = false;
		r->next = now + RETRY_NS;
		say_why_not(r, -fd);
	}
	return true;
}

/* ---------------------------------------------------------------------------------------------- receiving */

static bool receive(struct receiver *r, __u64 now)
{
	static unsigned char data[READ_SIZE];
	char err[300] = "";

	for (int i = 0; i < READS; i++) {
		bool waited = r->apply.waits;
		__u64 frames = r->apply.frames;
		ssize_t n = read(r->fd, data, sizeof(data));

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return true;
		if (n <= 0)
			return lose(r, n ? strerror(errno) : "closed by the other end", 0, now);
		if (stream_apply_feed(&r->apply, data, (size_t)n, err, sizeof(err)))
			return lose(r, err, PAUSE_NS, now);
		if (r->apply.frames != frames || !r->apply.waits)
			r->heard = now;
		if (waited && !r->apply.waits && !r->said_up) {
			tell(STREAM_SAID, "a guest answers");
			r->said_up = true;
		}
	}
	return true;
}

/* One that does not answer, or says nothing any more: it may be another one by now. */
static bool watch(struct receiver *r, __u64 now)
{
	if (listens(r) && now - r->heard > GIVE_UP_NS)
		return lose(r, "no sign of life", 0, now);
	if (now >= r->next && (r->apply.waits || now - r->heard > ASK_NS))
		ask(r, now);
	return true;
}

static int timeout(const struct receiver *r, __u64 now)
{
	const struct htrace_host *host = (const struct htrace_host *)(r->apply.mem + HTRACE_HOST_OFF);

	if (r->fd < 0)
		return r->next > now ? (int)((r->next - now) / MS) + 1 : listens(r) || r->asked ? -1 : 1;
	return __atomic_load_n(&host->clock_ping, __ATOMIC_RELAXED) ? CLOCK_MSEC : WORDS_MSEC;
}

/* Returns whether it goes on. */
static bool serve(struct receiver *r)
{
	struct pollfd p[2] = { { .fd = READER, .events = POLLIN } };
	__u64 now = clock_now();
	bool refused = r->fd >= 0 && !comes_again(r) && !r->said_up && r->apply.frames && r->apply.waits && now < r->next;
	int err;

	p[1].fd = r->fd >= 0 ? refused ? -1 : r->fd : now < r->next ? -1 : r->door;
	p[1].events = (short)(r->fd >= 0 && r->out_end ? POLLIN | POLLOUT : POLLIN);
	if (poll(p, 2, timeout(r, now)) < 0 && errno != EINTR)
		return false;
	if (p[0].revents)
		return false; /* the reader is gone: it never says anything */
	now = clock_now();
	if (r->fd < 0)
		return await(r, now);
	if (refused)
		return true;
	if (!receive(r, now))
		return false;
	if (r->fd < 0 || !watch(r, now) || r->fd < 0)
		return r->fd < 0;
	tell_words(r);
	err = flush(r);
	return err ? lose(r, strerror(err), 0, now) : true;
}

/* In the process that has @way to its parent, and @fd: where to accept from, what is connected, or -1. */
static void be_receiver(const struct stream_place *place, int sock, int way, int fd, void *mem, __u64 size)
{
	static struct receiver r;
	const int keep[] = { sock, way, fd };

	helper_process_begin("reader-stream", keep, fd < 0 ? 2 : 3);
	r.place = place;
	r.door = listens(&r) ? HELPER_FD + 2 : HELPER_FD + 1;
	r.fd = listens(&r) || fd < 0 ? -1 : HELPER_FD + 2;
	stream_apply_init(&r.apply, mem, size);
	if (confine_receiver(place->kind == STREAM_UNIX))
		_exit(1);
	if (r.fd >= 0)
		begin(&r, clock_now());
	while (serve(&r))
		;
	_exit(0);
}

#define LIFE HELPER_FD /* in its parent: the reader lives; */
#define WAY (HELPER_FD + 1)

/*
 * Connects, and ends the receiver with the reader: code that a guest got to run there would not end by itself, and the
 * reader is not allowed to send signals.
 */
static void keep_receiver(const struct stream_place *place, pid_t receiver)
{
	struct pollfd p[2] = { { .fd = LIFE, .events = POLLIN }, { .fd = WAY, .events = POLLIN } };
	char c;

	for (;;) {
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			break;
		if (p[0].revents)
			break;
		if (p[1].revents && (place->kind != STREAM_UNIX || recv(WAY, &c, 1, MSG_DONTWAIT) != 1))
			break;
		if (p[1].revents)
			hand_over(place, WAY);
	}
	kill(receiver, SIGKILL);
	_exit(0);
}

static void be_connector(const struct stream_place *place, int life, int sock, int fd, int memory, __u64 size)
{
	const int all[] = { life, sock, fd };
	void *mem = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, memory, 0);
	int way[2];
	pid_t pid;

	helper_process_begin("reader-connect", all, fd < 0 ? 2 : 3);
	if (mem == MAP_FAILED || socketpair(AF_UNIX, SOCK_SEQPACKET, 0, way) || confine_connector_files())
		_exit(1);
	pid = fork();
	if (!pid)
		be_receiver(place, HELPER_FD + 1, way[1], fd < 0 ? -1 : HELPER_FD + 2, mem, size);
	helper_process_begin("reader-connect", (const int[]){ LIFE, way[0] }, 2);
	munmap(mem, size);
	if (pid > 0 && !confine_connector(pid))
		keep_receiver(place, pid);
	if (pid > 0)
		kill(pid, SIGKILL);
	_exit(1);
}

/* ---------------------------------------------------------------------------------------------- the reader */

int stream_receiver_start(struct stream_receiver **out, const struct stream_place *place, int fd, int memory,
			  __u64 size)
{
	struct stream_receiver *r = calloc(1, sizeof(*r));
	int pair[2] = { -1, -1 }, life[2], ret = r ? 0 : -ENOMEM;

	if (!ret && socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair))
		ret = -errno;
	if (!ret && pipe2(life, O_CLOEXEC)) {
		ret = -errno;
		close(pair[0]);
		close(pair[1]);
	}
	if (!ret) {
		r->pid = fork();
		if (!r->pid)
			be_connector(place, life[0], pair[1], fd, memory, size);
		ret = r->pid < 0 ? -errno : 0;
		close(life[0]);
		close(pair[1]);
		r->life = life[1];
		r->sock = pair[0];
		if (ret) {
			close(life[1]);
			close(pair[0]);
		}
	}
	if (fd > STDERR_FILENO)
		close(fd);
	if (ret)
		free(r);
	else
		*out = r;
	return ret;
}

enum stream_what stream_news_take(int sock, struct stream_news *news)
{
	struct stream_news raw;
	size_t len;
	ssize_t n;

	do
		n = recv(sock, &raw, sizeof(raw), MSG_DONTWAIT);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return STREAM_NOTHING;
	if (n != sizeof(raw) || (raw.what != STREAM_SAID && raw.what != STREAM_ENDED)) {
		*news = (struct stream_news){ .what = STREAM_ENDED, .text = "host-reader's process that receives is gone" };
		return STREAM_ENDED;
	}
	news->what = raw.what;
	len = htrace_escape(news->text, sizeof(news->text) - 1, raw.text, strnlen(raw.text, sizeof(raw.text)));
	news->text[len] = 0;
	return news->what;
}

enum stream_what stream_receiver_news(struct stream_receiver *r, struct stream_news *news)
{
	enum stream_what what = r->ended ? STREAM_NOTHING : stream_news_take(r->sock, news);

	r->ended |= what == STREAM_ENDED;
	return what;
}

void stream_receiver_end(struct stream_receiver *r)
{
	if (!r)
		return;
	close(r->life);
	close(r->sock);
	for (int i = 0; i < END_MSEC; i++) {
		pid_t ret = waitpid(r->pid, NULL, WNOHANG);

		if (ret > 0 || (ret < 0 && errno != EINTR))
			break;
		usleep(1000);
	}
	free(r);
}
