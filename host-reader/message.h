/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the reader says beside its output: on stderr, each line beginning with its name. */
#ifndef READER_MESSAGE_H
#define READER_MESSAGE_H

/* An error or something to know: "what failed: why; what to do". */
__attribute__((format(printf, 1, 2))) void say(const char *fmt, ...);

/*
 * What a guest can cause is said at most so often: SAY_BURST lines at once, then one a second. How
 * many were left out stands behind the next one.
 */
#define SAY_BURST 20

struct say_quota {
	unsigned long long since; /* it was full, ns */
	unsigned long long unsaid;
};

/* @q NULL: nothing is said. */
__attribute__((format(printf, 2, 3))) void say_within(struct say_quota *q, const char *fmt, ...);

/* The line that shows what is being waited for; on a terminal only. The next say() removes it. */
__attribute__((format(printf, 1, 2))) void progress(const char *fmt, ...);
void progress_end(void);

#endif
