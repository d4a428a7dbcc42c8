/* SPDX-License-Identifier: LGPL-2.1-or-later */
/* Which files may be made into a region anew: of no region that somebody uses, or may. */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <htrace/producer.h>

#include "core.h"
#include "unit.h"

#define SIZE (2 << 20)

static const struct htrace_region_opts opts = {
	.sz = sizeof(opts), .placement = HTRACE_PLACEMENT_LOCAL, .policy = HTRACE_OVERWRITE,
	.kind = HTRACE_RING_PER_THREAD, .nr_rings = 4, .ring_size = 65536,
};

static char path[] = "/tmp/htrace-unit-XXXXXX";

static void new_path(void)
{
	strcpy(path + strlen(path) - 6, "XXXXXX");
	close(mkstemp(path)); /* empty: may be taken */
}

static struct htrace_region *make(size_t size)
{
	struct htrace_region *r;

	if (htrace_region_create_local(&r, path, size, &opts, NULL))
		_exit(10);
	htrace_region_set_state(r, HTRACE_GUEST_RUNNING);
	htrace_region_publish(r);
	return r;
}

/* In the region's file as it is. */
static void *map_file(void)
{
	int fd = open(path, O_RDWR | O_CLOEXEC);
	void *mem = mmap(NULL, SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	ck_assert_ptr_ne(mem, MAP_FAILED);
	close(fd);
	return mem;
}

static off_t file_size(void)
{
	struct stat st;

	ck_assert_int_eq(stat(path, &st), 0);
	return st.st_size;
}

/* Also a smaller one: what is mapped elsewhere would go. */
static int make_again(void)
{
	struct htrace_region *r;
	int ret = htrace_region_create_local(&r, path, SIZE / 2, &opts, NULL);

	if (!ret)
		htrace_region_release(r);
	ck_assert_int_eq(file_size(), ret ? SIZE : SIZE / 2);
	return ret;
}

/* --------------------------------------------------------------------------- the maker's child */

/* As daemon(3) does; the child produces until it is told to end. */
static void become_daemon(int up, int down)
{
	struct htrace_region *r = make(SIZE);
	struct htrace_producer p;
	pid_t pid = fork();
	char byte = 0;

	if (pid)
		_exit(0);
	if (htrace_producer_get(&p, r, 0, 3))
		_exit(1);
	pid = getpid();
	if (write(up, &pid, sizeof(pid)) != sizeof(pid) || read(down, &byte, 1) != 1)
		_exit(2);
	for (__u64 i = 0; i < 10000; i++)
		htrace_push(&p, 1, &i, sizeof(i));
	if (byte == 'p')
		htrace_producer_put(&p);
	if (write(up, &pid, sizeof(pid)) != sizeof(pid) || read(down, &byte, 1) != 1)
		_exit(3);
	_exit(0);
}

/* It gives its ring back (0), or is killed. */
START_TEST(test_daemon)
{
	int up[2], down[2], status;
	pid_t pid, child;

	new_path();
	ck_assert_int_eq(pipe(up), 0);
	ck_assert_int_eq(pipe(down), 0);
	pid = fork();
	if (!pid)
		become_daemon(up[1], down[0]);
	close(up[1]);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	ck_assert_int_eq(read(up[0], &child, sizeof(child)), sizeof(child));
	ck_assert_int_eq(make_again(), -EEXIST);
	/* It goes on producing, and does not die of SIGBUS. */
	ck_assert_int_eq(write(down[1], _i ? "k" : "p", 1), 1);
	ck_assert_int_eq(read(up[0], &child, sizeof(child)), sizeof(child));
	if (_i) {
		ck_assert_int_eq(make_again(), -EEXIST);
		kill(child, SIGKILL);
		ck_assert_int_eq(read(up[0], &status, sizeof(status)), 0); /* it is gone */
		/* Nobody we know of waits for it: a zombie is dead as well. */
		for (int i = 0; i < 1000 && make_again(); i++)
			usleep(1000);
		ck_assert_int_eq(file_size(), SIZE / 2);
	} else {
		ck_assert_int_eq(make_again(), 0);
		ck_assert_int_eq(write(down[1], "", 1), 1);
	}
	unlink(path);
}
END_TEST

/* ------------------------------------------------------------------ those who cannot be judged */

static __u64 dead_word, live_word; /* in the taking */

static void nothing(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	(void)s, (void)g, (void)r;
}

static void ring_elsewhere(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	(void)s, (void)g;
	r->owner_ns ^= 1;
}

static void ring_nowhere(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	(void)s, (void)g;
	r->owner_ns = 0;
}

static void ring_living(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	(void)s, (void)g;
	r->owner_start = 0;
	r->owner = (__u64)getpid() << 32 | (__u32)getpid();
}

static void ring_closed(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	ring_elsewhere(s, g, r);
	r->owner |= HTRACE_OWNER_CLOSED;
}

static void taker_dead(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	ring_elsewhere(s, g, r); /* of whoever had it before */
	r->owner = dead_word | HTRACE_OWNER_TAKING;
}

static void taker_elsewhere(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	(void)s, (void)g;
	r->owner = (dead_word ^ 1) | HTRACE_OWNER_RETIRING;
}

static void taker_living(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	(void)s, (void)g;
	r->owner = live_word | HTRACE_OWNER_RETIRING;
}

static void maker_elsewhere(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	(void)s;
	r->owner = 0;
	g->agent_ns ^= 1;
}

static void maker_nowhere(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	(void)s;
	r->owner = 0;
	g->agent_ns = 0;
}

static void closed(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	maker_elsewhere(s, g, r);
	g->state = HTRACE_GUEST_CLOSED;
}

/* Its pids may be those of living processes meanwhile, its namespaces' numbers, too. */
static void rebooted(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	g->agent_pid = (__u32)getpid();
	ring_living(s, g, r);
	s->boot_id[0] ^= 1;
}

static void of_no_boot(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	(void)g, (void)r;
	memset(s->boot_id, 0, sizeof(s->boot_id));
}

static void of_guest(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	(void)g;
	r->owner = 0;
	s->boot_id[0] ^= 1;
	s->ringset[0].placement = HTRACE_PLACEMENT_IVSHMEM;
}

/* Its maker died before it was published, whatever the state says. */
static void unpublished(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	(void)r;
	s->magic = 0;
	g->state = HTRACE_GUEST_NONE;
}

static void unpublished_living(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	unpublished(s, g, r);
	r->owner = 0;
	g->agent_pid = (__u32)getpid();
	g->state = HTRACE_GUEST_CLOSED;
}

static void unpublished_child(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	unpublished(s, g, r);
	ring_living(s, g, r);
}

static void unpublished_rebooted(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	unpublished(s, g, r);
	rebooted(s, g, r);
}

static void half_written(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r)
{
	unpublished(s, g, r);
	s->nr_cpus = 0;
}

static const struct {
	void (*change)(struct htrace_super *s, struct htrace_guest *g, struct htrace_ring *r);
	int want;
} cases[] = {
	{ nothing, 0 },
	{ ring_elsewhere, -EEXIST },
	{ ring_nowhere, -EEXIST },
	{ ring_living, -EEXIST },
	{ ring_closed, 0 },
	{ taker_dead, 0 },
	{ taker_elsewhere, -EEXIST },
	{ taker_living, -EEXIST },
	{ maker_elsewhere, -EEXIST },
	{ maker_nowhere, -EEXIST },
	{ closed, 0 },
	{ rebooted, 0 },
	{ of_no_boot, -EEXIST },
	{ of_guest, -EEXIST },
	{ unpublished, 0 },
	{ unpublished_living, -EEXIST },
	{ unpublished_child, -EEXIST },
	{ unpublished_rebooted, 0 },
	{ half_written, -EEXIST },
};

/* The region of a process that was killed with a ring of its own, and what is changed in it. */
START_TEST(test_judged)
{
	struct htrace_producer p;
	struct htrace_super *s;
	int status;
	pid_t pid;

	new_path();
	pid = fork();
	if (!pid) {
		if (htrace_producer_get(&p, make(SIZE), 0, 2))
			_exit(1);
		raise(SIGKILL);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, SIGKILL);
	dead_word = (__u64)pid << 32 | (__u32)htrace_own_ns();
	live_word = (__u64)getpid() << 32 | (__u32)htrace_own_ns();
	s = map_file();
	cases[_i].change(s, (void *)((char *)s + s->guest.off),
			 (void *)((char *)s + s->ringset[0].off + 2 * s->ringset[0].stride));
	ck_assert_int_eq(make_again(), cases[_i].want);
	munmap(s, SIZE);
	unlink(path);
}
END_TEST

/* ---------------------------------------------------------------------------------- in vain */

static void no_such_clock(struct htrace_region_opts *o)
{
	o->clock_id = 77;
}

static void no_such_policy(struct htrace_region_opts *o)
{
	o->policy = 9;
}

static void too_many(struct htrace_region_opts *o)
{
	o->nr_rings = HTRACE_MAX_RINGS + 1;
}

/* More than this process may have. */
static void __attribute__((unused)) no_memory(struct htrace_region_opts *o)
{
	const struct rlimit small = { 1ULL << 30, 1ULL << 30 };

	(void)o;
	ck_assert_int_eq(setrlimit(RLIMIT_AS, &small), 0);
}
static bool limited(void)
{
	void *mem = mmap(NULL, 1ULL << 32, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

	return mem == MAP_FAILED;
}

#ifdef __SANITIZE_ADDRESS__ /* which has more than that itself */
#define SHORT_OF_MEMORY { no_space, 2 * SIZE, -EFBIG }
#else
#define SHORT_OF_MEMORY { no_memory, 1ULL << 32, -ENOMEM }
#endif

static void too_large(struct htrace_region_opts *o)
{
	(void)o;
}

/* A file larger than this process may make. */
static void no_space(struct htrace_region_opts *o)
{
	const struct rlimit small = { SIZE, SIZE };

	(void)o;
	signal(SIGXFSZ, SIG_IGN);
	ck_assert_int_eq(setrlimit(RLIMIT_FSIZE, &small), 0);
}

static const struct {
	void (*change)(struct htrace_region_opts *o);
	size_t size;
	int want;
} vain[] = {
	{ no_such_clock, SIZE / 2, -EINVAL }, { no_such_policy, SIZE / 2, -EINVAL },
	{ too_many, SIZE / 2, -EINVAL },      SHORT_OF_MEMORY,
	{ too_large, HTRACE_REGION_MAX + 4096, -EINVAL },
	{ no_space, 2 * SIZE, -EFBIG },
};

/* What is refused leaves the old region as it was, to be read. */
START_TEST(test_in_vain)
{
	struct htrace_region_opts o = opts;
	struct htrace_region *r;
	char *before, *now;

	new_path();
	r = make(SIZE);
	htrace_region_set_state(r, HTRACE_GUEST_CLOSED);
	htrace_region_release(r);
	now = map_file();
	before = malloc(SIZE);
	ck_assert_ptr_nonnull(before);
	memcpy(before, now, SIZE);
	vain[_i].change(&o);
	if (vain[_i].want == -ENOMEM && !limited())
		return; /* an emulator, which heeds no such limit */
	ck_assert_int_eq(htrace_region_create_local(&r, path, vain[_i].size, &o, NULL), vain[_i].want);
	ck_assert_int_eq(file_size(), SIZE);
	ck_assert_int_eq(memcmp(before, now, SIZE), 0);
	munmap(now, SIZE);
	free(before);
	unlink(path);
}
END_TEST

/* -------------------------------------------------------------------------- a full file system */

#define NOT_HERE 77

/* In this process only: a file system of @size at @dir. */
static bool mount_small(const char *dir, const char *size)
{
	return (!unshare(CLONE_NEWNS) || !unshare(CLONE_NEWUSER | CLONE_NEWNS)) &&
	       !mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) &&
	       !mount("none", dir, "tmpfs", 0, size);
}

#define SURE(x) ((x) ? (void)0 : _exit(__LINE__ % 64 + 1))

/* What does not fit is refused, with what was there as it was; what is made can be filled. */
static void fill(const char *dir)
{
	struct htrace_region_opts o = opts;
	static char before[SIZE], now[SIZE], rest[SIZE];
	struct htrace_producer p;
	struct htrace_region *r;
	int fd;

	if (!mount_small(dir, "size=3m"))
		_exit(NOT_HERE);
	SURE(!chdir(dir));
	SURE(htrace_region_create_local(&r, "region", 2 * SIZE, &o, NULL) == -ENOSPC);
	SURE(access("region", F_OK)); /* made in vain, and gone */
	SURE(!htrace_region_create_local(&r, "region", SIZE, &o, &fd));
	htrace_region_set_state(r, HTRACE_GUEST_CLOSED);
	htrace_region_publish(r);
	htrace_region_release(r);
	SURE(pread(fd, before, SIZE, 0) == SIZE);
	SURE(htrace_region_create_local(&r, "region", 2 * SIZE, &o, NULL) == -ENOSPC);
	SURE(lseek(fd, 0, SEEK_END) == SIZE);
	SURE(pread(fd, now, SIZE, 0) == SIZE && !memcmp(before, now, SIZE));
	close(fd);

	o.ring_size = 0;
	o.nr_rings = 1;
	SURE(!htrace_region_create_local(&r, "region", SIZE, &o, NULL));
	fd = open("rest", O_RDWR | O_CREAT, 0600); /* somebody else takes what is left */
	while (write(fd, rest, SIZE) > 0)
		;
	SURE(errno == ENOSPC);
	SURE(!htrace_producer_get(&p, r, 0, 0));
	for (int i = 0; i < SIZE / 512; i++)
		htrace_push(&p, 1, rest, 1000);
	_exit(0);
}

START_TEST(test_full)
{
	char dir[] = "/tmp/htrace-unit-XXXXXX";
	int status;
	pid_t pid;

	ck_assert_ptr_nonnull(mkdtemp(dir));
	pid = fork();
	if (!pid)
		fill(dir);
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	rmdir(dir);
	if (WIFEXITED(status) && WEXITSTATUS(status) == NOT_HERE)
		fprintf(stderr, "# full: skipped, no mounts of its own for this process\n");
	else
		ck_assert_int_eq(status, 0);
}
END_TEST

/* -------------------------------------------------------------------- a fork in the midst of it */

static _Thread_local const int *park; /* a pipe that says when this thread has a lock; it keeps it */

int __real_pthread_mutex_unlock(pthread_mutex_t *m);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *m);

