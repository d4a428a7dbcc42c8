// SPDX-License-Identifier: LGPL-2.1-or-later
#include <stdio.h>
#include <string.h>

#include "internal.h"
#include "unit.h"

static char said[64];
static enum htrace_log_level at;

__attribute__((format(printf, 2, 0))) static void keep(enum htrace_log_level level, const char *fmt,
						       va_list args)
{
	at = level;
	vsnprintf(said, sizeof(said), fmt, args);
}

START_TEST(test_version)
{
	int major, minor, patch;

	ck_assert_int_eq(sscanf(htrace_version(), "%d.%d.%d", &major, &minor, &patch), 3);
	ck_assert_int_eq(major, HTRACE_VERSION_MAJOR);
	ck_assert_int_eq(minor, HTRACE_VERSION_MINOR);
	ck_assert_int_eq(patch, HTRACE_VERSION_PATCH);
}
END_TEST

START_TEST(test_messages)
{
	htrace_log(HTRACE_LOG_ERROR, "to %s", "nobody");
	ck_assert_ptr_null(htrace_set_log(keep));
	htrace_log(HTRACE_LOG_WARN, "%d %s", 7, "words");
	ck_assert_str_eq(said, "7 words");
	ck_assert_int_eq(at, HTRACE_LOG_WARN);
	ck_assert(htrace_set_log(NULL) == keep);
	htrace_log(HTRACE_LOG_ERROR, "nobody");
	ck_assert_str_eq(said, "7 words");
}
END_TEST

START_TEST(test_error_line)
{
	char err[8] = "before";

	htrace_errf(NULL, 8, "%d", 1);
	htrace_errf(err, 0, "%d", 1);
	ck_assert_str_eq(err, "before");
	htrace_errf(err, sizeof(err), "%s", "0123456789");
	ck_assert_str_eq(err, "0123456");
}
END_TEST

int main(void)
{
	Suite *s = suite_create("log");
	TCase *t = tcase_create("log");

	tcase_add_test(t, test_version);
	tcase_add_test(t, test_messages);
	tcase_add_test(t, test_error_line);
	suite_add_tcase(s, t);
	return unit_run(s);
}
