// SPDX-License-Identifier: LGPL-2.1-or-later
/* The reader's table of task names: what held when, and its bounds. */
#include <stdio.h>
#include <string.h>

#include "names.h"
#include "unit.h"

#define SEC 1000000000ULL

static const char *name(const struct names *n, __u32 tid, __u64 time)
{
	static char text[NAMES_COMM + 1];
	size_t len;
	const char *comm = names_get(n, tid, time, &len);

	if (!comm)
		return "?";
	memcpy(text, comm, len);
	text[len] = 0;
	return text;
}

static void set(struct names *n, __u32 tid, __u64 time, const char *comm)
{
	names_set(n, tid, 0, time, comm, strlen(comm) + 1);
}

START_TEST(test_history)
{
	struct names *n = names_new();

	set(n, 1, 100, "sh");
	set(n, 1, 300, "ls");
	set(n, 1, 200, "make"); /* a table that came after the event */
	ck_assert_str_eq(name(n, 1, 99), "?");
	ck_assert_str_eq(name(n, 1, 100), "sh");
	ck_assert_str_eq(name(n, 1, 199), "sh");
	ck_assert_str_eq(name(n, 1, 200), "make");
	ck_assert_str_eq(name(n, 1, 299), "make");
	ck_assert_str_eq(name(n, 1, ~0ULL), "ls");
	ck_assert_str_eq(name(n, 2, 100), "?");
	set(n, 1, 300, "cat"); /* the same time: the later word counts */
	ck_assert_str_eq(name(n, 1, 300), "cat");
	names_free(n);
}
END_TEST

/* Many names: the latest stay. */
START_TEST(test_versions)
{
	struct names *n = names_new();
	char comm[16];

	for (unsigned int i = 1; i <= 100; i++) {
		snprintf(comm, sizeof(comm), "n%u", i);
		set(n, 1, i * 10, comm);
	}
	ck_assert_str_eq(name(n, 1, 1000), "n100");
	ck_assert_str_eq(name(n, 1, 985), "n98");
	ck_assert_str_eq(name(n, 1, 10), "?");
	set(n, 1, 5, "too old");
	ck_assert_str_eq(name(n, 1, 7), "?");
	names_free(n);
}
END_TEST

/* Sixteen bytes without a NUL, and none at all. */
START_TEST(test_unterminated)
{
	struct names *n = names_new();

	names_set(n, 1, 1, 1, "0123456789abcdefXYZ", 16);
	ck_assert_str_eq(name(n, 1, 1), "0123456789abcdef");
	names_set(n, 2, 2, 1, "0123456789abcdefXYZ", 3);
	ck_assert_str_eq(name(n, 2, 1), "012");
	names_set(n, 3, 3, 1, "", 0);
	ck_assert_str_eq(name(n, 3, 1), "");
	names_free(n);
}
END_TEST

START_TEST(test_exit)
{
	struct names *n = names_new();

	set(n, 1, 10, "old");
	names_exit(n, 1, 20, 5 * SEC);
	ck_assert_str_eq(name(n, 1, 15), "old");
	ck_assert_str_eq(name(n, 1, 25), "old"); /* on its way off the CPU */
	ck_assert_str_eq(name(n, 1, 20 + 10 * SEC), "?");
	names_expire(n, 6 * SEC);
	ck_assert_str_eq(name(n, 1, 15), "old");
	names_expire(n, 11 * SEC);
	ck_assert_str_eq(name(n, 1, 15), "?");

	/* A number that is used again does not go with the task that had it before. */
	set(n, 2, 10, "first");
	names_exit(n, 2, 20, 5 * SEC);
	set(n, 2, 30, "second");
	names_expire(n, 60 * SEC);
	ck_assert_str_eq(name(n, 2, 35), "second");
	ck_assert_str_eq(name(n, 2, 30 + 10 * SEC), "second");
	names_exit(n, 9, 1, SEC); /* never heard of */
	names_free(n);
}
END_TEST

