// SPDX-License-Identifier: LGPL-2.1-or-later
/*
 * Parts of captures that are compressed: what is read from any place of them is what was there; files that are
 * damaged, or lie, cost a few chunks and no more; and a packer that is stopped at any time leaves nothing behind.
 */
#include <dirent.h>
#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include "../../host-reader/capture_unpack.c" /* brings its own, to look inside */

#include "capture_pack.h"
#include "rotation.h"
#include "unit.h"

static char top[] = "/tmp/htrace-pack-XXXXXX";
static int dir = -1;

static void setup(void)
{
	strcpy(top + sizeof(top) - 7, "XXXXXX");
	ck_assert_ptr_nonnull(mkdtemp(top));
	dir = open(top, O_RDONLY | O_DIRECTORY);
	ck_assert_int_eq(mkdirat(dir, "part", 0777), 0);
	ck_assert_int_eq(mkdirat(dir, "part/htrace", 0777), 0);
}

static void teardown(void)
{
	char command[128];

	close(dir);
	snprintf(command, sizeof(command), "rm -rf '%s'", top);
	ck_assert_int_eq(system(command), 0);
}

static void write_file(const char *name, const void *p, size_t len)
{
	int fd = openat(dir, name, O_WRONLY | O_CREAT | O_TRUNC, 0666);

	ck_assert_int_ge(fd, 0);
	ck_assert_int_eq(write(fd, p, len), (ssize_t)len);
	close(fd);
}

static bool is_there(const char *name)
{
	return !faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW);
}

/* Numbers: they get smaller, and each place has other ones. */
static unsigned char *content(size_t len)
{
	unsigned char *p = malloc(len + 8);

	ck_assert_ptr_nonnull(p);
	for (size_t i = 0; i < len; i += 8)
		memcpy(p + i, &(__u64){ i / 8 * 3 }, 8);
	return p;
}

static struct packed_part pack_part_now(void)
{
	struct packed_part done;
	struct packer *p;

	ck_assert_int_eq(packer_new(&p, dir), 0);
	ck_assert(!packer_take(p, &done));
	ck_assert(packer_begin(p, "part"));
	while (!packer_take(p, &done))
		usleep(100);
	ck_assert_str_eq(done.name, "part");
	packer_free(p);
	return done;
}

static unsigned char *packed_file(const char *name, size_t *len)
{
	int fd = openat(dir, name, O_RDONLY);
	unsigned char *p;
	struct stat st;

	ck_assert_msg(fd >= 0, "%s", name);
	fstat(fd, &st);
	*len = (size_t)st.st_size;
	p = malloc(*len);
	ck_assert_int_eq(read(fd, p, *len), st.st_size);
	close(fd);
	return p;
}

static const size_t sizes[] = { 100, 4096, CAPTURE_CHUNK - 1, CAPTURE_CHUNK, CAPTURE_CHUNK + 1,
				3 * CAPTURE_CHUNK + 5, 40 * CAPTURE_CHUNK };

/* From anywhere, in pieces of any length: the same bytes; and what the packer says of it is so. */
START_TEST(test_round_trip)
{
	unsigned long long seed = (unsigned long long)_i;
	size_t raw = sizes[_i], len;
	unsigned char *was = content(raw), *got = malloc(raw);
	struct unpacker *u = NULL;
	struct packed_part done;
	struct packed p;
	int fd;

	write_file("part/cpu0", was, raw);
	write_file("part/metadata", was, 80);
	done = pack_part_now();
	ck_assert_int_eq(done.error, 0);
	ck_assert(!is_there("part/cpu0") && is_there("part/metadata") && !is_there("part/.cpu0.zst"));
	free(packed_file("part/cpu0.zst", &len));
	ck_assert_uint_eq(done.bytes, len + 80);
	ck_assert_uint_lt(len, raw);
	fd = openat(dir, "part/cpu0.zst", O_RDONLY);
	ck_assert_int_eq(unpack_open(&u, &p, fd, len), 0);
	ck_assert_uint_eq(p.raw, raw);
	ck_assert(unpack_read(u, &p, fd, got, raw, 0));
	ck_assert_int_eq(memcmp(got, was, raw), 0);
	for (unsigned int i = 0; i < 500; i++) {
		size_t at = unit_random(&seed) % raw, n = unit_random(&seed) % (raw - at + 1) % (3 * CAPTURE_CHUNK);

		ck_assert(unpack_read(u, &p, fd, got, n, at));
		ck_assert_int_eq(memcmp(got, was + at, n), 0);
	}
	ck_assert_uint_le(u->nr, FIRST);
	unpacker_free(u);
	close(fd);
	free(was);
	free(got);
}
END_TEST

