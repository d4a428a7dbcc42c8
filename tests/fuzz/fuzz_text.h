/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* What text and JSON that come out have to be, whatever went in. */
#ifndef FUZZ_TEXT_H
#define FUZZ_TEXT_H

#include "fuzz.h"

static const char *json_value(const char *p, const char *end, unsigned int depth);

static const char *json_string(const char *p, const char *end)
{
	CHECK(p < end && *p == '"');
	for (p++; p < end && *p != '"'; p++)
		if (*p == '\\') {
			CHECK(++p < end && strchr("\"\\/bfnrtu", *p));
			for (int i = 0; *p == 'u' && i < 4; i++)
				CHECK(p + 1 + i < end && strchr("0123456789abcdefABCDEF", p[1 + i]));
		}
	CHECK(p < end);
	return p + 1;
}

static const char *json_list(const char *p, const char *end, char close, unsigned int depth)
{
	CHECK(depth < 40);
	for (p++; p < end && *p != close; p += *p == ',') {
		if (close == '}') {
			p = json_string(p, end);
			CHECK(p < end && *p == ':');
			p++;
		}
		p = json_value(p, end, depth + 1);
		CHECK(p < end && (*p == close || (*p == ',' && p + 1 < end && p[1] != close)));
	}
	CHECK(p < end);
	return p + 1;
}

static const char *json_value(const char *p, const char *end, unsigned int depth)
{
	static const char *const words[] = { "true", "false", "null" };
	const char *start = p;

	CHECK(p < end);
	if (*p == '"')
		return json_string(p, end);
	if (*p == '{' || *p == '[')
		return json_list(p, end, *p == '{' ? '}' : ']', depth);
	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if ((size_t)(end - p) >= strlen(words[i]) && !memcmp(p, words[i], strlen(words[i])))
			return p + strlen(words[i]);
	p += *p == '-';
	while (p < end && *p >= '0' && *p <= '9')
		p++;
	CHECK(p > start + (*start == '-'));
	CHECK(start[*start == '-'] != '0' || p == start + (*start == '-') + 1);
	return p;
}

/* Printable lines of at most @most bytes; @json: an object each. */
static void check_lines(const char *text, size_t len, bool json, size_t most)
{
	const char *end = text + len, *next;

	for (const char *line = text; line < end; line = next + 1) {
		next = memchr(line, '\n', (size_t)(end - line));
		CHECK(next && (size_t)(next - line) <= most);
		for (const char *p = line; p < next; p++)
			CHECK(*p >= ' ' && *p <= '~');
		if (json)
			CHECK(*line == '{' && json_value(line, next, 0) == next);
	}
}

#endif
