/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "plug_keeper.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <unistd.h>

#include "confine.h"
#include "helper_process.h"
#include "plug.h"

#define READER HELPER_FD        /* in the keeper: its sockets */
#define MONITOR (HELPER_FD + 1)
#define GREETING_NS 5000000000ULL
#define PAUSE_USEC 10000        /* between two looks at a monitor that talks without end */

enum what { KEEPER_LOOK, KEEPER_PUT, KEEPER_TAKE };

struct order {
	__u32 what;
	__u32 have_file;
	__u64 size;
};

struct report {
	__s32 ret; /* of an order, or -errno */
	__u32 news; /* enum plug_news: it is no order's */
	__u64 room;
	__u32 ours, vcpus;
	char err[640];
};

struct plug_keeper {
	int sock;
	pid_t pid;
	bool taken, lost;
};

/* --------------------------------------------------------------------------------------- the keeper */

struct keeper {
	const char *file;
	struct qmp *qmp;
	struct plug_place place;
	bool in; /* the device is there */
	bool told;
};

static int look(struct keeper *k, const struct order *o, struct report *r)
{
	int ret = 0;

	if (!k->qmp)
		ret = qmp_open(&k->qmp, MONITOR, PLUG_DEVICE, GREETING_NS, r->err, sizeof(r->err));
	if (!ret)
		ret = plug_look(k->qmp, k->file, &k->place, r->err, sizeof(r->err));
	if (ret)
		return ret;
	k->in = k->place.memory && k->place.device && k->place.same && o->have_file;
	r->ours = k->in;
	if (k->in)
		return 0;
	if (k->place.memory || k->place.device)
		ret = plug_take(k->qmp, r->err, sizeof(r->err));
	if (!ret)
		ret = plug_find_bus(k->qmp, &k->place, r->err, sizeof(r->err));
	r->room = k->place.room;
	r->vcpus = k->place.vcpus;
	return ret;
}

static int put(struct keeper *k, const struct order *o, struct report *r)
{
	int ret;

	if (!k->qmp || k->in)
		return -EINVAL;
	ret = plug_put(k->qmp, k->file, o->size, &k->place, r->err, sizeof(r->err));
	k->in = !ret;
	return ret;
}

static int take(struct keeper *k, struct report *r)
{
	int ret = k->qmp ? plug_take(k->qmp, r->err, sizeof(r->err)) : 0;

	if (!ret)
		k->in = false;
	return ret;
}

static bool send_report(const struct report *r)
{
	return send(READER, r, sizeof(*r), MSG_NOSIGNAL) == sizeof(*r);
}

/* False: the reader is gone. */
static bool obey(struct keeper *k)
{
	struct report r = { 0 };
	struct order o;

	if (recv(READER, &o, sizeof(o), 0) != sizeof(o))
		return false;
	r.ret = o.what == KEEPER_LOOK ? look(k, &o, &r) : o.what == KEEPER_PUT ? put(k, &o, &r) :
		o.what == KEEPER_TAKE ? take(k, &r) : -EINVAL;
	if (send_report(&r))
		return true;
	if (o.what == KEEPER_PUT && !r.ret) /* nobody was told that it is there */
		plug_take(k->qmp, r.err, sizeof(r.err));
	return false;
}

/* Told once: nothing of it comes again. */
static void listen_to(struct keeper *k)
{
	struct report r = { .news = PLUG_NOTHING };
	int ret = qmp_listen(k->qmp);

	if (ret)
		r.news = PLUG_LOST;
	else if (k->in && qmp_deleted(k->qmp))
		r.news = PLUG_TAKEN;
	if (r.news && !k->told) {
		k->told = true;
		send_report(&r);
	}
	usleep(PAUSE_USEC);
}

static void keep(struct keeper *k)
{
	struct pollfd p[2] = { { .fd = READER, .events = POLLIN }, { .fd = -1, .events = POLLIN } };

	for (;;) {
		/* After its end there is nothing to hear. */
		p[1].fd = k->qmp && !k->told ? qmp_fd(k->qmp) : -1;
		if (poll(p, 2, -1) < 0 && errno != EINTR)
			return;
		if (p[0].revents && !obey(k))
			return;
		if (p[1].fd >= 0 && p[1].revents)
			listen_to(k);
	}
}