/* More tasks than there is room for: it stays usable and bounded. */
START_TEST(test_flood)
{
	struct names *n = names_new();

	for (__u32 tid = 1; tid < 400000; tid++)
		set(n, tid, 1, "flood");
	ck_assert_str_eq(name(n, 399999, 1), "flood");
	ck_assert_str_eq(name(n, 1, 1), "?");
	for (__u32 tid = 399000; tid < 399900; tid++)
		names_exit(n, tid, 2, SEC);
	set(n, 1, 1, "back");
	ck_assert_str_eq(name(n, 399000, 1), "?"); /* ended tasks make room first */
	ck_assert_str_eq(name(n, 1, 1), "back");
	names_free(n);
}
END_TEST

/* A thread keeps its process, whoever does not know it; a number that is used again does not. */
START_TEST(test_pid)
{
	struct names *n = names_new();

	ck_assert_uint_eq(names_pid(n, 7, 100), 0);
	names_set(n, 7, 5, 100, "worker", 7);
	ck_assert_uint_eq(names_pid(n, 7, 99), 0);
	ck_assert_uint_eq(names_pid(n, 7, 100), 5);
	set(n, 7, 200, "renamed");
	ck_assert_uint_eq(names_pid(n, 7, 200), 5);
	names_set(n, 7, 7, 300, "renamed", 8); /* exec */
	ck_assert_uint_eq(names_pid(n, 7, 299), 5);
	ck_assert_uint_eq(names_pid(n, 7, 300), 7);
	ck_assert_str_eq(name(n, 7, 300), "renamed");
	names_exit(n, 7, 400, SEC);
	ck_assert_uint_eq(names_pid(n, 7, 400), 7);
	ck_assert_uint_eq(names_pid(n, 7, 400 + 2 * SEC), 0);
	names_set(n, 7, 6, 500, "other", 6);
	ck_assert_uint_eq(names_pid(n, 7, 450), 7);
	ck_assert_uint_eq(names_pid(n, 7, 500 + 2 * SEC), 6);
	names_exit(n, 7, 600, SEC);
	set(n, 7, 700, "unknown's");
	ck_assert_uint_eq(names_pid(n, 7, 700), 0);
	names_free(n);
}
END_TEST

static bool list(void *ctx, const struct names_task *t)
{
	char *text = ctx;

	snprintf(text + strlen(text), 64, "%u/%u:%.*s ", t->pid, t->tid, (int)t->len, t->comm);
	return t->tid != 4;
}

START_TEST(test_each)
{
	struct names *n = names_new();
	char text[256] = "";

	names_set(n, 1, 1, 100, "init", 5);
	names_set(n, 3, 2, 100, "thread", 7);
	names_set(n, 9, 9, 300, "later", 6);
	names_set(n, 5, 5, 100, "dies", 5);
	names_exit(n, 5, 200, SEC);
	names_each(n, 150, list, text);
	ck_assert_str_eq(text, "1/1:init 2/3:thread 5/5:dies ");
	*text = 0;
	names_set(n, 3, 2, 250, "new", 4);
	names_each(n, 250, list, text);
	ck_assert_str_eq(text, "1/1:init 2/3:new ");
	*text = 0;
	names_set(n, 4, 4, 100, "stop", 5);
	names_set(n, 6, 6, 100, "unseen", 7);
	names_each(n, 300, list, text);
	ck_assert_str_eq(text, "1/1:init 2/3:new 9/9:later 4/4:stop ");
	names_free(n);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("names");
	TCase *c = tcase_create("names");

	tcase_add_test(c, test_history);
	tcase_add_test(c, test_versions);
	tcase_add_test(c, test_unterminated);
	tcase_add_test(c, test_exit);
	tcase_add_test(c, test_flood);
	tcase_add_test(c, test_pid);
	tcase_add_test(c, test_each);
	suite_add_tcase(s, c);
	return unit_run(s);
}
