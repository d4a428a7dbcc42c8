// SPDX-License-Identifier: LGPL-2.1-or-later
/* The ring that captures are written through may be used for writing, whoever gets hold of the process. */
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#include "../../host-reader/uring.c" /* brings its own, to look inside */

#include "unit.h"

static unsigned int done;

static void on_done(struct uring_write *w)
{
	done++;
}

/* Pieces, at a place; then what a write cannot do says so. */
START_TEST(test_writes)
{
	char path[] = "/tmp/htrace-uring-XXXXXX", got[16] = "";
	struct iovec v[] = { { (void *)(uintptr_t)"abc", 3 }, { (void *)(uintptr_t)"defg", 4 } };
	struct iovec bad = { (void *)(uintptr_t)"x", 1 };
	struct uring_write w = { .fd = mkstemp(path), .at = 2, .v = v, .nr = 2, .done = on_done };
	struct uring_write refused = { .fd = open("/dev/full", O_WRONLY), .v = &bad, .nr = 1, .done = on_done };
	struct uring *q;

	ck_assert_int_eq(uring_new(&q, 4), 0);
	done = 0;
	uring_write(q, &w);
	uring_write(q, &refused);
	while (uring_under_way(q))
		uring_reap(q, true);
	ck_assert_uint_eq(done, 2);
	ck_assert_uint_eq(w.written, 7);
	ck_assert_int_eq(w.error, 0);
	ck_assert_int_eq(refused.error, -ENOSPC);
	ck_assert_int_eq(pread(w.fd, got, sizeof(got), 2), 7);
	ck_assert_str_eq(got, "abcdefg");
	uring_free(q);
	close(w.fd);
	close(refused.fd);
	unlink(path);
}
END_TEST

#ifdef HAVE_LIBURING

static int result_of(struct uring *q, void (*prepare)(struct io_uring_sqe *sqe))
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&q->ring);
	struct io_uring_cqe *cqe;
	int res;

	prepare(sqe);
	ck_assert_int_eq(io_uring_submit(&q->ring), 1);
	ck_assert_int_eq(io_uring_wait_cqe(&q->ring, &cqe), 0);
	res = cqe->res;
	io_uring_cqe_seen(&q->ring, cqe);
	return res;
}

static void nothing(struct io_uring_sqe *sqe)
{
	io_uring_prep_nop(sqe);
}

static void opening(struct io_uring_sqe *sqe)
{
	io_uring_prep_openat(sqe, AT_FDCWD, "/etc/hostname", O_RDONLY, 0);
}

static void reading(struct io_uring_sqe *sqe)
{
	static char c;

	io_uring_prep_read(sqe, 0, &c, 1, 0);
}

static void connecting(struct io_uring_sqe *sqe)
{
	io_uring_prep_socket(sqe, AF_UNIX, SOCK_STREAM, 0, 0);
}

/* Even what does nothing is refused, and what the ring may do cannot be widened. */
START_TEST(test_restricted)
{
	struct io_uring_restriction more = { .opcode = IORING_RESTRICTION_SQE_OP, .sqe_op = IORING_OP_OPENAT };
	struct uring *q;

	ck_assert_int_eq(uring_new(&q, 4), 0);
	if (!uring_is_async(q)) {
		puts("# the kernel has no io_uring, or refuses it: writes are ordinary ones");
		uring_free(q);
		return;
	}
	ck_assert_int_eq(result_of(q, nothing), -EACCES);
	ck_assert_int_eq(result_of(q, opening), -EACCES);
	ck_assert_int_eq(result_of(q, reading), -EACCES);
	ck_assert_int_eq(result_of(q, connecting), -EACCES);
	ck_assert_int_lt(io_uring_register((unsigned int)q->ring.ring_fd, IORING_REGISTER_RESTRICTIONS, &more, 1), 0);
	ck_assert_int_eq(result_of(q, opening), -EACCES);
	uring_free(q);
}
END_TEST

/*
 * Why rings and guests' memory are not registered (docs/decisions.md): it is mapped read-only, and the kernel pins registered
 * memory for writing. If it does not any more, they can be.
 */
START_TEST(test_registered)
{
	const size_t len = 1 << 16;
	int fd = memfd_create("ring", MFD_CLOEXEC);
	struct iovec v = { .iov_len = len };
	struct io_uring ring;

	ck_assert_int_eq(ftruncate(fd, (off_t)len), 0);
	v.iov_base = mmap(NULL, len, PROT_READ, MAP_SHARED, fd, 0);
	ck_assert_ptr_ne(v.iov_base, MAP_FAILED);
	if (io_uring_queue_init(4, &ring, 0)) {
		puts("# the kernel has no io_uring, or refuses it");
		return;
	}
	ck_assert_int_eq(io_uring_register_buffers(&ring, &v, 1), -EFAULT);
	io_uring_queue_exit(&ring);
	munmap(v.iov_base, len);
	close(fd);
}
END_TEST

static unsigned int order[2], nr_ordered;

static void on_one(struct uring_write *w)
{
	order[nr_ordered++] = (unsigned int)w->at;
}

/* One that cannot end yet, into a full pipe, holds up none behind it. */
START_TEST(test_several)
{
	static char block[4096];
	char path[] = "/tmp/htrace-uring-XXXXXX";
	struct iovec first = { block, sizeof(block) }, second = { block, 1 };
	struct uring_write into_pipe = { .at = 1, .v = &first, .nr = 1, .done = on_one };
	struct uring_write into_file = { .fd = mkstemp(path), .at = 2, .v = &second, .nr = 1, .done = on_one };
	struct uring *q;
	int pipe[2];

	ck_assert_int_eq(uring_new(&q, 4), 0);
	if (!uring_is_async(q)) {
		puts("# the kernel has no io_uring, or refuses it: writes are ordinary ones");
		return;
	}
	ck_assert_int_eq(pipe2(pipe, O_CLOEXEC), 0);
	fcntl(pipe[1], F_SETFL, O_NONBLOCK);
	while (write(pipe[1], block, sizeof(block)) > 0)
		;
	fcntl(pipe[1], F_SETFL, 0);
	into_pipe.fd = pipe[1];
	uring_write(q, &into_pipe);
	uring_write(q, &into_file);
	ck_assert_uint_eq(uring_under_way(q), 2);
	while (uring_under_way(q) > 1)
		uring_reap(q, true);
	ck_assert_uint_eq(order[0], 2);
	while (uring_under_way(q)) {
		ck_assert_int_gt(read(pipe[0], block, sizeof(block)), 0);
		uring_reap(q, false);
	}
	ck_assert_uint_eq(order[1], 1);
	ck_assert(!into_pipe.error && into_pipe.written == sizeof(block));
	uring_free(q);
	close(into_file.fd);
	unlink(path);
}
END_TEST

#endif

int main(void)
{
	Suite *s = suite_create("uring");
	TCase *c = tcase_create("uring");

	tcase_add_test(c, test_writes);
#ifdef HAVE_LIBURING
	tcase_add_test(c, test_restricted);
	tcase_add_test(c, test_registered);
	tcase_add_test(c, test_several);
#endif
	suite_add_tcase(s, c);
	return unit_run(s);
}
