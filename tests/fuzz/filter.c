// SPDX-License-Identifier: LGPL-2.1-or-later
/* Filters: any text against the events of any schema and any record of them. */
#include <errno.h>

#include "filter_tree.h"

#include "fuzz.h"
#include "fuzz_schema.h"

/* What is constant does not depend on the record. */
static void check_constant(const struct htrace_filter_bound *b, bool matched)
{
	int all = filter_constant(b, b->filter->root);

	CHECK(all < 0 || matched == all);
}

static void match(const struct htrace_filter *f, const struct htrace_event *e, struct input *in)
{
	struct htrace_filter_context known = {
		.sz = sizeof(known), .tid_known = true, .pid_known = true, .cpu_known = true,
		.tid = 77, .pid = 1, .cpu = 3, .comm = "kworker/0:1", .comm_len = 11,
	}, nothing = { .sz = sizeof(nothing) };
	struct htrace_filter_bound *b;
	size_t len;
	void *payload;

	if (htrace_filter_bind(&b, f, e))
		return;
	payload = take_exact(in, take(in, 1), &len);
	check_constant(b, htrace_filter_matches(b, payload, len, &known));
	htrace_filter_matches(b, payload, len, &nothing);
	CHECK(htrace_filter_matches(b, payload, len, &known) ==
	      htrace_filter_matches(b, payload, len, &known));
	htrace_filter_matches(b, "", 0, &known);
	free(payload);
	payload = calloc(1, e->type->size + 1);
	htrace_filter_matches(b, payload, e->type->size, &known);
	free(payload);
	htrace_filter_unbind(b);
}

/* Where an error is must be within the text, and what is said of it is one line. */
static void check_error(const char *text, const struct htrace_filter_error *err)
{
	char place[256];

	CHECK(err->column >= 1 && err->column <= HTRACE_FILTER_MAX + 1);
	CHECK(err->msg[0] && strnlen(err->msg, sizeof(err->msg)) < sizeof(err->msg));
	htrace_filter_point(text, err->column, place, sizeof(place));
	for (const char *p = place; *p; p++)
		CHECK((*p >= ' ' && *p <= '~') || *p == '\n');
	htrace_filter_point(text, err->column, place, 7);
	CHECK(strlen(place) < 7);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct schema_maker maker;
	struct input in = { data, size };
	__u64 how = take(&in, 1), text_len = take(&in, 1 + (how & 1));
	struct htrace_filter_error err = { 0 };
	struct htrace_schema *s = NULL;
	struct htrace_filter *f;
	char why[160], *text;
	size_t len;
	int ret;

	text = take_exact(&in, text_len % 6000, &len);
	text = realloc(text, len + 1);
	text[len] = 0;
	fail_allocation(how >= 240 ? (unsigned int)how - 239 : 0);
	ret = htrace_filter_parse(&f, text, &err);
	fail_allocation(0);
	CHECK(!ret || ret == -EINVAL || ret == -ENOMEM);
	if (ret) {
		check_error(text, &err);
		CHECK(htrace_filter_parse(&f, text, NULL) == ret || ret == -ENOMEM);
		htrace_filter_free(ret == -ENOMEM ? f : NULL);
		free(text);
		return 0;
	}
	CHECK(!strcmp(htrace_filter_text(f), text) && htrace_filter_bound_size(f) < 1 << 20);
	maker.len = maker.nr_types = maker.nr_events = 0;
	schema_make(&maker, &in, 32);
	if (!htrace_schema_parse(&s, maker.at, maker.len, why, sizeof(why))) {
		memset(&err, 0xff, sizeof(err)); /* nothing of what was in it is shown */
		fail_allocation(how >= 224 && how < 240 ? (unsigned int)how - 223 : 0);
		ret = htrace_filter_check(f, s, &err);
		fail_allocation(0);
		CHECK(!ret || ret == -ENOENT || ret == -EINVAL || ret == -ENOMEM);
		if (ret)
			check_error(text, &err);
		for (__u32 i = 0; i < htrace_schema_nr_events(s) && i < 8; i++)
			match(f, htrace_schema_event_at(s, i), &in);
	}
	htrace_schema_free(s);
	htrace_filter_free(f);
	free(text);
	return 0;
}
