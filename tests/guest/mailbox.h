/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* The memory in which the host asks (border.c) and a guest answers: a line for each side to write. */
#ifndef TESTS_MAILBOX_H
#define TESTS_MAILBOX_H

#include <linux/types.h>

#define MAILBOX_OVER (~0ULL) /* asked: nothing more will be */

struct mailbox {
	__u64 ask;
	__u64 pad[7];
	__u64 answer;
};

#endif