/* What does not get smaller, is no file, or is not the capture's stays, and is not waited for. */
START_TEST(test_left_alone)
{
	unsigned char *numbers = content(8192);
	unsigned long long seed = 7;
	__u64 noise[8192];

	for (size_t i = 0; i < 8192; i++)
		noise[i] = unit_random(&seed);
	write_file("part/cpu0", noise, sizeof(noise));
	write_file("part/cpu1", noise, 0);
	write_file("outside", numbers, 8192);
	ck_assert_int_eq(mkfifoat(dir, "part/fifo", 0600), 0);
	write_file("part/htrace/journal", numbers, 8192);
	free(numbers);
	ck_assert_int_eq(pack_part_now().error, 0);
	ck_assert(is_there("part/cpu0") && is_there("part/cpu1") && is_there("part/fifo") && is_there("outside"));
	ck_assert(!is_there("part/cpu0.zst") && !is_there("part/.cpu0.zst") && is_there("part/htrace/journal.zst"));
	ck_assert_int_eq(symlinkat("../outside", dir, "part/link"), 0);
	ck_assert_int_eq(pack_part_now().error, -ELOOP);
	ck_assert(is_there("outside") && is_there("part/link"));
}
END_TEST

static bool try_read(const unsigned char *was, size_t raw)
{
	unsigned char *got = malloc(raw);
	int fd = openat(dir, "try", O_RDONLY);
	struct unpacker *u = NULL;
	struct packed p;
	struct stat st;
	bool ok;

	ck_assert(fd >= 0 && !fstat(fd, &st));
	ok = !unpack_open(&u, &p, fd, (__u64)st.st_size);
	if (ok) {
		size_t n = p.raw < raw ? p.raw : raw;

		ok = unpack_read(u, &p, fd, got, n, 0) && p.raw == raw;
		ck_assert_msg(!ok || !memcmp(got, was, raw), "other bytes");
	}
	unpacker_free(u);
	close(fd);
	free(got);
	return ok;
}

/* Each byte changed, each length: that is seen, or it is what it was. */
START_TEST(test_damaged)
{
	const size_t raw = 2 * CAPTURE_CHUNK + 77;
	unsigned char *was = malloc(raw), *packed;
	unsigned int ok = 0;
	size_t len;

	memset(was, 'x', raw);
	for (size_t i = 0; i < raw; i += 9999)
		was[i] = (unsigned char)(i / 9999);
	write_file("part/cpu0", was, raw);
	ck_assert_int_eq(pack_part_now().error, 0);
	packed = packed_file("part/cpu0.zst", &len);
	write_file("try", packed, len);
	ck_assert(try_read(was, raw));
	for (size_t i = 0; i < len; i++) {
		for (unsigned int bit = 1; bit < 256; bit *= 4) {
			packed[i] ^= bit;
			write_file("try", packed, len);
			ok += try_read(was, raw);
			packed[i] ^= bit;
		}
		write_file("try", packed, i);
		ck_assert(!try_read(was, raw));
	}
	ck_assert_uint_lt(ok, len / 8); /* bits that zstd does not look at */
	free(was);
	free(packed);
}
END_TEST

static void put_table(unsigned char *p, size_t *len, const struct capture_pack_end *end)
{
	__u32 head[2] = { CAPTURE_PACK_SKIPPED, (__u32)(end->nr * 8 + sizeof(*end)) };

	memcpy(p + *len, head, 8);
	*len += 8;
	memset(p + *len, 0, end->nr * 8);
	*len += end->nr * 8;
	memcpy(p + *len, end, sizeof(*end));
	*len += sizeof(*end);
}

/* One frame that is 256 MiB, behind a table of as much as may be claimed, or not: it costs some chunks. */
START_TEST(test_bomb)
{
	const size_t huge = 256 << 20;
	struct capture_pack_end end = {
		.raw = _i ? CAPTURE_PACK_MOST : CAPTURE_CHUNK, .nr = _i ? CAPTURE_PACK_MOST / CAPTURE_CHUNK : 1,
		.chunk = CAPTURE_CHUNK, .magic = CAPTURE_PACK_MAGIC,
	};
	unsigned char *zeroes = calloc(1, huge), *file = malloc(8 << 20), got[64];
	struct unpacker *u = NULL;
	struct rusage before, after;
	struct packed p;
	size_t len = ZSTD_compress(file, 1 << 20, zeroes, huge, 3);
	int fd;

	ck_assert_uint_lt(len, 1 << 20);
	free(zeroes);
	put_table(file, &len, &end);
	write_file("try", file, len);
	fd = openat(dir, "try", O_RDONLY);
	getrusage(RUSAGE_SELF, &before);
	ck_assert_int_eq(unpack_open(&u, &p, fd, len), 0);
	for (__u64 at = 0; at < p.raw; at += p.raw / 64)
		ck_assert(!unpack_read(u, &p, fd, got, sizeof(got), at));
	getrusage(RUSAGE_SELF, &after);
	ck_assert_int_lt(after.ru_maxrss - before.ru_maxrss, 4 << 10);
	ck_assert_uint_le(u->nr, FIRST);
	end.raw = end.nr * (__u64)CAPTURE_CHUNK + 1; /* more than may be, or than there are chunks */
	memcpy(file + len - sizeof(end), &end, sizeof(end));
	write_file("try", file, len);
	ck_assert_int_eq(unpack_open(&u, &p, fd, len), -EILSEQ);
	unpacker_free(u);
	close(fd);
	free(file);
}
END_TEST

