/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "message.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <unistd.h>

static bool line_open; /* a progress line stands on the terminal */

void progress_end(void)
{
	if (line_open)
		fputs("\r\033[K", stderr);
	line_open = false;
}

void say(const char *fmt, ...)
{
	char line[1024];
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	/* One write, so that lines of several processes do not mix. */
	fprintf(stderr, "%shost-reader: %s\n", line_open ? "\r\033[K" : "", line);
	line_open = false;
}

void progress(const char *fmt, ...)
{
	static int terminal = -1;
	char line[256];
	va_list args;

	if (terminal < 0)
		terminal = isatty(STDERR_FILENO);
	if (!terminal)
		return;
	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	fprintf(stderr, "\r\033[Khost-reader: %s", line);
	line_open = true;
}
