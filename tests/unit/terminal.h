/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* A terminal for the views of sink_fixture.h, which is to be included before: what is on it, page by page. */
#ifndef TESTS_TERMINAL_H
#define TESTS_TERMINAL_H

#include <stdlib.h>
#include <sys/ioctl.h>

#include "view.h"

#define TERMINAL_ROWS 12
#define TERMINAL_COLUMNS 64
#define TERMINAL_BEGIN "\033[H\033[2J" /* the first page; those behind it, and what is left at the end: */
#define TERMINAL_AGAIN "\033[H"
#define TERMINAL_LAST "\033[H\033[J"
#define TERMINAL_CUT " more lines, shown at the end"

static int terminal = -1; /* its other side */

/* Before setup(), which opens it in the place of a file. */
static void terminal_open(void)
{
	struct winsize w = { .ws_row = TERMINAL_ROWS, .ws_col = TERMINAL_COLUMNS };
	static char name[64];

	terminal = posix_openpt(O_RDWR | O_NOCTTY | O_NONBLOCK | O_CLOEXEC);
	ck_assert_int_ge(terminal, 0);
	ck_assert(!grantpt(terminal) && !unlockpt(terminal) && !ptsname_r(terminal, name, sizeof(name)));
	ck_assert_int_eq(ioctl(terminal, TIOCSWINSZ, &w), 0);
	on_terminal = name;
}

static void terminal_close(void)
{
	close(terminal);
	on_terminal = NULL;
}

/* What came since it was asked last, with lines as the program wrote them. */
static const char *terminal_shown(void)
{
	static char text[65536];
	size_t len = 0, kept = 0;
	ssize_t n;

	while ((n = read(terminal, text + len, sizeof(text) - 1 - len)) > 0)
		len += (size_t)n;
	for (size_t i = 0; i < len; i++)
		if (text[i] != '\r')
			text[kept++] = text[i];
	text[kept] = 0;
	return text;
}

/* It begins so, takes no more lines and no longer ones than there is room for, and leaves nothing of the page before. */
static void terminal_fits(const char *text, const char *begin)
{
	static const char rest[] = "\033[K\n";
	unsigned int lines = 0;
	const char *end;

	ck_assert_msg(!strncmp(text, begin, strlen(begin)), "%s", text);
	for (text += strlen(begin); (end = strchr(text, '\n')) != NULL; text = end + 1, lines++) {
		ck_assert_msg(end - text >= 3 && !strncmp(end - 3, rest, 4), "%s", text);
		ck_assert_msg(end - text - 3 <= TERMINAL_COLUMNS, "%s", text);
		ck_assert_ptr_eq(memchr(text, '\033', (size_t)(end - text)), end - 3);
	}
	ck_assert_str_eq(text, "\033[J");
	ck_assert(lines > 2 && lines < TERMINAL_ROWS);
}

/*
 * A view in the midst of its work, later, and at its end: pages with @first, then with @then, which are in the
 * lines that fit, and @last, which does not, as @left_out says. @more makes what changes.
 */
static void terminal_check(struct sinks *s, void (*more)(void), const char *first, const char *then, const char *last,
			   const char *left_out)
{
	const char *text;

	views_refresh(s, 1);
	text = terminal_shown();
	terminal_fits(text, TERMINAL_BEGIN);
	ck_assert_msg(strstr(text, first) && strstr(text, left_out), "%s", text);
	ck_assert_ptr_null(strstr(text, last));
	views_refresh(s, 2);
	ck_assert_str_eq(terminal_shown(), ""); /* it is not due */
	more();
	views_refresh(s, 2000000000);
	text = terminal_shown();
	terminal_fits(text, TERMINAL_AGAIN);
	ck_assert_msg(strstr(text, then) && !strstr(text, first), "%s", text);
	views_close(s, true);
	text = terminal_shown();
	ck_assert_msg(!strncmp(text, TERMINAL_LAST, strlen(TERMINAL_LAST)), "%s", text);
	text += strlen(TERMINAL_LAST);
	ck_assert_msg(strstr(text, then) && strstr(text, last) && !strchr(text, '\033'), "%s", text);
	ck_assert_ptr_null(strstr(text, left_out));
}

#endif