/* As many files as a capture may have share what there is. */
START_TEST(test_many_files)
{
	const size_t raw = 4 * CAPTURE_CHUNK;
	unsigned char *was = content(raw), got[100];
	struct packed p[300];
	struct unpacker *u = NULL;
	size_t len;
	int fd;

	write_file("part/cpu0", was, raw);
	ck_assert_int_eq(pack_part_now().error, 0);
	free(packed_file("part/cpu0.zst", &len));
	fd = openat(dir, "part/cpu0.zst", O_RDONLY);
	for (unsigned int i = 0; i < 300; i++)
		ck_assert_int_eq(unpack_open(&u, &p[i], fd, len), 0);
	for (unsigned int i = 0; i < 1200; i++) {
		size_t at = i % 4 * CAPTURE_CHUNK + CAPTURE_CHUNK - 50;

		ck_assert(unpack_read(u, &p[i % 300], fd, got, 50 + (i % 4 < 3) * 50, at));
		ck_assert_int_eq(memcmp(got, was + at, 50), 0);
	}
	ck_assert_uint_eq(u->nr, UNPACK_CHUNKS);
	unpacker_free(u);
	close(fd);
	free(was);
}
END_TEST

static unsigned int count_files(const char *name)
{
	int fd = openat(dir, name, O_RDONLY | O_DIRECTORY);
	unsigned int nr = 0;
	DIR *d = fdopendir(fd);

	ck_assert_ptr_nonnull(d);
	while (readdir(d))
		nr++;
	closedir(d);
	return nr - 2;
}

/* Its end, or that of the part, at a random moment: nobody waits for long, and nothing is left that was not to be. */
START_TEST(test_stopped)
{
	const size_t raw = 24 << 20;
	unsigned char *was = content(raw);
	unsigned long long seed = (unsigned long long)_i * 77;
	struct packer *p;
	size_t len;

	write_file("part/cpu0", was, raw);
	write_file("part/cpu1", was, raw / 8);
	write_file("part/htrace/journal", was, 5000);
	ck_assert_int_eq(packer_new(&p, dir), 0);
	ck_assert(packer_begin(p, "part"));
	ck_assert(!packer_give_up(p, "other"));
	usleep((useconds_t)(unit_random(&seed) % 30000));
	if (_i % 2) {
		ck_assert(packer_give_up(p, "part"));
		part_delete(dir, "part"); /* fails if something was made in it just then */
		packer_free(p);
		ck_assert(!is_there("part"));
	} else {
		packer_free(p);
		ck_assert(is_there("part/cpu0") != is_there("part/cpu0.zst"));
		ck_assert_uint_eq(count_files("part"), 3);
		ck_assert_uint_eq(count_files("part/htrace"), 1);
		if (is_there("part/cpu0")) {
			unsigned char *now = packed_file("part/cpu0", &len);

			ck_assert(len == raw && !memcmp(now, was, raw));
			free(now);
		}
	}
	free(was);
}
END_TEST

/* No room for it: it stays as it is, and that is said. */
START_TEST(test_no_room)
{
	struct rlimit before, most = { 4096, RLIM_INFINITY };
	const size_t raw = 4 << 20;
	unsigned char *was = content(raw);
	struct packed_part done;

	write_file("part/cpu0", was, raw);
	getrlimit(RLIMIT_FSIZE, &before);
	most.rlim_max = before.rlim_max;
	setrlimit(RLIMIT_FSIZE, &most);
	done = pack_part_now();
	setrlimit(RLIMIT_FSIZE, &before);
	ck_assert_int_eq(done.error, -EFBIG);
	ck_assert_uint_eq(done.bytes, raw);
	ck_assert(is_there("part/cpu0") && !is_there("part/.cpu0.zst") && !is_there("part/cpu0.zst"));
	free(was);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("pack");
	TCase *t = tcase_create("pack");

	tcase_add_checked_fixture(t, setup, teardown);
	tcase_set_timeout(t, 120);
	tcase_add_loop_test(t, test_round_trip, 0, sizeof(sizes) / sizeof(*sizes));
	tcase_add_test(t, test_left_alone);
	tcase_add_test(t, test_damaged);
	tcase_add_loop_test(t, test_bomb, 0, 2);
	tcase_add_test(t, test_many_files);
	tcase_add_loop_test(t, test_stopped, 0, 20);
	tcase_add_test(t, test_no_room);
	suite_add_tcase(s, t);
	return unit_run(s);
}
