/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the agent says, all of it on stderr, each line beginning with its name. */
#ifndef AGENT_MESSAGE_H
#define AGENT_MESSAGE_H

#include <stdbool.h>

#include <htrace/filter.h>

extern bool verbose;

/* An error or something to know: "what failed: why; what to do". */
__attribute__((format(printf, 1, 2))) void say(const char *fmt, ...);
/* What was said first since the last message_forget(): one line, "" if nothing was. */
const char *message_first(void);
void message_forget(void);
/* Only with --verbose. */
__attribute__((format(printf, 1, 2))) void detail(const char *fmt, ...);
/* What is wrong with --filter @text, and where. */
void say_filter_error(const char *text, const struct htrace_filter_error *err);
/* Send the library's messages and libbpf's the same way. */
void message_init(void);

/*
 * What libbpf first complained about since the last call of libbpf_forget(), in one line: for a
 * program that the verifier refused, its name and the verifier's verdict. Never NULL.
 */
const char *libbpf_complaint(void);
/* The end of the verifier's log behind that complaint, if there is one. */
void say_verifier_log(void);
void libbpf_forget(void);

#endif
