/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A source that nothing can be shared with: its region is in memory of ours, into which a process beside us writes what
 * the guest sends (stream_receiver.h).
 */
#include <errno.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "message.h"
#include "options.h"
#include "source_internal.h"
#include "stream_receiver.h"

#define NEWS_NS (50 * MS)

struct source_stream {
	struct stream_place place;
	struct stream_receiver *receiver;
	int memory; /* a descriptor, or why there is none: -errno, and */
	char err[300];
	bool ended;
	__u64 next;
};

/* Sized once and for all; what no guest has written takes no memory. */
static int make_memory(__u64 size, char *err, size_t errlen)
{
	int fd = memfd_create("htrace-stream", MFD_CLOEXEC | MFD_ALLOW_SEALING);

	if (fd >= 0 && !ftruncate(fd, (off_t)size) && !fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW))
		return fd;
	snprintf(err, errlen, "no memory for its region: %s", strerror(errno));
	if (fd >= 0)
		close(fd);
	return -EIO;
}

static int open_place(const char *path, struct stream_place *p, char *err, size_t errlen)
{
	bool pending;
	int fd, ret = stream_place_parse(p, path, err, errlen);

	if (ret)
		return ret;
	if (p->kind == STREAM_TCP && !p->loopback) {
		snprintf(err, errlen, "it would listen to the whole network, unencrypted; give it 127.0.0.1:PORT, and "
			 "bring guests from elsewhere there by ssh -R PORT:127.0.0.1:PORT THEIR-HOST");
		return -EACCES;
	}
	fd = stream_place_listens(p) ? stream_place_listen(p) : stream_place_connect(p, &pending);
	if (fd >= 0 || p->kind == STREAM_UNIX) /* the VM may come later */
		return fd < 0 ? -1 : fd;
	snprintf(err, errlen, "%s", strerror(-fd));
	return fd == -EPERM ? -EACCES : fd;
}

/* A descriptor of the memory, or -errno. */
static int begin_stream(struct source_stream *st, const struct source_spec *spec)
{
	int memory = make_memory(spec->size, st->err, sizeof(st->err)), fd, ret;

	if (memory < 0)
		return memory;
	fd = open_place(spec->path, &st->place, st->err, sizeof(st->err));
	ret = fd < -1 ? fd : stream_receiver_start(&st->receiver, &st->place, fd, memory, spec->size);
	if (!ret)
		return memory;
	if (!st->err[0])
		snprintf(st->err, sizeof(st->err), "%s", strerror(-ret));
	close(memory);
	return ret;
}

void source_streams_begin(struct options *o)
{
	for (unsigned int i = 0; i < o->nr_sources; i++) {
		struct source_spec *spec = &o->source[i];

		if (spec->kind == SOURCE_STREAM)
			spec->stream = calloc(1, sizeof(*spec->stream));
		if (spec->stream)
			spec->stream->memory = begin_stream(spec->stream, spec);
	}
}

void source_streams_end(struct options *o)
{
	for (unsigned int i = 0; i < o->nr_sources; i++) {
		struct source_stream *st = o->source[i].stream;

		if (!st)
			continue;
		stream_receiver_end(st->receiver);
		if (st->memory >= 0)
			close(st->memory);
		free(st);
		o->source[i].stream = NULL;
	}
}

int source_open_stream(struct source *s, char *err, size_t errlen)
{
	struct source_stream *st = s->spec->stream;
	int memory = st ? st->memory : -ENOMEM;

	if (memory < 0) {
		snprintf(err, errlen, "%s", st ? st->err : "out of memory");
		return memory;
	}
	st->memory = -EBADF; /* it is the source's now */
	s->stream = st;
	s->writable = true;
	if (s->config->teller)
		say("%s: its guest is not told of its exits: that goes through shared memory only", s->spec->path);
	s->next_tell = UINT64_MAX;
	return memory;
}

/* Nothing more comes: what is there is read. */
static void end(struct source *s, __u64 now)
{
	if (s->ending)
		return;
	if (s->state == SOURCE_READING || s->state == SOURCE_LISTENING || s->state == SOURCE_BACK)
		source_go_silent(s, now);
	if (s->state == SOURCE_SILENT && source_finish_silent(s, now))
		return;
	if (s->state == SOURCE_FAILED)
		return;
	source_end_session(s, now);
	s->state = SOURCE_DONE;
}

void source_watch_stream(struct source *s, __u64 now)
{
	struct source_stream *st = s->stream;
	struct stream_news news;

	if (s->state == SOURCE_FAILED || s->state == SOURCE_DONE)
		return;
	if (now >= st->next) {
		st->next = now + NEWS_NS;
		for (int i = 0; i < 16 && stream_receiver_news(st->receiver, &news); i++) {
			source_say(s, now, "%s", news.text);
			st->ended |= news.what == STREAM_ENDED;
		}
	}
	if (st->ended)
		end(s, now);
}
