// SPDX-License-Identifier: LGPL-2.1-or-later
/* The reader's table of stacks, and names for their frames, of guests that are not to be trusted. */
#include <stdio.h>
#include <string.h>

#include <zlib.h>

#include "stacks.h"
#include "symbols.h"
#include "unit.h"

/* ------------------------------------------------------------------------------- table of stacks */

static struct stacks *stacks;

static void setup(void)
{
	stacks = stacks_new();
}

static void teardown(void)
{
	stacks_free(stacks);
}

/* A definition as it comes from a ring, with @nr claimed and @len bytes there. */
static void define(__u64 id, __u16 kind, __u16 nr, size_t len, __u64 first)
{
	static __u64 buf[4096];
	struct htrace_stack *s = (void *)buf;
	char *exact = malloc(len ? len : 1); /* for the sanitizers */

	*s = (struct htrace_stack){ .id = id, .pid = 7, .kind = kind, .nr = nr };
	for (unsigned int i = 0; i < 600; i++)
		s->word[i] = first + i;
	memcpy(exact, buf, len);
	stacks_add(stacks, exact, len);
	free(exact);
}

START_TEST(test_found)
{
	struct stack st;

	define(5, HTRACE_STACK_KERNEL, 3, 16 + 24, 100);
	define(6, HTRACE_STACK_USER, 2, 16 + 16, 200);
	define(6, HTRACE_STACK_USER_FILES, 3, 16 + 96, 300);
	ck_assert(stacks_find(stacks, 5, &st));
	ck_assert_uint_eq(st.nr, 3);
	ck_assert_uint_eq(st.address[2], 102);
	ck_assert(stacks_find(stacks, 6, &st));
	ck_assert_uint_eq(st.nr, 2);
	ck_assert_uint_eq(st.nr_files, 2); /* no more than addresses */
	ck_assert_uint_eq(st.pid, 7);
	ck_assert(!stacks_find(stacks, 7, &st));
	ck_assert(!stacks_find(stacks, 0, &st));
	ck_assert(!stacks_find(NULL, 5, &st));
	define(5, HTRACE_STACK_KERNEL, 2, 16 + 24, 400); /* anew: what holds now */
	ck_assert(stacks_find(stacks, 5, &st));
	ck_assert_uint_eq(st.nr, 2);
	ck_assert_uint_eq(st.address[0], 400);
}
END_TEST

static const struct {
	__u64 id;
	__u16 kind, nr;
	size_t len;
} refused[] = {
	{ 1, HTRACE_STACK_KERNEL, 1, 0 },
	{ 1, HTRACE_STACK_KERNEL, 1, 15 },
	{ 1, HTRACE_STACK_KERNEL, 1, 16 },
	{ 1, HTRACE_STACK_KERNEL, 1, 23 },
	{ 1, HTRACE_STACK_KERNEL, 0, 24 },
	{ 1, HTRACE_STACK_KERNEL, 128, 16 + 128 * 8 },
	{ 1, HTRACE_STACK_KERNEL, 65535, 4096 },
	{ 1, HTRACE_STACK_USER_FILES, 2, 16 + 63 },
	{ 1, HTRACE_STACK_USER_FILES, 1, 16 + 32 }, /* files without addresses */
	{ 1, 0, 1, 24 },
	{ 1, 4, 1, 24 },
	{ 1, 65535, 1, 24 },
	{ 0, HTRACE_STACK_KERNEL, 1, 24 },
};

START_TEST(test_refused)
{
	struct stack st;

	define(refused[_i].id, refused[_i].kind, refused[_i].nr, refused[_i].len, 100);
	ck_assert(!stacks_find(stacks, refused[_i].id, &st));
}
END_TEST

/* Code without frame pointers leads nowhere. */
START_TEST(test_ends)
{
	struct stack st;

	define(1, HTRACE_STACK_USER, 3, 16 + 24, (__u64)-1); /* ~0, 0, 1 */
	ck_assert(stacks_find(stacks, 1, &st));
	ck_assert_uint_eq(st.nr, 1);
	define(2, HTRACE_STACK_USER, 3, 16 + 24, 0);
	ck_assert(!stacks_find(stacks, 2, &st));
}
END_TEST

