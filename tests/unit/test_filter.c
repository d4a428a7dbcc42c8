// SPDX-License-Identifier: LGPL-2.1-or-later
/* Filters: what is refused and where, what matches, against evaluations of the tests' own. */
#include <errno.h>
#include <fnmatch.h>
#include <string.h>

#include "filter_fixture.h"

static bool matches_event(const struct htrace_event *e, const char *text, size_t len,
			  const struct htrace_filter_context *c)
{
	struct htrace_filter_bound *b;
	struct htrace_filter_error err;
	struct htrace_filter *f;
	bool yes;

	ck_assert_msg(!htrace_filter_parse(&f, text, &err), "'%s': %u: %s", text, err.column,
		      err.msg);
	ck_assert(!htrace_filter_bind(&b, f, e));
	yes = htrace_filter_matches(b, memory, len, c);
	htrace_filter_unbind(b);
	htrace_filter_free(f);
	return yes;
}

START_TEST(test_matches)
{
	static const struct {
		const char *text;
		bool yes;
	} tests[] = {
		{ "u64 == 0xfffffffffffffff0", true }, { "u64 == -16", false },
		{ "s64 == -16", true }, { "s64 == 0xfffffffffffffff0", false },
		{ "s64 < u64", true }, { "u64 > s64", true }, { "s64 < 0", true },
		{ "s64 >= -16 && s64 <= -16", true }, { "s64 < -16", false },
		{ "u32 == 4294967280", true }, { "u32 > 0", true }, { "u32 < s32", false },
		{ "s32 == s64", true }, { "s32 != -16", false }, { "s32 > -17", true },
		{ "u16 == 01750", true }, { "u16 == 0x3E8", true }, { "s16 == -1000", true },
		{ "u8 == 200", true }, { "s8 == -56", true }, { "u8 > s8", true },
		{ "flag", true }, { "!flag", false }, { "flag == true", true },
		{ "flag == false", false }, { "level == HIGH", true }, { "HIGH == level", true },
		{ "level == LOW", false }, { "level > LOW", true }, { "level == 5", true },
		{ "level != u8", true }, /* the enum's name, not the field's */
		{ "array[0] == 10 && array[3] == -30", true }, { "array[4] == 0", false },
		{ "!(array[4] == 0)", true }, { "array[99999999999999999999] == 0", false },
		{ "a.b == 77", true }, { "a.c[2] == 'x'", true }, { "a.c[2]=='\\n'", false },
		{ "a.c[4] == 0", false }, { "a.d == 0", false },
		{ "name == kworker", true }, { "name == \"kworker\"", true },
		{ "\"kworker\" == name", true }, { "name != kworker", false },
		{ "name == kw*", true }, { "name == *rk*", true }, { "name == k?orker", true },
		{ "name == [a-k]worker", true }, { "name == [!k]*", false }, { "name == worker", false },
		{ "name == kworker/0", false }, { "name[0] == 'k'", true }, { "name[8] == 0", false },
		{ "name == kworkers", false }, { "name == \"\"", false }, { "name == k\\*", false },
		{ "state == D", true }, { "state == S", false }, { "state & (S & D)", false },
		{ "state == R", false },
		{ "comm == 42", true }, /* its own */
		{ "text == /tmp/*.c", true }, { "text == \"/tmp/file.c\"", true }, { "text[4] == '/'", true },
		{ "tid == 4000000000", true }, { "pid == 12", true }, { "cpu == 3", true },
		{ "cpu & 2", true }, { "cpu & 4", false }, { "(cpu & 6) == 2", true },
		{ "cpu & 6 == 2", true }, { "cpu & 1 & 2", false }, { "s64 & 0xff == 0xf0", true },
		{ "s64 & -1 == -16", true }, { "u64 & -1 == -16", false },
		{ "low == 5", true }, { "across == -3", true }, { "across < 0", true },
		{ "nosuch == 1", false }, { "!(nosuch == 1)", true }, { "nosuch", false },
		{ "nosuch & 1 || cpu == 3", true }, { "cpu == 3 || nosuch", true },
		{ "cpu == 1 || cpu == 2 || cpu == 3", true }, { "cpu == 3 && tid == 1", false },
		{ "cpu == 1 && tid == 1 || pid == 12", true }, { "cpu == 1 && (tid == 1 || pid == 12)", false },
		{ "!!flag", true }, { "!(cpu == 3) || !(pid == 12)", false }, { "0", false }, { "1", true },
		{ "18446744073709551615 == u64", false }, { "u64 <= 18446744073709551615", true },
		{ "-9223372036854775808 < s64", true }, { "-0 == 0", true }, { "((cpu)) == (3)", true },
		{ " \tcpu==3&&pid==12 ", true },
	};

	sample();
	for (size_t i = 0; i < NR(tests); i++)
		ck_assert_msg(matches_event(event, tests[i].text, sizeof(memory), &context) ==
				      tests[i].yes,
			      "'%s' is not %s", tests[i].text, tests[i].yes ? "true" : "false");
}
END_TEST

