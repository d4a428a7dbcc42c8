/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What the reader says beside its output: on stderr, each line beginning with its name. */
#ifndef READER_MESSAGE_H
#define READER_MESSAGE_H

/* An error or something to know: "what failed: why; what to do". */
__attribute__((format(printf, 1, 2))) void say(const char *fmt, ...);
/* The line that shows what is being waited for; on a terminal only. The next say() removes it. */
__attribute__((format(printf, 1, 2))) void progress(const char *fmt, ...);
void progress_end(void);

#endif