START_TEST(test_bounded)
{
	__u64 state = 1, last = 0, first = 0;
	struct stack st;

	for (unsigned int i = 0; i < 100000; i++) {
		last = unit_random(&state) | 1;
		first = first ? first : last;
		define(last, HTRACE_STACK_KERNEL, 1 + i % HTRACE_STACK_FRAMES,
		       16 + 8 * HTRACE_STACK_FRAMES, i);
	}
	ck_assert(stacks_find(stacks, last, &st));
	ck_assert(!stacks_find(stacks, first, &st));
	ck_assert_uint_ge(stacks_forgotten(stacks), 100000 - 65536);
}
END_TEST

/* What is defined again and again is not what goes. */
START_TEST(test_kept)
{
	struct stack st;

	for (__u64 i = 2; i < 200000; i++) {
		if (i % 1000 == 2)
			define(1, HTRACE_STACK_KERNEL, 4, 16 + 32, 9);
		define(i, HTRACE_STACK_KERNEL, 127, 16 + 127 * 8, i);
	}
	ck_assert(stacks_find(stacks, 1, &st));
	ck_assert_uint_eq(st.address[0], 9);
	ck_assert_uint_ge(stacks_forgotten(stacks), 200000 - 65536);
}
END_TEST

/* --------------------------------------------------------------------------------------- symbols */

static struct symbols *symbols;
static char *entries;
static size_t len, room, loaded;

static void setup_symbols(void)
{
	symbols = symbols_new();
	entries = NULL;
	len = room = loaded = 0;
}

static void teardown_symbols(void)
{
	symbols_free(symbols);
	free(entries);
}

static void append(const void *entry, size_t size)
{
	if (len + size > room) {
		room = 2 * (len + size);
		entries = realloc(entries, room);
	}
	memcpy(entries + len, entry, size);
	len += size;
}

/* An entry of @lines that claims @raw bytes (0: the truth), cut by @cut bytes. */
static void add_lines(const char *lines, size_t raw_len, __u32 raw, size_t cut)
{
	uLongf packed = compressBound(raw_len);
	struct htrace_schema_symbols *e = calloc(1, sizeof(*e) + packed + 8);

	ck_assert_int_eq(compress((Bytef *)(e + 1), &packed, (const Bytef *)lines, raw_len), Z_OK);
	packed -= cut;
	e->entry.kind = HTRACE_SCHEMA_SYMBOLS;
	e->entry.len = (__u32)((sizeof(*e) + packed + 7) & ~7UL);
	e->raw = raw ? raw : (__u32)raw_len;
	e->packed = (__u32)packed;
	append(e, e->entry.len);
	free(e);
}

/* What was appended since. */
static const char *load(void)
{
	char *exact = malloc(len > loaded ? len - loaded : 1);
	const char *wrong;

	memcpy(exact, entries + loaded, len - loaded);
	wrong = symbols_load(symbols, exact, len - loaded);
	loaded = len;
	free(exact);
	return wrong;
}

static const char *name_of(__u64 address, __u32 index)
{
	static char text[100];
	__u64 all[2] = { address, address };
	struct stack st = { .nr = 2, .address = all };
	struct frame f;

	symbols_kernel_frame(symbols, &st, index, &f);
	ck_assert_uint_eq(f.address, address);
	if (!f.symbol)
		return "-";
	snprintf(text, sizeof(text), "%s+%llu%s%s", f.symbol, (unsigned long long)f.offset,
		 f.module ? " " : "", f.module ? f.module : "");
	return text;
}

static const char lines[] = "1000 first\n0 alias\n20 second\nffffffff00000000 far mod\n";

