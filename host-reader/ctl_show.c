/* SPDX-License-Identifier: LGPL-2.1-or-later */
/*
 * A list has a line for each event: its name, then "KEY=VALUE", separated by tabs; keys that are not known
 * are passed over. It is the guest's: whatever it is, it is shown as text, and numbers as text that is one.
 */
#include "ctl.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#include <htrace/schema.h>

#include "view.h"

#define NAME_WIDTH 28
#define LIMIT 8192 /* bytes of a line that are looked at */

enum key { STATE, ALLOWED, SAMPLE, SKIPPED, RUNS, FILTER, NR_KEYS };

static const struct {
	const char *name;
	bool number;
	int width; /* of its column */
} keys[NR_KEYS] = {
	[STATE] = {"state", false, 6}, [ALLOWED] = {"allowed", true, 8}, [SAMPLE] = {"sample", true, 8},
	[SKIPPED] = {"skipped", true, 10}, [RUNS] = {"runs", true, 12}, [FILTER] = {"filter", false, 0},
};

struct piece {
	const char *at; /* NULL: it was not said */
	size_t len;
};

struct line {
	struct piece name, value[NR_KEYS];
};

/* Up to @end or @until, behind which *@at is then. */
static struct piece cut(const char **at, const char *end, char until)
{
	const char *from = *at, *to = memchr(from, until, (size_t)(end - from));
	struct piece p = {from, (size_t)((to ? to : end) - from)};

	*at = to ? to + 1 : end;
	return p;
}

static void parse_line(struct line *l, struct piece text)
{
	const char *at = text.at, *end = text.at + (text.len < LIMIT ? text.len : LIMIT);

	memset(l, 0, sizeof(*l));
	l->name = cut(&at, end, '\t');
	while (at < end) {
		struct piece value = cut(&at, end, '\t');
		const char *from = value.at;
		struct piece key = cut(&from, value.at + value.len, '=');

		for (int i = 0; i < NR_KEYS; i++)
			if (key.len == strlen(keys[i].name) && !memcmp(key.at, keys[i].name, key.len))
				l->value[i] = (struct piece){from, (size_t)(value.at + value.len - from)};
	}
}

static bool is_number(struct piece p)
{
	for (size_t i = 0; i < p.len; i++)
		if (!isdigit((unsigned char)p.at[i]))
			return false;
	return p.len && p.len < 20 && (p.len == 1 || p.at[0] != '0');
}

/* Made harmless, in memory of the caller's to free; never NULL but without memory. */
static char *escaped(struct piece p)
{
	size_t room = 4 * p.len + 1;
	char *text = malloc(room);

	if (text)
		text[p.at ? htrace_escape(text, room - 1, p.at, p.len) : 0] = 0;
	return text;
}

static void put_json(struct out *o, const char *name, struct piece p)
{
	char *text = escaped(p);

	if (name)
		out_printf(o, ",\"%s\":", name);
	view_json_text(o, text ? text : "");
	free(text);
}

static void put_cell(struct out *o, struct piece p, int width)
{
	char *text = escaped(p);
	size_t len = text ? strlen(text) : 0;

	out_text(o, len ? text : width ? "-" : "");
	for (size_t i = len ? len : 1; i < (size_t)width; i++)
		out_char(o, ' ');
	if (width)
		out_char(o, ' ');
	free(text);
}

static void show_json(struct out *o, const struct line *l)
{
	out_text(o, "{\"event\":");
	put_json(o, NULL, l->name);
	for (int i = 0; i < NR_KEYS; i++) {
		struct piece p = l->value[i];

		if (!p.at || (keys[i].number && !is_number(p)))
			continue;
		if (i == ALLOWED)
			out_printf(o, ",\"allowed\":%s", p.at[0] == '0' ? "false" : "true");
		else if (keys[i].number)
			out_printf(o, ",\"%s\":%.*s", keys[i].name, (int)p.len, p.at);
		else
			put_json(o, keys[i].name, p);
	}
	out_char(o, '}');
}

static void show_row(struct out *o, const struct line *l)
{
	put_cell(o, l->name, NAME_WIDTH);
	for (int i = 0; i < NR_KEYS; i++) {
		struct piece p = l->value[i];

		if (i == ALLOWED)
			p = (struct piece){p.len == 1 && p.at[0] == '1' ? "yes" : "no", p.len == 1 && p.at[0] == '1' ? 3 : 2};
		put_cell(o, p, keys[i].width);
	}
	out_newline(o);
}

void ctl_show_list(struct out *o, const char *text, size_t len, bool json)
{
	const char *at = text, *end = text + len;
	bool first = true;
	struct line l;

	if (json) {
		out_text(o, "{\"status\":\"done\",\"events\":[");
	} else {
		out_printf(o, "%-*s ", NAME_WIDTH, "event");
		for (int i = 0; i < NR_KEYS; i++)
			out_printf(o, keys[i].width ? "%-*s " : "%-*s", keys[i].width, keys[i].name);
		out_newline(o);
	}
	while (at < end) {
		struct piece p = cut(&at, end, '\n');

		if (!p.len)
			continue;
		parse_line(&l, p);
		if (json && !first)
			out_char(o, ',');
		first = false;
		if (json)
			show_json(o, &l);
		else
			show_row(o, &l);
	}
	if (json) {
		out_text(o, "]}");
		out_newline(o);
	}
}

void ctl_show_text(struct out *o, const char *status, const char *text, size_t len, bool json)
{
	struct piece p = {text, len < LIMIT ? len : LIMIT};

	if (json) {
		out_printf(o, "{\"status\":\"%s\"", status);
		put_json(o, "text", p);
		out_char(o, '}');
	} else {
		put_cell(o, p, 0);
	}
	out_newline(o);
}
