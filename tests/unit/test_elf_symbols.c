// SPDX-License-Identifier: LGPL-2.1-or-later
/* Functions by build-id: of this very program, from the places where such files lie, whole or not. */
#include <elf.h>
#include <link.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "elf_symbols.h"
#include "unit.h"

/* The one for this program, which may run under an emulator. */
#ifdef __aarch64__
#define OBJCOPY "aarch64-linux-gnu-objcopy"
#else
#define OBJCOPY "objcopy"
#endif

static __u8 id[20];
static char hex[41];
static __u64 offset; /* of a byte in known_function(), in the file */
static __s64 bias;
static char home[] = "/tmp/htrace-test-XXXXXX";
static struct elf_symbols *symbols;

__attribute__((noinline)) int known_function(int x)
{
	__asm__ volatile("nop; nop; nop; nop; nop; nop; nop; nop" : "+r"(x));
	return x;
}

static void take_id(const char *note, size_t len)
{
	ElfW(Nhdr) n;

	for (; len >= sizeof(n); ) {
		size_t name, size;

		memcpy(&n, note, sizeof(n));
		name = sizeof(n) + ((n.n_namesz + 3) & ~3u);
		size = name + ((n.n_descsz + 3) & ~3u);
		if (n.n_type == NT_GNU_BUILD_ID && n.n_descsz == 20)
			memcpy(id, note + name, 20);
		if (size > len)
			return;
		note += size;
		len -= size;
	}
}

/* The first is the program. */
static int look(struct dl_phdr_info *info, size_t size, void *ctx)
{
	__u64 at = (__u64)(void *)known_function + 4 - info->dlpi_addr;

	for (int i = 0; i < info->dlpi_phnum; i++) {
		const ElfW(Phdr) *p = &info->dlpi_phdr[i];

		if (p->p_type == PT_NOTE)
			take_id((const char *)info->dlpi_addr + p->p_vaddr, p->p_memsz);
		if (p->p_type == PT_LOAD && at >= p->p_vaddr && at < p->p_vaddr + p->p_memsz) {
			bias = (__s64)(p->p_vaddr - p->p_offset);
			offset = at - (__u64)bias;
		}
	}
	return 1;
}

/* In $HOME, which is empty. */
__attribute__((format(printf, 1, 2))) static void shell(const char *fmt, ...)
{
	char command[1000];
	va_list args;

	va_start(args, fmt);
	vsnprintf(command, sizeof(command), fmt, args);
	va_end(args);
	ck_assert_int_eq(system(command), 0);
}

static void setup(void)
{
	char exe[800];
	ssize_t len;

	strcpy(home + sizeof(home) - 7, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(home));
	setenv("HOME", home, 1);
	unsetenv("XDG_CACHE_HOME");
	unsetenv("DEBUGINFOD_CACHE_PATH");
	dl_iterate_phdr(look, NULL);
	for (int i = 0; i < 20; i++)
		snprintf(hex + 2 * i, 3, "%02x", id[i]);
	symbols = elf_symbols_new();
	/* Asked for by this process: under qemu-user others would find the emulator there. */
	len = readlink("/proc/self/exe", exe, sizeof(exe) - 1);
	ck_assert_int_gt(len, 0);
	exe[len] = 0;
	shell("cp '%s' %s/whole", exe, home);
}

static void teardown(void)
{
	elf_symbols_free(symbols);
	shell("rm -r %s", home);
}

static void expect(const __s64 *known_bias, bool there)
{
	__u64 in_function = 99;
	const char *name = elf_symbols_find(symbols, id, offset, known_bias, &in_function);

	if (!there) {
		ck_assert_ptr_null(name);
		return;
	}
	ck_assert_ptr_nonnull(name);
	ck_assert_str_eq(name, "known_function");
	ck_assert_uint_eq(in_function, 4);
}

/* What was found, or not, is forgotten. */
static void again(void)
{
	elf_symbols_free(symbols);
	symbols = elf_symbols_new();
}

START_TEST(test_nowhere)
{
	expect(NULL, false);
	expect(&bias, false);
}
END_TEST

static const char *const places[] = {
	".debug/.build-id/%.2s/%s/elf",
	".debug/.build-id/%.2s/%s",
	".cache/debuginfod_client/%.2s%s/executable",
	".cache/debuginfod_client/%.2s%s/debuginfo",
};

static void put(const char *from, const char *place)
{
	char path[200];

#pragma GCC diagnostic ignored "-Wformat-nonliteral"
	snprintf(path, sizeof(path), place, hex, hex + 2);
	shell("cd %s && mkdir -p $(dirname %s) && cp %s %s", home, path, from, path);
}