/* What is not known, or beyond the record's end, makes comparisons false. */
START_TEST(test_unknown)
{
	static const struct htrace_filter_context nothing = { .sz = sizeof(nothing) };

	sample();
	ck_assert(!matches_event(few_event, "comm == bash", 4, &nothing));
	ck_assert(!matches_event(few_event, "comm != bash", 4, &nothing));
	ck_assert(matches_event(few_event, "!(comm == bash)", 4, &nothing));
	ck_assert(matches_event(few_event, "comm == bash", 4, &context));
	ck_assert(matches_event(few_event, "comm == b*h && comm != b", 4, &context));
	ck_assert(!matches_event(few_event, "tid == 4000000000 || pid == 12 || cpu == 3", 4, &nothing));
	ck_assert(!matches_event(event, "u64 || s64 == 0", 0, &context));
	ck_assert(!matches_event(event, "u32 != 0", 19, &context));
	ck_assert(matches_event(event, "u32 != 0", 20, &context));
	ck_assert(!matches_event(event, "name == k*", offsetof(struct record, name) + 7, &context));
	ck_assert(!matches_event(event, "text == *", offsetof(struct record, text) - 1, &context));
	ck_assert(matches_event(event, "text == \"\"", offsetof(struct record, text), &context));
	ck_assert(!matches_event(event, "text[1] == 't'", offsetof(struct record, text) + 1, &context));
	ck_assert(matches_event(event, "text == /tm", offsetof(struct record, text) + 3, &context));
}
END_TEST

/* Text that would be compared for ever is not equal, and not different; a class is as long as it is. */
START_TEST(test_bounded)
{
	static const struct {
		const char *before, *after;
		int times;
	} patterns[] = { { "", "b", 1 }, { "[", "b]b", 200 }, { "[", "", 200 } };
	static char long_record[sizeof(struct record) + 60000];
	char text[3000] = "text == \"*";
	struct htrace_filter_bound *b;
	struct htrace_filter *f;

	memset(long_record + sizeof(struct record), 'a', 60000);
	strcat(text, patterns[_i].before);
	memset(text + strlen(text), 'a', 2000);
	strcat(strcat(text, patterns[_i].after), "\"");
	ck_assert(!htrace_filter_parse(&f, text, NULL));
	ck_assert(!htrace_filter_bind(&b, f, event));
	for (int i = 0; i < patterns[_i].times; i++)
		ck_assert(!htrace_filter_matches(b, long_record, sizeof(long_record), &context));
	htrace_filter_unbind(b);
	htrace_filter_free(f);
}
END_TEST

START_TEST(test_refused)
{
	static const struct {
		const char *text;
		__u32 column;
		const char *msg;
	} tests[] = {
		{ "", 1, "empty" }, { "   ", 4, "empty" },
		{ "prev_tid == && cpu < 2", 13, "expected a value after '=='" },
		{ "cpu <", 6, "expected a value after '<'" }, { "&& a", 1, "expected a value" },
		{ "a &&", 5, "expected a value after '&&'" }, { "a || ) b", 6, "expected a value after '||'" },
		{ "(a == 1", 8, "expected ')' for the '(' at column 1" }, { "a == 1)", 7, "no '('" },
		{ "a = 1", 3, "equality is '=='" }, { "a | b", 3, "or is '||'" }, { "a ^ b", 3, "nothing begins" },
		{ "a == 1 b", 8, "expected an operator" }, { "a < b < c", 7, "do not chain" },
		{ "!a == 1", 4, "parentheses" }, { "!a & 1", 4, "parentheses" }, { "!", 2, "expected a value after '!'" },
		{ "(a == 1) == 1", 10, "cannot be compared" }, { "1 == (a == 1)", 9, "cannot be compared" },
		{ "a & (b && c)", 8, "'&' is between numbers" }, { "a & \"x\"", 5, "'&' is between numbers" },
		{ "comm == \"abc", 9, "no '\"' ends" }, { "a == 'ab'", 6, "no character" }, { "a == '", 6, "no character" },
		{ "a == 18446744073709551616", 6, "64 bits" }, { "a == -9223372036854775809", 6, "64 bits" },
		{ "a == -b", 7, "expected a number after '-'" }, { "\"abc\"", 1, "text must be compared" },
		{ "a == [bc", 6, "no ']'" }, { "a == \x01", 6, "nothing begins" }, { "a\xc3\xa4", 2, "nothing begins" },
		{ "abc* && x", 1, "text must be compared" },
	};

	for (size_t i = 0; i < NR(tests); i++) {
		struct htrace_filter_error err = { 0 };
		struct htrace_filter *f;

		ck_assert_msg(htrace_filter_parse(&f, tests[i].text, &err) == -EINVAL, "'%s'",
			      tests[i].text);
		ck_assert_msg(err.column == tests[i].column && strstr(err.msg, tests[i].msg),
			      "'%s': column %u: %s", tests[i].text, err.column, err.msg);
	}
}
END_TEST

