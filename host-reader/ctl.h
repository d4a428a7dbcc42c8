/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* host-reader ctl: commands for the agent of a running guest, through its region. */
#ifndef READER_CTL_H
#define READER_CTL_H

#include <stdbool.h>
#include <stddef.h>

#include "out.h"

/* Exit status: 0 done, 1 not done, 2 usage, 3 the guest does not allow it, 4 not known. */
int ctl_main(int argc, char **argv);

/* ctl_show.c: what an agent answered, of any bytes, which come out harmless. */

struct htrace_reply;

/* The list, @len bytes: a table, or a JSON array. */
void ctl_show_list(struct out *o, const char *text, size_t len, bool json);
/* One line. */
void ctl_show_text(struct out *o, const char *status, const char *text, size_t len, bool json);

/* ctl_snapshot.c: have the reader of the region that @fd has open let go of what it holds. 0 or -1 after saying why not. */
int ctl_snapshot(int fd, const char *path);

#endif
