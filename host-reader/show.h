/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fields of a record as text, each value in the way that its type hints at. */
#ifndef READER_SHOW_H
#define READER_SHOW_H

#include "sink.h"

/* " name=value" for each of the event's fields. */
void show_fields(struct out *o, const struct sink_event *e);
/* A task's name and nothing else, harmless. Characters written; 0: its name is not known. */
size_t show_task_name(struct out *o, const struct origin *from, __u32 tid, __u64 time);
/* NULL: no such system call of x86-64. */
const char *syscall_name(__u64 nr);

#endif
