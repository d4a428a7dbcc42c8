// SPDX-License-Identifier: LGPL-2.1-or-later
/* Names of the agent's functions: each place once, and no two under one name, whatever they are called. */
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include "../../guest-agent/functions.h"
#include "../../guest-agent/message.h"
#include "../../guest-agent/tracepoints.h"
#include "unit.h"

void say(const char *fmt, ...)
{
	(void)fmt;
}

int tracepoints_check(void)
{
	return -1;
}

static struct functions *some(const char *const *name, size_t nr)
{
	struct functions *f = calloc(1, sizeof(*f));

	ck_assert_ptr_nonnull(f);
	f->at = calloc(nr, sizeof(*f->at));
	ck_assert_ptr_nonnull(f->at);
	for (size_t i = 0; i < nr; i++) {
		f->at[i].address = 4096 * (i + 1);
		strncpy(f->at[i].name, name[i], sizeof(f->at[i].name) - 1);
	}
	f->nr = f->room = nr;
	return f;
}

static void check_names(const struct functions *f, const char *const *name)
{
	for (size_t i = 0; i < f->nr; i++)
		ck_assert_str_eq(f->at[i].name, name[i]);
}

START_TEST(test_numbers)
{
	static const char *const named[] = { "b", "a", "b", "b" };
	static const char *const names[] = { "a", "b", "b_2", "b_3" };
	struct functions *f = some(named, 4);

	functions_sort(f);
	check_names(f, names);
	ck_assert_uint_eq(f->at[1].address, 4096);
	ck_assert_uint_eq(f->at[3].address, 4 * 4096);
	functions_free(f);
}
END_TEST

/* One of the names that would be given is another one's, who keeps it. */
START_TEST(test_taken)
{
	static const char *const named[] = { "b", "b_2", "b", "b_4", "b" };
	static const char *const names[] = { "b", "b_3", "b_5", "b_2", "b_4" };
	struct functions *f = some(named, 5);

	functions_sort(f);
	check_names(f, names);
	ck_assert_uint_eq(f->at[3].address, 2 * 4096);
	functions_free(f);
}
END_TEST

/* As long as names can be: cut off for the number. */
START_TEST(test_long)
{
	char longest[HTRACE_NAME_MAX], numbered[HTRACE_NAME_MAX], third[HTRACE_NAME_MAX];
	const char *named[] = { longest, longest, numbered, longest };
	struct functions *f;

	memset(longest, 'x', sizeof(longest) - 1);
	longest[sizeof(longest) - 1] = 0;
	memcpy(numbered, longest, sizeof(longest));
	memcpy(numbered + sizeof(numbered) - 3, "_2", 3);
	memcpy(third, longest, sizeof(longest));
	memcpy(third + sizeof(third) - 3, "_4", 3);
	f = some(named, 4);
	functions_sort(f);
	ck_assert_str_eq(f->at[0].name, numbered); /* '_' is before 'x' */
	ck_assert_str_eq(f->at[1].name, longest);
	ck_assert_int_eq(strcmp(f->at[2].name + sizeof(longest) - 3, "_3"), 0);
	ck_assert_str_eq(f->at[3].name, third);
	functions_free(f);
}
END_TEST

START_TEST(test_places)
{
	static const char *const named[] = { "alias", "name", "other" };
	static const char *const names[] = { "alias", "other" };
	struct functions *f = some(named, 3);

	f->at[1].address = f->at[0].address;
	functions_sort(f);
	ck_assert_uint_eq(f->nr, 2);
	check_names(f, names);
	functions_free(f);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("function_names");
	TCase *tc = tcase_create("names");

	tcase_add_test(tc, test_numbers);
	tcase_add_test(tc, test_taken);
	tcase_add_test(tc, test_long);
	tcase_add_test(tc, test_places);
	suite_add_tcase(s, tc);
	return unit_run(s);
}