int __wrap_pthread_mutex_unlock(pthread_mutex_t *m)
{
	if (park && write(*park, "", 1) == 1)
		pause();
	return __real_pthread_mutex_unlock(m);
}

static void *make_one(void *arg)
{
	struct htrace_region *r;

	park = arg;
	htrace_region_create_local(&r, NULL, SIZE, &opts, NULL);
	return NULL;
}

/* Another thread of the parent has the lock at the fork; the child has that thread's lock only. */
/* Nobody else may write into it, and a reader may rely on its size. */
START_TEST(test_private)
{
	struct htrace_region *r;
	struct stat st;
	mode_t mask = umask(0);
	int fd;

	new_path();
	unlink(path);
	r = make(SIZE);
	ck_assert(r);
	ck_assert_int_eq(stat(path, &st), 0);
	ck_assert_int_eq(st.st_mode & 07777, 0600);
	htrace_region_release(r);
	unlink(path);
	umask(mask);

	ck_assert_int_eq(htrace_region_create_local(&r, NULL, SIZE, &opts, &fd), 0);
	ck_assert_int_eq(ftruncate(fd, SIZE / 2), -1);
	ck_assert_int_eq(errno, EPERM);
	ck_assert_int_eq(ftruncate(fd, 2 * SIZE), -1);
	ck_assert_int_eq(errno, EPERM);
	htrace_region_release(r);
	close(fd);
}
END_TEST