START_TEST(test_lookup)
{
	add_lines(lines, strlen(lines), 0, 0);
	ck_assert_ptr_null(load());
	ck_assert_str_eq(name_of(0xfff, 0), "-");
	ck_assert_str_eq(name_of(0x1000, 0), "first+0");
	ck_assert_str_eq(name_of(0x101f, 0), "first+31");
	ck_assert_str_eq(name_of(0x1020, 0), "second+0");
	ck_assert_str_eq(name_of(0x1020, 1), "first+32"); /* where a call at the end returns to */
	ck_assert_str_eq(name_of(0xffffffff00001020, 0), "far+0 mod");
	ck_assert_str_eq(name_of(0xffffffff00011020, 0), "-"); /* too far behind */
	ck_assert_str_eq(name_of(0, 1), "-");
	ck_assert_str_eq(name_of(~0ULL, 1), "-");
}
END_TEST

/* Entries that come later add to what is there, whatever their addresses. */
START_TEST(test_later)
{
	add_lines(lines, strlen(lines), 0, 0);
	ck_assert_ptr_null(load());
	add_lines("1008 between\n", 13, 0, 0);
	ck_assert_ptr_null(load());
	ck_assert_str_eq(name_of(0x1007, 0), "first+7");
	ck_assert_str_eq(name_of(0x1009, 0), "between+1");
	ck_assert_str_eq(name_of(0x1021, 0), "second+1");
	ck_assert_ptr_null(load());
}
END_TEST

static const struct {
	const char *text;
	size_t len;
	__u32 raw;
	size_t cut;
	const char *why;
} bad_lines[] = {
	{ "1000 a\n", 7, 0, 4, "cannot be unpacked" },
	{ "1000 a\n", 7, 8, 0, "cannot be unpacked" },
	{ "1000 a\n", 7, 6, 0, "cannot be unpacked" },
	{ "1000 a\n", 7, HTRACE_SYMBOLS_MAX + 1, 0, "too large" },
	{ "1000 a\n", 7, ~0u, 0, "too large" },
	{ "1000 a\0b\n", 9, 0, 0, "NULs" },
	{ "1000\n", 5, 0, 0, "is none" },
	{ "1000 \n", 6, 0, 0, "is none" },
	{ " a\n", 3, 0, 0, "is none" },
	{ "-1 a\n", 5, 0, 0, "is none" },
	{ "0x1 a\n", 6, 0, 0, "is none" },
	{ "\n", 1, 0, 0, "is none" },
	{ "11112222333344445 a\n", 20, 0, 0, "is none" },
	{ "ffffffffffffffff a\n1 b\n", 23, 0, 0, "is none" }, /* round the end */
	{ "zz a\n", 5, 0, 0, "is none" },
};

START_TEST(test_bad_lines)
{
	const char *wrong;

	add_lines(bad_lines[_i].text, bad_lines[_i].len, bad_lines[_i].raw, bad_lines[_i].cut);
	add_lines(lines, strlen(lines), 0, 0);
	wrong = load();
	ck_assert_ptr_nonnull(wrong);
	ck_assert_msg(strstr(wrong, bad_lines[_i].why), "%s", wrong);
	ck_assert_str_eq(name_of(0x1021, 0), "second+1"); /* what is right is taken */
}
END_TEST

/* 1000 times its size when unpacked, and more than it says; and more than is allowed. */
START_TEST(test_bomb)
{
	size_t size = HTRACE_SYMBOLS_MAX;
	char *zeros = calloc(1, size);

	memset(zeros, '1', size);
	add_lines(zeros, size, 4096, 0);
	ck_assert_str_eq(load(), "an entry of symbols cannot be unpacked");
	add_lines(zeros, size - 1, 0, 0); /* a line without an end */
	ck_assert_str_eq(load(), "a line of its symbols is none");
	add_lines(zeros, 100, 0, 0); /* all together are too many */
	ck_assert_str_eq(load(), "an entry of symbols is too large");
	free(zeros);
}
END_TEST

START_TEST(test_many)
{
	size_t size = 4 * ((1u << 20) + 10);
	char *text = malloc(size + 1);

	for (size_t i = 0; i < size; i += 4)
		memcpy(text + i, "1 a\n", 4);
	add_lines(text, size, 0, 0);
	ck_assert_str_eq(load(), "its kernel has more symbols than this reader takes");
	ck_assert_str_eq(name_of(1000, 0), "a+0");
	free(text);
}
END_TEST

