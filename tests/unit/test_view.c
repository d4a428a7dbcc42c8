/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Views: who may be the reader, whose files stay untouched, and what there is before attaching. */
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "regionbox.h"
#include "unit.h"

static struct htrace_view *view(int fd)
{
	struct htrace_view *v = NULL;

	ck_assert_msg(htrace_view_open_fd(&v, fd, true, err, sizeof(err)) == 0, "%s", err);
	return v;
}

/* Two that both would be the reader. */
START_TEST(test_claimed)
{
	char path[] = "/tmp/htrace-unit-XXXXXX";
	struct htrace_view *one, *two;
	struct htrace_region *r;
	int fd = mkstemp(path);

	close(fd);
	ck_assert_int_eq(htrace_region_create_local(&r, path, SIZE, &local_opts, NULL), 0);
	htrace_region_publish(r);
	ck_assert_int_eq(htrace_view_open(&one, path, true, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_open(&two, path, true, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_claim(one), -EINVAL); /* not attached */
	ck_assert_int_eq(htrace_view_attach(one, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_attach(two, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_claim(one), 0);
	ck_assert_int_eq(htrace_view_claim(one), 0);
	ck_assert_int_eq(htrace_view_claim(two), -EBUSY);
	htrace_view_close(one);
	ck_assert_int_eq(htrace_view_claim(two), 0);
	htrace_view_close(two);
	htrace_region_release(r);
	unlink(path);
}
END_TEST

static int claim(struct htrace_view **v, int fd)
{
	*v = view(fd);
	ck_assert_int_eq(htrace_view_attach(*v, err, sizeof(err)), 0);
	return htrace_view_claim(*v);
}

/* Both were handed one descriptor, of a memfd or (1) of a file: copies of it, here and in a child. */
START_TEST(test_claimed_by_fd)
{
	char path[40] = "/tmp/htrace-unit-XXXXXX";
	struct htrace_view *one, *two, *three;
	struct htrace_region *r;
	int fd, copy, status;
	pid_t pid;

	if (_i)
		close(mkstemp(path));
	ck_assert_int_eq(htrace_region_create_local(&r, _i ? path : NULL, SIZE, &local_opts, &fd), 0);
	htrace_region_publish(r);
	copy = dup(fd);
	ck_assert_int_eq(claim(&one, fd), 0);
	ck_assert_int_eq(claim(&two, copy), -EBUSY);
	pid = fork();
	if (!pid)
		_exit(-claim(&three, fd));
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(WEXITSTATUS(status), EBUSY);
	/* The lock goes with the view, the descriptor stays. */
	htrace_view_close(one);
	ck_assert_int_eq(htrace_view_claim(two), 0);
	htrace_view_close(two);
	/* Who locked it, as host-reader does, has it, until that is closed. */
	ck_assert_int_eq(flock(fd, LOCK_EX | LOCK_NB), 0);
	ck_assert_int_eq(claim(&one, fd), 0);
	htrace_view_close(one);
	close(copy);
	if (_i)
		unlink(path);
	snprintf(path, sizeof(path), "/proc/self/fd/%d", fd);
	copy = open(path, O_RDWR | O_CLOEXEC);
	ck_assert_int_eq(claim(&two, copy), -EBUSY);
	ck_assert_int_eq(flock(fd, LOCK_UN), 0);
	ck_assert_int_eq(htrace_view_claim(two), 0);
	htrace_view_close(two);
	htrace_region_release(r);
	close(copy);
	close(fd);
}
END_TEST

/* ------------------------------------------------------------------------ what is not ours */

static void refuse_all(struct htrace_view *v, int waiting)
{
	ck_assert_int_eq(htrace_view_claim(v), -EINVAL);
	ck_assert_int_eq(htrace_view_session_drained(v), -EINVAL);
	ck_assert_int_eq(htrace_view_ask_names(v), -EINVAL);
	ck_assert_int_eq(htrace_view_announce(v, HTRACE_HOST_ATTACHED, 1, true, 0), -EINVAL);
	ck_assert_int_eq(htrace_view_beat(v), waiting);
	ck_assert_int_eq(htrace_view_announce(v, HTRACE_HOST_GONE, 0, false, 0), waiting);
	ck_assert_int_eq(htrace_view_announce(v, HTRACE_HOST_WAITING, 0, false, 0), waiting);
	ck_assert_int_eq(htrace_view_announce(v, HTRACE_HOST_REFUSED, 1, false, 0), waiting);
}

/* Somebody's file, which attaching refuses, stays as it is; also if a region was there before. */
START_TEST(test_foreign)
{
	char path[] = "/tmp/htrace-unit-XXXXXX";
	char *before = malloc(SIZE), *now = malloc(SIZE);
	int fd = mkstemp(path);
	struct htrace_region *r;
	struct htrace_view *v;

	memset(before, 0x77, SIZE);
	if (_i) {
		ck_assert_int_eq(htrace_region_create_local(&r, path, SIZE, &local_opts, NULL), 0);
		htrace_region_publish(r);
		v = view(fd);
		ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), 0);
		htrace_region_release(r);
	}
	ck_assert_int_eq(pwrite(fd, before, SIZE, 0), SIZE);
	if (!_i)
		v = view(fd);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), -EPROTO);
	refuse_all(v, -EINVAL);
	htrace_view_close(v);
	ck_assert_int_eq(pread(fd, now, SIZE, 0), SIZE);
	ck_assert_int_eq(memcmp(before, now, SIZE), 0);
	/* Where nobody is yet one may wait. */
	ck_assert_int_eq(ftruncate(fd, 0), 0);
	ck_assert_int_eq(ftruncate(fd, SIZE), 0);
	v = view(fd);
	ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), -EAGAIN);
	refuse_all(v, 0);
	htrace_view_close(v);
	free(before);
	free(now);
	close(fd);
	unlink(path);
}
END_TEST

