/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "channel-source.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include <htrace/consumer.h>
#include <htrace/schema.h>
#include <htrace/sync.h>

#include "bell_server.h"
#include "bench.h"
#include "clock.h"
#include "stream_receiver.h"

#define MAX_RINGS 64
#define REGION_SIZE (16ULL << 20)
#define STREAM_SIZE (64ULL << 20)
#define LOOK_NS 2000000 /* what a look waits at most */
#define BEAT_NS 500000000
#define PATIENCE_NS 60000000000ULL

struct channel_source {
	struct channel_machine *machine;
	bool nothing, rings_bell, device;
	const char *policy;
	/* rings */
	struct htrace_view *view;
	struct htrace_consumer *ring[MAX_RINGS];
	struct htrace_host_ring *words[MAX_RINGS];
	int nr_rings;
	__u32 id[4]; /* of messages: an agent has events of its own, too */
	struct htrace_sync *sync;
	struct stream_receiver *receiver;
	__u64 next_beat, bells;
	/* bytes */
	struct stream_place place;
	int fd, listener;
	size_t held; /* bytes in buf, fewer than a word */
	_Alignas(8) char buf[256 << 10];
};

void channel_machine_open(struct channel_machine *m)
{
	char path[512], err[256] = "";

	snprintf(path, sizeof(path), "%s/doorbell", m->dir);
	if (bell_server_open(&m->bell, path, REGION_SIZE, err, sizeof(err)))
		bench_die(err, EINVAL);
}

void channel_machine_await(struct channel_machine *m)
{
	__u64 end = clock_now() + PATIENCE_NS;

	while (!bell_server_connected(m->bell)) {
		bell_server_round(m->bell, clock_now());
		if (clock_now() > end)
			bench_die("no machine came", ETIMEDOUT);
		usleep(1000);
	}
}

/* --------------------------------------------------------------------------------------- rings */

static bool any_ready(void *ctx)
{
	const struct channel_source *s = ctx;

	for (int i = 0; i < s->nr_rings; i++)
		if (htrace_consumer_ready(s->ring[i]))
			return true;
	return false;
}

static int arm(void *ctx, struct htrace_bell *b, int max, bool *all)
{
	struct channel_source *s = ctx;

	(void)max;
	(void)all;
	s->bells += bell_server_take(s->machine->bell);
	*b = (struct htrace_bell){ .fd = bell_server_fd(s->machine->bell) };
	for (int i = 0; i < s->nr_rings; i++)
		htrace_consumer_arm(s->ring[i], &s->words[i]->event_idx);
	htrace_sync_armed();
	return 1;
}

static void say_failed(const char *what, const char *why)
{
	fprintf(stderr, "channel-read: %s: %s\n", what, why);
	exit(1);
}

/* Another session than the last one of this region, and alive. */
static void await_session(struct channel_source *s)
{
	__u64 end = clock_now() + PATIENCE_NS;
	char err[256] = "";

	while (htrace_view_attach(s->view, err, sizeof(err)) || htrace_view_state(s->view) != HTRACE_GUEST_RUNNING ||
	       (s->device && htrace_view_super(s->view)->session == s->machine->session)) {
		struct stream_news news;

		bell_server_round(s->machine->bell, clock_now());
		if (s->receiver && stream_receiver_news(s->receiver, &news) == STREAM_ENDED)
			say_failed("the stream ended", news.text);
		if (clock_now() > end)
			say_failed("no agent came", err);
		usleep(2000);
	}
	if (s->device)
		s->machine->session = htrace_view_super(s->view)->session;
}

static void find_events(struct channel_source *s)
{
	static const char *const name[] = { "message8", "message64", "message1024", "message_part" };
	struct htrace_schema *schema;
	char err[256] = "";
	__u64 generation = 0;
	size_t len;
	void *buf;

	if (htrace_view_schema(s->view, &generation, &buf, &len) != 1 ||
	    htrace_schema_parse(&schema, buf, len, err, sizeof(err)))
		say_failed("the schema", err);
	for (int i = 0; i < 4; i++) {
		const struct htrace_event *e = htrace_schema_event_by_name(schema, name[i]);

		if (!e)
			say_failed("the schema lacks", name[i]);
		s->id[i] = e->id;
	}
	htrace_schema_free(schema);
	free(buf);
}

