/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The connection: it comes about, the host asks and says its words, and what is queued goes out. */
#include "stream_internal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "message.h"
#include "monotonic.h"
#include "pace.h"

#define MS 1000000ULL
#define RETRY_NS (200 * MS)     /* from one try to connect to the next, */
#define RETRY_MAX_NS (2000 * MS) /* twice as long each time, up to this */
#define HUNG_UP_NS (100 * MS)   /* between two looks at a device whose other end is closed */
#define WORDS_NS (20 * MS)      /* between two looks for what changed beside the rings */
#define ROUNDS 64
#define FINISH_NS (2000 * MS)   /* at the end: so long nothing may go out, */
#define FINISH_MAX_NS (15000 * MS) /* and this is all of it */

int stream_new(struct stream **out, const char *where)
{
	struct stream *s = calloc(1, sizeof(*s));
	char why[256];

	if (!s) {
		say("out of memory");
		return -1;
	}
	signal(SIGPIPE, SIG_IGN); /* the host may go at any time; EPIPE says so */
	s->fd = -1;
	if (stream_place_parse(&s->place, where, why, sizeof(why))) {
		say("--region stream: %s", why);
		free(s);
		return -1;
	}
	s->where = strdup(where);
	*out = s;
	return 0;
}

int stream_start(struct stream *s, struct htrace_region *r, struct htrace_ring *const *ring, __u32 nr)
{
	const struct htrace_ringset *set = htrace_region_super(r)->ringset;

	s->ring = calloc(nr, sizeof(*s->ring));
	if (!s->ring || !s->where) {
		say("cannot stream: out of memory");
		return -1;
	}
	s->region = r;
	s->nr = nr;
	s->every = PACE_NS;
	htrace_region_ring(r, 0, 0, &s->geometry);
	for (__u32 i = 0; i < nr; i++)
		s->ring[i] = (struct stream_ring){ .stream = s, .ring = ring[i], .off = set->off + i * set->stride };
	return 0;
}

/* ------------------------------------------------------------------------------------------ connecting */

static void forget_host(struct stream *s)
{
	struct htrace_host *host = (struct htrace_host *)(uintptr_t)htrace_region_host(s->region);

	memset(host, 0, sizeof(*host));
	for (__u32 i = 0; i < s->nr; i++)
		memset((void *)(uintptr_t)htrace_region_host_ring(s->region, i), 0, sizeof(struct htrace_host_ring));
}

static void drop_queue(struct stream *s)
{
	stream_forget_sent(s);
	for (__u32 i = 0; i < s->nr; i++) {
		htrace_relay_free(s->ring[i].relay);
		s->ring[i].relay = NULL;
	}
}

/* A device stays open, unless it is gone itself: it is the other end that comes and goes. */
static void hang_up(struct stream *s, int err)
{
	bool stays = s->fd >= 0 && (s->place.kind == STREAM_FD ||
				    (s->place.kind == STREAM_DEVICE && err != EIO && err != ENODEV && err != ENXIO));

	if (s->state == STREAM_RUNNING)
		say("stream %s: the host is gone (%s); waiting for it", s->where, err ? strerror(err) : "closed");
	drop_queue(s);
	s->in_len = 0;
	s->hung_up = stays;
	s->state = stays ? STREAM_SILENT : STREAM_CLOSED;
	if (!stays && s->fd >= 0) {
		close(s->fd);
		s->fd = -1;
	}
	s->pause = stays ? HUNG_UP_NS : s->pause ? 2 * s->pause : RETRY_NS;
	if (s->pause > RETRY_MAX_NS)
		s->pause = RETRY_MAX_NS;
	s->next = monotonic_ns() + s->pause;
}

static void connect_to(struct stream *s)
{
	char why[256];
	bool pending;
	int fd;

	/* A device may have come since. */
	fd = stream_place_parse(&s->place, s->where, why, sizeof(why));
	if (!fd)
		fd = stream_place_connect(&s->place, &pending);
	if (fd < 0) {
		if (s->said_err != -fd)
			say("stream %s: %s; trying again until the host listens there", s->where, strerror(-fd));
		s->said_err = -fd;
		hang_up(s, -fd);
		return;
	}
	s->fd = fd;
	s->state = pending ? STREAM_CONNECTING : STREAM_SILENT;
}