START_TEST(test_fork)
{
	struct htrace_region *r;
	int to[2], status;
	pthread_t thread;
	char byte;
	pid_t pid;

	ck_assert_int_eq(pipe(to), 0);
	ck_assert_int_eq(pthread_create(&thread, NULL, make_one, &to[1]), 0);
	ck_assert_int_eq(read(to[0], &byte, 1), 1);
	pid = fork();
	if (!pid) {
		alarm(10);
		_exit(htrace_region_create_local(&r, NULL, SIZE, &opts, NULL) != 0);
	}
	ck_assert_int_eq(waitpid(pid, &status, 0), pid);
	ck_assert_int_eq(status, 0);
	/* The thread stays where it is. */
}
END_TEST

int main(void)
{
	Suite *s = suite_create("local");
	TCase *t = tcase_create("local");

	tcase_set_timeout(t, 60);
	tcase_add_loop_test(t, test_daemon, 0, 2);
	tcase_add_loop_test(t, test_judged, 0, (int)(sizeof(cases) / sizeof(*cases)));
	tcase_add_test(t, test_private);
	tcase_add_test(t, test_fork);
	tcase_add_test(t, test_full);
	tcase_add_loop_test(t, test_in_vain, 0, (int)(sizeof(vain) / sizeof(*vain)));
	suite_add_tcase(s, t);
	return unit_run(s);
}
