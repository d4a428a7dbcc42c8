/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "console.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <htrace/schema.h>

#define PANIC "Kernel panic - not syncing"
#define STAMPS 40 /* bytes that the times before a message may have */
#define REBOOT "reboot: " /* Power down, Restarting system, System halted */

struct console {
	int fd;
	char *path;
	off_t since; /* where it ended when the boot was under way */
};

int console_open(struct console **out, const char *path, char *err, size_t errlen)
{
	struct console *c = calloc(1, sizeof(*c));
	struct stat st = { 0 };
	int e;

	if (!c)
		return -ENOMEM;
	/* O_NONBLOCK: do not hang on a FIFO */
	c->fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	e = c->fd < 0 || fstat(c->fd, &st) ? errno : 0;
	c->path = strdup(path);
	if (!e && c->path && S_ISREG(st.st_mode)) {
		*out = c;
		return 0;
	}
	if (!e)
		e = c->path ? EINVAL : ENOMEM;
	if (e == ENOENT)
		snprintf(err, errlen, "%s; start the VM first, or make it: QEMU writes into the file that it finds",
			 strerror(e));
	else
		snprintf(err, errlen, "%s", e == EINVAL ? "not a regular file" : strerror(e));
	console_close(c);
	return -e;
}

void console_close(struct console *c)
{
	if (!c)
		return;
	if (c->fd >= 0)
		close(c->fd);
	free(c->path);
	free(c);
}

const char *console_path(const struct console *c)
{
	return c->path;
}

void console_begin(struct console *c)
{
	struct stat st;

	c->since = fstat(c->fd, &st) ? 0 : st.st_size;
}

/* ------------------------------------------------------------------------------------------ reading */

/* Bytes [@from, @to), or as many as there are; -errno. */
static ssize_t read_range(const struct console *c, char *buf, off_t from, off_t to)
{
	ssize_t n, got = 0;

	while (from + got < to) {
		n = pread(c->fd, buf + got, (size_t)(to - from - got), from + got);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return -errno;
		if (!n)
			break;
		got += n;
	}
	return got;
}

static const char *find(const char *text, size_t len, const char *what)
{
	return memmem(text, len, what, strlen(what));
}

/* The beginning of the line at @at. */
static const char *line_begin(const char *text, const char *at)
{
	const char *nl = memrchr(text, '\n', (size_t)(at - text));

	return nl ? nl + 1 : text;
}

/* "[    0.000000] Linux version ", or with who said it between; NULL: there is none. */
static const char *kernel_at(const char *text, size_t len)
{
	const char *at = text, *stamp;

	while ((at = find(at, len - (size_t)(at - text), "Linux version "))) {
		size_t before = (size_t)(at - text) < STAMPS ? (size_t)(at - text) : STAMPS;

		stamp = find(at - before, before, "[    0.000000]");
		if (stamp)
			return stamp;
		at++;
	}
	return NULL;
}

/* Where a boot begins, by what firmware and kernel say first; @len: none does. */
static size_t boot_at(const char *text, size_t len)
{
	const char *firmware = find(text, len, "SeaBIOS (version"), *kernel = kernel_at(text, len);

	if (firmware)
		firmware = line_begin(text, firmware);
	if (firmware && (!kernel || firmware < kernel))
		kernel = firmware;
	return kernel ? (size_t)(kernel - text) : len;
}

/* Where the last boot begins, if that is in it. */
static size_t last_boot(const char *text, size_t len)
{
	const char *at = text, *begin = text;

	while ((at = kernel_at(at, len - (size_t)(at - text))))
		begin = at++;
	return (size_t)(begin - text);
}

/* Where the boot's part ends that was under way. -errno. */
static off_t boot_end(const struct console *c, off_t size, char *buf)
{
	off_t from = size - CONSOLE_BYTES;
	ssize_t n;

	if (size < c->since) /* it was begun anew, and has nothing of that boot */
		return 0;
	if (from < c->since)
		from = c->since;
	n = read_range(c, buf, from, size);
	return n < 0 ? n : from + (off_t)boot_at(buf, (size_t)n);
}