static bool is_message(const struct channel_source *s, __u32 id)
{
	return id == s->id[0] || id == s->id[1] || id == s->id[2] || id == s->id[3];
}

static void map_ram(struct channel_source *s)
{
	__u64 end = clock_now() + PATIENCE_NS;
	char err[256] = "";

	while (htrace_view_map_ram(s->view, s->machine->pid, NULL, err, sizeof(err))) {
		if (clock_now() > end)
			say_failed("mapping the guest's memory", err);
		usleep(5000);
	}
}

static void attach_rings(struct channel_source *s)
{
	const struct htrace_super *super;
	struct htrace_sync_target target = { .sz = sizeof(target), .ready = any_ready, .ctx = s };
	bool direct;

	await_session(s);
	if (htrace_view_claim(s->view))
		say_failed("the region", "another process reads it");
	find_events(s);
	super = htrace_view_super(s->view);
	direct = super->ringset[0].placement == HTRACE_PLACEMENT_VSHMEM;
	if (direct)
		map_ram(s);
	for (__u32 i = 0; i < super->ringset[0].nr_rings && s->nr_rings < MAX_RINGS; i++) {
		struct htrace_consumer_opts opts = { .sz = sizeof(opts) };
		struct htrace_image image;

		if (htrace_view_ring(s->view, 0, i, &image))
			say_failed("the region", "a ring is missing");
		s->words[i] = htrace_view_host_ring(s->view, image.slot);
		opts.consumed = &s->words[i]->consumed;
		if (htrace_consumer_new(&s->ring[s->nr_rings++], &image, &opts))
			say_failed("the region", "a ring is wrong");
	}
	if (s->rings_bell)
		target.arm = arm;
	if (htrace_sync_new(&s->sync, s->policy, &target))
		say_failed(s->policy, "no such policy");
	htrace_view_announce(s->view, HTRACE_HOST_ATTACHED, super->session, direct, HTRACE_REASON_NONE);
	if (s->rings_bell && htrace_view_set_sync(s->view, HTRACE_SYNC_RING))
		say_failed("doorbell", "it cannot be asked for");
}

static void look_at_rings(struct channel_source *s, struct channel_taker *t)
{
	__u64 now = clock_now(), events = 0;
	struct htrace_batch b;
	struct htrace_record r;
	struct htrace_iter it;

	if (now >= s->next_beat) {
		s->next_beat = now + BEAT_NS;
		htrace_view_beat(s->view);
		bell_server_round(s->machine->bell, now);
	}
	htrace_sync_wait(s->sync, LOOK_NS);
	for (int i = 0; i < s->nr_rings; i++) {
		while (htrace_consumer_read(s->ring[i], &b) == 1) {
			__u64 ticks = bench_ticks(), lost = b.overwritten + b.dropped + b.corrupt + b.unfinished;

			events += b.events;
			if (lost)
				t->lost(t, lost);
			for (htrace_iter_init(&it, &b); htrace_iter_next(&it, &r);)
				if (is_message(s, r.id))
					t->take(t, r.payload, r.len / 8, ticks);
		}
	}
	htrace_sync_did(s->sync, events, 0);
}

/* -------------------------------------------------------------------------------------- streams */

static void open_place(struct channel_source *s, const char *file, int port)
{
	static char where[512];
	char err[256] = "";
	bool pending;

	if (file)
		snprintf(where, sizeof(where), "%s/%s", s->machine->dir, file);
	else
		snprintf(where, sizeof(where), "127.0.0.1:%d", port);
	if (stream_place_parse(&s->place, where, err, sizeof(err)))
		say_failed(where, err);
	if (stream_place_listens(&s->place))
		s->listener = stream_place_listen(&s->place);
	else
		s->fd = stream_place_connect(&s->place, &pending);
	if (s->fd < 0 && s->listener < 0)
		say_failed(where, strerror(s->fd < -1 ? -s->fd : -s->listener));
}