START_TEST(test_limits)
{
	struct htrace_filter_error err;
	struct htrace_filter *f;
	char text[3 * HTRACE_FILTER_MAX];

	for (unsigned int deep = HTRACE_FILTER_DEPTH; deep <= HTRACE_FILTER_DEPTH + 1; deep++) {
		memset(text, '(', deep);
		text[deep] = '1';
		memset(text + deep + 1, ')', deep);
		text[2 * deep + 1] = 0;
		ck_assert_int_eq(htrace_filter_parse(&f, text, &err),
				 deep > HTRACE_FILTER_DEPTH ? -EINVAL : 0);
		if (deep > HTRACE_FILTER_DEPTH)
			ck_assert(err.column == deep && strstr(err.msg, "nested deeper than 64"));
		htrace_filter_free(f);
		memset(text, '!', deep);
		strcpy(text + deep, "1");
		ck_assert_int_eq(htrace_filter_parse(&f, text, &err),
				 deep > HTRACE_FILTER_DEPTH ? -EINVAL : 0);
		htrace_filter_free(f);
	}
	memset(text, ' ', sizeof(text));
	memcpy(text, "cpu", 3);
	text[HTRACE_FILTER_MAX] = 0;
	ck_assert(!htrace_filter_parse(&f, text, &err));
	htrace_filter_free(f);
	text[HTRACE_FILTER_MAX] = ' ';
	text[HTRACE_FILTER_MAX + 1] = 0;
	ck_assert_int_eq(htrace_filter_parse(&f, text, &err), -EINVAL);
	ck_assert(strstr(err.msg, "longer than 4096"));
	text[0] = 0;
	for (int i = 0; i < 600; i++)
		strcat(text, i ? "||1" : "1");
	ck_assert_int_eq(htrace_filter_parse(&f, text, &err), -EINVAL);
	ck_assert(strstr(err.msg, "more than 1000 terms"));
}
END_TEST

static unsigned int failing; /* the allocation that fails, from 1; 0: none */

void *__real_calloc(size_t nr, size_t size);
void *__wrap_calloc(size_t nr, size_t size)
{
	return failing && !--failing ? NULL : __real_calloc(nr, size);
}

/* What is shown to the user is what failed, not what the stack held before. */
START_TEST(test_check_out_of_memory)
{
	struct htrace_filter_error err;
	struct htrace_filter *f;
	unsigned int nth = 0;
	int ret;

	memset(&err, 0xff, sizeof(err));
	failing = 1;
	ck_assert_int_eq(htrace_filter_parse(&f, "cpu == 1", &err), -ENOMEM);
	ck_assert_uint_eq(err.column, 1);
	ck_assert_str_eq(err.msg, "out of memory");
	ck_assert(!htrace_filter_parse(&f, "cpu == 1", &err));
	do {
		memset(&err, 0xff, sizeof(err));
		failing = ++nth;
		ret = htrace_filter_check(f, schema, &err);
		if (ret) {
			ck_assert_int_eq(ret, -ENOMEM);
			ck_assert_uint_eq(err.column, 1);
			ck_assert_str_eq(err.msg, "out of memory");
			failing = nth;
			ck_assert_int_eq(htrace_filter_check(f, schema, NULL), -ENOMEM);
		}
	} while (ret);
	failing = 0;
	ck_assert_uint_gt(nth, 3); /* events, what is seen of them, each bound filter */
	htrace_filter_free(f);
}
END_TEST