static void see_connected(struct stream *s)
{
	struct pollfd p = { .fd = s->fd, .events = POLLOUT };
	int err;

	if (poll(&p, 1, 0) <= 0)
		return;
	err = stream_place_connected(s->fd);
	if (!err) {
		s->state = STREAM_SILENT;
		return;
	}
	if (s->said_err != -err)
		say("stream %s: %s; trying again until the host listens there", s->where, strerror(-err));
	s->said_err = -err;
	hang_up(s, -err);
}

/* --------------------------------------------------------------------------------------------- hearing */

static bool in_host_area(__u64 off, __u32 nr)
{
	return !(off % 8) &&
	       ((off >= HTRACE_HOST_OFF && off < HTRACE_HOST_OFF + offsetof(struct htrace_host, telling)) ||
		(off >= HTRACE_HOST_RINGS_OFF &&
		 off < HTRACE_HOST_RINGS_OFF + nr * sizeof(struct htrace_host_ring)));
}

static void take_word(struct stream *s, __u64 off, __u64 value)
{
	char *region = (char *)(uintptr_t)htrace_region_host(s->region) - HTRACE_HOST_OFF;

	if (s->state != STREAM_RUNNING || !in_host_area(off, s->nr))
		return;
	__atomic_store_n((__u64 *)(region + off), value, __ATOMIC_RELEASE);
	s->asked |= off == HTRACE_HOST_OFF + offsetof(struct htrace_host, clock_ping) && value;
}

static void begin(struct stream *s)
{
	bool again = s->held == htrace_region_super(s->region)->session;

	if (stream_begin(s)) {
		say("stream %s: out of memory", s->where);
		hang_up(s, ENOMEM);
		return;
	}
	s->state = STREAM_RUNNING;
	s->pause = 0;
	s->said_err = 0;
	s->every = PACE_NS;
	s->next_copy = 0;
	say("stream %s: the host is there%s", s->where, again ? ", and goes on where it was" : "");
}

static void obey(struct stream *s, const struct stream_order *o)
{
	switch (o->type) {
	case STREAM_ASK:
		if (o->arg[2] != STREAM_VERSION) {
			if (!s->said_waiting)
				say("stream %s: the host speaks version %llu, this agent %u; use those of one release",
				    s->where, (unsigned long long)o->arg[2], STREAM_VERSION);
			s->said_waiting = true;
			break;
		}
		drop_queue(s);
		forget_host(s);
		s->nonce = o->arg[0];
		s->held = o->arg[1];
		s->state = STREAM_ASKED;
		for (__u32 i = 0; i < s->nr; i++)
			s->ring[i].point = (struct htrace_relay_point){ 0 };
		break;
	case STREAM_POSITION:
		if (s->state == STREAM_ASKED && o->arg[0] < s->nr)
			s->ring[o->arg[0]].point = (struct htrace_relay_point){
				.pos = o->arg[1], .head = o->arg[2], .dropped = o->arg[3],
			};
		break;
	case STREAM_GO:
		if (s->state == STREAM_ASKED && o->arg[0] == s->nonce)
			begin(s);
		break;
	case STREAM_WORD:
		take_word(s, o->arg[0], o->arg[1]);
		break;
	}
}

/* One order, or what is none: a host before this one may have ended in the midst of one. */
static void take_order(struct stream *s)
{
	struct stream_order o;

	memcpy(&o, s->in, sizeof(o));
	if (o.magic == STREAM_ORDER_MAGIC && o.sum == stream_order_sum(&o)) {
		s->in_len = 0;
		obey(s, &o);
		return;
	}
	memmove(s->in, s->in + 1, --s->in_len);
}

static void hear(struct stream *s)
{
	for (int i = 0; i < 4096 && s->fd >= 0; i++) {
		ssize_t n = read(s->fd, s->in + s->in_len, sizeof(s->in) - s->in_len);

		if (n < 0 && (errno == EAGAIN || errno == EINTR))
			return;
		if (n <= 0) {
			hang_up(s, n ? errno : 0);
			return;
		}
		s->hung_up = false;
		s->in_len += (size_t)n;
		while (s->in_len == sizeof(s->in))
			take_order(s);
	}
}