static void be_keeper(const int *fds, const char *file)
{
	struct keeper k = { .file = file };

	helper_process_begin("reader-plug", fds, 2);
	json_object_seed(0); /* else it wants to open a file for that later */
	if (confine_keeper())
		_exit(1);
	keep(&k);
	_exit(0);
}

/* --------------------------------------------------------------------------------------- the reader */

int plug_connect(const char *path, char *err, size_t errlen)
{
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	int fd, e;

	if (strlen(path) >= sizeof(addr.sun_path)) {
		snprintf(err, errlen, "its path is longer than the %zu bytes that a socket may have",
			 sizeof(addr.sun_path) - 1);
		return -ENAMETOOLONG;
	}
	strcpy(addr.sun_path, path);
	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (fd >= 0 && !connect(fd, (struct sockaddr *)&addr, sizeof(addr)))
		return fd;
	e = errno;
	if (fd >= 0)
		close(fd);
	snprintf(err, errlen, "%s%s", strerror(e), e == EAGAIN ? ": several wait there already; QEMU speaks with one at a time" :
		 e == ECONNREFUSED ? ": no VM listens there any more" : "");
	return -e;
}

int plug_keeper_start(struct plug_keeper **out, int monitor, const char *file)
{
	struct plug_keeper *k = calloc(1, sizeof(*k));
	int pair[2], fds[2], ret = -ENOMEM;

	if (!k || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair)) {
		ret = k ? -errno : ret;
		free(k);
		close(monitor);
		return ret;
	}
	fds[0] = pair[1];
	fds[1] = monitor;
	k->pid = fork();
	if (!k->pid)
		be_keeper(fds, file);
	ret = k->pid < 0 ? -errno : 0;
	k->sock = pair[0];
	close(pair[1]);
	close(monitor);
	if (ret) {
		close(pair[0]);
		free(k);
		return ret;
	}
	*out = k;
	return 0;
}

/* -EAGAIN: there is nothing, and @flags say not to wait. */
static int receive(struct plug_keeper *k, struct report *r, int flags)
{
	ssize_t n;

	do
		n = recv(k->sock, r, sizeof(*r), flags);
	while (n < 0 && errno == EINTR);
	if (n == sizeof(*r)) {
		r->err[sizeof(r->err) - 1] = 0;
		k->taken |= r->news == PLUG_TAKEN;
		k->lost |= r->news == PLUG_LOST;
		return 0;
	}
	return n < 0 && errno == EAGAIN ? -EAGAIN : -EPIPE;
}

static int ask(struct plug_keeper *k, const struct order *o, struct report *r, char *err, size_t errlen)
{
	int ret = send(k->sock, o, sizeof(*o), MSG_NOSIGNAL) == sizeof(*o) ? 0 : -EPIPE;

	while (!ret) {
		ret = receive(k, r, 0);
		if (!ret && !r->news)
			break;
	}
	if (ret)
		snprintf(err, errlen, "host-reader's process that speaks with QEMU is gone");
	else if (r->ret)
		snprintf(err, errlen, "%s", r->err);
	return ret ? ret : r->ret;
}

int plug_keeper_look(struct plug_keeper *k, bool have_file, struct plug_found *found, char *err, size_t errlen)
{
	const struct order o = { .what = KEEPER_LOOK, .have_file = have_file };
	struct report r;
	int ret = ask(k, &o, &r, err, errlen);

	if (!ret)
		*found = (struct plug_found){ .ours = r.ours, .room = r.room, .vcpus = r.vcpus };
	return ret;
}

int plug_keeper_put(struct plug_keeper *k, __u64 size, char *err, size_t errlen)
{
	const struct order o = { .what = KEEPER_PUT, .size = size };
	struct report r;

	return ask(k, &o, &r, err, errlen);
}

int plug_keeper_take(struct plug_keeper *k, char *err, size_t errlen)
{
	const struct order o = { .what = KEEPER_TAKE };
	struct report r;

	return ask(k, &o, &r, err, errlen);
}

enum plug_news plug_keeper_news(struct plug_keeper *k)
{
	struct report r;

	if (!k->taken && !k->lost && receive(k, &r, MSG_DONTWAIT) == -EPIPE)
		k->lost = true;
	return k->lost ? PLUG_LOST : k->taken ? PLUG_TAKEN : PLUG_NOTHING;
}

void plug_keeper_end(struct plug_keeper *k)
{
	if (!k)
		return;
	close(k->sock);
	while (waitpid(k->pid, NULL, 0) < 0 && errno == EINTR)
		;
	free(k);
}