/* Before it is attached there is nothing in a view, whatever is in the file. */
START_TEST(test_before_attach)
{
	const __u32 words[] = { 8, 0, 0xfffffff8, 0 }; /* a schema's, or a table's, at byte 0 */
	struct htrace_clock_sample s[HTRACE_CLOCK_SAMPLES];
	__u64 generation = 0, next = 0;
	struct htrace_guest g;
	struct htrace_image img;
	struct htrace_name *names;
	struct htrace_view *v;
	void *buf;
	size_t len;
	int fd = memfd_create("unit", MFD_CLOEXEC);
	char *fill = malloc(SIZE);

	memset(fill, 0xff, SIZE);
	ck_assert_int_eq(pwrite(fd, fill, SIZE, 0), SIZE);
	ck_assert_int_eq(pwrite(fd, words, sizeof(words), 0), sizeof(words));
	v = view(fd);
	for (int i = 0; i < 2; i++) {
		ck_assert_int_eq(htrace_view_schema(v, &generation, &buf, &len), 0);
		ck_assert_int_eq(htrace_view_names(v, &generation, &names), -EAGAIN);
		ck_assert_int_eq(htrace_view_clock(v, s), -EAGAIN);
		ck_assert_int_eq(htrace_view_clock_samples(v, &next, s), 0);
		ck_assert_uint_eq(htrace_view_heartbeat(v), 0);
		ck_assert_uint_eq(htrace_view_state(v), HTRACE_GUEST_NONE);
		htrace_view_guest(v, &g, true);
		ck_assert_uint_eq(g.heartbeat | g.nr_progs | g.clock_head, 0);
		ck_assert_int_eq(htrace_view_ring(v, 0, 0, &img), -ENXIO);
		ck_assert_int_eq(htrace_view_ring(v, ~0u, 0, &img), -ENXIO);
		ck_assert_int_eq(htrace_view_map_ram(v, 0, NULL, err, sizeof(err)), -EPROTO);
		ck_assert(!htrace_view_current(v) && !htrace_view_same_boot(v));
		ck_assert_int_eq(htrace_view_attach(v, err, sizeof(err)), -EPROTO);
	}
	htrace_view_close(v);
	free(fill);
	close(fd);
}
END_TEST

/* As many views as there may be; then it is said what is to be done. */
START_TEST(test_many_views)
{
	struct htrace_view *v[257];
	struct htrace_region *r;
	int fd, most = _i ? 128 : 256;

	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &local_opts, &fd), 0);
	for (int i = 0; i < most; i++)
		ck_assert_int_eq(htrace_view_open_fd(&v[i], fd, _i, err, sizeof(err)), 0);
	ck_assert_int_eq(htrace_view_open_fd(&v[most], fd, _i, err, sizeof(err)), -EMFILE);
	ck_assert_ptr_nonnull(strstr(err, "close a view"));
	htrace_view_close(v[7]);
	ck_assert_int_eq(htrace_view_open_fd(&v[7], fd, _i, err, sizeof(err)), 0);
	for (int i = 0; i < most; i++)
		htrace_view_close(v[i]);
	htrace_region_release(r);
	close(fd);
}
END_TEST

int main(void)
{
	Suite *s = suite_create("view");
	TCase *t = tcase_create("view");

	tcase_add_test(t, test_claimed);
	tcase_add_loop_test(t, test_claimed_by_fd, 0, 2);
	tcase_add_loop_test(t, test_foreign, 0, 2);
	tcase_add_test(t, test_before_attach);
	tcase_add_loop_test(t, test_many_views, 0, 2);
	suite_add_tcase(s, t);
	return unit_run(s);
}
