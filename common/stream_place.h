/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * Where a byte stream goes: FD (a number), PATH (a UNIX socket, or a character device), HOST:PORT (an IP address),
 * vsock:CID:PORT. Nothing here waits: connections come about while others are served.
 */
#ifndef COMMON_STREAM_PLACE_H
#define COMMON_STREAM_PLACE_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/socket.h>

enum stream_kind {
	STREAM_FD,     /* inherited */
	STREAM_DEVICE, /* a character device: a virtio port, a serial line, a pseudo terminal */
	STREAM_UNIX,   /* the socket of somebody who listens: QEMU */
	STREAM_TCP,
	STREAM_VSOCK,
};

struct stream_place {
	enum stream_kind kind;
	int fd;           /* STREAM_FD */
	const char *path; /* STREAM_DEVICE, STREAM_UNIX; the caller's */
	struct sockaddr_storage addr;
	socklen_t addr_len;
	unsigned int cid; /* STREAM_VSOCK: who */
	bool loopback;    /* STREAM_TCP: an address of this machine only */
};

/* 0, or -EINVAL with one line in @err. A path is looked at: one that is not there yet is taken for a socket. */
int stream_place_parse(struct stream_place *p, const char *text, char *err, size_t errlen);
/*
 * A descriptor that does not block, or -errno. *@pending: the connection is in the making; when it can be written to,
 * stream_place_connected() says what became of it: 0 or -errno.
 */
int stream_place_connect(const struct stream_place *p, bool *pending);
int stream_place_connected(int fd);
/* Of TCP and vsock: a descriptor to accept from; of vsock, whoever comes: see stream_place_is_peer(). */
int stream_place_listen(const struct stream_place *p);
/* A connection, or -errno: -EPERM of one that is not who is waited for. */
int stream_place_accept(const struct stream_place *p, int listener);
/* Of sockets that somebody listens at, on the host: QEMU, or us? */
static inline bool stream_place_listens(const struct stream_place *p)
{
	return p->kind == STREAM_TCP || p->kind == STREAM_VSOCK;
}

#endif