static void start_receiver(struct channel_source *s)
{
	int memory = memfd_create("channel-read", MFD_CLOEXEC | MFD_ALLOW_SEALING), ret;
	char err[256] = "";

	if (memory < 0 || ftruncate(memory, (off_t)STREAM_SIZE) ||
	    fcntl(memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		bench_die("memory for a stream", errno);
	ret = stream_receiver_start(&s->receiver, &s->place, s->listener >= 0 ? s->listener : s->fd, memory,
				    STREAM_SIZE);
	s->listener = s->fd = -1; /* the receiver's */
	if (ret || htrace_view_open_fd(&s->view, memory, true, err, sizeof(err)))
		say_failed("receiving a stream", err[0] ? err : strerror(-ret));
	close(memory);
}

static void attach_bytes(struct channel_source *s)
{
	struct pollfd p = { .fd = s->listener, .events = POLLIN };

	if (s->listener < 0)
		return;
	if (poll(&p, 1, PATIENCE_NS / 1000000) == 1)
		s->fd = stream_place_accept(&s->place, s->listener);
	if (s->fd < 0)
		say_failed("tcp", "nobody connected");
}

static void look_at_bytes(struct channel_source *s, struct channel_taker *t)
{
	struct pollfd p = { .fd = s->fd, .events = POLLIN };
	ssize_t n;
	size_t words;

	if (poll(&p, 1, LOOK_NS / 1000000) != 1)
		return;
	n = read(s->fd, s->buf + s->held, sizeof(s->buf) - s->held);
	if (n <= 0)
		say_failed("reading", n ? strerror(errno) : "the other end is gone");
	s->held += (size_t)n;
	words = s->held / 8;
	t->take(t, (const __u64 *)(const void *)s->buf, (__u32)words, bench_ticks());
	s->held -= 8 * words;
	memmove(s->buf, s->buf + 8 * words, s->held);
}

/* ------------------------------------------------------------------------------------- together */

struct channel_source *channel_source_open(struct channel_machine *m, const char *way, const char *policy)
{
	struct channel_source *s = calloc(1, sizeof(*s));
	char err[256] = "";

	if (!s)
		bench_die("memory", ENOMEM);
	s->machine = m;
	s->policy = policy;
	s->rings_bell = !strcmp(policy, "doorbell");
	s->fd = s->listener = -1;
	s->nothing = !strcmp(way, "nothing");
	s->device = !strcmp(way, "region");
	if (s->device) {
		if (htrace_view_open_fd(&s->view, bell_server_memory(m->bell), true, err, sizeof(err)))
			say_failed("the device's memory", err);
	} else if (!strcmp(way, "stream-serial") || !strcmp(way, "stream-tcp")) {
		open_place(s, !strcmp(way, "stream-serial") ? "port" : NULL, m->agent_port);
		start_receiver(s);
	} else if (!strcmp(way, "serial") || !strcmp(way, "tcp")) {
		open_place(s, !strcmp(way, "serial") ? "raw" : NULL, m->raw_port);
	} else if (!s->nothing) {
		say_failed(way, "no such channel");
	}
	return s;
}

void channel_source_attach(struct channel_source *s)
{
	if (s->view)
		attach_rings(s);
	else
		attach_bytes(s);
}

void channel_source_look(struct channel_source *s, struct channel_taker *t)
{
	if (s->view)
		look_at_rings(s, t);
	else if (s->nothing)
		usleep(1000);
	else
		look_at_bytes(s, t);
}

__u64 channel_source_bells(struct channel_source *s)
{
	if (s->rings_bell)
		s->bells += bell_server_take(s->machine->bell);
	return s->bells;
}

bool channel_source_is_nothing(const struct channel_source *s)
{
	return s->nothing;
}

void channel_source_close(struct channel_source *s)
{
	if (s->view)
		htrace_view_announce(s->view, HTRACE_HOST_GONE, 0, false, HTRACE_REASON_NONE);
	htrace_sync_free(s->sync);
	for (int i = 0; i < s->nr_rings; i++)
		htrace_consumer_free(s->ring[i]);
	if (s->view)
		htrace_view_close(s->view);
	if (s->receiver)
		stream_receiver_end(s->receiver);
	if (s->fd >= 0)
		close(s->fd);
	if (s->listener >= 0)
		close(s->listener);
	free(s);
}
