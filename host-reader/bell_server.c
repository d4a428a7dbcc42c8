/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "bell_server.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

#include "pass_fd.h"

#define PROTOCOL 0
#define OUR_ID 0
#define VM_ID 1
#define MEMORY (-1)
#define ROUND_NS 5000000ULL /* between two looks at the socket */
#define ROUND_CLIENTS 4     /* that are refused in one */

struct bell_server {
	int listener, memory;
	int client;      /* -1: none */
	int ours, theirs; /* eventfds: of vector 0 of each */
	__u64 looked;
	dev_t dev; /* of the socket's file */
	ino_t ino;
	char path[sizeof(((struct sockaddr_un *)0)->sun_path)];
};

/* -------------------------------------------------------------------------------------- the socket */

static int failed(char *err, size_t errlen, const char *what)
{
	int e = errno;

	snprintf(err, errlen, "%s: %s", what, strerror(e));
	return -e;
}

static int unix_socket(const char *path, struct sockaddr_un *addr)
{
	*addr = (struct sockaddr_un){ .sun_family = AF_UNIX };
	memcpy(addr->sun_path, path, strlen(path));
	return socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
}

/* Is it a socket at which nobody listens? */
static bool is_stale(const char *path)
{
	struct sockaddr_un addr;
	struct stat st;
	bool stale;
	int fd;

	if (lstat(path, &st) || !S_ISSOCK(st.st_mode))
		return false;
	fd = unix_socket(path, &addr);
	if (fd < 0)
		return false;
	stale = connect(fd, (struct sockaddr *)&addr, sizeof(addr)) && errno == ECONNREFUSED;
	close(fd);
	return stale;
}

/* Nobody may come in before the mode is set: the file is made with it. */
static int bind_private(int fd, const struct sockaddr_un *addr)
{
	mode_t mask = umask(0177);
	int ret = bind(fd, (const struct sockaddr *)addr, sizeof(*addr)) ? -errno : 0;

	umask(mask);
	return ret;
}

static int listen_at(struct bell_server *b, const char *path, char *err, size_t errlen)
{
	struct sockaddr_un addr;
	struct stat st;
	int ret;

	if (strlen(path) >= sizeof(b->path)) {
		snprintf(err, errlen, "its path is longer than the %zu bytes that a socket may have",
			 sizeof(b->path) - 1);
		return -ENAMETOOLONG;
	}
	b->listener = unix_socket(path, &addr);
	if (b->listener < 0)
		return failed(err, errlen, "socket");
	ret = bind_private(b->listener, &addr);
	if (ret == -EADDRINUSE && is_stale(path) && !unlink(path))
		ret = bind_private(b->listener, &addr);
	if (ret) {
		snprintf(err, errlen, "%s", ret != -EADDRINUSE ? strerror(-ret) :
			 "a file is there that is no socket, or somebody listens to it; remove it, or end that one");
		return ret;
	}
	strcpy(b->path, path);
	if (lstat(path, &st))
		return failed(err, errlen, "its socket");
	b->dev = st.st_dev;
	b->ino = st.st_ino; /* from here on it is removed at the end */
	return listen(b->listener, ROUND_CLIENTS) ? failed(err, errlen, "listen") : 0;
}

/* ---------------------------------------------------------------------------------------- bells */

/* New ones for each VM, so that one that is gone does not ring. */
static bool make_bells(struct bell_server *b)
{
	b->ours = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	b->theirs = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	return b->ours >= 0 && b->theirs >= 0;
}

static void close_bells(struct bell_server *b)
{
	if (b->ours >= 0)
		close(b->ours);
	if (b->theirs >= 0)
		close(b->theirs);
	b->ours = b->theirs = -1;
}

__u64 bell_server_take(struct bell_server *b)
{
	__u64 count;
	struct iovec to = { &count, sizeof(count) };

	/* Who was given the descriptor may have made it one that blocks. (-1: it has no position.) */
	return b->ours >= 0 && preadv2(b->ours, &to, 1, -1, RWF_NOWAIT) == sizeof(count) ? count : 0;
}

int bell_server_fd(const struct bell_server *b)
{
	return b->ours;
}

/* -------------------------------------------------------------------------------------- the VM */

/* There is room for all that is sent: what does not fit at once is a client that is none. */
static bool send_message(int to, __s64 value, int fd)
{
	__u64 le = htole64((__u64)value);

	return pass_fds(to, &le, sizeof(le), &fd, fd >= 0, MSG_DONTWAIT);
}

/* The VM's own vectors last: by them it knows that it was told all. */
static bool greet(const struct bell_server *b, int to)
{
	return send_message(to, PROTOCOL, -1) && send_message(to, VM_ID, -1) &&
	       send_message(to, MEMORY, b->memory) && send_message(to, OUR_ID, b->ours) &&
	       send_message(to, VM_ID, b->theirs);
}

static int take_client(struct bell_server *b)
{
	int fd = accept4(b->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return BELL_NOTHING;
	if (b->client >= 0) {
		close(fd); /* which it finds to be the end before it was told a version */
		return BELL_REFUSED;
	}
	if (!make_bells(b) || !greet(b, fd)) {
		close_bells(b);
		close(fd);
		return BELL_BROKEN;
	}
	b->client = fd;
	return BELL_CAME;
}

static int look_at_client(struct bell_server *b)
{
	char byte;
	ssize_t n;

	if (b->client < 0)
		return BELL_NOTHING;
	n = recv(b->client, &byte, 1, MSG_DONTWAIT);
	if (n < 0 && (errno == EAGAIN || errno == EINTR))
		return BELL_NOTHING;
	close(b->client);
	b->client = -1;
	close_bells(b);
	return n > 0 ? BELL_WENT | BELL_BROKEN : BELL_WENT;
}

int bell_server_round(struct bell_server *b, __u64 now)
{
	int news, all;

	if (now - b->looked < ROUND_NS)
		return BELL_NOTHING;
	b->looked = now;
	all = look_at_client(b);
	for (int i = 0; i < ROUND_CLIENTS; i++) {
		news = take_client(b);
		all |= news;
		if (!news)
			break;
	}
	return all;
}

bool bell_server_connected(const struct bell_server *b)
{
	return b->client >= 0;
}

/* ----------------------------------------------------------------------------- beginning, ending */

int bell_server_memory(const struct bell_server *b)
{
	return b->memory;
}

int bell_server_open(struct bell_server **out, const char *path, __u64 size, char *err, size_t errlen)
{
	struct bell_server *b = calloc(1, sizeof(*b));
	int ret;

	if (!b) {
		errno = ENOMEM;
		return failed(err, errlen, "memory");
	}
	b->listener = b->client = b->ours = b->theirs = -1;
	b->memory = memfd_create("htrace-doorbell", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	/* Sealed: no VM can take away what we have mapped. */
	if (b->memory < 0 || ftruncate(b->memory, (off_t)size) ||
	    fcntl(b->memory, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL))
		ret = failed(err, errlen, "memory of the device");
	else
		ret = listen_at(b, path, err, errlen);
	if (ret)
		bell_server_close(b);
	else
		*out = b;
	return ret;
}

void bell_server_close(struct bell_server *b)
{
	struct stat st;

	if (!b)
		return;
	if (b->ino && !lstat(b->path, &st) && st.st_dev == b->dev && st.st_ino == b->ino)
		unlink(b->path);
	close_bells(b);
	if (b->client >= 0)
		close(b->client);
	if (b->listener >= 0)
		close(b->listener);
	if (b->memory >= 0)
		close(b->memory);
	free(b);
}
