/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Descriptors with a message, from one process to another, by a UNIX socket. */
#ifndef READER_PASS_FD_H
#define READER_PASS_FD_H

#include <stdbool.h>
#include <stddef.h>

#define PASS_FDS 32 /* with one message, at most */

/* All @len bytes with @nr of @fd, which stay open here. @flags as of sendmsg(2); there is no signal. */
bool pass_fds(int to, const void *data, size_t len, const int *fd, int nr, int flags);
/*
 * A message of @len bytes: how many of @fd came with it, which are closed by execve(2). -EAGAIN: none is there yet;
 * -EPIPE: the other end is gone, or the message is no such one. @flags as of recvmsg(2).
 */
int take_fds(int from, void *data, size_t len, int fd[PASS_FDS], int flags);

#endif
