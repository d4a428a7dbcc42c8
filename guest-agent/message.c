/* SPDX-License-Identifier: LGPL-2.1-or-later */
#include "message.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <bpf/libbpf.h>
#include <htrace/version.h>

bool verbose;

#define LOG_LINES 8 /* shown of a verifier's log: its end, where the reason is */

static char first_said[1024]; /* for who asked that something be done */
static char complaint[256];
static bool verdict; /* complaint is the verifier's, which says most */
static char log_line[LOG_LINES][160];
static unsigned int nr_log_lines; /* in the whole log */

static void print(const char *fmt, va_list args)
{
	char line[1024];

	vsnprintf(line, sizeof(line), fmt, args);
	fprintf(stderr, "guest-agent: %s\n", line);
}

void say(const char *fmt, ...)
{
	va_list args;

	if (!first_said[0]) {
		va_start(args, fmt);
		vsnprintf(first_said, sizeof(first_said), fmt, args);
		va_end(args);
	}
	va_start(args, fmt);
	print(fmt, args);
	va_end(args);
}

const char *message_first(void)
{
	return first_said;
}

void message_forget(void)
{
	first_said[0] = 0;
}

void say_filter_error(const char *text, const struct htrace_filter_error *err)
{
	char place[256];

	htrace_filter_point(text, err->column, place, sizeof(place));
	say("--filter: column %u: %s\n%s", err->column, err->msg, place);
}

void detail(const char *fmt, ...)
{
	va_list args;

	if (!verbose)
		return;
	va_start(args, fmt);
	print(fmt, args);
	va_end(args);
}

const char *libbpf_complaint(void)
{
	return complaint[0] ? complaint : "no reason given";
}

void libbpf_forget(void)
{
	complaint[0] = 0;
	verdict = false;
	nr_log_lines = 0;
}

void say_verifier_log(void)
{
	unsigned int first = nr_log_lines > LOG_LINES ? nr_log_lines - LOG_LINES : 0;

	if (!nr_log_lines || verbose)
		return;
	if (first)
		say("  the verifier's log (%u lines before, --verbose shows them):", first);
	else
		say("  the verifier's log:");
	for (unsigned int i = first; i < nr_log_lines; i++)
		say("    %s", log_line[i % LOG_LINES]);
}

/* From a verifier's log: "program NAME: the line before its statistics". */
static bool keep_verdict(char *text)
{
	char *log = strstr(text, "-- BEGIN PROG LOAD LOG --\n"), *name, *end, *last = NULL, *save;

	if (!log)
		return false;
	name = strchr(text, '\'');
	end = name ? strchr(name + 1, '\'') : NULL;
	log = strchr(log, '\n') + 1;
	for (char *l = strtok_r(log, "\n", &save); l; l = strtok_r(NULL, "\n", &save)) {
		if (!strncmp(l, "processed ", 10) || !strncmp(l, "-- END", 6))
			break;
		snprintf(log_line[nr_log_lines++ % LOG_LINES], sizeof(log_line[0]), "%s", l);
		last = l;
	}
	snprintf(complaint, sizeof(complaint), "program %.*s: %s", end ? (int)(end - name - 1) : 0,
		 end ? name + 1 : "", last ? last : "the kernel gives no reason");
	return true;
}

static void keep(const char *fmt, va_list args)
{
	char *text = NULL, *at;

	if (verdict || vasprintf(&text, fmt, args) < 0) /* verifier logs can have megabytes */
		return;
	verdict = keep_verdict(text);
	if (!verdict && !complaint[0]) { /* the first is the cause, the others follow from it */
		at = strncmp(text, "libbpf: ", 8) ? text : text + 8;
		at[strcspn(at, "\n")] = 0;
		snprintf(complaint, sizeof(complaint), "%s", at);
	}
	free(text);
}

static int from_libbpf(enum libbpf_print_level level, const char *fmt, va_list args)
{
	va_list again;

	if (verbose && level != LIBBPF_DEBUG) {
		va_copy(again, args);
		vfprintf(stderr, fmt, again);
		va_end(again);
	}
	if (level == LIBBPF_WARN)
		keep(fmt, args);
	return 0;
}

static void from_library(enum htrace_log_level level, const char *fmt, va_list args)
{
	if (verbose || level == HTRACE_LOG_ERROR)
		print(fmt, args);
}

void message_init(void)
{
	libbpf_set_print(from_libbpf);
	htrace_set_log(from_library);
}