START_TEST(test_places)
{
	put("whole", places[_i]);
	expect(NULL, true);
	expect(&bias, true);
	expect(NULL, true);
}
END_TEST

START_TEST(test_cache_variables)
{
	shell("cd %s && mkdir -p a/debuginfod_client/%s b/%s && cp whole a/debuginfod_client/%s/debuginfo",
	      home, hex, hex, hex);
	setenv("XDG_CACHE_HOME", strcat(strcpy((char[100]){ 0 }, home), "/a"), 1);
	setenv("DEBUGINFOD_CACHE_PATH", strcat(strcpy((char[100]){ 0 }, home), "/b"), 1);
	expect(NULL, false); /* the latter goes before */
	unsetenv("DEBUGINFOD_CACHE_PATH");
	again();
	expect(NULL, true);
}
END_TEST

/* One that is nowhere is looked for once; of a guest that names ever new ones, some thousands are. */
START_TEST(test_missing)
{
	__u8 other[20];
	__u64 in_function;

	expect(NULL, false);
	put("whole", places[1]);
	expect(NULL, false);
	again();
	memset(other, 1, sizeof(other));
	for (unsigned int i = 0; i < 4095; i++) {
		__u32 key = i * 2654435761u; /* in no order */

		memcpy(other, &key, sizeof(key));
		ck_assert_ptr_null(elf_symbols_find(symbols, other, offset, NULL, &in_function));
		ck_assert_ptr_null(elf_symbols_find(symbols, other, offset, NULL, &in_function));
	}
	expect(NULL, true);
	other[19]++;
	ck_assert_ptr_null(elf_symbols_find(symbols, other, offset, NULL, &in_function));
	expect(NULL, true); /* what was found stays */
}
END_TEST

START_TEST(test_enough)
{
	__u8 other[20] = { 1, [19] = 1 };
	__u64 in_function;

	put("whole", places[1]);
	for (unsigned int i = 0; i < 4096; i++) {
		memcpy(other + 4, &i, sizeof(i));
		ck_assert_ptr_null(elf_symbols_find(symbols, other, offset, NULL, &in_function));
	}
	expect(NULL, false);
}
END_TEST

/* What debug packages hold: the segments are empty, their offsets need not be true. */
START_TEST(test_debug_file)
{
	shell("cd %s && " OBJCOPY " --only-keep-debug whole debug && " OBJCOPY " --strip-all whole stripped",
	      home);
	put("stripped", places[0]);
	put("debug", places[3]);
	expect(&bias, true);
	expect(NULL, true);
}
END_TEST

START_TEST(test_refused)
{
	static const char *const make[] = {
		"head -c 3000 whole > bad", "head -c 40 whole > bad", ": > bad", "echo no > bad",
		"mkfifo bad", "mkdir bad", "ln -s bad bad", "cp /bin/ls bad", /* another build-id */
		OBJCOPY " --strip-all whole bad",
		("cp whole bad; printf '\\377\\377\\377\\377\\377\\377\\377\\177' |"
		" dd of=bad bs=1 seek=40 conv=notrunc 2>/dev/null"), /* e_shoff */
	};
	char path[200];

	snprintf(path, sizeof(path), ".debug/.build-id/%.2s/%s", hex, hex + 2);
	shell("cd %s && mkdir -p $(dirname %s) && %s && mv bad %s", home, path, make[_i], path);
	expect(NULL, false);
	expect(&bias, false);
}
END_TEST

START_TEST(test_between)
{
	__u64 in_function;

	put("whole", places[0]);
	ck_assert_ptr_null(elf_symbols_find(symbols, id, ~0ULL, NULL, &in_function));
	ck_assert_ptr_null(elf_symbols_find(symbols, id, 0, NULL, &in_function));
	ck_assert_ptr_null(elf_symbols_find(symbols, id, 1ULL << 40, &bias, &in_function));
}
END_TEST

int main(void)
{
	Suite *s = suite_create("elf_symbols");
	TCase *c = tcase_create("elf_symbols");

	tcase_add_checked_fixture(c, setup, teardown);
	tcase_add_test(c, test_nowhere);
	tcase_add_test(c, test_missing);
	tcase_add_test(c, test_enough);
	tcase_add_loop_test(c, test_places, 0, 4);
	tcase_add_test(c, test_cache_variables);
	tcase_add_test(c, test_debug_file);
	tcase_add_loop_test(c, test_refused, 0, 10);
	tcase_add_test(c, test_between);
	tcase_set_timeout(c, 60);
	suite_add_tcase(s, c);
	return unit_run(s);
}
