// SPDX-License-Identifier: LGPL-2.1-or-later
/* What an output writes, against the C library's formatting. */
#include <inttypes.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "out.h"
#include "unit.h"

#define MANY 300000

static int fd;
static struct out *o;
static char *expected;
static size_t expected_len;

static void setup(void)
{
	fd = memfd_create("out", MFD_CLOEXEC);
	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(out_open_fd(&o, fd), 0);
	expected = malloc(MANY * 32);
	ck_assert_ptr_nonnull(expected);
	expected_len = 0;
}

static void expect(const char *text, size_t len)
{
	memcpy(expected + expected_len, text, len);
	expected_len += len;
}

/* Closes it: all that was expected is there, and nothing else. */
static void check_written(void)
{
	char *written = malloc(expected_len + 1);

	ck_assert_int_eq(out_close(o), 0);
	ck_assert_int_eq(pread(fd, written, expected_len + 1, 0), (ssize_t)expected_len);
	ck_assert_mem_eq(written, expected, expected_len);
	free(written);
}

static void teardown(void)
{
	free(expected);
	close(fd);
}

/* ------------------------------------------------------------------------------------- numbers */

static void check_number(uint64_t v, int width)
{
	char want[64], got[64];
	char *end;
	int n;

	n = snprintf(want, sizeof(want), "%" PRIu64, v);
	end = piece_unsigned(got, v);
	ck_assert_int_eq(end - got, n);
	ck_assert_mem_eq(got, want, n);
	n = snprintf(want, sizeof(want), "%" PRId64, (int64_t)v);
	end = piece_signed(got, (int64_t)v);
	ck_assert_int_eq(end - got, n);
	ck_assert_mem_eq(got, want, n);
	n = snprintf(want, sizeof(want), "%0*" PRIu64, width, v);
	end = piece_padded(got, v, width, '0');
	ck_assert_int_eq(end - got, n);
	ck_assert_mem_eq(got, want, n);
	n = snprintf(want, sizeof(want), "%*" PRIu64, width, v);
	end = piece_padded(got, v, width, ' ');
	ck_assert_int_eq(end - got, n);
	ck_assert_mem_eq(got, want, n);
	n = snprintf(want, sizeof(want), "0x%0*" PRIx64, width < 16 ? width : 16, v);
	end = piece_hex(got, v, width);
	ck_assert_int_eq(end - got, n);
	ck_assert_mem_eq(got, want, n);
}

START_TEST(test_small_numbers)
{
	for (uint64_t v = 0; v < 110000; v += unit_share())
		check_number(v, (int)(v % 8) + 1);
}
END_TEST

/* Where another digit or bit begins. */
START_TEST(test_edges)
{
	for (int width = 1; width <= PIECE_SLACK; width++) {
		uint64_t power = 1;

		for (int i = 0; i < 20; i++, power *= 10)
			for (uint64_t v = power - 2; v != power + 3; v++)
				check_number(v, width);
		for (int bit = 0; bit < 64; bit++)
			for (uint64_t v = (1ULL << bit) - 2; v != (1ULL << bit) + 3; v++)
				check_number(v, width);
	}
}
END_TEST

START_TEST(test_any_numbers)
{
	unsigned long long state = 1;

	for (unsigned int i = 0; i < unit_some(MANY); i++) {
		uint64_t v = unit_random(&state);

		check_number(v >> unit_random(&state) % 64, 1 + (int)i % PIECE_SLACK);
	}
}
END_TEST

/* ------------------------------------------------------------------------------------- buffers */

/* Lines without an end: they fill the buffer anywhere. */
START_TEST(test_long_line)
{
	unsigned long long state = 2;

	for (unsigned int i = 0; i < unit_some(MANY); i++) {
		uint64_t v = unit_random(&state) >> unit_random(&state) % 64;
		char text[64];

		switch (i % 4) {
		case 0:
			out_unsigned(o, v);
			expect(text, (size_t)sprintf(text, "%" PRIu64, v));
			break;
		case 1:
			out_signed(o, (int64_t)v);
			expect(text, (size_t)sprintf(text, "%" PRId64, (int64_t)v));
			break;
		case 2:
			out_hex(o, v, 4);
			expect(text, (size_t)sprintf(text, "0x%04" PRIx64, v));
			break;
		default:
			out_escaped(o, "a piece, and \n", 14);
			expect("a piece, and \\x0a", 17);
		}
	}
	check_written();
}
END_TEST

/* A line that ends anywhere within what is written as one. */
START_TEST(test_limited_lines)
{
	for (size_t most = 0; most < 2 * OUT_PIECE; most++) {
		char line[2 * OUT_PIECE + 64];
		size_t len = 0;

		out_limit_line(o, most);
		for (int i = 0; len < most + 20; i++) {
			ck_assert(!out_line_full(o) || len > most);
			out_unsigned(o, 1234567890123ULL >> i % 40);
			len += (size_t)sprintf(line + len, "%llu", 1234567890123ULL >> i % 40);
		}
		ck_assert(out_line_full(o));
		out_newline(o);
		expect(line, most);
		expect("...\n", 4);
	}
	check_written();
}
END_TEST

/* ---------------------------------------------------------------------------------------- text */

/* Each byte at each place among plain ones, in text of any length. */
START_TEST(test_plain)
{
	char text[24];

	for (size_t len = 0; len < sizeof(text); len++) {
		memset(text, '~', sizeof(text));
		ck_assert_uint_eq(out_plain(text, len), len);
		for (size_t at = 0; at < len; at++)
			for (int c = 0; c < 256; c++) {
				bool plain = c >= ' ' && c <= '~' && c != '"' && c != '\\';

				memset(text, c % 2 ? '~' : ' ', sizeof(text));
				text[at] = (char)c;
				ck_assert_uint_eq(out_plain(text, len), plain ? len : at);
				if (at + 1 < len) { /* what follows does not matter */
					text[at + 1] = '\n';
					ck_assert_uint_eq(out_plain(text, len), plain ? at + 1 : at);
				}
			}
	}
}
END_TEST

START_TEST(test_escaped)
{
	unsigned long long state = 3;

	for (int i = 0; i < 20000; i++) {
		char text[40], want[4 * sizeof(text) + 1];
		size_t len = unit_random(&state) % sizeof(text), n = 0;

		for (size_t k = 0; k < len; k++) {
			unsigned char c = (unsigned char)unit_random(&state);

			if (unit_random(&state) % 8) /* mostly plain */
				c = (unsigned char)('a' + c % 26);
			text[k] = (char)c;
			n += (size_t)sprintf(want + n, c < ' ' || c > '~' || c == '"' || c == '\\' ?
						       "\\x%02x" : "%c", c);
		}
		out_escaped(o, text, len);
		expect(want, n);
	}
	check_written();
}
END_TEST

int main(void)
{
	Suite *s = suite_create("out");
	TCase *tc = tcase_create("out");

	tcase_add_checked_fixture(tc, setup, teardown);
	tcase_set_timeout(tc, 60);
	tcase_add_test(tc, test_small_numbers);
	tcase_add_test(tc, test_edges);
	tcase_add_test(tc, test_any_numbers);
	tcase_add_test(tc, test_long_line);
	tcase_add_test(tc, test_limited_lines);
	tcase_add_test(tc, test_plain);
	tcase_add_test(tc, test_escaped);
	suite_add_tcase(s, tc);
	return unit_run(s);
}
