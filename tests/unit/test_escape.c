// SPDX-License-Identifier: LGPL-2.1-or-later
#include <string.h>

#include <htrace/schema.h>

#include "unit.h"

static const struct {
	const char *in;
	size_t len;
	const char *out;
} cases[] = {
	{ "", 0, "" },
	{ "plain text ~ 'x'", 16, "plain text ~ 'x'" },
	{ "a\"b\\c", 5, "a\\x22b\\x5cc" },
	{ "\x1b[2J\r\n\t", 7, "\\x1b[2J\\x0d\\x0a\\x09" },
	{ "\0\x7f\x80\xff", 4, "\\x00\\x7f\\x80\\xff" },
	{ "\xc3\xa9", 2, "\\xc3\\xa9" },
};

START_TEST(test_escapes)
{
	size_t want = strlen(cases[_i].out);
	char out[64];

	ck_assert_uint_eq(htrace_escape(NULL, 0, cases[_i].in, cases[_i].len), want);
	ck_assert_uint_eq(htrace_escape(out, sizeof(out), cases[_i].in, cases[_i].len), want);
	ck_assert_mem_eq(out, cases[_i].out, want);
}
END_TEST

/* Nothing behind outlen, and no half of an escape. */
START_TEST(test_short_output)
{
	static const char in[] = "a\nb", full[] = "a\\x0ab";
	static const size_t written[] = { 0, 1, 1, 1, 1, 5, 6, 6 };

	for (size_t room = 0; room < sizeof(written) / sizeof(written[0]); room++) {
		char out[8];

		memset(out, '#', sizeof(out));
		ck_assert_uint_eq(htrace_escape(out, room, in, 3), written[room]);
		ck_assert_mem_eq(out, full, written[room]);
		for (size_t i = written[room]; i < sizeof(out); i++)
			ck_assert_int_eq(out[i], '#');
	}
}
END_TEST

START_TEST(test_all_bytes)
{
	char in[256], out[1024];
	size_t n;

	for (int i = 0; i < 256; i++)
		in[i] = (char)i;
	n = htrace_escape(out, sizeof(out), in, sizeof(in));
	ck_assert_uint_eq(n, 93 + 4 * 163);
	for (size_t i = 0; i < n; i++)
		ck_assert(out[i] >= 0x20 && out[i] <= 0x7e && out[i] != '"');
}
END_TEST

int main(void)
{
	Suite *s = suite_create("escape");
	TCase *t = tcase_create("escape");

	tcase_add_loop_test(t, test_escapes, 0, sizeof(cases) / sizeof(cases[0]));
	tcase_add_test(t, test_short_output);
	tcase_add_test(t, test_all_bytes);
	suite_add_tcase(s, t);
	return unit_run(s);
}
