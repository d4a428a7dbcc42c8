/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * The end of a guest's console, in a file that its VMM writes (QEMU's -serial file:FILE). What is in it is the
 * guest's word, bytes of any value: a bounded part of it is read, and nothing of it is shown as it is.
 */
#ifndef READER_CONSOLE_H
#define READER_CONSOLE_H

#include <stdbool.h>
#include <stddef.h>

#include "out.h"

#define CONSOLE_LINES 100u
#define CONSOLE_BYTES (1u << 20) /* from its end on, or that of a boot, that are looked at */
#define CONSOLE_LINE 1024u /* bytes of a line that are shown */

struct console;

struct console_line {
	const char *text; /* without its end; any bytes */
	unsigned int len;
	bool stamped;  /* it begins with the kernel's time, as "[   12.345678] ": */
	__u64 time;    /* ns of the kernel's local_clock(), */
	unsigned int message; /* and what is behind that begins here */
};

struct console_tail {
	struct console_line line[CONSOLE_LINES];
	unsigned int nr;
	/* What it says of the end of its last boot: the first panic, else the last "reboot: ". len 0: nothing. */
	struct console_line last_words;
	bool rebooted; /* the next boot's lines, which come behind, are left out */
	bool replaced; /* there is another file of that name by now */
	char *buf;
};

/* Open @path, which has to be an ordinary file. 0, or -errno with one line in @err. */
int console_open(struct console **out, const char *path, char *err, size_t errlen);
void console_close(struct console *c);
const char *console_path(const struct console *c);
/* From here on, what it says is of a boot that is under way. */
void console_begin(struct console *c);
/* The last lines before the next boot. 0 or -errno. console_tail_free() in any case. */
int console_read(const struct console *c, struct console_tail *t);
void console_tail_free(struct console_tail *t);
/* The line without colours and the like; else printable ASCII as it is, and \xNN for what is not. */
void console_show(struct out *o, const struct console_line *l);

#endif
