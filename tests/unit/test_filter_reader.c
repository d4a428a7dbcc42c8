// SPDX-License-Identifier: LGPL-2.1-or-later
/* What the reader makes of a user's filter and of one that a guest publishes. */
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <htrace/consumer.h>

#include "filter.h"
#include "names.h"
#include "unit.h"

static struct htrace_schema_builder *b;
static struct htrace_schema *schema;
static __u32 ids[2];
static char said[4096];
static struct filter_said state;
static struct say_quota quota;

static void setup(void)
{
	struct htrace_schema_member m = { .name = "x" };
	int type;

	ck_assert(!htrace_builder_new(&b, NULL, 0));
	m.type = (__u32)htrace_builder_int(b, NULL, 4, false, 0);
	type = htrace_builder_struct(b, NULL, false, 4, &m, 1);
	ids[0] = (__u32)htrace_builder_event(b, "first", type);
	ids[1] = (__u32)htrace_builder_event(b, "second", type);
	ck_assert_int_gt(htrace_builder_event(b, HTRACE_STACK_EVENT, type), 0); /* never named */
	memset(&state, 0, sizeof(state));
	state.option = "--filter";
	memset(&quota, 0, sizeof(quota));
}

static void teardown(void)
{
	htrace_builder_free(b);
	htrace_schema_free(schema);
	schema = NULL;
}

/* filters_new(), and what it says. */
static struct filters *begin(const char *own, struct htrace_filter **f)
{
	char path[] = "/tmp/htrace-said-XXXXXX";
	int fd = mkstemp(path), old = dup(STDERR_FILENO);
	struct filters *filters;
	const void *entries;
	char err[160];
	size_t len;
	ssize_t n;

	entries = htrace_builder_entries(b, &len);
	htrace_schema_free(schema);
	ck_assert(!htrace_schema_parse(&schema, entries, len, err, sizeof(err)));
	*f = NULL;
	if (own)
		ck_assert(!htrace_filter_parse(f, own, NULL));
	dup2(fd, STDERR_FILENO);
	filters = filters_new(*f, schema, &state, "REGION", &quota);
	dup2(old, STDERR_FILENO);
	n = pread(fd, said, sizeof(said) - 1, 0);
	said[n > 0 ? n : 0] = 0;
	close(fd);
	close(old);
	unlink(path);
	return filters;
}

static bool passes(struct filters *f, unsigned int event, __u32 x)
{
	struct names *names = names_new();
	struct origin from = { .names = names, .per_cpu = true, .ring = 3 };
	struct htrace_record r = { .payload = &x, .len = 4 };
	struct sink_event e = {
		.from = &from, .task_known = true, .task = 77, .record = &r,
		.event = event < 2 ? htrace_schema_event(schema, ids[event]) : NULL,
	};
	bool yes;

	names_set(names, 77, 70, 0, "bash", 4);
	yes = filters_pass(f, &e);
	names_free(names);
	return yes;
}

START_TEST(test_own)
{
	struct htrace_filter *own;
	struct filters *f = begin("x == 5 && comm == b* && tid == 77 && pid == 70 && cpu == 3", &own);

	ck_assert_str_eq(said, "");
	ck_assert(passes(f, 0, 5) && passes(f, 1, 5) && !passes(f, 0, 6) && !passes(f, 2, 5));
	filters_free(f);
	htrace_filter_free(own);
	f = begin("pid == 70", &own);
	ck_assert(passes(f, 2, 0)); /* no description, but a task */
	filters_free(f);
	htrace_filter_free(own);
	ck_assert_ptr_null(begin(NULL, &own));
	ck_assert(filters_pass(NULL, NULL));
}
END_TEST

/* Said once in a session. */
START_TEST(test_unknown_name)
{
	struct htrace_filter *own;
	struct filters *f;

	for (int i = 0; i < 2; i++) {
		f = begin("cpu && y == 1", &own);
		if (i)
			ck_assert_str_eq(said, "");
		else
			ck_assert_ptr_nonnull(strstr(said, "--filter: column 8: no event that is recorded "
							   "has a field 'y'\n  cpu && y == 1\n         ^\n"));
		filters_free(f);
		htrace_filter_free(own);
	}
}
END_TEST

/* The guest's, where its programs do not apply it; beside the user's. */
START_TEST(test_guest)
{
	struct htrace_filter *own;
	struct filters *f;

	ck_assert(!htrace_builder_filter(b, "x == 5"));
	ck_assert(!htrace_builder_filtered(b, ids[1]));
	f = begin(NULL, &own);
	ck_assert_str_eq(said, "host-reader: REGION: filter 'x == 5': applied in the guest; here for: "
			       "first\n");
	ck_assert(passes(f, 0, 5) && !passes(f, 0, 6) && passes(f, 1, 6) && !passes(f, 2, 5));
	filters_free(f);
	f = begin("x & 1", &own);
	ck_assert(passes(f, 0, 5) && !passes(f, 0, 7) && passes(f, 1, 7) && !passes(f, 1, 6));
	filters_free(f);
	htrace_filter_free(own);
	ck_assert(!htrace_builder_filter(b, ""));
	ck_assert_ptr_null(begin(NULL, &own));
}
END_TEST

/* Text that steers terminals, is wrong, changes all the time: escaped, ignored, told thrice. */
START_TEST(test_hostile)
{
	struct htrace_filter *own;
	unsigned int lines = 0;
	char text[64];

	for (int i = 0; i < 10; i++) {
		struct filters *f;

		snprintf(text, sizeof(text), "%d \x1b[2J\n= ", i);
		ck_assert(!htrace_builder_filter(b, text));
		f = begin(NULL, &own);
		ck_assert(passes(f, 0, 1) && passes(f, 1, 2));
		if (said[0]) {
			ck_assert_ptr_null(strchr(said, '\x1b'));
			ck_assert_ptr_nonnull(strstr(said, "\\x1b[2J\\x0a= ' cannot be used"));
			lines++;
		}
		filters_free(f);
	}
	ck_assert_uint_eq(lines, 3);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("filter_reader");
	TCase *tc = tcase_create("filter_reader");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_add_test(tc, test_own);
	tcase_add_test(tc, test_unknown_name);
	tcase_add_test(tc, test_guest);
	tcase_add_test(tc, test_hostile);
	suite_add_tcase(s, tc);
	return unit_run(s);
}