/* As many names of one address as there can be cost no more than one. */
START_TEST(test_aliases)
{
	static const char first[] = "1000 first\n", more[] = "0 a\n";
	static const char later[] = "1000 late\n800 other\n0 alias\n";
	size_t nr = (1u << 20) - 1, size = sizeof(first) - 1 + nr * (sizeof(more) - 1);
	char *text = malloc(size + 1);

	strcpy(text, first);
	for (size_t i = 0; i < nr; i++)
		memcpy(text + sizeof(first) - 1 + i * (sizeof(more) - 1), more, sizeof(more) - 1);
	add_lines(text, size, 0, 0);
	ck_assert_ptr_null(load());
	for (unsigned int i = 0; i < 200000; i++)
		ck_assert_str_eq(name_of(0x1001, 0), "first+1");
	add_lines(later, strlen(later), 0, 0);
	ck_assert_ptr_null(load());
	ck_assert_str_eq(name_of(0x1001, 0), "first+1");
	ck_assert_str_eq(name_of(0x1800, 0), "other+0");
	free(text);
}
END_TEST

static void add_mapping(__u32 pid, __u64 start, __u64 end, __u64 offset, __u8 id, const char *path)
{
	struct {
		struct htrace_schema_mapping m;
		char path[256];
	} e = { 0 };

	e.m = (struct htrace_schema_mapping){
		.entry = { HTRACE_SCHEMA_MAPPING, 0, (__u32)(sizeof(e.m) + strlen(path) + 8) & ~7u },
		.pid = pid, .start = start, .end = end, .offset = offset,
	};
	memset(e.m.build_id, id, sizeof(e.m.build_id));
	memcpy((char *)&e + sizeof(e.m), path, strlen(path));
	append(&e, e.m.entry.len);
}

static struct frame user_frame(__u32 pid, __u64 address, __s32 status, __u8 id, __u64 offset)
{
	struct htrace_stack_file_frame file = { .status = status, .offset = offset };
	struct stack st = { .pid = pid, .nr = 1, .nr_files = status ? 1 : 0, .address = &address,
			    .file = &file };
	struct frame f;

	memset(file.build_id, id, sizeof(file.build_id));
	symbols_user_frame(symbols, &st, 0, &f);
	ck_assert_uint_eq(f.address, address);
	return f;
}

START_TEST(test_mappings)
{
	struct frame f;

	add_mapping(7, 0x1000, 0x2000, 0x400, 1, "/usr/lib/libone.so");
	add_mapping(7, 0x4000, 0x5000, 0, 2, "two");
	add_mapping(8, 0x1000, 0x2000, 0, 0, "[vdso]");
	add_mapping(8, 0x3000, 0x4000, 0, 3, "/ends/with/");
	ck_assert_ptr_null(load());
	/* by place */
	f = user_frame(7, 0x1010, 0, 0, 0);
	ck_assert(f.in_file && f.file_offset == 0x410 && f.build_id[19] == 1);
	ck_assert_str_eq(f.file, "libone.so");
	ck_assert_ptr_null(f.symbol);
	f = user_frame(7, 0x4fff, HTRACE_FRAME_ADDRESS, 0, 0x4fff);
	ck_assert_str_eq(f.file, "two");
	ck_assert_str_eq(user_frame(8, 0x1000, 0, 0, 0).file, "[vdso]");
	ck_assert_ptr_null(user_frame(8, 0x3000, 0, 0, 0).file);
	ck_assert(!user_frame(7, 0x2000, 0, 0, 0).in_file);
	ck_assert(!user_frame(7, 0xfff, 0, 0, 0).in_file);
	ck_assert(!user_frame(9, 0x1000, 0, 0, 0).in_file);
	/* by build-id */
	f = user_frame(99, 0x7f0000001234, HTRACE_FRAME_FILE, 2, 0x234);
	ck_assert(f.in_file && f.file_offset == 0x234 && f.build_id[0] == 2);
	ck_assert_str_eq(f.file, "two");
	f = user_frame(99, 0x7f0000001234, HTRACE_FRAME_FILE, 9, 0x234);
	ck_assert(f.in_file && !f.file);
	/* an address below what is mapped, which the kernel calls a part of it */
	ck_assert(!user_frame(99, 0x10, HTRACE_FRAME_FILE, 2, (__u64)-0x1000).in_file);
}
END_TEST

