/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "pass_fd.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>

union control {
	char room[CMSG_SPACE(PASS_FDS * sizeof(int))];
	struct cmsghdr align;
};

bool pass_fds(int to, const void *data, size_t len, const int *fd, int nr, int flags)
{
	struct iovec v = { (void *)data, len };
	union control control = { { 0 } };
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1 };

	if (nr > 0) {
		struct cmsghdr *c;

		m.msg_control = control.room;
		m.msg_controllen = CMSG_SPACE((size_t)nr * sizeof(int));
		c = CMSG_FIRSTHDR(&m);
		c->cmsg_level = SOL_SOCKET;
		c->cmsg_type = SCM_RIGHTS;
		c->cmsg_len = CMSG_LEN((size_t)nr * sizeof(int));
		memcpy(CMSG_DATA(c), fd, (size_t)nr * sizeof(int));
	}
	return sendmsg(to, &m, flags | MSG_NOSIGNAL) == (ssize_t)len;
}

int take_fds(int from, void *data, size_t len, int fd[PASS_FDS], int flags)
{
	struct iovec v = { data, len };
	union control control;
	struct msghdr m = { .msg_iov = &v, .msg_iovlen = 1, .msg_control = control.room,
			    .msg_controllen = sizeof(control.room) };
	struct cmsghdr *c;
	ssize_t n;
	int nr;

	do
		n = recvmsg(from, &m, flags | MSG_CMSG_CLOEXEC);
	while (n < 0 && errno == EINTR);
	if (n < 0 && errno == EAGAIN)
		return -EAGAIN;
	if (n != (ssize_t)len)
		return -EPIPE;
	c = CMSG_FIRSTHDR(&m);
	if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
		return 0;
	nr = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
	memcpy(fd, CMSG_DATA(c), (size_t)nr * sizeof(int));
	return nr;
}
