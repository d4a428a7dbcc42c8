/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Fields of a record as text, each value in the way that its type hints at. */
#ifndef READER_SHOW_H
#define READER_SHOW_H

#include "sink.h"

struct stack;

/* The stacks that an event's fields name. */
#define SHOWN_STACKS 4
struct shown_stacks {
	unsigned int nr;
	struct {
		__u64 id;
		bool user;
	} stack[SHOWN_STACKS]; /* not more of a record */
};

/* " name=value" for each of the event's fields, but for stacks, which come into @stacks. */
void show_fields(struct out *o, const struct sink_event *e, struct shown_stacks *stacks);
/* A line for each frame: kernel first, then user, innermost first. */
void show_stacks(struct out *o, const struct sink_event *e, const struct shown_stacks *stacks);
/*
 * As lines of the text output have an event behind its place: the task, the event and its fields, and then a
 * line for each frame. A line is to be limited to TEXT_LINE_BYTES, as a few bytes in a ring can be much more.
 */
#define TEXT_LINE_BYTES (64u << 10)
void text_show_event(struct out *o, const struct sink_event *e);
void text_show_loss(struct out *o, const struct sink_loss *l);
/* As the JSON output has them, but for the end of the line. */
void json_show_event(struct out *o, const struct sink_event *e);
void json_show_loss(struct out *o, const struct sink_loss *l);
/* Text of any bytes as a JSON string. False: not all of it was UTF-8. */
bool json_show_string(struct out *o, const char *text, size_t len);
/* The first frame of a kernel stack of @e's that is not the tracer's own. */
__u32 first_frame(const struct sink_event *e, const struct stack *st);
/* A task's name and nothing else, harmless, in a piece; @p itself: it is not known. */
#define TASK_NAME 20
char *piece_task_name(char *p, const struct origin *from, __u32 tid, __u64 time);
/*
 * The same as it is: bytes of any value, *@len of them. @buf, of TASK_NAME bytes, may be used for
 * it. NULL: not known.
 */
const char *task_name(const struct origin *from, __u32 tid, __u64 time, char *buf, size_t *len);
/* Letters as ftrace and ps(1) have them; bit 8 says that the task was preempted. */
char *piece_task_state(char *p, __u64 v);
/* A negative one was extended to 64 bits; it has no more digits than its type. */
__u64 unextended(const struct htrace_type *t, __u64 v);
/* NULL: no such system call of x86-64. */
const char *syscall_name(__u64 nr);

#define SYSCALL_ARGS 6

struct syscall_arg {
	char name[24];
	unsigned char index;
	char type; /* i, u: 32 bits; l, q: 64; signed or not */
};

/* The numeric arguments of a call, with one without a name behind them; NULL: not known. */
const struct syscall_arg *syscall_args(const char *call);

#endif