START_TEST(test_check)
{
	static const struct {
		const char *text;
		int ret;
		__u32 column;
		const char *msg;
	} tests[] = {
		{ "only == 1 && u64 == 2 && comm == x", 0, 0, "" },
		{ "cpu == 1 && u65 == 2", -ENOENT, 13, "no event that is recorded has a field 'u65'" },
		{ "level == HIHG", -ENOENT, 10, "'HIHG'" },
		{ "bash == comm", -ENOENT, 1, "'bash'" },
		{ "name < 5", -EINVAL, 6, "text is compared by" }, { "name", -EINVAL, 1, "text is compared by" },
		{ "name == 5", 0, 0, "" }, { "u64 == \"x\"", -EINVAL, 5, "a number is compared with text" },
		{ "u64 == abc*", -EINVAL, 5, "a number is compared with text" },
		{ "a == 1", -EINVAL, 3, "struct" }, { "array == 1", -EINVAL, 7, "array" },
		{ "wide == 1", -EINVAL, 6, "16 bytes" }, { "name & 1", -EINVAL, 6, "text" },
		{ "!(name == u*) && cpu == 7q", -EINVAL, 22, "a number is compared with text" },
	};

	for (size_t i = 0; i < NR(tests); i++) {
		struct htrace_filter_error err = { 0 };
		struct htrace_filter *f;
		int ret;

		ck_assert_msg(!htrace_filter_parse(&f, tests[i].text, &err), "%s", err.msg);
		ret = htrace_filter_check(f, schema, &err);
		ck_assert_msg(ret == tests[i].ret, "'%s': %d %s", tests[i].text, ret, err.msg);
		ck_assert_msg(err.column == tests[i].column && strstr(err.msg, tests[i].msg),
			      "'%s': column %u: %s", tests[i].text, err.column, err.msg);
		htrace_filter_free(f);
	}
}
END_TEST

/* Sixty thousand events of one type with four thousand members: no more work than one event is. */
START_TEST(test_check_bounded)
{
	static struct htrace_schema_member m[4000];
	struct htrace_filter_error err = { 0 };
	struct htrace_schema_builder *b;
	struct htrace_schema *many;
	char text[4000] = "m0 == 1", name[64], why[256];
	const void *entries;
	struct htrace_filter *f;
	int type, u8;
	size_t len;

	ck_assert(!htrace_builder_new(&b, NULL, 0));
	u8 = integer(b, 1, false, 0);
	for (__u32 i = 0; i < NR(m); i++) {
		m[i] = (struct htrace_schema_member){ .type = (__u32)u8, .bit_off = 8 * i };
		snprintf(m[i].name, sizeof(m[i].name), "m%u", i);
	}
	type = htrace_builder_struct(b, "s", false, NR(m), m, NR(m));
	for (int i = 0; i < HTRACE_MAX_EVENTS; i++) {
		snprintf(name, sizeof(name), "e%d", i);
		ck_assert_int_gt(htrace_builder_event(b, name, type), 0);
	}
	entries = htrace_builder_entries(b, &len);
	ck_assert_msg(!htrace_schema_parse(&many, entries, len, why, sizeof(why)), "%s", why);
	for (int i = 0; i < 200; i++)
		strcat(text, " || m4001 == 1");
	ck_assert(!htrace_filter_parse(&f, text, NULL));
	ck_assert_int_eq(htrace_filter_check(f, many, &err), -ENOENT);
	ck_assert_uint_eq(err.column, 12);
	htrace_filter_free(f);
	htrace_schema_free(many);
	htrace_builder_free(b);
}
END_TEST

START_TEST(test_point)
{
	char out[256], text[300];

	htrace_filter_point("prev_tid == && cpu < 2", 13, out, sizeof(out));
	ck_assert_str_eq(out, "  prev_tid == && cpu < 2\n              ^");
	htrace_filter_point("a\x1b[2J\n", 3, out, sizeof(out));
	ck_assert_str_eq(out, "  a?[2J?\n    ^");
	memset(text, 'a', sizeof(text));
	text[200] = 'X';
	text[299] = 0;
	htrace_filter_point(text, 201, out, sizeof(out));
	ck_assert_ptr_nonnull(strstr(out, "...\n"));
	ck_assert_int_eq(strcspn(out, "X"), strlen(strchr(out, '\n') + 1) - 1);
	htrace_filter_point("ab", 1000, out, sizeof(out)); /* beyond it: at its end */
	ck_assert_str_eq(out, "  ab\n    ^");
}
END_TEST

