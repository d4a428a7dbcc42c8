/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "message.h"

#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "clock.h"

static bool line_open; /* a progress line stands on the terminal */

void progress_end(void)
{
	if (line_open)
		fputs("\r\033[K", stderr);
	line_open = false;
}

static void put(const char *line)
{
	/* One write, so that lines of several processes do not mix. */
	fprintf(stderr, "%shost-reader: %s\n", line_open ? "\r\033[K" : "", line);
	line_open = false;
}

void say(const char *fmt, ...)
{
	char line[1024];
	va_list args;

	va_start(args, fmt);
	vsnprintf(line, sizeof(line), fmt, args);
	va_end(args);
	put(line);
}

/* Each line takes a second's worth; SAY_BURST seconds' worth can be saved up. */
static bool may_say(struct say_quota *q)
{
	const unsigned long long second = 1000000000ULL;
	unsigned long long now = clock_now();

	if (now - q->since > SAY_BURST * second)
		q->since = now > SAY_BURST * second ? now - SAY_BURST * second : 0;
	if (now - q->since < second)
		return false;
	q->since += second;
	return true;
}

void say_within(struct say_quota *q, const char *fmt, ...)
{
	char line[1024 + 64];
	va_list args;
	size_t len;

	if (!q)
		return;
	if (!may_say(q)) {
		q->unsaid++;
		return;
	}
	va_start(args, fmt);
	vsnprintf(line, 1024, fmt, args);
	va_end(args);
	len = strlen(line);
	if (q->unsaid)
		snprintf(line + len, sizeof(line) - len, " (%llu more messages before this one)",
			 q->unsaid);
	q->unsaid = 0;
	put(line);
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
