/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "stream_place.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/vm_sockets.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <termios.h>
#include <unistd.h>

/* A decimal number up to @most. */
static bool number(const char *text, unsigned long most, unsigned long *v)
{
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*v = strtoul(text, &end, 10);
	return !errno && !*end && *v <= most;
}

static int parse_vsock(struct stream_place *p, const char *text, char *err, size_t errlen)
{
	struct sockaddr_vm *a = (struct sockaddr_vm *)&p->addr;
	const char *colon = strchr(text, ':');
	unsigned long cid = VMADDR_CID_ANY, port;
	char who[16];
	size_t len = colon ? (size_t)(colon - text) : 0;

	if (len && len < sizeof(who)) {
		memcpy(who, text, len);
		who[len] = 0;
	}
	if (!len || len >= sizeof(who) || (strcmp(who, "any") && !number(who, UINT_MAX, &cid)) ||
	    !number(colon + 1, UINT_MAX - 1, &port)) {
		snprintf(err, errlen, "'vsock:%s' is no CID:PORT, as in vsock:3:7000 or vsock:any:7000", text);
		return -EINVAL;
	}
	p->kind = STREAM_VSOCK;
	p->cid = (unsigned int)cid;
	*a = (struct sockaddr_vm){ .svm_family = AF_VSOCK, .svm_cid = p->cid, .svm_port = (unsigned int)port };
	p->addr_len = sizeof(*a);
	return 0;
}

static int parse_tcp(struct stream_place *p, const char *text, char *err, size_t errlen)
{
	struct sockaddr_in6 *six = (struct sockaddr_in6 *)&p->addr;
	struct sockaddr_in *four = (struct sockaddr_in *)&p->addr;
	const char *colon = strrchr(text, ':'), *from = text;
	size_t len = (size_t)(colon - text);
	unsigned long port;
	char host[64];

	if (len > 1 && text[0] == '[' && text[len - 1] == ']') {
		from++;
		len -= 2;
	}
	if (!len || len >= sizeof(host) || !number(colon + 1, 65535, &port) || !port)
		goto none;
	memcpy(host, from, len);
	host[len] = 0;
	p->kind = STREAM_TCP;
	if (inet_pton(AF_INET, strcmp(host, "localhost") ? host : "127.0.0.1", &four->sin_addr) == 1) {
		four->sin_family = AF_INET;
		four->sin_port = htons((unsigned short)port);
		p->addr_len = sizeof(*four);
		p->loopback = ntohl(four->sin_addr.s_addr) >> 24 == 127;
		return 0;
	}
	if (inet_pton(AF_INET6, host, &six->sin6_addr) == 1) {
		six->sin6_family = AF_INET6;
		six->sin6_port = htons((unsigned short)port);
		p->addr_len = sizeof(*six);
		p->loopback = IN6_IS_ADDR_LOOPBACK(&six->sin6_addr);
		return 0;
	}
none:
	snprintf(err, errlen, "'%s' is no address and port, as in 127.0.0.1:7000 or [::1]:7000; a path has a '/'", text);
	return -EINVAL;
}

static int parse_path(struct stream_place *p, const char *text, char *err, size_t errlen)
{
	struct sockaddr_un *a = (struct sockaddr_un *)&p->addr;
	struct stat st;

	p->path = text;
	if (!stat(text, &st) && S_ISCHR(st.st_mode)) {
		p->kind = STREAM_DEVICE;
		return 0;
	}
	p->kind = STREAM_UNIX;
	if (strlen(text) >= sizeof(a->sun_path)) {
		snprintf(err, errlen, "'%s' is longer than the %zu bytes that a socket's path may have", text,
			 sizeof(a->sun_path) - 1);
		return -EINVAL;
	}
	a->sun_family = AF_UNIX;
	strcpy(a->sun_path, text);
	p->addr_len = sizeof(*a);
	return 0;
}

int stream_place_parse(struct stream_place *p, const char *text, char *err, size_t errlen)
{
	unsigned long fd;

	memset(p, 0, sizeof(*p));
	if (number(text, INT_MAX, &fd)) {
		p->kind = STREAM_FD;
		p->fd = (int)fd;
		return 0;
	}
	if (!strncmp(text, "vsock:", 6))
		return parse_vsock(p, text + 6, err, errlen);
	if (strchr(text, '/'))
		return parse_path(p, text, err, errlen);
	if (strchr(text, ':'))
		return parse_tcp(p, text, err, errlen);
	snprintf(err, errlen, "'%s' is no descriptor, PATH (with a '/'), ADDRESS:PORT or vsock:CID:PORT", text);
	return -EINVAL;
}

/* Of a terminal's line discipline nothing is wanted. */
static void make_raw(int fd)
{
	struct termios t;

	if (tcgetattr(fd, &t))
		return;
	cfmakeraw(&t);
	tcsetattr(fd, TCSANOW, &t);
}

static int keep_from_blocking(int fd)
{
	int flags = fcntl(fd, F_GETFL);

	return flags < 0 || fcntl(fd, F_SETFL, flags | O_NONBLOCK) ? -errno : fd;
}

static int open_socket(const struct stream_place *p)
{
	int fd = socket(p->addr.ss_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0), one = 1;

	if (fd < 0)
		return -errno;
	if (p->kind == STREAM_TCP) /* what is not sent at once waits for an answer that nobody gives */
		setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
	return fd;
}

int stream_place_connect(const struct stream_place *p, bool *pending)
{
	int fd, err;

	*pending = false;
	if (p->kind == STREAM_FD)
		return keep_from_blocking(p->fd);
	if (p->kind == STREAM_DEVICE) {
		fd = open(p->path, O_RDWR | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
		if (fd < 0)
			return -errno;
		make_raw(fd);
		return fd;
	}
	fd = open_socket(p);
	if (fd < 0 || !connect(fd, (const struct sockaddr *)&p->addr, p->addr_len))
		return fd;
	err = errno;
	if (err == EINPROGRESS) {
		*pending = true;
		return fd;
	}
	close(fd);
	return -err;
}

int stream_place_connected(int fd)
{
	socklen_t len = sizeof(int);
	int err = 0;

	return getsockopt(fd, SOL_SOCKET, SO_ERROR, &err, &len) ? -errno : -err;
}

int stream_place_listen(const struct stream_place *p)
{
	struct sockaddr_storage addr = p->addr;
	int fd = open_socket(p), one = 1, err;

	if (fd < 0)
		return fd;
	if (p->kind == STREAM_VSOCK) /* ours may be any; p->cid is who may come */
		((struct sockaddr_vm *)&addr)->svm_cid = VMADDR_CID_ANY;
	else
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	if (!bind(fd, (struct sockaddr *)&addr, p->addr_len) && !listen(fd, 1))
		return fd;
	err = errno;
	close(fd);
	return -err;
}

int stream_place_accept(const struct stream_place *p, int listener)
{
	struct sockaddr_storage peer = { 0 };
	socklen_t len = sizeof(peer);
	int fd = accept4(listener, (struct sockaddr *)&peer, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);

	if (fd < 0)
		return -errno;
	if (p->kind != STREAM_VSOCK || p->cid == VMADDR_CID_ANY || ((struct sockaddr_vm *)&peer)->svm_cid == p->cid)
		return fd;
	close(fd);
	return -EPERM;
}