START_TEST(test_bad_mappings)
{
	struct htrace_schema_entry tiny = { HTRACE_SCHEMA_MAPPING, 0, 16 };
	char bytes[16] = { 0 };

	add_mapping(7, 0x2000, 0x1000, 0, 1, "x");
	ck_assert_str_eq(load(), "a mapping ends before it begins");
	memcpy(bytes, &tiny, sizeof(tiny));
	append(bytes, sizeof(bytes));
	ck_assert_str_eq(load(), "an entry of a mapping is too short");
	tiny.kind = HTRACE_SCHEMA_SYMBOLS;
	tiny.len = 8;
	append(&tiny, 8);
	ck_assert_str_eq(load(), "an entry of symbols is too short");
	for (__u32 i = 0; i < 65536 + 2; i++)
		add_mapping(i, 0x1000, 0x2000, 0, (__u8)i, "x");
	ck_assert_str_eq(load(), "it has more mappings than this reader takes");
	ck_assert_str_eq(user_frame(5, 0x1000, 0, 0, 0).file, "x");
}
END_TEST

/* The tracer's own frames are not of interest; a function of the kernel's is, also a later one. */
START_TEST(test_own_frames)
{
	static const char text[] = "1000 bpf_prog_1234_x bpf\n1000 bpf_trace_run4\n1000 schedule\n"
				   "1000 __traceiter_y\n";
	__u64 all[] = { 0x1010, 0x99999999, 0x2010, 0x3010, 0x4010 };
	struct stack st = { .nr = 5, .address = all };

	ck_assert_uint_eq(symbols_own_frames(symbols, &st), 0);
	ck_assert_uint_eq(symbols_own_frames(NULL, &st), 0);
	add_lines(text, strlen(text), 0, 0);
	ck_assert_ptr_null(load());
	ck_assert_uint_eq(symbols_own_frames(symbols, &st), 3);
	st.nr = 3; /* nothing would be left */
	ck_assert_uint_eq(symbols_own_frames(symbols, &st), 0);
	st.nr = 0;
	ck_assert_uint_eq(symbols_own_frames(symbols, &st), 0);
}
END_TEST

/* Anything at all: no crash, and nothing outside of the memory that was given. */
START_TEST(test_garbage)
{
	__u64 state = (__u64)_i + 1;

	add_lines(lines, strlen(lines), 0, 0);
	add_mapping(7, 0x1000, 0x2000, 0x400, 1, "/usr/lib/libone.so");
	for (int n = 0; n < 20; n++) {
		size_t at = unit_random(&state) % len;

		if (at % 112 < 8) /* lengths are the schema's to check */
			continue;
		entries[at] = (char)unit_random(&state);
	}
	load();
	name_of(unit_random(&state), 0);
	user_frame(7, 0x1000 + unit_random(&state) % 0x1000, 0, 0, 0);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("stacks");
	TCase *t = tcase_create("table"), *n = tcase_create("symbols");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_add_test(t, test_found);
	tcase_add_loop_test(t, test_refused, 0, sizeof(refused) / sizeof(*refused));
	tcase_add_test(t, test_ends);
	tcase_add_test(t, test_bounded);
	tcase_add_test(t, test_kept);
	tcase_set_timeout(t, 120);
	suite_add_tcase(s, t);
	tcase_add_checked_fixture(n, setup_symbols, teardown_symbols);
	tcase_add_test(n, test_lookup);
	tcase_add_test(n, test_later);
	tcase_add_loop_test(n, test_bad_lines, 0, sizeof(bad_lines) / sizeof(*bad_lines));
	tcase_add_test(n, test_bomb);
	tcase_add_test(n, test_many);
	tcase_add_test(n, test_aliases);
	tcase_add_test(n, test_mappings);
	tcase_add_test(n, test_bad_mappings);
	tcase_add_test(n, test_own_frames);
	tcase_add_loop_test(n, test_garbage, 0, 200);
	tcase_set_timeout(n, 120);
	suite_add_tcase(s, n);
	return unit_run(s);
}