/* ------------------------------------------------------------------------------ random filters */

START_TEST(test_random)
{
	struct record *r = sample();
	unsigned int yes = 0;

	seed = 4711;
	for (unsigned int i = 0; i < unit_some(20000); i++) {
		struct written w = { .len = 0 };
		bool expect;

		for (size_t k = 0; k < offsetof(struct record, name); k++)
			memory[k] = (char)(pick(3) ? pick(256) : pick(2) ? 255 : 0);
		expect = expression(&w, r, 4);
		if (w.len >= sizeof(w.s))
			continue;
		yes += expect;
		ck_assert_msg(matches_event(event, w.s, sizeof(memory), &context) == expect,
			      "'%s' is not %d", w.s, expect);
	}
	ck_assert(yes > unit_some(5000) && yes < unit_some(15000));
}
END_TEST

/* Against fnmatch(3). */
START_TEST(test_patterns)
{
	static const char letters[] = "aab*?[]!-^\\bc";
	unsigned int equal = 0;

	seed = 815;
	sample();
	for (unsigned int i = 0; i < unit_some(200000); i++) {
		char pattern[12] = "", filter[32], *name = ((struct record *)memory)->name;
		unsigned int len = pick(8);

		memset(name, 0, 8);
		for (unsigned int k = 0; k < len; k++)
			name[k] = "aabbc]-!"[pick(8)];
		len = pick(9);
		for (unsigned int k = 0; k < len; k++)
			pattern[k] = letters[pick(sizeof(letters) - 1)];
		if (len && pattern[len - 1] == '\\')
			continue; /* it would take the quote */
		snprintf(filter, sizeof(filter), "name == \"%s\"", pattern);
		equal += !fnmatch(pattern, name, 0);
		ck_assert_msg(matches_event(event, filter, sizeof(memory), &context) ==
				      !fnmatch(pattern, name, 0),
			      "pattern '%s', text '%s'", pattern, name);
	}
	ck_assert(equal > unit_some(5000));
}
END_TEST

/* Anything at all: refused, or evaluated, within bounds (sanitizers look on). */
START_TEST(test_garbage)
{
	static const char *const words[] = { "cpu", "==", "!=", "<", "&", "&&", "||", "!", "(", ")", "1", "-",
		"name", "text", "a.b", "array[3]", "\"", "'x'", "k*", "[a-z]", "\\", " ", "0x", "comm", ".", "]" };
	unsigned int good = 0;

	seed = 42;
	sample();
	for (unsigned int i = 0; i < unit_some(200000); i++) {
		struct htrace_filter_error err = { 0 };
		struct htrace_filter_bound *b;
		struct htrace_filter *f;
		struct written w = { .len = 0 };
		char point[512];

		for (unsigned int k = pick(12) + 1; k; k--) {
			char any[2] = { (char)unit_random(&seed) };

			put(&w, pick(10) ? words[pick(NR(words))] : any);
		}
		if (htrace_filter_parse(&f, w.s, &err)) {
			ck_assert_msg(err.column >= 1 && err.column <= strlen(w.s) + 1, "'%s': %u",
				      w.s, err.column);
			ck_assert(err.msg[0]);
			htrace_filter_point(w.s, err.column, point, sizeof(point));
			continue;
		}
		good++;
		htrace_filter_check(f, schema, &err);
		ck_assert(!htrace_filter_bind(&b, f, event));
		htrace_filter_matches(b, memory, pick(sizeof(memory)), &context);
		htrace_filter_unbind(b);
		htrace_filter_free(f);
	}
	ck_assert_uint_gt(good, unit_some(1000));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("filter");
	TCase *tc = tcase_create("filter");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 120);
	tcase_add_test(tc, test_matches);
	tcase_add_test(tc, test_unknown);
	tcase_add_test(tc, test_refused);
	tcase_add_test(tc, test_limits);
	tcase_add_test(tc, test_check_out_of_memory);
	tcase_add_test(tc, test_check);
	tcase_add_test(tc, test_point);
	tcase_add_test(tc, test_random);
	tcase_add_test(tc, test_patterns);
	tcase_add_test(tc, test_garbage);
	suite_add_tcase(s, tc);
	tc = tcase_create("work");
	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 20); /* unbounded it takes minutes */
	tcase_add_loop_test(tc, test_bounded, 0, 3);
	tcase_add_test(tc, test_check_bounded);
	suite_add_tcase(s, tc);
	return unit_run(s);
}