/* --------------------------------------------------------------------------------------------- sending */

/* Returns whether all is out. */
static bool flush(struct stream *s)
{
	while (stream_queued(s)) {
		ssize_t n = write(s->fd, s->buf + s->beg, stream_queued(s));

		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0 && errno == EAGAIN)
			return false;
		if (n <= 0) {
			hang_up(s, errno);
			return false;
		}
		s->beg += (size_t)n;
	}
	s->beg = s->end = 0;
	return true;
}

/* What there is to send, until the stream takes no more. */
static __u64 send_all(struct stream *s)
{
	__u64 bytes = 0, now = monotonic_ns();
	bool more = true;

	for (int i = 0; i < ROUNDS && more && s->state == STREAM_RUNNING; i++) {
		stream_send_words(s);
		bytes += stream_send_rings(s, &more);
		if (s->failed)
			hang_up(s, ENOMEM);
		else if (!flush(s))
			break;
	}
	s->every = pace_next(s->every, bytes, PACE_IDLE_NS);
	s->next_copy = now + s->every;
	return bytes;
}

static __u64 due(const struct stream *s)
{
	__u64 next = s->state == STREAM_RUNNING ? s->next_copy :
		     s->state == STREAM_CLOSED || s->hung_up ? s->next : UINT64_MAX, now;

	if (next == UINT64_MAX || (s->state == STREAM_RUNNING && stream_queued(s)))
		return WORDS_NS; /* it is polled for */
	now = monotonic_ns();
	return next > now ? next - now : 0;
}

__u64 stream_work(struct stream *s)
{
	__u64 now = monotonic_ns();

	if (s->state == STREAM_CLOSED && now >= s->next)
		connect_to(s);
	if (s->state == STREAM_CONNECTING)
		see_connected(s);
	if (s->hung_up && now < s->next)
		return due(s);
	if (s->hung_up)
		s->next = now + HUNG_UP_NS;
	if (s->state >= STREAM_SILENT)
		hear(s);
	if (s->state == STREAM_RUNNING && (now >= s->next_copy || stream_queued(s)))
		send_all(s);
	return due(s);
}

int stream_poll_fd(const struct stream *s, short *events)
{
	*events = s->state == STREAM_CONNECTING ? POLLOUT : POLLIN;
	if (s->state == STREAM_RUNNING && stream_queued(s))
		*events |= POLLOUT;
	return s->hung_up ? -1 : s->fd;
}

bool stream_asked(struct stream *s)
{
	bool asked = s->asked;

	s->asked = false;
	if (asked)
		s->next_copy = 0; /* the answer goes at once */
	return asked;
}

/* ------------------------------------------------------------------------------------------------- end */

static __u64 unsent(const struct stream *s)
{
	__u64 bytes = stream_queued(s);

	for (__u32 i = 0; i < s->nr; i++)
		if (s->ring[i].relay)
			bytes += s->ring[i].ring->head - htrace_relay_position(s->ring[i].relay);
	return bytes;
}

/* What the kernel has of a socket, or of a device, is not at the host yet; closing may throw it away. */
static bool on_its_way(const struct stream *s)
{
	int left = 0;

	return s->place.kind != STREAM_UNIX && !ioctl(s->fd, TIOCOUTQ, &left) && left > 0;
}

__u64 stream_finish(struct stream *s)
{
	__u64 start = monotonic_ns(), progress = start, left, before = UINT64_MAX;

	while (s->state == STREAM_RUNNING) {
		struct pollfd p = { .fd = s->fd, .events = POLLOUT };
		__u64 now = monotonic_ns();

		s->next_copy = 0;
		stream_work(s);
		left = unsent(s);
		if (!left && !on_its_way(s))
			return 0;
		if (left < before)
			progress = now;
		before = left;
		if (now - progress > FINISH_NS || now - start > FINISH_MAX_NS)
			break;
		if (left)
			poll(&p, 1, 20);
		else
			usleep(5000);
	}
	return s->state == STREAM_RUNNING ? unsent(s) : 0;
}

void stream_free(struct stream *s)
{
	if (!s)
		return;
	drop_queue(s);
	if (s->fd >= 0)
		close(s->fd);
	free(s->ring);
	free(s->buf);
	free(s->where);
	free(s);
}
