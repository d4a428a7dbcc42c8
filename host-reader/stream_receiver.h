/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A process of the reader's that has the connection of a source `stream:` and writes what a guest sends into the region
 * that the reader reads. It is the first that sees bytes of a stranger: it has that memory, its connection, and
 * nothing else (confine.h). It ends when the reader does. As it is forked from the reader it has a copy of all that is
 * mapped there: start it before anything is.
 */
#ifndef READER_STREAM_RECEIVER_H
#define READER_STREAM_RECEIVER_H

#include <stddef.h>

#include <linux/types.h>

#include "stream_place.h"

struct stream_receiver;

enum stream_what {
	STREAM_NOTHING,
	STREAM_SAID,  /* to be said */
	STREAM_ENDED, /* likewise; and nothing more can come */
};

struct stream_news {
	__u32 what; /* enum stream_what */
	char text[300];
};

/*
 * Into the @size bytes of the memfd @memory. @fd: to accept from, where the place is listened at; else what is
 * connected, or -1: it connects when it can. Takes @fd.
 */
int stream_receiver_start(struct stream_receiver **out, const struct stream_place *place, int fd, int memory,
			  __u64 size);
/* What it has to say, if there is something; also that it is gone. The text is harmless, whoever wrote it. */
enum stream_what stream_receiver_news(struct stream_receiver *r, struct stream_news *news);
/* Likewise, by @sock, which it says it at. */
enum stream_what stream_news_take(int sock, struct stream_news *news);
/* It is ended, also where a guest has got hold of it; not waited for without end. */
void stream_receiver_end(struct stream_receiver *r);

#endif