/* "[   12.345678] ", or "[   12.345678][  T123] ". */
static void read_stamp(struct console_line *l)
{
	unsigned int at = 1, micro = 0;
	__u64 s = 0;

	if (l->len < 3 || l->text[0] != '[')
		return;
	while (at < l->len && l->text[at] == ' ')
		at++;
	for (; at < l->len && l->text[at] >= '0' && l->text[at] <= '9' && s < 1000000000; at++)
		s = 10 * s + (__u64)(l->text[at] - '0');
	if (l->len - at < 8 || l->text[at] != '.' || l->text[at + 7] != ']')
		return;
	for (unsigned int i = 1; i <= 6; i++) {
		char c = l->text[at + i];

		if (c < '0' || c > '9')
			return;
		micro = 10 * micro + (unsigned int)(c - '0');
	}
	at += 8;
	if (at < l->len && l->text[at] == '[') { /* who said it */
		while (at < l->len && l->text[at] != ']')
			at++;
		at += at < l->len;
	}
	l->stamped = true;
	l->time = s * 1000000000 + micro * 1000ULL;
	l->message = at + (at < l->len && l->text[at] == ' ');
}

/* The line that ends at @end, or before, with blanks at its end. */
static struct console_line line_until(const char *begin, const char *end)
{
	struct console_line l = { .text = begin, .len = (unsigned int)(end - begin) };

	while (l.len && (l.text[l.len - 1] == '\r' || l.text[l.len - 1] == ' '))
		l.len--;
	read_stamp(&l);
	return l;
}

/* From the end on, lines that are not empty. */
static void split(struct console_tail *t, const char *text, size_t len)
{
	const char *end = text + len;
	unsigned int nr = 0;

	while (end > text && nr < CONSOLE_LINES) {
		const char *begin = line_begin(text, end);
		struct console_line l = line_until(begin, end);

		if (l.len)
			t->line[CONSOLE_LINES - ++nr] = l;
		end = begin > text ? begin - 1 : begin;
	}
	memmove(t->line, &t->line[CONSOLE_LINES - nr], nr * sizeof(t->line[0]));
	t->nr = nr;
}

static struct console_line last_words(const char *text, size_t len)
{
	const char *panic = find(text, len, PANIC), *at = panic, *end;

	for (const char *next = text; !panic && (next = find(next, len - (size_t)(next - text), REBOOT)); next++)
		at = next;
	if (!at)
		return (struct console_line){ 0 };
	end = memchr(at, '\n', len - (size_t)(at - text));
	return line_until(line_begin(text, at), end ? end : text + len);
}

int console_read(const struct console *c, struct console_tail *t)
{
	struct stat st, now;
	size_t boot;
	off_t end;
	ssize_t n;

	memset(t, 0, sizeof(*t));
	if (fstat(c->fd, &st))
		return -errno;
	t->buf = malloc(CONSOLE_BYTES);
	if (!t->buf)
		return -ENOMEM;
	end = boot_end(c, st.st_size, t->buf);
	if (end < 0)
		return (int)end;
	t->rebooted = end < st.st_size;
	t->replaced = !stat(c->path, &now) && (now.st_dev != st.st_dev || now.st_ino != st.st_ino);
	n = read_range(c, t->buf, end > CONSOLE_BYTES ? end - CONSOLE_BYTES : 0, end);
	if (n < 0)
		return (int)n;
	boot = last_boot(t->buf, (size_t)n);
	split(t, t->buf + boot, (size_t)n - boot);
	t->last_words = last_words(t->buf + boot, (size_t)n - boot);
	return 0;
}

void console_tail_free(struct console_tail *t)
{
	free(t->buf);
	t->buf = NULL;
}

/* ------------------------------------------------------------------------------------------ showing */

/* Bytes of a sequence that steers a terminal, as "\033[0;32m"; 0: none begins here. */
static unsigned int control_sequence(const char *s, unsigned int len)
{
	unsigned int n = 2;

	if (len < 3 || s[0] != '\033' || s[1] != '[')
		return 0;
	while (n < len && s[n] >= 0x20 && s[n] < 0x40)
		n++;
	return n < len && s[n] >= 0x40 && s[n] < 0x7f ? n + 1 : 0;
}

void console_show(struct out *o, const struct console_line *l)
{
	unsigned int len = l->len < CONSOLE_LINE ? l->len : CONSOLE_LINE, skip;
	char text[4];

	for (unsigned int i = 0; i < len; i++) {
		char c = l->text[i];

		skip = control_sequence(l->text + i, len - i);
		if (skip)
			i += skip - 1;
		else if (c == '\t')
			out_char(o, ' ');
		else if (c == '"')
			out_char(o, c);
		else
			out_mem_slowly(o, text, htrace_escape(text, sizeof(text), &c, 1));
	}
	if (len < l->len)
		out_text(o, "...");
}
